"""Noticing when the user corrects a match: a watched point at a new place that the module did not write.

MRML's events lose indices when they are compressed, so every event only leads to a comparison of a list with what it
was. Each correction is marked beside its proposal (match_list.py) and becomes one step of undo.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional

import numpy as np
import slicer
from slicer.util import VTKObservationMixin

from SAMv2SlicerLib import texts
from SAMv2SlicerLib.match.match_job import MOVED_MM, listAction
from SAMv2SlicerLib.scene import match_list, node_geometry, rings

_EVENTS = (
    slicer.vtkMRMLMarkupsNode.PointPositionDefinedEvent,
    slicer.vtkMRMLMarkupsNode.PointModifiedEvent,
)


class CorrectionWatcher(VTKObservationMixin):
    """Watches matched lists for edits by the user.

    :ivar onEdited: called with (matched list, label) when the user moved or placed a match.
    """

    def __init__(self, logic) -> None:
        VTKObservationMixin.__init__(self)
        self._logic = logic
        self.onEdited: Optional[Callable[[Any, str], None]] = None
        self._written: Dict[str, List[Dict[str, Any]]] = {}
        """Matched list ID -> its points after the last write by the module."""

    def watch(self, listNode) -> None:
        """Watch a list from now on; what was moved while nobody watched is noticed, too."""
        if listNode.GetID() not in self._written:
            self._noteEarlierEdits(listNode)
        self._written.setdefault(listNode.GetID(), match_list.captureList(listNode))
        for event in _EVENTS:
            if not self.hasObserver(listNode, event, self._onPointMoved):
                self.addObserver(listNode, event, self._onPointMoved)
        shown = slicer.vtkMRMLDisplayableNode.DisplayModifiedEvent
        if not self.hasObserver(listNode, shown, self._onShown):
            self.addObserver(listNode, shown, self._onShown)
        rings.show(listNode, match_list.needingALook(listNode))

    def _noteEarlierEdits(self, listNode) -> None:
        """Mark undecided matches that are not where they were proposed: moved in another module, or by a script."""
        moved = [n for n in node_geometry.definedPointIndices(listNode) if _isElsewhere(listNode, n)]
        if moved and not self._logic.isWriting():
            with self._logic.writing():
                for n in moved:
                    match_list.markMoved(listNode, n)

    def noteWrite(self, listNode) -> None:
        """The module wrote into a list: what it holds now is not an edit by the user."""
        self._written[listNode.GetID()] = match_list.captureList(listNode)
        self.watch(listNode)

    def noteOwnWrites(self) -> None:
        """The module wrote into the lists being watched."""
        for node in self.watched():
            self.noteWrite(node)

    def watched(self) -> List[Any]:
        """The lists being watched that still are in the scene."""
        nodes = (slicer.mrmlScene.GetNodeByID(nodeID) for nodeID in self._written)
        return [node for node in nodes if node is not None]

    def clear(self) -> None:
        """Watch nothing."""
        self.removeObservers()
        self._written.clear()

    def _onShown(self, listNode, event=None) -> None:
        rings.follow(listNode)

    def _onPointMoved(self, listNode, event=None) -> None:
        """Mark the matches that the user moved or placed."""
        if self._logic.isWriting():
            return
        before = self._written.get(listNode.GetID())
        if before is None or listNode.GetNumberOfControlPoints() != len(before):
            self._written[listNode.GetID()] = match_list.captureList(listNode)
            return
        defined = set(node_geometry.definedPointIndices(listNode))
        for n, point in enumerate(before):
            if n in defined and _differs(point["position"], node_geometry.pointWorld(listNode, n)):
                self._noteEdit(listNode, n, before)

    def _noteEdit(self, listNode, index: int, before: List[Dict[str, Any]]) -> None:
        label = listNode.GetNthControlPointLabel(index)
        with self._logic.writing():
            match_list.markMoved(listNode, index)
        key = f"edit:{listNode.GetID()}:{label}"
        self._logic.undoStack.push(listAction(self._logic, listNode, before, texts.actionCorrect(label), key))
        if self.onEdited is not None:
            self.onEdited(listNode, label)


def _differs(before: Optional[np.ndarray], now: np.ndarray) -> bool:
    return before is None or np.linalg.norm(before - now) > MOVED_MM


def _isElsewhere(listNode, index: int) -> bool:
    """Whether a match without a decision has another place than its proposal."""
    result = match_list.resultAt(listNode, index)
    if result is None or result.decision:
        return False
    if result.proposed is None:  # lists of before proposals were kept have none for matches that were found, either
        return result.status == match_list.NOT_FOUND
    proposed = node_geometry.flipRASAndLPS(np.array(result.proposed))
    return float(np.linalg.norm(node_geometry.pointWorld(listNode, index) - proposed)) > 10 * MOVED_MM
