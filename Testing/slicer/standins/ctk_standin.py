"""``ctk``: the CTK widgets that the module's .ui file uses."""

from PySide6 import QtCore, QtWidgets

# isort: split
from __feature__ import true_property  # noqa: F401

from standins.qt_standin import CUSTOM_WIDGETS


class ctkCollapsibleButton(QtWidgets.QGroupBox):
    """A titled area that can be folded; shows its text as a group box title."""

    contentsCollapsed = QtCore.Signal(bool)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._collapsed = False

    def _getText(self):
        return self.title

    def _setText(self, text):
        self.title = text

    def _getCollapsed(self):
        return self._collapsed

    def _setCollapsed(self, collapsed):
        self._collapsed = bool(collapsed)
        for child in self.findChildren(QtWidgets.QWidget, options=QtCore.Qt.FindDirectChildrenOnly):
            child.visible = not self._collapsed
        self.contentsCollapsed.emit(self._collapsed)

    text = QtCore.Property(str, _getText, _setText)
    collapsed = QtCore.Property(bool, _getCollapsed, _setCollapsed)


CUSTOM_WIDGETS["ctkCollapsibleButton"] = ctkCollapsibleButton
