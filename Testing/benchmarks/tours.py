"""What a user of the module waits for in the real 3D Slicer: the times of tours through it, as a table.

    python -m Testing.benchmarks.tours --tours REPORT.json [REPORT.json ...] [--smaller REPORT.json ...] [--publish]

A tour (Testing/slicer/in_application) writes its report in Slicer. Beside the times of the module stand those of Slicer
alone: the same is done by a script without the module, in the same run and the same six views. Without a graphics card
the processor draws them, and the whole window after each change of it; ``--smaller`` names tours in a smaller window,
whose rows say how much of the time is pixels. :mod:`Testing.benchmarks.slicer` measures the
module by itself, without Slicer's window.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from Testing.benchmarks import page, report

COLUMNS = ("what", "with the module", "Slicer alone", "wanted")

CLICKS = ("click 2", "click 3")
"""The first one embeds."""

PAUSES = (
    ("a point and its match are drawn", "click", "window, a point and three views"),
    ("the cursor is followed", "followCursor", "window, places of a cursor"),
    ("a layout is shown", "sideBySide", "layout"),
)
"""What happens, the step of the tour, and the same by Slicer alone."""


def spread(values: Sequence[float], form: str = "{:.2f}") -> str:
    """Median and range of some figures; of one the figure."""
    low, middle, high = (form.format(find(values)) for find in (min, statistics.median, max))
    return middle if len(values) == 1 else f"{middle} ({low} to {high})"


def rows_of(reports: Sequence[Mapping[str, Any]]) -> List[Dict[str, str]]:
    """The rows of the table, of one or more reports of tours."""
    times = [one["times"] for one in reports]
    alone = [one["Slicer alone"] for one in times]
    found: List[Tuple[str, str, str, str]] = []
    drawn = spread([s for one in alone for s in one["a point and three views, shown_s"]])
    for words, clicks in (
        ("", [one[name] for one in times for name in CLICKS]),
        (", while another scan is embedded", [click for one in times for click in one["clicks while embedding"]]),
    ):
        for key, what, slicers, wanted in (
            ("quick_s", "first match in the scene", "", "0.15"),
            ("shown_s", "first match drawn in the query", drawn, ""),
            ("refined_s", "refined match in the scene", "", ""),
        ):
            own = spread([click[key] for click in clicks])
            found.append((f"click to {what}{words}, s", own, slicers, wanted))
    places = spread([one["places of a cursor, per_s"] for one in alone], "{:.1f}")
    for key, words in (("follow cursor", ""), ("follow cursor while embedding", ", while another scan is embedded")):
        own = spread([one[key]["per_s"] for one in times], "{:.1f}")
        found.append((f"places of a moving cursor per second{words}", own, places, "15"))
    for words, step, same in PAUSES:
        own = spread([one["window"][step]["longest_ms"] for one in times], "{:.0f}")
        found.append(
            (f"longest pause while {words}, ms", own, spread([a[same]["longest_ms"] for a in alone], "{:.0f}"), "50")
        )
    return [dict(zip(COLUMNS, row)) for row in found]


def of_smaller(reports: Sequence[Mapping[str, Any]]) -> List[Dict[str, str]]:
    """The rows of tours in a smaller window that hang on the drawing."""
    width, height = reports[0]["facts"]["window"]
    found = [row for row in rows_of(reports) if row["what"].startswith(("places", "longest pause"))]
    return [{**row, "what": f"{row['what']}; window of {width} × {height}"} for row in found]


def to_markdown(rows: Sequence[Mapping[str, str]]) -> str:
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    return "\n".join([*lines, *("| " + " | ".join(row[name] for name in COLUMNS) + " |" for row in rows)])


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tours", nargs="+", type=Path, required=True, metavar="REPORT.json", help="what tours wrote")
    parser.add_argument(
        "--smaller", nargs="+", type=Path, default=[], metavar="REPORT.json", help="in a smaller window"
    )
    parser.add_argument("--publish", action="store_true", help="keep the table and write it into the documents")
    options = parser.parse_args(argv)
    reports, smaller = (
        [json.loads(path.read_text(encoding="utf-8")) for path in paths] for paths in (options.tours, options.smaller)
    )
    steps = [step for one in [*reports, *smaller] for step in one["steps"].items()]
    failed = {name for name, said in steps if said.startswith("Traceback")}
    if failed:
        parser.error(f"a tour did not pass: {', '.join(sorted(failed))}")
    rows = rows_of(reports) + (of_smaller(smaller) if smaller else [])
    table = to_markdown(rows)
    print(table)
    if options.publish:
        facts, loads = reports[0]["facts"], [one["facts"]["load"][1] for one in reports]
        size = " × ".join(map(str, facts["window"]))
        where = f"Slicer {facts['slicer'].split('-')[0]} with Python {facts['python']}, a window of {size}"
        tours = f"{len(reports)} tours, all steps passed, load {spread(loads, '{:.0f}')}"
        data = f"{facts['scan']}; {where}, views drawn by the processor; {tours}"
        report.save("tours", table, rows, data=data)
        page.main([])


if __name__ == "__main__":
    main()
