"""Batch normalization's running statistics as a function of the whole step.

A step may consist of several groups, one after the other (accumulation) or in several processes. Each group normalizes
by its own statistics; the running ones start from the same values for every group and become the mean over all groups,
so that two processes end where one process with twice the groups ends.
"""

from __future__ import annotations

from typing import Callable, Dict

import torch
from torch import nn


class RunningStatistics:
    """Collects the statistics of a step's groups.

    :param n_groups: per process.
    :param reduce: mean over the processes, of a tensor.
    :param several: more than one process.
    """

    def __init__(self, net: nn.Module, n_groups: int, reduce: Callable[[torch.Tensor], torch.Tensor], several: bool):
        self._buffers: Dict[str, torch.Tensor] = {
            name: value for name, value in net.named_buffers() if value.is_floating_point()
        }
        self._n_groups = n_groups
        self._reduce = reduce
        self._active = several or n_groups > 1
        self._start: Dict[str, torch.Tensor] = {}
        self._total: Dict[str, torch.Tensor] = {}

    def begin(self) -> None:
        """Before the first group of a step."""
        if self._active:
            self._start = {name: value.clone() for name, value in self._buffers.items()}
            self._total = {name: torch.zeros_like(value) for name, value in self._buffers.items()}

    def after_group(self) -> None:
        """After each group's forward and backward pass."""
        if self._active:
            for name, value in self._buffers.items():
                self._total[name] += value
                value.copy_(self._start[name])

    def end(self) -> None:
        """After the last group: put the means in place."""
        if not self._active:
            return
        names = list(self._buffers)
        flat = torch.cat([self._total[name].flatten() for name in names]) / self._n_groups
        flat = self._reduce(flat)
        for name, part in zip(names, flat.split([self._buffers[name].numel() for name in names])):
            self._buffers[name].copy_(part.view_as(self._buffers[name]))
