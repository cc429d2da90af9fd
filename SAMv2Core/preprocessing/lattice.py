"""Resampling to the 2 mm lattice along the patient's axes that the networks see.

The rule is that of the released models (paper arXiv 2311.15111; torchio 0.18): axes relabelled to the nearest
L, P, S; ceil(n * spacing / 2 mm) samples per axis with the outer corner kept; linear interpolation; 0
outside. Strongly oblique or sheared volumes, which that rule would present rotated, are resampled to the box
along L, P, S that covers them. A CT, however, is taken along the patient and turned afterwards (a transform hardened, a
reformat along the spine), so that its own axes are the patient's: it keeps them up to :data:`CT_TILT_DEGREES`, and the
same scan in a turned frame is the same to a network.

Linear interpolation along perpendicular axes is done one axis after the other, plane by plane, in the order
in which the array is stored: a 512 x 512 x 300 CT (0.8 x 0.8 x 1 mm, int16) takes 0.15 s of one core, and of
memory no more than the lattice itself (25 MiB) and a few planes.
"""

from __future__ import annotations

from typing import NamedTuple, Sequence

import numpy as np

from SAMv2Core.geometry.grid import Grid, canonical_axes, is_upright
from SAMv2Core.io.itk import resampled, transform_of

LATTICE_MM = 2.0

CT_TILT_DEGREES = 40.0
"""So far a CT keeps its own axes. Straightened, a scan in a frame turned by (7, -12, 18) degrees matched up to 13.7 mm
off at one of twelve points; an MR's slices are tilted at the scanner, and the patient is not."""


class Lattice(NamedTuple):
    """values (D, H, W) float32 in the volume's units; covered (D, H, W) bool, inside the volume; grid."""

    values: np.ndarray
    covered: np.ndarray
    grid: Grid


class _Axis(NamedTuple):
    """Where new samples lie along an axis: lower and upper neighbor, weight of the upper, inside or not."""

    lower: np.ndarray
    upper: np.ndarray
    weight: np.ndarray
    inside: np.ndarray


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
        lower, upper = n_voxels - 1 - lower, n_voxels - 1 - upper
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


def _relabel(array: np.ndarray, grid: Grid) -> Lattice:
    """Linear resampling along the array's own axes, plane by plane; then the small result is transposed."""
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
    return Lattice(
        np.ascontiguousarray(values.transpose(to_zyx)),
        np.ascontiguousarray(covered.transpose(to_zyx)),
        relabelled_grid(grid),
    )


def _is_covered(to_old: np.ndarray, shape_zyx: Sequence[int], old_shape_zyx: Sequence[int]) -> np.ndarray:
    """(D, H, W) bool: samples inside the outer faces of the old voxels; ``to_old`` maps zyx indices."""
    covered = np.ones(tuple(shape_zyx), bool)
    z, y, x = np.ogrid[tuple(slice(n) for n in shape_zyx)]
    for row, n_old in zip(to_old, old_shape_zyx):
        in_plane = (row[1] * y + row[2] * x + row[3]).astype(np.float32)[0]
        for plane, shift in zip(covered, row[0] * z.ravel()):
            position = in_plane + np.float32(shift)
            plane &= (position >= -0.5) & (position < n_old - 0.5)
    return covered


def _straighten(array: np.ndarray, grid: Grid, air: float) -> Lattice:
    """Linear resampling to the box along L, P, S that covers the volume; air outside."""
    corners = grid.corners_lps()
    low, high = corners.min(axis=0), corners.max(axis=0)
    matrix = np.diag([LATTICE_MM] * 3 + [1.0])
    matrix[:3, 3] = low + LATTICE_MM / 2
    shape_zyx = tuple(_n_samples(1, float(length)) for length in (high - low)[::-1])
    lattice = Grid(shape_zyx, matrix)  # type: ignore[arg-type]
    to_old_ijk = grid.lps_to_ijk @ matrix
    # SimpleITK rather than scipy: 2.7 times as fast on one core (244 x 260 x 235 samples in 1.4 s).
    values = resampled(array, transform_of(to_old_ijk), shape_zyx, air).astype(np.float32, copy=False)
    to_old = to_old_ijk[[2, 1, 0, 3]][:, [2, 1, 0, 3]]  # between zyx indices
    covered = _is_covered(to_old, shape_zyx, array.shape)
    return Lattice(values, covered, lattice)


def keeps_axes(grid: Grid, modality: str) -> bool:
    """Whether the lattice of a volume runs along the volume's own axes."""
    return is_upright(grid.ijk_to_lps, CT_TILT_DEGREES) if modality == "ct" else is_upright(grid.ijk_to_lps)


def to_lattice(array: np.ndarray, grid: Grid, air: float, modality: str = "") -> Lattice:
    """Resample (z, y, x) voxels on any lattice to the 2 mm lattice of the networks.

    :param air: what lies outside a volume that had to be straightened; outside others it is 0, by the rule.
    :param modality: ``"ct"`` keeps the axes of volumes that others do not.
    """
    return _relabel(array, grid) if keeps_axes(grid, modality) else _straighten(array, grid, air)
