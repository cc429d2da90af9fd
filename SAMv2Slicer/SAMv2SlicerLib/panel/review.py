"""Judging matches one by one: accept, reject, correct, match again, and look at the similarity behind one."""

from __future__ import annotations

from typing import Any, Callable, Optional, Tuple

import slicer

from SAMv2Core.errors import SAMv2Error
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.match import similarity_map
from SAMv2SlicerLib.match.live_matching import LiveInputs
from SAMv2SlicerLib.match.match_job import listAction
from SAMv2SlicerLib.panel.match_table import MatchTable
from SAMv2SlicerLib.scene import match_list, node_geometry, slice_views


class Review:
    """Binds the buttons below the table of matches; they act on its selected row.

    :param panel: see panel.py.
    :param inputs: gives the tab's current inputs and options.
    """

    def __init__(self, ui, panel, table: MatchTable, inputs: Callable[[], LiveInputs]) -> None:
        self.ui, self.panel = ui, panel
        self.logic = panel.logic
        self._table, self._inputs = table, inputs
        ui.acceptButton.clicked.connect(self.onAccept)
        ui.rejectButton.clicked.connect(self.onReject)
        ui.editButton.clicked.connect(self.onEdit)
        ui.releaseButton.clicked.connect(self.onRelease)
        ui.similarityMapButton.clicked.connect(self.onSimilarityMap)

    def selectNext(self) -> None:
        """Select the next match that needs a look."""
        self._table.selectNeedingALook(1)

    def selectPrevious(self) -> None:
        self._table.selectNeedingALook(-1)

    def selected(self) -> Optional[Tuple[Any, int, match_list.PointResult]]:
        """(matched list, index, facts) of the selected row, None when there is none (any more)."""
        key = self._table.selectedKey()
        listNode = slicer.mrmlScene.GetNodeByID(key[0]) if key is not None else None
        if listNode is None:
            return None
        index = match_list.indexOfTemplatePoint(listNode, key[1])
        return (listNode, index, match_list.resultAt(listNode, index)) if index >= 0 else None

    def enable(self, enabled: bool) -> None:
        """Enable or disable the buttons that act on the selected match."""
        for button in (self.ui.acceptButton, self.ui.rejectButton, self.ui.editButton, self.ui.releaseButton):
            button.enabled = enabled
        self.ui.similarityMapButton.enabled = enabled

    def onAccept(self, checked=False) -> None:
        self._review(match_list.accept)

    def onReject(self, checked=False) -> None:
        self._review(match_list.reject)

    def onRelease(self, checked=False) -> None:
        """Forget an edit and match that point again."""
        found = self.selected()
        self._review(match_list.release)
        if found is None:
            return
        listNode, _, result = found
        query = listNode.GetNodeReference(match_list.ROLE_QUERY)
        inputs = self._inputs()
        try:
            self.logic.startMatch(
                inputs.templateNode,
                query,
                inputs.pointsNode,
                [result.templatePoint],
                inputs.method,
                inputs.model,
                inputs.device,
                inputs.modalities,
                inputs.lock,
                onEnd=lambda job: self.panel.showError(job.error) if job.error is not None else None,
                inside=inputs.inside if query is inputs.queryNode else None,
            )
        except SAMv2Error as error:
            self.panel.showError(error)

    def onEdit(self, checked=False) -> None:
        """Unlock the selected match for dragging; one without a position is placed with the next click."""
        found = self.selected()
        if found is None:
            return
        listNode, index, _ = found
        listNode.SetLocked(False)
        listNode.SetNthControlPointLocked(index, False)
        if index not in node_geometry.definedPointIndices(listNode):
            slice_views.startPlacing(listNode, index)
        self.panel.say(texts.editHint(listNode.GetNthControlPointLabel(index)))

    def _review(self, change) -> None:
        """Apply a judgment to the selected match, undoably."""
        found = self.selected()
        if found is None:
            return
        listNode, index, _ = found
        before, label = match_list.captureList(listNode), listNode.GetNthControlPointLabel(index)
        with self.logic.writing():
            change(listNode, index)
        self.logic.undoStack.push(listAction(self.logic, listNode, before, texts.actionReview(label)))
        self.panel.clearMessage()
        self.panel.refresh()

    def onSimilarityMap(self, checked=False) -> None:
        found = self.selected()
        if found is None:
            return
        listNode, _, result = found
        try:
            similarity_map.startSimilarityMap(
                self.logic,
                listNode.GetNodeReference(match_list.ROLE_TEMPLATE),
                listNode.GetNodeReference(match_list.ROLE_QUERY),
                listNode.GetNodeReference(match_list.ROLE_POINTS),
                result.templatePoint,
                self.panel.parameters.model,
                self.panel.parameters.device,
                self._inputs().modalities,
                onEnd=self._onSimilarityMap,
            )
        except SAMv2Error as error:
            self.panel.showError(error)

    def _onSimilarityMap(self, job) -> None:
        if job.error is not None:
            self.panel.showError(job.error)
        else:
            slice_views.overlay(job.value, self.panel.parameters.queryVolume if self.panel.parameters else None)
