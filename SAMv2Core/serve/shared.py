"""Memory that a client and its child process both see, so that a scan of a gigabyte is not pushed through a socket.

Not :mod:`multiprocessing.shared_memory`: before Python 3.13 that starts a helper process with ``sys.executable``, which
inside 3D Slicer is not always a Python. On Windows it is named memory, gone with the last process that holds it;
elsewhere a file in memory (``/dev/shm`` where there is room, else the folder for temporary files) whose name is removed
as soon as the other side has opened it. Names begin with the owner's process number, and the child sweeps what a killed
owner left.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import secrets
import sys
import tempfile
from pathlib import Path
from typing import Any, List

import numpy as np

from SAMv2Core.errors import OutputError

PREFIX = "samv2-shared"
_NAME = re.compile(rf"{PREFIX}-\d+-[0-9a-f]{{16}}")
_MEMORY = "/dev/shm"  # where Linux keeps files in memory


def _folders() -> List[str]:
    return [folder for folder in (_MEMORY, tempfile.gettempdir()) if os.path.isdir(folder)]


class Shared:
    """An array in shared memory; the owner fills :attr:`array` and tells the name.

    :param shape, dtype: of the array.
    :raises OutputError: there is no room.
    """

    def __init__(self, shape: Any, dtype: Any) -> None:
        n_bytes = max(int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize, 1)
        self.name = f"{PREFIX}-{os.getpid()}-{secrets.token_hex(8)}"
        self._memory = _create(self.name, n_bytes)
        self.array: np.ndarray = np.frombuffer(self._memory, dtype, count=int(np.prod(shape))).reshape(shape)

    def hand_over(self) -> str:
        """The name, for the other side, which will open it; this side's view is closed (on Windows it stays open)."""
        if sys.platform == "win32":
            _HANDED_OVER.append(self)
            del _HANDED_OVER[:-8]  # the other side has long opened the earlier ones
        else:
            self.array = np.empty(0)
            self._memory.close()
        return self.name

    def release(self) -> None:
        """The other side has it, or never will: forget the name, and this side's view."""
        self.array = np.empty(0)
        _remove(self.name)
        with contextlib.suppress(BufferError):  # someone still looks at it: it goes with him
            self._memory.close()


_HANDED_OVER: List[Shared] = []


def _create(name: str, n_bytes: int) -> mmap.mmap:
    if sys.platform == "win32":
        return mmap.mmap(-1, n_bytes, tagname=name)
    for folder in _folders():
        space = os.statvfs(folder)
        if space.f_bavail * space.f_frsize < n_bytes + (64 << 20):
            continue
        descriptor = os.open(os.path.join(folder, name), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.ftruncate(descriptor, n_bytes)
            return mmap.mmap(descriptor, n_bytes)
        except OSError:
            _remove(name)
        finally:
            os.close(descriptor)
    raise OutputError(
        f"There is no room for {n_bytes / 2**30:.2f} GiB of shared memory.", "Free some memory or space on the disk."
    )


def open_shared(name: str, n_bytes: int) -> np.ndarray:
    """The bytes (n,) uint8 of what another process shares, read-only; the name is gone afterwards.

    :raises ValueError: no such name, or shorter than that.
    """
    if not _NAME.fullmatch(name):
        raise ValueError("A name of shared memory makes no sense.")
    n_mapped = max(n_bytes, 1)
    try:
        if sys.platform == "win32":
            memory = mmap.mmap(-1, n_mapped, tagname=name, access=mmap.ACCESS_READ)
        else:
            path = next(p for p in (os.path.join(folder, name) for folder in _folders()) if os.path.exists(p))
            with open(path, "rb") as file:
                memory = mmap.mmap(file.fileno(), n_mapped, access=mmap.ACCESS_READ)
    except (OSError, ValueError, StopIteration):
        raise ValueError("Shared memory is not there.") from None
    _remove(name)
    return np.frombuffer(memory, np.uint8, count=n_bytes)


def sweep(owner: int) -> None:
    """Remove what a process left that is no more."""
    for folder in _folders():
        for path in Path(folder).glob(f"{PREFIX}-{owner}-*"):
            _remove(path.name)


def sweep_dead() -> None:
    """Remove what processes left that are no more: both sides of it were killed."""
    for folder in _folders() if sys.platform != "win32" else ():
        for path in Path(folder).glob(f"{PREFIX}-*-*"):
            owner = path.name.split("-")[2]
            with contextlib.suppress(OSError, ValueError):
                try:
                    os.kill(int(owner), 0)
                except ProcessLookupError:
                    path.unlink()


def _remove(name: str) -> None:
    if sys.platform != "win32":
        for folder in _folders():
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, name))
