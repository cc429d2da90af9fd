"""Where a network runs and in which number format.

Formats are chosen by what the hardware computes natively, not by what torch accepts: on a CPU without such
instructions bfloat16 is several times *slower* than float32 and float16 a hundred times. Measured with the light
network on one core of an AMD EPYC (AVX512-BF16): bfloat16 3.4 times faster than float32, cosine to it at least 0.99998
on a real CT. Whatever the format, vectors are normalized in float32 and stored as float16.
"""

from __future__ import annotations

import contextlib
import platform
import re
from pathlib import Path
from typing import Dict, Iterator

import torch

from SAMv2Core.errors import UsageError

PRECISIONS: Dict[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

# Names in /proc/cpuinfo of instructions that multiply bfloat16 in hardware.
_BF16_FLAGS = {"amx_bf16", "avx512_bf16"}


def resolve_device(name: str = "auto") -> torch.device:
    """The device that a name stands for.

    :param name: ``auto`` (CUDA, else CPU), ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
    :raises UsageError: no such device here, or not a name of one.
    """
    if name == "auto":
        # Not MPS: 3-D convolutions are missing or slow in many versions there, so it is used only when asked for.
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
    if name == "mps" and not torch.backends.mps.is_available():
        raise UsageError("The device mps is not available.", "Use --device auto or cpu.")
    return torch.device(name)


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
    """``fp32``, ``fp16`` or ``bf16``; ``auto`` is the fastest format that the device computes natively.

    :raises UsageError: not a precision, or one that the device does not compute natively.
    """
    if precision not in ("auto", *PRECISIONS):
        raise UsageError(f"{precision!r} is not a precision.", "Use auto, fp32, fp16 or bf16.")
    native = {"cpu": "bf16" if cpu_has_bf16() else "fp32", "cuda": "fp16"}.get(device.type, "fp32")
    if precision == "auto":
        return native
    if precision == "bf16" and device.type == "cuda" and torch.cuda.is_bf16_supported():
        return precision
    if precision not in ("fp32", native):
        raise UsageError(
            f"The precision {precision} is not computed natively by this {device.type.upper()} device.",
            "Use --precision auto.",
        )
    return precision


@contextlib.contextmanager
def number_format(precision: str, device: torch.device) -> Iterator[None]:
    """Compute in a format while open: autocast for the half formats, and fp32 that is really fp32 on CUDA."""
    if precision != "fp32":
        with torch.autocast(device.type, dtype=PRECISIONS[precision]):
            yield
        return
    # cuDNN rounds the factors to TF32 (10 bits) unless told otherwise; who asks for fp32 wants the reference.
    backend = torch.backends.cudnn
    with backend.flags(backend.enabled, backend.benchmark, backend.deterministic, allow_tf32=False):
        yield
