"""The Match tab's extras: template points from a file, and embeddings as pictures."""

from __future__ import annotations

from typing import Any, List, Optional, Sequence, Tuple

import slicer
import slicer.util
import vtk

from SAMv2Core.errors import SAMv2Error
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.match import similarity_map
from SAMv2SlicerLib.panel import dialogs
from SAMv2SlicerLib.panel.parameters import DEFAULT_STARTS, MODELS_OWN_THRESHOLD, MatchMethod, ModalityChoice
from SAMv2SlicerLib.scene import hierarchy, node_geometry, segments
from SAMv2SlicerLib.scene.undo import addUndoably
from SAMv2SlicerLib.setup import models

PATTERNS = "Points (*.mrk.json *.json *.fcsv *.csv)"


class MatchExtras:
    """Binds the buttons.

    :param panel: see panel.py; :param tab: the Match tab.
    """

    def __init__(self, ui, panel, tab) -> None:
        self.ui, self.panel, self._tab = ui, panel, tab
        self.threshold = ThresholdBox(ui.matchedAboveSpinBox, panel)
        ui.loadPointsButton.clicked.connect(self.onLoadPoints)
        ui.colorsButton.clicked.connect(self.onColors)
        ui.defaultsButton.clicked.connect(self.onDefaults)

    def applyOptions(self) -> None:
        """Tell the engine what Advanced says; values that are SAMv2Core's own are left to it."""
        p, engine = self.panel.parameters, self.panel.logic.engine
        engine.usesDiskCache = p.useDiskCache
        engine.memoryLimitGiB = p.memoryLimitGB or None
        engine.startsPerAxis = p.startsPerAxis if p.startsPerAxis != DEFAULT_STARTS else None
        engine.matchedAbove = p.matchedAbove if isChosen(p.matchedAbove) else None

    def onDefaults(self, checked=False) -> None:
        """Set the options of Advanced back."""
        p = self.panel.parameters
        with slicer.util.NodeModify(p.parameterNode):
            p.method = MatchMethod.FIXED_POINT
            p.templateModality = p.queryModality = ModalityChoice.AUTO
            p.startsPerAxis, p.matchedAbove = DEFAULT_STARTS, MODELS_OWN_THRESHOLD
            p.searchSegmentation, p.searchSegment = None, ""
            p.memoryLimitGB, p.useDiskCache, p.useKeyboard = 0.0, True, True
        self.panel.say(texts.optionsReset())

    def onLoadPoints(self, checked=False) -> None:
        """A point list from a file becomes the template's list."""
        path = dialogs.openFile(self.ui.loadPointsButton, texts.loadPointsTitle(), PATTERNS)
        if not path or self.panel.parameters is None:
            return
        try:
            (node,) = addUndoably(self.panel.logic, texts.actionLoadPoints(), lambda: (self._load(path),))
        except SAMv2Error as error:
            self.panel.showError(error)
            return
        self.panel.parameters.points = node
        self.panel.say(texts.pointsLoaded(len(node_geometry.definedPointIndices(node)), node.GetName()))

    def _load(self, path: str):
        node, p = loadPoints(path), self.panel.parameters
        if p is not None and p.templateVolume is not None:
            hierarchy.placeBeside(node, p.templateVolume, asChild=True)
        return node

    def onColors(self, checked=False) -> None:
        """Color volumes of the template's and the query's embeddings."""
        inputs = self._tab.inputs()
        try:
            for node, modality in zip((inputs.templateNode, inputs.queryNode), inputs.modalities):
                if node is not None:
                    similarity_map.startColors(
                        self.panel.logic, node, inputs.model, inputs.device, modality, self._onColors
                    )
        except SAMv2Error as error:
            self.panel.showError(error)

    def _onColors(self, job) -> None:
        if job.error is not None:
            self.panel.showError(job.error)
        else:
            self.panel.say(texts.colorsAdded(job.value.GetName()))


def loadPoints(path: str):
    """A new point list node from ``.mrk.json``, ``.fcsv`` or ``.csv`` (label,l,p,s), as the command line reads them.

    Points without a position stay in the list, so that they can be placed by hand.

    :raises InputError: not a point file, or coordinates that are none.
    """
    from SAMv2Core.io.points import read_points

    points = read_points(path)
    name = slicer.mrmlScene.GenerateUniqueName(points.name or "F")
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    node.CreateDefaultDisplayNodes()
    with slicer.util.NodeModify(node):
        for point in points:
            isPlaced = point.position_lps is not None
            world = node_geometry.flipRASAndLPS(point.position_lps) if isPlaced else (0.0, 0.0, 0.0)
            index = node.AddControlPointWorld(vtk.vtkVector3d(*world), point.label)
            node.SetNthControlPointDescription(index, point.description)
            if not isPlaced:
                node.UnsetNthControlPointPosition(index)
    return node


SMALLEST_CHOICE = 0.25
"""Above the value of the parameter that stands for the model's own."""


class ThresholdBox:
    """Binds the spin box by hand: the parameter node's connector could not show one value and store another.

    :param panel: see panel.py.
    """

    def __init__(self, spinBox, panel) -> None:
        self._box, self._panel = spinBox, panel
        self._isShowing = False
        self._known: Tuple[Any, float] = (None, 0.0)
        spinBox.minimum = SMALLEST_CHOICE
        spinBox.valueChanged.connect(self.onValue)

    def show(self, modalities: Sequence[str]) -> None:
        """Show what holds for matches between scans of these modalities (ct, mr; those that are known)."""
        parameters = self._panel.parameters
        isOwn = not isChosen(parameters.matchedAbove)
        self._isShowing = True
        try:
            self._box.suffix = texts.thresholdOwn() if isOwn else ""
            self._box.value = self._own(parameters.model, modalities) if isOwn else parameters.matchedAbove
        finally:
            self._isShowing = False

    def onValue(self, value=0.0) -> None:
        if not self._isShowing and self._panel.parameters is not None:
            self._panel.parameters.matchedAbove = self._box.value

    def _own(self, model: str, modalities: Sequence[str]) -> float:
        """The model's own threshold; reads a file's header, so it is remembered for the last question."""
        key = (model, tuple(modalities))
        if self._known[0] != key:
            self._known = (key, models.matchedAbove(model, modalities))
        return self._known[1]


def isChosen(matchedAbove: float) -> bool:
    """Whether the parameter is a threshold that the user chose."""
    return matchedAbove > MODELS_OWN_THRESHOLD + 1e-6


class SegmentBox:
    """Fills a combo box; the first entry is to search everywhere.

    :param panel: see panel.py.
    """

    def __init__(self, comboBox, panel) -> None:
        self._box, self._panel = comboBox, panel
        self._shown: List[Tuple[str, str]] = []
        self._isShowing = False
        comboBox.currentIndexChanged.connect(self.onChosen)

    def chosen(self) -> Optional[Tuple[Any, str]]:
        """(segmentation node, segment ID), None to search everywhere."""
        p = self._panel.parameters
        node = p.searchSegmentation
        isThere = node is not None and p.searchSegment in dict(segments.segmentsIn(node))
        return (node, p.searchSegment) if isThere else None

    def show(self) -> None:
        """Show the segments as they are now."""
        p = self._panel.parameters
        found = [("", texts.searchEverywhere()), *segments.segmentsIn(p.searchSegmentation)]
        self._isShowing = True
        try:
            if found != self._shown:
                self._shown = found
                self._box.clear()
                self._box.addItems([name for _, name in found])
            ids = [segmentID for segmentID, _ in found]
            self._box.currentIndex = ids.index(p.searchSegment) if p.searchSegment in ids else 0
            self._box.enabled = len(found) > 1
        finally:
            self._isShowing = False

    def onChosen(self, index=0) -> None:
        if not self._isShowing and self._panel.parameters is not None:
            self._panel.parameters.searchSegment = self._shown[self._box.currentIndex][0]
