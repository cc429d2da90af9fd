"""Judging findings one by one: accept, reject, correct, measure; the decision stays beside the proposal."""

from __future__ import annotations

from typing import Any, Callable, Optional, Tuple

import slicer

from SAMv2SlicerLib import texts
from SAMv2SlicerLib.match.match_job import listAction
from SAMv2SlicerLib.panel.lesion_matrix import LesionMatrix
from SAMv2SlicerLib.scene import match_list, node_geometry, slice_views
from SAMv2SlicerLib.track import measuring
from SAMv2SlicerLib.track.findings import Finding


class FindingReview:
    """Binds the buttons below the matrix; they act on its current cell.

    :param panel: see panel.py.
    """

    def __init__(self, ui, panel, matrix: LesionMatrix) -> None:
        self.ui, self.panel = ui, panel
        self.logic = panel.logic
        self._matrix = matrix
        ui.acceptFindingButton.clicked.connect(self.onAccept)
        ui.rejectFindingButton.clicked.connect(self.onReject)
        ui.editFindingButton.clicked.connect(self.onEdit)
        ui.releaseFindingButton.clicked.connect(self.onRelease)
        ui.measureButton.clicked.connect(self.onMeasure)

    def selectNext(self) -> None:
        """Go to the next finding that needs a look."""
        self._matrix.selectNeedingALook(1)

    def selectPrevious(self) -> None:
        self._matrix.selectNeedingALook(-1)

    def selected(self) -> Optional[Tuple[Any, int, Finding]]:
        """(findings list, index, finding) of the current cell; None in the baseline or when it is gone."""
        finding = self._matrix.selected()
        listNode = slicer.mrmlScene.GetNodeByID(finding.listID) if finding is not None and finding.listID else None
        if listNode is None or finding.result is None:
            return None
        index = match_list.indexOfTemplatePoint(listNode, finding.uid)
        return (listNode, index, finding) if index >= 0 else None

    def enable(self) -> None:
        """Enable the buttons that make sense for the current cell."""
        found = self.selected()
        for button in (self.ui.acceptFindingButton, self.ui.rejectFindingButton, self.ui.editFindingButton):
            button.enabled = found is not None
        self.ui.releaseFindingButton.enabled = found is not None and bool(found[2].decision)
        self.ui.measureButton.enabled = found is not None and found[2].world is not None

    def onAccept(self, checked=False) -> None:
        self._review(match_list.accept)

    def onReject(self, checked=False) -> None:
        self._review(match_list.reject)

    def onRelease(self, checked=False) -> None:
        self._review(match_list.release)

    def onEdit(self, checked=False) -> None:
        """Unlock the finding for dragging; one without a position is placed with the next click."""
        found = self.selected()
        if found is None:
            return
        listNode, index, finding = found
        listNode.SetLocked(False)
        listNode.SetNthControlPointLocked(index, False)
        if index not in node_geometry.definedPointIndices(listNode):
            slice_views.startPlacing(listNode, index)
        self.panel.say(texts.editHint(finding.label))

    def onMeasure(self, checked=False) -> None:
        """Put a line over the finding; its length is the size from then on."""
        found = self.selected()
        if found is None or found[2].world is None:
            return
        measuring.measure(self.logic, found[2])
        self.panel.say(texts.measureHint(found[2].label))

    def _review(self, change: Callable[[Any, int], None]) -> None:
        """Apply a judgment to the current finding, undoably."""
        found = self.selected()
        if found is None:
            return
        listNode, index, finding = found
        before = match_list.captureList(listNode)
        with self.logic.writing():
            change(listNode, index)
        self.logic.undoStack.push(listAction(self.logic, listNode, before, texts.actionReview(finding.label)))
        self.panel.clearMessage()
        self.panel.refresh()
