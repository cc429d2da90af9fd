"""The Register tab: put the moving volume under a transform that aligns it with the fixed one, and judge the result."""

from __future__ import annotations

from typing import Any, List, Optional, Sequence

import qt
import slicer
import slicer.util

from SAMv2Core.errors import SAMv2Error
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.panel import console_lines, dialogs, panel_states
from SAMv2SlicerLib.panel.tab import Tab
from SAMv2SlicerLib.register import comparison, grid_transform, hand_over
from SAMv2SlicerLib.register.register_job import Extras, loadRegistration
from SAMv2SlicerLib.scene import hierarchy, node_geometry, slice_views
from SAMv2SlicerLib.scene.undo import addUndoably
from SAMv2SlicerLib.setup import install


class RegisterTab(Tab):
    """Binds the tab's widgets."""

    def __init__(self, ui, panel) -> None:
        super().__init__(ui, panel)
        self.comparison = comparison.Comparison()
        self._parentBefore: Any = None
        self._boardID = ""
        ui.registerButton.clicked.connect(self.onRegisterButton)
        ui.flipButton.clicked.connect(self.onFlip)
        ui.fadeButton.toggled.connect(self.onFade)
        ui.fadeSlider.valueChanged.connect(self.onFadeValue)
        ui.checkerboardButton.toggled.connect(self.onCheckerboard)
        ui.usedPointsButton.clicked.connect(self.onUsedPoints)
        ui.hardenedCopyButton.clicked.connect(self.onHarden)
        ui.useAsStartButton.clicked.connect(self.onUseAsStart)

    # --- parameters ----------------------------------------------------------------------------------------------

    def chooseDefaults(self) -> None:
        """Empty inputs become those of the Match tab."""
        p = self.panel.parameters
        with slicer.util.NodeModify(p.parameterNode):
            if p.fixedVolume is None and p.templateVolume is not None and p.templateVolume is not p.movingVolume:
                p.fixedVolume = p.templateVolume
            if p.movingVolume is None and p.queryVolume is not None and p.queryVolume is not p.fixedVolume:
                p.movingVolume = p.queryVolume

    def volumes(self):
        """What the model has to cope with."""
        return [self.panel.parameters.fixedVolume, self.panel.parameters.movingVolume]

    def onFlip(self, checked=False) -> None:
        p = self.panel.parameters
        with slicer.util.NodeModify(p.parameterNode):
            p.fixedVolume, p.movingVolume = p.movingVolume, p.fixedVolume

    # --- registering ---------------------------------------------------------------------------------------------

    def onRegisterButton(self, checked=False) -> None:
        """Register, or cancel while something runs."""
        if self.panel.visibleJob() is not None:
            self.panel.cancel()
            return
        p = self.panel.parameters
        self.panel.clearMessage()
        if p.deformable and not self._canDeform():
            return
        console = console_lines.registerVolumes(
            p.fixedVolume, p.movingVolume, p.transformType.value, p.model, p.device, p.deformable
        )
        self.panel.log(texts.consoleLine(console))
        self._parentBefore = p.movingVolume.GetParentTransformNode() if p.movingVolume is not None else None
        try:
            self.job = self.logic.startRegistration(
                p.fixedVolume,
                p.movingVolume,
                p.transformType.value,
                p.outputTransform,
                True,
                p.model,
                p.device,
                (p.templateModality.value, p.queryModality.value),
                extras=Extras(p.createCropROI, p.createCroppedVolume, p.deformable, p.createResampledVolume),
                onEnd=self.onRegistered,
            )
        except SAMv2Error as error:
            self.panel.showError(error)
        self.panel.refresh()

    def _canDeform(self) -> bool:
        """Whether deformations can be estimated; asks to install what is missing."""
        if grid_transform.isAvailable():
            return True
        question = texts.deformationConsent(grid_transform.REQUIREMENT)
        problem = install.installOptional(grid_transform.REQUIREMENT, question)
        if problem:
            self.panel.say(problem)
        return not problem

    def onHarden(self, checked=False) -> None:
        """Copies of the scans that are under non-linear transforms take their place."""
        p, names = self.panel.parameters, []
        try:
            for role in ("fixedVolume", "movingVolume"):
                node = getattr(p, role)
                if node is not None and node_geometry.isUnderNonLinearTransform(node):
                    with dialogs.waitCursor():
                        copy = comparison.hardenedCopy(self.logic, node)
                    setattr(p, role, copy)
                    names.append(copy.GetName())
        except SAMv2Error as error:
            self.panel.showError(error)
            return
        self.panel.say(texts.hardened(", ".join(names)))

    def onRegistered(self, job) -> None:
        self.job = None
        if job.error is not None:
            self.panel.showError(job.error)
        elif self.panel.parameters is not None:
            p = self.panel.parameters
            p.outputTransform = job.value
            facts = loadRegistration(job.value)
            if (p.createCropROI or p.createCroppedVolume) and facts is not None and not facts.get("crop"):
                nodes = [job.value.GetNodeReference(role) for role in ("SAMv2.fixed", "SAMv2.moving")]
                self.panel.say(texts.nothingToCrop(*(node.GetName() for node in nodes)))
            above = job.value.GetParentTransformNode()
            if above is not None and above is self._parentBefore:
                self.panel.log(texts.parentKept(job.value.GetName(), above.GetName()))
        self.panel.header.showDevice()
        self.panel.refreshSoon()

    # --- looking at the result -----------------------------------------------------------------------------------

    def result(self):
        """(transform node, facts, fixed, moving) of the selected output transform, None when it holds no result."""
        p = self.panel.parameters
        node = p.outputTransform if p is not None else None
        facts = loadRegistration(node)
        if facts is None:
            return None
        return node, facts, node.GetNodeReference("SAMv2.fixed"), node.GetNodeReference("SAMv2.moving")

    def _pair(self):
        """(fixed, moving) that the comparison shows, None when one is gone."""
        found = self.result()
        if found is None or found[2] is None or found[3] is None:
            return None
        return found[2], found[3]

    def onFade(self, checked) -> None:
        """Moving over fixed in all views, or what they showed before."""
        pair = self._pair()
        if checked and pair is not None:
            self.ui.checkerboardButton.checked = False
            self.comparison.show(*pair, opacity=self.ui.fadeSlider.value / 100)
        elif not self.ui.checkerboardButton.checked:
            self.comparison.restore()
        self.ui.fadeSlider.enabled = self.ui.fadeButton.checked

    def onFadeValue(self, value) -> None:
        if self.ui.fadeButton.checked:
            self.comparison.fade(value / 100)

    def onCheckerboard(self, checked=False) -> None:
        """A checkerboard of both in all views, or what they showed before; there is one at most."""
        pair = self._pair()
        if checked and pair is not None:
            self.ui.fadeButton.checked = False
            comparison.startCheckerboard(self.logic, *pair, onEnd=self.onCheckerboardMade)
            self.panel.refresh()
        elif not self.ui.fadeButton.checked:
            self.comparison.restore()
        if not checked:
            self._removeBoard()

    def onCheckerboardMade(self, job) -> None:
        if job.error is not None:
            self.ui.checkerboardButton.checked = False
            self.panel.showError(job.error)
            return
        self._removeBoard()
        self._boardID = job.value.GetID()
        if self.ui.checkerboardButton.checked:
            self.comparison.show(job.value, None)
        else:  # released meanwhile
            self._removeBoard()

    def _removeBoard(self) -> None:
        node = slicer.mrmlScene.GetNodeByID(self._boardID) if self._boardID else None
        self._boardID = ""
        if node is not None:  # which takes Slicer as long as showing others instead, so in a turn of its own
            qt.QTimer.singleShot(0, lambda: _removeIfThere(node))

    def onWritten(self, output) -> None:
        """A registration was undone or done again."""
        p = self.panel.parameters
        if p is not None:
            p.outputTransform = output
            if output is None:
                self.exit()
        self.panel.refreshSoon()

    def onUsedPoints(self, checked=False) -> None:
        found = self.result()
        if found is not None and found[2] is not None and found[3] is not None:
            ids = [found[0].GetID(), found[2].GetID(), found[3].GetID()]
            name = self.ui.usedPointsButton.text
            addUndoably(self.logic, texts.actionAdd(name), lambda: _made(comparison.addUsedPoints, ids))

    def onUseAsStart(self, checked=False) -> None:
        """Elastix or ANTs with these scans and this transform."""
        found, targets = self.result(), hand_over.installed()
        if found is None:
            return
        if not targets:
            self.panel.say(texts.noRefiner())
            return
        titles = [target.title for target in targets]
        n = dialogs.choose(self.ui.useAsStartButton, titles) if len(targets) > 1 else 0
        if n is not None:
            isOpen = hand_over.startFrom(targets[n], *(found[k] for k in (0, 2, 3)))
            say = texts.handedOver if isOpen else texts.notHandedOver
            self.panel.say(say(titles[n], found[0].GetName()))

    def exit(self) -> None:
        """The module is left: the views get back what they showed."""
        self.ui.fadeButton.checked = self.ui.checkerboardButton.checked = False
        self.comparison.restore()

    # --- what is shown -------------------------------------------------------------------------------------------

    def facts(self) -> panel_states.Facts:
        p = self.panel.parameters
        fixed, moving = p.fixedVolume, p.movingVolume
        return self.commonFacts(
            template=fixed.GetName() if fixed is not None else None,
            query=moving.GetName() if moving is not None else None,
            sameVolume=fixed is not None and fixed is moving,
            patientMismatch=self.panel.unacceptedMismatch(fixed, [moving]),
            stale=self.panel.firstStale([fixed, moving]),
            registered=self._registeredStatus(),
        )

    def warnings(self) -> List[str]:
        """What the user accepts with Continue."""
        return [hierarchy.patientMismatch(self.panel.parameters.fixedVolume, self.panel.parameters.movingVolume)]

    def _registeredStatus(self) -> str:
        """Status of the result that is shown, if it is one of these two scans."""
        found, p = self.result(), self.panel.parameters
        return found[1]["status"] if found is not None and found[2:] == (p.fixedVolume, p.movingVolume) else ""

    def state(self) -> panel_states.PanelState:
        return panel_states.registerState(self.facts())

    def refresh(self, withResults: bool) -> None:
        """Show the facts in the tab's widgets."""
        state = self.state()
        self.ui.registerButton.text, self.ui.registerButton.toolTip = state.action, state.actionTip
        self.ui.registerButton.enabled = state.actionEnabled
        if not withResults:
            return
        if not (self.panel.layout.isSideBySide() or self.panel.layout.isStudies()):  # these show what they are for
            self.comparison.follow()
        found: Optional[tuple] = self.result()
        self.ui.registrationCardLabel.text = texts.registrationCard(found[1]) if found else texts.noRegistration()
        volumes = [node for node in self.volumes() if node is not None]
        self.ui.hardenedCopyButton.enabled = any(node_geometry.isUnderNonLinearTransform(node) for node in volumes)
        hasPair = self._pair() is not None
        self.ui.fadeButton.enabled = hasPair or self.ui.fadeButton.checked  # there always is a way back
        self.ui.checkerboardButton.enabled = hasPair or self.ui.checkerboardButton.checked
        self.ui.usedPointsButton.enabled = hasPair and comparison.hasUsedPoints(found[0])
        self.ui.useAsStartButton.enabled = hasPair


def _removeIfThere(node) -> None:
    if node.GetScene() is not None:
        with slice_views.drawnOnce():
            hierarchy.removeNode(node)


def _made(make, ids: List[str]) -> Sequence[Any]:
    """The nodes that ``make`` makes of the nodes with these IDs; none when one of them is gone."""
    nodes = [slicer.mrmlScene.GetNodeByID(nodeID) for nodeID in ids]
    if any(node is None for node in nodes):
        return ()
    made = make(*nodes)
    return made if isinstance(made, tuple) else (made,)
