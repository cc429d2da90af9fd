"""Sampled grids in the patient's space: the one place where voxel indices and world coordinates meet.

Conventions, everywhere in SAMv2Core:

* world coordinates are millimetres in **LPS** (x to the patient's left, y to posterior, z to superior);
* arrays are indexed (z, y, x); *ijk* means index order (x, y, z): ``array[k, j, i]`` is the voxel at ijk = (i, j, k);
* integer indices are voxel **centres**; ``ijk_to_lps`` is the full 4x4 matrix (oblique, left-handed and anisotropic
  volumes included), never a spacing and an origin alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence, Tuple

import numpy as np

from SAMv2Core.errors import InputError


def transform_points(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply a 4x4 affine matrix to (N, 3) or (3,) points; float64 out, same shape."""
    points = np.asarray(points, dtype=np.float64)
    return points @ matrix[:3, :3].T + matrix[:3, 3]


@dataclass(frozen=True)
class Grid:
    """A regular lattice of voxel centres in LPS space.

    :param shape_zyx: number of voxels along (z, y, x).
    :param ijk_to_lps: (4, 4) float64; maps (i, j, k, 1) = (x, y, z index) to LPS mm.
    """

    shape_zyx: Tuple[int, int, int]
    ijk_to_lps: np.ndarray

    def __post_init__(self) -> None:
        matrix = np.array(self.ijk_to_lps, dtype=np.float64)
        if matrix.shape != (4, 4) or not np.all(np.isfinite(matrix)):
            raise InputError("The geometry of a volume is not a finite 4x4 matrix.", "Check the file's header.")
        if abs(np.linalg.det(matrix[:3, :3])) < 1e-9:
            raise InputError(
                "The geometry of a volume is degenerate (zero spacing or parallel axes).",
                "Repair spacing and direction in the file's header.",
            )
        matrix.setflags(write=False)
        object.__setattr__(self, "ijk_to_lps", matrix)
        object.__setattr__(self, "shape_zyx", tuple(int(n) for n in self.shape_zyx))

    @property
    def lps_to_ijk(self) -> np.ndarray:
        """(4, 4) float64, inverse of :attr:`ijk_to_lps`."""
        return np.linalg.inv(self.ijk_to_lps)

    @property
    def size_ijk(self) -> np.ndarray:
        """(3,) int, voxels along (x, y, z)."""
        return np.array(self.shape_zyx[::-1])

    @property
    def spacing_ijk_mm(self) -> np.ndarray:
        """(3,) float64, distance of neighbouring voxel centres along i, j, k."""
        return np.linalg.norm(self.ijk_to_lps[:3, :3], axis=0)

    @property
    def n_voxels(self) -> int:
        return int(np.prod(self.shape_zyx))

    def to_lps(self, ijk: np.ndarray) -> np.ndarray:
        """Continuous indices (N, 3) in (x, y, z) order to LPS mm (N, 3)."""
        return transform_points(self.ijk_to_lps, ijk)

    def to_ijk(self, points_lps: np.ndarray) -> np.ndarray:
        """LPS mm (N, 3) to continuous indices (N, 3) in (x, y, z) order."""
        return transform_points(self.lps_to_ijk, points_lps)

    def contains(self, points_lps: np.ndarray, margin_voxels: float = 0.5) -> np.ndarray:
        """(N,) bool: points inside the outer faces of the voxels (0.5 voxel beyond the centres), plus a margin."""
        ijk = np.atleast_2d(self.to_ijk(points_lps))
        return np.all((ijk >= -margin_voxels) & (ijk <= self.size_ijk - 1 + margin_voxels), axis=1)

    def corners_lps(self) -> np.ndarray:
        """(8, 3) LPS mm of the outer corners of the sampled box (voxel faces, not centres)."""
        low, high = np.full(3, -0.5), self.size_ijk - 0.5
        bits = np.array([[(n >> axis) & 1 for axis in range(3)] for n in range(8)])
        return self.to_lps(np.where(bits == 1, high, low))

    def strided(self, stride_zyx: Sequence[int], shape_zyx: Sequence[int]) -> Grid:
        """The grid of a feature map whose voxel k sits at input voxel s*k + (s-1)/2 (``align_corners=False``).

        :param stride_zyx: input voxels per feature voxel along (z, y, x).
        :param shape_zyx: size of the feature map.
        """
        stride_ijk = np.array(tuple(stride_zyx)[::-1], dtype=np.float64)
        local = np.eye(4)
        local[:3, :3] = np.diag(stride_ijk)
        local[:3, 3] = (stride_ijk - 1) / 2
        return Grid(tuple(shape_zyx), self.ijk_to_lps @ local)  # type: ignore[arg-type]
