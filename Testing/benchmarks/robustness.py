"""What other scanners, couches, metal and smaller fields of view cost, as one Markdown table.

    python -m Testing.benchmarks.robustness [--model lite-ct] [--data ../shared/data] [--report R.json] [--quick]

Random body points of the ``ct/val`` scans, found by default in *simulated* follow-ups (``simulate.FOLLOW_UP``, truth
known) that differ in one more thing each. Metal: two rods at bone; the points asked for lie in the slices that show
them, at least 10 mm beside the metal; the row before it asks for the same points without metal.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, NamedTuple, Optional

import numpy as np

from SAMv2Core.feature import Embedding
from SAMv2Core.models import load_model
from SAMv2Core.simulate import FOLLOW_UP, SimulatedFollowUp, SimulationOptions, simulate_follow_up
from SAMv2Core.volume import Volume, read_volume
from Testing.benchmarks.accuracy import METHODS, Asked, Experiment, Features, random_body_points, summarize, to_markdown
from Testing.benchmarks.common import find_data, parse_options, publish
from Testing.benchmarks.metal import HALF_LENGTH_MM, RADIUS_MM, with_implants

N_POINTS, N_QUICK_POINTS = 200, 50  # of each scan
BONE_HU = 250
BESIDE_MM = RADIUS_MM + 10.0
DEFAULT = tuple(variant for variant in METHODS if variant.name == "default")

CHANGES: Mapping[str, SimulationOptions] = {
    "as above": FOLLOW_UP,
    "a couch": replace(FOLLOW_UP, table=True),
    "slices of 5 mm": replace(FOLLOW_UP, slice_thickness_mm=5.0),
    "a sharp kernel": replace(FOLLOW_UP, sharpen=(2.0, 2.0)),
    "noise of 60 HU": replace(FOLLOW_UP, noise_hu=60.0),
    "a third of the slices": replace(FOLLOW_UP, field_of_view=(1.0, 1.0, 0.34)),
    "60 % of the width": replace(FOLLOW_UP, field_of_view=(0.6, 0.6, 1.0)),
    "turned by up to 30°": replace(FOLLOW_UP, rotation_deg=30.0),
}


class Baseline(NamedTuple):
    """A scan, embedded once, and the points asked for."""

    name: str
    seed: int
    volume: Volume
    embedding: Embedding
    points: np.ndarray


def asked_in(baseline: Baseline, follow_up: SimulatedFollowUp, chosen: np.ndarray) -> Asked:
    """The chosen points that the follow-up shows; ``chosen`` is (N,) bool."""
    moved, inside = follow_up.map_points(baseline.points)
    labels = {f"point {n}": n for n in np.flatnonzero(inside & chosen)}
    points, truth = ({label: p[n] for label, n in labels.items()} for p in (baseline.points, moved))
    return Asked(baseline.name, f"{baseline.name}, follow-up", points, truth)


def changed(model: Features, baselines: List[Baseline]) -> Iterator[Experiment]:
    """One experiment for each of :data:`CHANGES`, one at a time."""
    for change, options in CHANGES.items():
        embeddings: Dict[str, Embedding] = {}
        asked = []
        for baseline in baselines:
            follow_up = simulate_follow_up(baseline.volume, options, seed=baseline.seed)
            asked.append(asked_in(baseline, follow_up, np.ones(len(baseline.points), dtype=bool)))
            embeddings[baseline.name] = baseline.embedding
            embeddings[asked[-1].query] = model.embed(follow_up.volume, "ct")
        yield Experiment(change, embeddings, asked)


def beside_metal(points: np.ndarray, rods: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """(N,) bool: in the rods' slices and clear of both rods; LPS mm, ``normal`` is the slices' unit normal."""
    along = (points[:, None] - rods) @ normal  # (N, 2)
    away = np.linalg.norm(points[:, None] - rods - along[..., None] * normal, axis=2)
    return (np.abs(along) <= HALF_LENGTH_MM).all(1) & (away >= BESIDE_MM).all(1)


def bone_places(ct: Volume, embedding: Embedding) -> np.ndarray:
    """(z, y, x) bool, what is as dense as bone and in the body (a couch's edge is dense as well)."""
    dense = np.argwhere(ct.array > BONE_HU)
    body, grid = embedding.body, embedding.fine.grid
    index = np.rint(grid.to_ijk(ct.grid.to_lps(dense[:, ::-1]))).astype(int)[:, ::-1]
    index = np.clip(index, 0, np.array(body.shape) - 1)
    places = np.zeros(ct.array.shape, dtype=bool)
    places[tuple(dense[body[tuple(index.T)]].T)] = True
    return places


def with_metal(model: Features, baselines: List[Baseline]) -> Iterator[Experiment]:
    """The same points without and with two rods in the follow-up."""
    plain: Dict[str, Embedding] = {}
    implanted: Dict[str, Embedding] = {}
    asked = []
    for baseline in baselines:
        more = random_body_points(baseline.embedding, 5 * len(baseline.points), baseline.seed)  # few slices show metal
        baseline = baseline._replace(points=more)
        follow_up = simulate_follow_up(baseline.volume, FOLLOW_UP, seed=baseline.seed)
        embedding = model.embed(follow_up.volume, "ct")
        places = bone_places(follow_up.volume, embedding)
        metal, rods = with_implants(follow_up.volume, places, baseline.seed)
        axis = metal.ijk_to_lps[:3, 2]
        chosen = beside_metal(follow_up.map_points(baseline.points)[0], rods, axis / np.linalg.norm(axis))
        asked.append(asked_in(baseline, follow_up, chosen))
        plain.update({baseline.name: baseline.embedding, asked[-1].query: embedding})
        implanted.update({baseline.name: baseline.embedding, asked[-1].query: model.embed(metal, "ct")})
    yield Experiment("slices of the metal, before", plain, asked)
    yield Experiment("slices of the metal", implanted, asked)


def main(argv: Optional[List[str]] = None) -> None:
    args = parse_options(argv, __doc__, "50 points of each scan only")
    model = load_model(args.model)
    n_points = N_QUICK_POINTS if args.quick else N_POINTS
    baselines = [_baseline(model, seed, path, n_points) for seed, path in enumerate(_scans(args.data))]
    trials = [
        t for run in (changed, with_metal) for experiment in run(model, baselines) for t in experiment.run(DEFAULT)
    ]
    rows = summarize(trials)
    publish(args, model, to_markdown(rows), rows, trials)


def _scans(data: Optional[str]) -> List[Path]:
    return sorted((find_data(data) / "ct" / "val").glob("*.nii.gz"))


def _baseline(model: Features, seed: int, path: Path, n_points: int) -> Baseline:
    volume = read_volume(path)
    embedding = model.embed(volume, "ct")
    return Baseline(path.name.split(".")[0], seed, volume, embedding, random_body_points(embedding, n_points, seed))


if __name__ == "__main__":
    main()
