"""Where a network runs and in which number format.

A format must be computed natively by the hardware; what torch accepts says nothing: on a CPU without such
instructions bfloat16 is several times *slower* than float32, and float16 a hundred times. And ``auto`` takes a
half format only where every vector stays within a cosine of 0.9999 of float32's: float16 (11 bits) on CUDA.
bfloat16 (8 bits) must be asked for. Measured with the bundled light network on two real CTs, AMD EPYC with
AVX512-BF16: convolutions 3.4 times faster than in float32, cosine at least 0.9998 (mean 0.99998), matches moved
by 0.04 mm (median; 95th percentile of the matched ones 0.2 mm).

Whatever the format, vectors are normalized in float32 and stored as float16.
"""

from __future__ import annotations

import contextlib
import functools
import platform
import re
from pathlib import Path
from typing import Iterator

import torch

from SAMv2Core.errors import UsageError
from SAMv2Core.network.precision import PRECISIONS

# Names in /proc/cpuinfo of instructions that multiply bfloat16 in hardware.
_BF16_FLAGS = {"amx_bf16", "avx512_bf16"}


def resolve_device(name: str = "auto") -> torch.device:
    """The device that a name stands for.

    :param name: ``auto`` (CUDA, else CPU), ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
    :raises UsageError: no such device here, or not a name of one.
    """
    if name == "auto":
        # Not MPS: 3-D convolutions are missing or slow in many versions, so it is used only when asked for.
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    match = re.fullmatch(r"(cpu|mps)|cuda(?::(\d+))?", name)
    if match is None:
        raise UsageError(f"{name!r} is not a device.", "Use auto, cpu, cuda, cuda:1 or mps.")
    if name.startswith("cuda"):
        n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(match.group(2) or 0) >= n_devices:
            raise UsageError(
                f"The device {name} is not available ({n_devices} CUDA devices).", "Use --device auto or cpu."
            )
    if name == "mps":
        problem = _mps_problem()
        if problem:
            raise UsageError(f"The device mps is not available: {problem}.", "Use --device auto or cpu.")
    return torch.device(name)


@functools.cache
def _mps_problem() -> str:
    """Why Apple's GPU cannot run the networks, empty when it can; tried, because versions of torch differ."""
    if not torch.backends.mps.is_available():
        return "this machine or this torch has none"
    try:
        x = torch.ones((1, 1, 4, 4, 4), device="mps")
        y = torch.nn.functional.conv3d(x, torch.ones((1, 1, 3, 3, 3), device="mps"), padding=1)
        up = torch.nn.functional.interpolate(y, size=(8, 8, 8), mode="nearest")
        # 27 ones lie under the kernel
        return "" if float(up.max()) == 27 else "3-D convolutions give wrong numbers"
    except (RuntimeError, NotImplementedError, TypeError) as error:
        return " ".join(str(error).split())[:120]


def cpu_has_bf16() -> bool:
    """True when this CPU multiplies bfloat16 in hardware and torch makes use of it."""
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available():
        return False
    try:
        flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:  # not Linux: torch knows in its newer versions
        known = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        return bool(known and known())
    return bool(flags and _BF16_FLAGS & set(flags.group(1).split()))


def resolve_precision(precision: str, device: torch.device) -> str:
    """``fp32``, ``fp16`` or ``bf16``; ``auto`` is the fastest native format that keeps a cosine of 0.9999.

    :raises UsageError: not a precision, or one that the device does not compute natively.
    """
    if precision not in ("auto", *PRECISIONS):
        raise UsageError(f"{precision!r} is not a precision.", f"Use auto, {', '.join(PRECISIONS)}.")
    if precision == "auto":
        return "fp16" if device.type == "cuda" else "fp32"
    native = {"fp32"}
    if device.type == "cuda":
        native |= {"fp16", "bf16"} if torch.cuda.is_bf16_supported() else {"fp16"}
    elif device.type == "cpu" and cpu_has_bf16():
        native.add("bf16")
    if precision not in native:
        raise UsageError(
            f"The precision {precision} is not computed natively by this {device.type.upper()} device.",
            "Use --precision auto.",
        )
    return precision


@contextlib.contextmanager
def number_format(precision: str, device: torch.device) -> Iterator[None]:
    """Compute in a format while open: autocast for the half formats, and fp32 that is really fp32 on CUDA."""
    if precision != "fp32":
        with torch.autocast(device.type, dtype=getattr(torch, PRECISIONS[precision])):
            yield
        return
    # cuDNN rounds the factors to TF32 (10 bits) unless told otherwise; who asks for fp32 wants the reference.
    backend = torch.backends.cudnn
    with backend.flags(backend.enabled, backend.benchmark, backend.deterministic, allow_tf32=False):
        yield
