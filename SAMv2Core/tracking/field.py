"""What all matches of one study say together about each of them.

Anatomy deforms smoothly: neighbors move alike. So the pairs of a study (landmarks of the whole body, the lesions
matched with confidence, and above all what a person has verified) are one robust field; asked at a lesion, without
its own pair, it gives the place to expect and how far off that may be. A match far from it is an outlier; a place
that it puts outside the scan is not in it.

The field is a moving least squares fit: around the point asked, an affine map drawn toward that of the body (a few
pairs, or pairs in a plane, so end in a translation of their own accord), outliers weighted down. Conventions: LPS mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np

from SAMv2Core.geometry.grid import Grid
from SAMv2Core.matching.body_map import BodyMap, robust_affine
from SAMv2Core.matching.robust import redescending, reweighted

LOCALITY_MM = 25.0
"""Pairs count by a Gaussian of this width in the distance from the point asked."""

PAIR_NOISE_MM = 4.0
"""Error of one landmark: its match lies on a lattice of 8 mm."""

PRIOR_STRAIN = 0.15
"""Expected departure of the local linear part from the body's, per entry."""

LANDMARK_WEIGHT, LESION_WEIGHT, VERIFIED_WEIGHT = 0.5, 2.0, 40.0
"""What a pair counts. A verified place is as good as exact; forty coarse landmarks average to such an error."""

VERIFIED_REACH_MM = 25.0
"""How far around a verified place its departure from all the other pairs is believed: a region that matched wrongly is
wrong together, and one look at a lesion in it says by how much, whatever the many landmarks there say."""

CUT_MM = 10.0
"""Matches this close to the faces of the study's volume are no pairs: what lies beyond is matched to the face, too, and
a field that believed it would put everything inside."""

MIN_PAIRS = 4
MODEL_ERROR_MM = 2.5
"""How far a smooth field is off where many pairs support it (simulated follow-ups)."""

ERROR_PER_MM = 0.15
"""And how much more for each mm between the point asked and the middle of the pairs that count for it."""


@dataclass(frozen=True, eq=False)
class StudyField:
    """The pairs of one study.

    :param source_lps: (n, 3) in the baseline.
    :param target_lps: (n, 3) in the study.
    :param weights: (n,).
    :param owner: (n,) int, number of the lesion that a pair belongs to, -1 for a landmark.
    :param affine: (4, 3) of the whole body, ``[source 1] @ affine``.
    """

    source_lps: np.ndarray
    target_lps: np.ndarray
    weights: np.ndarray
    owner: np.ndarray
    affine: np.ndarray

    def predict(self, point_lps: np.ndarray, without: int = -2) -> Tuple[np.ndarray, float]:
        """The place expected for a point of the baseline, and one standard deviation of its error, mm.

        :param without: pairs of this lesion do not count.
        """
        used = self.owner != without
        verified = used & (self.weights >= VERIFIED_WEIGHT)
        others = used & ~verified
        if others.sum() < MIN_PAIRS or not verified.any():
            return self._fitted(point_lps, used)
        place, spread = self._fitted(point_lps, others)
        return place + self._correction(point_lps, verified, others), spread

    def _correction(self, point_lps: np.ndarray, verified: np.ndarray, others: np.ndarray) -> np.ndarray:
        """(3,) what verified places depart from what the other pairs say of them, fading with the distance."""
        distance = np.linalg.norm(self.source_lps - point_lps, axis=1)
        near = np.flatnonzero(verified & (distance < 3 * VERIFIED_REACH_MM))
        if len(near) == 0:
            return np.zeros(3)
        share = np.exp(-0.5 * (distance[near] / VERIFIED_REACH_MM) ** 2)
        departure = [self.target_lps[i] - self._fitted(self.source_lps[i], others)[0] for i in near]
        return share @ np.array(departure) / max(float(share.sum()), 1.0)

    def _fitted(self, point_lps: np.ndarray, used: np.ndarray) -> Tuple[np.ndarray, float]:
        """:meth:`predict` by these pairs ((n,) bool) alone."""
        relative = self.source_lps[used] - point_lps
        squared = np.sum(relative**2, axis=1)
        # The nearest pairs always count, however far away they are: then the spread says so.
        floor = np.partition(squared, min(MIN_PAIRS, len(squared)) - 1)[min(MIN_PAIRS, len(squared)) - 1]
        weights = self.weights[used] * np.exp(-0.5 * np.maximum(squared - floor, 0) / LOCALITY_MM**2)
        near = weights > 1e-4 * weights.max()
        relative, weights = relative[near], weights[near]
        base = point_lps @ self.affine[:3] + self.affine[3]
        shift = self.target_lps[used][near] - base - relative @ self.affine[:3]
        offset, residual = _local_shift(relative, shift, weights)
        middle = weights @ relative / weights.sum()
        spread = np.sqrt(MODEL_ERROR_MM**2 + (ERROR_PER_MM * np.linalg.norm(middle)) ** 2)
        effective = weights.sum() ** 2 / np.sum(weights**2)
        return base + offset, float(np.sqrt(spread**2 + residual**2 / max(effective - 3, 1.0)))


def _local_shift(relative: np.ndarray, shift: np.ndarray, weights: np.ndarray) -> Tuple[np.ndarray, float]:
    """(3,) shift at the origin and the typical residual, by re-weighted least squares with a prior on the slope."""
    design = np.column_stack([np.ones(len(relative)), relative])
    ridge = np.diag([1e-9, 1.0, 1.0, 1.0]) * (PAIR_NOISE_MM / PRIOR_STRAIN) ** 2
    size = np.linalg.norm(shift - np.median(shift, axis=0), axis=1)
    scale = PAIR_NOISE_MM

    def weigh(size: np.ndarray) -> np.ndarray:
        nonlocal scale
        scale = max(PAIR_NOISE_MM, 1.5 * _weighted_median(size, weights))
        return weights * redescending(size, 2 * scale)

    solution, _ = reweighted(design, shift, ridge, size, weigh, n_iterations=15, settled=0.01)
    return solution[0], scale


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, 0.5 * total[-1])])


def study_field(
    scan: Grid,
    body: Optional[BodyMap],
    source_lps: np.ndarray,
    target_lps: np.ndarray,
    weights: np.ndarray,
    owner: np.ndarray,
) -> Optional[StudyField]:
    """The field of a study; None when too few pairs exist for one.

    :param scan: geometry of the study's volume.
    :param body: landmarks of the whole body, where they agree.
    :param source_lps: (n, 3) lesions in the baseline, ``target_lps`` (n, 3) in the study, with ``weights`` (n,).
    :param owner: (n,) int numbers of the lesions.
    """
    sources, targets, trust, owners = [source_lps], [target_lps], [weights], [owner]
    if body is not None:
        sources.append(body.source_lps)
        targets.append(body.source_lps @ body.affine[:3] + body.affine[3] + body.shift_mm)
        trust.append(LANDMARK_WEIGHT * body.weights)
        owners.append(np.full(len(body.source_lps), -1))
    source, target = np.concatenate(sources).reshape(-1, 3), np.concatenate(targets).reshape(-1, 3)
    weight = np.concatenate(trust)
    # What a person has verified is right wherever it lies.
    kept = (scan.depth_mm(target) > CUT_MM) | (weight >= VERIFIED_WEIGHT)
    if kept.sum() < MIN_PAIRS + 1:
        return None
    source, target, weight = source[kept], target[kept], weight[kept]
    affine = robust_affine(source, target, weight)
    return StudyField(source, target, weight, np.concatenate(owners).astype(np.int64)[kept], affine)
