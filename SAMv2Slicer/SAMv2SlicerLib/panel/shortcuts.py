"""Keyboard shortcuts of the panel; they exist only while the module is shown and never where text is typed."""

from __future__ import annotations

from typing import Any, List

import qt

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
            ("F", panel.matchTab.toggleFollow),
            ("Esc", panel.cancel),
            ("Ctrl+Z", panel.onUndo),
            ("Ctrl+Shift+Z", panel.onRedo),
        )

    def _ofReview(self, name: str):
        """An action on the selected result of the tab that is shown, if that tab has results to judge."""

        def run() -> None:
            review = self._panel.currentTab().review
            if review is not None:
                getattr(review, name)()

        return run

    def connect(self) -> None:
        """Make the shortcuts, once."""
        if self._shortcuts:
            return
        for keys, action in self.keys():
            shortcut = qt.QShortcut(qt.QKeySequence(keys), self._parent)
            shortcut.activated.connect(self._guarded(action))
            self._shortcuts.append(shortcut)

    def disconnect(self) -> None:
        """Remove the shortcuts."""
        for shortcut in self._shortcuts:
            shortcut.enabled = False
            shortcut.setParent(None)
            shortcut.deleteLater()
        self._shortcuts = []

    def _guarded(self, action):
        def run() -> None:
            parameters = self._panel.parameters
            if parameters is not None and parameters.useKeyboard and not isTyping():
                action()

        return run


def isTyping() -> bool:
    """Whether the keyboard focus is where text is entered."""
    widget = qt.QApplication.focusWidget()
    return widget is not None and any(widget.inherits(name) for name in _TEXT_WIDGETS)
