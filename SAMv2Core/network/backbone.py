"""The 3-D ResNet-18 under the paper's networks (arXiv 2311.15111, sec. 3.1), in the released checkpoints' key
layout.

What differs from a textbook ResNet-18, and why it matters here:

* no max-pool after the stem, and the first three stages keep nearly all of the z resolution: kernels are (1,
  3, 3) in layer1 and layer2, (3, 3, 3) in layer3 and layer4, and the stem is (3, 7, 7);
* layer1 strides in-plane only; a (2, 1, 1) max-pool after it (here ``pool2``) halves z, **flooring** odd
  depths, while every strided convolution rounds up;
* every stage begins with a projection shortcut, layer1 included although its channels do not change.

So up to layer2 only the stem looks along z, by one plane each way: :meth:`Backbone.shallow` computes any run
of planes exactly from those planes and one more on each side. layer3 and layer4 see all of z and are small.

Axes: tensors are (N, C, z, y, x). Parameter names (``conv1.conv.weight``, ``layer1.0.downsample.bn.bias``,
...) are a file format; do not rename.
"""

from __future__ import annotations

from typing import Tuple

import torch
import torch.nn.functional as F
from torch import nn

CHANNELS = (64, 128, 256, 512)
"""Channels of layer1 to layer4."""

Size3 = Tuple[int, int, int]


class ConvUnit(nn.Module):
    """Convolution without bias, batch normalization, optional ReLU.

    :param kernel: (z, y, x); padded by half of it.
    """

    def __init__(self, c_in: int, c_out: int, kernel: Size3, stride: Size3 = (1, 1, 1), relu: bool = True) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.conv = nn.Conv3d(c_in, c_out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm3d(c_out)
        self.relu = relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activate(self.conv(x))

    def activate(self, x: torch.Tensor) -> torch.Tensor:
        """What follows the convolution."""
        x = self.bn(x)
        return F.relu(x, inplace=True) if self.relu else x


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut; the shortcut is a 1x1x1 convolution in the first block of a stage."""

    def __init__(self, c_in: int, c_out: int, kernel: Size3, stride: Size3, project: bool) -> None:
        super().__init__()
        self.conv1 = ConvUnit(c_in, c_out, kernel, stride)
        self.conv2 = ConvUnit(c_out, c_out, kernel, relu=False)
        self.downsample = ConvUnit(c_in, c_out, (1, 1, 1), stride, relu=False) if project else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.conv2(self.conv1(x)).add_(shortcut), inplace=True)


def _stage(c_in: int, c_out: int, kernel: Size3, stride: Size3) -> nn.Sequential:
    """Two blocks; the first one strides and projects."""
    return nn.Sequential(
        BasicBlock(c_in, c_out, kernel, stride, project=True),
        BasicBlock(c_out, c_out, kernel, (1, 1, 1), project=False),
    )


class Backbone(nn.Module):
    """Features at four levels of a preprocessed volume (N, 1, D, H, W) at 2 mm.

    ``forward`` returns, for an input of D x H x W (all divisions but D // 2 round up): layer1 (N, 64, D // 2,
    H / 2, W / 2), layer2 (N, 128, D // 2, H / 4, W / 4), layer3 (N, 256, D // 2, H / 8, W / 8), layer4 (N,
    512, D // 4, H / 16, W / 16).
    """

    def __init__(self) -> None:
        super().__init__()
        c1, c2, c3, c4 = CHANNELS
        self.conv1 = ConvUnit(1, c1, (3, 7, 7))
        self.layer1 = _stage(c1, c1, (1, 3, 3), (1, 2, 2))
        self.layer2 = _stage(c1, c2, (1, 3, 3), (1, 2, 2))
        self.layer3 = _stage(c2, c3, (3, 3, 3), (1, 2, 2))
        self.layer4 = _stage(c3, c4, (3, 3, 3), (2, 2, 2))

    def forward(self, x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        f1, f2 = self.shallow(x, 0, x.shape[2] // 2)
        f3, f4 = self.deep(f2)
        return f1, f2, f3, f4

    def shallow(self, x: torch.Tensor, begin: int, end: int) -> Tuple[torch.Tensor, torch.Tensor]:
        """Planes ``begin`` to ``end`` (of the D // 2 feature planes) of layer1 and layer2, exactly.

        :param x: the whole volume (N, 1, D, H, W); only planes 2 * begin - 1 to 2 * end of it are read.
        """
        low, high = 2 * begin, 2 * end  # feature plane k pools stem planes 2k and 2k + 1
        below, above = low > 0, high < x.shape[2]
        planes = x[:, :, low - below : high + above]
        if not (below and above):  # zeros only where the volume itself ends
            planes = F.pad(planes, (0, 0, 0, 0, int(not below), int(not above)))
        stem = self.conv1.conv
        features = F.conv3d(planes, stem.weight, stem.bias, padding=(0, *stem.padding[1:]))
        features = self.layer1(self.conv1.activate(features))
        f1 = torch.maximum(features[:, :, 0::2], features[:, :, 1::2])
        return f1, self.layer2(f1)

    def deep(self, f2: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """layer3 and layer4 from the whole of layer2."""
        f3 = self.layer3(f2)
        return f3, self.layer4(f3)
