"""DICOM Structured Reports of the findings in the scene: one file per study, see structured_report.py.

The scene is read at once, in the main thread; files are read and written by the worker, since the headers of a scan's
many files take seconds. Nothing is written before all reports are made, so a cancelled export leaves no trace.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from functools import partial
from typing import Any, Generator, List, Optional, Sequence

import numpy as np
import slicer

from SAMv2Core.errors import Cancelled, InputError
from SAMv2Core.io.structured_report import PastReading, ReportedLesion, Study, make_report, save_report
from SAMv2Core.progress import Progress, part
from SAMv2Core.tracking.recist import ABSENT, MERGED, VANISHED, Course
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.scene import match_list, node_geometry
from SAMv2SlicerLib.track import diameters, findings, lesion_list
from SAMv2SlicerLib.track.past import Past, pastOf
from SAMv2SlicerLib.work.worker import Job


@dataclass(frozen=True)
class PlannedReport:
    """The report of one study, as values: what it says, of which files."""

    fileName: str
    study: Study
    lesions: Sequence[ReportedLesion]
    model: str


def planReports(lesionListNode, order: Sequence[Any] = ()) -> List[PlannedReport]:
    """What the report of every study says, as the scene is now.

    :raises InputError: a study was not loaded from DICOM.
    """
    volumes, past = volumesOf(lesionListNode, order), pastOf(lesionListNode)
    numbers = range(past.order, past.order + len(volumes))
    studies = [Study(dicomFiles(volume), past.nameOf(n), n) for n, volume in zip(numbers, volumes)]
    model = _modelOf(lesionListNode)
    found = [
        PlannedReport(texts.reportFileName(n), study, reportedIn(lesionListNode, n, order), model)
        for n, study in enumerate(studies)
    ]
    return [item for item in found if item.lesions]  # else nothing of the baseline was found there


def writeReports(planned: Sequence[PlannedReport], folder: str, progress: Progress) -> List[str]:
    """Make and write reports; their paths. Reads no scene.

    :raises InputError: files of a scan cannot be read, or highdicom is missing; nothing is written then.
    :raises OutputError: the folder cannot be written.
    """
    import SAMv2Core

    reports = []
    for n, item in enumerate(planned):
        tell = part(progress, n / len(planned), (n + 1) / len(planned), f"{item.study.time_point}: ")
        reports.append(make_report(item.study, item.lesions, item.model, SAMv2Core.__version__, progress=tell))
    paths = [os.path.join(folder, item.fileName) for item in planned]
    for path, report in zip(paths, reports):
        save_report(path, report)
    return paths


def startExport(logic, lesionListNode, folder: str, order: Sequence[Any] = (), onEnd=None) -> Job:
    """Begin to write the report of every study into a folder; the job's value is their paths.

    :raises InputError: a study was not loaded from DICOM.
    """
    work = partial(writeReports, planReports(lesionListNode, order), folder)
    return logic.submitPlain(texts.progressReports(), work, None, onEnd, texts.progressReports())


def startDatabaseExport(logic, lesionListNode, order: Sequence[Any] = (), onStored=None, onEnd=None) -> Job:
    """Begin to write the report of every study into Slicer's DICOM database, beside the scans.

    :param onStored: called with the job that follows when the files are written: Slicer takes them into its database.
        Its value is how many; it ends with ``onEnd``, as the first one does when it fails.
    :raises InputError: a study was not loaded from DICOM, or no database is open.
    """
    if not isDatabaseOpen():
        raise InputError(texts.noDatabaseCause(), texts.noDatabaseRemedy())
    folder = tempfile.TemporaryDirectory()  # goes when nobody holds it any more
    work = partial(writeReports, planReports(lesionListNode, order), folder.name)

    def afterwards(job: Job) -> None:
        if job.error is not None:
            if onEnd is not None:
                onEnd(job)
            return
        text = texts.progressReports()
        following = logic.submitSteps(text, lambda progress: _store(job.value, folder), None, onEnd, text)
        if onStored is not None:
            onStored(following)

    return logic.submitPlain(texts.progressReports(), work, None, afterwards, texts.progressReports())


def _store(paths: Sequence[str], folder: tempfile.TemporaryDirectory) -> Generator[None, None, int]:
    """Let Slicer take files into its database, in threads of its own; looked at with every step."""
    import ctk

    with folder:
        indexer = ctk.ctkDICOMIndexer()
        indexer.backgroundImportEnabled = True  # else the first call waits
        for path in paths:
            indexer.addFile(slicer.dicomDatabase, path, True)
        while indexer.importing:
            with contextlib.suppress(Cancelled):  # too late: it takes moments, and some may be in it already
                yield
    return len(paths)


def isDatabaseOpen() -> bool:
    """Whether Slicer has a DICOM database to write into."""
    database = getattr(slicer, "dicomDatabase", None)
    return bool(getattr(database, "isOpen", False))


def reportedIn(lesionListNode, study: int, order: Sequence[Any] = ()) -> List[ReportedLesion]:
    """What the report of a study says, by lesion; those that it says nothing of are left out."""
    rows, past = findings.findings(lesionListNode, order), pastOf(lesionListNode)
    found = (
        _reported(lesionListNode, row[study], course, past.order + study, past)
        for row, course in zip(rows, findings.coursesOf(rows, past))
    )
    return [item for item in found if item is not None]


def volumesOf(lesionListNode, order: Sequence[Any] = ()) -> List[Any]:
    """The volumes of the studies that get a report, baseline first."""
    return findings.studiesOf(lesionListNode, order)


def dicomFiles(volumeNode) -> tuple:
    """The DICOM files that a volume was loaded from.

    :raises InputError: Slicer does not know them (any more).
    """
    database = getattr(slicer, "dicomDatabase", None)
    uids = (volumeNode.GetAttribute("DICOM.instanceUIDs") or "").split()
    files = [database.fileForInstance(uid) for uid in uids] if database is not None else []
    if not files or not all(files):
        raise InputError(texts.notFromDICOMCause(volumeNode.GetName()), texts.notFromDICOMRemedy())
    return tuple(files)


def _modelOf(lesionListNode) -> str:
    for node in lesion_list.findingsOf(lesionListNode):
        if node.GetAttribute("SAMv2.model"):
            return node.GetAttribute("SAMv2.model")
    return "SAMv2"


def _reported(
    lesionListNode, finding: findings.Finding, course: Course, study: int, past: Past
) -> Optional[ReportedLesion]:
    """What the report of a study says about one finding; None where the lesion has no place and nobody said why.

    :param study: counted from the first study that is known, in a report or in the scene.

    A lesion that has vanished keeps the place where it was looked for, with a long axis of 0 mm.
    """
    reading = course.readings[study]
    isGone = reading.state in (VANISHED, MERGED)
    if finding.world is None and not isGone:
        return None
    volumeNode = slicer.mrmlScene.GetNodeByID(finding.volumeID)
    position = None if finding.world is None else node_geometry.worldToVolumeLPS(volumeNode, finding.world)[0]
    ends = None if isGone else _endsWorld(lesionListNode, finding)
    isSaid = isGone or (finding.result is not None and bool(finding.result.state or finding.result.presence))
    return ReportedLesion(
        label=finding.label,
        tracking_uid=finding.uid,
        position=None if position is None else tuple(position),
        status="new" if finding.result is not None and finding.result.presence == match_list.NEW else finding.status,
        decision=finding.decision,
        diameter_mm=None if isGone else reading.long_mm,
        short_mm=None if isGone else reading.short_mm,
        organ=course.organ or ("lymph node" if course.is_node else ""),
        ends=None if ends is None else tuple(tuple(p) for p in node_geometry.worldToVolumeLPS(volumeNode, ends)),
        state=reading.state if isSaid else "",
        role=course.role,
        history=tuple(
            PastReading(n, past.nameOf(n), earlier.state, earlier.long_mm, earlier.short_mm)
            for n, earlier in enumerate(course.readings[:study])
            if earlier.state != ABSENT
        ),
    )


def _endsWorld(lesionListNode, finding: findings.Finding) -> Optional[np.ndarray]:
    """(2, 3) world RAS of the measured diameter, None where nobody drew one."""
    if finding.result is None:
        lesion = next(item for item in lesion_list.lesionsIn(lesionListNode) if item.uid == finding.uid)
        return None if lesion.endsLPS is None else node_geometry.flipRASAndLPS(lesion.endsLPS)
    line = diameters.linesOf(lesionListNode).get((finding.uid, finding.volumeID))
    return node_geometry.pointsWorld(line, (0, 1)) if finding.isMeasured and line is not None else None
