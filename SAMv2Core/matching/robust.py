"""Least squares and a median that wrong pairs do not spoil: re-weighted, and drawn to a prior where there are few.

Many pairs of a match are good or entirely wrong. Every fit of a linear map on them (around fixed points, through the
body's landmarks, among the lesions of a study) is this one, with its own weights, prior and loss.
"""

from __future__ import annotations

from typing import Callable, Tuple

import numpy as np

HUBER_T = 1.345  # 95 % efficiency for normal errors


def huber(size: np.ndarray, scale: float) -> np.ndarray:
    """Weights 0..1 of residuals: 1 up to 1.345 scales, then falling as 1 / size."""
    return np.minimum(1.0, HUBER_T * scale / np.maximum(size, 1e-9))


def redescending(size: np.ndarray, scale: float) -> np.ndarray:
    """Weights 0..1 of residuals that fall as 1 / size**4: what is far away hardly counts (Geman and McClure)."""
    return 1 / (1 + (size / scale) ** 2) ** 2


def reweighted(
    design: np.ndarray,
    values: np.ndarray,
    ridge: np.ndarray,
    size: np.ndarray,
    weigh: Callable[[np.ndarray], np.ndarray],
    n_iterations: int,
    settled: float = 0.0,
    is_share: bool = False,
) -> Tuple[np.ndarray, np.ndarray]:
    """(K, D) solution of ``design @ solution ~ values``, and (N,) lengths of its residuals.

    Minimizes ``sum w |values - design solution|^2 + solution^T ridge solution``, the weights being those of the
    residuals of the solution before.

    :param design: (N, K) with ``values`` (N, D).
    :param ridge: (K, K), what draws the solution to zero; give values less the prior's to draw to a prior.
    :param size: (N,) lengths of residuals to begin with.
    :param weigh: lengths of residuals to weights.
    :param settled: end when no entry of the solution's first row changes by more.
    :param is_share: the ridge is a share of the mean weight rather than absolute.
    """
    solution = np.zeros((design.shape[1], values.shape[1]))
    for _ in range(n_iterations):
        weights = weigh(size)
        weighted = weights[:, None] * design
        pull = ridge * weights.mean() if is_share else ridge
        before = solution
        solution = np.linalg.solve(design.T @ weighted + pull, weighted.T @ values)
        size = np.linalg.norm(values - design @ solution, axis=1)
        if np.max(np.abs(solution[0] - before[0])) < settled:
            break
    return solution, size


def geometric_median(points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The place with the smallest weighted sum of distances to points (N, 3) mm, by Weiszfeld's iteration: (3,)."""
    center = np.average(points, axis=0, weights=weights)
    for _ in range(30):
        pull = weights / np.maximum(np.linalg.norm(points - center, axis=1), 2.0)
        center = (points * pull[:, None]).sum(axis=0) / pull.sum()
    return center
