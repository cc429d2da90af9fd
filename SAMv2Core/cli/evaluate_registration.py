"""``samv2 evaluate registration``: errors before and after, ours and other programs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Sequence

from SAMv2Core.cli import common
from SAMv2Core.errors import UnreliableResultError
from SAMv2Core.evaluation import registration
from SAMv2Core.evaluation.landmark_points import read_label_names
from SAMv2Core.evaluation.pair_table import read_pairs
from SAMv2Core.evaluation.tables import registration_tables

if TYPE_CHECKING:
    from SAMv2Core.cli.session import Session


def run(session: Session, choices: Sequence[Dict[str, Any]]) -> None:
    """Read, register everything by everything, write."""
    args = session.args
    session.declare(inputs=[args.pairs], outputs=[args.table, args.plot])
    with session.stage("read", 0.0, 0.02):
        pairs, unused = read_pairs(args.pairs)
        session.report.add_file("pairs", args.pairs, n_pairs=len(pairs))
        labels = read_label_names(args.label_names) if args.label_names else None
    if unused:
        session.warn(f"Columns that are not used: {', '.join(unused)}.")
    names = [_name_of(choice) for choice in choices]
    methods = registration.methods_of(choices, names, args.baselines, args.transform, args.seed)
    with session.stage("register", 0.02, 0.98) as progress:
        found = registration.evaluate(pairs, methods, labels, args.timeout, args.threads, progress)
    runs = found["runs"]
    for failure in found["failures"]:
        session.warn(f"Pair {failure['pair']} is left out: {failure['reason']}")
    for run_ in runs:
        if run_["error"]:
            session.warn(f"{run_['pair']}, {run_['method']}: {run_['error']}")
    lines = registration.summarize(runs)
    session.results.update(found, pairs=len(pairs), lines=lines)
    if not any(run_["tre_mm"] and run_["method"] != registration.START for run_ in runs):
        raise UnreliableResultError("Not one registration could be run.", "See the reasons in the report.")
    with session.stage("write", 0.98, 1.0):
        common.say_table(session, registration_tables(lines))
        if args.plot:
            from SAMv2Core.evaluation.plots import plot_errors

            plot_errors(_errors(runs), args.plot, "target registration error, mm", session.inputs)


def _name_of(choice: Dict[str, Any]) -> str:
    if choice["kind"] == "mind":
        return "MIND-SSC"
    if choice["kind"] == "file":
        return Path(choice["path"]).stem
    return f"samv2 {Path(choice['model']).stem}" if choice["model"] else "samv2"


def _errors(runs: Sequence[Dict[str, Any]]) -> Dict[str, List[float]]:
    groups: Dict[str, List[float]] = {}
    for run_ in runs:
        groups.setdefault(run_["method"], []).extend(run_["landmarks"].values())
    return groups
