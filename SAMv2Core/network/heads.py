"""Heads of the paper's networks: levels of the backbone merged top-down into one embedding (arXiv 2311.15111,
sec. 3.1).

One class serves the fine appearance head, the semantic head (layers 1 to 3) and the coarse appearance head
(layer4 alone). The merged maps are linear: no normalization, no activation, L2 normalization last. Parameter
names are a file format; do not rename.
"""

from __future__ import annotations

from typing import Optional, Sequence

import torch
import torch.nn.functional as F
from torch import nn

EMBEDDING_DIM = 128


class _Conv(nn.Module):
    """A bare convolution with bias, under the name that the checkpoints give it."""

    def __init__(self, c_in: int, c_out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(c_in, c_out, kernel, padding=kernel // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class TopDownHead(nn.Module):
    """1x1x1 convolutions to a common width, added from coarse to fine; a 3x3x3 one on the finest sum.

    :param channels: of the levels, finest first.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(_Conv(c, EMBEDDING_DIM, 1) for c in channels)
        self.fpn_convs = nn.ModuleList([_Conv(EMBEDDING_DIM, EMBEDDING_DIM, 3)])

    def forward(self, *levels: torch.Tensor) -> torch.Tensor:
        """Levels, finest first, (N, C, d, h, w) each, to the L2-normalized map (N, 128, d, h, w)."""
        top = self.merge(*levels[1:])
        return self.read_out(levels[0], top, 0, levels[0].shape[2])

    def merge(self, *levels: torch.Tensor) -> Optional[torch.Tensor]:
        """The levels but the finest, added up at the size of the second; None where there is none."""
        laterals = [lateral(level) for lateral, level in zip(list(self.lateral_convs)[1:], levels)]
        if not laterals:
            return None
        top = laterals.pop()
        while laterals:
            top = _add_enlarged(laterals.pop(), top)
        return top

    def read_out(self, finest: torch.Tensor, top: Optional[torch.Tensor], begin: int, end: int) -> torch.Tensor:
        """Planes ``begin`` to ``end`` of the head, exactly.

        :param finest: whole finest level (N, C, d, h, w).
        :param top: result of :meth:`merge`; its depth equals that of the finest level.
        """
        low, high = max(0, begin - 1), min(finest.shape[2], end + 1)
        merged = self.lateral_convs[0](finest[:, :, low:high])
        if top is not None:
            merged = _add_enlarged(merged, top[:, :, low:high])
        merged = self.fpn_convs[0](merged)[:, :, begin - low : end - low]
        return F.normalize(merged.float(), dim=1)  # also where the convolutions run in a half format


def _add_enlarged(finer: torch.Tensor, coarser: torch.Tensor) -> torch.Tensor:
    """Resize the coarser map to the finer one's exact size (nearest) and add it in place."""
    return finer.add_(F.interpolate(coarser, size=finer.shape[2:], mode="nearest"))
