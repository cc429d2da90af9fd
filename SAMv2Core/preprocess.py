"""From a volume to what a network sees: a 2 mm lattice along the patient's axes, intensities in [-50, 205].

The rule is that of the released models (paper arXiv 2311.15111; SPEC 2, which follows torchio 0.18): axes relabelled
to the nearest L, P, S; ceil(n * spacing / 2 mm) voxels per axis with the outer corner kept; linear interpolation;
0 outside; CT clipped to [-1024, 3071] HU and mapped linearly; MR mapped from its 0.2 and 99.8 percentiles. It departs
from the official code only where that is wrong: x and y spacings are not exchanged, the geometry is right in the world,
and a strongly oblique or sheared volume is resampled to the patient's axes instead of being relabelled.

Linear interpolation along perpendicular axes is done one axis after the other, plane by plane: of a 512 x 512 x 300 CT
(0.8 x 0.8 x 1 mm, int16) the lattice takes 0.8 s and 40 MiB on one core, body mask and modality included 2.0 s.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, List, NamedTuple, Sequence, Tuple

import numpy as np
import SimpleITK as sitk

from SAMv2Core.body import body_mask
from SAMv2Core.errors import InputError, UsageError
from SAMv2Core.geometry import Grid
from SAMv2Core.modality import CT_OFFSET, detect_modality, is_offset_ct
from SAMv2Core.volume import Volume

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

#: Part of every cache key and model card: raise it when the same volume gives other numbers.
PREPROCESSING_VERSION = 1

LATTICE_MM = 2.0
CT_WINDOW_HU = (-1024.0, 3071.0)
MR_PERCENTILES = (0.2, 99.8)
AIR_HU = -1024.0
OUTPUT_RANGE = (-50.0, 205.0)

# Volumes tilted by no more than this keep their own axes, as in the official code; beyond, anatomy would look
# rotated to a network that was trained on upright patients.
MAX_TILT_DEGREES = 10.0
_MAX_SHEAR_KEPT = 0.01


@dataclass(frozen=True, eq=False)
class Preprocessed:
    """A volume as a network sees it.

    :param x: torch (1, 1, D, H, W) float32 in [-50, 205], axes (z, y, x).
    :param grid: the 2 mm lattice, LPS.
    :param modality: ``"ct"`` or ``"mr"``, as used.
    :param modality_reason: why, in plain words.
    :param body: (D, H, W) bool: inside the patient; table, clothes and what lies outside the volume are False.
    :param warnings: what the user should know, those of the volume included.
    """

    x: torch.Tensor
    grid: Grid
    modality: str
    modality_reason: str
    body: np.ndarray
    warnings: Tuple[str, ...]


class _Lattice(NamedTuple):
    """values (D, H, W) float32 in the volume's units; covered (D, H, W) bool, inside the volume; grid."""

    values: np.ndarray
    covered: np.ndarray
    grid: Grid


class _Axis(NamedTuple):
    """Where new samples lie along one axis of an array: lower and upper neighbor, weight of the upper, inside."""

    lower: np.ndarray
    upper: np.ndarray
    weight: np.ndarray
    inside: np.ndarray


def canonical_axes(ijk_to_lps: np.ndarray) -> Tuple[Tuple[int, ...], np.ndarray]:
    """For each of L, P, S: which of i, j, k runs along it, and whether it runs backwards.

    :returns: (axis of ijk for x, y, z), (3,) signs +1 or -1. The pairing that has the largest sum of |cosines|.
    """
    cosines = ijk_to_lps[:3, :3] / np.linalg.norm(ijk_to_lps[:3, :3], axis=0)
    orders = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    best = max(orders, key=lambda order: sum(abs(cosines[world, axis]) for world, axis in enumerate(order)))
    signs = np.array([1.0 if cosines[world, axis] >= 0 else -1.0 for world, axis in enumerate(best)])
    return best, signs


def is_upright(ijk_to_lps: np.ndarray) -> bool:
    """True when every axis is within 10 degrees of a patient axis and the axes are perpendicular."""
    axes, _ = canonical_axes(ijk_to_lps)
    cosines = ijk_to_lps[:3, :3] / np.linalg.norm(ijk_to_lps[:3, :3], axis=0)
    aligned = min(abs(cosines[world, axis]) for world, axis in enumerate(axes))
    shear = np.abs(np.triu(cosines.T @ cosines, 1)).max()
    return bool(aligned >= np.cos(np.radians(MAX_TILT_DEGREES)) and shear <= _MAX_SHEAR_KEPT)


def _n_samples(n_voxels: int, spacing_mm: float) -> int:
    # The small number undoes rounding of the spacing computed from a matrix, not that of a float32 header, on
    # which the official rule depends (60 voxels of float32 0.8 mm give 25 samples, not 24).
    return max(1, int(np.ceil(n_voxels * spacing_mm / LATTICE_MM - 1e-9)))


def _axis_samples(n_voxels: int, spacing_mm: float, backwards: bool) -> _Axis:
    step = LATTICE_MM / spacing_mm
    position = 0.5 * (step - 1) + step * np.arange(_n_samples(n_voxels, spacing_mm))
    inside = (position >= -0.5) & (position < n_voxels - 0.5)
    # Within the outer half voxel the border value counts, as in ITK's linear interpolation.
    position = np.clip(position, 0, n_voxels - 1)
    lower = np.minimum(position.astype(np.intp), n_voxels - 1)
    upper = np.minimum(lower + 1, n_voxels - 1)
    weight = (position - lower).astype(np.float32)
    if backwards:
        lower, upper, weight = n_voxels - 1 - lower, n_voxels - 1 - upper, weight
    return _Axis(lower, upper, weight, inside)


def relabelled_grid(grid: Grid) -> Grid:
    """The 2 mm lattice along the volume's own axes, permuted and flipped to L, P, S; outer corner kept."""
    axes, signs = canonical_axes(grid.ijk_to_lps)
    spacing, size = grid.spacing_ijk_mm, grid.size_ijk
    matrix = np.eye(4)
    first_corner = np.zeros(3)  # in ijk: the voxel face where the new axes start
    for world, axis in enumerate(axes):
        direction = grid.ijk_to_lps[:3, axis] / spacing[axis] * signs[world] + 0.0  # no -0.0
        matrix[:3, world] = direction * LATTICE_MM
        first_corner[axis] = -0.5 if signs[world] > 0 else size[axis] - 0.5
    matrix[:3, 3] = grid.to_lps(first_corner) + matrix[:3, :3].sum(axis=1) / 2
    shape_xyz = [_n_samples(int(size[axis]), float(spacing[axis])) for axis in axes]
    return Grid(tuple(shape_xyz[::-1]), matrix)  # type: ignore[arg-type]


def _relabel(array: np.ndarray, grid: Grid) -> _Lattice:
    """Linear resampling along the array's own axes, plane by plane, then a transposition of the small result."""
    axes, signs = canonical_axes(grid.ijk_to_lps)
    backwards = {axis: bool(signs[world] < 0) for world, axis in enumerate(axes)}
    x, y, z = (
        _axis_samples(int(grid.size_ijk[axis]), float(grid.spacing_ijk_mm[axis]), backwards[axis]) for axis in range(3)
    )
    values = np.empty((len(z.lower), len(y.lower), len(x.lower)), np.float32)
    for n, (low, high, weight) in enumerate(zip(z.lower, z.upper, z.weight)):
        plane = array[low].astype(np.float32)
        if weight:
            plane += weight * (array[high].astype(np.float32) - plane)
        rows = plane[y.lower]
        rows += y.weight[:, None] * (plane[y.upper] - rows)
        columns = rows[:, x.lower]
        values[n] = columns + x.weight * (rows[:, x.upper] - columns)
    covered = z.inside[:, None, None] & y.inside[:, None] & x.inside
    values[~covered] = 0  # the rule of the released models: 0, not air
    to_zyx = tuple(2 - axis for axis in axes[::-1])
    return _Lattice(
        np.ascontiguousarray(values.transpose(to_zyx)),
        np.ascontiguousarray(covered.transpose(to_zyx)),
        relabelled_grid(grid),
    )


def _is_covered(to_old: np.ndarray, shape_zyx: Sequence[int], old_shape_zyx: Sequence[int]) -> np.ndarray:
    """(D, H, W) bool: lattice points inside the outer faces of the old voxels; ``to_old`` maps zyx indices."""
    covered = np.ones(tuple(shape_zyx), bool)
    z, y, x = np.ogrid[tuple(slice(n) for n in shape_zyx)]
    for row, n_old in zip(to_old, old_shape_zyx):
        in_plane = (row[1] * y + row[2] * x + row[3]).astype(np.float32)[0]
        for plane, shift in zip(covered, row[0] * z.ravel()):
            position = in_plane + np.float32(shift)
            plane &= (position >= -0.5) & (position < n_old - 0.5)
    return covered


def _straighten(array: np.ndarray, grid: Grid, air: float) -> _Lattice:
    """Linear resampling to the box along L, P, S that covers the volume; air outside."""
    corners = grid.corners_lps()
    low, high = corners.min(axis=0), corners.max(axis=0)
    matrix = np.diag([LATTICE_MM] * 3 + [1.0])
    matrix[:3, 3] = low + LATTICE_MM / 2
    shape_zyx = tuple(_n_samples(1, float(length)) for length in (high - low)[::-1])
    lattice = Grid(shape_zyx, matrix)  # type: ignore[arg-type]
    to_old_ijk = grid.lps_to_ijk @ matrix
    # SimpleITK rather than scipy: 2.7 times as fast on one core (244 x 260 x 235 samples in 1.4 s).
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(to_old_ijk[:3, :3].ravel().tolist())
    transform.SetTranslation(to_old_ijk[:3, 3].tolist())
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize([int(n) for n in shape_zyx[::-1]])
    resampler.SetTransform(transform)
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.SetDefaultPixelValue(air)
    resampler.SetOutputPixelType(sitk.sitkFloat32)
    values = sitk.GetArrayFromImage(resampler.Execute(sitk.GetImageFromArray(array)))
    to_old = to_old_ijk[[2, 1, 0, 3]][:, [2, 1, 0, 3]]  # between zyx indices
    covered = _is_covered(to_old, shape_zyx, array.shape)
    return _Lattice(values, covered, lattice)


def _finite_range(array: np.ndarray) -> Tuple[float, float, int]:
    """Smallest and largest finite value, and the number of voxels that are NaN or infinite; plane by plane."""
    low, high, n_bad = np.inf, -np.inf, 0
    for plane in array:
        values = plane
        if array.dtype.kind == "f":
            finite = np.isfinite(plane)
            n_bad += plane.size - int(np.count_nonzero(finite))
            values = plane[finite] if n_bad else plane
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    return low, high, n_bad


def _clean(volume: Volume, warnings: List[str]) -> Tuple[Volume, float]:
    """The volume with NaN and infinities replaced by air, and its smallest value."""
    low, high, n_bad = _finite_range(volume.array)
    if n_bad == volume.array.size:
        raise InputError(f"{volume.source} holds no finite voxel (all NaN or infinite).", "Export the volume again.")
    if low == high:
        raise InputError(f"{volume.source} holds one single value ({low:g}).", "Choose a volume that shows a patient.")
    if n_bad:
        warnings.append(f"{volume.source}: {n_bad} voxels are NaN or infinite; they are treated as air.")
        # The smallest value is air in CT and MR alike, unless a CT shows tissue only.
        array = np.where(np.isfinite(volume.array), volume.array, np.asarray(low, volume.array.dtype))
        volume = Volume(array, volume.ijk_to_lps, volume.source, volume.modality, volume.warnings, volume.dicom)
    return volume, low


def scale_ct(values_hu: np.ndarray) -> np.ndarray:
    """HU to [-50, 205], in place: clip to [-1024, 3071], linear."""
    low, high = CT_WINDOW_HU
    np.clip(values_hu, low, high, out=values_hu)
    values_hu -= low
    values_hu *= 255.0 / (high - low)
    values_hu -= 50.0
    return values_hu


def scale_mr(values: np.ndarray) -> np.ndarray:
    """MR intensities to [-50, 205], in place: 0.2 and 99.8 percentiles; the integer parts of them set the scale.

    The integer parts are the released models' rule. Where they would leave less than a third of the range to the
    image (intensities of order 1 or less), the percentiles are used as they are.
    """
    low, high = (float(value) for value in np.percentile(values, MR_PERCENTILES))
    span = high - low
    official_high = max(high, 1.0)
    bottom, top = int(low), int(official_high)
    if top - bottom <= 0 or span < (top - bottom) / 3:
        official_high, bottom, top = high, low, high  # type: ignore[assignment]
    np.clip(values, low, official_high, out=values)
    values -= bottom
    values *= 255.0 / max(top - bottom, np.finfo(np.float32).tiny)
    values -= 50.0
    return values


def _resolve_modality(volume: Volume, modality: str, warnings: List[str]) -> Tuple[str, str]:
    if modality not in ("auto", "ct", "mr"):
        raise UsageError(f"Modality {modality!r} is not known.", "Use ct, mr or auto.")
    if modality == "auto":
        return detect_modality(volume)
    if volume.modality and volume.modality != modality:
        warnings.append(
            f"{volume.source} is marked as {volume.modality.upper()} in its file, but is used as {modality.upper()}."
        )
    return modality, "chosen by the user"


def preprocess_report(volume: Volume, modality: str = "auto") -> Preprocessed:
    """Resample and scale a volume for a network, and find the patient in it.

    :param volume: array (z, y, x) in HU (CT) or any units (MR).
    :param modality: ``"ct"``, ``"mr"`` or ``"auto"`` (DICOM tag, else decided from the values).
    :raises InputError: constant volume, no finite voxel, modality that cannot be told.
    :raises UsageError: another modality.
    """
    import torch

    warnings = list(volume.warnings)
    volume, lowest = _clean(volume, warnings)
    modality, reason = _resolve_modality(volume, modality, warnings)
    is_ct = modality == "ct"
    offset = CT_OFFSET if is_ct and is_offset_ct(volume) else 0.0
    if offset:
        warnings.append(
            f"{volume.source} holds CT values without their rescale (air near 0 instead of -1000): "
            f"{offset:g} is subtracted."
        )
    if is_upright(volume.ijk_to_lps):
        values, covered, grid = _relabel(volume.array, volume.grid)
    else:
        values, covered, grid = _straighten(volume.array, volume.grid, AIR_HU + offset if is_ct else lowest)
    if offset:
        values[covered] -= offset
    body = body_mask(values, modality, covered)
    if not body.any():
        warnings.append(f"{volume.source}: no body was found in it.")
    x = torch.from_numpy((scale_ct if is_ct else scale_mr)(values))[None, None]
    logger.debug("%s: %s (%s), lattice %s", volume.source, modality, reason, grid.shape_zyx)
    return Preprocessed(x, grid, modality, reason, body, tuple(warnings))


def preprocess(volume: Volume, modality: str = "auto") -> Tuple[torch.Tensor, Grid]:
    """The tensor as the network sees it, (1, 1, D, H, W) float32 in [-50, 205], and its 2 mm lattice (LPS).

    :raises InputError: see :func:`preprocess_report`.
    """
    result = preprocess_report(volume, modality)
    return result.x, result.grid
