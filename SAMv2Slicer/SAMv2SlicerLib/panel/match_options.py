"""The Match tab's extras: template points from a file, and embeddings as pictures."""

from __future__ import annotations

import slicer
import slicer.util
import vtk

from SAMv2Core.errors import SAMv2Error
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.match import similarity_map
from SAMv2SlicerLib.panel import dialogs
from SAMv2SlicerLib.panel.parameters import DEFAULT_STARTS, MODELS_OWN_THRESHOLD, MatchMethod, ModalityChoice
from SAMv2SlicerLib.panel.threshold import ThresholdBox, isChosen
from SAMv2SlicerLib.scene import match_list, node_geometry
from SAMv2SlicerLib.scene.added_nodes import addUndoably

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
            match_list.placeBeside(node, p.templateVolume, asChild=True)
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
