"""``samv2 match``: points of a template scan, found in a query scan."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

import SAMv2Core as s
from SAMv2Core.cli import common
from SAMv2Core.errors import UnreliableResultError, UsageError
from SAMv2Core.io.files import suffix_of
from SAMv2Core.io.points import Point, PointList, read_points, write_points
from SAMv2Core.matching.exemplars import by_label

if TYPE_CHECKING:
    from SAMv2Core.cli.session import Session

    Embeddings = Tuple[s.Embedding, s.Embedding]  # template, query

METHODS = ("fixed-point", "nearest", "paper")
EXPECT = {"auto": None, "on": True, "off": False}
NO_POSITION = "it has no position in the template"


def add_subparser(subparsers: Any) -> None:
    """Add ``match`` to the parser."""
    parser = subparsers.add_parser("match", help="find points of one scan in another", description=__doc__)
    what = "the scan in which the points are marked (a file, or a folder of DICOM); several give one answer together"
    common.add_input(parser, "template", what, several=True)
    common.add_input(parser, "query", "the scan in which they are to be found")
    common.add_series_option(parser)
    parser.add_argument(
        "--points",
        required=True,
        nargs="+",
        metavar="P",
        help="points of the template: .mrk.json, .fcsv or .csv; one list for each template, joined by their labels",
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="M",
        type=common.points_to_write,
        help="points of the query to write, of the same three types",
    )
    parser.add_argument("--method", choices=METHODS, default=METHODS[0], help=f"default: {METHODS[0]}")
    parser.add_argument(
        "--expect",
        choices=tuple(EXPECT),
        default="auto",
        help="weigh where the matches of the whole body expect a point; auto: with fixed points",
    )
    parser.add_argument(
        "--quality",
        choices=("default", "best"),
        default="default",
        help="best: vectors averaged over two looks at each scan, in twice the time",
    )
    parser.add_argument(
        "--similarity-map",
        metavar="S.nii.gz",
        type=common.volume_to_write,
        help="write how similar each place of the query is to the first point, on a 4 mm lattice; "
        "maps of further points get their number and label added to the name",
    )
    common.add_computing_options(parser)
    common.add_server_options(parser)
    common.add_reporting_options(parser)
    parser.set_defaults(run=run)


def run(session: Session) -> None:
    """Read, embed, match, write; the result is unreliable when no point was found."""
    args = session.args
    session.declare([*args.template, args.query, *args.points], [args.output, args.similarity_map])
    if len(args.points) != len(args.template):
        raise UsageError(
            f"{len(args.template)} templates are given with {len(args.points)} point lists.",
            "Give one list for each template, in the same order.",
        )
    names = common.name_each(args, "template")
    with session.stage("read", 0.0, 0.05):
        lists = [read_points(path) for path in args.points]
        for number, (path, points) in enumerate(zip(args.points, lists), 1):
            session.report.add_file("points" if len(lists) == 1 else f"points_{number}", path, n_points=len(points))
        points = common_points(lists)
        volumes = {name: common.read_input(session, name) for name in (*names, "query")}
    *templates, query = common.embed_all(session, volumes, 0.9)
    with session.stage("match", 0.9, 0.98) as progress:
        knobs = {"method": args.method, "expect": EXPECT[args.expect], "progress": progress}
        if len(templates) == 1:
            results = match_points(session, points, (templates[0], query), **knobs)
        else:
            results = list(common.functions(session).match(templates, query, lists, **knobs))
    session.results["points"] = [as_report(*pair) for pair in zip(points, results)]
    with session.stage("write", 0.98, 1.0):
        write_points(as_point_list(points, results), args.output, session.inputs)
        if args.similarity_map:
            write_similarity_maps(session, points, (templates[0], query))
    show_table(session, points, results)
    conclude(session, points, results)


def common_points(lists: Sequence[PointList]) -> PointList:
    """The points of all templates, in the order of the answers; each as the first list that has its label tells it.

    :raises InputError: with several lists, labels that do not tell the points apart.
    """
    if len(lists) == 1:
        return lists[0]
    names, _ = by_label(lists)
    known = {point.label: point for points in reversed(lists) for point in points}
    return PointList(tuple(known[name] for name in names), lists[0].name)


def match_points(session: Session, points: PointList, embeddings: Embeddings, **knobs: Any) -> List[Optional[s.Match]]:
    """One match per point of the list; None for a point that has no position in the template."""
    positions = points.positions_lps
    is_defined = np.isfinite(positions).all(axis=1)
    found = iter(common.functions(session).match(*embeddings, positions[is_defined], **knobs))
    return [next(found) if defined else None for defined in is_defined]


def as_report(point: Point, match: Optional[s.Match]) -> Dict[str, Any]:
    """One element of the report's ``points``; what does not exist is null."""
    if match is None or not np.isfinite(match.template_lps).all():
        return {
            "label": point.label,
            "template": None,
            "query": None,
            "similarity": None,
            "cycle_error_mm": None,
            "fixed_points": 0,
            "confidence": 0.0,
            "status": "not_found",
            "reason": NO_POSITION,
        }
    told: Dict[str, Any] = {
        "label": point.label,
        "template": _numbers(match.template_lps),
        "query": _numbers(match.query_lps),
        "similarity": _number(match.similarity),
        "cycle_error_mm": _number(match.cycle_error_mm),
        "fixed_points": int(match.fixed_points),
        "confidence": float(match.confidence),
        "status": match.status,
        "reason": match.reason,
    }
    if match.exemplars:
        told["exemplars"] = [as_report(point, one) for one in match.exemplars]
    return told


def _numbers(position: Optional[np.ndarray]) -> Optional[List[float]]:
    return None if position is None else [float(value) for value in position]


def _number(value: float) -> Optional[float]:
    return float(value) if math.isfinite(value) else None


def as_point_list(points: PointList, results: Sequence[Optional[s.Match]]) -> PointList:
    """The query's points, in the template's order and with its labels; not found ones have no position."""
    written = []
    for point, match in zip(points, results):
        position = None if match is None or match.query_lps is None else common.triple(match.query_lps)
        written.append(Point(point.label, position, describe(match), point.extra))
    return PointList(tuple(written), f"{points.name} matched")


def describe(match: Optional[s.Match]) -> str:
    """What a point's description says of its match: shown by Slicer's Markups module, readable by programs."""
    if match is None:
        return "status=not_found"
    parts = [f"status={match.status}"]
    if math.isfinite(match.similarity):
        parts.append(f"similarity={match.similarity:.3f}")
    if math.isfinite(match.cycle_error_mm):
        parts.append(f"cycle_error_mm={match.cycle_error_mm:.1f}")
    return "; ".join([*parts, f"confidence={match.confidence:.2f}"])


def map_path(path: str, number: int, label: str) -> str:
    """The file of the n-th point's similarity map: the path itself for the first, then number and label added."""
    if number == 1:
        return path
    suffix = suffix_of(path)
    safe = re.sub(r"[^\w.-]+", "_", label)[:40]
    return f"{path[: -len(suffix)]}_{number}{'_' + safe if safe else ''}{suffix}"


def write_similarity_maps(session: Session, points: PointList, embeddings: Embeddings) -> None:
    """One volume per point with a position, on the query's fine lattice."""
    for number, point in enumerate(points, 1):
        if point.position_lps is None:
            continue
        path = map_path(session.args.similarity_map, number, point.label)
        array, grid = common.functions(session).similarity_map(*embeddings, point.position_lps)
        s.write_volume(s.Volume(array, grid.ijk_to_lps, f"similarity to {point.label}"), path, session.inputs)


def gist_of(reason: str) -> str:
    """What a table has room for: of "Needs a look: a; b." the "a". The report has all of it."""
    lead, _, doubts = reason.rstrip(".").partition(": ")
    return (doubts or lead).partition("; ")[0]


def show_table(session: Session, points: PointList, results: Sequence[Optional[s.Match]]) -> None:
    """The result for people, on stdout."""
    width = max(5, *(len(label) for label in points.labels))
    session.say(f"{'label':{width}}  {'query (l, p, s) mm':>26}  similarity  cycle mm  confidence  status")
    for point, match in zip(points, results):
        if match is None:
            session.say(f"{point.label:{width}}  {'-':>26}  {'-':>10}  {'-':>8}  {'-':>10}  not_found ({NO_POSITION})")
            continue
        query = "-" if match.query_lps is None else " ".join(f"{value:8.1f}" for value in match.query_lps)
        similarity = f"{match.similarity:.3f}" if math.isfinite(match.similarity) else "-"
        cycle = f"{match.cycle_error_mm:.1f}" if math.isfinite(match.cycle_error_mm) else "-"
        gist = gist_of(match.reason)
        verdict = f"{match.status} ({gist})" if gist else match.status
        figures = f"{similarity:>10}  {cycle:>8}  {match.confidence:10.2f}"
        session.say(f"{point.label:{width}}  {query:>26}  {figures}  {verdict}")


def conclude(session: Session, points: PointList, results: Sequence[Optional[s.Match]]) -> None:
    """Warn of doubtful points; an error when there is nothing else."""
    statuses = [match.status if match else "not_found" for match in results]
    if all(status == "not_found" for status in statuses):
        reason = (results[0].reason if results[0] else NO_POSITION).rstrip(".")
        raise UnreliableResultError(
            f"None of the {len(points)} points was found in {session.args.query} (first one: {reason}).",
            "Check that both scans show this part of the body and that the points lie inside the template's body.",
        )
    for status, meaning in (("not_found", "not found"), ("uncertain", "uncertain; check them by eye")):
        labels = [point.label or "(no label)" for point, found in zip(points, statuses) if found == status]
        if labels:
            more = f" and {len(labels) - 10} more" if len(labels) > 10 else ""
            session.warn(f"{len(labels)} of {len(points)} points {meaning}: {', '.join(labels[:10])}{more}")
