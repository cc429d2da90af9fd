"""The light network of the bundled weights: a context branch that confines the search, a detail branch that places it.

The paper's network (arXiv 2311.15111, sec. 3.1) spends some 2 M multiply-adds per 4 mm voxel, nearly all of them at
full resolution. Measured on few patients, *context* is what limits matching, and context is cheap: seen at 4 mm, a
whole section of the body costs an eighth of its 2 mm volume. So this network has

* a **context branch**: the input averaged to 4 mm, features at 8, 16, 32 and 64 mm, merged top-down to 8 mm; it gives
  the *coarse* appearance head (8 mm; the paper's is 32 mm in-plane), and
* a **detail branch** on the 2 mm input: features at 4, 8 and 16 mm, joined by the context features at 8 mm, merged
  top-down to 4 mm; it gives the *fine* appearance and the *semantic* head.

About 0.3 M multiply-adds per 4 mm voxel and 5.4 M parameters. The first layer sees several intensity windows of the
preprocessed volume (one step of the 8-bit-like scale of the paper is 16 HU: soft tissue needs its own window).

Axes: tensors are (N, C, z, y, x). Inputs are padded at the far end (replicating) to a multiple of 4 voxels, so the
feature maps may reach up to 3 input voxels beyond the volume.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import nn

from SAMv2Core.network.output import NetworkOutput
from SAMv2Core.progress import Progress


def _grey(hu: float) -> float:
    """HU to the preprocessed scale [-50, 205] (paper: [-1024, 3071] HU to [0, 255], minus 50)."""
    return (hu + 1024.0) / 4095.0 * 255.0 - 50.0


CT_WINDOWS: Tuple[Tuple[float, float], ...] = tuple(
    (_grey(low), _grey(high)) for low, high in ((-1024, 1200), (-1000, -400), (-160, 240), (150, 1200))
)
"""Whole range, lung, soft tissue and bone, on the preprocessed scale."""


@dataclass(frozen=True)
class LiteConfig:
    """All that defines the architecture; stored as JSON in the weights file.

    :param windows: (low, high) pairs on the preprocessed scale [-50, 205]; one input channel each, clipped to [0, 1].
    :param context_channels: channels at 8, 16, 32 and 64 mm.
    :param detail_channels: channels at 4, 8 and 16 mm.
    :param merge_channels: channels of the top-down paths.
    :param embedding_dim: length of each head's vector.
    """

    windows: Tuple[Tuple[float, float], ...] = CT_WINDOWS
    context_channels: Tuple[int, int, int, int] = (32, 64, 128, 160)
    detail_channels: Tuple[int, int, int] = (32, 64, 128)
    merge_channels: int = 64
    embedding_dim: int = 64

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> LiteConfig:
        values = json.loads(text)
        return LiteConfig(
            windows=tuple((float(a), float(b)) for a, b in values["windows"]),
            context_channels=tuple(values["context_channels"]),
            detail_channels=tuple(values["detail_channels"]),
            merge_channels=int(values["merge_channels"]),
            embedding_dim=int(values["embedding_dim"]),
        )


class ConvBN(nn.Module):
    """3-D convolution, batch normalization, optional ReLU."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3, stride: int = 1, relu: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv3d(c_in, c_out, kernel, stride, padding=(kernel - 1) // 2, bias=False)
        self.bn = nn.BatchNorm3d(c_out)
        self.relu = relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn(self.conv(x))
        return F.relu(x, inplace=True) if self.relu else x


class ResBlock(nn.Module):
    """Two 3x3x3 convolutions with an identity shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvBN(channels, channels)
        self.conv2 = ConvBN(channels, channels, relu=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.conv2(self.conv1(x)) + x, inplace=True)


def _level(c_in: int, c_out: int, n_blocks: int) -> nn.Sequential:
    """A stride-2 convolution followed by residual blocks."""
    return nn.Sequential(ConvBN(c_in, c_out, stride=2), *[ResBlock(c_out) for _ in range(n_blocks)])


def _merge(coarser: torch.Tensor, finer: torch.Tensor) -> torch.Tensor:
    """Double the coarser map (nearest), crop it to the finer one's size and add."""
    up = F.interpolate(coarser, scale_factor=2.0, mode="nearest")
    d, h, w = finer.shape[2:]
    return finer + up[:, :, :d, :h, :w]


class ContextBranch(nn.Module):
    """4 mm input (windowed) to features at 8 mm that have seen the whole section of the body."""

    def __init__(self, config: LiteConfig) -> None:
        super().__init__()
        c8, c16, c32, c64 = config.context_channels
        merged = config.merge_channels
        self.stem = ConvBN(len(config.windows), c8, kernel=4, stride=2)
        self.block8 = ResBlock(c8)
        self.level16 = _level(c8, c16, 2)
        self.level32 = _level(c16, c32, 1)
        self.level64 = _level(c32, c64, 1)
        self.lateral = nn.ModuleList(nn.Conv3d(c, merged, 1) for c in (c8, c16, c32, c64))
        self.smooth16 = ConvBN(merged, merged)
        self.smooth8 = ConvBN(merged, merged)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        f8 = self.block8(self.stem(x))
        f16 = self.level16(f8)
        f32 = self.level32(f16)
        f64 = self.level64(f32)
        top = _merge(self.lateral[3](f64), self.lateral[2](f32))
        top = self.smooth16(_merge(top, self.lateral[1](f16)))
        return self.smooth8(_merge(top, self.lateral[0](f8)))


class DetailBranch(nn.Module):
    """2 mm input (windowed) and context features (8 mm) to features at 4 mm; in three stages so that it can be tiled.

    ``shallow`` (4 mm, slabs with a halo of 2 voxels), ``deep`` (8 and 16 mm, whole), ``merge`` (4 mm, slabs with a
    halo of 1 voxel).
    """

    def __init__(self, config: LiteConfig) -> None:
        super().__init__()
        c4, c8, c16 = config.detail_channels
        merged = config.merge_channels
        self.stem = ConvBN(len(config.windows), c4, kernel=4, stride=2)
        self.block4 = ResBlock(c4)
        self.down8 = ConvBN(c4, c8, stride=2)
        self.join8 = nn.Conv3d(merged, c8, 1)
        self.block8 = nn.Sequential(ResBlock(c8), ResBlock(c8))
        self.level16 = _level(c8, c16, 1)
        self.lateral = nn.ModuleList(nn.Conv3d(c, merged, 1) for c in (c4, c8, c16))
        self.smooth4 = ConvBN(merged, merged)

    def shallow(self, x: torch.Tensor) -> torch.Tensor:
        """Windowed 2 mm input to 4 mm features; ``x`` carries one voxel of padding for the stem on every side."""
        return self.block4(self.stem(x))

    def deep(self, f4: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """4 mm features and 8 mm context to merged 8 mm features."""
        f8 = self.down8(f4) + self.join8(context)
        f8 = self.block8(f8)
        return _merge(self.lateral[2](self.level16(f8)), self.lateral[1](f8))

    def merge(self, f4: torch.Tensor, deep: torch.Tensor) -> torch.Tensor:
        """4 mm and merged 8 mm features to the features that the heads read."""
        return self.smooth4(_merge(deep, self.lateral[0](f4)))


class LiteNet(nn.Module):
    """Context and detail branches with the three heads of the paper.

    ``forward`` takes (N, 1, D, H, W) float32, preprocessed to [-50, 205] at 2 mm, and returns L2-normalised heads:
    fine and semantic at (2, 2, 2) input voxels, coarse at (4, 4, 4), each (N, embedding_dim, d, h, w).
    """

    architecture = "lite"
    heads = ("fine", "coarse", "semantic")
    level_stride = {"fine": (2, 2, 2), "coarse": (4, 4, 4), "semantic": (2, 2, 2)}

    def __init__(self, config: Optional[LiteConfig] = None) -> None:
        super().__init__()
        self.config = config or LiteConfig()
        self.embedding_dim = self.config.embedding_dim
        self.context = ContextBranch(self.config)
        self.detail = DetailBranch(self.config)
        merged, dim = self.config.merge_channels, self.config.embedding_dim
        self.coarse_head = nn.Conv3d(merged, dim, 1)
        self.fine_head = nn.Conv3d(merged, dim, 1)
        self.semantic_head = nn.Conv3d(merged, dim, 1)

    def windows(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 1, D, H, W) on the preprocessed scale to (N, n_windows, D, H, W) in [0, 1]; air is 0 everywhere."""
        return torch.cat([((x - low) / (high - low)).clamp_(0, 1) for low, high in self.config.windows], dim=1)

    def embed_context(self, x4: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """(N, 1, ...) preprocessed scale at 4 mm to context features and the coarse head, both at 8 mm."""
        features = self.context(self.windows(x4))
        return features, F.normalize(self.coarse_head(features), dim=1)

    def embed_detail(self, x2: torch.Tensor, context: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """(N, 1, ...) at 2 mm with the context features of the same box to the fine and semantic heads at 4 mm."""
        f4 = self.detail.shallow(self.windows(x2))
        features = self.detail.merge(f4, self.detail.deep(f4, context))
        return F.normalize(self.fine_head(features), dim=1), F.normalize(self.semantic_head(features), dim=1)

    def forward(self, x: torch.Tensor) -> NetworkOutput:
        x = _pad_to_multiple(x, 4)
        context, coarse = self.embed_context(F.avg_pool3d(x, 2))
        fine, semantic = self.embed_detail(x, context)
        return NetworkOutput(fine, coarse, semantic)

    def forward_in_slabs(
        self,
        x: torch.Tensor,
        slab_depth: int,
        progress: Optional[Progress] = None,
        out_dtype: torch.dtype = torch.float16,
    ) -> NetworkOutput:
        """The same result as :meth:`forward`, with the 4 mm layers computed in slabs along z.

        Context and deep layers run whole: they are an eighth and less of the size. The halos are the exact receptive
        fields of what runs in slabs (2 voxels of 4 mm before, 1 after), so seams do not exist.

        :param x: (1, 1, D, H, W) float32.
        :param slab_depth: input voxels along z per slab; at least ``D`` means one slab.
        :param progress: called with (fraction, text) before each slab; may raise to cancel.
        :param out_dtype: dtype of the returned heads.
        """
        x = _pad_to_multiple(x, 4)
        depth = x.shape[2] // 2
        step = max(1, int(slab_depth) // 2)
        ranges = [(a, min(a + step, depth)) for a in range(0, depth, step)]
        n_steps, done = 2 * len(ranges) + 1, 0

        def tell(text: str) -> None:
            nonlocal done
            if progress is not None:
                progress(done / n_steps, text)
            done += 1

        tell("context")
        context, coarse = self.embed_context(F.avg_pool3d(x, 2))
        coarse = coarse.to(out_dtype)
        f4: Optional[torch.Tensor] = None
        for n, (a, b) in enumerate(ranges):
            tell(f"slab {n + 1} of {len(ranges)}, features")
            part = self._shallow_slab(x, a, b)
            if f4 is None:
                f4 = part.new_empty((part.shape[0], part.shape[1], depth, *part.shape[3:]))
            f4[:, :, a:b] = part
        assert f4 is not None
        deep = self.detail.deep(f4, context)
        fine = torch.empty((x.shape[0], self.embedding_dim, depth, *f4.shape[3:]), dtype=out_dtype, device=x.device)
        semantic = torch.empty_like(fine)
        for n, (a, b) in enumerate(ranges):
            tell(f"slab {n + 1} of {len(ranges)}, heads")
            low, high = max(0, a - 2 - a % 2), min(depth, b + 2 + b % 2)  # even start: pairs of planes share a deep one
            features = self.detail.merge(f4[:, :, low:high], deep[:, :, low // 2 : (high + 1) // 2])
            features = features[:, :, a - low : b - low]
            fine[:, :, a:b] = F.normalize(self.fine_head(features), dim=1)
            semantic[:, :, a:b] = F.normalize(self.semantic_head(features), dim=1)
        return NetworkOutput(fine, coarse, semantic)

    def _shallow_slab(self, x: torch.Tensor, a: int, b: int) -> torch.Tensor:
        """4 mm features of planes a..b (4 mm voxels); zero padding only where the volume itself ends."""
        depth = x.shape[2] // 2
        low, high = max(0, a - 3), min(depth, b + 3)
        return self.detail.shallow(self.windows(x[:, :, 2 * low : 2 * high]))[:, :, a - low : b - low]

    def peak_bytes(self, shape_zyx: Tuple[int, int, int], slab_depth: int) -> int:
        """Estimated activation memory of :meth:`forward_in_slabs` in bytes (float32 compute, float16 output)."""
        d, h, w = (int(-(-n // 4) * 4) for n in shape_zyx)
        plane4 = (h // 2) * (w // 2)
        slab4 = min(d // 2, max(1, slab_depth // 2) + 6)
        c4, merged = self.config.detail_channels[0], self.config.merge_channels
        kept = d * h * w * 4 + (d // 2) * plane4 * (4 * c4 + 2 * 2 * self.embedding_dim)
        context = (d // 4) * (h // 4) * (w // 4) * 4 * 6 * merged
        shallow = slab4 * plane4 * 4 * (8 * 2 * len(self.config.windows) + 4 * c4)
        heads = slab4 * plane4 * 4 * 5 * merged
        return int(kept + context + max(shallow, heads))


def _pad_to_multiple(x: torch.Tensor, multiple: int) -> torch.Tensor:
    """Replicate the far faces until every spatial size is a multiple."""
    pad: List[int] = []
    for size in reversed(x.shape[2:]):
        pad += [0, -size % multiple]
    return F.pad(x, pad, mode="replicate") if any(pad) else x
