"""What other scanners, couches, metal and smaller fields of view cost, as one Markdown table.

    python -m Testing.benchmarks.robustness [--model lite-ct] [--data ../shared/data] [--report R.json] [--quick]

Random body points of the ``ct/val`` scans, found by default in *simulated* follow-ups (``simulate.FOLLOW_UP``, truth
known) that differ in one more thing each. Metal: two rods at bone; the points asked for lie in the slices that show
them, at least 10 mm beside the metal; the row before it asks for the same points without metal. *A frame turned*: the
same voxels in a world turned about all three axes, as a tilted head or an oblique reconstruction has them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from scipy.spatial.transform import Rotation

from SAMv2Core.embedding.embedding import Embedding
from SAMv2Core.embedding.load import load_model
from SAMv2Core.io.volume import Volume
from SAMv2Core.matching.search import search_index
from SAMv2Core.simulation.simulate import FOLLOW_UP, SimulationOptions, simulate_follow_up
from Testing.benchmarks.accuracy import (
    DEFAULT,
    N_QUICK_POINTS,
    N_SIMULATED_POINTS,
    Asked,
    Baseline,
    Experiment,
    Features,
    random_body_points,
    simulated_follow_ups,
    validation_torsos,
)
from Testing.benchmarks.accuracy_tables import summarize, to_markdown
from Testing.benchmarks.common import find_data, parse_options, publish
from Testing.benchmarks.metal import HALF_LENGTH_MM, RADIUS_MM, with_implants

BONE_HU = 250
BESIDE_MM = RADIUS_MM + 10.0

CHANGES: Mapping[str, SimulationOptions] = {
    "no more": FOLLOW_UP,
    "a couch": replace(FOLLOW_UP, table=True),
    "slices of 5 mm": replace(FOLLOW_UP, slice_thickness_mm=5.0),
    "a sharp kernel": replace(FOLLOW_UP, sharpen=(2.0, 2.0)),
    "noise of 60 HU": replace(FOLLOW_UP, noise_hu=60.0),
    "a third of the slices": replace(FOLLOW_UP, field_of_view=(1.0, 1.0, 0.34)),
    "60 % of the width": replace(FOLLOW_UP, field_of_view=(0.6, 0.6, 1.0)),
    "a turn of up to 30°": replace(FOLLOW_UP, rotation_deg=30.0),
}


FRAMES: Sequence[Tuple[float, float, float]] = ((7.0, -12.0, 18.0), (15.0, -15.0, 13.0))
"""Degrees about x, y and z, one after the other: turns of 23 and 26 degrees."""


def in_a_turned_frame(model: Features, baselines: Sequence[Baseline], degrees: Sequence[float]) -> Experiment:
    """The same voxels, turned about the origin of their world."""
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    embeddings: Dict[str, Embedding] = {}
    asked = []
    for baseline in baselines:
        points = {f"point {n}": point for n, point in enumerate(baseline.points)}
        truth = {label: turn[:3, :3] @ point for label, point in points.items()}
        asked.append(Asked(baseline.name, baseline.follow_up, points, truth))
        turned = replace(baseline.volume, ijk_to_lps=turn @ baseline.volume.ijk_to_lps)
        embeddings.update({baseline.name: baseline.embedding, baseline.follow_up: model.embed(turned, "ct")})
    return Experiment(f"a frame turned by {', '.join(f'{angle:g}°' for angle in degrees)}", embeddings, asked)


def beside_metal(points: np.ndarray, rods: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """(N,) bool: in the rods' slices and clear of both rods; LPS mm, ``normal`` is the slices' unit normal."""
    along = (points[:, None] - rods) @ normal  # (N, 2)
    away = np.linalg.norm(points[:, None] - rods - along[..., None] * normal, axis=2)
    return (np.abs(along) <= HALF_LENGTH_MM).all(1) & (away >= BESIDE_MM).all(1)


def bone_places(ct: Volume, embedding: Embedding) -> np.ndarray:
    """(z, y, x) bool, what is as dense as bone and in the body (a couch's edge is dense as well)."""
    dense = np.argwhere(ct.array > BONE_HU)
    index = search_index(embedding)
    rows = index.rows_at(np.rint(index.grid.to_ijk(ct.grid.to_lps(dense[:, ::-1]))).astype(int))
    places = np.zeros(ct.array.shape, dtype=bool)
    places[tuple(dense[rows >= 0].T)] = True
    return places


def with_metal(model: Features, baselines: Sequence[Baseline]) -> Iterator[Experiment]:
    """The same points without and with two rods in the follow-up."""
    plain: Dict[str, Embedding] = {}
    implanted: Dict[str, Embedding] = {}
    asked = []
    for baseline in baselines:
        more = random_body_points(baseline.embedding, 5 * len(baseline.points), baseline.seed)  # few slices show metal
        simulated = simulate_follow_up(baseline.volume, FOLLOW_UP, seed=baseline.seed)
        embedding = model.embed(simulated.volume, "ct")
        metal, rods = with_implants(simulated.volume, bone_places(simulated.volume, embedding), baseline.seed)
        axis = metal.ijk_to_lps[:3, 2]
        chosen = beside_metal(simulated.map_points(more)[0], rods, axis / np.linalg.norm(axis))
        asked.append(baseline._replace(points=more[chosen]).asked(simulated))
        plain.update({baseline.name: baseline.embedding, baseline.follow_up: embedding})
        implanted.update({baseline.name: baseline.embedding, baseline.follow_up: model.embed(metal, "ct")})
    yield Experiment("metal, before it is put in", plain, asked)
    yield Experiment("metal", implanted, asked)


def experiments(model: Features, baselines: Sequence[Baseline]) -> Iterator[Experiment]:
    """One at a time: their embeddings take memory."""
    for change, options in CHANGES.items():
        yield simulated_follow_ups(model, baselines, options, change)
    for degrees in FRAMES:
        yield in_a_turned_frame(model, baselines, degrees)
    yield from with_metal(model, baselines)


def main(argv: Optional[List[str]] = None) -> None:
    args = parse_options(argv, __doc__, "50 points of each scan only")
    model = load_model(args.model)
    n_points = N_QUICK_POINTS if args.quick else N_SIMULATED_POINTS
    baselines = validation_torsos(model, find_data(args.data), n_points)
    trials = [trial for experiment in experiments(model, baselines) for trial in experiment.run((DEFAULT,))]
    rows = summarize(trials)
    publish(args, model, "robustness", to_markdown(rows), rows, trials, f"{len(baselines)} scans of `ct/val`")


if __name__ == "__main__":
    main()
