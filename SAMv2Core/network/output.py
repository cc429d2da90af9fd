"""What every network of SAMv2 returns."""

from __future__ import annotations

from typing import NamedTuple, Optional

import torch


class NetworkOutput(NamedTuple):
    """Heads of one forward pass; each (N, C, d, h, w) float32, L2-normalised over C, axes (z, y, x)."""

    fine: torch.Tensor
    coarse: torch.Tensor
    semantic: Optional[torch.Tensor]
