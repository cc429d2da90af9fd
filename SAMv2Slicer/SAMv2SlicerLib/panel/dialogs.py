"""File dialogs (PythonQt returns a text, other bindings a text and a filter), a menu, and the wait cursor."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator, Optional, Sequence

import qt


def openFile(parent, title: str, patterns: str) -> str:
    """Path of a file to read, empty when the user changed their mind."""
    return _path(qt.QFileDialog.getOpenFileName(parent, title, "", patterns))


def saveFile(parent, title: str, name: str, patterns: str) -> str:
    """Path of a file to write, empty when the user changed their mind."""
    return _path(qt.QFileDialog.getSaveFileName(parent, title, name, patterns))


def chooseFolder(parent, title: str) -> str:
    """Path of a folder, empty when the user changed their mind."""
    return _path(qt.QFileDialog.getExistingDirectory(parent, title))


def _path(answer) -> str:
    return str(answer[0] if isinstance(answer, tuple) else answer or "")


def choose(button, titles: Sequence[str]) -> Optional[int]:
    """Index of the entry that the user picks from a menu below a button, None when they changed their mind."""
    menu = qt.QMenu(button)
    actions = [menu.addAction(title) for title in titles]
    chosen = menu.exec_(button.mapToGlobal(qt.QPoint(0, button.height)))
    menu.deleteLater()
    return next((n for n, action in enumerate(actions) if action == chosen), None)


@contextmanager
def waitCursor() -> Iterator[None]:
    """The wait cursor while something takes a second or two in the main thread.

    Not slicer.util's, because that one lets events in, and with them the user's next click.
    """
    qt.QApplication.setOverrideCursor(qt.Qt.WaitCursor)
    try:
        yield
    finally:
        qt.QApplication.restoreOverrideCursor()
