"""Points spread evenly over a body: what a registration matches.

Random voxels clump and a fixed lattice aliases with anatomy. Here the body is cut into equal cubes and one
random body voxel of every cube is taken, which spreads the points like a jittered lattice, borders and thin
parts included.

Conventions: points are (N, 3) LPS mm at voxel centers of the embedding's fine lattice, where vectors are
exact.
"""

from __future__ import annotations

from typing import Optional

import numpy as np

from SAMv2Core.embedding.embedding import Embedding

MAX_ROUNDS = 12


def body_points(emb: Embedding) -> np.ndarray:
    """(M, 3) LPS mm of all body voxels of the fine lattice."""
    k, j, i = np.nonzero(emb.body)
    return emb.fine.grid.to_lps(np.stack([i, j, k], axis=-1))


def spread_points(
    candidates_lps: np.ndarray, n_points: int, seed: int, keep: Optional[np.ndarray] = None
) -> np.ndarray:
    """About ``n_points`` of the candidates, evenly spread; all of them when there are fewer.

    :param candidates_lps: (M, 3).
    :param keep: (M,) bool, candidates to choose from; all when None.
    :returns: (N, 3) with N within some 10 % of ``n_points`` where the candidates allow; deterministic.
    """
    points = candidates_lps if keep is None else candidates_lps[keep]
    if len(points) <= n_points:
        return points
    rng = np.random.default_rng(seed)
    shuffled = points[rng.permutation(len(points))]
    origin = points.min(axis=0) - rng.uniform(0, 1, 3)
    low, high = 0.0, float(np.ptp(points, axis=0).max()) + 1.0  # edge of the cubes, by bisection
    chosen = shuffled[:n_points]
    for _ in range(MAX_ROUNDS):
        edge = (low + high) / 2
        chosen = shuffled[_first_of_each_cube(shuffled, origin, edge)]
        if 0.95 * n_points <= len(chosen) <= 1.05 * n_points:
            break
        low, high = (edge, high) if len(chosen) > n_points else (low, edge)
    return chosen


def _first_of_each_cube(points: np.ndarray, origin: np.ndarray, edge: float) -> np.ndarray:
    cube = np.floor((points - origin) / edge).astype(np.int64)
    size = cube.max(axis=0) + 1
    return np.unique((cube[:, 2] * size[1] + cube[:, 1]) * size[0] + cube[:, 0], return_index=True)[1]
