"""Whether more patients or more steps would help: the error between patients against both.

    python -m Testing.benchmarks.patients --data PREPARED --out DIR [--numbers 3 6 12] [--steps 600] [--figure F.png]

Trains the light network's context branch from nothing on some of an index's training torsos (``Training.prepare``),
each number for as many steps, within patients alone, and measures the error of its nearest neighbors at known points of
the held-out torsos (:mod:`Training.tasks.landmark_error`). A run that is in DIR is not repeated. The context branch
alone, because it confines the search, learns fastest and is cheap.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import numpy as np

from Training import train
from Training.data.index import Index, moved_to, read_index, write_index
from Training.engine.checkpoint import last_checkpoint
from Training.export import load_trained, trained_state
from Training.tasks.landmark_error import KnownPoints

GROUP = "ct"
N_CHECKPOINTS = 4
FIGURES = ("median_mm", "mean_mm")

Curves = Dict[int, Dict[str, Dict[int, float]]]


def with_patients(index: Index, number: int, folder: Path) -> Path:
    """An index of so many of the group's training scans, the first of a fixed random order."""
    trained = index.select([GROUP], "train")
    kept = [trained[i] for i in np.random.default_rng(0).permutation(len(trained))[:number]]
    folder.mkdir(parents=True, exist_ok=True)
    moved = [replace(e, **moved_to(e, index.folder, folder)) for e in kept]  # type: ignore[arg-type]
    return write_index(folder, moved)


def measure(index: Index, number: int, steps: int, folder: Path, precision: str) -> Dict[str, Dict[int, float]]:
    """Error by step of a run with so many patients."""
    run = folder / f"{number}_patients"
    data = with_patients(index, number, run / "index")
    every = steps // N_CHECKPOINTS
    changes = ("lite.cross=0", f"lite.context_only={steps}", "run.keep=true", f"run.checkpoint_every={every}")
    sets = [word for change in changes for word in ("--set", change)]
    arguments = ["lite-ct", "--data", str(data), "--out", str(run / "train"), "--steps", str(steps), "--resume"]
    if train.main([*arguments, "--precision", precision, *sets]):
        raise SystemExit("The training failed; its message is above.")
    if trained_state(last_checkpoint(run / "train"))[2] < steps:
        raise SystemExit("The training was stopped; the same command goes on.")
    points = KnownPoints(index)
    found: Dict[str, Dict[int, float]] = {name: {} for name in FIGURES}
    for path in sorted((run / "train").glob("step_*.pt")):
        errors = points.errors(load_trained(path, "lite"))[GROUP]  # type: ignore[arg-type]
        step = int(path.stem.split("_")[1])
        found["median_mm"][step], found["mean_mm"][step] = float(np.median(errors)), float(errors.mean())
    return found


def to_markdown(curves: Curves) -> str:
    steps = sorted({step for curve in curves.values() for step in curve["median_mm"]})
    lines = [f"| patients | {' | '.join(f'{step} steps' for step in steps)} |", f"|---|{'---|' * len(steps)}"]
    for number, curve in sorted(curves.items()):
        cells = [f"{curve['median_mm'][s]:.1f} / {curve['mean_mm'][s]:.1f} mm" for s in steps]
        lines.append(f"| {number} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(curves: Curves, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(7, 2.8), dpi=100, sharex=True)
    for ax, name, title in zip(axes, FIGURES, ("median", "mean")):
        for number, curve in sorted(curves.items()):
            points: List[Tuple[int, float]] = sorted(curve[name].items())
            ax.plot(*zip(*points), "o-", markersize=3, label=f"{number} patients")
        ax.set(xlabel="steps", ylabel=f"{title} error [mm]", ylim=(0, None))
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)


def main(argv: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--numbers", type=int, nargs="+", default=[3, 6, 12])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args(argv)
    index = read_index(args.data)
    curves = {n: measure(index, n, args.steps, args.out, args.precision) for n in args.numbers}
    with open(args.out / "patients.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["patients", "step", *FIGURES])
        for number, curve in curves.items():
            writer.writerows([number, step, *(curve[name][step] for name in FIGURES)] for step in curve[FIGURES[0]])
    if args.figure:
        draw(curves, args.figure)
    print(to_markdown(curves))


if __name__ == "__main__":
    main()
