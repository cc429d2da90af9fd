"""From findings to a reading: what tracking, segmentations and a reader say of each lesion, as courses through time.

Tracking finds places, a segmentation gives sizes and says what is gone or new, a person measures and decides. The last
one counts most. What comes out is what :mod:`SAMv2Core.tracking.recist` sums up.

A table of readings has the columns ``label,study,diameter_mm`` and, if wanted, ``short_mm`` and ``state``; the table
that ``samv2 track`` writes, filled in, is one. Study 0 is the baseline; a label that no lesion of the baseline bears is
a new lesion. Conventions: mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from SAMv2Core.errors import InputError
from SAMv2Core.io.files import PathLike
from SAMv2Core.io.lesion import Lesion
from SAMv2Core.io.report_reader import LesionReport, PastLesion
from SAMv2Core.io.tables import number_of, read_table
from SAMv2Core.tracking.finding import Finding
from SAMv2Core.tracking.recist import (
    ABSENT,
    MERGED,
    NEW,
    NON_TARGET,
    NOT_EVALUABLE,
    PRESENT,
    STATES,
    TARGET,
    TOO_SMALL,
    VANISHED,
    Course,
    Reading,
)

Key = Tuple[str, int]
"""(label, study)."""

_WRITTEN = {"ne": NOT_EVALUABLE, "gone": VANISHED, "too small": TOO_SMALL, "toosmall": TOO_SMALL}


@dataclass(frozen=True)
class ReaderTable:
    """What a reader has written down.

    :param readings: by label and study; :param organs: by label, :param nodes: labels of lymph nodes.
    """

    readings: Dict[Key, Reading]
    organs: Dict[str, str]
    nodes: Tuple[str, ...] = ()


def read_readings(path: PathLike, n_studies: int) -> ReaderTable:
    """A reader's table; rows without a size and a state say nothing.

    :param n_studies: with the baseline.
    :raises InputError: not readable, no such column or study, a state or a size that makes no sense.
    """
    table = read_table(path, needed=("label", "study"))
    names = {name.lower() for name in table.names}
    missing = [name for name in ("label", "study", "diameter_mm") if name not in names]
    if missing:
        raise InputError(f"{path} has no column {missing[0]}.", "Columns: label,study,diameter_mm,short_mm,state.")
    readings: Dict[Key, Reading] = {}
    organs: Dict[str, str] = {}
    nodes: List[str] = []
    for row in table.rows:
        where = f"{path}, line {row.line}"
        label = row.cells["label"].strip()
        study = number_of(row.cells["study"], f"{where}, study")
        if study not in range(n_studies):
            raise InputError(f"{where}: there is no study {study:g}.", f"Studies are 0 (baseline) to {n_studies - 1}.")
        reading = _reading_of(row.cells, where)
        if reading is not None:
            if (label, int(study)) in readings:
                raise InputError(f"{where}: {label!r} has two readings in study {study:g}.", "Remove one.")
            readings[label, int(study)] = reading
        if row.cells.get("organ", "").strip():
            organs[label] = row.cells["organ"].strip()
        if row.cells.get("node", "").strip().lower() in ("yes", "true", "1"):
            nodes.append(label)
    return ReaderTable(readings, organs, tuple(nodes))


def _reading_of(cells: Mapping[str, str], where: str) -> Optional[Reading]:
    sizes = {}
    for column in ("diameter_mm", "short_mm"):
        text = cells.get(column, "").strip()
        sizes[column] = number_of(text, f"{where}, {column}") if text else None
    written = cells.get("state", "").strip().lower()
    state = _WRITTEN.get(written, written.replace("-", "_").replace(" ", "_"))
    if state and state not in STATES:
        raise InputError(f"{where}: there is no state {written!r}.", f"Use one of {', '.join(STATES)}.")
    long_mm = sizes["diameter_mm"]
    if not state and long_mm is None and sizes["short_mm"] is None:
        return None
    return Reading(state or (VANISHED if long_mm == 0 else PRESENT), long_mm, sizes["short_mm"])


def courses_of(
    lesions: Sequence[Lesion],
    findings: Sequence[Finding],
    new: Optional[Mapping[int, Sequence[Lesion]]] = None,
    reader: Optional[ReaderTable] = None,
    report: Optional[LesionReport] = None,
) -> List[Course]:
    """Each lesion of the baseline, then the new ones, through all studies.

    Whom nobody gave a role is a target if its size is known in the baseline. A place that was not found, or found and
    not measured, has no size; that it has vanished is only taken from a segmentation or a reader.

    :param findings: of :func:`SAMv2Core.tracking.track.track`, with what segmentations added.
    :param new: study -> lesions that a segmentation of it shows and the baseline does not have.
    :param report: the one that the lesions were read from: its time points come first, its own one is the baseline's
        place; studies of the courses are then counted from the report's baseline on.
    """
    reader = reader or ReaderTable({}, {})
    past = report.past if report is not None else {}
    first = report.order if report is not None else 0
    n_studies = 1 + max((finding.study for finding in findings), default=0)
    found = {(finding.label, finding.study): finding for finding in findings}
    courses = []
    for lesion in lesions:
        before = readings_of_past(past.get(lesion.label), first, n_studies)
        own = {n: _of_finding(found[lesion.label, n]) for n in range(n_studies)}
        if before:  # what a report says of its own study counts; what has gone is not there because its place was found
            own[0] = before[first]
            for n in range(1, n_studies):
                if before[first].state == VANISHED and not found[lesion.label, n].state:
                    own[n] = Reading(NOT_EVALUABLE)
        readings = (*before[:first], *(reader.readings.get((lesion.label, n)) or own[n] for n in range(n_studies)))
        is_node = lesion.is_node or lesion.label in reader.nodes
        size = readings[first].short_mm if is_node else readings[first].long_mm
        role = lesion.role or (TARGET if size else NON_TARGET)
        courses.append(
            Course(lesion.label, role, readings, lesion.organ or reader.organs.get(lesion.label, ""), is_node)
        )
    known = {lesion.label for lesion in lesions}
    for label, item in past.items():
        if label not in known:  # without a place: it cannot be tracked, and is not forgotten
            row = readings_of_past(item, first, n_studies)
            later = (reader.readings.get((label, n), row[first + n]) for n in range(n_studies))
            courses.append(Course(label, item.role or NON_TARGET, (*row[:first], *later), item.organ))
    return courses + _new_courses({*known, *past}, first, n_studies, new or {}, reader)


def readings_of_past(item: Optional[PastLesion], first: int, n_studies: int) -> Tuple[Reading, ...]:
    """(first + n_studies,) readings of a report; after its own time point, only what has merged is known."""
    if item is None:
        return (Reading(NOT_EVALUABLE),) * first if first else ()
    known = {reading.order: reading for reading in item.readings}
    start = min(known)
    found = []
    for n in range(first + 1):
        past = known.get(n)
        if past is None:
            found.append(Reading(ABSENT if n < start else NOT_EVALUABLE))
        else:
            found.append(Reading(past.state or PRESENT, past.long_mm, past.short_mm))
    later = Reading(MERGED if found[-1].state == MERGED else NOT_EVALUABLE)
    return (*found, *[later] * (n_studies - 1))


def _of_finding(finding: Finding) -> Reading:
    if finding.state:
        return Reading(finding.state, finding.diameter_mm, finding.short_mm)
    return Reading(NOT_EVALUABLE if finding.lps is None else PRESENT, finding.diameter_mm, finding.short_mm)


def _new_courses(
    known: set, first: int, n_studies: int, new: Mapping[int, Sequence[Lesion]], reader: ReaderTable
) -> List[Course]:
    """Lesions that the baseline does not have: not there before they were seen first, unknown afterwards."""
    readings = {key: reading for key, reading in reader.readings.items() if key[0] not in known}
    for study, lesions in new.items():
        for n, lesion in enumerate(lesions, 1):
            label = new_label(first + study, n)
            readings.setdefault((label, study), Reading(PRESENT, lesion.diameter_mm, lesion.short_mm))
    courses = []
    for label in dict.fromkeys(label for label, _ in readings):
        mine = {study: reading for (other, study), reading in readings.items() if other == label}
        unknown = (Reading(ABSENT if n < min(mine) else NOT_EVALUABLE) for n in range(n_studies))
        row = (Reading(ABSENT),) * first + tuple(mine.get(n, blank) for n, blank in enumerate(unknown))
        courses.append(Course(label, NEW, row, reader.organs.get(label, ""), label in reader.nodes))
    return courses


def new_label(study: int, number: int) -> str:
    """How a new lesion is named that a segmentation shows: ``new 2.1`` is the first one in follow-up 2."""
    return f"new {study}.{number}"
