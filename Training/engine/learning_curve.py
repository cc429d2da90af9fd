"""Keeps the course of a light training as a small table and a picture.

    python -m Training.engine.learning_curve RUN/log.csv [...] --out Resources/Models/NAME.training

Writes ``OUT.csv`` and ``OUT.png``: means over 100 steps of the losses, of the time per step, and the figures of the
validations (error at known points of held-out patients, retrieval). Logs of successive parts of one training are joined
end to end; the hours count what was logged, not interruptions.
"""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path
from typing import Dict, List, Optional

import numpy as np

from SAMv2Core.errors import InputError
from Training.engine.record import read_log

INTERVAL = 100
LOSSES = ("loss_coarse", "loss_fine", "loss_semantic")
SPEED = "pairs_per_s"
VALIDATION = "val_"
LEFT_OUT = ("wait_share", "memory_gib")

Row = Dict[str, float]


def joined(paths: List[Path]) -> Dict[int, Row]:
    """Figures by step of logs of the engine, each continuing where the one before ended.

    :raises InputError: a log without rows.
    """
    rows: Dict[int, Row] = {}
    offset = 0
    for path in paths:
        found = read_log(path)
        if not found:
            raise InputError(f"{path} holds no rows.", "Give the log.csv of a training run.")
        for step, name, value in found:
            if int(step) or not offset:  # a part's first validation repeats the last one of the part before
                rows.setdefault(offset + int(step), {})[name] = float(value)
        offset += int(found[-1][0])
    return dict(sorted(rows.items()))


def thinned(rows: Dict[int, Row]) -> List[Row]:
    """Means over :data:`INTERVAL` steps, and the hours so far; of validations the last one of the interval."""
    names = sorted({name for row in rows.values() for name in row if name not in (*LEFT_OUT, "lr")})
    result: List[Row] = []
    hours, before = 0.0, 0
    for end in sorted({-(-step // INTERVAL) * INTERVAL for step in rows}):
        part = {step: row for step, row in rows.items() if end - INTERVAL < step <= end}
        for step, row in part.items():
            if row.get(SPEED):
                hours, before = hours + (step - before) / row[SPEED] / 3600, step
        kept: Row = {"step": end, "hours": round(hours, 2)}
        for name in names:
            values = [row[name] for row in part.values() if not math.isnan(row.get(name, math.nan))]
            if values:
                kept[name] = round(values[-1] if name.startswith(VALIDATION) else float(np.mean(values)), 3)
        result.append(kept)
    return result


def draw(rows: List[Row], path: Path) -> None:
    """Losses, and the errors of the validations."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.2), dpi=100)
    right = axes.twinx()
    for name in LOSSES:
        points = [(row["step"], row[name]) for row in rows if name in row]
        if points:
            axes.plot(*zip(*points), label=name.replace("_", ": "), linewidth=1.2)
    errors = sorted({name for row in rows for name in row if name.startswith(VALIDATION) and name.endswith("_mm")})
    for name, style in zip(errors, ("k-o", "k--o", "k-s", "k--s", "k-^", "k--^")):
        points = [(row["step"], row[name]) for row in rows if name in row]
        label = name[len(VALIDATION) : -len("_mm")].replace("_", ", ")
        right.plot(*zip(*points), style, markersize=4, linewidth=1, label=f"held out: {label}")
    axes.set(xlabel=f"step ({rows[-1]['hours']:.1f} hours in all)", ylabel="loss", ylim=(0, None))
    right.set(ylabel="error [mm]", ylim=(0, None))
    lines = axes.get_lines() + right.get_lines()
    figure.tight_layout(rect=(0, 0, 1, 0.82))
    figure.legend(
        lines, [str(line.get_label()) for line in lines], fontsize=8, loc="upper center", ncol=3, frameon=False
    )
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def write_curve(logs: List[Path], out: str) -> None:
    """``OUT.csv`` and ``OUT.png`` of successive logs."""
    rows = thinned(joined(logs))
    names = list(dict.fromkeys(name for row in rows for name in row))
    with open(f"{out}.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, names, restval="")
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, Path(f"{out}.png"))


def main(argv: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", nargs="+", type=Path)
    parser.add_argument("--out", required=True, help="path without ending")
    args = parser.parse_args(argv)
    write_curve(args.logs, args.out)


if __name__ == "__main__":
    main()
