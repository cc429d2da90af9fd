"""Last month's DICOM report as this month's baseline: its lesions become marks, their Tracking UIDs and history go on.

The report speaks of the scan that is the baseline now. Each lesion with a place becomes a mark that the user can drag,
a line where the report draws the axis that counts, else a point; what earlier studies measured is kept beside the
lesion list (past.py), counted in the sums and written into the next report. Reports are ours or another program's.

The worker reads the files; the scene is written when they were read, in the main thread.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import slicer
import slicer.util
import vtk

from SAMv2Core.errors import InputError
from SAMv2Core.io.lesion import Lesion
from SAMv2Core.io.report_reader import REPORTS, LesionReport, read_report
from SAMv2Core.io.structured_report import new_tracking_uid
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.scene import hierarchy, node_geometry
from SAMv2SlicerLib.scene.undo import Action
from SAMv2SlicerLib.track import findings_table, lesion_list, lesion_marks, report_export
from SAMv2SlicerLib.track.past import Past, remember
from SAMv2SlicerLib.track.track_job import Snapshot
from SAMv2SlicerLib.work.worker import Job, Progress

_SOP_CLASS = "0008,0016"

MOVED_MM = 0.5
"""A line is the axis that counts when its length is that of the report, within so much."""


def reportsOf(volumeNode) -> List[Tuple[str, str]]:
    """(title, path) of the reports that Slicer's DICOM database has of a volume's patient, the newest first."""
    database, found = getattr(slicer, "dicomDatabase", None), []
    try:
        file = report_export.dicomFiles(volumeNode)[0]
    except InputError:
        return []
    patient = database.patientForStudy(database.fileValue(file, "0020,000D"))
    for study in database.studiesForPatient(patient) if patient else ():
        date = database.fieldForStudy("StudyDate", study)
        for series in database.seriesForStudy(study):
            if database.fieldForSeries("Modality", series) == "SR":
                name = database.descriptionForSeries(series)
                kinds = {path: database.fileValue(path, _SOP_CLASS) for path in database.filesForSeries(series)}
                files = [path for path, kind in kinds.items() if kind in REPORTS]
                found += [(f"{date} {name}".strip(), path) for path in files]
    return sorted(found, reverse=True)


def startImport(
    logic,
    baselineNode,
    path: str,
    sources: Sequence[Any] = (),
    onMarked: Optional[Callable[[Sequence[Any]], None]] = None,
    onEnd=None,
) -> Job:
    """Begin to read a report; the job's value is how many lesions it knows, which are marked in the baseline then.

    A lesion that the list has already, by its Tracking UID, keeps its mark. One step of undo. The job fails with an
    InputError for what is no report, has no places or is of another scan; nothing is written then.

    :param sources: what marks lesions already.
    :param onMarked: called with the nodes, also with new ones when the import is done again after it was undone.
    """
    files, name = _filesOf(baselineNode), baselineNode.GetName()
    otherScan = InputError(texts.otherScanCause(name), texts.otherScanRemedy())
    baselineID, sourceIDs = baselineNode.GetID(), [node.GetID() for node in sources]

    def work(progress: Progress) -> LesionReport:
        report = read_report(path, os.path.dirname(files[0]) if files else None)
        if not _isOfScan(report, files):
            raise otherScan
        return report

    def commit(report: LesionReport) -> int:
        node = slicer.mrmlScene.GetNodeByID(baselineID)
        if node is None:
            raise InputError(texts.nodeGoneCause(), texts.nodeGoneRemedy())
        _importReport(logic, node, report, sourceIDs, onMarked)
        return len(report.past)

    return logic.submitPlain(texts.progressReadingReport(), work, commit, onEnd, texts.progressReadingReport())


def _importReport(logic, baselineNode, report: LesionReport, sourceIDs: Sequence[str], onMarked) -> None:
    uids = {label: one.uid or new_tracking_uid() for label, one in report.past.items()}
    before = Snapshot.of(baselineNode)

    def add() -> List[Any]:
        present = [slicer.mrmlScene.GetNodeByID(nodeID) for nodeID in sourceIDs]
        nodes = _add(logic, baselineNode, [node for node in present if node is not None], report, uids)
        if onMarked is not None:
            onMarked(nodes)
        return nodes

    logic.undoStack.push(_action(logic, before, add(), add))


def _add(logic, baselineNode, sources: Sequence[Any], report: LesionReport, uids: Dict[str, str]) -> List[Any]:
    """Mark the report's lesions, and put them with their past into the lesion list."""
    with logic.writing():
        listNode = lesion_list.ensureLesionList(baselineNode)
        known = lesion_list.lesionsIn(listNode)
        present = {lesion.uid for lesion in known}
        fresh = [lesion for lesion in report.lesions if uids[lesion.label] not in present]
        nodes = _marks(baselineNode, fresh)
        _write(listNode, [*sources, *nodes], fresh, report, uids)
        past = {uids[label]: replace(one, uid=uids[label]) for label, one in report.past.items()}
        remember(listNode, Past(report.order, past))
    findings_table.update(listNode, logic.tracker.order())
    logic.tracker.follow(baselineNode, logic.tracker.order())
    return nodes


def _action(logic, before: Snapshot, nodes: Sequence[Any], add: Callable[[], List[Any]]) -> Action:
    """The import that has just been made, undoable: marks, rows and what the report told go together."""
    current = {"ids": [node.GetID() for node in nodes]}

    def back() -> None:
        with logic.writing():
            for nodeID in current["ids"]:
                node = slicer.mrmlScene.GetNodeByID(nodeID)
                if node is not None:
                    hierarchy.removeNode(node)
            before.restore()
        logic.tracker.follow(slicer.mrmlScene.GetNodeByID(before.baselineID), logic.tracker.order())

    def forth() -> None:
        if slicer.mrmlScene.GetNodeByID(before.baselineID) is not None:
            current["ids"] = [node.GetID() for node in add()]

    return Action(texts.actionReadReport(), back, forth)


def _filesOf(volumeNode) -> Tuple[str, ...]:
    """The DICOM files of a volume, none when Slicer does not know them."""
    try:
        return report_export.dicomFiles(volumeNode)
    except InputError:
        return ()


def _isOfScan(report: LesionReport, files: Sequence[str]) -> bool:
    """Whether a report speaks of a scan, as far as both say in which frame of reference they are."""
    if not files or not report.frame_of_reference_uid:
        return True
    import pydicom

    header = pydicom.dcmread(files[0], stop_before_pixels=True, specific_tags=["FrameOfReferenceUID"])
    return str(header.get("FrameOfReferenceUID", "")) in ("", report.frame_of_reference_uid)


def _marks(baselineNode, lesions: Sequence[Lesion]) -> List[Any]:
    """Nodes that mark lesions in the baseline: a line each, and one list of points for those without."""
    scene, nodes, points = baselineNode.GetScene(), [], None
    for lesion in lesions:
        ends = _lineOf(lesion)
        if ends is not None:
            node = scene.AddNewNodeByClass("vtkMRMLMarkupsLineNode", lesion.label)
            with slicer.util.NodeModify(node):
                node.CreateDefaultDisplayNodes()
                for world in node_geometry.volumeLPSToWorld(baselineNode, ends):
                    node.AddControlPointWorld(vtk.vtkVector3d(*(float(x) for x in world)))
            nodes.append(node)
            continue
        if points is None:
            points = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", texts.reportPointsName())
            points.CreateDefaultDisplayNodes()
            nodes.append(points)
        world = node_geometry.volumeLPSToWorld(baselineNode, lesion.center_lps)[0]
        index = points.AddControlPointWorld(vtk.vtkVector3d(*(float(x) for x in world)), lesion.label)
        sizes = {"diameter_mm": lesion.diameter_mm, "short_mm": lesion.short_mm}
        facts = "; ".join(f"{name}={value:.2f}" for name, value in sizes.items() if value is not None)
        points.SetNthControlPointDescription(index, facts)
    return nodes


def _lineOf(lesion: Lesion) -> Optional[np.ndarray]:
    """The ends of the axis that counts, None where the report draws none or another one."""
    counts = lesion.short_mm if lesion.is_node and lesion.short_mm is not None else lesion.diameter_mm
    if lesion.ends_lps is None or counts is None:
        return None
    length = float(np.linalg.norm(lesion.ends_lps[1] - lesion.ends_lps[0]))
    return lesion.ends_lps if abs(length - counts) <= MOVED_MM else None


def _write(listNode, sources: Sequence[Any], fresh: Sequence[Lesion], report: LesionReport, uids: Dict[str, str]):
    """Let the lesion list hold all marks, those of the report with its words, and lesions that have no place."""
    known = lesion_list.lesionsIn(listNode)
    told = {lesion.label: lesion for lesion in fresh}
    before = {lesion.key for lesion in known}
    planned = []
    for item in lesion_list.plan(listNode, lesion_marks.marksIn(sources)):
        lesion = told.get(item.mark.label) if item.lesion.key not in before else None
        if lesion is not None:
            said = {"role": lesion.role, "organ": lesion.organ, "isNode": lesion.is_node}
            item = replace(item, lesion=replace(item.lesion, uid=uids[lesion.label], **said))
        planned.append(item)
    present = {lesion.uid for lesion in known} | {item.lesion.uid for item in planned}
    nowhere = [
        lesion_list.Lesion(uids[label], f"report:{uids[label]}", label, None, role=one.role, organ=one.organ)
        for label, one in report.past.items()
        if uids[label] not in present
    ]
    lesion_list.write(listNode, planned, nowhere, {lesion.uid for lesion in known})
