"""What an installation is doing, in a dialog that can cancel it.

``slicer.util.logProcessOutput`` runs pip in the main thread: it prints every line and lets the application draw in
between. So the lines are read where they are printed. pip tells how far a download is when asked for its *raw* progress
bar (since 24.1), which also makes *Cancel* answer within a moment; between two lines nothing can answer, so the text
says that unpacking takes a while.

Canceling raises out of the printing. pip then finds the other end of its pipe closed and stops; what it leaves behind
is found and removed by the next *Set up…* (a torch that is ``broken``).
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import os
import re
import sys
from typing import Any, Iterator, Optional, TextIO

import slicer
import slicer.util

from SAMv2SlicerLib import texts

LONGEST_LINE = 90
_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_RAW_SINCE = (24, 1)
_PIP_VARIABLE = "PIP_PROGRESS_BAR"


class InstallCanceled(BaseException):
    """The user pressed *Cancel*. Not an Exception: installers that report those must let it through."""


@contextlib.contextmanager
def shown(dialog: Optional[Any] = None) -> Iterator[None]:
    """Show what is printed meanwhile, and raise :class:`InstallCanceled` out of it when the user cancels.

    :param dialog: QProgressDialog; made when there is a main window. Without one nothing is shown.
    """
    if dialog is None and slicer.util.mainWindow() is not None:
        dialog = slicer.util.createProgressDialog(
            maximum=0,
            labelText=texts.setupWorking(""),
            windowTitle=texts.moduleTitle(),
            autoClose=False,
            modal=True,  # lines let events in, and nothing else may be clicked meanwhile
        )
    if dialog is None:
        yield
        return
    before = os.environ.get(_PIP_VARIABLE)
    if _pipTellsProgress():
        os.environ[_PIP_VARIABLE] = "raw"
    try:
        with contextlib.redirect_stdout(_Shown(dialog, sys.stdout)):
            yield
    finally:
        if before is None:
            os.environ.pop(_PIP_VARIABLE, None)
        else:
            os.environ[_PIP_VARIABLE] = before
        dialog.close()


class _Shown(io.TextIOBase):
    """Passes on what is printed and shows it."""

    def __init__(self, dialog: Any, stream: TextIO) -> None:
        super().__init__()
        self._dialog, self._stream = dialog, stream
        self._line = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._line += text
        *lines, self._line = self._line.split("\n")
        for line in lines:
            if not self._isProgress(line):
                self._stream.write(f"{line}\n")
                if line.strip():
                    self._dialog.maximum = 0
                    self._dialog.labelText = texts.setupWorking(line.strip()[:LONGEST_LINE])
        if self._dialog.wasCanceled:
            raise InstallCanceled
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def _isProgress(self, line: str) -> bool:
        found = _PROGRESS.fullmatch(line.strip())
        if found is None:
            return False
        done, total = int(found.group(1)), int(found.group(2))
        self._dialog.maximum = 100
        self._dialog.value = min(99, 100 * done // max(total, 1))  # at 100 it would close itself
        return True


def _pipTellsProgress() -> bool:
    """Whether pip knows ``--progress-bar raw``; an older one would refuse to start."""
    try:
        numbers = re.findall(r"\d+", importlib.metadata.version("pip"))
    except importlib.metadata.PackageNotFoundError:
        return False
    return tuple(int(n) for n in numbers[:2]) >= _RAW_SINCE
