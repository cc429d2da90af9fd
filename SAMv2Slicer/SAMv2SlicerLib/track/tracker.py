"""Lesions of a baseline followed through later studies: starting a run, and keeping up with what the user does after.

Tracking is *verified tracking*: what the tracker finds is a proposal, the user accepts, moves or rejects it, the
decision stands beside the proposal, survives every rerun and the scene file, and helps the next run to find the other
lesions. As with matching, nothing is written until a run has succeeded, minutes may lie between request and commit, and
whatever was closed or deleted meanwhile ends in an error that leaves the scene as it was.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import slicer
from slicer.util import VTKObservationMixin

from SAMv2Core.errors import InputError
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.match.corrections import CorrectionWatcher
from SAMv2SlicerLib.scene import node_geometry
from SAMv2SlicerLib.track import diameters, findings, findings_table, lesion_list, lesion_marks, looking, studies
from SAMv2SlicerLib.track.track_job import TrackCommit, TrackRequest
from SAMv2SlicerLib.work import engine
from SAMv2SlicerLib.work.worker import Job

_LINE_EVENTS = (
    slicer.vtkMRMLMarkupsNode.PointPositionDefinedEvent,
    slicer.vtkMRMLMarkupsNode.PointModifiedEvent,
    slicer.vtkMRMLMarkupsNode.PointRemovedEvent,
)


class LesionTracker(VTKObservationMixin):
    """Tracks the lesions of a baseline; belongs to a logic.

    :ivar corrections: watches the findings of the baseline that is followed.
    :ivar onChanged: called after findings changed, by whomever.
    :ivar looking: compares the scans after the last run, see looking.py; None when there was nothing to compare.
    """

    def __init__(self, logic) -> None:
        VTKObservationMixin.__init__(self)
        self._logic = logic
        self.corrections = CorrectionWatcher(logic)
        self.onChanged: Optional[Callable[[], None]] = None
        self.looking: Optional[Job] = None
        self._listID = ""
        self._order: Tuple[str, ...] = ()
        self._isUpdating = False

    # --- running -------------------------------------------------------------------------------------------------

    def start(
        self,
        baseline,
        followUps: Sequence[Any],
        lesions: Sequence[Any],
        model: str = "auto",
        device: str = "auto",
        modality: str = "auto",
        lock: bool = True,
        onEnd=None,
        segmentations: Optional[Sequence[Any]] = None,
    ) -> Job:
        """Begin to track; the job's value is the table node. Parameters as in ``SAMv2SlicerLogic.trackLesions``."""
        logic = self._logic
        baselineNode = logic.resolve(baseline, "vtkMRMLScalarVolumeNode")
        nodes = [logic.resolve(item, "vtkMRMLScalarVolumeNode") for item in followUps]
        nodes = [node for n, node in enumerate(nodes) if node not in nodes[:n]]
        if not nodes:
            raise InputError(texts.noFollowUpCause(), texts.noFollowUpRemedy())
        if baselineNode in nodes:
            raise InputError(texts.sameStudyCause(baselineNode.GetName()), texts.sameStudyRemedy())
        given = [logic.resolve(item, "vtkMRMLScalarVolumeNode") for item in followUps]
        segmented = self._segmented(given, segmentations)
        sources = [self._source(item) for item in lesions]
        request = self._request(baselineNode, nodes, sources, [segmented.get(node.GetID()) for node in nodes], lock)
        parts = [None if found is None else [lesion for _, lesion in found] for found in request.segmented]
        options = engine.Options(model, device)
        volumes = logic.volumeInputs([baselineNode, *nodes], [modality] * (1 + len(nodes)), options)
        text = texts.progressTracking(len(request.inputs), len(nodes))
        return logic.submit(
            text,
            lambda progress: logic.engine.track(
                volumes[0], volumes[1:], request.inputs, request.verified, options, text, progress, parts
            ),
            TrackCommit(logic, self, request),
            onEnd,
        )

    def _source(self, reference):
        for className in lesion_marks.SOURCE_CLASSES:
            node = reference
            if isinstance(reference, str):
                scene = slicer.mrmlScene
                node = scene.GetNodeByID(reference) or scene.GetFirstNode(reference, className)
            if node is not None and node.IsA(className):
                return node
        name = reference if isinstance(reference, str) else getattr(reference, "GetName", lambda: "?")()
        raise InputError(texts.notLesionsCause(name), texts.notLesionsRemedy())

    def _segmented(self, followUpNodes, segmentations: Optional[Sequence[Any]]) -> Dict[str, Any]:
        """{volume ID: [(key, lesion)] segmented in it}; None means those that were chosen for the volumes."""
        if segmentations is None:
            segmentations = [studies.segmentationOf(node) for node in followUpNodes]
        if len(segmentations) != len(followUpNodes):
            raise InputError(
                texts.segmentationCountCause(len(segmentations), len(followUpNodes)), texts.segmentationCountRemedy()
            )
        found = {}
        for volumeNode, item in zip(followUpNodes, segmentations):
            if item:
                node = self._logic.resolve(item, "vtkMRMLSegmentationNode")
                found[volumeNode.GetID()] = lesion_marks.partsIn(node, volumeNode)
        return found

    def _request(self, baselineNode, followUpNodes, sources, segmented, lock: bool) -> TrackRequest:
        listNode = lesion_list.findLesionList(baselineNode)
        planned = lesion_list.plan(listNode, lesion_marks.marksIn(sources))
        if not planned:
            raise InputError(texts.noLesionsCause(), texts.noLesionsRemedy())
        labels = {item.lesion.uid: item.lesion.label for item in planned}
        indices = {node.GetID(): n for n, node in enumerate(followUpNodes)}
        verified = []
        for uid, volumeID, world in findings.verified(listNode):
            if uid in labels and volumeID in indices:
                node = followUpNodes[indices[volumeID]]
                lps = None if world is None else node_geometry.worldToVolumeLPS(node, world)[0]
                verified.append(engine.VerifiedInput(labels[uid], indices[volumeID], lps))
        return TrackRequest(
            baselineID=baselineNode.GetID(),
            followUpIDs=tuple(indices),
            planned=tuple(planned),
            inputs=tuple(_lesionInput(item, baselineNode) for item in planned),
            verified=tuple(verified),
            segmented=tuple(segmented),
            lock=lock,
        )

    def look(self, request: TrackRequest, computed) -> None:
        """Begin to compare the scans at the places that were found; ``looking`` is that job."""
        self.looking = looking.look(self._logic, request, computed)

    # --- keeping up with the scene -------------------------------------------------------------------------------

    def follow(self, baselineNode, order: Sequence[Any] = ()) -> None:
        """Watch the findings of a baseline for corrections (panel shown, scene loaded); None to stop."""
        listNode = lesion_list.findLesionList(baselineNode)
        self._order = tuple(node.GetID() for node in order)
        listID = listNode.GetID() if listNode is not None else ""
        if listID != self._listID:
            self.stop()
            self._listID = listID
        if listNode is None:
            return
        for node in lesion_list.findingsOf(listNode):
            self.corrections.watch(node)
        for node in diameters.linesOf(listNode).values():
            for event in _LINE_EVENTS:
                if not self.hasObserver(node, event, self._onLineChanged):
                    self.addObserver(node, event, self._onLineChanged)

    def stop(self) -> None:
        """Watch nothing."""
        self.corrections.clear()
        self.removeObservers()
        self._listID = ""

    def lesionList(self):
        """The lesion list that is followed, or None."""
        return slicer.mrmlScene.GetNodeByID(self._listID) if self._listID else None

    def order(self) -> List[Any]:
        """Follow-ups in the user's order."""
        nodes = (slicer.mrmlScene.GetNodeByID(nodeID) for nodeID in self._order)
        return [node for node in nodes if node is not None]

    def noteOwnWrites(self) -> None:
        """The module wrote into findings: they are no corrections, and the tables follow them."""
        self.corrections.noteOwnWrites()
        self.updateTables()

    def updateTables(self) -> None:
        """Bring tables and plot up to date with the findings, if there are any."""
        listNode = self.lesionList()
        if self._isUpdating or listNode is None or findings_table.find(listNode, findings_table.FINDINGS) is None:
            return
        self._isUpdating = True
        try:
            findings_table.update(listNode, self.order())
            rows = findings.findings(listNode)
            diameters.showFitting(listNode, {(f.uid, f.volumeID): f.world for row in rows for f in row})
        finally:
            self._isUpdating = False
        if self.onChanged is not None:
            self.onChanged()

    def _onLineChanged(self, caller=None, event=None) -> None:
        """A line was drawn or dragged: its length is a measurement from now on."""
        if self._logic.isWriting():
            return
        uid = caller.GetAttribute(diameters.ATTRIBUTE_LESION) if caller is not None else ""
        labels = {lesion.uid: lesion.label for lesion in lesion_list.lesionsIn(self.lesionList())}
        if uid in labels:
            diameters.confirmMoved(caller, labels[uid])
        self.updateTables()


def _lesionInput(item: lesion_list.PlannedLesion, baselineNode) -> engine.LesionInput:
    """A lesion in the baseline's own frame; a segment stands for itself by some of its voxels."""
    mark = item.mark
    center = node_geometry.worldToVolumeLPS(baselineNode, mark.centerWorld)[0]
    places = mark.samplesWorld
    return engine.LesionInput(
        label=item.lesion.label,
        centerLPS=center,
        diameterMm=mark.diameterMm,
        placesLPS=None if places is None else node_geometry.worldToVolumeLPS(baselineNode, places),
        endsLPS=None if mark.endsWorld is None else node_geometry.worldToVolumeLPS(baselineNode, mark.endsWorld),
    )
