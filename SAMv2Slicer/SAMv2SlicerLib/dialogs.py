"""File dialogs, the same for PythonQt (which returns a text) and other bindings (text and filter)."""

from __future__ import annotations

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
