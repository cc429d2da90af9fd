"""Judging results one by one: accept, reject, correct, take back; the decision stays beside the proposal."""

from __future__ import annotations

from typing import Any, Callable, Optional, Sequence, Tuple

import slicer

from SAMv2Core.errors import SAMv2Error
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.match import similarity_map
from SAMv2SlicerLib.match.live_matching import LiveInputs
from SAMv2SlicerLib.match.match_job import listAction
from SAMv2SlicerLib.panel.lesion_matrix import LesionMatrix
from SAMv2SlicerLib.panel.match_table import MatchTable
from SAMv2SlicerLib.scene import match_list, node_geometry, slice_views
from SAMv2SlicerLib.track import measuring

Selected = Tuple[Any, int, match_list.PointResult]
"""(matched list, index of the match in it, what is known about it)."""


class Review:
    """Buttons that act on the selected result of a tab, and what they do.

    :param panel: see panel.py.
    :param table: shows the results; knows which is selected and which need a look.
    :param buttons: accept, reject, edit, release.
    :param steps: buttons to the next and the previous result that needs a look.
    """

    def __init__(self, panel, table, buttons: Sequence[Any], steps: Sequence[Any]) -> None:
        self.panel, self.logic = panel, panel.logic
        self._table, self._buttons = table, buttons
        steps[0].clicked.connect(self.onNext)
        steps[1].clicked.connect(self.onPrevious)
        for button, action in zip(buttons, (self.onAccept, self.onReject, self.onEdit, self.onRelease)):
            button.clicked.connect(action)

    def selected(self) -> Optional[Selected]:
        """The selected result, None when there is none (any more)."""
        key = self._table.selectedKey()
        listNode = slicer.mrmlScene.GetNodeByID(key[0]) if key is not None else None
        if listNode is None:
            return None
        index = match_list.indexOfTemplatePoint(listNode, key[1])
        return (listNode, index, match_list.resultAt(listNode, index)) if index >= 0 else None

    def selectNext(self) -> None:
        """Select the next result that needs a look."""
        self._table.selectNeedingALook(1)

    def selectPrevious(self) -> None:
        self._table.selectNeedingALook(-1)

    def onNext(self, checked=False) -> None:
        self.selectNext()

    def onPrevious(self, checked=False) -> None:
        self.selectPrevious()

    def enable(self) -> None:
        """Enable the buttons that make sense for the selected result."""
        for button in self._buttons:
            button.enabled = self.selected() is not None

    def onAccept(self, checked=False) -> None:
        """Keep the selected result, and go on to the next that needs a look."""
        self._judge(match_list.accept)
        self.selectNext()

    def onReject(self, checked=False) -> None:
        self._judge(match_list.reject)
        self.selectNext()

    def onRelease(self, checked=False) -> None:
        self._judge(match_list.release)

    def onEdit(self, checked=False) -> None:
        """Unlock the selected result for dragging; one without a position is placed with the next click."""
        found = self.selected()
        if found is None:
            return
        listNode, index, _ = found
        listNode.SetLocked(False)
        listNode.SetNthControlPointLocked(index, False)
        if index not in node_geometry.definedPointIndices(listNode):
            slice_views.startPlacing(listNode, index)
        self.panel.say(texts.editHint(listNode.GetNthControlPointLabel(index)))

    def _judge(self, change: Callable[[Any, int], None]) -> None:
        """Apply a judgment to the selected result, undoably."""
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


class MatchReview(Review):
    """Of the matches: *release* matches again, and the similarity behind a match can be seen.

    :param inputs: gives the tab's current inputs and options.
    """

    def __init__(self, ui, panel, table: MatchTable, inputs: Callable[[], LiveInputs]) -> None:
        buttons = (ui.acceptButton, ui.rejectButton, ui.editButton, ui.releaseButton)
        super().__init__(panel, table, buttons, (ui.nextButton, ui.previousButton))
        self._inputs, self._mapButton = inputs, ui.similarityMapButton
        self._mapButton.clicked.connect(self.onSimilarityMap)

    def enable(self) -> None:
        super().enable()
        self._mapButton.enabled = self.selected() is not None

    def onRelease(self, checked=False) -> None:
        """Forget an edit and match that point again."""
        found = self.selected()
        super().onRelease()
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


class FindingReview(Review):
    """Of the findings of lesions, with a button to measure one."""

    def __init__(self, ui, panel, matrix: LesionMatrix) -> None:
        buttons = (ui.acceptFindingButton, ui.rejectFindingButton, ui.editFindingButton, ui.releaseFindingButton)
        super().__init__(panel, matrix, buttons, (ui.nextFindingButton, ui.previousFindingButton))
        self._releaseButton, self._measureButton = ui.releaseFindingButton, ui.measureButton
        self._measureButton.clicked.connect(self.onMeasure)

    def selected(self) -> Optional[Selected]:
        """None in the baseline, too, where nothing was searched."""
        finding = self._table.selected()
        listNode = slicer.mrmlScene.GetNodeByID(finding.listID) if finding is not None and finding.listID else None
        if listNode is None or finding.result is None:
            return None
        index = match_list.indexOfTemplatePoint(listNode, finding.uid)
        return (listNode, index, finding.result) if index >= 0 else None

    def enable(self) -> None:
        super().enable()
        found = self.selected()
        self._releaseButton.enabled = found is not None and found[2].edited
        self._measureButton.enabled = found is not None and self._table.selected().world is not None

    def onMeasure(self, checked=False) -> None:
        """Put a line over the finding; its length is the size from then on."""
        finding = self._table.selected()
        if self.selected() is not None and finding.world is not None:
            measuring.measure(self.logic, finding)
            self.panel.say(texts.measureHint(finding.label))
