"""What an installation is doing, in a dialog that can cancel it, and in words why it failed.

``slicer.util.logProcessOutput`` runs pip in the main thread: it prints every line and lets the application draw in
between. So the lines are read where they are printed. pip tells how far a download is when asked for its *raw* progress
bar (since 24.1), which also makes *Cancel* answer within a moment; between two lines nothing can answer, so the text
says that unpacking takes a while. Slicer 5.11 and later would rather run pip beside the main thread, with a dialog of
its own that has no *Cancel* (``show_progress`` of ``slicer.packaging.pip_install``), hence :func:`pipOptions`.

Canceling raises out of the printing. pip then finds the other end of its pipe closed and stops; what it leaves behind
is found and removed by the next *Set up…* (a torch that is ``broken``).
"""

from __future__ import annotations

import collections
import contextlib
import importlib
import importlib.metadata
import io
import os
import re
import sys
from typing import Any, Deque, Dict, Iterator, Optional, TextIO

import qt
import slicer
import slicer.util

from SAMv2SlicerLib import texts

LONGEST_LINE = 90
LINES_KEPT = 200
_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_OFFLINE = re.compile(
    r"NameResolutionError|getaddrinfo failed|name resolution|NewConnectionError|ConnectTimeoutError|ProxyError"
    r"|Network is unreachable|No route to host|Failed to establish a new connection|Max retries exceeded"
)
"""What pip says when there is no way to the package index."""

_RAW_SINCE = (24, 1)
_PIP_VARIABLE = "PIP_PROGRESS_BAR"


class InstallCanceled(BaseException):
    """The user pressed *Cancel*. Not an Exception: installers that report those must let it through."""


class Transcript:
    """The last lines that were printed."""

    def __init__(self) -> None:
        self.lines: Deque[str] = collections.deque(maxlen=LINES_KEPT)

    def problem(self, error: BaseException) -> str:
        """Why an installation failed, for the user: pip says why in its lines, its error has an exit code only."""
        if any(_OFFLINE.search(line) for line in self.lines):
            return texts.setupOffline()
        told = [line[len("ERROR:") :].strip() for line in self.lines if line.startswith("ERROR:")]
        return told[-1] if told else oneLine(error)


def oneLine(error: BaseException) -> str:
    """The first line of an error's text, its kind when it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def pipOptions() -> Dict[str, Any]:
    """What ``slicer.util.pip_install`` must be given so that it runs in the main thread and prints its lines."""
    try:
        importlib.import_module("slicer.packaging")
    except ImportError:  # before 5.11 it always does
        return {}
    return {"show_progress": False}


@contextlib.contextmanager
def shown(dialog: Optional[Any] = None, text: str = "", isCancelable: bool = True) -> Iterator[Transcript]:
    """Show and keep what is printed meanwhile, and raise :class:`InstallCanceled` out of it when the user cancels.

    :param dialog: QProgressDialog; made when there is a main window. Without one nothing is shown.
    :param text: what is going on, until something is printed.
    """
    if dialog is None and slicer.util.mainWindow() is not None:
        dialog = slicer.util.createProgressDialog(
            maximum=0,
            labelText=text or texts.setupWorking(""),
            windowTitle=texts.moduleTitle(),
            autoClose=False,
            windowModality=qt.Qt.ApplicationModal,  # lines let events in, and nothing else may be clicked meanwhile
        )
        if not isCancelable:
            dialog.setCancelButton(None)
        dialog.show()
        slicer.app.processEvents()  # the first line may be a minute away
    transcript = Transcript()
    before = os.environ.get(_PIP_VARIABLE)
    if _pipTellsProgress():
        os.environ[_PIP_VARIABLE] = "raw"
    try:
        with contextlib.redirect_stdout(_Shown(dialog, sys.stdout, transcript)):
            yield transcript
    finally:
        if before is None:
            os.environ.pop(_PIP_VARIABLE, None)
        else:
            os.environ[_PIP_VARIABLE] = before
        if dialog is not None:
            dialog.close()


class _Shown(io.TextIOBase):
    """Passes on what is printed, keeps it, and shows it if there is a dialog."""

    def __init__(self, dialog: Optional[Any], stream: TextIO, transcript: Transcript) -> None:
        super().__init__()
        self._dialog, self._stream, self._transcript = dialog, stream, transcript
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
                    self._transcript.lines.append(line.strip())
                if line.strip() and self._dialog is not None:
                    self._dialog.maximum = 0
                    self._dialog.labelText = texts.setupWorking(line.strip()[:LONGEST_LINE])
        if self._dialog is not None and self._dialog.wasCanceled:
            raise InstallCanceled
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def _isProgress(self, line: str) -> bool:
        found = _PROGRESS.fullmatch(line.strip())
        if found is None:
            return False
        if self._dialog is None:
            return True
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
