"""Learning rate and moving average of the weights."""

from __future__ import annotations

import math
from typing import Dict

import torch
from torch import nn

from Training.engine.recipe import OptimizerOptions


def learning_rate(step: int, total: int, options: OptimizerOptions) -> float:
    """Linear warm-up, constant, decay over the last part: a run can be extended from before the decay."""
    if step < options.warmup_steps:
        part = (step + 1) / options.warmup_steps
        return options.lr * (options.warmup_ratio + (1 - options.warmup_ratio) * part)
    start = total * (1 - options.decay)
    if step < start:
        return options.lr
    left = (total - step) / (total - start)
    if options.shape == "cosine":
        return options.lr * (options.floor + (1 - options.floor) * 0.5 * (1 - math.cos(math.pi * left)))
    return options.lr * max(options.floor, left)


def make_optimizer(net: nn.Module, options: OptimizerOptions) -> torch.optim.Optimizer:
    """SGD on all parameters, or AdamW that leaves vectors (biases, batch normalization) undecayed."""
    if options.name == "sgd":
        return torch.optim.SGD(
            net.parameters(), lr=options.lr, momentum=options.momentum, weight_decay=options.weight_decay
        )
    matrices = [p for p in net.parameters() if p.ndim > 1]
    vectors = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": options.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=options.lr)


class MovingAverage:
    """Exponential moving average of a network's floating tensors, statistics included; counters are copied.

    :param decay: of the average; 0 keeps none. It warms up as (step + 1) / (step + 10), so that the first weights are
        soon forgotten.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state: Dict[str, torch.Tensor] = {}
        if decay > 0:
            self.state = {name: value.detach().clone() for name, value in net.state_dict().items()}

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        """Move towards the network's weights after optimizer step number ``step`` (from 0)."""
        if not self.state:
            return
        rate = 1 - min(self.decay, (step + 1) / (step + 10))
        for name, value in net.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, rate)
            else:
                self.state[name].copy_(value)
