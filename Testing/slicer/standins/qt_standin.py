"""``qt``: PySide6 in PythonQt's style.

PythonQt shows Qt's properties as attributes (``button.text = "Match"``); PySide6 does the same once its true_property
feature is on. The feature belongs to the module that touches Qt; modules that import no PySide6 by themselves (all the
code under test) keep the choice of those that do, so every stand-in that imports PySide6 makes the same choice.
"""

import os
import sys

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

# The feature reads the source of every module there is; two namespaces of torch that pose as modules cannot bear that.
_POSING = {name: sys.modules.pop(name) for name in ("torch.classes", "torch.ops") if name in sys.modules}

# isort: split
from __feature__ import true_property  # noqa: E402, F401

from standins import pythonqt  # noqa: E402

sys.modules.update(_POSING)

CUSTOM_WIDGETS = {}
"""Class name in a .ui file -> Python class; filled by mrml_widgets.py and ctk_standin.py."""

Signal = QtCore.Signal


def __getattr__(name):
    """Every class of Qt's core, gui and widgets modules under one roof, as PythonQt has it."""
    for module in (QtCore, QtGui, QtWidgets):
        if name.startswith("Q") and hasattr(module, name):
            return pythonqt.asModuleSees(getattr(module, name))
    raise AttributeError(f"module 'qt' has no attribute {name!r}")


# In PythonQt every QObject also has its objectName as ``name``; slicer.util.childWidgetVariables relies on it.
QtCore.QObject.name = property(lambda self: self.objectName)


class QUiLoader(QtUiTools.QUiLoader):
    """Loads .ui files with the stand-ins for Slicer's widget classes; an unknown class is an error, as in Slicer."""

    def createWidget(self, className, parent=None, name=""):
        if className not in CUSTOM_WIDGETS and className not in self.availableWidgets():
            raise RuntimeError(f"There is no widget class {className}")
        kind = CUSTOM_WIDGETS.get(className) or getattr(QtWidgets, className)
        widget = pythonqt.guarded(kind)(parent)
        widget.objectName = name
        return widget


def _quiet(kind, context, message):
    """Qt's warnings go to stderr, except for the .ui file's connections to the scene, which exist in C++ only."""
    if "mrmlSceneChanged" in message or "(sender name:" in message or "(receiver name:" in message:
        return
    if "Empty widget item" not in message:
        print(message, file=sys.stderr)


QtCore.qInstallMessageHandler(_quiet)


def application():
    """The one QApplication of the test process."""
    return QtWidgets.QApplication.instance() or QtWidgets.QApplication(["SlicerStandIn"])
