"""Keeps the course of a light training as a small table and a picture.

    python -m Training.learning_curve RUN/log.csv [...] --out Resources/Models/NAME.training [--validation V.csv]

Writes ``OUT.csv`` (means over 100 steps: losses, share of anchors retrieved, seconds per step; the error on validation
scans where it was measured) and ``OUT.png``. Logs of several parts of one run are joined; where they overlap the later
one counts. ``V.csv`` has the columns ``step,what,median_mm``, measured on validation scans.
"""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import numpy as np

INTERVAL = 100
NAMES = ("coarse", "fine", "x_coarse", "x_fine", "semantic")
TITLES = {"coarse": "coarse", "fine": "fine", "x_coarse": "coarse, two scans", "x_fine": "fine, two scans"}


def read_log(paths: List[Path]) -> Dict[int, Dict[str, float]]:
    """Rows of ``Training.lite``'s logs by step: step, seconds, then ``name=value``."""
    rows: Dict[int, Dict[str, float]] = {}
    for path in paths:
        with open(path, newline="", encoding="utf-8") as stream:
            for step, _, *cells in csv.reader(stream):
                values = dict(cell.split("=") for cell in cells)
                rows[int(step)] = {name: float(value) for name, value in values.items()}
    return dict(sorted(rows.items()))


def thinned(rows: Dict[int, Dict[str, float]]) -> List[Dict[str, float]]:
    """Means over :data:`INTERVAL` steps; NaN where a loss did not occur."""
    columns = [*NAMES, *(f"{name}_rate" for name in NAMES[:4]), "step_s"]
    result = []
    for end in sorted({-(-step // INTERVAL) * INTERVAL for step in rows}):
        part = [values for step, values in rows.items() if end - INTERVAL < step <= end]
        row: Dict[str, float] = {"step": end}
        for name in columns:
            found = [v[name] for v in part if not math.isnan(v.get(name, math.nan))]
            row[name] = round(float(np.mean(found)), 3) if found else math.nan
        result.append(row)
    return result


def draw(rows: List[Dict[str, float]], validation: List[Tuple[int, str, float]], path: Path) -> None:
    """Retrieval in training, and the error on validation scans where it was measured."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.2), dpi=100)
    steps = [row["step"] for row in rows]
    for name, title in TITLES.items():
        axes.plot(steps, [100 * row[f"{name}_rate"] for row in rows], label=title, linewidth=1.2)
    axes.set(xlabel="step", ylabel="anchors retrieved in training [%]", ylim=(0, None))
    lines, names = axes.get_legend_handles_labels()
    if validation:
        right = axes.twinx()
        for what in dict.fromkeys(what for _, what, _ in validation):
            points = [(step, value) for step, kind, value in validation if kind == what]
            (line,) = right.plot(*zip(*points), "k-o", markersize=4, label=f"validation: {what}")
            lines.append(line)
            names.append(line.get_label())
        right.set(ylabel="median error [mm]", ylim=(0, None))
    figure.tight_layout(rect=(0, 0, 1, 0.86))
    figure.legend(lines, names, fontsize=8, loc="upper center", ncol=3, frameon=False)
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def main(argv: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", nargs="+", type=Path)
    parser.add_argument("--out", required=True, help="path without ending")
    parser.add_argument("--validation", type=Path)
    args = parser.parse_args(argv)
    validation: List[Tuple[int, str, float]] = []
    if args.validation:
        with open(args.validation, newline="", encoding="utf-8") as stream:
            validation = [(int(r["step"]), r["what"], float(r["median_mm"])) for r in csv.DictReader(stream)]
    rows = thinned(read_log(args.logs))
    for row in rows:
        measured = [error for step, _, error in validation if row["step"] - INTERVAL < step <= row["step"]]
        row["validation_median_mm"] = measured[-1] if measured else math.nan
    with open(f"{args.out}.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows([{k: "" if math.isnan(v) else v for k, v in row.items()} for row in rows])
    draw(rows, validation, Path(f"{args.out}.png"))


if __name__ == "__main__":
    main()
