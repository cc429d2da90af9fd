"""DICOM Structured Reports of the findings in the scene: one file per study, see structured_report.py."""

from __future__ import annotations

import os
import tempfile
from typing import Any, List, Optional, Sequence

import numpy as np
import slicer

from SAMv2Core.errors import InputError
from SAMv2Core.io.structured_report import PastReading, ReportedLesion, Study, write_report
from SAMv2Core.tracking.recist import ABSENT, MERGED, VANISHED, Course
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.scene import match_list, node_geometry
from SAMv2SlicerLib.track import diameters, findings, lesion_list
from SAMv2SlicerLib.track.past import Past, pastOf


def exportReports(lesionListNode, folder: str, order: Sequence[Any] = ()) -> List[str]:
    """Write the report of every study; their paths.

    :raises InputError: a study was not loaded from DICOM, or highdicom is missing; nothing is written then.
    :raises OutputError: the folder cannot be written.
    """
    import SAMv2Core

    volumes, past = volumesOf(lesionListNode, order), pastOf(lesionListNode)
    numbers = range(past.order, past.order + len(volumes))
    studies = [Study(dicomFiles(volume), past.nameOf(n), n) for n, volume in zip(numbers, volumes)]
    model = _modelOf(lesionListNode)
    paths = []
    for n, study in enumerate(studies):
        lesions = reportedIn(lesionListNode, n, order)
        if not lesions:  # nothing of the baseline was found there
            continue
        path = os.path.join(folder, texts.reportFileName(n))
        write_report(path, study, lesions, model, SAMv2Core.__version__)
        paths.append(path)
    return paths


def exportToDatabase(lesionListNode, order: Sequence[Any] = ()) -> int:
    """Write the report of every study into Slicer's DICOM database, beside the scans; how many.

    :raises InputError: as :func:`exportReports`, or no database is open.
    """
    import ctk

    database = getattr(slicer, "dicomDatabase", None)
    if not isDatabaseOpen():
        raise InputError(texts.noDatabaseCause(), texts.noDatabaseRemedy())
    with tempfile.TemporaryDirectory() as folder:
        paths = exportReports(lesionListNode, folder, order)
        indexer = ctk.ctkDICOMIndexer()
        for path in paths:
            indexer.addFile(database, path, True)
        indexer.waitForImportFinished()
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
