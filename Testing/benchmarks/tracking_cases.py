"""Simulated patients with many lesions and several follow-ups, for the tracking benchmark.

Lesions are *places*: balls of realistic size at random places of the body, anywhere in a validation scan. Follow-ups
are simulated (:data:`SAMv2Core.simulation.simulate.FOLLOW_UP`), so that the place of every lesion is known: two show
the whole baseline, the one between them only a part of it, so that many places are outside. Radii follow those of the
DeepLesion test pairs (median 10.6 mm, 45 % below 10 mm).
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import List, NamedTuple, Tuple

import numpy as np

from SAMv2Core.embedding.embedding import Embedding
from SAMv2Core.evaluation.extractor import Extractor
from SAMv2Core.io.lesion import Lesion, lesion_at
from SAMv2Core.io.volume import Volume, read_volume
from SAMv2Core.simulation.lesion_growth import LesionOptions
from SAMv2Core.simulation.simulate import FOLLOW_UP, simulate_follow_up
from Testing.benchmarks.common import scan_paths

CROPPED = dataclasses.replace(FOLLOW_UP, field_of_view=(0.9, 0.9, 0.55))
KINDS = (("whole", FOLLOW_UP), ("part", CROPPED), ("whole", FOLLOW_UP))
MEDIAN_RADIUS_MM, RADIUS_SPREAD = 10.6, 0.46  # log-normal: 45 % below 10 mm
SMALLEST_RADIUS_MM, LARGEST_RADIUS_MM = 3.0, 40.0


class FollowUp(NamedTuple):
    """One simulated follow-up and the lesions' true places in it."""

    kind: str
    volume: Volume
    truth_lps: np.ndarray  # (n, 3)
    is_inside: np.ndarray  # (n,) bool


class Patient(NamedTuple):
    """One baseline with its lesions and follow-ups."""

    name: str
    baseline: Volume
    lesions: List[Lesion]
    follow_ups: List[FollowUp]


class Case(NamedTuple):
    """A patient as an extractor sees it."""

    patient: Patient
    emb: Embedding
    follow_ups: List[Embedding]


def scans(data: Path) -> List[Path]:
    """The validation scans: torsos, then necks."""
    return [*scan_paths(data / "ct" / "val"), *scan_paths(data / "hn" / "val")]


def draw_lesions(emb: Embedding, n_lesions: int, seed: Tuple[int, ...]) -> List[Lesion]:
    """Balls at random body voxels."""
    rng = np.random.default_rng(seed)
    body = np.argwhere(emb.body)[:, ::-1]
    centers = emb.fine.grid.to_lps(body[rng.choice(len(body), n_lesions, replace=False)])
    radii = np.exp(rng.normal(math.log(MEDIAN_RADIUS_MM), RADIUS_SPREAD, n_lesions))
    radii = np.clip(radii, SMALLEST_RADIUS_MM, LARGEST_RADIUS_MM)
    return [lesion_at(f"lesion {n}", c, 2 * r) for n, (c, r) in enumerate(zip(centers, radii), 1)]


def simulated_patient(extractor: Extractor, path: Path, number: int, group: int, n_lesions: int) -> Patient:
    """One scan with its lesions and follow-ups.

    :param extractor: its body mask says where lesions may lie.
    :param number: of the scan; groups differ in all that is random, so that one may calibrate for another.
    """
    volume = read_volume(path)
    lesions = draw_lesions(extractor.embed(volume, "ct"), n_lesions, (group, number))
    centers = np.array([lesion.center_lps for lesion in lesions])
    follow_ups = []
    for study, (kind, options) in enumerate(KINDS):
        simulated = simulate_follow_up(volume, options, seed=1000 * group + 10 * number + study)
        truth, inside = simulated.map_points(centers)
        follow_ups.append(FollowUp(kind, simulated.volume, truth, inside))
    return Patient(path.name.split(".")[0], volume, lesions, follow_ups)


def embedded(extractor: Extractor, patient: Patient) -> Case:
    """The patient's scans by one extractor."""
    follow_ups = [extractor.embed(follow_up.volume, "ct") for follow_up in patient.follow_ups]
    return Case(patient, extractor.embed(patient.baseline, "ct"), follow_ups)


PLANTED_HU = 60.0
FATES = LesionOptions(growth=(0.5, 1.8), vanish=0.3)


def planted(volume: Volume, lesions: List[Lesion]) -> Volume:
    """The volume with a soft-edged ball, brighter than what is there, at every lesion."""
    array = volume.array.astype(np.float32)
    k, j, i = np.indices(array.shape, dtype=np.float32)
    points = volume.grid.to_lps(np.stack([i, j, k], axis=-1).reshape(-1, 3)).astype(np.float32)
    for lesion in lesions:
        depth = lesion.radius_mm - np.linalg.norm(points - lesion.center_lps, axis=1).reshape(array.shape)
        array += PLANTED_HU * np.clip(depth / 2 + 0.5, 0, 1)
    return dataclasses.replace(volume, array=np.rint(array).astype(np.int16))


def case_of_fates(extractor: Extractor, path: Path, n_lesions: int = 24, seed: int = 0) -> Tuple[Case, List[str]]:
    """One scan with planted lesions and a follow-up in which they grew, shrank or vanished; and each one's fate."""
    volume = read_volume(path)
    lesions = draw_lesions(extractor.embed(volume, "ct"), n_lesions, (seed, 99))
    baseline = planted(volume, lesions)
    follow_up = simulate_follow_up(baseline, FOLLOW_UP, seed, lesions, FATES)
    truth, inside = follow_up.map_points(np.array([lesion.center_lps for lesion in lesions]))
    study = FollowUp("fates", follow_up.volume, truth, inside)
    patient = Patient(path.name.split(".")[0], baseline, lesions, [study])
    return embedded(extractor, patient), [change.kind for change in follow_up.lesions]
