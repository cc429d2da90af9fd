"""The Landmarks tab: named places of the body in any CT, without a template; judge them, and go to one in all scans."""

from __future__ import annotations

from typing import Any, List, Tuple

from SAMv2Core.errors import SAMv2Error
from SAMv2Core.landmarks.where import REGIONS, list_order, region_of
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.match import landmarks
from SAMv2SlicerLib.panel import console_lines, panel_states
from SAMv2SlicerLib.panel.match_table import MatchTable
from SAMv2SlicerLib.panel.review import Review
from SAMv2SlicerLib.panel.tab import Tab
from SAMv2SlicerLib.scene import match_list, moved_volumes, node_geometry, slice_views

FOUND, LOOK, ALL = "found", "look", "all"
SHOWN = (FOUND, LOOK, *REGIONS, ALL)
"""What the table can be confined to, in the order of its combo box."""


class LandmarksTab(Tab):
    """Binds the tab's widgets."""

    def __init__(self, ui, panel) -> None:
        super().__init__(ui, panel)
        self._offered: List[str] = []
        """Names in the combo box *Jump to*."""
        self._isOffering = False
        self.table = MatchTable(
            ui.landmarksTable, self.onRowSelected, texts.landmarkColumns(), texts.landmarkColumnTips(), needsALook
        )
        buttons = (ui.acceptLandmarkButton, ui.rejectLandmarkButton, ui.editLandmarkButton, ui.releaseLandmarkButton)
        self.review = Review(panel, self.table, buttons, (ui.nextLandmarkButton, ui.previousLandmarkButton))
        ui.regionComboBox.addItems([_shownText(shown) for shown in SHOWN])
        ui.regionComboBox.currentIndexChanged.connect(self.onFilter)
        ui.landmarksButton.clicked.connect(self.onFindButton)
        ui.jumpToComboBox.currentIndexChanged.connect(self.onJump)
        ui.landmarksTable.cellDoubleClicked.connect(self.review.onAccept)

    # --- parameters ----------------------------------------------------------------------------------------------

    def chooseDefaults(self) -> None:
        """An empty scan becomes scan A of the Match tab."""
        p = self.panel.parameters
        if p.landmarksVolume is None and p.templateVolume is not None:
            p.landmarksVolume = p.templateVolume

    def volumes(self) -> List[Any]:
        """What the model has to cope with."""
        return [self.panel.parameters.landmarksVolume]

    def warnings(self) -> List[str]:
        return []

    def parametersChanged(self) -> None:
        """Notice when landmarks are dragged."""
        for listNode, _ in landmarks.landmarkLists():
            self.logic.landmarkEdits.watch(listNode)

    # --- finding -------------------------------------------------------------------------------------------------

    def onFindButton(self, checked=False) -> None:
        """Find, or cancel while something runs."""
        if self.panel.visibleJob() is not None:
            self.panel.cancel()
            return
        p = self.panel.parameters
        self.panel.clearMessage()
        self.panel.log(texts.consoleLine(console_lines.findLandmarks(p.landmarksVolume, p.model, p.device)))
        try:
            self.job = landmarks.startLandmarks(
                self.logic, p.landmarksVolume, None, p.model, p.device, onEnd=self.onFound
            )
        except SAMv2Error as error:
            self.panel.showError(error)
        self.panel.refresh()

    def onFound(self, job) -> None:
        self.job = None
        if job.error is not None:
            self.panel.showError(job.error)
        self.panel.header.showDevice()
        self.panel.refresh()

    def onEdited(self, listNode, label: str) -> None:
        self.panel.say(texts.landmarkKept(label))

    # --- going there ---------------------------------------------------------------------------------------------

    def onRowSelected(self) -> None:
        """Bring the views of the scan to the selected landmark."""
        found = self.review.selected()
        self.review.enable()
        self._showDetails()
        if found is not None and found[1] in node_geometry.definedPointIndices(found[0]):
            volume = found[0].GetNodeReference(match_list.ROLE_QUERY)
            slice_views.jump(volume, node_geometry.pointWorld(found[0], found[1]))

    def onJump(self, index=0) -> None:
        """Bring the views of every scan that has this landmark to it."""
        n = self.ui.jumpToComboBox.currentIndex
        if self._isOffering or not 1 <= n <= len(self._offered):
            return
        name, count = self._offered[n - 1], 0
        with slice_views.drawnOnce():
            for listNode, volume in landmarks.landmarkLists():
                place = dict(landmarks.positions(listNode)).get(name)
                if place is not None and slice_views.jump(volume, place):
                    count += 1
        self.panel.say(texts.jumpedTo(name, count))

    def showViews(self) -> None:
        """Show the scan in all views that are there, at the selected landmark."""
        slice_views.show(self.panel.parameters.landmarksVolume)
        self.onRowSelected()
        self.panel.refresh()

    # --- what is shown -------------------------------------------------------------------------------------------

    def rows(self) -> List[Tuple[str, str, str, match_list.PointResult, str]]:
        """(list ID, landmark, its name in words, facts, region) of all landmarks of the scan, from head to foot."""
        listNode = landmarks.findLandmarkList(self.panel.parameters.landmarksVolume)
        if listNode is None:
            return []
        found = [match_list.resultAt(listNode, n) for n in range(listNode.GetNumberOfControlPoints())]
        names = sorted(((one.templatePoint, one) for one in found if one is not None), key=lambda it: list_order(it[0]))
        listID = listNode.GetID()
        return [(listID, name, texts.landmarkWord(name), facts, region_of(name)) for name, facts in names]

    def _shownRows(self) -> List[tuple]:
        """Those that the user wants to see, each part of the body with a heading."""
        shown: List[tuple] = []
        for row in self.rows():
            if self._isShown(row[3]):
                if not shown or shown[-1][4] != row[4]:
                    shown.append(("", "", texts.regionWord(row[4]).capitalize(), None, row[4]))
                shown.append(row)
        return shown

    def onFilter(self, index=0) -> None:
        self.panel.refresh()

    def _isShown(self, result: match_list.PointResult) -> bool:
        shown = SHOWN[max(self.ui.regionComboBox.currentIndex, 0)]
        if shown == ALL:
            return True
        if shown in REGIONS:
            return region_of(result.templatePoint) == shown
        return needsALook(result) if shown == LOOK else isThere(result)

    def _showDetails(self) -> None:
        found = self.review.selected()
        self.ui.landmarkLabel.text = texts.matchDetails(found[2]) if found is not None else texts.noLandmarkSelected()

    def facts(self) -> panel_states.Facts:
        """What the state of this tab depends on."""
        volume = self.panel.parameters.landmarksVolume
        results = [row[3] for row in self.rows()]
        listNode = landmarks.findLandmarkList(volume)
        moved = moved_volumes.movedVolume(listNode) if listNode is not None else None
        return self.commonFacts(
            template=volume.GetName() if volume is not None else None,
            placed=sum(isThere(result) for result in results),
            matched=len(results),
            needALook=sum(needsALook(result) for result in results),
            stale=self.panel.firstStale([volume]),
            moved=moved.GetName() if moved is not None else "",
            unseen=volume.GetName() if results and not slice_views.isInView(volume) else "",
        )

    def state(self) -> panel_states.PanelState:
        return panel_states.landmarksState(self.facts())

    def refresh(self, withResults: bool) -> None:
        """Show the facts in the tab's widgets; only while the tab is shown."""
        if self.panel.currentTab() is not self:
            return
        state = self.state()
        self.ui.landmarksButton.text, self.ui.landmarksButton.toolTip = state.action, state.actionTip
        self.ui.landmarksButton.enabled = state.actionEnabled
        if withResults:
            self.table.show(self._shownRows())
            self.review.enable()
            self._showDetails()
            self._offerJumps()

    def _offerJumps(self) -> None:
        """Offer every landmark that any scan has."""
        names = {name for listNode, _ in landmarks.landmarkLists() for name, _ in landmarks.positions(listNode)}
        ordered = sorted(names, key=list_order)
        if ordered == self._offered:
            return
        self._offered, self._isOffering = ordered, True
        try:
            self.ui.jumpToComboBox.clear()
            self.ui.jumpToComboBox.addItems(["", *[texts.landmarkWord(name) for name in ordered]])
        finally:
            self._isOffering = False

    def forget(self) -> None:
        super().forget()
        self.table.show([])


def needsALook(result: match_list.PointResult) -> bool:
    """What is uncertain; a landmark that the scan does not show is no question to anybody."""
    return result.status == match_list.UNCERTAIN and not result.edited


def isThere(result: match_list.PointResult) -> bool:
    """Whether the landmark has a place."""
    if result.decision in (match_list.MOVED, match_list.REJECTED):
        return result.decision == match_list.MOVED
    return result.status != match_list.NOT_FOUND


def _shownText(shown: str) -> str:
    words = {FOUND: texts.shownFound(), LOOK: texts.shownLook(), ALL: texts.shownAll()}
    return words.get(shown) or texts.shownRegion(shown)
