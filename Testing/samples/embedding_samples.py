"""Small volumes, networks and embeddings for the tests of everything that embeds; seeded, no files."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Optional, Tuple

import numpy as np
import torch

from SAMv2Core.embedding.embedding import Embedding, FeatureMap
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.volume import Volume
from SAMv2Core.network.lite import LiteConfig, LiteNet

SMALL_LITE = LiteConfig(context_channels=(8, 8, 8, 8), detail_channels=(8, 8, 8), merge_channels=8, embedding_dim=16)


def torso(shape_zyx: Tuple[int, int, int] = (40, 36, 44), seed: int = 0, source: str = "torso.nii.gz") -> Volume:
    """An ellipsoid of soft tissue with round organs in air, 2 mm, int16 HU."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape_zyx), indexing="ij")
    array = np.full(shape_zyx, -1000.0)
    inside = (x / 0.85) ** 2 + (y / 0.75) ** 2 < 1
    array[inside] = 40.0
    for _ in range(12):
        cz, cy, cx = rng.uniform(-0.5, 0.5, 3)
        array[inside & ((z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 < 0.04)] = rng.uniform(-800, 600)
    array += rng.normal(0, 15, shape_zyx) * inside
    matrix = np.diag([2.0, 2.0, 2.0, 1.0])
    matrix[:3, 3] = (-43.0, -35.0, 100.0)
    return Volume(np.round(array).astype(np.int16), matrix, source)


def seeded(net: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The network with reproducible weights and batch statistics unlike an untrained network's."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0, generator=generator)
            elif name.endswith("running_mean") or name.endswith("bias"):
                tensor.normal_(0, 0.1, generator=generator)
            elif tensor.ndim > 1:
                fan_in = tensor[0].numel()
                tensor.normal_(0, (2.0 / fan_in) ** 0.5, generator=generator)
    return net.eval()


def small_lite(seed: int = 0) -> LiteNet:
    """A light network of few channels; runs in milliseconds."""
    return seeded(LiteNet(SMALL_LITE), seed)  # type: ignore[return-value]


def model_info(name: str = "lite-test", sha256: Optional[str] = None) -> SimpleNamespace:
    """What an embedding needs to know of a model."""
    return SimpleNamespace(
        name=name,
        sha256=sha256 or "5a" * 32,
        head_weights={"fine": 0.5, "coarse": 0.25, "semantic": 0.25},
        modalities=("ct",),
    )


def random_embedding(shape_zyx: Tuple[int, int, int] = (6, 8, 10), seed: int = 0, semantic: bool = True) -> Embedding:
    """Random unit vectors on plausible grids; the coarse map on a lattice twice as wide."""
    generator = torch.Generator().manual_seed(seed)
    d, h, w = shape_zyx
    matrix = np.diag([2.0, -2.0, 2.0, 1.0])  # left-handed
    matrix[:3, 3] = (0.1, 1 / 3, -1e-7)
    lattice = Grid((2 * d, 2 * h, 2 * w), matrix)

    def head(name: str, stride: Tuple[int, int, int], shape: Tuple[int, int, int]) -> FeatureMap:
        vectors = torch.nn.functional.normalize(torch.randn((12, *shape), generator=generator), dim=0)
        return FeatureMap(name, vectors.half(), lattice.strided(stride, shape))

    return Embedding(
        fine=head("fine", (2, 2, 2), shape_zyx),
        coarse=head("coarse", (4, 4, 4), (-(-d // 2), -(-h // 2), -(-w // 2))),
        semantic=head("semantic", (2, 2, 2), shape_zyx) if semantic else None,
        body=torch.rand(shape_zyx, generator=generator).numpy() > 0.4,
        input_grid=lattice,
        volume_grid=Grid((5, 7, 9), np.diag([0.7, 0.7, 3.0, 1.0])),
        modality="ct",
        model="lite-test",
        model_sha256="5a" * 32,
        head_weights={"fine": 0.5, "coarse": 0.5},
        source="/data/Müller Anna/ct.nii.gz",
        warnings=("3 voxels are NaN; they are treated as air.",),
    )
