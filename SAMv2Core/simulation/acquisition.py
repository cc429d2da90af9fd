"""What another scanner, protocol or contrast phase does to a scan; used to simulate follow-ups.

Figures are in HU. In an MR, which has no such unit, the span between the 2nd and the 98th percentile of the
positive voxels stands for the 500 HU of soft tissue (-200 to 300), and all figures scale with it.

Arrays are float32 with axes (z, y, x) and are never changed in place; grids are LPS mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Optional, Tuple

import numpy as np
from scipy import ndimage

from SAMv2Core.geometry.grid import Grid

SOFT_TISSUE_HU = (-200.0, 300.0)
AIR_HU = -1024.0
MIN_SLICE_COVERED = 0.75  # of a slice must come from inside the baseline for the follow-up to show it
TABLE_SHELL_HU, TABLE_FOAM_HU = -150.0, -930.0
TABLE_HALF_WIDTH_MM, TABLE_DEPTH_MM, TABLE_SHELL_MM, TABLE_RADIUS_MM = 210.0, 45.0, 4.0, 600.0


@dataclass(frozen=True)
class IntensityScale:
    """What the figures in HU mean in one volume.

    :param low: value that stands for -200 HU.
    :param high: value that stands for 300 HU.
    :param air: value of air, written where nothing was scanned.
    """

    low: float
    high: float
    air: float

    @property
    def per_hu(self) -> float:
        return (self.high - self.low) / (SOFT_TISSUE_HU[1] - SOFT_TISSUE_HU[0])

    def of_hu(self, hu: float) -> float:
        """The volume's value that stands for a figure in HU."""
        return self.low + (hu - SOFT_TISSUE_HU[0]) * self.per_hu

    def body(self, array: np.ndarray) -> np.ndarray:
        """(z, y, x) bool, roughly the patient, fat included: enough to find its center and its back."""
        return array > self.low


def intensity_scale(array: np.ndarray, modality: Optional[str]) -> IntensityScale:
    """The scale of a volume; ``modality`` None means: CT when clearly negative values exist."""
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    minimum = float(finite.min()) if finite.size else 0.0
    if modality == "ct" or (modality is None and minimum < -200):
        return IntensityScale(SOFT_TISSUE_HU[0], SOFT_TISSUE_HU[1], max(minimum, AIR_HU))
    positive = finite[finite > 0]
    low, high = np.percentile(positive, (2, 98)) if positive.size else (0.0, 1.0)
    return IntensityScale(float(low), float(max(high, low + 1e-6)), minimum)


def remap_intensity(
    array: np.ndarray,
    scale: IntensityScale,
    contrast: float = 1.0,
    gamma: float = 1.0,
    offset_hu: float = 0.0,
) -> np.ndarray:
    """A monotone change of the soft tissues: gamma inside their span, then gain about 50 HU, then an offset.

    Denser tissue goes on with the gain; between soft tissue and air the curve is a straight line, so that air
    stays air.
    """
    t = np.linspace(0.0, 1.0, 65)
    inputs = scale.low + t * (scale.high - scale.low)
    pivot = scale.of_hu(50.0)
    bent = scale.low + t**gamma * (scale.high - scale.low)
    outputs = pivot + contrast * (bent - pivot) + offset_hu * scale.per_hu
    beyond = float(max(array.max(), scale.high)) - scale.high
    inputs = np.concatenate([inputs, [scale.high + beyond + 1.0]])
    outputs = np.concatenate([outputs, [outputs[-1] + contrast * (beyond + 1.0)]])
    if scale.air < scale.low:
        inputs = np.concatenate([[scale.air], inputs])
        outputs = np.concatenate([[scale.air], np.maximum(outputs, scale.air)])
    return np.interp(array, inputs, outputs).astype(np.float32)


def apply_kernel(array: np.ndarray, grid: Grid, blur_mm: float = 0.0, sharpen: float = 0.0) -> np.ndarray:
    """A softer kernel (Gaussian of deviation ``blur_mm``), then a sharper one (unsharp mask, 1 voxel)."""
    out = np.asarray(array, dtype=np.float32)
    if blur_mm > 0:
        out = ndimage.gaussian_filter(out, blur_mm / grid.spacing_ijk_mm[::-1], truncate=3.0)
    if sharpen > 0:
        out = out + sharpen * (out - ndimage.gaussian_filter(out, 1.0, truncate=3.0))
    return out


def add_noise(array: np.ndarray, sigma: float, grain_voxels: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of deviation ``sigma``, correlated over ``grain_voxels`` within a slice (0 = white)."""
    noise = rng.standard_normal(array.shape, dtype=np.float32)
    if grain_voxels > 0:
        noise = ndimage.gaussian_filter(noise, (0, grain_voxels, grain_voxels), truncate=3.0)
        noise /= max(float(noise.std()), 1e-12)
    return array + np.float32(sigma) * noise


def average_slices(array: np.ndarray, factor: int) -> np.ndarray:
    """(n * factor, y, x) -> (n, y, x): thick slices, each the mean of ``factor`` thin ones."""
    return array.reshape(-1, factor, *array.shape[1:]).mean(axis=1, dtype=np.float32)


def add_table(array: np.ndarray, grid: Grid, scale: IntensityScale) -> np.ndarray:
    """A couch under a patient on the back: two thin curved shells with foam between, written in air only."""
    points_of = grid.ijk_to_lps
    k, j, i = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in grid.shape_zyx), indexing="ij", sparse=True)
    x_mm = points_of[0, 0] * i + points_of[0, 1] * j + points_of[0, 2] * k + points_of[0, 3]
    y_mm = points_of[1, 0] * i + points_of[1, 1] * j + points_of[1, 2] * k + points_of[1, 3]
    body = scale.body(array)
    if not body.any():
        return array
    back_mm, middle_mm = float(np.percentile(y_mm[body], 99.5)) + 4.0, float(np.median(x_mm[body]))
    across = np.abs(x_mm - middle_mm)
    depth = y_mm - (back_mm - across**2 / (2 * TABLE_RADIUS_MM))
    inside = (depth >= 0) & (depth <= TABLE_DEPTH_MM) & (across <= TABLE_HALF_WIDTH_MM)
    inside &= array < scale.of_hu(-700.0)
    shell = (depth < TABLE_SHELL_MM) | (depth > TABLE_DEPTH_MM - TABLE_SHELL_MM)
    out = array.copy()
    out[inside] = np.where(shell[inside], scale.of_hu(TABLE_SHELL_HU), scale.of_hu(TABLE_FOAM_HU))
    return out


def cropped_grid(grid: Grid, fraction_xyz: Tuple[float, float, float], rng: np.random.Generator) -> Grid:
    """A smaller field of view: fractions of the grid along its index axes (x, y, z), placed at random."""
    size = grid.size_ijk
    kept = np.maximum(np.round(size * np.array(fraction_xyz)), 1).astype(int)
    local = np.eye(4)
    local[:3, 3] = np.round(rng.uniform(0, 1, 3) * (size - kept))
    return Grid((int(kept[2]), int(kept[1]), int(kept[0])), grid.ijk_to_lps @ local)


def with_slices(grid: Grid, thickness_mm: float) -> Tuple[Grid, int]:
    """The grid with slices of another thickness, and how many thin ones to average for each."""
    ratio = thickness_mm / grid.spacing_ijk_mm[2]
    local = np.diag([1.0, 1.0, ratio, 1.0])
    local[2, 3] = (ratio - 1) / 2
    n_slices = max(1, int(grid.shape_zyx[0] / ratio + 1e-6))
    thick = Grid((n_slices, *grid.shape_zyx[1:]), grid.ijk_to_lps @ local)
    return thick, max(1, int(np.ceil(ratio - 1e-6)))


def thin_slices(grid: Grid, factor: int) -> Grid:
    """The grid with every slice cut into ``factor`` thinner ones, for :func:`average_slices`."""
    local = np.diag([1.0, 1.0, 1.0 / factor, 1.0])
    local[2, 3] = (1.0 / factor - 1) / 2
    return Grid((grid.shape_zyx[0] * factor, *grid.shape_zyx[1:]), grid.ijk_to_lps @ local)


def without_empty_ends(target: Grid, baseline: Grid, to_baseline: Callable[[np.ndarray], np.ndarray]) -> Grid:
    """Trim the target along the body's long axis to slices that the baseline fills.

    A real scan shows no patient cut off in mid-volume. In-plane, where the baseline ends in air or cuts the
    body just as a small field of view does, nothing is trimmed.

    :param to_baseline: maps (N, 3) points of the follow-up to the baseline, LPS mm.
    """
    axis = int(np.argmax(np.abs(target.ijk_to_lps[2, :3]) / target.spacing_ijk_mm))
    size = target.size_ijk
    across = [np.linspace(0, n - 1, 9) for n in size]
    across[axis] = np.arange(size[axis], dtype=np.float64)
    ijk = np.stack(np.meshgrid(*across, indexing="ij"), axis=-1)
    height = baseline.to_ijk(to_baseline(target.to_lps(ijk.reshape(-1, 3))))[:, axis]
    inside = (height >= -0.5) & (height <= baseline.size_ijk[axis] - 0.5)
    share = np.moveaxis(inside.reshape(ijk.shape[:3]), axis, 0).reshape(size[axis], -1).mean(axis=1)
    filled = np.nonzero(share >= MIN_SLICE_COVERED)[0]
    if not len(filled):
        return target
    local = np.eye(4)
    local[axis, 3] = filled[0]
    shape = list(target.shape_zyx)
    shape[2 - axis] = int(filled[-1] - filled[0] + 1)
    return Grid((shape[0], shape[1], shape[2]), target.ijk_to_lps @ local)
