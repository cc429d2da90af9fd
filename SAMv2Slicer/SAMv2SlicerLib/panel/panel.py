"""The panel: what the header, the tabs and the footer have in common.

It owns the timer that hands results of the worker to the scene, the status line, progress and cancel, undo and the log,
and asks the tabs to show the current facts. All state that is worth keeping is in the parameter node (parameters.py) or
in result nodes (match_list.py); the panel can be thrown away and rebuilt at any time.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Callable, List, Optional, Set

import qt
import slicer
import slicer.util
import vtk
from slicer.util import VTKObservationMixin

from SAMv2Core.errors import Cancelled, SAMv2Error
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.panel.compute_section import ComputeSection
from SAMv2SlicerLib.panel.footer import Footer
from SAMv2SlicerLib.panel.gui_binding import GuiBinding
from SAMv2SlicerLib.panel.header import Header
from SAMv2SlicerLib.panel.landmarks_tab import LandmarksTab
from SAMv2SlicerLib.panel.match_tab import MatchTab
from SAMv2SlicerLib.panel.panel_states import OFFER_CONTINUE, OFFER_SHOW, OFFER_VIEWS, PanelState
from SAMv2SlicerLib.panel.parameters import SAMv2SlicerParameterNode
from SAMv2SlicerLib.panel.place_hint import PlaceHint
from SAMv2SlicerLib.panel.register_tab import RegisterTab
from SAMv2SlicerLib.panel.saving import Saving
from SAMv2SlicerLib.panel.shortcuts import Shortcuts
from SAMv2SlicerLib.panel.tab import Tab
from SAMv2SlicerLib.panel.track_tab import TrackTab
from SAMv2SlicerLib.scene import hierarchy, slice_views
from SAMv2SlicerLib.scene.layouts import LayoutSwitch
from SAMv2SlicerLib.scene.line_labels import LineLabels
from SAMv2SlicerLib.scene.own_views import OwnViews, scanOf
from SAMv2SlicerLib.scene.undo import InTurns
from SAMv2SlicerLib.setup import install
from SAMv2SlicerLib.track import studies
from SAMv2SlicerLib.work import embedding_store, engine

logger = logging.getLogger(__name__)

TIMER_MS = 15
GRANT_QUICK_SECONDS, GRANT_SECONDS = 0.050, 0.010
"""Time per timer event that the worker may hold Python's lock for sure, see worker.py: Slicer's event loop keeps it
otherwise, and each of a computation's many steps waits for it. What answers a hand on the mouse gets all the time that
it needs, since nobody notices 50 ms of a window that stands still, but everybody a match that comes late; with 4 ms, 32
of 79 places of a moving cursor were answered in Slicer 5.8, with 50 ms all of them. The window stays alive meanwhile in
longer computations."""

SETTLED_MS = 6000
"""After a cancellation everything has stopped, or will not."""

REFRESH_MS = 40
"""Events of a drag are gathered this long before the panel is redrawn."""

SHOW_PROGRESS_SECONDS = 0.5
"""No more often: with whatever changes in the panel Slicer draws its whole window anew."""

SHOW_LIVE_AFTER_SECONDS = 0.3
"""Live matches faster than this do not flicker through the status line."""


class Panel(VTKObservationMixin):
    """Header, tabs and footer on one set of widgets.

    :param ui: the child widgets of the .ui file by name.
    :param logic: the module's logic.
    :param root: the top widget, parent of the keyboard shortcuts.
    """

    def __init__(self, ui, logic, root) -> None:
        VTKObservationMixin.__init__(self)
        self.ui, self.logic = ui, logic
        self.parameters: Optional[SAMv2SlicerParameterNode] = None
        self._binding = GuiBinding(ui)
        self._message = self._logged = ""
        self._shown = self._asked = 0.0
        self._isRefreshing = self._isImporting = self._isSceneNew = False
        self.layout = LayoutSwitch(self.onLayoutChanged, studies.dateOf, lambda: self.trackTab.studiesView.moving())
        self.ownViews = OwnViews(self._usersLists)
        self.lineLabels = LineLabels(lambda: self.trackTab.lines())
        self.saving = Saving(self.ownViews, self.lineLabels, self.layout)
        self.placeHint = PlaceHint(self)
        self.timer = qt.QTimer()
        self.timer.interval = TIMER_MS
        self.timer.timeout.connect(self.onTimer)
        self.refreshTimer = qt.QTimer()
        self.refreshTimer.interval = REFRESH_MS
        self.refreshTimer.timeout.connect(self.onRefreshTimer)
        self._accepted: Set[str] = set()
        """Warnings about other patients that the user has seen and accepted in this scene."""
        self._offer = ""
        self.header = Header(ui, self)
        self.footer = Footer(ui, self)
        self.compute = ComputeSection(ui, self)
        self.matchTab = MatchTab(ui, self)
        self.trackTab = TrackTab(ui, self)
        self.registerTab = RegisterTab(ui, self)
        self.landmarksTab = LandmarksTab(ui, self)
        self.tabs: List[Tab] = [self.matchTab, self.trackTab, self.registerTab, self.landmarksTab]
        self.shortcuts = Shortcuts(root, self)
        ui.undoButton.clicked.connect(self.onUndo)
        ui.redoButton.clicked.connect(self.onRedo)
        ui.statusActionButton.clicked.connect(self.onStatusAction)
        ui.statusActionButton.visible = False
        ui.tabWidget.currentChanged.connect(self.onTabChanged)
        self._shrinkTabs()
        embedding_store.restoreRates(logic.engine)
        logic.onWake = self.wake
        logic.onStale = self.onStale
        logic.onMatched = self.matchTab.onMatched
        logic.onRegistered = self.registerTab.onWritten
        logic.live.onError = self.showError
        logic.live.onChanged = self.refreshSoon
        logic.live.corrections.onEdited = self.matchTab.onEdited
        logic.tracker.corrections.onEdited = self.trackTab.onEdited
        logic.tracker.onChanged = self.refreshSoon
        logic.landmarkEdits.onEdited = self.landmarksTab.onEdited

    # --- life cycle ----------------------------------------------------------------------------------------------

    def enter(self) -> None:
        """Show the scene's parameters and follow the scene."""
        scene = slicer.mrmlScene
        for event in (
            slicer.vtkMRMLScene.NodeAddedEvent,
            slicer.vtkMRMLScene.NodeRemovedEvent,
            slicer.vtkMRMLScene.EndImportEvent,
        ):
            if not self.hasObserver(scene, event, self.onSceneChanged):
                self.addObserver(scene, event, self.onSceneChanged)
        self.compute.begin()
        self.layout.start()
        self.connectParameters()
        self.ownViews.start()
        self.lineLabels.start()
        self.saving.start()
        self.placeHint.start()
        self.shortcuts.connect()
        self.onLayoutChanged()
        if self.torchState() != "ready" and install.isPending():
            self.say(texts.setupPending())
        self.refresh()

    def exit(self) -> None:
        """Follow nothing; computations go on, their results are written when they are done."""
        self.shortcuts.disconnect()
        self.saving.stop()
        self.placeHint.stop()
        for tab in self.tabs:
            tab.exit()
        self.layout.stop()
        self.ownViews.stop()
        self.lineLabels.stop()
        self.disconnectParameters()
        self.removeObservers()

    def connectParameters(self) -> None:
        """Bind the widgets to the scene's parameter node, making it when there is none."""
        self.disconnectParameters()
        self.parameters = self._binding.bind(self.logic.getParameterNode())
        self._chooseDefaults()
        self.addObserver(self.parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersChanged)
        self.header.show()
        self.onParametersChanged()

    def disconnectParameters(self) -> None:
        """React to the parameter node no more (module left, scene closing)."""
        if self.parameters is None:
            return
        node, self.parameters = self.parameters, None
        if self.hasObserver(node.parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersChanged):
            self.removeObserver(node.parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersChanged)
        self.logic.live.stop()
        self.logic.tracker.stop()
        self.logic.landmarkEdits.clear()

    def sceneClosing(self) -> None:
        """The scene is about to be emptied: nothing of it may be held or written to."""
        self.timer.stop()
        self.refreshTimer.stop()
        for tab in self.tabs:
            tab.forget()
        self.disconnectParameters()
        self.layout.forget()
        self._message = ""
        self._accepted.clear()

    def sceneImporting(self) -> None:
        """A scene is being loaded into this one: what selectors show meanwhile is nobody's choice."""
        self._hold(True)

    def sceneImported(self) -> None:
        """Take over what the scene brought, once the selectors have settled: they change after this event, too."""
        self.logic.live.forgetMoves()
        qt.QTimer.singleShot(0, self._settled)

    def _settled(self) -> None:
        if not self._isImporting:
            return
        if slicer.mrmlScene.IsBatchProcessing():  # the import is part of a longer batch
            qt.QTimer.singleShot(REFRESH_MS, self._settled)
            return
        self._hold(False)
        self.layout.forget()
        if self.parameters is not None:
            with slice_views.drawnOnce():
                self.connectParameters()

    def _hold(self, isHeld: bool) -> None:
        self._isImporting = isHeld
        self._binding.hold(isHeld)
        for tab in self.tabs:
            tab.hold(isHeld)

    def isImporting(self) -> bool:
        return self._isImporting

    def cleanup(self) -> None:
        """The module is being unloaded or reloaded."""
        self._isImporting = False
        self.timer.stop()
        self.refreshTimer.stop()
        self.exit()
        self._binding.release()
        self.compute.stop()
        self.logic.onWake = self.logic.onStale = self.logic.onMatched = self.logic.onRegistered = None
        self.logic.cleanup()

    def _chooseDefaults(self) -> None:
        """Empty inputs are filled with what the user is looking at; chosen ones are never changed."""
        for tab in self.tabs:
            tab.chooseDefaults()

    # --- events --------------------------------------------------------------------------------------------------

    def onParametersChanged(self, caller=None, event=None) -> None:
        if self.parameters is None or self._isImporting:  # selectors take no node before they have settled
            return
        with slice_views.drawnOnce():
            self._takeParameters()

    def _takeParameters(self) -> None:
        for tab in self.tabs:
            tab.parametersChanged()
        self._followLayout()
        self._followVolumes()
        self.header.showModel()
        self.refresh()

    def _followLayout(self) -> None:
        """Let the rows of our layouts show what is selected now."""
        p = self.parameters
        if p is not None and not self._isImporting:
            shown = [node for node in self.trackTab.volumes() if node is not None]
            self.layout.follow(p.templateVolume, p.queryVolume, shown)

    def onLayoutChanged(self) -> None:
        """Ours or another layout is shown; the buttons tell which."""
        self.ui.sideBySideButton.checked = self.layout.isSideBySide()
        self.ui.allStudiesButton.checked = self.layout.isStudies()
        self.refreshSoon()

    def _followVolumes(self) -> None:
        """Notice when a selected scan is moved."""
        event = slicer.vtkMRMLTransformableNode.TransformModifiedEvent
        for tab in self.tabs:
            for node in tab.volumes():
                if node is not None and not self.hasObserver(node, event, self.onVolumeMoved):
                    self.addObserver(node, event, self.onVolumeMoved)

    def onVolumeMoved(self, caller=None, event=None) -> None:
        self.refreshSoon()

    def _usersLists(self):
        """(list, scan) of the user's own lists that are selected: the template's points, the marks in the baseline."""
        p = self.parameters
        if p is None:
            return
        yield p.points, p.templateVolume
        for volume, points in self.matchTab.furtherTemplates():
            if scanOf(points) is None:  # matches lie in their own scan anyway
                yield points, volume
        for node in self.trackTab.sources():
            if node.IsA("vtkMRMLMarkupsNode"):
                yield node, p.baselineVolume

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onSceneChanged(self, caller, event, node=None) -> None:
        if slicer.mrmlScene.IsBatchProcessing() or self.parameters is None or self._isImporting:
            return
        if node is None or (node.IsA("vtkMRMLDisplayableNode") and not node.GetHideFromEditors()):
            if slice_views.isHeld():  # one of our own changes of many: all of them are shown at once, soon
                slice_views.beforeDrawing(self._followNodes)
            else:
                self._chooseDefaults()
                self.refresh()
            self._isSceneNew = True
            self.refreshSoon()

    def _followNodes(self) -> None:
        """What has to be as it should be before new nodes are drawn."""
        if self.parameters is not None and not self._isImporting:
            self.ownViews.update()
            self.lineLabels.update()

    def _shrinkTabs(self) -> None:
        """Let the tabs be as high as the one that is shown: the highest one would leave the others half empty."""
        tabs = self.ui.tabWidget
        for n in range(tabs.count):
            page = tabs.widget(n)
            vertical = qt.QSizePolicy.Preferred if n == tabs.currentIndex else qt.QSizePolicy.Ignored
            page.sizePolicy = qt.QSizePolicy(qt.QSizePolicy.Preferred, vertical)
            page.updateGeometry()

    def onTabChanged(self, index=0) -> None:
        self._shrinkTabs()
        self._message = ""
        if self.parameters is not None and not self._isImporting:
            self._chooseDefaults()
            self.header.showModel()
        self.refresh()

    def onStale(self, volumeNode) -> None:
        self.clearMessage()
        self.log(texts.stateStale(volumeNode.GetName()))
        self.refresh()

    def onStatusAction(self, checked=False) -> None:
        """Do what the status line offers."""
        self.clearMessage()
        if self._offer == OFFER_CONTINUE:
            self._accepted.update(self.currentTab().warnings())
            self.refresh()
        elif self._offer in (OFFER_VIEWS, OFFER_SHOW):
            self.currentTab().showViews()
        elif self._offer:
            self.currentTab().review.selectNext()

    def wake(self) -> None:
        """There is work for the timer."""
        if not self.timer.active:
            self.timer.start()

    def onTimer(self) -> None:
        """Store what is finished, show progress; stop when nothing is left."""
        job = self.logic.worker.currentJob()
        isHere = not self.logic.engine.isRemote  # else what answers the mouse needs no time of this process
        isQuick = isHere and job is not None and self.isQuick() and job.elapsed() < SHOW_LIVE_AFTER_SECONDS
        isBusy = self.logic.tick(GRANT_QUICK_SECONDS if isQuick else GRANT_SECONDS)
        if isBusy:
            if time.monotonic() - self._shown > SHOW_PROGRESS_SECONDS:
                self._shown = time.monotonic()
                self._showProgress()
        else:
            self.timer.stop()
            embedding_store.storeRates(self.logic.engine)
            if self.parameters is not None and not self.header.isDeviceKnown():
                self.header.showDevice()  # the first job has loaded PyTorch
            self.refreshSoon()

    def onRefreshTimer(self) -> None:
        """The burst of events is over for now; DICOM scans, too, know their patient and date by now."""
        isLive = self.logic.worker.isBusy() and self.visibleJob() is None
        if isLive and time.monotonic() - self._asked < SHOW_LIVE_AFTER_SECONDS:
            return  # the window is drawn again, all of it, with each change: first for the match, then for its words
        self.refreshTimer.stop()
        if self._isSceneNew and self.parameters is not None and not self._isImporting:
            self._isSceneNew = False
            self._chooseDefaults()
        self.refresh()

    def onUndo(self, checked=False) -> None:
        self._move(self.logic.undoStack.undo, texts.stateUndone)

    def onRedo(self, checked=False) -> None:
        self._move(self.logic.undoStack.redo, texts.stateRedone)

    def _move(self, move: Callable[[InTurns], Optional[str]], told: Callable[[str], str]) -> None:
        """Undo or redo; what comes in steps goes on beside the window and is told at its end."""

        def inTurns(name: str, steps: Any, onEnd: Callable[[bool], None]) -> None:
            def end(job) -> None:
                onEnd(job.error is None)
                if job.error is None:
                    self.say(told(name))
                else:
                    self.showError(job.error)

            self.logic.submitSteps(name, lambda progress: steps, None, end, name)

        with slice_views.drawnOnce():
            name = move(inTurns)
        if self.logic.undoStack.isMoving():
            self.refresh(results=False)
        elif name is not None:
            self.say(told(name))

    def useEngine(self, computingEngine: engine.Engine) -> None:
        """Compute with this engine from now on."""
        embedding_store.restoreRates(computingEngine)
        computingEngine.onEnded = self.compute.onEnded
        self.logic.useEngine(computingEngine)
        self.timer.interval = computingEngine.timerMs
        if self.parameters is not None:
            self.refresh()

    def _settleEngine(self) -> None:
        """Look once more after a cancellation: a computation that does not stop by itself is ended."""
        self.logic.engine.pump(0.0)

    # --- work ----------------------------------------------------------------------------------------------------

    def visibleJob(self):
        """The job to show in the status line: the oldest, unless it is a live match that is nearly done anyway. An undo
        on its way is shown, too: nothing else may begin before its end."""
        job = self.logic.worker.currentJob()
        isBrief = job is not None and self.isQuick() and job.elapsed() < SHOW_LIVE_AFTER_SECONDS
        return None if isBrief and not self.logic.undoStack.isMoving() else job

    def isQuick(self) -> bool:
        """Whether what runs was not started by a button."""
        return not any(tab.isRunning() for tab in self.tabs)

    def cancel(self) -> None:
        """Stop everything that runs."""
        for tab in self.tabs:
            tab.cancel()
        self.logic.cancel()
        qt.QTimer.singleShot(SETTLED_MS, self._settleEngine)
        self.refresh()

    def _showProgress(self) -> None:
        job = self.visibleJob()
        if job is None:
            return
        tab = next((tab for tab in self.tabs if tab.isRunning()), None)
        fraction = tab.fraction() if tab is not None else job.fraction
        self._showFraction(fraction)
        self.refresh(results=False)

    # --- what is shown -------------------------------------------------------------------------------------------

    def currentTab(self) -> Tab:
        return self.tabs[min(self.ui.tabWidget.currentIndex, len(self.tabs) - 1)]

    def selectedVolumes(self) -> List[Any]:
        """The volumes of the tab that is shown, each once."""
        found: List[Any] = []
        for node in self.currentTab().volumes():
            if node is not None and node not in found:
                found.append(node)
        return found

    def say(self, message: str) -> None:
        """Show a message in the status line until the next one, and keep it in the log."""
        self._message = message
        if message and message != self._logged:  # a match that is dragged says the same with every movement
            self.log(message)
        self._logged = message
        self.refresh()

    def log(self, message: str) -> None:
        """Keep a message in the log only."""
        self.ui.logTextEdit.appendPlainText(time.strftime("%H:%M:%S ") + message)

    def unacceptedMismatch(self, nodeA, nodesB) -> str:
        """The first warning, not accepted yet, that two scans belong to different patients; empty without one."""
        texts_ = (hierarchy.patientMismatch(nodeA, node) for node in nodesB)
        return next((text for text in texts_ if text and text not in self._accepted), "")

    def firstStale(self, nodes) -> str:
        """Name of the first volume that was modified since it was embedded; empty without one."""
        return next((node.GetName() for node in nodes if node is not None and self.logic.store.isStale(node)), "")

    def showError(self, error: BaseException) -> None:
        """An error in the status line: cause and remedy; what was not foreseen goes to Slicer's log with its trace."""
        if isinstance(error, Cancelled):
            self.say(texts.stateCancelled())
        elif isinstance(error, SAMv2Error):
            self.say(f"{error.cause} {texts.remedyInPanel(error.remedy)}".strip())
        else:
            logger.error("Unexpected error", exc_info=(type(error), error, error.__traceback__))
            self.say(texts.unexpectedError())

    def refreshSoon(self) -> None:
        """Refresh once after a burst of events."""
        if not self.refreshTimer.active:
            self._asked = time.monotonic()
            self.refreshTimer.start()

    def refresh(self, results: bool = True) -> None:
        """Show the facts as they are now.

        :param results: also rebuild the tables (not needed while only the progress changes).
        """
        if self._isRefreshing or self.parameters is None or self._isImporting:
            return
        self._isRefreshing = True
        try:
            self.ownViews.update()
            self.lineLabels.update()
            for tab in self.tabs:
                tab.refresh(results)
            self._showState(self.currentTab().state())
        finally:
            self._isRefreshing = False

    def _showState(self, state: PanelState) -> None:
        isBusy = state.name == "busy"
        message = "" if isBusy else self._message
        self.ui.statusGlyphLabel.text = state.glyph if not message else ""
        self.ui.statusLabel.text = message or state.text
        self.ui.setUpButton.visible = state.setUpVisible
        self.ui.sampleDataButton.visible = state.sampleVisible
        self._offer = state.offer
        self.ui.statusActionButton.visible = bool(state.offer)
        self.ui.statusActionButton.text = texts.offerText(state.offer)
        self.ui.statusActionButton.toolTip = texts.offerTip(state.offer)
        self.ui.statusActionButton.accessibleName = texts.offerText(state.offer)
        if not isBusy:
            self._showFraction(0.0)
        undo, redo = self.logic.undoStack.nextUndo(), self.logic.undoStack.nextRedo()
        self.ui.undoButton.enabled, self.ui.undoButton.toolTip = undo is not None, texts.tooltipUndo(undo)
        self.ui.redoButton.enabled, self.ui.redoButton.toolTip = redo is not None, texts.tooltipRedo(redo)
        self.ui.statusLabel.parent().layout().activate()  # else the window is drawn for the text and then for its room

    def _showFraction(self, fraction: float) -> None:
        """Have the bar drawn when its turn comes: it would draw itself, and with it the whole window, at once."""
        bar, value = self.ui.progressBar, int(1000 * fraction)
        if bar.value != value:
            bar.updatesEnabled = False
            bar.value = value
            bar.updatesEnabled = True

    def clearMessage(self) -> None:
        """Let the state speak again (a new action begins)."""
        self._message = self._logged = ""

    def torchState(self) -> str:
        return self.logic.engine.state()
