"""SAMv2 Anatomical Matching: find the same anatomical point in another CT or MR scan, and register scans.

The scripted module's four classes. They are glue: the work is in SAMv2SlicerLib (beside this file, Slicer's side) and
in SAMv2Core (no Slicer in it). Nothing here imports PyTorch, installs, downloads or reads the network.
"""

import importlib
import logging
import os
import sys
import unittest

import slicer
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

try:
    import SAMv2Core
except ImportError:  # a source checkout: the library lies beside this module's folder
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    import SAMv2Core

    logging.info("SAMv2: using SAMv2Core of the source checkout in %s", os.path.dirname(SAMv2Core.__file__))

from SAMv2SlicerLib import texts
from SAMv2SlicerLib.logic import SAMv2SlicerLogic

__all__ = ["SAMv2Slicer", "SAMv2SlicerLogic", "SAMv2SlicerTest", "SAMv2SlicerWidget"]


class SAMv2Slicer(ScriptedLoadableModule):
    """What Slicer shows of the module in its menus and help."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = texts.moduleTitle()
        parent.categories = [translate("qSlicerAbstractCoreModule", "Registration")]
        parent.dependencies = ["Markups", "Segmentations", "Transforms", "Volumes"]
        parent.contributors = ["SAMv2 for 3D Slicer contributors"]
        parent.helpText = texts.helpText()
        parent.acknowledgementText = texts.acknowledgementText()
        slicer.app.connect("startupCompleted()", onSlicerStarted)


def onSlicerStarted():
    """What has to be there before the module is opened: layouts that scenes may name, and the sample scans."""
    from SAMv2SlicerLib.scene import layouts

    layouts.register()
    slicer.mrmlScene.AddObserver(slicer.vtkMRMLScene.EndImportEvent, onSceneLoaded)
    registerSampleData()


def onSceneLoaded(caller, event):
    """Whatever module is shown: a scene may name layouts and views that are not there."""
    from SAMv2SlicerLib.scene import layouts, line_labels, own_views

    layouts.repair()
    own_views.release()
    line_labels.release()


def registerSampleData():
    """Add the sample scans to the Sample Data module."""
    try:
        from SAMv2SlicerLib.setup import sample_data

        sample_data.register()
    except ImportError:  # Slicer without the Sample Data module
        logging.debug("SAMv2: the Sample Data module is not available")


class SAMv2SlicerWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Life cycle of the panel; what it shows and does is in SAMv2SlicerLib/panel/panel.py."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.panel = None
        self.ui = None

    def setup(self):
        """Build the panel; called once, when the module is first shown. Works without main window and PyTorch."""
        from SAMv2SlicerLib.panel.panel import Panel

        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/SAMv2Slicer.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = SAMv2SlicerLogic()
        self.panel = Panel(self.ui, self.logic, self.parent)
        self.addObserver(slicer.mrmlScene, slicer.vtkMRMLScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.vtkMRMLScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.vtkMRMLScene.StartImportEvent, self.onSceneStartImport)
        self.addObserver(slicer.mrmlScene, slicer.vtkMRMLScene.EndImportEvent, self.onSceneEndImport)
        if getattr(self.parent, "isEntered", False):  # reloaded while it is shown: nobody will enter it again
            self.enter()

    def enter(self):
        """The user opens the module."""
        self.panel.enter()

    def exit(self):
        """The user opens another module."""
        self.panel.exit()

    def cleanup(self):
        """Slicer closes or reloads the module."""
        self.removeObservers()
        if self.panel is not None:
            self.panel.cleanup()
            self.panel = None

    def onSceneStartClose(self, caller, event):
        """Let go of the scene's nodes before they are removed."""
        self.panel.sceneClosing()

    def onSceneEndClose(self, caller, event):
        """Begin anew with the empty scene, if the module is open."""
        if self.parent.isEntered and self.panel is not None:
            self.panel.enter()

    def onSceneStartImport(self, caller, event):
        """A scene is being loaded: selectors lose their nodes and find them again, which is no choice of the user."""
        self.panel.sceneImporting()

    def onSceneEndImport(self, caller, event):
        """A scene was loaded, perhaps with our parameter node."""
        self.panel.sceneImported()

    def onReload(self):
        """Reload the libraries, too: Slicer's reload knows only this file. Leaves first, so that nobody keeps an old
        class."""
        logging.info("SAMv2: reloading the module and its libraries")
        self.panel.cleanup()  # before anything is loaded anew: what still computes would mix old and new
        self.panel = None
        for name in reloadOrder():
            importlib.reload(sys.modules[name])
        ScriptedLoadableModuleWidget.onReload(self)


def reloadOrder():
    """Loaded modules of SAMv2Core and SAMv2SlicerLib, each after those of them that it imports from."""
    names = sorted(name for name in sys.modules if name.split(".")[0] in ("SAMv2Core", "SAMv2SlicerLib"))
    order, visiting = [], set()

    def visit(name):
        if name in visiting:
            return
        visiting.add(name)
        for value in list(vars(sys.modules[name]).values()):
            imported = (
                getattr(value, "__name__", "") if isinstance(value, type(sys)) else getattr(value, "__module__", "")
            )
            if imported in names and imported != name:
                visit(imported)
        order.append(name)

    for name in names:
        visit(name)
    return order


class SAMv2SlicerTest(ScriptedLoadableModuleTest):
    """Self test inside Slicer: the panel without PyTorch, a match with it where it is installed, and from a source
    checkout the core of the tour through the panel and the views (Testing/slicer/in_application).

    The full tests are in Testing/slicer and need no Slicer application.
    """

    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        for test in (self.test_geometry, self.test_match, self.test_tour):
            self.setUp()
            try:
                test()
            except unittest.SkipTest as reason:  # "Reload and Test" would show it as an error
                self.delayDisplay(_("Skipped: {reason}").format(reason=reason))

    def test_geometry(self):
        """Points are carried between the world and a volume's own frame."""
        import numpy as np

        from SAMv2SlicerLib.scene import node_geometry

        self.delayDisplay(_("Geometry"))
        node = self._phantom("SAMv2SelfTest")
        world = np.array([[1.0, 2.0, 3.0]])
        lps = node_geometry.worldToVolumeLPS(node, world)
        self.assertTrue(np.allclose(lps, [[-1.0, -2.0, 3.0]]))
        self.assertTrue(np.allclose(node_geometry.volumeLPSToWorld(node, lps), world))

    def test_match(self):
        """A point is found again in a copy of its own scan."""
        import numpy as np

        from SAMv2SlicerLib.scene import node_geometry
        from SAMv2SlicerLib.work import engine

        if engine.torchState() != "ready":
            self.skipTest("PyTorch is not installed in this Slicer")
        self.delayDisplay(_("Matching a scan with its copy"))
        template, query = self._phantom("SAMv2SelfTestA"), self._phantom("SAMv2SelfTestB")
        points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "F")
        points.AddControlPointWorld(vtk.vtkVector3d(40.0, 50.0, 45.0), "F-1")
        logic = SAMv2SlicerLogic()
        try:
            matched = logic.matchPoints(template, query, points, modalities=("ct", "ct"))
        finally:
            logic.cleanup()
        self.assertEqual(matched.GetNumberOfControlPoints(), 1)
        distance = np.linalg.norm(node_geometry.pointWorld(matched, 0) - [40.0, 50.0, 45.0])
        self.assertLess(distance, 6.0)  # mm: one and a half voxels of the fine features
        self.delayDisplay(_("Test passed"))

    def test_tour(self):
        """Scans side by side, a click, its match, judging, saving and loading: with the mouse, in the window."""
        import tempfile

        from SAMv2SlicerLib.work import engine

        folder = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "Testing", "slicer")
        folder = os.path.join(folder, "in_application")
        if not os.path.isdir(folder):
            self.skipTest("the tour comes with the source, not with the package")
        if slicer.util.mainWindow() is None or engine.torchState() != "ready":
            self.skipTest("the tour needs a window and PyTorch")
        if folder not in sys.path:
            sys.path.insert(0, folder)
        import tour

        with tempfile.TemporaryDirectory() as output:
            journey = tour.Tour(output)
            self.assertTrue(journey.run(tour.CORE), journey.report["steps"])
        self.delayDisplay(_("Test passed"))

    def _phantom(self, name):
        """A soft-tissue ball with random blobs in air, 2 mm voxels."""
        import numpy as np
        from scipy.ndimage import gaussian_filter

        rng = np.random.default_rng(0)
        z, y, x = np.indices((48, 48, 48)) - 23.5
        texture = gaussian_filter(rng.standard_normal((48, 48, 48)), 2) * 800
        values = np.where(x**2 + y**2 + z**2 < 22**2, 40 + texture, -1000).astype(np.int16)
        return slicer.util.addVolumeFromArray(values, np.diag([2.0, 2.0, 2.0, 1.0]), name)
