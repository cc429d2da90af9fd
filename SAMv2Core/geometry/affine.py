"""What a 4x4 index-to-world matrix says about a scan: shear, rounding, and how its axes lie in the patient.

Conventions: columns 0 to 2 are the steps along i, j, k in LPS mm, column 3 is the center of the first voxel.
"""

from __future__ import annotations

from typing import Tuple

import numpy as np

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


def is_upright(ijk_to_lps: np.ndarray) -> bool:
    """True when every axis is within 10 degrees of a patient axis and the axes are perpendicular."""
    axes, _ = canonical_axes(ijk_to_lps)
    cosines = ijk_to_lps[:3, :3] / np.linalg.norm(ijk_to_lps[:3, :3], axis=0)
    aligned = min(abs(cosines[world, axis]) for world, axis in enumerate(axes))
    return bool(aligned >= np.cos(np.radians(MAX_TILT_DEGREES)) and shear_of(ijk_to_lps) <= _MAX_SHEAR_KEPT)
