"""Correspondence between patients, learned by iteration: match, keep what agrees, smooth, train on it, repeat.

Self-supervision never shows the network two patients, and label maps are scarce here. The paper's CrossSAM (sec. 3.3)
learns across modalities from pairs that its own embeddings have registered, in rounds; this is the same idea across
patients of one modality (ours, not in the paper). For an ordered pair of scans:

1. match a lattice of body points of A in B and back; keep those that return within ``cycle_mm``;
2. a robust affine map, then kernel regression of the residuals with leave-one-out outlier rejection (anatomy is
   locally smooth, wrong matches are not);
3. the map is trusted only where enough consistent matches support it.

Known points of *training* scans (hand-placed landmarks, centroids of organs) join the matches with a high weight and
are never rejected.
Points are (x, y, z) mm from the centre of voxel 0 of each scan's 2 mm lattice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np

from SAMv2Core.matching.body_map import kernel_regression, robust_affine

LATTICE_MM = 16.0


@dataclass(frozen=True)
class CrossMap:
    """Where the points of scan A lie in scan B.

    :param target: (d, h, w, 3) float32, x, y, z mm in B of the lattice points of A.
    :param support: (d, h, w) float32, kernel-weighted number of consistent matches; below 1 the map is not trusted.
    :param n_matches: matches kept.
    :param residual_mm: median leave-one-out residual of the kept matches.
    :param stretch: smallest and largest singular value of the affine part.
    """

    target: np.ndarray
    support: np.ndarray
    n_matches: int
    residual_mm: float
    stretch: Tuple[float, float]


def fit_cross_map(
    a: np.ndarray,
    b: np.ndarray,
    weights: np.ndarray,
    shape_zyx: Tuple[int, int, int],
    sigma_mm: float = 24.0,
    reject_mm: float = 25.0,
    min_matches: int = 40,
    n_fixed: int = 0,
) -> Optional[CrossMap]:
    """Smooth map from consistent matches, or None when too few agree.

    :param a: (N, 3) points of A.
    :param b: (N, 3) their matches in B.
    :param weights: (N,) trust in each.
    :param shape_zyx: lattice of A (``LATTICE_MM`` apart, first point at 0).
    :param n_fixed: the last so many pairs are known and are not rejected.
    """
    fixed = np.arange(len(a)) >= len(a) - n_fixed
    keep = np.ones(len(a), dtype=bool)
    residual = np.zeros(len(a))
    affine = np.zeros((4, 3))
    for _ in range(4):
        if keep.sum() < min_matches:
            return None
        affine = robust_affine(a[keep], b[keep], weights[keep])
        r = b - np.c_[a, np.ones(len(a))] @ affine
        smooth, support = kernel_regression(a[keep], r[keep], weights[keep], a, sigma_mm, exclude_self=True)
        residual = np.linalg.norm(r - smooth, axis=1)
        keep = ((residual < reject_mm) & (support > 0.5)) | fixed
    if keep.sum() < min_matches:
        return None
    lattice = np.stack(np.meshgrid(*[np.arange(n) * LATTICE_MM for n in shape_zyx], indexing="ij")[::-1], -1)
    flat = lattice.reshape(-1, 3)
    r = b - np.c_[a, np.ones(len(a))] @ affine
    smooth, support = kernel_regression(a[keep], r[keep], weights[keep], flat, sigma_mm)
    target = np.c_[flat, np.ones(len(flat))] @ affine + smooth
    singular = np.linalg.svd(affine[:3], compute_uv=False)
    return CrossMap(
        target.reshape(lattice.shape).astype(np.float32),
        support.reshape(shape_zyx).astype(np.float32),
        int(keep.sum()),
        float(np.median(residual[keep])),
        (float(singular.min()), float(singular.max())),
    )
