"""Named landmarks in torso CTs, each scan searched with the exemplars of other patients.

    python -m Testing.benchmarks.landmarks [--model lite-ct] [--data ../shared/data] [--cache DIR] [--report R.json]

Scans of ``ct/train`` and ``ct/val`` with hand-placed landmarks, those of ``sure`` 0.75 and more; exemplars are those of
``ct/train`` of every other patient (all, and 1, 2, 4 and 8 of them, drawn by a fixed seed). ``error`` counts the best
candidate of every landmark that the scan shows, ``within 10 mm`` counts a landmark that was not found as wrong. The
confidence is fitted without the patient it is asked of. *Not shown*: landmarks that by every other patient's
proportions lie at least 30 mm outside the scan. The network has seen ``ct/train`` scans in training, not their
landmarks' names; the rows of ``val`` are of patients that took no part in anything.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from SAMv2Core.embedding.cache import Cache
from SAMv2Core.embedding.load import load_model
from Testing.benchmarks import intervals
from Testing.benchmarks.common import add_publish_option, check_publish, find_data, keep
from Training.data.landmarks import REGIONS, region_of
from Training.landmark_atlas import RIGHT_MM, Trial, cross_fitted, search_all

LIMITS = (0, 8, 4, 2, 1)
DOMES = "domes"

Answer = Tuple[Trial, str]


def row_of(name: str, answers: List[Answer]) -> Dict[str, Any]:
    """One line of the table: the landmarks that the scans show."""
    shown = [(trial, status) for trial, status in answers if not trial.is_absent]
    patients = [trial.patient for trial, _ in shown]
    errors = np.array([trial.error_mm for trial, _ in shown])
    found = np.array([status != "not_found" for _, status in shown])
    matched = [(trial.is_right, trial.patient) for trial, status in shown if status == "matched"]
    levels = [(t.nearest == t.name, t.patient) for t, _ in shown if t.name.startswith("vertebra_")]
    return {
        "name": name,
        "n": len(shown),
        "patients": len(set(patients)),
        "median_mm": intervals.interval(errors, patients, intervals.median),
        "mean_mm": intervals.interval(errors, patients),
        "within": intervals.interval((errors <= RIGHT_MM) & found, patients),
        "found": float(found.mean()),
        "matched": len(matched),
        "right": intervals.interval(*zip(*matched)) if matched else None,
        "level": intervals.interval(*zip(*levels)) if levels else None,
    }


def rows_of(trials: List[Trial]) -> List[Dict[str, Any]]:
    """The lines of the table: all, by region, of held-out patients, by the number of exemplars."""
    rows = []
    for limit in LIMITS:
        answers = cross_fitted([trial for trial in trials if trial.limit == limit])
        points = [one for one in answers if region_of(one[0].name) != DOMES]
        rows.append(row_of("all exemplars" if limit == 0 else f"{limit} exemplar{'s' * (limit > 1)}", points))
        if limit == 0:
            rows += [row_of(region, [one for one in answers if region_of(one[0].name) == region]) for region in REGIONS]
            rows.append(row_of("vertebrae", [one for one in points if one[0].name.startswith("vertebra_")]))
            rows.append(row_of("val patients", [one for one in points if one[0].split == "val"]))
            missing = [(status == "not_found", trial.patient) for trial, status in answers if trial.is_absent]
            rows.append({"name": "not shown", "n": len(missing), "lost": intervals.interval(*zip(*missing))})
    return rows


def percent(share: Optional[intervals.Interval]) -> str:
    """A share of 1 in percent, with its interval."""
    return "–" if share is None else share.text(0, 100)


def plain(row: Dict[str, Any]) -> Dict[str, Any]:
    """A row as JSON holds it: an interval as its value and its bounds."""
    return {
        key: {"value": value.value, "interval": value.bounds} if isinstance(value, intervals.Interval) else value
        for key, value in row.items()
    }


def table_of(rows: List[Dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [
        "| landmarks | n (patients) | median mm | mean mm | within 10 mm, % | found, % "
        "| *matched*: n, right % | level right, % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "lost" in row:
            lines.append(f"| {row['name']} by the scan | {row['n']} | | | | not found: {percent(row['lost'])} % | | |")
            continue
        lines.append(
            f"| {row['name']} | {row['n']} ({row['patients']}) | {row['median_mm'].text()} | {row['mean_mm'].text()} "
            f"| {percent(row['within'])} | {100 * row['found']:.0f} | {row['matched']}, {percent(row['right'])} "
            f"| {percent(row['level'])} |"
        )
    return "\n".join(lines)


def main(argv: Optional[List[str]] = None) -> None:
    """Search, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lite-ct")
    parser.add_argument("--data")
    parser.add_argument("--cache", help="folder where embeddings are kept")
    parser.add_argument("--report", help="JSON with the table and every trial")
    add_publish_option(parser)
    options = parser.parse_args(argv)
    check_publish(parser, options)
    model = load_model(options.model)
    cache = Cache(options.cache) if options.cache else None
    _, trials = search_all(model, find_data(options.data), cache, LIMITS)
    rows = rows_of(trials)
    table = table_of(rows)
    print(table)
    if options.report:
        content = {
            "sha256": model.info.sha256,
            "rows": [plain(row) for row in rows],
            "trials": [asdict(trial) for trial in trials],
        }
        Path(options.report).write_text(json.dumps(content, indent=1))
    if options.publish:
        scans = len({trial.scan for trial in trials})
        keep(
            "landmarks",
            table,
            [plain(row) for row in rows],
            model.info,
            f"{scans} torso CTs of ct/train and ct/val, one patient left out",
        )


if __name__ == "__main__":
    main()
