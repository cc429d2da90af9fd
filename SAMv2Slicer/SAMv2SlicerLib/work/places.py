"""Where the module computes: a process of its own on this computer, another Python, a server, or inside Slicer.

Kept in Slicer's settings, since it belongs to the computer and not to a scene. Tokens stay in their file.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from typing import Any, Mapping, Optional

import slicer
import slicer.util

from SAMv2Core.embedding.memory import available_bytes
from SAMv2Core.errors import UsageError
from SAMv2Core.serve.child_link import ChildLink
from SAMv2Core.serve.http_link import HttpLink, read_token
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.work.engine import Engine
from SAMv2SlicerLib.work.remote_engine import RemoteEngine

HERE, PYTHON, SERVER, INSIDE = "here", "python", "server", "inside"
KINDS = (HERE, PYTHON, SERVER, INSIDE)
"""The last one computes in a thread of Slicer itself: for whoever cannot start a process."""

SETTING = "SAMv2/Compute"
VARIABLE = "SAMV2_COMPUTE"
"""Of the environment: a kind that counts more than the settings, for tests and scripts."""

GIB = 1 << 30
SHARE_KEPT, LEAST_KEPT, MOST_KEPT = 0.25, 1 * GIB, 16 * GIB
"""Of the memory that is free: what a child process may keep of scans and embeddings."""


@dataclass(frozen=True)
class Place:
    """Where to compute.

    :param python: an interpreter, for :data:`PYTHON`.
    :param server, tokenFile: address and file with the token, for :data:`SERVER`.
    """

    kind: str = HERE
    python: str = ""
    server: str = ""
    tokenFile: str = ""


def chosen() -> Place:
    """What the settings of this computer say."""
    settings = slicer.app.userSettings()
    kind = os.environ.get(VARIABLE) or str(settings.value(f"{SETTING}/On", HERE))
    names = ("Python", "Server", "TokenFile")
    return Place(kind if kind in KINDS else HERE, *(str(settings.value(f"{SETTING}/{n}", "") or "") for n in names))


def choose(place: Place) -> None:
    """Remember where to compute."""
    settings = slicer.app.userSettings()
    for name, value in (
        ("On", place.kind),
        ("Python", place.python),
        ("Server", place.server),
        ("TokenFile", place.tokenFile),
    ):
        settings.setValue(f"{SETTING}/{name}", value)


def engineFor(place: Place) -> Engine:
    """An engine that computes there; nothing is started yet.

    :raises UsageError: something is missing or makes no sense.
    """
    if place.kind == INSIDE:
        return Engine()
    if place.kind == SERVER:
        if not place.server or not place.tokenFile:
            raise UsageError(texts.noServerCause(), texts.noServerRemedy())
        link = HttpLink(place.server, read_token(place.tokenFile))  # what makes no sense is told now
        return RemoteEngine(lambda: link)
    if place.kind == PYTHON:
        if not place.python:
            raise UsageError(texts.noPythonCause(), texts.noPythonRemedy())
        return RemoteEngine(lambda: _child(place.python, startupEnvironment()))
    return RemoteEngine(lambda: _child(ownPython(), None), needsTorchHere=True)


def _child(python: str, environment: Optional[Mapping[str, str]]) -> ChildLink:
    free = available_bytes() or 4 * LEAST_KEPT
    kept = int(min(max(SHARE_KEPT * free, LEAST_KEPT), MOST_KEPT))
    return ChildLink(python, environment=environment, keep_bytes=kept)


def ownPython() -> str:
    """The interpreter of this Slicer; its application is none."""
    return shutil.which("PythonSlicer") or sys.executable


def startupEnvironment() -> Mapping[str, str]:
    """The environment before Slicer put its own libraries and Python into it."""
    given: Any = getattr(slicer.util, "startupEnvironment", None)
    environment = dict(given() if given is not None else os.environ)
    for name in ("PYTHONHOME", "PYTHONPATH", "PYTHONNOUSERSITE"):
        environment.pop(name, None)
    return environment
