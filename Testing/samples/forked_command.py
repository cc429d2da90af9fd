"""``samv2`` as another process in another folder, without the seconds in which each would import PyTorch.

The processes are forked off one that has imported the large packages and nothing else, ours least of all.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path
from typing import Mapping, Sequence

LARGE = ["numpy", "scipy.ndimage", "scipy.spatial", "scipy.optimize", "torch", "SimpleITK"]
TIMEOUT_S = 300.0


def is_possible() -> bool:
    return "forkserver" in multiprocessing.get_all_start_methods()


def run(arguments: Sequence[str], folder: Path, environment: Mapping[str, str], out: Path, err: Path) -> int:
    """The exit code of a command; what it says is in two files.

    :raises TimeoutError: it did not end; it is killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LARGE)
    process = context.Process(
        target=_command, args=(list(arguments), str(folder), dict(environment), str(out), str(err))
    )
    process.start()
    process.join(TIMEOUT_S)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"samv2 {' '.join(arguments)} did not end.")
    return process.exitcode


def _command(arguments: Sequence[str], folder: str, environment: Mapping[str, str], out: str, err: str) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, name in enumerate((os.devnull, out, err)):  # as the shell would
        opened = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC if number else os.O_RDONLY)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, "w" if number else "r", encoding="utf-8", closefd=False) for number in range(3)
    )
    sys.argv = ["samv2", *arguments]
    from SAMv2Core.__main__ import main

    sys.exit(main())
