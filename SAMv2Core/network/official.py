"""The paper's networks: ``sam`` (SAM), ``sampp`` (SAM++, semantic head) and ``crosssam`` (CT and MR).

One architecture in three variants (arXiv 2311.15111, sec. 3.1 and 3.3), written anew and keyed like the released
checkpoints, so that those load as they are: a 3-D ResNet-18, a *fine* appearance head from its first three stages, a
*coarse* appearance head from the last one and, in two variants, a *semantic* head built like the fine one. ``crosssam``
carries the semantic head's weights but never trains it, so its semantic map is not computed.

SAM means Self-supervised Anatomical eMbedding here, not Segment Anything.

Inputs: (N, 1, D, H, W) float32, axes (z, y, x), preprocessed to [-50, 205] at 2 mm. Outputs: L2-normalized 128-vectors,
fine and semantic at 4 mm, coarse at 8 mm along z and 32 mm in-plane.
"""

from __future__ import annotations

from typing import Callable, Dict, List, Optional, Tuple

import torch
from torch import nn

from SAMv2Core.errors import InputError
from SAMv2Core.network.backbone import CHANNELS, Backbone
from SAMv2Core.network.heads import EMBEDDING_DIM, TopDownHead
from SAMv2Core.network.output import NetworkOutput

Progress = Callable[[float, str], None]
Size3 = Tuple[int, int, int]

VARIANTS: Dict[str, Tuple[str, ...]] = {
    "sam": ("fine", "coarse"),
    "sampp": ("fine", "coarse", "semantic"),
    "crosssam": ("fine", "coarse"),
}
"""Architecture name to the heads it gives."""

_COST = {"shallow": 0.51, "layer3": 0.39, "layer4": 0.19, "head": 0.46}
"""Million multiply-adds per 4 mm voxel, counted from the layers' sizes; makes the reported progress even in time."""


class OfficialNet(nn.Module):
    """Backbone and heads of one variant.

    :param architecture: a key of :data:`VARIANTS`.
    """

    level_stride = {"fine": (2, 2, 2), "coarse": (4, 16, 16), "semantic": (2, 2, 2)}
    embedding_dim = EMBEDDING_DIM

    def __init__(self, architecture: str) -> None:
        super().__init__()
        self.architecture = architecture
        self.heads = VARIANTS[architecture]
        self.backbone = Backbone()
        self.neck = TopDownHead(CHANNELS[:3])
        self.read_out_head = TopDownHead(CHANNELS[3:])
        if architecture != "sam":
            self.semantic_head = TopDownHead(CHANNELS[:3])

    def forward(self, x: torch.Tensor) -> NetworkOutput:
        """(N, 1, D, H, W) float32 to the heads, float32; D of at least 2, else :class:`InputError`."""
        _check_input(x)
        f1, f2, f3, f4 = self.backbone(x)
        semantic = self.semantic_head(f1, f2, f3) if "semantic" in self.heads else None
        return NetworkOutput(self.neck(f1, f2, f3), self.read_out_head(f4), semantic)

    @torch.no_grad()
    def forward_in_slabs(
        self,
        x: torch.Tensor,
        slab_depth: int,
        progress: Optional[Progress] = None,
        out_dtype: torch.dtype = torch.float16,
    ) -> NetworkOutput:
        """The result of :meth:`forward` for inference, with all large layers computed in slabs along z.

        Up to layer2 only the stem looks along z, and a head only by its last convolution: a halo of one plane makes
        every slab exact. layer3 and layer4 run whole.

        :param x: (N, 1, D, H, W) float32, D of at least 2, else :class:`InputError`.
        :param slab_depth: input voxels along z per slab (rounded down to even); at least D means one slab.
        :param progress: called with (fraction, text) before each step; may raise to cancel.
        :param out_dtype: dtype of the returned heads.
        """
        _check_input(x)
        depth, step = x.shape[2] // 2, max(1, int(slab_depth) // 2)
        slabs = [(a, min(a + step, depth)) for a in range(0, depth, step)]
        tell = _Teller(progress, _COST["shallow"] + _COST["layer3"] + _COST["layer4"] + _COST["head"] * self._n_fine)
        f1, f2 = self._shallow_in_slabs(x, slabs, tell)
        tell("features of large context", _COST["layer3"])
        f3 = self.backbone.layer3(f2)
        tell("features of the whole section", _COST["layer4"])
        coarse = self.read_out_head(self.backbone.layer4(f3)).to(out_dtype)
        heads: Dict[str, torch.Tensor] = {}
        for name, head in self._fine_heads():
            heads[name] = _head_in_slabs(head, f1, head.merge(f2, f3), slabs, out_dtype, name, tell)
        return NetworkOutput(heads["fine"], coarse, heads.get("semantic"))

    @property
    def _n_fine(self) -> int:
        return len(self._fine_heads())

    def _fine_heads(self) -> List[Tuple[str, TopDownHead]]:
        """The heads at 4 mm that this variant gives."""
        named = [("fine", self.neck)]
        return [*named, ("semantic", self.semantic_head)] if "semantic" in self.heads else named

    def _shallow_in_slabs(
        self, x: torch.Tensor, slabs: List[Tuple[int, int]], tell: _Teller
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """Whole layer1 and layer2, put together from slabs."""
        whole: List[torch.Tensor] = []
        for n, (a, b) in enumerate(slabs):
            tell(f"features, slab {n + 1} of {len(slabs)}", _COST["shallow"] / len(slabs))
            parts = self.backbone.shallow(x, a, b)
            whole = whole or [_empty_like(part, slabs[-1][1]) for part in parts]
            for features, part in zip(whole, parts):
                features[:, :, a:b] = part
        return whole[0], whole[1]

    def peak_bytes(self, shape_zyx: Size3, slab_depth: int) -> int:
        """placeholder"""
        return 0


def _head_in_slabs(
    head: TopDownHead,
    f1: torch.Tensor,
    top: Optional[torch.Tensor],
    slabs: List[Tuple[int, int]],
    out_dtype: torch.dtype,
    name: str,
    tell: _Teller,
) -> torch.Tensor:
    """The whole map of one head, computed and cast slab by slab."""
    n, _, depth, height, width = f1.shape
    out = torch.empty((n, EMBEDDING_DIM, depth, height, width), dtype=out_dtype, device=f1.device)
    for k, (a, b) in enumerate(slabs):
        tell(f"{name} embedding, slab {k + 1} of {len(slabs)}", _COST["head"] / len(slabs))
        out[:, :, a:b] = head.read_out(f1, top, a, b)
    return out


def _empty_like(part: torch.Tensor, depth: int) -> torch.Tensor:
    """An uninitialized tensor like ``part`` with another depth, in the same memory layout."""
    n, c, _, h, w = part.shape
    channels_last = part.is_contiguous(memory_format=torch.channels_last_3d)
    layout = torch.channels_last_3d if channels_last else torch.contiguous_format
    return torch.empty((n, c, depth, h, w), dtype=part.dtype, device=part.device, memory_format=layout)


class _Teller:
    """Reports progress by the share of the work that is done before each step."""

    def __init__(self, progress: Optional[Progress], total: float) -> None:
        self._progress = progress
        self._total = total
        self._done = 0.0

    def __call__(self, text: str, cost: float) -> None:
        """Announce a step of the given cost; may raise what the callback raises."""
        if self._progress is not None:
            self._progress(min(1.0, self._done / self._total), text)
        self._done += cost


def _check_input(x: torch.Tensor) -> None:
    """Refuse what the layers would refuse with an unreadable message."""
    if x.ndim != 5 or x.shape[1] != 1:
        raise InputError(
            f"The network got a tensor of shape {tuple(x.shape)}, not (N, 1, D, H, W).", "Preprocess the volume first."
        )
    if x.shape[2] < 2:
        raise InputError(
            f"At 2 mm the volume is {x.shape[2]} slice thick; the network needs at least 2.",
            "Use a volume that is at least 4 mm thick.",
        )
