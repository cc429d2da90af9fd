"""``samv2 match``: points of a template scan, found in a query scan."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

import SAMv2Core as s
from SAMv2Core.cli import common
from SAMv2Core.errors import UnreliableResultError
from SAMv2Core.io.files import suffix_of
from SAMv2Core.io.points import Point, PointList, read_points, write_points

if TYPE_CHECKING:
    from SAMv2Core.cli.progress import Progress
    from SAMv2Core.cli.session import Session

    Embeddings = Tuple[s.Embedding, s.Embedding]  # template, query

METHODS = ("fixed-point", "nearest")
EXPECT = {"auto": None, "on": True, "off": False}
NO_POSITION = "it has no position in the template"


def add_subparser(subparsers: Any) -> None:
    """Add ``match`` to the parser."""
    parser = subparsers.add_parser("match", help="find points of one scan in another", description=__doc__)
    common.add_input(parser, "template", "the scan in which the points are marked (a file, or a folder of DICOM)")
    common.add_input(parser, "query", "the scan in which they are to be found")
    common.add_series_option(parser)
    parser.add_argument("--points", required=True, metavar="P", help="points of the template: .mrk.json, .fcsv or .csv")
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
        "--similarity-map",
        metavar="S.nii.gz",
        type=common.volume_to_write,
        help="write how similar each place of the query is to the first point, on a 4 mm lattice; "
        "maps of further points get their number and label added to the name",
    )
    common.add_computing_options(parser)
    common.add_reporting_options(parser)
    parser.set_defaults(run=run)


def run(session: Session) -> None:
    """Read, embed, match, write; the result is unreliable when no point was found."""
    args = session.args
    session.declare(inputs=[args.template, args.query, args.points], outputs=[args.output, args.similarity_map])
    with session.stage("read", 0.0, 0.05):
        points = read_points(args.points)
        session.report.add_file("points", args.points, n_points=len(points))
        template = common.read_input(session, "template")
        query = common.read_input(session, "query")
    embeddings = common.embed_both(session, {"template": template, "query": query}, 0.9)
    with session.stage("match", 0.9, 0.98) as progress:
        results = match_points(points, embeddings, args.method, progress, EXPECT[args.expect])
    session.results["points"] = [as_report(*pair) for pair in zip(points, results)]
    with session.stage("write", 0.98, 1.0):
        write_points(as_point_list(points, results), args.output, session.inputs)
        if args.similarity_map:
            write_similarity_maps(session, points, embeddings)
    show_table(session, points, results)
    conclude(session, points, results)


def match_points(
    points: PointList, embeddings: Embeddings, method: str, progress: Progress, expect: Optional[bool] = None
) -> List[Optional[s.Match]]:
    """One match per point of the list; None for a point that has no position in the template."""
    positions = points.positions_lps
    is_defined = np.isfinite(positions).all(axis=1)
    found = iter(s.match(*embeddings, positions[is_defined], method=method, progress=progress, expect=expect))
    return [next(found) if defined else None for defined in is_defined]


def as_report(point: Point, match: Optional[s.Match]) -> Dict[str, Any]:
    """One element of the report's ``points``; what does not exist is null."""
    if match is None:
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
    return {
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
    from SAMv2Core.matching.match import similarity_map

    for number, point in enumerate(points, 1):
        if point.position_lps is None:
            continue
        path = map_path(session.args.similarity_map, number, point.label)
        array, grid = similarity_map(*embeddings, point.position_lps)
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
            session.warn(f"{len(labels)} of {len(points)} points {meaning}: {', '.join(labels[:10])}")
