"""Planes through a volume as a radiologist expects them, and the overview picture; numpy only.

A plane is sampled in the patient's space (LPS mm), never along array axes, so that oblique, left-handed and
anisotropic volumes all come out upright, undistorted and in radiological orientation:

* axial: seen from the feet, patient's right on the picture's left, anterior up;
* coronal: seen from the front, patient's right on the picture's left, superior up;
* sagittal: seen from the patient's left, anterior on the picture's left, superior up.

Pixels are square; rows run downward. Pixels outside the scan are NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Optional, Tuple

import numpy as np
from scipy import ndimage

from SAMv2Core.geometry.grid import Grid

AIR_HU = -1000.0
DEPTH_STEP_MM = 4.0  # of projections: as fine as the feature maps, four times quicker than the voxels


@dataclass(frozen=True)
class Plane:
    """How a picture lies in the patient.

    :param right: LPS unit vector from left to right in the picture.
    :param down: LPS unit vector from top to bottom in the picture.
    :param edges: letters at (left, right, top, bottom) of the picture.
    :param depth_axis: index into LPS of the axis that is constant in the plane.
    """

    name: str
    right: Tuple[float, float, float]
    down: Tuple[float, float, float]
    edges: Tuple[str, str, str, str]
    depth_axis: int

    @property
    def axes_lps(self) -> np.ndarray:
        """(2, 3): the unit vectors to the right and down."""
        return np.array([self.right, self.down], dtype=np.float64)


PLANES: Dict[str, Plane] = {
    "axial": Plane("axial", (1, 0, 0), (0, 1, 0), ("R", "L", "A", "P"), 2),
    "coronal": Plane("coronal", (1, 0, 0), (0, 0, -1), ("R", "L", "S", "I"), 1),
    "sagittal": Plane("sagittal", (0, 1, 0), (0, 0, -1), ("A", "P", "S", "I"), 0),
}


@dataclass(frozen=True)
class Slice:
    """A sampled plane.

    :param pixels: (h, w) float32, NaN outside the scan.
    :param center_lps: (3,) mm, the point at the middle of the picture.
    :param pixel_mm: size of a pixel.
    """

    pixels: np.ndarray
    plane: Plane
    center_lps: np.ndarray
    pixel_mm: float

    def to_pixel(self, point_lps: np.ndarray) -> np.ndarray:
        """(x, y) in pixels (pixel centers are integers) of a point projected on the plane."""
        offset_mm = self.plane.axes_lps @ (np.asarray(point_lps, dtype=np.float64) - self.center_lps)
        height, width = self.pixels.shape
        return offset_mm / self.pixel_mm + (np.array([width, height]) - 1) / 2

    def shows(self, point_lps: np.ndarray) -> bool:
        """Whether the projected point lies inside the picture."""
        x, y = self.to_pixel(point_lps)
        height, width = self.pixels.shape
        return bool(-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5)


def sample_box(
    array: np.ndarray, grid: Grid, first_lps: np.ndarray, steps_lps: np.ndarray, shape: Tuple[int, int, int]
) -> np.ndarray:
    """Linear interpolation of a volume on a lattice of points; NaN outside the volume's outer voxel faces.

    :param array: (z, y, x) on ``grid``.
    :param first_lps: (3,) mm, the point of output index (0, 0, 0).
    :param steps_lps: (3, 3) mm, row a is the step along output axis a.
    :returns: float32 of the given shape.
    """
    # Output indices to input (z, y, x) indices, one affine map: no coordinate arrays are needed.
    linear = grid.lps_to_ijk[:3, :3] @ np.asarray(steps_lps, dtype=np.float64).T
    matrix, offset = linear[::-1], grid.to_ijk(first_lps)[::-1]
    values = ndimage.affine_transform(
        array, matrix, offset, output_shape=shape, output=np.float32, order=1, mode="nearest", prefilter=False
    )
    outputs = np.ogrid[tuple(slice(n) for n in shape)]
    for axis, n in enumerate(array.shape):
        index = offset[axis] + sum(matrix[axis, a] * outputs[a] for a in range(3))
        values[~((index >= -0.5) & (index <= n - 0.5))] = np.nan
    return values


def cut(
    array: np.ndarray,
    grid: Grid,
    plane: Plane,
    center_lps: np.ndarray,
    size_px: Tuple[int, int],
    pixel_mm: float,
) -> Slice:
    """The plane through ``center_lps``.

    :param size_px: (width, height) of the picture.
    """
    width, height = size_px
    center = np.asarray(center_lps, dtype=np.float64)
    right, down = plane.axes_lps * pixel_mm
    first = center - right * (width - 1) / 2 - down * (height - 1) / 2
    values = sample_box(array, grid, first, np.array([np.zeros(3), down, right]), (1, height, width))
    return Slice(values[0], plane, center, pixel_mm)


def bounds_lps(grid: Grid) -> Tuple[np.ndarray, np.ndarray]:
    """Lowest and highest corner (3,), (3,) in LPS mm of the box around a volume."""
    corners = grid.corners_lps()
    return corners.min(axis=0), corners.max(axis=0)


def project(
    array: np.ndarray,
    grid: Grid,
    plane: Plane,
    box_lps: Optional[Tuple[np.ndarray, np.ndarray]] = None,
    step_mm: float = 2.0,
    how: str = "mean",
) -> Slice:
    """The volume seen through along the plane's depth: a scout view (``how="mean"``) or the highest value
    (``"max"``).

    :param box_lps: lowest and highest corner of what is projected; the whole volume by default.
    """
    low, high = box_lps if box_lps is not None else bounds_lps(grid)
    center = (low + high) / 2
    depth = np.eye(3)[plane.depth_axis]
    right, down = plane.axes_lps
    axes = np.array([depth, down, right])
    extent_mm = np.abs(axes) @ (high - low)
    steps_mm = np.array([DEPTH_STEP_MM, step_mm, step_mm])
    shape = tuple(int(n) for n in np.maximum(1, np.round(extent_mm / steps_mm)))
    steps = axes * steps_mm[:, None]
    first = center - ((np.array(shape) - 1) / 2) @ steps
    return Slice(_reduce(sample_box(array, grid, first, steps, shape), how), plane, center, step_mm)  # type: ignore[arg-type]


def _reduce(stack: np.ndarray, how: str) -> np.ndarray:
    """Mean or maximum along the first axis over the pixels inside the scan; NaN where there are none."""
    inside = np.isfinite(stack)
    if how == "max":
        best = np.where(inside, stack, -np.inf).max(axis=0)
        return np.where(np.isfinite(best), best, np.nan).astype(np.float32)
    total = np.where(inside, np.maximum(stack, AIR_HU), 0.0).sum(axis=0)
    count = inside.sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)


def body_box_lps(array: np.ndarray, grid: Grid, threshold: float = -300.0) -> Tuple[np.ndarray, np.ndarray]:
    """The box (low, high) in LPS mm around what is denser than ``threshold`` (a CT's patient), with a small
    border.

    The outermost half percent of the dense voxels on each side is ignored, which drops table edges and tubes.
    """
    step = max(1, int(min(array.shape) // 64))
    dense = np.argwhere(array[::step, ::step, ::step] > threshold) * step
    if len(dense) < 100:
        return bounds_lps(grid)
    points = grid.to_lps(dense[:, ::-1])
    low, high = np.percentile(points, [0.5, 99.5], axis=0)
    outer_low, outer_high = bounds_lps(grid)
    return np.maximum(low - 12.0, outer_low), np.minimum(high + 12.0, outer_high)
