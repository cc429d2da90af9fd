"""The Match points tab: place points on the template, see, judge and correct their matches in the queries."""

from __future__ import annotations

from typing import Any, List, Optional, Sequence, Tuple

import qt
import slicer
import slicer.util

from SAMv2SlicerLib import texts
from SAMv2SlicerLib.match import further_templates, landmarks
from SAMv2SlicerLib.match.batch import BatchMatch
from SAMv2SlicerLib.match.follow_cursor import CursorFollower, ScrollFollower
from SAMv2SlicerLib.match.live_matching import LiveInputs
from SAMv2SlicerLib.panel import console_lines, panel_states
from SAMv2SlicerLib.panel.checked_nodes import CheckedNodes, madeVolumes
from SAMv2SlicerLib.panel.further_templates_box import FurtherTemplatesBox
from SAMv2SlicerLib.panel.match_options import MatchExtras, SegmentBox
from SAMv2SlicerLib.panel.match_table import MatchTable
from SAMv2SlicerLib.panel.review import MatchReview
from SAMv2SlicerLib.panel.tab import Tab
from SAMv2SlicerLib.scene import hierarchy, match_list, moved_volumes, node_geometry, slice_views
from SAMv2SlicerLib.scene.window_link import WindowLink
from SAMv2SlicerLib.track import lesion_list

POINTS_TABLE_HEIGHT = 76
"""Pixels: two points, so that their matches and the buttons to judge them are on the screen, too."""


class MatchTab(Tab):
    """Binds the tab's widgets."""

    def __init__(self, ui, panel) -> None:
        super().__init__(ui, panel)
        self.batch: Optional[BatchMatch] = None
        self._queryID = ""
        """Of the last query that was not the template."""
        self.follower = CursorFollower(self.logic)
        self.scroller = ScrollFollower(self.logic)
        self.follower.onError = self.scroller.onError = panel.showError
        self.windowLink = WindowLink()
        self.table = MatchTable(ui.resultsTable, self.onRowSelected)
        self.review = MatchReview(ui, panel, self.table, self.inputs)
        self.extras = MatchExtras(ui, panel, self)
        self.searchBox = SegmentBox(ui.searchSegmentComboBox, panel)
        self.templatesBox = FurtherTemplatesBox(ui, panel)
        self.furtherBox = CheckedNodes(ui.furtherQueriesSelector, ("vtkMRMLScalarVolumeNode",), self.onFurtherQueries)
        self._connect()

    def _connect(self) -> None:
        ui = self.ui
        ui.matchButton.clicked.connect(self.onMatchButton)
        ui.swapButton.clicked.connect(self.onSwap)
        ui.sideBySideButton.toggled.connect(self.onSideBySide)
        ui.followCursorButton.toggled.connect(self.onFollow)
        ui.scrollTogetherCheckBox.toggled.connect(self.onScrollTogether)
        ui.sameWindowCheckBox.toggled.connect(self.onSameWindow)
        # In some Slicers it offers other markups and hidden lists, too.
        selector = ui.pointsWidget.markupsSelectorComboBox()
        selector.nodeTypes, selector.showHidden = ["vtkMRMLMarkupsFiducialNode"], False
        selector.baseName = "F"  # as Slicer names its lists; their labels stand in the views
        ui.pointsWidget.tableWidget().maximumHeight = POINTS_TABLE_HEIGHT
        ui.pointsWidget.defaultNodeColor = qt.QColor.fromRgbF(*match_list.COLOR_POINTS)  # else new lists are black
        ui.pointsWidget.markupsNodeChanged.connect(self.onPointsSelected)
        ui.needsALookCheckBox.toggled.connect(self.onFilter)
        ui.resultsTable.cellDoubleClicked.connect(self.review.onAccept)

    # --- parameters ----------------------------------------------------------------------------------------------

    def inputs(self) -> LiveInputs:
        """The current inputs and options."""
        p = self.panel.parameters
        return LiveInputs(
            templateNode=p.templateVolume,
            queryNode=p.queryVolume,
            pointsNode=p.points,
            isMatching=p.matchWhileClicking,
            method=p.method.value,
            model=p.model,
            device=p.device,
            modalities=(p.templateModality.value, p.queryModality.value),
            lock=p.lockMatches,
            inside=self.searchBox.chosen(),
            further=self.furtherTemplates(),
        )

    def furtherTemplates(self) -> Tuple[Tuple[Any, Any], ...]:
        """(volume, point list) of the further templates that still exist."""
        p = self.panel.parameters
        return further_templates.pairs(p.furtherTemplateVolumes, p.furtherTemplatePoints)

    def queries(self) -> List[Any]:
        """The query and the further queries, each once, without the template."""
        p = self.panel.parameters
        found = []
        for node in (p.queryVolume, *self._furtherQueries()):
            if node is not None and node is not p.templateVolume and node not in found:
                found.append(node)
        return found

    def volumes(self) -> List[Any]:
        """What the model has to cope with."""
        return [self.panel.parameters.templateVolume, *(pair[0] for pair in self.furtherTemplates()), *self.queries()]

    def _furtherQueries(self) -> List[Any]:
        """The further queries that still exist: Slicer's parameter node keeps None for a removed node."""
        return [node for node in self.panel.parameters.furtherQueryVolumes if node is not None]

    def chooseDefaults(self) -> None:
        """Fill empty selections from the slice views, else from the scene."""
        p = self.panel.parameters
        candidates = slice_views.defaultVolumes()
        candidates += [n for n in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if n not in candidates]
        candidates = [node for node in candidates if node.GetClassName() == "vtkMRMLScalarVolumeNode"]
        with slicer.util.NodeModify(p.parameterNode):
            if p.templateVolume is None and candidates:
                p.templateVolume = next((n for n in candidates if n is not p.queryVolume), None)
            if p.queryVolume is None:
                p.queryVolume = next((n for n in candidates if n is not p.templateVolume), None)

    def parametersChanged(self) -> None:
        """Follow the parameter node: bind what its own connectors do not bind, and tell the live matcher."""
        p = self.panel.parameters
        self._dropOwnQuery()
        self.ui.pointsWidget.setCurrentNode(p.points)
        self._offerQueries()
        self.extras.applyOptions()
        self.logic.live.setInputs(self.inputs())
        if self.follower.isFollowing():
            self.follower.start(self.inputs())
        if self.ui.scrollTogetherCheckBox.checked:
            self.scroller.start(self.inputs())
        self.onSameWindow(self.ui.sameWindowCheckBox.checked)

    def _offerQueries(self) -> None:
        p = self.panel.parameters
        self.furtherBox.show(self._furtherQueries(), [p.templateVolume, p.queryVolume, *madeVolumes()])

    def _dropOwnQuery(self) -> None:
        """When the query is removed, Slicer's selector takes another volume, perhaps the template; that is no query."""
        p = self.panel.parameters
        if p.queryVolume is not p.templateVolume and p.queryVolume is not None:
            self._queryID = p.queryVolume.GetID()
        elif p.queryVolume is not None and slicer.mrmlScene.GetNodeByID(self._queryID) is None:
            p.queryVolume = None
            self.chooseDefaults()

    def onPointsSelected(self) -> None:
        p, node = self.panel.parameters, self.ui.pointsWidget.currentNode()
        if (
            p is not None
            and not self.panel.isImporting()
            and p.points is not node
            and not match_list.isMatchList(node)
            and not lesion_list.isLesionList(node)
        ):
            p.points = node
            if node is not None and node.GetNumberOfControlPoints() == 0:  # a new one, in which nothing can go astray
                self.ui.pointsWidget.placeActive(True)

    def onFurtherQueries(self, checked: List[Any]) -> None:
        if self.panel.parameters is not None:
            self.panel.parameters.furtherQueryVolumes = checked

    def onSwap(self, checked=False) -> None:
        p = self.panel.parameters
        with slicer.util.NodeModify(p.parameterNode):
            p.templateVolume, p.queryVolume = p.queryVolume, p.templateVolume

    # --- matching ------------------------------------------------------------------------------------------------

    def onMatchButton(self, checked=False) -> None:
        """The one action button: match, or cancel while something runs."""
        if self.panel.visibleJob() is not None:
            self.panel.cancel()
        else:
            self.onMatch()

    def onMatch(self) -> None:
        """Match all placed points in all queries."""
        state = self.state()
        if state.name == "busy" or not state.actionEnabled:
            return
        self.panel.clearMessage()
        inputs = self.inputs()
        for query in self.queries():
            arguments = (inputs.templateNode, query, inputs.pointsNode, inputs.method, inputs.model, inputs.device)
            inside = inputs.inside if query is inputs.queryNode else None
            line = console_lines.matchPoints(*arguments, inside, inputs.furtherFor(query))
            self.panel.log(texts.consoleLine(line))
        self.batch = BatchMatch(self.logic, inputs, self.queries(), self.onBatchEnd)
        self.batch.start()
        self.panel.refresh()

    def onBatchEnd(self, batch: BatchMatch) -> None:
        self.batch = None
        if batch.isCancelled():
            self.panel.say(
                texts.stateCancelled() if not batch.matchedIDs else texts.batchCancelled(len(batch.matchedIDs))
            )
        elif batch.errors:
            self.panel.showError(batch.errors[0][1])
        self.panel.header.showDevice()
        self.panel.refresh()

    def isRunning(self) -> bool:
        return self.batch is not None

    def fraction(self) -> float:
        return self.batch.fraction() if self.batch is not None else 0.0

    def cancel(self) -> None:
        if self.batch is not None:
            self.batch.cancel()

    def onMatched(self, listNode, pointIDs: Sequence[str], isLive: bool) -> None:
        """Matches were written: the query's views follow the point under the hand, else both scans go to the selected
        match, or to the last one."""
        p = self.panel.parameters
        if p is None:
            return
        if isLive:
            self.panel.clearMessage()
        if p.jumpViews and pointIDs:
            index = match_list.indexOfTemplatePoint(listNode, pointIDs[-1])
            if not isLive:
                self.jump(self.review.selected() or (listNode, index, match_list.resultAt(listNode, index)))
            elif index in node_geometry.definedPointIndices(listNode):
                queryNode = listNode.GetNodeReference(match_list.ROLE_QUERY)
                slice_views.jump(queryNode, node_geometry.pointWorld(listNode, index))
        if isLive:  # the point is in its views; the table may follow
            self.panel.refreshSoon()
        else:
            self.panel.refresh()

    def onEdited(self, listNode, label: str) -> None:
        self.panel.say(texts.stateEditedKept(label))

    # --- results -------------------------------------------------------------------------------------------------

    def _showDetails(self) -> None:
        found = self.review.selected()
        if found is None:
            self.ui.matchLabel.text = texts.noMatchSelected()
            return
        listNode, index, result = found
        lines = [texts.matchDetails(result)]
        if index in node_geometry.definedPointIndices(listNode):
            query = listNode.GetNodeReference(match_list.ROLE_QUERY)
            lines.append(landmarks.whereIs(query, node_geometry.pointWorld(listNode, index)))
        self.ui.matchLabel.text = "\n".join(line for line in lines if line)

    def onFilter(self, checked=False) -> None:
        self.panel.refresh()

    def onRowSelected(self) -> None:
        """Bring the views of both scans to the selected match."""
        found = self.review.selected()
        self.review.enable()
        self._showDetails()
        if found is not None and self.panel.parameters is not None and self.panel.parameters.jumpViews:
            self.jump(found)

    # --- views ---------------------------------------------------------------------------------------------------

    def onSideBySide(self, checked) -> None:
        if checked == self.panel.layout.isSideBySide():
            return
        if checked:
            self.showViews()
        else:
            self.panel.layout.restore()

    def showViews(self) -> None:
        """Template above query, at the selected match, else at the last point."""
        p = self.panel.parameters
        if p is None or not self.panel.layout.showSideBySide(p.templateVolume, p.queryVolume, self._onShown):
            self.ui.sideBySideButton.checked = False
            self.panel.say(texts.noViews())

    def _onShown(self) -> None:
        """The views have their scans."""
        if self.panel.parameters is not None:
            self.jump(self.review.selected() or self._lastMatch())
            self.panel.refreshSoon()

    def _lastMatch(self):
        """(matched list, index, facts) of the last point's match in the query, None without one."""
        p = self.panel.parameters
        listNode = match_list.findMatchList(p.points, p.queryVolume)
        if listNode is None or not listNode.GetNumberOfControlPoints():
            return None
        index = listNode.GetNumberOfControlPoints() - 1
        return listNode, index, match_list.resultAt(listNode, index)

    def jump(self, found) -> None:
        """Bring the views of both scans to a match; without one, those of the template to the last point."""
        p = self.panel.parameters
        if found is None:
            placed = node_geometry.definedPointIndices(p.points) if p.points is not None else ()
            if placed:
                slice_views.jump(p.templateVolume, node_geometry.pointWorld(p.points, placed[-1]))
            return
        listNode, index, result = found
        pointsNode = listNode.GetNodeReference(match_list.ROLE_POINTS)
        templateIndex = pointsNode.GetNthControlPointIndexByID(result.templatePoint) if pointsNode is not None else -1
        with slice_views.drawnOnce():
            if result is not None and templateIndex >= 0:
                template = listNode.GetNodeReference(match_list.ROLE_TEMPLATE)
                slice_views.jump(template, node_geometry.pointWorld(pointsNode, templateIndex))
            if index in node_geometry.definedPointIndices(listNode):
                query = listNode.GetNodeReference(match_list.ROLE_QUERY)
                slice_views.jump(query, node_geometry.pointWorld(listNode, index))

    def toggleFollow(self) -> None:
        self.ui.followCursorButton.checked = not self.ui.followCursorButton.checked

    def onFollow(self, checked) -> None:
        if not checked:
            self.follower.stop()
        elif self.panel.parameters is None or not self.follower.start(self.inputs()):
            self.ui.followCursorButton.checked = False
            self.panel.say(texts.followOff())
        elif self._unseen():
            self.panel.say(texts.followUnseen(self._unseen()))

    def onScrollTogether(self, checked) -> None:
        """Scrolling the template scrolls the query to the same anatomy."""
        if not checked:
            self.scroller.stop()
        elif self.panel.parameters is None or not self.scroller.start(self.inputs()):
            self.ui.scrollTogetherCheckBox.checked = False
            self.panel.say(texts.followOff())

    def onSameWindow(self, checked) -> None:
        p = self.panel.parameters
        if checked and p is not None:
            self.windowLink.start(p.templateVolume, p.queryVolume)
        else:
            self.windowLink.stop()

    def exit(self) -> None:
        """The module is left: stop what reacts to the mouse, give the layout back."""
        self.ui.scrollTogetherCheckBox.checked = self.ui.sameWindowCheckBox.checked = False
        self.ui.followCursorButton.checked = False
        self.ui.sideBySideButton.checked = False
        self.follower.stop()

    def forget(self) -> None:
        super().forget()
        self.batch = None
        self.table.show([])
        self.templatesBox.show()

    # --- what is shown -------------------------------------------------------------------------------------------

    def rows(self) -> List[Tuple[str, str, str, match_list.PointResult, str]]:
        """(matched list ID, template point ID, label, facts, query name) of all matches of the current points."""
        pointsNode = self.panel.parameters.points
        found = []
        for listNode in match_list.matchLists(pointsNode) if pointsNode is not None else ():
            query = listNode.GetNodeReference(match_list.ROLE_QUERY)
            for n in range(listNode.GetNumberOfControlPoints()):
                result = match_list.resultAt(listNode, n)
                if result is not None:
                    label = listNode.GetNthControlPointLabel(n)
                    found.append(
                        (listNode.GetID(), result.templatePoint, label, result, query.GetName() if query else "")
                    )
        return found

    def facts(self) -> panel_states.Facts:
        """What the state of this tab depends on."""
        inputs, queries, job = self.inputs(), self.queries(), self.panel.visibleJob()
        rows = self.rows()
        nodes = [inputs.templateNode, *(volume for volume, _ in inputs.further), *queries]
        missing = [node for node in nodes if node is not None and not self.logic.hasEmbedding(node, inputs.model)]
        points = inputs.pointsNode
        return self.commonFacts(
            template=inputs.templateNode.GetName() if inputs.templateNode is not None else None,
            query=inputs.queryNode.GetName() if inputs.queryNode is not None else None,
            sameVolume=inputs.templateNode is not None and inputs.templateNode is inputs.queryNode,
            points=points.GetName() if points is not None else None,
            placed=len(node_geometry.definedPointIndices(points)) if points is not None else 0,
            isEmbedded=not missing,
            secondsToEmbed=self.logic.secondsToEmbed(missing, inputs.device),
            progressText=self._progressText(job),
            needALook=sum(result.needsALook for _, _, _, result, _ in rows),
            matched=len(rows),
            patientMismatch=self.panel.unacceptedMismatch(inputs.templateNode, queries),
            stale=self.panel.firstStale(nodes),
            moved=self._movedName(),
            unseen=self._unseen() if rows else "",
        )

    def warnings(self) -> List[str]:
        """What the user accepts with Continue."""
        inputs = self.inputs()
        return [hierarchy.patientMismatch(inputs.templateNode, query) for query in self.queries()]

    def _unseen(self) -> str:
        """Name of the template or the query, whichever no view shows; empty when both can be seen."""
        p = self.panel.parameters
        nodes = [node for node in (p.templateVolume, p.queryVolume) if node is not None]
        return next((node.GetName() for node in nodes if not slice_views.isInView(node)), "")

    def hold(self, isHeld: bool) -> None:
        self.furtherBox.hold(isHeld)

    def _movedName(self) -> str:
        """Name of a scan that was moved since its matches were found."""
        pointsNode = self.panel.parameters.points
        lists = match_list.matchLists(pointsNode) if pointsNode is not None else ()
        moved = (moved_volumes.movedVolume(node) for node in lists)
        return next((node.GetName() for node in moved if node is not None), "")

    def _progressText(self, job) -> str:
        if job is None:
            return ""
        return self.batch.text() if self.batch is not None else job.text

    def state(self) -> panel_states.PanelState:
        return panel_states.matchState(self.facts())

    def refresh(self, withResults: bool) -> None:
        """Show the facts in the tab's widgets."""
        state = self.state()
        self.ui.matchButton.text, self.ui.matchButton.toolTip = state.action, state.actionTip
        self.ui.matchButton.enabled = state.actionEnabled
        if withResults:
            rows = self.rows()
            if self.ui.needsALookCheckBox.checked:
                rows = [row for row in rows if row[3].needsALook]
            self.table.show(rows)
            self.review.enable()
            self._showDetails()
            self.searchBox.show()
            self._offerQueries()
            self.templatesBox.show()
            kinds = [self.logic.modalityOf(node) for node in self.volumes() if node is not None]
            self.extras.threshold.show([kind for kind in kinds if kind])
