"""File dialogs, the same for PythonQt (which returns a text) and other bindings (text and filter); the wait cursor."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator

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
