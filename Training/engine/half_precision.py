"""Half precision where it is wrong: the workaround for one fault of the CPU's kernels.

In bfloat16 the gradient with respect to the weights of a convolution three planes deep over a map of exactly two planes
is computed from memory that nobody wrote (oneDNN as of torch 2.13; any other number of planes is right, and so are the
output and the other gradient). As a rule that is a wrong direction without any sign of it, now and then NaN. Patches of
8 to 10 slices have such maps; those of the recipes do not.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

WRONG_PLANES = 2


def avoid_wrong_gradients(net: nn.Module) -> None:
    """Let the convolutions of a network compute maps of :data:`WRONG_PLANES` planes in float32, in place."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv3d) and layer.kernel_size[0] > 1:
            layer.forward = partial(_forward, layer)  # type: ignore[method-assign]


def _forward(layer: nn.Conv3d, x: torch.Tensor) -> Any:
    if x.device.type != "cpu" or x.shape[2] != WRONG_PLANES:
        return nn.Conv3d.forward(layer, x)
    with torch.autocast("cpu", enabled=False):
        return nn.Conv3d.forward(layer, x.float())
