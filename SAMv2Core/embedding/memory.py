"""How much memory a job may take, how deep its slabs may be, and an allocator that suits large tensors.

Embedding is the one step that can exhaust a machine: a torso CT of 180 x 150 x 250 voxels at 2 mm makes 1.1
GB of activations with the light network and several times that with the paper's. The networks can work in
slabs; this module says which slab is deep enough to be quick and thin enough to fit.

Conventions: plain numbers are bytes, ``_gib`` is 2**30 bytes. On the CPU a limit is one on the *whole
process's* resident memory (what a scheduler or a container counts), so what is already in use is subtracted;
on a GPU it is one on what this process holds there. torch is not imported here: a GPU is asked only when one
is passed, and then torch is loaded already.

What the operating system tells is asked without psutil, which Slicer does not bring: /proc and control groups on Linux
(a container's limit is not the machine's), ctypes on Windows, getrusage and vm_stat on macOS. A figure that the
platform does not tell is None, never a guess.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Dict, Iterator, List, Optional, Tuple

from SAMv2Core.errors import MemoryLimitError, UsageError

if TYPE_CHECKING:
    import torch


def _read(path: str) -> Optional[str]:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError):
        return None


def current_rss_bytes() -> Optional[int]:
    """Resident memory of this process now (on macOS its peak so far, which is at least that)."""
    if sys.platform.startswith("linux"):
        text = _read("/proc/self/statm")
        return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE") if text else None
    elif sys.platform == "win32":
        return _windows_working_set()[0]
    else:
        return peak_rss_bytes()


def peak_rss_bytes() -> Optional[int]:
    """Largest resident memory of this process so far."""
    if sys.platform == "win32":
        return _windows_working_set()[1]
    # Linux's getrusage begins with the memory of the process that started this one; VmHWM does not.
    match = re.search(r"^VmHWM:\s+(\d+) kB", _read("/proc/self/status") or "", re.MULTILINE)
    if match:
        return int(match.group(1)) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024  # bytes on macOS, KiB elsewhere


def _windows_working_set() -> Tuple[Optional[int], Optional[int]]:
    """Working set and peak working set, from GetProcessMemoryInfo."""

    class Counters(ctypes.Structure):
        _fields_ = [("cb", ctypes.c_uint32), ("faults", ctypes.c_uint32)] + [
            (name, ctypes.c_size_t) for name in ("peak", "now", "q1", "q2", "q3", "q4", "page", "peak_page")
        ]

    try:
        kernel = ctypes.windll.kernel32  # type: ignore[attr-defined]
        kernel.GetCurrentProcess.restype = ctypes.c_void_p
        counters = Counters(cb=ctypes.sizeof(Counters))
        process = ctypes.c_void_p(kernel.GetCurrentProcess())
        if not kernel.K32GetProcessMemoryInfo(process, ctypes.byref(counters), counters.cb):
            return None, None
    except (AttributeError, OSError):
        return None, None
    return int(counters.now), int(counters.peak)


def available_bytes() -> Optional[int]:
    """Main memory that this process can still take: the least of what system, container and ulimit leave."""
    if sys.platform.startswith("linux"):
        found = [_linux_system_available(), *_linux_cgroup_available(), _address_space_left()]
    elif sys.platform == "win32":
        found = [_windows_available()]
    elif sys.platform == "darwin":
        found = [_macos_available()]
    else:
        found = []
    known = [n for n in found if n is not None]
    return max(0, min(known)) if known else None


def _linux_system_available() -> Optional[int]:
    match = re.search(r"^MemAvailable:\s+(\d+) kB", _read("/proc/meminfo") or "", re.MULTILINE)
    return int(match.group(1)) * 1024 if match else None


def _linux_cgroup_available(proc_cgroup: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup") -> List[int]:
    """What is left in each control group (v1 and v2) that the process is in; page cache counts as free."""
    left = []
    for line in (_read(proc_cgroup) or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base, limit_name, used_name = (
            (f"{root}/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
            if controllers
            else (root, "memory.max", "memory.current")
        )
        # Inside a container the path is the host's and does not exist; the container's own group is the root.
        parents = [str(p) for p in (Path(path), *Path(path).parents)]
        for folder in {f"{base}{p}".rstrip("/") for p in parents} | {base}:
            limit, used = _read(f"{folder}/{limit_name}"), _read(f"{folder}/{used_name}")
            if not limit or not used or not limit.strip().isdigit():
                continue
            stat = _read(f"{folder}/memory.stat") or ""
            cache = re.search(r"^(?:total_)?inactive_file (\d+)", stat, re.MULTILINE)
            left.append(int(limit) - int(used) + (int(cache.group(1)) if cache else 0))
    return left


def _address_space_left() -> Optional[int]:
    """What ``ulimit -v`` leaves, None without one."""
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    text = _read("/proc/self/statm")
    if limit == resource.RLIM_INFINITY or not text:
        return None
    return limit - int(text.split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _windows_available() -> Optional[int]:
    class Status(ctypes.Structure):
        _fields_ = [("length", ctypes.c_uint32), ("load", ctypes.c_uint32)] + [
            (name, ctypes.c_uint64)
            for name in ("total", "free", "page", "page_free", "virtual", "virtual_free", "extended")
        ]

    status = Status(length=ctypes.sizeof(Status))
    try:
        if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):  # type: ignore[attr-defined]
            return None
    except (AttributeError, OSError):
        return None
    return int(status.free)


def _macos_available() -> Optional[int]:
    try:
        done = subprocess.run(["/usr/bin/vm_stat"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_vm_stat(done.stdout)


def parse_vm_stat(text: str) -> Optional[int]:
    """Bytes that macOS can hand out at once, from ``vm_stat``'s output."""
    size = re.search(r"page size of (\d+) bytes", text)
    found = re.findall(r"^Pages (\w+):\s+(\d+)\.", text, re.MULTILINE)
    pages: Dict[str, int] = {name: int(n) for name, n in found}
    if not size or "free" not in pages:
        return None
    return int(size.group(1)) * sum(pages.get(k, 0) for k in ("free", "inactive", "speculative", "purgeable"))


GIB = 2**30

#: Without a limit from the user, leave a fifth of the free memory to everything else.
SHARE_OF_FREE = 0.8
#: Without a limit from the user, stay below this where the thinnest slab allows it: laptops of 8 GB must not
#: swap.
COMFORTABLE_PROCESS_BYTES = int(3.5 * GIB)
#: A process that holds much already (Slicer with a scene) is still granted this much on top.
COMFORTABLE_EXTRA_BYTES = int(1.5 * GIB)

#: Slab depths tried, in input voxels (2 mm), deepest first; multiples of every network's strides along z.
SLAB_DEPTHS = (128, 96, 64, 48, 32, 24, 16, 8)


@dataclass(frozen=True)
class Budget:
    """Bytes that new allocations may take.

    :param comfortable: what to stay below if possible.
    :param allowed: what must not be passed; at least ``comfortable``.
    """

    comfortable: int
    allowed: int


def limit_bytes(max_memory_gib: Optional[float]) -> Optional[int]:
    """The user's limit in bytes, None without one.

    :raises UsageError: not a positive number.
    """
    if max_memory_gib is None:
        return None
    if not 0 < float(max_memory_gib) < float("inf"):
        raise UsageError(f"A memory limit of {max_memory_gib} GiB makes no sense.", "Give a positive number.")
    return int(float(max_memory_gib) * GIB)


def budget(device: Optional[torch.device] = None, max_memory_gib: Optional[float] = None) -> Budget:
    """What new allocations may take on a device (None: main memory).

    With a limit from the user that limit counts, less what is in use. Without one: 80 % of what is free, and
    if possible no more than a process of 3.5 GiB, or 1.5 GiB on top of a process that is larger already.

    :raises UsageError: a limit that is not a positive number.
    """
    limit = limit_bytes(max_memory_gib)
    if device is not None and device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_allocated(device)
        # torch's reserve is ours already, although the driver calls it taken.
        reusable = torch.cuda.memory_reserved(device) - held
        room = limit - held if limit is not None else int(SHARE_OF_FREE * (free + reusable))
        return Budget(room, room)
    in_use = current_rss_bytes() or 0
    if limit is not None:
        return Budget(limit - in_use, limit - in_use)
    free_bytes = available_bytes()
    comfortable = max(COMFORTABLE_PROCESS_BYTES - in_use, COMFORTABLE_EXTRA_BYTES)
    if free_bytes is None:
        return Budget(comfortable, comfortable)
    allowed = int(SHARE_OF_FREE * free_bytes)
    return Budget(min(comfortable, allowed), allowed)


def slab_depths(
    needed_bytes: Callable[[int], int], depth: int, available: Budget, deepest: Optional[int] = None
) -> List[int]:
    """Slab depths worth trying, best first: the deepest that is comfortable, then the thinner ones.

    :param needed_bytes: slab depth to bytes needed.
    :param depth: size of the volume along z; a slab of this depth is the whole volume.
    :param available: what may be taken.
    :param deepest: start with slabs no deeper than this (for devices where thinner slabs are quicker anyway).
    :raises MemoryLimitError: not even the thinnest slab is allowed.
    """
    depths = [d for d in SLAB_DEPTHS if d < depth and (deepest is None or d <= deepest)]
    if deepest is None or depth <= deepest or not depths:
        depths.insert(0, depth)
    fitting = [d for d in depths if needed_bytes(d) <= available.comfortable]
    if not fitting:
        fitting = [d for d in depths[-1:] if needed_bytes(d) <= available.allowed]
    if not fitting:
        raise does_not_fit(needed_bytes(depths[-1]), available.allowed)
    return fitting


def does_not_fit(needed: int, available: int) -> MemoryLimitError:
    """The error that names both figures in GiB."""
    return MemoryLimitError(
        f"Embedding this volume needs {needed / GIB:.2f} GiB more memory even in the thinnest slabs, "
        f"and {max(0, available) / GIB:.2f} GiB may be used.",
        "Raise the memory limit, close other programs, crop the volume, or choose a lighter model.",
    )


# glibc's mallopt parameters (malloc.h).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER = 2**31 - 1
# Where glibc's own adaptation ends up after large blocks were freed; it stops adapting its initial 128 KiB
# once a value was set by hand.
_ADAPTED_MMAP_THRESHOLD = 32 * 2**20
_ADAPTED_TRIM_THRESHOLD = 64 * 2**20


def _glibc() -> Optional[ctypes.CDLL]:
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL(None)
        if not (hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt")):
            return None
    except OSError:
        return None
    return library


def release_unused() -> None:
    """Give freed heap memory back to the system (glibc; nothing elsewhere)."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(ctypes.c_size_t(0))


@contextlib.contextmanager
def reuse_large_blocks() -> Iterator[None]:
    """While open, glibc keeps large freed blocks instead of unmapping them; at the end they are given back.

    By default every activation is mapped anew and its pages are faulted in one by one. Measured figures are
    in Testing/benchmarks/embedding.py. Other C libraries are not affected, nor are threads other than the
    main one, whose arenas cannot hold blocks this large.
    """
    library = _glibc()
    if library is None:
        yield
        return
    library.mallopt(_M_MMAP_THRESHOLD, _NEVER)
    library.mallopt(_M_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        library.mallopt(_M_MMAP_THRESHOLD, _ADAPTED_MMAP_THRESHOLD)
        library.mallopt(_M_TRIM_THRESHOLD, _ADAPTED_TRIM_THRESHOLD)
        library.malloc_trim(ctypes.c_size_t(0))
