"""The body mask on the lattice of a network's features.

Axes (z, y, x); feature voxel k of stride s covers the lattice's voxels s*k to s*k + s - 1.
"""

from __future__ import annotations

from typing import Sequence

import numpy as np


def body_on_features(body: np.ndarray, stride_zyx: Sequence[int], shape_zyx: Sequence[int]) -> np.ndarray:
    """A mask of the lattice on a feature grid: True where at least half of the voxels that a feature covers
    are.

    :param body: (D, H, W) bool on the lattice.
    :param stride_zyx: lattice voxels per feature voxel; feature k covers s*k ... s*k + s - 1.
    :param shape_zyx: size of the feature grid; features beyond the lattice are False, partly covered ones are
        judged by the part inside.
    :returns: bool of ``shape_zyx``.
    """
    counts = body.astype(np.uint8)
    inside = np.ones((1, 1, 1), np.uint8)
    for axis, (stride, size) in enumerate(zip(stride_zyx, shape_zyx)):
        n_used = min(counts.shape[axis], stride * size)
        starts = np.arange(0, n_used, stride)
        lengths = np.minimum(starts + stride, n_used) - starts
        counts = np.add.reduceat(counts.take(range(n_used), axis), starts, axis, dtype=np.uint16)
        missing = [(0, 0)] * 3
        missing[axis] = (0, size - len(starts))
        counts = np.pad(counts, missing)
        along = [1, 1, 1]
        along[axis] = size
        inside = inside * np.pad(lengths, missing[axis]).reshape(along)
    return (2 * counts.astype(np.int32) >= inside) & (counts > 0)
