"""Intensity augmentation of the paper's recipes, for a batch of patches at once on the device (sec. 3.3 and 4.1).

AggSAM's aggressive contrast augmentation makes the network look at shape instead of gray values: a random monotone
curve, sometimes upside down, maps the intensities inside the body; then blur and noise. Every random choice but the
noise's grain is drawn on the CPU (:func:`draw_intensity`), so that a patch looks the same wherever it is computed.

Patches are (N, 1, D, H, W) float32 on the network's scale [-50, 205].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F

from Training.data.index import NETWORK_RANGE

LEVELS = 1024
BLUR_REACH = 2.5  # taps reach this many standard deviations


@dataclass(frozen=True)
class IntensityOptions:
    """Probabilities and ranges; the defaults change next to nothing, as the official SAM configuration.

    :param curve: probability of a random curve.
    :param curve_points: range of the number of its control points, ends included.
    :param inversion: probability that the curve is turned upside down (given a curve).
    :param own_range: probability that the curve spans the patch's own range instead of the whole scale.
    :param body_only: the curve leaves what is outside the body as it is.
    :param blur_mm: range of the standard deviation of the Gaussian blur.
    :param noise: range of the standard deviation of the noise, on the scale of 255 levels.
    """

    curve: float = 0.0
    curve_points: Tuple[int, int] = (5, 15)
    inversion: float = 0.3
    own_range: float = 0.3
    body_only: bool = True
    blur_mm: Tuple[float, float] = (0.0, 0.0)
    noise: Tuple[float, float] = (0.0, 0.001)

    def __post_init__(self) -> None:
        if self.curve_points[0] < 2 or self.curve_points[1] < self.curve_points[0]:
            raise ValueError("curve_points must be increasing and at least 2")


@dataclass(frozen=True)
class IntensityDraw:
    """The random choices of one patch.

    :param curve: (LEVELS,) float32, values 0..1 at equal steps of 0..1, or None.
    :param own_range: the curve spans the patch's own range.
    :param blur_mm: standard deviation, 0 for none.
    :param noise: standard deviation on the scale of 255 levels.
    :param noise_seed: of the noise.
    """

    curve: Optional[np.ndarray]
    own_range: bool
    blur_mm: float
    noise: float
    noise_seed: int


def draw_intensity(rng: np.random.Generator, options: IntensityOptions) -> IntensityDraw:
    """Draw what happens to one patch."""
    has_curve = rng.random() < options.curve
    return IntensityDraw(
        draw_curve(rng, options) if has_curve else None,
        bool(rng.random() < options.own_range),
        float(rng.uniform(*options.blur_mm)),
        float(rng.uniform(*options.noise)),
        int(rng.integers(2**31)),
    )


def draw_curve(rng: np.random.Generator, options: IntensityOptions) -> np.ndarray:
    """A monotone piecewise linear curve on [0, 1]: (LEVELS,) float32.

    Control points start on the diagonal; each inner one in turn moves to a random height between its neighbors.
    """
    n = int(rng.integers(options.curve_points[0], options.curve_points[1] + 1))
    x = np.linspace(0, 1, n)
    y = x.copy()
    for k in range(1, n - 1):
        y[k] = rng.uniform(y[k - 1], y[k + 1])
    if rng.random() < options.inversion:
        y = 1 - y
    return np.interp(np.linspace(0, 1, LEVELS), x, y).astype(np.float32)


def apply_intensity(
    patches: torch.Tensor, body: Optional[torch.Tensor], draws: Sequence[IntensityDraw], spacing_mm: Sequence[float]
) -> torch.Tensor:
    """Augment (N, 1, D, H, W) patches, one draw each.

    :param body: (N, 1, D, H, W) bool, where curves act; None: everywhere.
    :param spacing_mm: of each patch's voxels in its scan: a blur in millimeters is wider in a magnified patch.
    """
    curves = [draw.curve for draw in draws]
    if any(curve is not None for curve in curves):
        patches = _apply_curves(patches, body, curves, [draw.own_range for draw in draws])
    sigma = [draw.blur_mm / spacing for draw, spacing in zip(draws, spacing_mm)]
    if max(sigma) > 0.2:  # below, the taps round to a single one
        patches = blur(patches, sigma)
    if any(draw.noise > 0 for draw in draws):
        noise = torch.stack([_noise(patches, draw) for draw in draws])
        patches = patches + noise
    return patches


def _apply_curves(
    patches: torch.Tensor,
    body: Optional[torch.Tensor],
    curves: Sequence[Optional[np.ndarray]],
    own_range: List[bool],
) -> torch.Tensor:
    identity = np.linspace(0, 1, LEVELS, dtype=np.float32)
    table = torch.from_numpy(np.stack([identity if c is None else c for c in curves])).to(patches.device)
    low, span = NETWORK_RANGE[0], NETWORK_RANGE[1] - NETWORK_RANGE[0]
    flat = ((patches - low) / span).flatten(1)
    own = torch.tensor(own_range, device=patches.device)[:, None]
    bottom = torch.where(own, flat.amin(1, keepdim=True), 0.0)
    width = torch.where(own, flat.amax(1, keepdim=True), 1.0) - bottom
    position = ((flat - bottom) / width.clamp_min(1e-3)).clamp(0, 1) * (LEVELS - 1)
    index = position.long().clamp_max(LEVELS - 2)
    part = position - index
    mapped = table.gather(1, index) * (1 - part) + table.gather(1, index + 1) * part
    mapped = ((mapped * width + bottom) * span + low).view_as(patches)
    return mapped if body is None else torch.where(body, mapped, patches)


def blur(patches: torch.Tensor, sigma_voxels: Sequence[float]) -> torch.Tensor:
    """Gaussian blur of (N, 1, D, H, W), with a standard deviation (voxels) for each."""
    sigma = torch.tensor([max(s, 1e-3) for s in sigma_voxels], device=patches.device)
    radius = max(1, int(np.ceil(BLUR_REACH * max(sigma_voxels))))
    distance = torch.arange(-radius, radius + 1, device=patches.device)
    taps = torch.exp(-0.5 * (distance[None] / sigma[:, None]) ** 2)
    taps = taps / taps.sum(1, keepdim=True)
    out = patches.transpose(0, 1)  # one group of channels per patch
    for axis in range(3):
        shape = [len(sigma), 1, 1, 1, 1]
        shape[2 + axis] = len(distance)
        pad = [0] * 6
        pad[4 - 2 * axis] = pad[5 - 2 * axis] = radius
        out = F.conv3d(F.pad(out, pad, mode="replicate"), taps.view(shape), groups=len(sigma))
    return out.transpose(0, 1)


def _noise(patches: torch.Tensor, draw: IntensityDraw) -> torch.Tensor:
    generator = torch.Generator(device=patches.device).manual_seed(draw.noise_seed)
    return torch.randn(patches.shape[1:], generator=generator, device=patches.device) * draw.noise
