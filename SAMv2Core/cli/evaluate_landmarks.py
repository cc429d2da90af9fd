"""``samv2 evaluate landmarks``: landmarks of every template scan found in every query scan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Sequence, Tuple

from SAMv2Core.cli import common
from SAMv2Core.errors import InputError, UnreliableResultError
from SAMv2Core.evaluation import landmarks
from SAMv2Core.evaluation.chosen import make_extractor
from SAMv2Core.evaluation.landmark_points import read_label_names
from SAMv2Core.evaluation.methods import POINT_METHODS
from SAMv2Core.evaluation.tables import landmark_tables

if TYPE_CHECKING:
    from SAMv2Core.cli.session import Session


def run(session: Session, choices: Sequence[Dict[str, Any]]) -> None:
    """Read, match all pairs with all features, write."""
    args = session.args
    session.declare(outputs=[args.table, args.plot])
    with session.stage("read", 0.0, 0.05):
        templates, queries = _cases(session)
        pairs = landmarks.pairs_of(templates, queries)
    if not pairs:
        raise InputError("No two scans have a landmark in common.", "Landmarks belong together by their names.")
    session.say(f"{len(templates)} templates, {len(queries)} queries, {len(pairs)} ordered pairs")
    methods = tuple(POINT_METHODS) if args.method == "all" else (args.method,)
    trials, failures = _run(session, choices, pairs, methods)
    lines = landmarks.summarize(trials)
    session.results["failures"] += failures
    session.results.update(n=len(trials), pairs=len(pairs), lines=lines, trials=[trial._asdict() for trial in trials])
    for failure in failures[:5]:
        session.warn(f"{failure['template']} to {failure['query']}, {failure['features']}: {failure['reason']}")
    if not trials:
        raise UnreliableResultError("Not one pair could be matched.", "See the failures in the report.")
    with session.stage("write", 0.98, 1.0):
        common.say_table(session, landmark_tables(lines))
        if args.plot:
            from SAMv2Core.evaluation.plots import plot_errors

            plot_errors(_errors(trials), args.plot, "error, mm", session.inputs)


def _cases(session: Session) -> Tuple[List[landmarks.Case], List[landmarks.Case]]:
    args = session.args
    names = read_label_names(args.label_names) if args.label_names else None
    phases = None
    if args.phases:
        is_table = Path(args.phases).exists()
        phases = landmarks.phases_by_table(args.phases) if is_table else landmarks.phases_by_rule(args.phases)
    templates, failures = landmarks.find_cases(args.template, args.points_from, names, phases)
    queries, more = templates, failures[:0]
    if Path(args.query).resolve() != Path(args.template).resolve():
        queries, more = landmarks.find_cases(args.query, args.points_from, names, phases)
    for failure in failures + more:
        session.warn(f"{failure['case']} is left out: {failure['reason']}")
    session.results["failures"] = failures + more
    for option, cases in (("template", templates), ("query", queries)):
        shown = {case.name: {"landmarks": len(case.landmarks), "phase": case.phase or None} for case in cases}
        session.report.add_file(option, getattr(args, option), cases=shown)
    return templates, queries


def _run(
    session: Session,
    choices: Sequence[Dict[str, Any]],
    pairs: Sequence[Tuple[landmarks.Case, landmarks.Case]],
    methods: Sequence[str],
) -> Tuple[List[landmarks.Trial], List[Dict[str, str]]]:
    trials: List[landmarks.Trial] = []
    failures: List[Dict[str, str]] = []
    modality = "ct" if session.args.modality == "auto" else session.args.modality
    for number, choice in enumerate(choices):
        low, high = (0.05 + 0.93 * n / len(choices) for n in (number, number + 1))
        with session.stage("load model", low, low):
            extractor = make_extractor(choice, (modality,))
        if choice["kind"] == "model":
            session.report.model = {"name": extractor.name, "sha256": extractor.sha256}
            session.report.device = extractor.device
        with session.stage(f"match, {extractor.name}", low, high) as progress:
            found, failed = landmarks.run(pairs, extractor, methods, session.args.modality, progress)
        trials += found
        failures += failed
    return trials, failures


def _errors(trials: Sequence[landmarks.Trial]) -> Dict[str, List[float]]:
    groups: Dict[str, List[float]] = {}
    for trial in trials:
        if trial.error_mm is not None:
            groups.setdefault(f"{trial.features}, {trial.method}", []).append(trial.error_mm)
    return groups
