"""The Track lesions tab: mark lesions in a baseline, see where they are in later studies, judge, measure, export."""

from __future__ import annotations

import math
from typing import Any, List, Sequence, Tuple

import slicer
import slicer.util

from SAMv2Core.errors import SAMv2Error
from SAMv2Core.tracking.recist import hints
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.match import landmarks
from SAMv2SlicerLib.match.match_job import listAction
from SAMv2SlicerLib.panel import console_lines, dialogs, panel_states
from SAMv2SlicerLib.panel.checked_nodes import CheckedNodes, madeVolumes
from SAMv2SlicerLib.panel.lesion_export import LesionExport
from SAMv2SlicerLib.panel.lesion_facts import LesionFacts
from SAMv2SlicerLib.panel.lesion_matrix import LesionMatrix, looksOf
from SAMv2SlicerLib.panel.reading_clock import ReadingClock
from SAMv2SlicerLib.panel.review import FindingReview
from SAMv2SlicerLib.panel.studies_table import StudiesTable
from SAMv2SlicerLib.panel.studies_view import StudiesView
from SAMv2SlicerLib.panel.tab import Tab
from SAMv2SlicerLib.scene import hierarchy, match_list, moved_volumes, node_geometry, slice_views
from SAMv2SlicerLib.track import diameters, findings, lesion_list, lesion_marks, report_import, studies
from SAMv2SlicerLib.track.looking_back import lookBack
from SAMv2SlicerLib.track.past import Past, pastOf
from SAMv2SlicerLib.track.placing import LesionPlacing, addNew, listMarks

MOST_AT_ONCE = 4
"""So many studies are shown side by side when a lesion is drawn and when they were tracked; more on demand."""

STATES = ("", "vanished", "too_small", "not_evaluable", "merged", "progressed")
"""What the user may say of a lesion that is not measured, in the order of the selector."""


class TrackTab(Tab):
    """Binds the tab's widgets."""

    def __init__(self, ui, panel) -> None:
        super().__init__(ui, panel)
        self.clock = ReadingClock()
        for button in (
            *(ui.trackButton, ui.acceptFindingButton, ui.rejectFindingButton, ui.nextFindingButton),
            *(ui.editFindingButton, ui.releaseFindingButton, ui.previousFindingButton, ui.measureButton),
        ):
            button.clicked.connect(self.noteAction)  # before the button's own action, which may select another lesion
        ui.addLesionButton.clicked.connect(lambda checked=False: self.clock.count(""))
        for selector in (ui.stateSelector, ui.roleSelector, ui.organSelector):
            selector.activated.connect(self.noteAction)
        ui.nodeCheckBox.clicked.connect(self.noteAction)
        ui.findingsTable.cellClicked.connect(lambda row, column: self.noteAction())
        ui.timesButton.clicked.connect(self.onTimes)
        self._isShowing = False
        self._counted: Tuple[Any, int] = (None, 0)
        self._found: List[List[findings.Finding]] = []
        """What the matrix shows; read from the scene when results changed, not with every tick of a progress bar."""
        self.matrix = LesionMatrix(ui.findingsTable, self.onCellSelected)
        self.review = FindingReview(ui, panel, self.matrix)
        self.export = LesionExport(ui, panel, self)
        self.lesionFacts = LesionFacts(ui, panel, self.matrix, self.lesionList)
        self.studiesView = StudiesView(ui, panel)
        self.studiesTable = StudiesTable(ui.studiesTable, self.onDated, panel.showError)
        self.followUpsBox = CheckedNodes(ui.followUpsSelector, ("vtkMRMLScalarVolumeNode",), self.onFollowUpsChecked)
        self.sourcesBox = CheckedNodes(ui.lesionSourcesSelector, lesion_marks.SOURCE_CLASSES, self.onSourcesChecked)
        ui.trackButton.clicked.connect(self.onTrackButton)
        ui.earlierButton.clicked.connect(lambda checked=False: self._moveStudy(-1))
        ui.laterButton.clicked.connect(lambda checked=False: self._moveStudy(1))
        ui.studiesTable.itemSelectionChanged.connect(self._onStudySelected)
        ui.segmentationSelector.currentNodeChanged.connect(self.onSegmentation)
        ui.addPatientButton.clicked.connect(self.onAddPatient)
        ui.allStudiesButton.toggled.connect(self.onAllStudies)
        ui.findingsTable.cellDoubleClicked.connect(self.review.onAccept)
        self.placing = LesionPlacing(self.onLesionPlaced)
        self._preset = ""
        """ID of a baseline that was not chosen by the user."""
        self._added = ""
        """Tracking UID of the lesion that was drawn last: shown when it was tracked."""
        ui.addLesionButton.clicked.connect(self.onAddLesion)
        ui.readReportButton.clicked.connect(self.onReadReport)
        for state in STATES:
            ui.stateSelector.addItem(texts.stateName(state))
        ui.stateSelector.activated.connect(self.onState)

    # --- parameters ----------------------------------------------------------------------------------------------

    def chooseDefaults(self) -> None:
        """An empty baseline becomes the template of the Match tab."""
        p = self.panel.parameters
        if p.baselineVolume is None and p.templateVolume is not None:
            p.baselineVolume = p.templateVolume
            self._preset = p.baselineVolume.GetID()
        if p.baselineVolume is not None and p.baselineVolume.GetID() == self._preset:
            self._presetFollowUps()

    def _presetFollowUps(self) -> None:
        """The patient's later scans are the follow-ups, when dates tell: the earliest one is the baseline.

        As long as nobody has chosen either.
        """
        p = self.panel.parameters
        scans = [p.baselineVolume, *studies.ofSamePatient(p.baselineVolume)]
        if len(scans) > 1 and not self.followUps() and all(studies.dateOf(node) for node in scans):
            first, *later = studies.inTimeOrder(scans)
            p.baselineVolume, p.followUpVolumes, self._preset = first, later, ""

    def followUps(self) -> List[Any]:
        """The follow-ups that still exist, in order, without the baseline."""
        p = self.panel.parameters
        return [node for node in p.followUpVolumes if node is not None and node is not p.baselineVolume]

    def volumes(self) -> List[Any]:
        """What the model has to cope with."""
        return [self.panel.parameters.baselineVolume, *self.followUps()]

    def sources(self) -> List[Any]:
        return [node for node in self.panel.parameters.lesionSources if node is not None]

    def lines(self) -> List[Any]:
        """The lines that are lesions: the marks of the baseline, and those over findings."""
        if self.panel.parameters is None:
            return []
        listNode = self.lesionList()
        found = [node for node in self.sources() if node.IsA("vtkMRMLMarkupsLineNode")]
        return [*found, *diameters.linesOf(listNode).values()] if listNode is not None else found

    def parametersChanged(self) -> None:
        """Follow the parameter node: checks, studies, and the findings that belong to the baseline."""
        p = self.panel.parameters
        self._offerFollowUps()
        self.sourcesBox.show(self.sources())
        self.logic.tracker.follow(p.baselineVolume, self.followUps())

    def _offerFollowUps(self) -> None:
        self.followUpsBox.show(self.followUps(), [self.panel.parameters.baselineVolume, *madeVolumes()])

    def onFollowUpsChecked(self, checked: List[Any]) -> None:
        """Checked studies join the others in time order."""
        if self.panel.parameters is not None:
            kept = [node for node in self.followUps() if node in checked]
            ordered = studies.inTimeOrder([*kept, *[node for node in checked if node not in kept]])
            self.panel.parameters.followUpVolumes = ordered

    def onSourcesChecked(self, checked: List[Any]) -> None:
        if self.panel.parameters is not None:
            self.panel.parameters.lesionSources = checked

    def onDated(self) -> None:
        """A date was entered: it decides the order."""
        p = self.panel.parameters
        if p is not None:
            p.followUpVolumes = studies.inTimeOrder(self.followUps())
            self.logic.tracker.updateTables()
            self.panel.refresh()

    def _moveStudy(self, step: int) -> None:
        """Move the selected follow-up up or down."""
        nodes, n = self.followUps(), self.studiesTable.selectedIndex() - 1
        if 0 <= n < len(nodes) and 0 <= n + step < len(nodes):
            nodes[n], nodes[n + step] = nodes[n + step], nodes[n]
            self.panel.parameters.followUpVolumes = nodes
            self.ui.studiesTable.setCurrentCell(n + step + 1, 0)
            self.logic.tracker.updateTables()

    def onAddPatient(self, checked=False) -> None:
        """All scans of the baseline's patient become follow-ups, in time order."""
        p = self.panel.parameters
        found = studies.ofSamePatient(p.baselineVolume)
        added = [node for node in found if node not in self.followUps()]
        p.followUpVolumes = studies.inTimeOrder([*self.followUps(), *added])
        self.panel.say(texts.scansAdded(len(added)))

    def _selectedFollowUp(self):
        n = self.studiesTable.selectedIndex()
        nodes = self.followUps() if self.panel.parameters is not None else []
        return nodes[n - 1] if 1 <= n <= len(nodes) else None

    def _onStudySelected(self) -> None:
        """Show what can be done with the selected study."""
        self._enableOrder()
        node = self._selectedFollowUp()
        self._isShowing = True
        try:
            self.ui.segmentationSelector.setCurrentNode(studies.segmentationOf(node) if node is not None else None)
        finally:
            self._isShowing = False
        self.ui.segmentationSelector.enabled = node is not None

    def onSegmentation(self, node=None) -> None:
        """The user says which segmentation shows the selected study's lesions."""
        volume = self._selectedFollowUp()
        if self._isShowing or volume is None:
            return
        studies.setSegmentation(volume, self.ui.segmentationSelector.currentNode())
        self.panel.refresh()

    def onAllStudies(self, checked) -> None:
        """One axial view per study, or the layout from before."""
        if checked == self.panel.layout.isStudies():
            return
        if checked:
            self.showViews()
        else:
            self.panel.layout.restore()

    def showViews(self) -> None:
        """One view per study, at the current lesion."""
        volumes = [node for node in self.volumes() if node is not None] if self.panel.parameters is not None else []
        if not self.panel.layout.showStudies(volumes, self._onShown):
            self.ui.allStudiesButton.checked = False
            self.panel.say(texts.noViews())

    def _onShown(self) -> None:
        """The views have their scans."""
        self.onCellSelected()
        self.panel.refreshSoon()

    def hold(self, isHeld: bool) -> None:
        self.followUpsBox.hold(isHeld)
        self.sourcesBox.hold(isHeld)

    def _enableOrder(self) -> None:
        n = self.studiesTable.selectedIndex() - 1
        count = len(self.followUps()) if self.panel.parameters is not None else 0
        isFree = count > 1 and not all(studies.dateOf(node) for node in self.followUps())
        self.ui.earlierButton.enabled = isFree and 0 < n < count
        self.ui.laterButton.enabled = isFree and 0 <= n < count - 1

    # --- tracking ------------------------------------------------------------------------------------------------

    def onTrackButton(self, checked=False) -> None:
        """Track, or cancel while something runs."""
        if self.panel.visibleJob() is not None:
            self.panel.cancel()
            return
        p = self.panel.parameters
        self.panel.clearMessage()
        line = console_lines.trackLesions(p.baselineVolume, self.followUps(), self.sources(), p.model, p.device)
        self.panel.log(texts.consoleLine(line))
        try:
            self.job = self.logic.tracker.start(
                p.baselineVolume,
                self.followUps(),
                self.sources(),
                p.model,
                p.device,
                lock=p.lockMatches,
                onEnd=self.onTracked,
            )
        except SAMv2Error as error:
            self.panel.showError(error)
        self.panel.refresh()

    def onTracked(self, job) -> None:
        """Show the studies side by side, at the first finding that needs a look."""
        self.job = None
        if job.error is not None:
            self.panel.showError(job.error)
        self.panel.header.showDevice()
        self.panel.refresh()
        if job.error is None:
            self._showSideBySide()
        if job.error is None and self._added and self.followUps():
            self.matrix.select((self._added, self.followUps()[0].GetID()))
        elif job.error is None and self.matrix.selected() is None:
            self.matrix.selectNeedingALook(1)
        self._added = ""

    def _showSideBySide(self) -> None:
        """The comparison layout, where there is a window, unless there are too many studies."""
        isFew = 1 < len(self.volumes()) <= MOST_AT_ONCE
        if isFew and not self.ui.allStudiesButton.checked and slice_views.layoutNode() is not None:
            self.ui.allStudiesButton.checked = True

    # --- last month's report -------------------------------------------------------------------------------------

    def onReadReport(self, checked=False) -> None:
        """Take the baseline's lesions from a DICOM report: of the database where it has some, else from a file."""
        p = self.panel.parameters
        path, known = "", report_import.reportsOf(p.baselineVolume)
        if known:
            titles = [*(title for title, _ in known), texts.reportFromFile()]
            chosen = dialogs.choose(self.ui.readReportButton, titles)
            if chosen is None:
                return
            path = known[chosen][1] if chosen < len(known) else ""
        path = path or dialogs.openFile(self.ui.readReportButton, texts.readReportTitle(), "DICOM (*.dcm *)")
        if not path:
            return
        self.panel.clearMessage()
        self.job = report_import.startImport(
            self.logic, p.baselineVolume, path, self.sources(), self._changeSources, self._onReportRead
        )
        self.panel.refresh()

    def _onReportRead(self, job) -> None:
        self.job = None
        if job.error is not None:
            self.panel.showError(job.error)
        else:
            self.panel.say(texts.reportRead(job.value))

    def _changeSources(self, new: Sequence[Any], gone: Sequence[Any]) -> None:
        if self.panel.parameters is not None:
            kept = [node for node in self.sources() if node not in gone]
            self.panel.parameters.lesionSources = [*kept, *new]

    # --- adding lesions ------------------------------------------------------------------------------------------

    def onAddLesion(self, checked=False) -> None:
        """Let the user draw the longest diameter of a lesion in any study, all of them in view."""
        volumes = [node for node in self.volumes() if node is not None]
        if volumes:
            self._showSideBySide()
            self.placing.start(volumes, self._freeLabel())
            self.panel.say(texts.placeHint())

    def _freeLabel(self) -> str:
        """A short name that no mark and no lesion bears."""
        taken = {node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLMarkupsNode")}
        taken |= {lesion.label for lesion in lesion_list.lesionsIn(self.lesionList())}
        n = 1
        while texts.shortLesionLabel(n) in taken:
            n += 1
        return texts.shortLesionLabel(n)

    def onLesionPlaced(self, lineNode, volumeNode) -> None:
        """A line was drawn: a lesion of the baseline, or a new one of a follow-up, which is looked for before."""
        p = self.panel.parameters
        if p is None or p.baselineVolume is None:
            return
        if volumeNode is p.baselineVolume:
            p.lesionSources = [*self.sources(), lineNode]
            listMarks(self.logic, p.baselineVolume, self.sources())
            self.panel.say(texts.lesionAdded(lineNode.GetName(), volumeNode.GetName()))
            listed = lesion_list.lesionsIn(self.lesionList())
            self._added = next((one.uid for one in listed if one.key.startswith(f"{lineNode.GetID()}:")), "")
            self.clock.count(self._added, 2)  # both ends
            self.panel.refresh()
            if lesion_list.findingsOf(self.lesionList()) and self.ui.trackButton.enabled and self.job is None:
                self.onTrackButton()  # the others were tracked: this one at once, too
            return
        uid = addNew(self.logic, p.baselineVolume, volumeNode, lineNode)
        self.clock.count(uid, 2)
        self.panel.refresh()
        self.matrix.select((uid, volumeNode.GetID()))
        label = next(lesion.label for lesion in lesion_list.lesionsIn(self.lesionList()) if lesion.uid == uid)
        self.panel.say(texts.lesionAdded(label, volumeNode.GetName()))
        self._lookBack(uid, volumeNode)

    def _lookBack(self, uid: str, volumeNode) -> None:
        """Whether a new lesion was there in the baseline: "not there before" is what is expected."""
        p = self.panel.parameters
        try:
            self.job = lookBack(
                self.logic, p.baselineVolume, volumeNode, uid, p.model, p.device, onEnd=self._onLookedBack
            )
        except SAMv2Error as error:
            self.panel.showError(error)

    def _onLookedBack(self, job) -> None:
        self.job = None
        if job.error is not None:
            self.panel.showError(job.error)
        elif job.value:
            self.panel.say(job.value)
        self.panel.refresh()

    # --- effort --------------------------------------------------------------------------------------------------

    def noteAction(self, *unused: Any) -> None:
        """The reader has done something for the selected lesion, or for one that is about to be."""
        finding = self.matrix.selected()
        self.clock.count("" if finding is None or self.placing.isActive() else finding.uid)

    def onTimes(self, checked=False) -> None:
        """Tell how many actions and seconds each lesion took."""
        labels = {lesion.uid: lesion.label for lesion in lesion_list.lesionsIn(self.lesionList())}
        self.ui.findingLabel.text = "\n".join(self.clock.lines(labels))

    def onState(self, index: int) -> None:
        """The user says what has become of the selected lesion: vanished counts 0 mm, too small 5 mm."""
        found = self.review.selected()
        if found is None:
            return
        listNode, n, _ = found
        before, label = match_list.captureList(listNode), listNode.GetNthControlPointLabel(n)
        with self.logic.writing():
            match_list.setState(listNode, n, STATES[index])
        self.logic.undoStack.push(listAction(self.logic, listNode, before, texts.actionState(label)))
        self.logic.tracker.updateTables()
        self.panel.refresh()

    def onEdited(self, listNode, label: str) -> None:
        self.panel.say(texts.correctionHelps(label))

    # --- results -------------------------------------------------------------------------------------------------

    def lesionList(self):
        p = self.panel.parameters
        return lesion_list.findLesionList(p.baselineVolume) if p is not None else None

    def onCellSelected(self) -> None:
        """Bring the views of all studies to the lesion of the current cell."""
        self.review.enable()
        self._showDetails()
        if self.panel.parameters is None or not self.panel.parameters.jumpViews or self.panel.layout.isSettling():
            return
        with self.studiesView.moving():
            for finding in self.matrix.selectedRow():
                if finding.world is not None:
                    slice_views.jump(slicer.mrmlScene.GetNodeByID(finding.volumeID), finding.world)

    def _showDetails(self) -> None:
        finding = self.matrix.selected()
        state = "" if finding is None or finding.result is None else finding.result.state
        self.ui.stateSelector.currentIndex = STATES.index(state) if state in STATES else 0
        self.ui.stateSelector.enabled = self.review.selected() is not None
        self.ui.findingLabel.text = detailsOf(finding) if finding is not None else texts.noLesionSelected()
        self.lesionFacts.show()

    def toggleFollow(self) -> None:
        """The place under the cursor in all studies."""
        self.ui.cursorStudiesCheckBox.checked = not self.ui.cursorStudiesCheckBox.checked

    def exit(self) -> None:
        """The module is left: the layout from before comes back."""
        self.placing.cancel()
        self.ui.allStudiesButton.checked = False
        self.studiesView.stop()

    def forget(self) -> None:
        super().forget()
        self.clock.clear()
        self.logic.tracker.stop()
        self._found = []
        self.matrix.show([], [])
        self.studiesTable.show([], [])

    # --- what is shown -------------------------------------------------------------------------------------------

    def facts(self) -> panel_states.Facts:
        p = self.panel.parameters
        cells = [finding for row in self._found for finding in row if finding.result is not None]
        return self.commonFacts(
            template=p.baselineVolume.GetName() if p.baselineVolume is not None else None,
            needALook=sum(finding.needsALook for finding in cells),
            matched=len(cells),
            patientMismatch=self.panel.unacceptedMismatch(p.baselineVolume, self.followUps()),
            stale=self.panel.firstStale(self.volumes()),
            moved=self._movedName(),
            unseen=self._unseen() if cells else "",
            lesions=self._lesionCount(),
            followUps=len(self.followUps()),
        )

    def warnings(self) -> List[str]:
        """What the user accepts with Continue."""
        baseline = self.panel.parameters.baselineVolume
        return [hierarchy.patientMismatch(baseline, node) for node in self.followUps()]

    def _unseen(self) -> str:
        """Name of a study that no view shows; empty when all can be seen."""
        nodes = [node for node in self.volumes() if node is not None]
        return next((node.GetName() for node in nodes if not slice_views.isInView(node)), "")

    def _movedName(self) -> str:
        """Name of a study that was moved since its findings were found."""
        moved = (moved_volumes.movedVolume(node) for node in lesion_list.findingsOf(self.lesionList()))
        return next((node.GetName() for node in moved if node is not None), "")

    def _lesionCount(self) -> int:
        """How many lesions are marked; counted again only when a mark changed, since segments take time."""
        key = tuple((node.GetID(), node.GetMTime(), _segmentationTime(node)) for node in self.sources())
        if self._counted[0] != key:
            self._counted = (key, len(lesion_marks.marksIn(self.sources())))
        return self._counted[1]

    def state(self) -> panel_states.PanelState:
        return panel_states.trackState(self.facts())

    def refresh(self, withResults: bool) -> None:
        """Show the facts in the tab's widgets; only while the tab is shown, since reading segments takes time."""
        if self.panel.currentTab() is not self:
            self.studiesView.stop()
            return
        p, listNode = self.panel.parameters, self.lesionList()
        if withResults:
            self._found = findings.findings(listNode, self.followUps())
        self.studiesView.update([node for node in self.volumes() if node is not None])
        state = self.state()
        self.ui.trackButton.text, self.ui.trackButton.toolTip = state.action, state.actionTip
        self.ui.trackButton.enabled = state.actionEnabled
        if not withResults:
            return
        self._offerFollowUps()
        shown = [node for node in self.volumes() if node is not None]
        self.studiesTable.show(shown, [self.logic.modalityOf(node) for node in shown])
        self._onStudySelected()
        self.ui.addLesionButton.enabled = p.baselineVolume is not None
        self.ui.readReportButton.enabled = p.baselineVolume is not None and not self.isRunning()
        self.ui.addPatientButton.enabled = bool(studies.ofSamePatient(p.baselineVolume))
        volumes = findings.studiesOf(listNode, self.followUps())
        past = pastOf(listNode)
        self.matrix.show(self._found, [studies.titleOf(volume, "\n") for volume in volumes], past.statesNow())
        self.review.enable()
        self.export.enable(listNode is not None, not self.isRunning())
        self.ui.sumsLabel.text = sumsText(self._found, past)
        self.ui.sumsLabel.visible = bool(self.ui.sumsLabel.text)
        self.ui.sumsLabel.toolTip = sumsTip(self._found, past)
        self._showDetails()


def _segmentationTime(node) -> int:
    return node.GetSegmentation().GetMTime() if node.IsA("vtkMRMLSegmentationNode") else 0


def detailsOf(finding: findings.Finding) -> str:
    """What is known about a finding, as lines."""
    result, volume = finding.result, slicer.mrmlScene.GetNodeByID(finding.volumeID)
    facts = {
        "label": finding.label,
        "study": studies.titleOf(volume) if volume is not None else "",
        "status": texts.baselineWord() if finding.isBaseline else texts.statusWord(finding.status, finding.decision),
        "position": "" if finding.world is None else _numbers(node_geometry.flipRASAndLPS(finding.world)),
    }
    if result is not None and math.isfinite(result.similarity):
        facts["similarity"] = f"{result.similarity:.2f}"
        facts["cycle"] = f"{result.cycleErrorMm:.1f}"
        facts["confidence"] = f"{100 * result.confidence:.0f}"
    if math.isfinite(finding.sizeMm):
        size = f"{finding.sizeMm:.1f}"
        facts["size"] = texts.sizeMeasured(size) if finding.isMeasured else texts.sizeEstimated(size)
    elif math.isfinite(finding.proposedMm):
        facts["size"] = texts.sizeProposed(f"{finding.proposedMm:.1f}")
    if result is not None:
        word = texts.presenceWord(result.presence, result.decision)
        facts["status"] = word or facts["status"]
        facts["reason"] = result.reason
        facts["volume"] = texts.volumeOf(f"{result.volumeMl:.1f}") if math.isfinite(result.volumeMl) else ""
        looks = looksOf(result)
        facts["looks"] = texts.looksDetails(looks, result.looksReason) if looks else ""
        isElsewhere = result.decision in (match_list.MOVED, match_list.REJECTED) and result.proposed is not None
        facts["proposed"] = _numbers(result.proposed) if isElsewhere else ""
    facts["where"] = landmarks.whereIs(volume, finding.world)
    return texts.lesionDetails(facts)


def sumsText(rows, past: Past) -> str:
    """The sums of the diameters per study with what they suggest, empty when there is nothing to add up."""
    parts = []
    for item in findings.sums(rows, past):
        study = item.name or _studyName(item.volumeID)
        text = texts.sumIncomplete(study, item.sized, item.wanted)
        if math.isfinite(item.sumMm):
            change = f"{100 * item.change:+.0f}" if math.isfinite(item.change) else ""
            text = texts.sumOfStudy(study, f"{item.sumMm:.1f}", change, item.isEstimated)
        if item.category:
            isOther = math.isfinite(item.changeFromNadir) and abs(item.changeFromNadir - item.change) > 0.005
            fromNadir = f"{100 * item.changeFromNadir:+.0f}" if isOther else ""
            text = f"{text}, {texts.sumCategory(item.category, fromNadir)}"
        parts.append(text)
    return texts.sumOfDiameters("; ".join(parts)) if parts else ""


def sumsTip(rows, past: Past) -> str:
    """Why each category is suggested, a line per follow-up, and what RECIST would have otherwise in the targets."""
    rules = [
        f"{item.name or _studyName(item.volumeID)}: {item.category}. {item.rule}"
        for item in findings.sums(rows, past)
        if item.category
    ]
    return "\n".join([texts.sumsTip(), *rules, *hints(findings.coursesOf(rows, past))]) if rules else ""


def _studyName(volumeID: str) -> str:
    volume = slicer.mrmlScene.GetNodeByID(volumeID)
    return studies.dateOf(volume) or volume.GetName()


def _numbers(values) -> str:
    return ", ".join(f"{value:.1f}" for value in values)
