"""``samv2 track --sr``: the last follow-up as a DICOM report, and last month's report as the baseline of this month."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

import SAMv2Core as s
from SAMv2Core.cli import common
from SAMv2Core.errors import InputError, SAMv2Error, UsageError
from SAMv2Core.io.lesion import Lesion
from SAMv2Core.io.report_reader import LesionReport, is_report, read_report
from SAMv2Core.io.structured_report import (
    REQUIREMENT,
    PastReading,
    ReportedLesion,
    Study,
    is_available,
    series_files,
    tracking_uid_of,
    write_report,
)

if TYPE_CHECKING:
    from SAMv2Core.cli.session import Session
    from SAMv2Core.tracking.reading import ReaderTable
    from SAMv2Core.tracking.recist import Course

NEW_STATUS = "new"


def add_option(parser: Any) -> None:
    """Add ``--sr``."""
    parser.add_argument(
        "--sr",
        metavar="OUT.dcm",
        type=lambda text: common.suffixed(text, (".dcm",)),
        help="DICOM report (TID 1500) of the last follow-up, with what the studies before said: needs the package "
        "highdicom, and that follow-up as a DICOM folder. Given as --lesions, it is the baseline of the next time",
    )


def read_past(path: str, baseline: str) -> Optional[LesionReport]:
    """The report that the lesions come from, or None."""
    return read_report(path, baseline) if is_report(path) else None


def check_past(session: Session, report: Optional[LesionReport], baseline: s.Volume) -> None:
    """Refuse a report on another scan; tell when it may be another patient's.

    :raises InputError: report and baseline lie in different frames of reference.
    """
    tags = baseline.dicom
    if report is None or tags is None:
        return
    if report.frame_of_reference_uid and tags.frame_of_reference_uid not in ("", report.frame_of_reference_uid):
        raise InputError(
            f"The report {session.args.lesions} is of another scan than {baseline.source}: their frames of reference "
            "differ.",
            "Give the scan that the report was made on as --baseline.",
        )
    if report.patient_id and tags.patient_id and report.patient_id != tags.patient_id:
        session.warn("The report and the baseline bear different patient IDs: make sure that they are one patient's.")


def check_target(volume: s.Volume) -> None:
    """Refuse now what writing would refuse after the work.

    :raises UsageError: highdicom is not installed.
    :raises InputError: the follow-up is no DICOM folder, or has no frame of reference.
    """
    if not is_available():
        raise UsageError("--sr needs the package highdicom.", f"pip install '{REQUIREMENT}'")
    if volume.dicom is None or not Path(volume.source).is_dir() or not volume.dicom.frame_of_reference_uid:
        raise InputError(
            f"{volume.source} is no DICOM folder with a frame of reference: a report speaks of DICOM images.",
            "Give the last follow-up as a DICOM folder, or leave --sr out.",
        )


def sites(session: Session, lesions: Sequence[Lesion], emb: s.Embedding) -> Dict[str, str]:
    """Part of the body of each lesion whose organ nobody said, by the landmarks around it; without those that no
    landmark knows."""
    from SAMv2Core.landmarks.where import where

    unknown = [lesion for lesion in lesions if not lesion.organ]
    if not unknown:
        return {}
    try:
        landmarks = common.functions(session).find_landmarks(emb, None, None)
    except SAMv2Error:  # a model without landmarks
        return {}
    found = {lesion.label: where(common.triple(lesion.center_lps), landmarks)[0] for lesion in unknown}
    return {label: region for label, region in found.items() if region}


def write(
    session: Session,
    volume: s.Volume,
    lesions: Sequence[Lesion],
    findings: Sequence[s.Finding],
    courses: Sequence[Course],
    new: Sequence[Lesion],
    reader: ReaderTable,
    past: Optional[LesionReport],
    regions: Mapping[str, str],
) -> None:
    """Write the report of the last follow-up.

    :param new: lesions that only this follow-up's segmentation shows, in the order of their courses.
    :param regions: parts of the body by label, for lesions without an organ.
    """
    own = "" if volume.dicom is None else volume.dicom.series_instance_uid
    baseline = str(session.report.inputs["baseline"]["series"] or own)
    run = max(finding.study for finding in findings)  # number of the follow-up in this run
    here = {finding.label: finding for finding in findings if finding.study == run}
    known = {lesion.label: lesion for lesion in lesions}
    places = dict(zip(_new_labels(len(courses[0].readings) - 1, new), new))
    reported = []
    for course in courses:
        finding = here.get(course.label)
        is_said = (course.label, run) in reader.readings or finding is None or bool(finding.state)
        earlier = past.past.get(course.label) if past is not None else None
        reported.append(
            ReportedLesion(
                label=course.label,
                tracking_uid=(earlier.uid if earlier is not None else "")
                or _tracking_uid(course.label, known.get(course.label), baseline, places.get(course.label), own),
                position=_place(finding, places.get(course.label)),
                status=NEW_STATUS if finding is None else finding.status,
                diameter_mm=course.readings[-1].long_mm,
                ends=_ends(finding, places.get(course.label), course),
                short_mm=course.readings[-1].short_mm,
                organ=course.organ or ("lymph node" if course.is_node else regions.get(course.label, "")),
                state=course.readings[-1].state if is_said else "",
                role=course.role,
                history=tuple(_history(course, earlier.readings if earlier is not None else ())),
            )
        )
    order = len(courses[0].readings) - 1
    study = Study(tuple(series_files(volume)), _name(order), order)
    model = session.report.model or {}
    name, sha256 = str(model.get("name", "SAMv2")), str(model.get("sha256", ""))
    write_report(session.args.sr, study, reported, name, s.__version__, sha256)


def _tracking_uid(label: str, known: Optional[Lesion], baseline: str, new: Optional[Lesion], own: str) -> str:
    """What the report that it comes from says, else what follows from the scan that it was first seen in.

    :param baseline: :param own: Series Instance UIDs of the baseline and of this follow-up, in which new ones lie.
    """
    if known is not None and known.tracking_uid:
        return known.tracking_uid
    lesion, series = (new, own) if known is None else (known, baseline)
    return tracking_uid_of(series, label, [] if lesion is None else list(common.triple(lesion.center_lps)))


def _new_labels(order: int, new: Sequence[Lesion]) -> List[str]:
    from SAMv2Core.tracking.reading import new_label

    return [new_label(order, n) for n in range(1, len(new) + 1)]


def _place(finding: Optional[s.Finding], part: Optional[Lesion]) -> Optional[Tuple[float, float, float]]:
    lps = part.center_lps if part is not None else None if finding is None else finding.lps
    return None if lps is None else common.triple(lps)


def _ends(finding: Optional[s.Finding], part: Optional[Lesion], course: Course) -> Any:
    """Ends of the measured line, unless a reader measured otherwise."""
    ends: Optional[np.ndarray] = part.ends_lps if part is not None else None if finding is None else finding.ends_lps
    mm = course.readings[-1].long_mm
    if ends is None or mm is None or abs(float(np.linalg.norm(ends[1] - ends[0])) - mm) > 0.05:
        return None
    return tuple(common.triple(end) for end in ends)


def _history(course: Course, told: Sequence[PastReading]) -> List[PastReading]:
    """What is known of the studies before; before it was there, a new lesion has no history."""
    names = {reading.order: reading.time_point for reading in told}
    return [
        PastReading(n, names.get(n, _name(n)), reading.state, reading.long_mm, reading.short_mm)
        for n, reading in enumerate(course.readings[:-1])
        if reading.state != "absent"
    ]


def _name(order: int) -> str:
    return "Baseline" if order == 0 else f"Follow-up {order}"
