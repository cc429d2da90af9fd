"""``slicer.app``, ``slicer.modules`` and a scene that can save and load ``.mrb`` files, without a main window."""

import os

import slicer
from PySide6 import QtCore

# isort: split
from __feature__ import true_property  # noqa: F401

from standins import qt_standin


class ModuleManager(QtCore.QObject):
    moduleAboutToBeUnloaded = QtCore.Signal(str)


class Application(QtCore.QObject):
    """What the module asks the application for; ``layoutManager()`` is None without views, as in Slicer."""

    applicationName = "SlicerStandIn"
    startupCompleted = QtCore.Signal()

    def __init__(self, folder):
        super().__init__()
        self._qtApplication = qt_standin.application()
        self._folder = folder
        self._moduleManager = ModuleManager()
        self._settings = QtCore.QSettings(os.path.join(folder, "settings.ini"), QtCore.QSettings.IniFormat)
        self._logic = slicer.vtkSlicerApplicationLogic()
        self.windows = None
        """A LayoutManager (layout_manager.py) while a test has views."""

    def connect(self, signal, slot):
        """PythonQt's way to connect: the signal by its C++ signature."""
        self._signal(signal).connect(slot)

    def disconnect(self, signal, slot):
        self._signal(signal).disconnect(slot)

    def _signal(self, signature):
        name = signature.split("(")[0]
        return getattr(self._qtApplication if name == "focusChanged" else self, name)

    def processEvents(self, flags=QtCore.QEventLoop.AllEvents):
        self._qtApplication.processEvents(flags)

    def moduleManager(self):
        return self._moduleManager

    def layoutManager(self):
        return self.windows

    def applicationLogic(self):
        return self._logic

    def testingEnabled(self):
        return True

    def userSettings(self):
        return self._settings

    settings = userSettings

    def mainWindow(self):
        return None

    def topLevelWidgets(self):
        return []

    def setOverrideCursor(self, cursor):
        pass

    def restoreOverrideCursor(self):
        pass


class Modules:
    """``slicer.modules``: module objects by lower-case name."""


def connectScene(scene, applicationLogic, folder):
    """What the application does to its scene: logics that register node classes, and the cache that .mrb needs."""
    applicationLogic.SetMRMLScene(scene)
    cache = slicer.vtkCacheManager()
    cache.SetRemoteCacheDirectory(os.path.join(folder, "RemoteIO"))
    cache.SetMRMLScene(scene)
    scene.SetCacheManager(cache)
    dataIO = slicer.vtkDataIOManager()
    dataIO.SetCacheManager(cache)
    scene.SetDataIOManager(dataIO)
    logics = []
    for module, name in (
        ("Volumes", "vtkSlicerVolumesLogic"),
        ("Markups", "vtkSlicerMarkupsLogic"),
        ("Transforms", "vtkSlicerTransformLogic"),
        ("Tables", "vtkSlicerTablesLogic"),
        ("Segmentations", "vtkSlicerSegmentationsModuleLogic"),
        ("SubjectHierarchy", "vtkSlicerSubjectHierarchyModuleLogic"),
    ):
        logic = getattr(slicer, name)()
        logic.SetMRMLScene(scene)
        applicationLogic.SetModuleLogic(module, logic)
        logics.append(logic)
    return [cache, dataIO, *logics]
