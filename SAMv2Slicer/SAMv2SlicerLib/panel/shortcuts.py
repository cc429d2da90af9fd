"""Keyboard shortcuts of the panel; they exist only while the module is shown and leave other widgets their own keys.

They hold in all windows of the application, also in views that were moved into one of their own. A shortcut takes its
key away from the widget that has the focus, so each is off while that widget needs the key itself: text is typed, or
the space bar presses a button. Keys that Slicer's slice views know (F is the next slice) are not used.
"""

from __future__ import annotations

from typing import Any, List

import qt
import slicer

_PRESSED_WIDGETS = ("QAbstractButton", "QComboBox", "QMenu", "QTabBar", "QAbstractSlider")
"""What the space bar acts on, so that it accepts nothing; nor in lists that are not ours, where it checks an item."""

_TEXT_WIDGETS = ("QLineEdit", "QTextEdit", "QPlainTextEdit", "QSpinBox", "QDoubleSpinBox", "ctkPythonConsole")


class Shortcuts:
    """Makes and removes the shortcuts.

    :param parent: the module's top widget; shortcuts die with it.
    """

    def __init__(self, parent, panel) -> None:
        self._parent, self._panel = parent, panel
        self._shortcuts: List[Any] = []

    def keys(self):
        """(key sequence, action) of all shortcuts."""
        panel = self._panel
        return (
            ("M", panel.matchTab.onMatch),
            ("N", self._ofReview("selectNext")),
            ("Shift+N", self._ofReview("selectPrevious")),
            ("Space", self._ofReview("onAccept")),
            ("X", self._ofReview("onReject")),
            ("P", self._ofReview("onEdit")),
            ("Shift+F", lambda: panel.currentTab().toggleFollow()),
            ("Esc", panel.cancel),
            ("Ctrl+Z", panel.onUndo),
            ("Ctrl+Shift+Z", panel.onRedo),
        )

    def _ofReview(self, name: str):
        """An action on the selected result of the tab that is shown, if that tab has results to judge."""

        def run() -> None:
            review = self._panel.currentTab().review
            if review is not None:
                self._panel.currentTab().noteAction()
                getattr(review, name)()

        return run

    def connect(self) -> None:
        """Make the shortcuts, once."""
        if self._shortcuts:
            return
        for keys, action in self.keys():
            shortcut = qt.QShortcut(qt.QKeySequence(keys), self._parent)
            shortcut.context = qt.Qt.ApplicationShortcut
            shortcut.activated.connect(self._guarded(action))
            self._shortcuts.append((keys, shortcut))
        slicer.app.connect("focusChanged(QWidget*,QWidget*)", self.onFocus)
        self.onFocus(None, qt.QApplication.focusWidget())

    def disconnect(self) -> None:
        """Remove the shortcuts."""
        if self._shortcuts:
            slicer.app.disconnect("focusChanged(QWidget*,QWidget*)", self.onFocus)
        for _, shortcut in self._shortcuts:
            shortcut.enabled = False
            shortcut.setParent(None)
            shortcut.deleteLater()
        self._shortcuts = []

    def onFocus(self, before, now) -> None:
        """Leave a widget that gets the focus the keys that it needs."""
        isText, isPressed = isAny(now, _TEXT_WIDGETS), isAny(now, _PRESSED_WIDGETS) or self._isOthersList(now)
        for keys, shortcut in self._shortcuts:
            shortcut.enabled = not isText and not (isPressed and keys == "Space")

    def _isOthersList(self, widget) -> bool:
        ui = self._panel.ui
        return isAny(widget, ("QAbstractItemView",)) and widget not in (ui.resultsTable, ui.findingsTable)

    def _guarded(self, action):
        def run() -> None:
            parameters = self._panel.parameters
            if parameters is not None and parameters.useKeyboard:
                action()

        return run


def isAny(widget, classNames) -> bool:
    """Whether a widget is of one of some classes; None is of none."""
    return widget is not None and any(widget.inherits(name) for name in classNames)
