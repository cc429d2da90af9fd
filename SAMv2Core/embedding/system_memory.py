"""What the operating system tells about memory: what this process holds, and what it can still take.

Without psutil, which Slicer does not bring: /proc and control groups on Linux (a container's limit is not the
machine's), ctypes on Windows, getrusage and vm_stat on macOS. All figures are bytes; a figure that the
platform does not tell is None, never a guess.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Optional, Tuple


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
