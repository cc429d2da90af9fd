"""What ``samv2 track`` says of lesions beyond their places: sizes, sums and the category that they suggest."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Dict, Optional, Sequence

from SAMv2Core.cli import common
from SAMv2Core.io.files import write_text
from SAMv2Core.io.tables import table_text

if TYPE_CHECKING:
    from SAMv2Core.cli.session import Session
    from SAMv2Core.tracking.reading import ReaderTable
    from SAMv2Core.tracking.recist import Course


def add_options(parser: Any) -> None:
    """Add the options of readings."""
    group = parser.add_argument_group("reading")
    group.add_argument(
        "--readings",
        metavar="READ.csv",
        help="what a reader measured or decided: label,study,diameter_mm and, if wanted, short_mm, state (vanished, "
        "too_small, merged, progressed, not_evaluable), organ, node; the written table, filled in, will do. A label "
        "that the baseline does not have is a new lesion",
    )
    group.add_argument(
        "--recist",
        metavar="R.csv",
        type=lambda text: common.suffixed(text, (".csv",)),
        help="table by RECIST 1.1: a row per lesion, a column per study, sums with their change against baseline and "
        "nadir, the category that they suggest and the rule behind it",
    )


def read(session: Session) -> ReaderTable:
    """The reader's table; an empty one when none is given."""
    from SAMv2Core.tracking.reading import ReaderTable, read_readings

    path: Optional[str] = session.args.readings
    if not path:
        return ReaderTable({}, {})
    table = read_readings(path, 1 + len(session.args.follow_up))
    session.report.add_file("readings", path, n_readings=len(table.readings))
    return table


def report(session: Session, found: Sequence[Course]) -> None:
    """Sums and categories into the report, the table where it is asked for, a line per follow-up on stdout."""
    from SAMv2Core.tracking import recist

    points, hints = recist.time_points(found), recist.hints(found)
    session.results["recist"] = {
        "standard": recist.STANDARD,
        "lesions": [_course_report(course) for course in found],
        "time_points": [_rounded(dataclasses.asdict(point)) for point in points],
        "hints": hints,
    }
    if not session.args.recist:
        return
    names = ["baseline", *(f"follow-up {n}" for n in range(1, len(points)))]
    header, rows = recist.as_table(found, names)
    write_text(session.args.recist, table_text(header, rows), session.inputs)
    for point in points[1:]:
        total = "no sum" if point.sum_mm is None else f"sum {point.sum_mm:.1f} mm"
        session.say(f"follow-up {point.study}: {total}, suggested category {point.overall}: {point.rule}")
    for hint in hints:
        session.warn(hint)


def _course_report(course: Course) -> Dict[str, Any]:
    return {
        "label": course.label,
        "role": course.role,
        "organ": course.organ,
        "is_node": course.is_node,
        "readings": [
            _rounded({**dataclasses.asdict(reading), "counts_mm": course.size_mm(n)})
            for n, reading in enumerate(course.readings)
        ],
    }


def _rounded(values: Dict[str, Any]) -> Dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}
