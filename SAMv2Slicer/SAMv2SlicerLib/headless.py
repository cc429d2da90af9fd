"""Running a ``samv2`` command inside Slicer without a window: same options, files, numbers and exit codes.

Used by Scripts/*.py. Nobody can be asked, so a missing PyTorch is an error (exit code 4, with what to do) unless the
environment variable SAMV2_ALLOW_INSTALL allows installing it.
"""

from __future__ import annotations

import os
import sys
from typing import List, Optional, Sequence

from SAMv2SlicerLib import texts
from SAMv2SlicerLib.setup import install
from SAMv2SlicerLib.work import engine

EXIT_MODEL = 4


def run(command: str, arguments: Optional[Sequence[str]] = None) -> int:
    """Run ``samv2 <command>``; its exit code.

    :param arguments: options of the command; by default what follows ``--`` (or the script) on Slicer's command line.
    """
    problem = _withoutTorch()
    if problem:
        sys.stderr.write(f"error: {texts.noTorchCause()}\nremedy: {problem}\n")
        return EXIT_MODEL
    from SAMv2Core.cli.main import main

    return main([command, *(scriptArguments() if arguments is None else arguments)])


def scriptArguments() -> List[str]:
    """The arguments meant for the script: Slicer passes them after the script's name, with or without a ``--``."""
    arguments = list(sys.argv[1:])
    return arguments[arguments.index("--") + 1 :] if "--" in arguments else arguments


def runAndExit(command: str) -> None:
    """Run and end Slicer with the exit code, whatever happens: ``--python-script`` alone would leave it open."""
    import slicer.util

    code = 1
    try:
        code = run(command)
    finally:
        slicer.util.exit(code)


def _withoutTorch() -> str:
    """What to do about a missing PyTorch, empty when it is there (or was just installed, with permission)."""
    if engine.torchState() == "ready":
        return ""
    if not os.environ.get(install.CONSENT_VARIABLE):
        return texts.headlessSetup(install.CONSENT_VARIABLE)
    message = install.setUp(ask=lambda question: True)
    return "" if engine.torchState() == "ready" else message
