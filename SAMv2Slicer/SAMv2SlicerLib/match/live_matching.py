"""Matching while the user clicks and drags, and noticing when the user corrects a match.

MRML events say little that is reliable in bulk edits (indices are lost when events are compressed), so every event
only leads to a comparison of the lists with what they were: a template point at a new place is matched again, a
matched point at a new place that the module did not write was moved by the user. One match is in flight at a time and
the latest positions win, so dragging never queues up work and never blocks.

A moved point is matched twice: at once by its nearest neighbor near where the whole bodies' matches expect it, so that
the match follows the hand, and by the chosen method (longer, with the fixed-point method) as soon as nothing moves any
more. Whoever chose the nearest neighbor itself gets the nearest of the whole body at once.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

import numpy as np
import slicer
from slicer.util import VTKObservationMixin

from SAMv2Core.errors import SAMv2Error
from SAMv2SlicerLib.match.corrections import CorrectionWatcher
from SAMv2SlicerLib.match.match_job import MOVED_MM
from SAMv2SlicerLib.scene import match_list, node_geometry
from SAMv2SlicerLib.work.worker import Job

logger = logging.getLogger(__name__)

QUICK_METHOD = "nearest"

_TEMPLATE_EVENTS = (
    slicer.vtkMRMLMarkupsNode.PointPositionDefinedEvent,
    slicer.vtkMRMLMarkupsNode.PointModifiedEvent,
    slicer.vtkMRMLMarkupsNode.PointRemovedEvent,
    slicer.vtkMRMLTransformableNode.TransformModifiedEvent,
)


@dataclass(frozen=True)
class LiveInputs:
    """What is matched to what; nodes may be None."""

    templateNode: Any = None
    queryNode: Any = None
    pointsNode: Any = None
    isMatching: bool = True
    method: str = "fixed-point"
    model: str = "auto"
    device: str = "auto"
    modalities: Tuple[str, str] = ("auto", "auto")
    lock: bool = True
    inside: Optional[Tuple[Any, str]] = None
    """(segmentation node, segment ID) of the query to look in, None for everywhere."""
    further: Tuple[Tuple[Any, Any], ...] = ()
    """(volume node, point list) of further templates; see further_templates.py."""

    def furtherFor(self, queryNode) -> List[Tuple[Any, Any]]:
        """The further templates for a query: a scan is not looked for in itself."""
        return [pair for pair in self.further if pair[0] is not queryNode and pair[0] is not self.templateNode]

    def isComplete(self) -> bool:
        return (
            self.templateNode is not None
            and self.queryNode is not None
            and self.pointsNode is not None
            and self.templateNode is not self.queryNode
        )


class LiveMatcher(VTKObservationMixin):
    """Keeps the matches of the current inputs up to date; belongs to a logic, idle until it is given inputs.

    :ivar onError: called with each error of a live match.
    :ivar corrections: watches the matched lists of the current points.
    :ivar onChanged: called after each change of the template's points, and after the module wrote matches.
    """

    def __init__(self, logic) -> None:
        VTKObservationMixin.__init__(self)
        self._logic = logic
        self.onError: Optional[Callable[[BaseException], None]] = None
        self.corrections = CorrectionWatcher(logic)
        self.onChanged: Optional[Callable[[], None]] = None
        self._inputs = LiveInputs()
        self._seen: Dict[str, np.ndarray] = {}
        """Template point ID -> world position that was matched, or that was there before live matching began."""
        self._job: Optional[Job] = None
        self._isRefining = False
        self._toRefine: Set[str] = set()
        """IDs of the points whose match is only the quick one so far."""

    # --- inputs --------------------------------------------------------------------------------------------------

    def setInputs(self, inputs: LiveInputs) -> None:
        """Follow other nodes or options. Points that are already there are left to the batch button."""
        previous, self._inputs = self._inputs, inputs
        if (previous.pointsNode, previous.templateNode, previous.queryNode) == (
            inputs.pointsNode,
            inputs.templateNode,
            inputs.queryNode,
        ):
            return
        self.removeObservers()
        self.corrections.clear()
        self._seen = self._positions()
        if inputs.pointsNode is not None:
            for event in _TEMPLATE_EVENTS:
                self.addObserver(inputs.pointsNode, event, self._onTemplateChanged)
            started = slicer.vtkMRMLMarkupsNode.PointStartInteractionEvent
            self.addObserver(inputs.pointsNode, started, self._onDragStarted)
            for listNode in match_list.matchLists(inputs.pointsNode):
                self.corrections.watch(listNode)

    def stop(self) -> None:
        """Follow nothing (module left, scene closed). A match in flight is cancelled."""
        if self._job is not None:
            self._job.cancel()
        self.removeObservers()
        self._inputs = LiveInputs()
        self._seen.clear()
        self.corrections.clear()
        self._toRefine.clear()
        self._job = None

    def noteOwnWrites(self) -> None:
        """The module wrote into matched lists: what they hold now is not an edit by the user."""
        node = self._inputs.pointsNode
        if node is None or node.GetScene() is None:
            return
        for listNode in match_list.matchLists(node):
            self.corrections.noteWrite(listNode)
        if self.onChanged is not None:
            self.onChanged()

    def isMatching(self) -> bool:
        """Whether a live match is in flight."""
        return self._job is not None

    # --- template points -----------------------------------------------------------------------------------------

    def _positions(self) -> Dict[str, np.ndarray]:
        node = self._inputs.pointsNode
        if node is None or node.GetScene() is None:
            return {}
        return {
            node.GetNthControlPointID(n): node_geometry.pointWorld(node, n)
            for n in node_geometry.definedPointIndices(node)
        }

    def _moved(self) -> List[str]:
        """IDs of the template points that are not where they were matched."""
        return [
            pointID
            for pointID, position in self._positions().items()
            if pointID not in self._seen or np.linalg.norm(position - self._seen[pointID]) > MOVED_MM
        ]

    def forgetMoves(self) -> None:
        """Take the points to be where they belong: a scene was loaded, and nobody has moved anything."""
        self._seen = self._positions()
        self._toRefine.clear()

    def _onTemplateChanged(self, caller=None, event=None) -> None:
        if slicer.mrmlScene.IsImporting():
            return
        self._removeMatchesOfRemovedPoints()
        self._followLabels()
        self.flush()
        if self.onChanged is not None:
            self.onChanged()

    def _onDragStarted(self, caller=None, event=None) -> None:
        """Each drag is one step of undo."""
        self._logic.undoStack.closeKey()

    def _removeMatchesOfRemovedPoints(self) -> None:
        node = self._inputs.pointsNode
        present = {node.GetNthControlPointID(n) for n in range(node.GetNumberOfControlPoints())}
        removed = [pointID for pointID in self._seen if pointID not in present]
        for pointID in removed:
            del self._seen[pointID]
            for listNode in match_list.matchLists(node):
                with self._logic.writing():
                    match_list.removeMatch(listNode, pointID)

    def _followLabels(self) -> None:
        node = self._inputs.pointsNode
        count = node.GetNumberOfControlPoints()
        labels = {node.GetNthControlPointID(n): node.GetNthControlPointLabel(n) for n in range(count)}
        for listNode in match_list.matchLists(node):
            for n in range(listNode.GetNumberOfControlPoints()):
                result = match_list.resultAt(listNode, n)
                label = labels.get(result.templatePoint) if result is not None else None
                if label is not None and label != listNode.GetNthControlPointLabel(n):
                    with self._logic.writing():
                        listNode.SetNthControlPointLabel(n, label)

    def flush(self) -> None:
        """Match what moved; refine what came to rest. While a match is in flight, its end calls this again."""
        if not self._inputs.isMatching or not self._inputs.isComplete():
            return
        moved = self._moved()
        if self._job is not None:
            if moved and self._isRefining:
                self._job.cancel()  # the quick match of the new place comes first
            return
        if moved:
            positions = self._positions()
            self._seen.update({pointID: positions[pointID] for pointID in moved})
            self._start(moved, QUICK_METHOD)
            self._toRefine.update(moved if self._inputs.method != QUICK_METHOD else ())
        elif self._toRefine:
            self._start(sorted(self._toRefine), self._inputs.method)

    def _start(self, pointIDs: List[str], method: str) -> None:
        inputs = self._inputs
        self._isRefining = method != QUICK_METHOD
        try:
            self._job = self._logic.startMatch(
                inputs.templateNode,
                inputs.queryNode,
                inputs.pointsNode,
                pointIDs,
                method,
                inputs.model,
                inputs.device,
                inputs.modalities,
                lock=inputs.lock,
                live=True,
                onEnd=self._onEnd,
                inside=inputs.inside,
                further=inputs.furtherFor(inputs.queryNode) if method == inputs.method else (),
                expect=None if method == inputs.method else True,
            )
        except SAMv2Error as error:
            self._toRefine.clear()
            self._report(error)

    def _onEnd(self, job: Job) -> None:
        if job is not self._job:  # stopped in the meantime
            return
        self._job = None
        if job.isCancelled() and self._isRefining and self._moved():
            self.flush()
            return
        if job.error is not None or self._isRefining:
            self._toRefine.clear()
        if job.error is not None:
            self._report(job.error)
        else:
            self.flush()

    def _report(self, error: BaseException) -> None:
        if self.onError is not None:
            self.onError(error)
