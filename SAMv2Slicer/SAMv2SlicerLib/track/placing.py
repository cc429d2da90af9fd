"""Lesions marked from the tab: a line drawn in any study is at once a row of the matrix.

In the baseline the line is the user's own mark, like any other line markup. In a follow-up it is a *new lesion*: a
row of its own whose finding is where the line lies, measured by it; the line then belongs to the finding like one
that was drawn with *Measure*. Which study is meant, the view tells in which the line was finished; frames may
coincide.
"""

from __future__ import annotations

from typing import Any, Callable, List, Optional, Sequence

import numpy as np
import slicer
import slicer.util
from slicer.util import VTKObservationMixin

from SAMv2Core.io.structured_report import new_tracking_uid
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.scene import hierarchy, match_list, node_geometry, slice_views
from SAMv2SlicerLib.track import diameters, findings_table, lesion_list, lesion_marks
from SAMv2SlicerLib.track.track_job import Snapshot, snapshotAction


class LesionPlacing(VTKObservationMixin):
    """Lets the user draw one line, and tells when it is there.

    :param onPlaced: called with the line and the volume it was drawn on.
    """

    def __init__(self, onPlaced: Callable[[Any, Any], None]) -> None:
        VTKObservationMixin.__init__(self)
        self._onPlaced = onPlaced
        self._volumeIDs: List[str] = []

    def start(self, volumes: Sequence[Any], label: str) -> Any:
        """Begin to draw; the line node.

        :param volumes: the studies, baseline first.
        """
        self.cancel()
        self._volumeIDs = [volume.GetID() for volume in volumes]
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsLineNode", slicer.mrmlScene.GenerateUniqueName(label))
        node.CreateDefaultDisplayNodes()
        self.addObserver(node, slicer.vtkMRMLMarkupsNode.PointPositionDefinedEvent, self._onDefined)
        slice_views.startPlacing(node, 0)
        return node

    def isActive(self) -> bool:
        """Whether a line is being drawn."""
        return bool(self.Observations)

    def cancel(self) -> None:
        """Draw nothing; a line without both ends goes."""
        for node, *_ in list(self.Observations):
            if node.GetScene() is not None and len(node_geometry.definedPointIndices(node)) < 2:
                node.GetScene().RemoveNode(node)
        self.removeObservers()

    def _onDefined(self, caller=None, event=None) -> None:
        if len(node_geometry.definedPointIndices(caller)) < 2:
            return
        self.removeObservers()
        volumes = [slicer.mrmlScene.GetNodeByID(nodeID) for nodeID in self._volumeIDs]
        volume = studyOf(caller, [node for node in volumes if node is not None])
        if volume is not None:
            self._onPlaced(caller, volume)


def studyOf(lineNode, volumes: Sequence[Any]) -> Optional[Any]:
    """The study on which a line was drawn: that of the view under the cursor, else the first that contains it."""
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    sliceNode = crosshair.GetCursorPositionXYZ([0.0] * 3) if crosshair is not None else None
    if sliceNode is not None:
        shown = [node for node in volumes if sliceNode in slice_views.sliceNodesShowing(node)]
        if len(shown) == 1:
            return shown[0]
    middle = node_geometry.pointsWorld(lineNode, (0, 1)).mean(axis=0)
    return next((node for node in volumes if _contains(node, middle)), volumes[0] if volumes else None)


def _contains(volumeNode, world: np.ndarray) -> bool:
    bounds = [0.0] * 6
    volumeNode.GetRASBounds(bounds)
    return bool(np.all((world >= bounds[0::2]) & (world <= bounds[1::2])))


def listMarks(logic, baselineNode, sources: Sequence[Any]) -> None:
    """Make the lesion list hold all marks of the baseline now, before anything is tracked; what was found stays."""
    with logic.writing():
        listNode = lesion_list.ensureLesionList(baselineNode)
        planned = lesion_list.plan(listNode, lesion_marks.marksIn(sources))
        kept = {lesion.uid for lesion in lesion_list.lesionsIn(listNode)}
        lesion_list.write(listNode, planned, [], kept)
    findings_table.update(listNode, logic.tracker.order())
    logic.tracker.follow(baselineNode, logic.tracker.order())


def addNew(logic, baselineNode, volumeNode, lineNode) -> str:
    """A lesion that the baseline does not have, drawn on a follow-up; its Tracking UID. Undoable.

    The user's line becomes the finding's; its node is replaced.
    """
    ends = node_geometry.pointsWorld(lineNode, (0, 1))
    before = Snapshot.of(baselineNode)
    with logic.writing():
        listNode = lesion_list.ensureLesionList(baselineNode)
        known = lesion_list.lesionsIn(listNode)
        label = _freeLabel([lesion.label for lesion in known])
        lesion = lesion_list.Lesion(new_tracking_uid(), f"{volumeNode.GetID()}:new:{label}", label, None)
        index = listNode.AddControlPointWorld([0.0, 0.0, 0.0], label)
        listNode.UnsetNthControlPointPosition(index)
        listNode.SetNthControlPointDescription(index, lesion.toDescription())
        name = texts.findingsListName(volumeNode.GetName())
        matched = match_list.ensureMatchList(listNode, baselineNode, volumeNode, name)
        result = match_list.PointResult(
            lesion.uid, match_list.MATCHED, confidence=1.0, reason=texts.reasonDrawn(), presence=match_list.NEW
        )
        match_list.writeMatches(matched, [label], [(result, ends.mean(axis=0))], lock=True)
        match_list.accept(matched, match_list.indexOfTemplatePoint(matched, lesion.uid))
        hierarchy.removeNode(lineNode)
        diameters.add(listNode, volumeNode, lesion.uid, label, ends, isProposal=False)
    findings_table.update(listNode, logic.tracker.order())
    logic.tracker.follow(baselineNode, logic.tracker.order())
    logic.undoStack.push(snapshotAction(logic, texts.actionAddLesion(label), before, Snapshot.of(baselineNode)))
    return lesion.uid


def _freeLabel(labels: Sequence[str]) -> str:
    n = 1
    while texts.newLesionLabel(n) in labels:
        n += 1
    return texts.newLesionLabel(n)
