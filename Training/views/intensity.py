"""Intensity augmentation: of the paper's patches, and of the light recipes' views (paper sec. 3.1, 3.4 and 4.1).

*Patches* (N, 1, D, H, W) on the network's scale [-50, 205], a batch at once on the device. AggSAM's aggressive contrast
augmentation makes the network look at shape instead of gray values: a random monotone curve, sometimes upside down,
maps the intensities inside the body; then blur and noise. Every random choice but the noise's grain is drawn on the CPU
(:func:`draw_intensity`), so that a patch looks the same wherever it is computed.

*Views* of the light recipes are crops (d, h, w) in stored units, which for CT are HU. One :class:`Look` holds the
random choices of a view, so that its context and its detail crop get the same contrast; noise is drawn anew. A tone
curve (calibration, contrast phase), slice thickness, blur and noise; for networks of both modalities, a CT may be
*shown as MR*: tissues of one HU get one random signal (T1: fat bright, muscle dark, cortical bone black; T2,
fat-suppressed and proton density by other draws), and a view of the same CT in its own contrast is its partner:
cross-modality pairs without a single MR, for every part of the body that the CTs show. Real MR gets monotone curves,
inversion of its signal now and then, and a bias field. Contrast phases, thickness and looks are ours, not the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F

from Training.data.index import AIR, NETWORK_RANGE, STORED_RANGE

LEVELS = 1024
BLUR_REACH = 2.5  # taps reach this many standard deviations
BRIGHTEST = STORED_RANGE[1]
INVERSION = 0.15
"""Share of MR views with inverted signal."""


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


@dataclass(frozen=True)
class Look:
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


def draw_ct_look(rng: np.random.Generator, strength: float = 1.0) -> Look:
    """Draw a tone curve (calibration, contrast phase), noise, blur and slice thickness."""
    knots = np.array([-1024.0, -900, -500, -150, -60, 0, 60, 150, 300, 800, 3000])
    spread = np.array([5.0, 30, 80, 30, 25, 20, 30, 60, 80, 120, 200])
    values = knots + strength * rng.normal(0, 1, len(knots)) * spread * rng.uniform(0.2, 1)
    values = np.maximum.accumulate(values + 1e-3 * np.arange(len(values)))
    return Look(
        knots,
        values,
        noise_hu=float(strength * rng.uniform(0, 30) * (rng.random() < 0.8)),
        noise_grain=int(rng.choice([1, 1, 2])),
        blur_voxels=float(rng.uniform(0.4, 1.2) if rng.random() < 0.3 else 0.0),
        thickness=int(rng.choice([1, 1, 1, 2, 3])),
    )


def apply_look(hu: torch.Tensor, draw: Look, spacing_voxels: float, generator: torch.Generator) -> torch.Tensor:
    """Augment a crop (d, h, w) in HU; ``spacing_voxels`` is 1 for the 2 mm crop and 2 for the 4 mm crop."""
    out = _tone(hu, draw.knots, draw.values)
    if draw.blur_voxels / spacing_voxels > 0.3:
        out = blur(out[None, None], [draw.blur_voxels / spacing_voxels])[0, 0]
    thickness = round(draw.thickness / spacing_voxels)
    if thickness > 1:
        out = _thicken(out, thickness)
    if draw.bias > 0:
        field = F.interpolate(
            torch.randn((1, 1, 4, 4, 4), generator=generator), size=tuple(out.shape), mode="trilinear",
            align_corners=True,
        )  # fmt: skip
        out = (out - AIR) * torch.exp(draw.bias * field[0, 0]) + AIR
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


def _thicken(x: torch.Tensor, n: int) -> torch.Tensor:
    """Average n slices and interpolate back: thick slices."""
    depth = x.shape[0]
    thick = F.avg_pool3d(x[None, None], (n, 1, 1), ceil_mode=True)
    return F.interpolate(thick, size=tuple(x.shape), mode="trilinear", align_corners=False)[0, 0][:depth]


def draw_look(modality: str, other_contrast: float, rng: np.random.Generator) -> Look:
    """The random choices of a view of a scan.

    :param modality: of the scan, "ct" or "mr".
    :param other_contrast: probability that a CT is shown as MR, and an MR with its signal inverted or warped strongly.
    """
    if modality == "mr":
        return _mr(rng, strong=rng.random() < other_contrast)
    if other_contrast > 0 and rng.random() < other_contrast:
        return _ct_as_mr(rng)
    return draw_ct_look(rng)


def _signal(relative: np.ndarray) -> np.ndarray:
    """0..1 to the HU scale."""
    return AIR + np.clip(relative, 0, 1) * (BRIGHTEST - AIR)


def _mr(rng: np.random.Generator, strong: bool) -> Look:
    inner = np.sort(rng.uniform(0.03, 1, 6 if strong else 3))
    knots = np.r_[0.0, inner, 1.0]
    spread = 0.15 if strong else 0.06
    values = np.maximum.accumulate(np.r_[0.0, inner + rng.normal(0, spread, len(inner)), 1.0])
    if strong and rng.random() < INVERSION:
        knots, values = np.r_[0.0, 0.04, knots[1:]], np.r_[0.0, 1.0, 1.02 - values[1:]]
        order = np.argsort(knots, kind="stable")
        knots, values = knots[order], values[order]
    return _draw(_signal(knots), _signal(values * rng.uniform(0.75, 1.1)), rng)


def _ct_as_mr(rng: np.random.Generator) -> Look:
    fat, muscle = rng.uniform(0.45, 1.0), rng.uniform(0.12, 0.6)
    if rng.random() < 0.35:  # fat suppressed, or no sequence that exists
        fat, muscle = rng.uniform(0.05, 0.6), rng.uniform(0.2, 0.9)
    fluid = np.clip(muscle + rng.normal(-0.05, 0.2), 0.05, 1)
    vessel = np.clip(muscle + rng.normal(0, 0.15), 0.02, 1)  # enhanced in the CT, anything in the MR
    marrow = np.clip(fat * rng.uniform(0.5, 1.0), 0.05, 1)
    cortex = rng.uniform(0.0, 0.15)
    lung = rng.uniform(0.0, 0.12)
    levels = {
        -1024: 0.0, -950: 0.01, -850: lung, -400: (lung + fat) / 2, -130: fat, -80: fat, -10: fluid, 15: fluid,
        45: muscle, 70: muscle, 130: vessel, 220: marrow, 450: marrow, 800: cortex, 3071: cortex,
    }  # fmt: skip
    knots = np.array(list(levels), dtype=float)
    return _draw(knots, _signal(np.array(list(levels.values()))), rng)


def _draw(knots: np.ndarray, values: np.ndarray, rng: np.random.Generator) -> Look:
    return Look(
        knots,
        values,
        noise_hu=float(rng.uniform(0, 160) * (rng.random() < 0.7)),
        noise_grain=int(rng.choice([1, 1, 2])),
        blur_voxels=float(rng.uniform(0.4, 1.0) if rng.random() < 0.3 else 0.0),
        thickness=int(rng.choice([1, 1, 1, 2, 3])),
        bias=float(rng.uniform(0, 0.3)),
    )
