"""Registration on the validation CTs: error against the truth, honesty of the verdict, time; one Markdown table.

    python -m Testing.benchmarks.registration [--model NAME|FILE] [--data ../shared/data] [--report R.json] [--quick]

Rows, all on ``ct/val``:

* *moved* (rigid): the same scan turned by up to 20 degrees about a random axis, 10 mm elastic deformation, other
  intensities and noise (``simulate``); *moved, 40 %*: of it, the follow-up shows 40 % of the length only;
* *follow-up* (affine): ``simulate.FOLLOW_UP``, the one with other size and 15 mm deformation;
* *elsewhere*: the lower 40 % of a scan against the upper 40 % of its moved self, and the other way round;
* *other patients*: every pair of scans. Nothing here may be called registered where it is not.

``TRE`` is the distance to the truth over the body voxels that both scans show (median over them, then over the
cases); since soft tissue moves, no such transform reaches 0: ``best`` is what least squares on the truth reaches.
``off by`` is the mean distance between the transform found and that best one. Simulated, not real follow-ups.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from typing import Dict, List, NamedTuple, Optional

import numpy as np

from SAMv2Core.embedding.embedding import Embedding
from SAMv2Core.embedding.load import load_model
from SAMv2Core.embedding.model import Model
from SAMv2Core.geometry.grid import transform_points
from SAMv2Core.io.volume import Volume, read_volume
from SAMv2Core.matching.sampling import body_points, spread_points
from SAMv2Core.matching.search import release_index
from SAMv2Core.registration.least_squares import fit, residuals_mm
from SAMv2Core.registration.register import register
from SAMv2Core.simulation.simulate import FOLLOW_UP, SimulatedFollowUp, simulate_follow_up
from Testing.benchmarks.common import find_data, parse_options, publish, scan_paths

MOVED = dataclasses.replace(FOLLOW_UP, rotation_deg=20.0, scale=(1.0, 1.0), deformation_mm=10.0)
MOVED_40 = dataclasses.replace(MOVED, field_of_view=(1.0, 1.0, 0.4))
PART = 0.4  # of a scan's slices, for *elsewhere*
N_TRUTH_POINTS = 2000


class Trial(NamedTuple):
    """One registration."""

    experiment: str
    fixed: str
    moving: str
    status: str
    explained: float  # of the consistent matches
    seconds: float
    tre_mm: Optional[float]
    best_mm: Optional[float]
    off_mm: Optional[float]


def run(
    experiment: str, names: tuple, fixed: Embedding, moving: Embedding, kind: str, truth: Optional[SimulatedFollowUp]
) -> Trial:
    """Register and measure; without truth, only the verdict counts."""
    start = time.perf_counter()
    found = register(fixed, moving, kind)
    seconds = time.perf_counter() - start
    tre = best = off = None
    if truth is not None:
        points = spread_points(body_points(fixed), N_TRUTH_POINTS, seed=0)
        moved, inside = truth.map_points(points)
        points, moved = points[inside], moved[inside]
        ideal = fit(kind, points, moved)
        tre = float(np.median(residuals_mm(found.matrix, points, moved)))
        best = float(np.median(residuals_mm(ideal, points, moved)))
        off = float(residuals_mm(found.matrix, points, transform_points(ideal, points)).mean())
    explained = found.inliers / max(found.consistent, 1)
    release_index(moving)
    return Trial(experiment, *names, found.status, explained, seconds, tre, best, off)


def part_of(volume: Volume, start: float, stop: float) -> Volume:
    """The slices between two fractions of a volume."""
    first, last = int(start * volume.array.shape[0]), int(stop * volume.array.shape[0])
    matrix = volume.ijk_to_lps.copy()
    matrix[:3, 3] += first * matrix[:3, 2]
    return Volume(volume.array[first:last], matrix, volume.source, volume.modality)


def trials_of_scan(model: Model, name: str, baseline: Volume, fixed: Embedding, seed: int) -> List[Trial]:
    """Everything that needs one patient only."""
    trials = []
    moved = simulate_follow_up(baseline, MOVED, seed)
    cases = (
        ("moved, rigid", "rigid", moved),
        ("moved, 40 %, rigid", "rigid", simulate_follow_up(baseline, MOVED_40, seed + 100)),
        ("follow-up, affine", "affine", simulate_follow_up(baseline, FOLLOW_UP, seed)),
    )
    for experiment, kind, follow_up in cases:
        moving = model.embed(follow_up.volume, "ct")
        trials.append(run(experiment, (name, "follow-up"), fixed, moving, kind, follow_up))
    lower, upper = (0.0, PART), (1 - PART, 1.0)
    for own, others in ((lower, upper), (upper, lower)):
        a, b = model.embed(part_of(baseline, *own), "ct"), model.embed(part_of(moved.volume, *others), "ct")
        trials.append(run("elsewhere, rigid", (name, "follow-up"), a, b, "rigid", None))
    return trials


def summarize(trials: List[Trial]) -> List[Dict[str, object]]:
    """One row per experiment."""
    rows = []
    for experiment in dict.fromkeys(t.experiment for t in trials):
        chosen = [t for t in trials if t.experiment == experiment]
        row: Dict[str, object] = {"experiment": experiment, "n": len(chosen)}
        for status in ("registered", "uncertain", "failed"):
            row[status] = sum(t.status == status for t in chosen)
        for name in ("tre_mm", "best_mm", "off_mm"):
            values = [getattr(t, name) for t in chosen if getattr(t, name) is not None]
            row[name] = float(np.median(values)) if values else None
        row["explained"] = [min(t.explained for t in chosen), max(t.explained for t in chosen)]
        row["seconds"] = float(np.median([t.seconds for t in chosen]))
        rows.append(row)
    return rows


def to_markdown(rows: List[Dict[str, object]]) -> str:
    """The table for README and model cards."""
    lines = [
        "| experiment | n | registered | uncertain | failed | TRE | best | off by | matches explained | time |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lengths = ["–" if row[n] is None else f"{row[n]:.1f} mm" for n in ("tre_mm", "best_mm", "off_mm")]
        low, high = row["explained"]  # type: ignore[misc]
        counts = [str(row[name]) for name in ("experiment", "n", "registered", "uncertain", "failed")]
        cells = [*counts, *lengths, f"{100 * low:.0f}–{100 * high:.0f} %", f"{row['seconds']:.1f} s"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Optional[List[str]] = None) -> None:
    args = parse_options(argv, __doc__, "two scans only")
    model = load_model(args.model)
    paths = scan_paths(find_data(args.data) / "ct" / "val")[: 2 if args.quick else None]
    volumes = {path.name.split(".")[0]: read_volume(path) for path in paths}
    embeddings = {name: model.embed(volume, "ct") for name, volume in volumes.items()}
    trials: List[Trial] = []
    for seed, (name, volume) in enumerate(volumes.items()):
        trials += trials_of_scan(model, name, volume, embeddings[name], seed)
    for a, b in itertools.combinations(embeddings, 2):
        trials.append(run("other patients, similarity", (a, b), embeddings[a], embeddings[b], "similarity", None))
    rows = summarize(trials)
    publish(args, model, "registration", to_markdown(rows), rows, trials, f"{len(paths)} scans of `ct/val`")


if __name__ == "__main__":
    main()
