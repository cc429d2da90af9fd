"""The paper's networks: ``sam`` (SAM), ``sampp`` (SAM++, semantic head) and ``crosssam`` (CT and MR).

One architecture in three variants (arXiv 2311.15111, sec. 3.1 and 3.3), written anew and keyed like the
released checkpoints, so that those load as they are: a 3-D ResNet-18, a *fine* appearance head from its first
three stages, a *coarse* appearance head from the last one and, in two variants, a *semantic* head built like
the fine one. ``crosssam`` carries the semantic head's weights but never trains it, so its semantic map is not
computed.

SAM means Self-supervised Anatomical eMbedding here, not Segment Anything.

Inputs: (N, 1, D, H, W) float32, axes (z, y, x), preprocessed to [-50, 205] at 2 mm. Outputs: L2-normalized
128-vectors, fine and semantic at 4 mm, coarse at 8 mm along z and 32 mm in-plane.
"""

from __future__ import annotations

from typing import ClassVar, Dict, List, Optional, Tuple

import torch
from torch import nn

from SAMv2Core.errors import InputError
from SAMv2Core.network.backbone import CHANNELS, Backbone
from SAMv2Core.network.heads import EMBEDDING_DIM, TopDownHead
from SAMv2Core.network.output import NetworkOutput
from SAMv2Core.progress import Progress

Size3 = Tuple[int, int, int]

VARIANTS: Dict[str, Tuple[str, ...]] = {
    "sam": ("fine", "coarse"),
    "sampp": ("fine", "coarse", "semantic"),
    "crosssam": ("fine", "coarse"),
}
"""Architecture name to the heads it gives."""

_COST = {"shallow": 0.51, "layer3": 0.39, "layer4": 0.19, "head": 0.46}
"""Million multiply-adds per 4 mm voxel, counted from the layers' sizes; makes the reported progress even in
time."""

_STEM_COPIES = 1.75  # the stem's output and three maps of a quarter of its size in layer1
_SCRATCH_BYTES = 40 << 20  # what convolutions and the allocator take besides, measured on a CPU
_HEAD_COPIES = 2.0  # input and output of the last convolution, then that output and its normalized copy


class OfficialNet(nn.Module):
    """Backbone and heads of one variant.

    :param architecture: a key of :data:`VARIANTS`.
    """

    level_stride: ClassVar[Dict[str, Size3]] = {
        "fine": (2, 2, 2),
        "coarse": (4, 16, 16),
        "semantic": (2, 2, 2),
    }
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

        Up to layer2 only the stem looks along z, and a head only by its last convolution: a halo of one plane
        makes every slab exact. layer3 and layer4 run whole.

        :param x: (N, 1, D, H, W) float32, D of at least 2, else :class:`InputError`.
        :param slab_depth: input voxels along z per slab (rounded down to even); at least D means one slab.
        :param progress: called with (fraction, text) before each step; may raise to cancel.
        :param out_dtype: dtype of the returned heads.
        """
        _check_input(x)
        depth, step = x.shape[2] // 2, max(1, int(slab_depth) // 2)
        slabs = [(a, min(a + step, depth)) for a in range(0, depth, step)]
        readers = self._fine_heads()
        tell = _Teller(progress, _COST["shallow"] + _COST["layer3"] + _COST["layer4"] + _COST["head"] * len(readers))
        f1, f2 = self._shallow_in_slabs(x, slabs, tell)
        tell("features of wide context", _COST["layer3"])
        f3 = self.backbone.layer3(f2)
        tell("features of widest context", _COST["layer4"])
        coarse = self.read_out_head(self.backbone.layer4(f3)).to(out_dtype)
        tops = {name: head.merge(f2, f3) for name, head in readers.items()}
        del f2, f3  # the largest maps come next
        maps: Dict[str, torch.Tensor] = {}
        for name, head in readers.items():
            maps[name] = _head_in_slabs(name, head, f1, tops.pop(name), slabs, out_dtype, tell)
        return NetworkOutput(maps["fine"], coarse, maps.get("semantic"))

    def _fine_heads(self) -> Dict[str, TopDownHead]:
        """The heads at 4 mm that this variant gives."""
        heads = {"fine": self.neck}
        if "semantic" in self.heads:
            heads["semantic"] = self.semantic_head
        return heads

    def _shallow_in_slabs(
        self, x: torch.Tensor, slabs: List[Tuple[int, int]], tell: _Teller
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """Whole layer1 and layer2, put together from slabs."""
        whole: List[torch.Tensor] = []
        for n, (a, b) in enumerate(slabs):
            tell(f"features, slab {n + 1} of {len(slabs)}", _COST["shallow"] / len(slabs))
            parts = self.backbone.shallow(x, a, b)
            if len(slabs) == 1:
                return parts
            whole = whole or [_empty_like(part, slabs[-1][1]) for part in parts]
            for features, part in zip(whole, parts):
                features[:, :, a:b] = part
        return whole[0], whole[1]

    def peak_bytes(self, shape_zyx: Size3, slab_depth: int) -> int:
        """Estimated memory of :meth:`forward_in_slabs` in bytes, input included, weights not.

        For one volume, float32 with batch normalization folded, float16 out; see ``fuse_for_inference``. The
        factors count the tensors alive at once in the two stages that can be the peak.
        """
        depth = max(1, shape_zyx[0] // 2)
        planes = min(depth, max(1, slab_depth // 2))
        plane2 = shape_zyx[1] * shape_zyx[2]
        plane4, plane8 = (-(-shape_zyx[1] // s) * -(-shape_zyx[2] // s) for s in (2, 4))
        n_heads = len(self._fine_heads())
        f1, f2 = 4 * CHANNELS[0] * depth * plane4, 4 * CHANNELS[1] * depth * plane8
        stem = 4 * CHANNELS[0] * 2 * planes * plane2
        merged = 4 * EMBEDDING_DIM * min(depth, planes + 2) * plane4
        shallow = f1 + f2 + _STEM_COPIES * stem
        heads = f1 + n_heads * (f2 + 2 * EMBEDDING_DIM * depth * plane4) + _HEAD_COPIES * merged
        return int(4 * shape_zyx[0] * plane2 + max(shallow, heads)) + _SCRATCH_BYTES


def _head_in_slabs(
    name: str,
    head: TopDownHead,
    f1: torch.Tensor,
    top: Optional[torch.Tensor],
    slabs: List[Tuple[int, int]],
    out_dtype: torch.dtype,
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
            f"The network got a tensor of shape {tuple(x.shape)}, not (N, 1, D, H, W).",
            "Preprocess the volume first.",
        )
    if x.shape[2] < 2:
        raise InputError(
            f"At 2 mm the volume is {x.shape[2]} slice thick; the network needs at least 2.",
            "Use a volume that is at least 4 mm thick.",
        )
