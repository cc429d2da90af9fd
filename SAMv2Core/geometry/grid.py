"""Sampled grids in the patient's space: the one place where voxel indices and world coordinates meet.

Conventions, everywhere in SAMv2Core:

* world coordinates are millimetres in **LPS** (x to the patient's left, y to posterior, z to superior);
* arrays are indexed (z, y, x); *ijk* means index order (x, y, z): ``array[k, j, i]`` is the voxel at ijk = (i, j, k);
* integer indices are voxel **centres**; ``ijk_to_lps`` is the full 4x4 matrix (oblique, left-handed and anisotropic
  volumes included), never a spacing and an origin alone.

Also what a matrix says about a scan: shear, rounding, and how its axes lie in the patient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence, Tuple

import numpy as np

from SAMv2Core.errors import InputError

# Columns of a matrix closer to perpendicular than this are called orthogonal: 1e-3 of shear moves the far end
# of a 500 mm volume by 0.5 mm. ITK is of the same opinion (it accepts 1e-4, measured).
ORTHOGONAL_TOLERANCE = 1e-3

# Volumes tilted by no more than this keep their own axes, as in the official code; beyond, anatomy would look
# rotated to a network that was trained on upright patients.
MAX_TILT_DEGREES = 10.0
_MAX_SHEAR_KEPT = 0.01


def shear_of(matrix: np.ndarray) -> float:
    """Largest |cosine| between two axes of a matrix (0 = orthogonal); 1 when an axis has no length."""
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    if not np.all(np.isfinite(matrix)) or np.any(lengths <= 0):
        return 1.0
    axes = matrix[:3, :3] / lengths
    return float(np.abs(np.triu(axes.T @ axes, 1)).max())


def without_rounding(ijk_to_lps: np.ndarray) -> np.ndarray:
    """The matrix with axes exactly perpendicular, when they are so up to rounding; sheared ones unchanged."""
    if not 0 < shear_of(ijk_to_lps) <= ORTHOGONAL_TOLERANCE:
        return ijk_to_lps
    spacing = np.linalg.norm(ijk_to_lps[:3, :3], axis=0)
    u, _, vt = np.linalg.svd(ijk_to_lps[:3, :3] / spacing)
    repaired = ijk_to_lps.copy()
    repaired[:3, :3] = (u @ vt) * spacing
    return repaired


def canonical_axes(ijk_to_lps: np.ndarray) -> Tuple[Tuple[int, ...], np.ndarray]:
    """For each of L, P, S: which of i, j, k runs along it, and whether it runs backwards.

    :returns: (axis of ijk for x, y, z), (3,) signs +1 or -1. The pairing that has the largest sum of
        |cosines|.
    """
    cosines = ijk_to_lps[:3, :3] / np.linalg.norm(ijk_to_lps[:3, :3], axis=0)
    orders = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    best = max(orders, key=lambda order: sum(abs(cosines[world, axis]) for world, axis in enumerate(order)))
    signs = np.array([1.0 if cosines[world, axis] >= 0 else -1.0 for world, axis in enumerate(best)])
    return best, signs


def is_upright(ijk_to_lps: np.ndarray, within_degrees: float = MAX_TILT_DEGREES) -> bool:
    """True when every axis is within 10 (or so many) degrees of a patient axis and the axes are perpendicular."""
    axes, _ = canonical_axes(ijk_to_lps)
    cosines = ijk_to_lps[:3, :3] / np.linalg.norm(ijk_to_lps[:3, :3], axis=0)
    aligned = min(abs(cosines[world, axis]) for world, axis in enumerate(axes))
    return bool(aligned >= np.cos(np.radians(within_degrees)) and shear_of(ijk_to_lps) <= _MAX_SHEAR_KEPT)


def transform_points(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply a 4x4 affine matrix to (N, 3) or (3,) points; float64 out, same shape."""
    points = np.asarray(points, dtype=np.float64)
    return points @ matrix[:3, :3].T + matrix[:3, 3]


@dataclass(frozen=True, eq=False)
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

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grid):
            return NotImplemented
        return self.shape_zyx == other.shape_zyx and np.array_equal(self.ijk_to_lps, other.ijk_to_lps)

    def __hash__(self) -> int:
        return hash((self.shape_zyx, self.ijk_to_lps.tobytes()))

    def __repr__(self) -> str:
        return f"<Grid: {self.size_text}>"

    @property
    def size_text(self) -> str:
        """Voxels and spacing in words, ``512 x 512 x 300 voxels of 0.7 x 0.7 x 1.25 mm``, along i, j, k."""
        voxels = " x ".join(str(n) for n in self.size_ijk)
        return f"{voxels} voxels of {' x '.join(f'{mm:.3g}' for mm in self.spacing_ijk_mm)} mm"

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

    def depth_mm(self, points_lps: np.ndarray) -> np.ndarray:
        """(N,) mm: how deep points (N, 3) lie inside the outer faces of the voxels; negative outside."""
        ijk = self.to_ijk(points_lps)
        # Distance between opposite faces over their number of voxels; for sheared axes not the same as the spacing.
        step = 1 / np.linalg.norm(self.lps_to_ijk[:3, :3], axis=1)
        return np.minimum((ijk + 0.5) * step, (self.size_ijk - 0.5 - ijk) * step).min(axis=-1)

    def beyond_mm(self, point_lps: np.ndarray) -> float:
        """How far a point (3,) lies outside the outer faces of the voxels, mm; 0 inside."""
        ijk = self.to_ijk(point_lps)
        inside = np.clip(ijk, -0.5, self.size_ijk - 0.5)
        distance = float(np.linalg.norm(self.to_lps(ijk) - self.to_lps(inside)))
        return distance if distance > 1e-3 else 0.0

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
