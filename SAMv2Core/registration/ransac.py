"""Transforms from point pairs of which many may be wrong.

Matches of an embedding are good or entirely wrong, seldom in between; where body parts look alike, most may
be wrong. So: hypotheses from minimal samples, scored by how many pairs they explain (RANSAC with the
truncated quadratic score of MSAC, local optimization of every record hypothesis), then iteratively
re-weighted least squares on the pairs explained. Rotations are not limited to any angle. Everything is numpy,
float64 and deterministic.

Conventions: points are (N, 3) LPS mm, weights (N,) >= 0; a matrix is (4, 4) and maps source to target;
residuals are distances in mm in the target's space. ``kind`` is ``"rigid"``, ``"similarity"`` or
``"affine"``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np

from SAMv2Core.geometry.grid import transform_points
from SAMv2Core.matching.robust import huber
from SAMv2Core.registration.least_squares import (
    checked_pairs,
    exact_affine_batch,
    fit,
    fit_rigid_batch,
    residuals_mm,
    undetermined,
)

SAMPLE_SIZE = {"rigid": 3, "similarity": 3, "affine": 4}
SCALE_LIMITS = (0.5, 2.0)  # of one body against itself or another's: anything else is a wrong hypothesis
BATCH = 512  # hypotheses at a time; 512 x 1500 residuals are 6 MB
LOCAL_ROUNDS = 6


@dataclass(frozen=True, eq=False)
class RobustFit:
    """What a robust estimation found.

    :param matrix: (4, 4) source to target.
    :param inliers: (N,) bool, pairs within the threshold of it.
    :param residuals_mm: (N,) of all pairs.
    :param undetermined: what the inliers' positions leave open, in words; empty when nothing is.
    """

    matrix: np.ndarray
    inliers: np.ndarray
    residuals_mm: np.ndarray
    undetermined: Tuple[str, ...]


def refine(
    kind: str,
    source: np.ndarray,
    target: np.ndarray,
    matrix: np.ndarray,
    weights: Optional[np.ndarray] = None,
    min_scale_mm: float = 0.5,
    max_rounds: int = 30,
) -> np.ndarray:
    """(4, 4) re-weighted least squares from a start, with Huber's weights.

    :param min_scale_mm: floor of the robust scale (MAD / 0.6745), so that perfect pairs do not drown the
        others.
    """
    source, target, weights = checked_pairs(kind, source, target, weights)
    for _ in range(max_rounds):
        distance = residuals_mm(matrix, source, target)
        # Three coordinates make a distance: its median is 1.538 standard deviations of one of them.
        robust = huber(distance, max(float(np.median(distance)) / 1.538, min_scale_mm))
        if not (weights * robust).sum() > 0:
            break
        before, matrix = matrix, fit(kind, source, target, weights * robust)
        if np.abs(transform_points(matrix, source) - transform_points(before, source)).max() < 1e-4:
            break
    return matrix


def ransac(
    kind: str,
    source: np.ndarray,
    target: np.ndarray,
    threshold_mm: float,
    weights: Optional[np.ndarray] = None,
    seed: int = 0,
    start: Optional[np.ndarray] = None,
    max_hypotheses: int = 16 * BATCH,
    confidence: float = 0.9999,
) -> Optional[RobustFit]:
    """The transform that explains most pairs.

    :param threshold_mm: pairs within it are explained; the score falls off quadratically inside it.
    :param weights: (N,) trust in the pairs: used for drawing samples, in the score and in the fit.
    :param start: (4, 4) a guess that competes with the samples' transforms.
    :param confidence: stop when a better sample has been missed with at most 1 - confidence.
    :returns: None when there are too few pairs or no sample gives a sensible transform.
    """
    source, target, weights = checked_pairs(kind, source, target, weights)
    usable = int(np.sum(weights > 0))
    if usable < SAMPLE_SIZE[kind]:
        return None
    rng = np.random.default_rng(seed)
    best_cost, tried, needed = np.inf, 0, float(max_hypotheses)
    best_matrix: Optional[np.ndarray] = None
    while tried < min(needed, max_hypotheses):
        picks = _draw_samples(rng, weights, SAMPLE_SIZE[kind], BATCH)
        tried += BATCH
        matrices = _hypotheses(kind, source, target, picks, threshold_mm)
        if start is not None and tried == BATCH:
            matrices = np.concatenate([start[None], matrices])
        if not len(matrices):
            continue
        costs = _costs(matrices, source, target, weights, threshold_mm)
        leader = int(np.argmin(costs))
        if best_matrix is None or costs[leader] < best_cost:
            best_matrix = _optimize_locally(kind, source, target, weights, matrices[leader], threshold_mm)
            best_cost = float(_costs(best_matrix[None], source, target, weights, threshold_mm)[0])
        explained = residuals_mm(best_matrix, source, target) <= threshold_mm
        good = (weights[explained].sum() / weights.sum()) ** SAMPLE_SIZE[kind]
        needed = np.log(1 - confidence) / np.log1p(-min(max(good, 1e-9), 1 - 1e-9))
    if best_matrix is None:
        return None
    distance = residuals_mm(best_matrix, source, target)
    inliers = distance <= threshold_mm
    return RobustFit(best_matrix, inliers, distance, undetermined(kind, source[inliers]))


def _draw_samples(rng: np.random.Generator, weights: np.ndarray, size: int, count: int) -> np.ndarray:
    """(count, size) distinct indices in proportion to the weights (Gumbel: the top of perturbed logs)."""
    with np.errstate(divide="ignore"):
        keys = np.log(weights) + rng.gumbel(size=(count, len(weights)))
    return np.argpartition(-keys, size - 1, axis=1)[:, :size]


def _hypotheses(
    kind: str, source: np.ndarray, target: np.ndarray, picks: np.ndarray, threshold_mm: float
) -> np.ndarray:
    """(M, 4, 4) transforms of the samples that can be right; the others are dropped unscored.

    A sample is dropped when its distances change by more than errors at both ends can explain, when it is too
    compact to tell a direction (its lever would multiply errors), or when its transform is no sensible one.
    """
    s, t = source[picks], target[picks]
    first, second = np.triu_indices(picks.shape[1], k=1)
    edges_s = np.linalg.norm(s[:, first] - s[:, second], axis=2)
    edges_t = np.linalg.norm(t[:, first] - t[:, second], axis=2)
    slack = 2 * threshold_mm
    if kind == "rigid":
        possible = np.all(np.abs(edges_s - edges_t) <= slack, axis=1)
    else:
        low, high = SCALE_LIMITS
        possible = np.all((edges_t >= low * edges_s - slack) & (edges_t <= high * edges_s + slack), axis=1)
    possible &= edges_s.min(axis=1) > threshold_mm
    s, t = s[possible], t[possible]
    if not len(s):
        return np.empty((0, 4, 4))
    if kind != "affine":
        matrices = fit_rigid_batch(s, t, np.ones(s.shape[:2]), kind == "similarity")
    else:
        matrices = exact_affine_batch(s, t)
    stretch = np.linalg.svd(matrices[:, :3, :3], compute_uv=False) if len(matrices) else np.empty((0, 3))
    sensible = (stretch[:, 0] <= SCALE_LIMITS[1]) & (stretch[:, 2] >= SCALE_LIMITS[0])
    sensible &= np.linalg.det(matrices[:, :3, :3]) > 0
    return matrices[sensible]


def _costs(
    matrices: np.ndarray, source: np.ndarray, target: np.ndarray, weights: np.ndarray, threshold_mm: float
) -> np.ndarray:
    """(B,) MSAC cost: the weighted mean over pairs of min(1, (residual / threshold)^2)."""
    moved = source @ matrices[:, :3, :3].transpose(0, 2, 1) + matrices[:, None, :3, 3]
    squared = np.square(moved - target).sum(axis=2) / threshold_mm**2
    return np.minimum(squared, 1.0) @ weights / weights.sum()


def _optimize_locally(
    kind: str,
    source: np.ndarray,
    target: np.ndarray,
    weights: np.ndarray,
    matrix: np.ndarray,
    threshold_mm: float,
) -> np.ndarray:
    """Least squares on the pairs explained, from a wide threshold to the narrow one, the best kept."""
    best, best_cost = matrix, _costs(matrix[None], source, target, weights, threshold_mm)[0]
    for width in np.linspace(2.0, 1.0, LOCAL_ROUNDS):
        distance = residuals_mm(matrix, source, target)
        trust = weights * np.clip(1 - (distance / (width * threshold_mm)) ** 2, 0, None)
        if np.sum(trust > 0) < SAMPLE_SIZE[kind]:
            break
        matrix = fit(kind, source, target, trust)
        cost = _costs(matrix[None], source, target, weights, threshold_mm)[0]
        if cost < best_cost:
            best, best_cost = matrix, cost
    return best
