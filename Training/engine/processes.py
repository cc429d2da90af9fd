"""Devices, number formats and processes, by way of Lightning Fabric.

Under ``torchrun`` each process trains its own groups and the gradients are averaged; on the CPU through gloo, on GPUs
through NCCL. Without it there is one process.
"""

from __future__ import annotations

import os
from typing import Any, List

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy

from SAMv2Core.errors import UsageError
from SAMv2Core.network.device import resolve_device

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def make_fabric(device: str, precision: str) -> Fabric:
    """A launched Fabric.

    :param device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``; under torchrun the kind only.
    :param precision: ``auto`` (bf16 on GPUs that compute it, else fp16 there, fp32 elsewhere), or a key of
        :data:`PRECISIONS`; weights, losses and statistics are always float32.
    :raises UsageError: no such device or precision here.
    """
    found = resolve_device(device)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
    if found.type == "cuda":
        torch.backends.cudnn.benchmark = True  # crops keep their size, so the search for fast kernels pays
    devices: Any = local if world > 1 else ([found.index or 0] if found.type == "cuda" else 1)
    strategy: Any = "auto"
    if world > 1:
        # Parts of the network rest in some steps; statistics are averaged by Training.engine.statistics.
        backend = "gloo" if found.type == "cpu" else None
        strategy = DDPStrategy(find_unused_parameters=True, broadcast_buffers=False, process_group_backend=backend)
    number_format: Any = PRECISIONS[_resolve(precision, found)]
    fabric = Fabric(
        accelerator=found.type,
        devices=devices,
        num_nodes=max(1, world // local),
        strategy=strategy,
        precision=number_format,
    )
    fabric.launch()
    return fabric


def group_numbers(fabric: Fabric, accumulate: int) -> List[int]:
    """Numbers of this process's groups within a step, over all processes 0 to ``accumulate`` x processes - 1."""
    return [fabric.global_rank * accumulate + k for k in range(accumulate)]


def any_process(fabric: Fabric, flag: bool) -> bool:
    """True in all processes when it is in one."""
    if fabric.world_size == 1:
        return flag
    total: Any = fabric.all_reduce(torch.tensor(float(flag), device=fabric.device), reduce_op="sum")
    return bool(total > 0)


def _resolve(precision: str, device: torch.device) -> str:
    if precision == "auto":
        if device.type != "cuda":
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if precision not in PRECISIONS:
        raise UsageError(f"{precision!r} is not a precision.", f"Use auto, {', '.join(PRECISIONS)}.")
    if precision == "fp16" and device.type != "cuda":
        raise UsageError("fp16 training needs a CUDA device.", "Use bf16 or fp32.")
    return precision
