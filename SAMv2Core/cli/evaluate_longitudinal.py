"""``samv2 evaluate longitudinal-ct``: lesions from baseline to follow-up, beside the set's own registration."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Dict, Sequence

from SAMv2Core.cli import common
from SAMv2Core.errors import UnreliableResultError, UsageError
from SAMv2Core.evaluation import longitudinal_ct
from SAMv2Core.evaluation.chosen import make_extractor
from SAMv2Core.evaluation.longitudinal_ct import BEYOND_MM, FAILED, OURS, THEIRS
from SAMv2Core.evaluation.tables import number, table

if TYPE_CHECKING:
    from SAMv2Core.cli.session import Session


def run(session: Session, choices: Sequence[Dict[str, Any]]) -> None:
    """Read, match all pairs, judge, write."""
    args = session.args
    session.declare(outputs=[args.table, args.plot])
    others = [choice for choice in choices if choice["kind"] != "model"]
    if len(others) > 1:
        raise UsageError("--mind and --features are two sets of features.", "Give one of them for each run.")
    with session.stage("read", 0.0, 0.02):
        pairs = longitudinal_ct.read_pairs(args.data)
        session.report.add_file("data", args.data, pairs=len(pairs), lesions=sum(len(pair.rows) for pair in pairs))
    with session.stage("load model", 0.02, 0.05):
        extractor = make_extractor(others[0] if others else choices[0])
    if extractor.sha256:
        session.report.model = {"name": extractor.name, "sha256": extractor.sha256}
    session.report.device = extractor.device
    with session.stage("predict", 0.05, 0.97) as progress:
        placements, failures, seconds = longitudinal_ct.run(pairs, extractor, args.method, progress)
    ours, theirs = (longitudinal_ct.summarize(placements, name, args.seed) for name in (OURS, THEIRS))
    session.results.update(
        ours, seconds=seconds, set=theirs, features=extractor.name, method=args.method, failures=failures,
        definitions={"failed_patients": FAILED, "beyond": "percent of all lesions, those without a place included"},
        lesions=[_row(placement) for placement in placements],
    )  # fmt: skip
    for failure in failures[:5]:
        session.warn(f"{failure['patient']}: {failure['reason']}")
    with session.stage("write", 0.97, 1.0):
        common.say_table(session, _table({extractor.name: ours, "the set's own registration": theirs}))
        if args.plot:
            from SAMv2Core.evaluation.plots import plot_errors

            errors = {
                title: [p.error_mm for p in placements if p.method == name and math.isfinite(p.error_mm)]
                for title, name in ((extractor.name, OURS), ("the set's own", THEIRS))
            }
            plot_errors(
                {title: found for title, found in errors.items() if found}, args.plot, "error, mm", session.inputs
            )
    if all(placement.method != OURS or not math.isfinite(placement.error_mm) for placement in placements):
        raise UnreliableResultError("Not one lesion was placed.", "See the failures in the report.")


def _row(placement: longitudinal_ct.Placement) -> Dict[str, Any]:
    row = dataclasses.asdict(placement)
    row["error_mm"] = placement.error_mm if math.isfinite(placement.error_mm) else None
    return row


def _table(lines: Dict[str, Dict[str, Any]]) -> str:
    header = ["", "n", "patients", "median", "p75", "p90", "p95", *(f"> {mm} mm" for mm in BEYOND_MM), "outside",
              "no place", "failed patients"]  # fmt: skip
    rows = []
    for name, line in lines.items():
        bounds = line["ci95"].get("median_mm")
        median = number(line["median_mm"], " mm") + (f" ({number(bounds[0])}–{number(bounds[1])})" if bounds else "")
        quantiles = [number(line[key], " mm") for key in ("p75_mm", "p90_mm", "p95_mm")]
        beyond = [number(line["beyond"][str(mm)], " %") for mm in BEYOND_MM]
        counts = [str(line[key]) for key in ("out_of_bounds", "without_place", "failed_patients")]
        rows.append([name, str(line["n"]), str(line["patients"]), median, *quantiles, *beyond, *counts])
    return table(header, rows)
