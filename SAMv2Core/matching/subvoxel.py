"""Where between the voxels a maximum lies: a quadratic through the 3 x 3 x 3 similarities around it.

Feature voxels are 4 mm apart, so a voxel center is wrong by 1.9 mm on average even for a perfect match.
Similarity is smooth around its maximum, and ten coefficients fitted to 27 values find the summit between the
centers.
"""

from __future__ import annotations

import numpy as np
import torch

from SAMv2Core.matching.search import SearchIndex

MAX_OFFSET = 1.0
"""Voxels; a summit further away belongs to another neighborhood, so the offset is clipped."""

_STEPS = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], [-1, 0, 1], indexing="ij"), axis=-1).reshape(-1, 3)
_PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))


def _fit_matrix() -> np.ndarray:
    """(10, 27): 3 x 3 x 3 values to the constant, the gradient and the six second-order coefficients."""
    columns = [np.ones(27), *_STEPS.T, *[_STEPS[:, a] * _STEPS[:, b] for a, b in _PAIRS]]
    return np.linalg.pinv(np.stack(columns, axis=1).astype(np.float64))


_FIT = _fit_matrix()


def refine(index: SearchIndex, vectors: torch.Tensor, rows: np.ndarray) -> np.ndarray:
    """World position of the similarity's maximum near each found row.

    :param vectors: (N, K) the joint vectors that were searched for.
    :param rows: (N,) the rows found.
    :returns: (N, 3) LPS mm; the voxel center where the lattice ends or the values have no maximum.
    """
    center = index.ijk(rows)
    neighbors = index.rows_at(center[:, None, :] + _STEPS, body_only=False)
    complete = np.all(neighbors >= 0, axis=1)
    offset = np.zeros((len(rows), 3))
    if np.any(complete):
        around = neighbors[complete]
        keys = index.vectors(around.ravel()).reshape(len(around), 27, -1)
        chosen = vectors[torch.from_numpy(np.flatnonzero(complete)).to(vectors.device)].to(keys.device)
        values = torch.bmm(keys, chosen[:, :, None])[:, :, 0].cpu().numpy()
        offset[complete] = summit(values)
    return index.grid.to_lps(center + offset)


def summit(values: np.ndarray) -> np.ndarray:
    """Offset of the maximum of the fitted quadratic from the middle voxel.

    :param values: (N, 27) similarities at offsets -1, 0, 1, the first axis slowest.
    :returns: (N, 3) voxels within +-1, axes as in ``values``; zero where the quadratic has no maximum.
    """
    coefficients = np.asarray(values, dtype=np.float64) @ _FIT.T
    hessian = np.empty((len(values), 3, 3))
    for (a, b), column in zip(_PAIRS, coefficients[:, 4:].T):
        hessian[:, a, b] = hessian[:, b, a] = column * (2 if a == b else 1)
    peaked = np.linalg.eigvalsh(hessian)[:, -1] < -1e-6
    hessian[~peaked] = -np.eye(3)
    offset = np.linalg.solve(hessian, -coefficients[:, 1:4, None])[:, :, 0]
    return np.clip(np.where(peaked[:, None], offset, 0.0), -MAX_OFFSET, MAX_OFFSET)
