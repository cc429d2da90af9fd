"""Intensity augmentation of CT crops in Hounsfield units (paper sec. 3.1 and 4.1; contrast phases and thickness: ours).

One :class:`IntensityDraw` holds the random choices of a view, so that its context and its detail crop get the same
contrast; noise is drawn anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple

import numpy as np
import torch
import torch.nn.functional as F

AIR_HU = -1024.0


@dataclass(frozen=True)
class IntensityDraw:
    """Random choices of one view.

    :param knots: HU of the control points of the tone curve, increasing.
    :param values: HU that they are mapped to.
    :param noise_hu: standard deviation of the noise.
    :param noise_grain: 1 for white noise, larger for coarser grain (voxels).
    :param blur_voxels: standard deviation of the Gaussian blur of the detail crop.
    :param thickness: slice thickness in voxels of the detail crop (1 = unchanged).
    :param bias: standard deviation of the logarithm of a smooth multiplicative field (receive coils of MR).
    """

    knots: np.ndarray
    values: np.ndarray
    noise_hu: float
    noise_grain: int
    blur_voxels: float
    thickness: int
    bias: float = 0.0


def draw_intensity(rng: np.random.Generator, strength: float = 1.0) -> IntensityDraw:
    """Draw a tone curve (calibration, contrast phase), noise, blur and slice thickness."""
    knots = np.array([-1024.0, -900, -500, -150, -60, 0, 60, 150, 300, 800, 3000])
    spread = np.array([5.0, 30, 80, 30, 25, 20, 30, 60, 80, 120, 200])
    values = knots + strength * rng.normal(0, 1, len(knots)) * spread * rng.uniform(0.2, 1)
    values = np.maximum.accumulate(values + 1e-3 * np.arange(len(values)))
    return IntensityDraw(
        knots,
        values,
        noise_hu=float(strength * rng.uniform(0, 30) * (rng.random() < 0.8)),
        noise_grain=int(rng.choice([1, 1, 2])),
        blur_voxels=float(rng.uniform(0.4, 1.2) if rng.random() < 0.3 else 0.0),
        thickness=int(rng.choice([1, 1, 1, 2, 3])),
    )


def apply_intensity(
    hu: torch.Tensor, draw: IntensityDraw, spacing_voxels: float, generator: torch.Generator
) -> torch.Tensor:
    """Augment a crop (d, h, w) in HU; ``spacing_voxels`` is 1 for the 2 mm crop and 2 for the 4 mm crop."""
    out = _tone(hu, draw.knots, draw.values)
    if draw.blur_voxels / spacing_voxels > 0.3:
        out = _blur(out, draw.blur_voxels / spacing_voxels)
    thickness = round(draw.thickness / spacing_voxels)
    if thickness > 1:
        out = _thicken(out, thickness)
    if draw.bias > 0:
        field = F.interpolate(
            torch.randn((1, 1, 4, 4, 4), generator=generator), size=tuple(out.shape), mode="trilinear",
            align_corners=True,
        )  # fmt: skip
        out = (out - AIR_HU) * torch.exp(draw.bias * field[0, 0]) + AIR_HU
    if draw.noise_hu > 0:
        grain = max(1, round(draw.noise_grain / spacing_voxels))
        shape = [max(2, -(-n // grain)) for n in out.shape]
        noise = torch.randn(shape, generator=generator)[None, None]
        if grain > 1:
            noise = F.interpolate(noise, size=tuple(out.shape), mode="trilinear", align_corners=False) * 1.5
        # Averaging 2x2x2 voxels leaves about a third of the noise in the 4 mm crop.
        out = out + noise[0, 0] * draw.noise_hu / spacing_voxels**1.5
    return out


def _tone(hu: torch.Tensor, knots: np.ndarray, values: np.ndarray) -> torch.Tensor:
    """Piecewise linear map through (knots, values) by a lookup table of 1 HU steps."""
    table = torch.from_numpy(np.interp(np.arange(-1024, 3073), knots, values).astype(np.float32))
    index = (hu.clamp(-1024, 3072) + 1024).round_().long()
    return table[index]


def _blur(x: torch.Tensor, sigma: float) -> torch.Tensor:
    radius = max(1, round(2.5 * sigma))
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    taps = taps / taps.sum()
    x = x[None, None]
    for axis in range(3):
        shape = [1, 1, 1, 1, 1]
        shape[2 + axis] = len(taps)
        pad: Tuple[int, ...] = tuple(radius if n // 2 == 2 - axis else 0 for n in range(6))
        x = F.conv3d(F.pad(x, pad, mode="replicate"), taps.view(shape))
    return x[0, 0]


def _thicken(x: torch.Tensor, n: int) -> torch.Tensor:
    """Average n slices and interpolate back: thick slices."""
    depth = x.shape[0]
    thick = F.avg_pool3d(x[None, None], (n, 1, 1), ceil_mode=True)
    return F.interpolate(thick, size=tuple(x.shape), mode="trilinear", align_corners=False)[0, 0][:depth]


def to_network_scale(hu: torch.Tensor) -> torch.Tensor:
    """HU to the preprocessed scale [-50, 205] (paper sec. 4.1)."""
    return (hu.clamp(-1024, 3071) + 1024) * (255.0 / 4095.0) - 50.0
