"""``qt``: PySide6 in PythonQt's style.

PythonQt shows Qt's properties as attributes (``button.text = "Match"``); PySide6 does the same once its true_property
feature is on. The feature is chosen by the module that touches Qt, and modules that never chose keep the last choice,
so switching it on here makes it hold for all the code under test.
"""

import os

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets  # noqa: E402
from __feature__ import true_property  # noqa: E402, F401

CUSTOM_WIDGETS = {}
"""Class name in a .ui file -> Python class; filled by mrml_widgets.py and ctk_standin.py."""

for _module in (QtCore, QtGui, QtWidgets):
    globals().update({name: value for name, value in vars(_module).items() if name.startswith("Q")})

Signal = QtCore.Signal

# In PythonQt every QObject also has its objectName as ``name``; slicer.util.childWidgetVariables relies on it.
QtCore.QObject.name = property(lambda self: self.objectName)


class QUiLoader(QtUiTools.QUiLoader):
    """Loads .ui files with the stand-ins for Slicer's widget classes; an unknown class is an error, as in Slicer."""

    def createWidget(self, className, parent=None, name=""):
        if className in CUSTOM_WIDGETS:
            widget = CUSTOM_WIDGETS[className](parent)
            widget.objectName = name
            return widget
        if className not in self.availableWidgets():
            raise RuntimeError(f"There is no widget class {className}")
        return super().createWidget(className, parent, name)


def application():
    """The one QApplication of the test process."""
    return QtWidgets.QApplication.instance() or QtWidgets.QApplication(["SlicerStandIn"])
