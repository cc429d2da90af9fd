"""PyTorch for this Slicer: what is missing, asking, installing through the PyTorch extension, checking.

The only module that installs anything, and only from a click that was answered with yes. torch never comes from a bare
pip here (the PyTorch extension picks the build for the driver), and SimpleITK, numpy and vtk are never touched. A torch
that was just installed is tried in another process first: a broken one can take Slicer down when imported.

What differs between Slicer versions is in :func:`install_progress.pipOptions`.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import logging
import os
import re
import shutil
import sys
import tempfile
from typing import Any, Iterator, Optional

import slicer
import slicer.util

from SAMv2SlicerLib import texts
from SAMv2SlicerLib.setup import install_progress
from SAMv2SlicerLib.work import engine

logger = logging.getLogger(__name__)

MINIMUM_TORCH = "2.0"
SIZE_TEXT = "0.2 GB (CPU) to 3 GB (CUDA)"
FREE_BYTES_NEEDED = 3 * 2**29
"""A CPU build of PyTorch unpacks to some 0.8 GB."""

FREE_BYTES_FOR_CUDA = 8 * 2**30
"""A CUDA build of PyTorch unpacks to some 6 GB."""

EXTENSION = "PyTorch"
PENDING_SETTING = "SAMv2/SetUpPending"

CONSENT_VARIABLE = "SAMV2_ALLOW_INSTALL"


def setUp(ask=None) -> str:
    """Install what is missing, after asking; a text for the status line. Main thread only.

    :param ask: called with the question, returns whether to go on; by default a dialog. In Slicer's testing mode
        dialogs answer yes by themselves, so there the environment variable SAMV2_ALLOW_INSTALL must agree too.
    """
    problem = obstacle()
    if problem:
        return texts.setupFailed(problem)
    question = texts.setupConsent(SIZE_TEXT, os.path.dirname(os.__file__))
    free = shutil.disk_usage(os.path.dirname(os.__file__)).free
    if free < FREE_BYTES_FOR_CUDA:
        question += "\n\n" + texts.setupTight(free / 2**30, FREE_BYTES_FOR_CUDA / 2**30)
    if not (ask or confirm)(question):
        return texts.setupDeclined()
    try:
        logic = pyTorchUtilsLogic()
        if logic is None:
            return _installExtension()
        setPending(False)
        with install_progress.shown() as transcript:
            problem = _installTorch(logic, transcript)
    except install_progress.InstallCanceled:
        return texts.setupCanceled()
    except Exception as error:
        logger.exception("The PyTorch extension does not work")
        problem = install_progress.oneLine(error)
    if problem:
        return texts.setupFailed(problem)
    importlib.invalidate_caches()
    return _checked()


def _installTorch(logic, transcript: install_progress.Transcript) -> str:
    """Install PyTorch through its extension; what went wrong, empty when nothing did."""
    try:
        if engine.torchState() == "broken":
            logic.uninstallTorch()
        logic.installTorch(askConfirmation=False, torchVersionRequirement=f">={MINIMUM_TORCH}")
    except Exception as error:
        logger.exception("PyTorch could not be installed")
        return transcript.problem(error)
    return ""


def _installExtension() -> str:
    """Install the PyTorch extension (consent was given); a text for the status line."""
    manager = getattr(slicer.app, "extensionsManagerModel", lambda: None)()
    if manager is None or not hasattr(manager, "installExtensionFromServer"):
        return texts.setupExtensionMissing()
    wasInteractive, manager.interactive = manager.interactive, False  # no dialogs of its own
    try:
        with install_progress.shown(text=texts.setupExtensionWorking(), isCancelable=False):
            isInstalled = manager.installExtensionFromServer(EXTENSION, False)
    finally:
        manager.interactive = wasInteractive
    if not isInstalled:
        return texts.setupExtensionFailed()
    setPending(True)
    return texts.setupRestart()


def setPending(pending: bool) -> None:
    """Remember, beyond a restart, that setting up is to go on."""
    slicer.app.userSettings().setValue(PENDING_SETTING, "1" if pending else "0")


def isPending() -> bool:
    """Whether Slicer was to be restarted in the middle of setting up."""
    return str(slicer.app.userSettings().value(PENDING_SETTING, "0")) == "1"


def installOptional(requirement: str, question: str, ask=None) -> str:
    """Install a package that one feature needs, after asking; what went wrong, empty when it is there.

    Every package that is there keeps its version, as the question says: Slicer is built with some of them and uses
    others itself (pydicom), and another version in their place breaks it.
    """
    if not (ask or confirm)(question):
        return texts.setupDeclined()
    try:
        with install_progress.shown() as transcript, _keepingVersions(except_=requirement):
            try:
                slicer.util.pip_install([requirement], **install_progress.pipOptions())
            except Exception as error:
                logger.exception("%s could not be installed", requirement)
                return texts.setupFailed(transcript.problem(error))
    except install_progress.InstallCanceled:
        return texts.setupCanceled()
    importlib.invalidate_caches()
    return ""


@contextlib.contextmanager
def _keepingVersions(except_: str) -> Iterator[None]:
    """Meanwhile pip may add packages and change none but the one of a requirement."""
    name = re.split(r"[<>=!~\[ ;]", except_)[0]
    lines = {
        f"{item.metadata['Name']}=={item.version}"
        for item in importlib.metadata.distributions()
        if item.metadata["Name"] and _plain(item.metadata["Name"]) != _plain(name)
    }
    before = os.environ.get("PIP_CONSTRAINT")
    with tempfile.TemporaryDirectory(prefix="samv2-") as folder:
        path = os.path.join(folder, "constraints.txt")
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join(sorted(lines)) + "\n")
        os.environ["PIP_CONSTRAINT"] = path
        try:
            yield
        finally:
            if before is None:
                os.environ.pop("PIP_CONSTRAINT", None)
            else:
                os.environ["PIP_CONSTRAINT"] = before


def _plain(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _checked() -> str:
    """Try the new torch in another process, and say how it went."""
    from SAMv2Core.diagnosis.doctor import probe_torch

    found = probe_torch()
    if found.get("problem"):
        return texts.setupFailed(found["problem"])
    names = [device["name"] for device in found.get("devices", ()) if device["works"]]
    best = next((name for name in names if name != "cpu"), "CPU")
    return texts.setupDone(best)


def obstacle() -> str:
    """Why setting up cannot work here, empty when nothing is in the way."""
    folder = os.path.dirname(os.__file__)
    free = shutil.disk_usage(folder).free
    if free < FREE_BYTES_NEEDED:
        return texts.setupDiskFull(free / 2**30, FREE_BYTES_NEEDED / 2**30, folder)
    if not os.access(folder, os.W_OK):
        return texts.setupNotWritable(folder)
    if sys.platform == "win32" and len(folder) > 120:  # torch has paths of some 130 characters; Windows' limit is 260
        return texts.setupPathTooLong(folder)
    return ""


def confirm(question: str) -> bool:
    """Ask in a dialog; testing mode, in which dialogs answer yes by themselves, counts as no without the variable."""
    if slicer.app.testingEnabled() and not os.environ.get(CONSENT_VARIABLE):
        return False
    return bool(slicer.util.confirmOkCancelDisplay(question, windowTitle=texts.moduleTitle()))


def pyTorchUtilsLogic() -> Optional[Any]:
    """The logic of the PyTorch extension, None when the extension is not installed."""
    try:
        module = importlib.import_module("PyTorchUtils")
    except ImportError:
        return None
    return module.PyTorchUtilsLogic()
