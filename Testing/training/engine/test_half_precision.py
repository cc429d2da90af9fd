"""bfloat16 on the CPU: gradients of maps of two planes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from Training.engine.half_precision import avoid_wrong_gradients


def leave_nan_in_freed_memory():
    for power in range(2, 20):
        torch.cat([torch.full((2**power,), float("nan")) for _ in range(20)])


def gradient(layer, x, half):
    layer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        y = layer(x)
    leave_nan_in_freed_memory()
    (y.float() * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    return layer.weight.grad.clone()


@pytest.mark.parametrize("planes", [1, 2, 3, 4])
def test_gradients_are_those_of_float32(planes):
    torch.manual_seed(0)
    layer = nn.Conv3d(16, 16, 3, padding=1, bias=False)
    avoid_wrong_gradients(nn.Sequential(layer))
    x = torch.randn(2, 16, planes, 4, 4)
    expected = gradient(layer, x, half=False)
    found = gradient(layer, x, half=True)
    # 8 bits of mantissa: half a percent; without the workaround two planes are off by 100 % or NaN.
    assert float((found - expected).norm() / expected.norm()) < 0.02


def test_other_maps_are_computed_in_half_precision():
    layer = nn.Conv3d(4, 4, 3, padding=1)
    avoid_wrong_gradients(nn.Sequential(layer))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.zeros(1, 4, 4, 4, 4)).dtype == torch.bfloat16
        assert layer(torch.zeros(1, 4, 2, 4, 4)).dtype == torch.float32
    assert sorted(layer.state_dict()) == ["bias", "weight"]
