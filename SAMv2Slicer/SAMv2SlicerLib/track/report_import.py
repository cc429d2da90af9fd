"""Last month's DICOM report as this month's baseline: its lesions become marks, their Tracking UIDs and history go on.

The report speaks of the scan that is the baseline now. Each lesion with a place becomes a mark that the user can drag,
a line where the report draws the axis that counts, else a point; what earlier studies measured is kept beside the
lesion list (past.py), counted in the sums and written into the next report. Reports are ours or another program's.

The worker reads the files. The scene is written in the main thread then, a node in each turn of the event loop, since
making or removing a node of markups takes Slicer about 40 ms; the list of lesions comes last, all of it in one turn.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, Callable, Dict, Generator, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import slicer
import slicer.util
import vtk

from SAMv2Core.errors import Cancelled, InputError
from SAMv2Core.io.lesion import Lesion
from SAMv2Core.io.report_reader import REPORTS, LesionReport, read_report
from SAMv2Core.io.structured_report import new_tracking_uid
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.scene import hierarchy, node_geometry, slice_views
from SAMv2SlicerLib.scene.undo import Action
from SAMv2SlicerLib.track import findings_table, lesion_list, lesion_marks, report_export
from SAMv2SlicerLib.track.past import Past, remember
from SAMv2SlicerLib.track.track_job import Snapshot
from SAMv2SlicerLib.work.worker import Job, Progress

_SOP_CLASS = "0008,0016"

Marked = Callable[[Sequence[Any], Sequence[Any]], None]
"""Called with the nodes that mark lesions from now on and those that no longer do."""

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
    onMarked: Optional[Marked] = None,
    onEnd=None,
) -> Job:
    """Begin to read a report; the job's value is how many lesions it knows, which are marked in the baseline then.

    A lesion that the list has already, by its Tracking UID, keeps its mark. One step of undo. The job fails with an
    InputError for what is no report, has no places or is of another scan; nothing is written then.

    :param sources: what marks lesions already.
    :param onMarked: told of the marks, also when the import is undone and done again with new ones.
    """
    files, name = _filesOf(baselineNode), baselineNode.GetName()
    otherScan = InputError(texts.otherScanCause(name), texts.otherScanRemedy())
    baselineID, sourceIDs = baselineNode.GetID(), [node.GetID() for node in sources]

    def read(progress: Progress) -> LesionReport:
        report = read_report(path, os.path.dirname(files[0]) if files else None)
        if not _isOfScan(report, files):
            raise otherScan
        return report

    def work(progress: Progress) -> Generator[None, None, int]:
        reading = logic.submitPlain(text, read, None, None, text)
        while not reading.isHandled:
            yield
        if reading.error is not None:
            raise reading.error
        taken = _TakenReport(logic, baselineID, reading.value, sourceIDs, onMarked)
        yield from taken.forth()
        logic.undoStack.push(Action(texts.actionReadReport(), taken.back, taken.forthAgain))
        return len(reading.value.past)

    text = texts.progressReadingReport()
    return logic.submitSteps(text, work, None, onEnd, text)


class _TakenReport:
    """A report in the scene, taken back and in again; each in steps, one in each turn of the event loop.

    Until the lesions are in the list, whatever ends the steps (a cancellation, a scan that is gone) takes the marks
    away again; afterwards nothing stops them.
    """

    def __init__(self, logic, baselineID: str, report: LesionReport, sourceIDs: Sequence[str], onMarked) -> None:
        self._logic, self._baselineID, self._report, self._sourceIDs = logic, baselineID, report, sourceIDs
        self._uids = {label: one.uid or new_tracking_uid() for label, one in report.past.items()}
        self._onMarked = onMarked
        self._markIDs: List[str] = []
        self._before: Optional[Snapshot] = None

    def forth(self) -> Iterator[None]:
        """:raises InputError: the scan is gone."""
        fresh = self._fresh(lesion_list.findLesionList(self._baseline()))
        try:
            for node in _marks(self._baseline(), fresh):
                self._markIDs.append(node.GetID())
                yield
                self._baseline()
            self._tell(_present(self._markIDs), ())
            yield
            with self._logic.writing(), slice_views.drawnOnce():
                self._list(self._baseline())
        except Exception:
            if not slicer.mrmlScene.IsClosing():  # else everything goes
                self._tell((), _present(self._markIDs))
                for _ in self._unmark():
                    pass
            raise
        yield from _nextTurn()
        listNode = lesion_list.findLesionList(slicer.mrmlScene.GetNodeByID(self._baselineID))
        if listNode is not None:
            with slice_views.drawnOnce():
                findings_table.update(listNode, self._logic.tracker.order())
                self._logic.tracker.follow(self._baseline(), self._logic.tracker.order())
        yield from _nextTurn()

    def forthAgain(self) -> Iterator[None]:
        """Like all actions it does nothing where its scan is gone."""
        if slicer.mrmlScene.GetNodeByID(self._baselineID) is not None:
            yield from self.forth()

    def back(self) -> Iterator[None]:
        """Marks, rows and what the report told go together."""
        before, self._before = self._before, None
        with self._logic.writing(), slice_views.drawnOnce():  # at once: whatever is done next finds what will stay
            tables = [node.GetID() for node in (before.restoreLists() if before is not None else ())]
            self._logic.tracker.follow(slicer.mrmlScene.GetNodeByID(self._baselineID), self._logic.tracker.order())
        yield from _nextTurn()
        with slice_views.drawnOnce():
            findings_table.remove(_present(tables))
        yield from _nextTurn()
        self._tell((), _present(self._markIDs))  # else the panel looks at them all with each that goes
        yield from _nextTurn()
        yield from self._unmark()

    def _baseline(self) -> Any:
        node = slicer.mrmlScene.GetNodeByID(self._baselineID)
        if node is None:
            raise InputError(texts.nodeGoneCause(), texts.nodeGoneRemedy())
        return node

    def _tell(self, marks: Sequence[Any], gone: Sequence[Any]) -> None:
        if self._onMarked is not None:
            self._onMarked(marks, gone)

    def _fresh(self, listNode) -> List[Lesion]:
        """The lesions that the list does not have yet."""
        present = {lesion.uid for lesion in lesion_list.lesionsIn(listNode)}
        return [lesion for lesion in self._report.lesions if self._uids[lesion.label] not in present]

    def _list(self, baselineNode) -> None:
        """Put the lesions with their past into the lesion list."""
        self._before = Snapshot.of(baselineNode)
        listNode, report, uids = lesion_list.ensureLesionList(baselineNode), self._report, self._uids
        sources = _present([*self._sourceIDs, *self._markIDs])
        _write(listNode, sources, self._fresh(listNode), report, uids)
        past = {uids[label]: replace(one, uid=uids[label]) for label, one in report.past.items()}
        remember(listNode, Past(report.order, past))

    def _unmark(self) -> Iterator[None]:
        while self._markIDs:
            for node in _present([self._markIDs.pop()]):
                hierarchy.removeNode(node)
            yield from _nextTurn()


def _nextTurn() -> Iterator[None]:
    """Go on in the next turn, also when somebody wants it to stop; not in a scene that closes."""
    try:
        yield
    except Cancelled:
        if slicer.mrmlScene.IsClosing():
            raise


def _present(nodeIDs: Sequence[str]) -> List[Any]:
    nodes = (slicer.mrmlScene.GetNodeByID(nodeID) for nodeID in nodeIDs)
    return [node for node in nodes if node is not None]


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


def _marks(baselineNode, lesions: Sequence[Lesion]) -> Iterator[Any]:
    """Make nodes that mark lesions in the baseline: a line each, and one list of points for those without."""
    lines = {lesion.label: _lineOf(lesion) for lesion in lesions}
    others = [lesion for lesion in lesions if lines[lesion.label] is None]
    for lesion in lesions:
        if lines[lesion.label] is not None:
            yield _line(baselineNode, lesion.label, lines[lesion.label])
        elif lesion is others[0]:
            yield _points(baselineNode, others)


def _line(baselineNode, label: str, ends: np.ndarray) -> Any:
    node = baselineNode.GetScene().AddNewNodeByClass("vtkMRMLMarkupsLineNode", label)
    with slicer.util.NodeModify(node):
        node.CreateDefaultDisplayNodes()
        for world in node_geometry.volumeLPSToWorld(baselineNode, ends):
            node.AddControlPointWorld(vtk.vtkVector3d(*(float(x) for x in world)))
    return node


def _points(baselineNode, lesions: Sequence[Lesion]) -> Any:
    node = baselineNode.GetScene().AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", texts.reportPointsName())
    with slicer.util.NodeModify(node):
        node.CreateDefaultDisplayNodes()
        for lesion in lesions:
            world = node_geometry.volumeLPSToWorld(baselineNode, lesion.center_lps)[0]
            index = node.AddControlPointWorld(vtk.vtkVector3d(*(float(x) for x in world)), lesion.label)
            sizes = {"diameter_mm": lesion.diameter_mm, "short_mm": lesion.short_mm}
            facts = "; ".join(f"{name}={value:.2f}" for name, value in sizes.items() if value is not None)
            node.SetNthControlPointDescription(index, facts)
    return node


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
