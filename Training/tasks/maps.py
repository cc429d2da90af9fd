"""The feature maps of the paper's networks in training: only the heads that a loss needs, and their voxels as lists."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

import torch
import torch.nn.functional as F

from Training.engine.task import Autocast
from Training.losses.appearance import ViewLevel
from Training.views.patches import LevelPlaces


def heads(net: Any, patches: torch.Tensor, wanted: Sequence[str], autocast: Autocast) -> Dict[str, torch.Tensor]:
    """The wanted heads, (N, C, d, h, w) float32, L2-normalized; what only the others need is not computed.

    :param patches: (N, 1, D, H, W) in [-50, 205].
    """
    result = {}
    with autocast():
        f1, f2 = net.backbone.shallow(patches, 0, patches.shape[2] // 2)
        f3 = net.backbone.layer3(f2)
        if "fine" in wanted:
            result["fine"] = net.neck(f1, f2, f3)
        if "semantic" in wanted:
            result["semantic"] = net.semantic_head(f1, f2, f3)
        if "coarse" in wanted:
            result["coarse"] = net.read_out_head(net.backbone.layer4(f3))
    return {name: value.float() for name, value in result.items()}


def levels(maps: torch.Tensor, places: Sequence[LevelPlaces]) -> List[ViewLevel]:
    """The voxels of feature maps (N, C, d, h, w) as lists."""
    return [ViewLevel(m.flatten(1).T, p.points, p.valid, p.outside) for m, p in zip(maps, places)]


@torch.no_grad()
def enlarged(coarse: torch.Tensor, fine: torch.Tensor) -> List[torch.Tensor]:
    """Coarse vectors at the fine voxels (trilinear, normalized again), each (N, C)."""
    up = F.normalize(F.interpolate(coarse, size=fine.shape[2:], mode="trilinear", align_corners=False), dim=1)
    return [m.flatten(1).T for m in up]
