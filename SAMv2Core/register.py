"""Register two volumes from their embeddings: rigid, similarity or affine, whatever their fields of view.

Points spread over the body with the smaller field of view are matched in the other body and back; a robust
estimation finds the transform that explains most of them (:mod:`SAMv2Core.robust`); a second pass matches more points
near their predicted places and refits. This is the idea of the paper's AdaReg (arXiv 2311.15111, sec. 3.4) with two
differences: matches must survive the way back, and rotations are not limited.

A transform always comes with a verdict. It rests on the matches of the first pass, which were searched in the whole
body and know nothing of the transform: how many it explains, where they lie, how well two halves of them agree.

Conventions: LPS mm; the matrix maps points of the fixed image to the moving image, as ITK's resampling wants it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from SAMv2Core.correspondence import Correspondences, Progress, correspond, correspond_nearby
from SAMv2Core.errors import UsageError
from SAMv2Core.feature import Embedding
from SAMv2Core.geometry import Grid, transform_points
from SAMv2Core.least_squares import KINDS, residuals_mm, spread_mm, undetermined
from SAMv2Core.robust import RobustFit, ransac, refine
from SAMv2Core.sampling import body_points, spread_points
from SAMv2Core.similarity import check_comparable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """Every number that a registration depends on; lengths in mm.

    The first block steers the search, the second decides between *registered* (all limits met), *uncertain* and
    *failed* (any of the ``failed_`` limits broken).
    """

    n_points: int = 1000
    n_points_second: int = 1500
    cycle_scale_mm: float = 8.0  # two voxels of the fine lattice: the error of a good match
    max_cycle_mm: float = 32.0
    threshold_mm: float = 15.0  # soft tissue moves this much against any rigid fit
    threshold_second_mm: float = 12.0
    radius_mm: float = 24.0  # of the second search
    crop_margin_mm: float = 15.0

    min_inliers: int = 60
    min_inlier_fraction: float = 0.35
    max_median_residual_mm: float = 8.0
    min_overlap: float = 0.3
    min_spread_mm: float = 15.0
    max_half_sample_mm: float = 12.0
    stretch: Tuple[float, float] = (0.75, 1.33)
    failed_inliers: int = 20
    failed_inlier_fraction: float = 0.15
    failed_overlap: float = 0.1
    failed_half_sample_mm: float = 60.0


SETTINGS = Settings()


@dataclass(frozen=True, eq=False)
class Registration:
    """A transform and how far to trust it.

    :param matrix: (4, 4) LPS, fixed to moving; the identity when nothing was found.
    :param transform: ``"rigid"``, ``"similarity"`` or ``"affine"``.
    :param status: ``"registered"``, ``"uncertain"`` or ``"failed"``; of a failed one no use should be made.
    :param reasons: why it is not ``"registered"``, for people.
    :param points_sampled: points matched in the whole body and lying in the overlap of both volumes.
    :param inliers: how many of them the transform explains.
    :param residual_mm: mean, median and 95th percentile of the distances of the pairs below; None without pairs.
    :param overlap: fraction of the smaller body inside the other volume, 0..1.
    :param half_sample_mm: 95th percentile over the body of the distance of two transforms from two halves of the
        matches; None when a half gave none.
    :param crop: ``ijk_min`` and ``ijk_max`` (inclusive, x y z) of the box in ``crop_of`` that holds the other body with
        a margin; None when it would be the whole volume.
    :param crop_of: ``"fixed"`` or ``"moving"``, the volume with the larger body.
    :param fixed_points_lps: (P, 3) the pairs the transform was fitted to.
    :param moving_points_lps: (P, 3) their partners.
    :param warnings: what the user should know.
    """

    matrix: np.ndarray
    transform: str
    status: str
    reasons: Tuple[str, ...]
    points_sampled: int
    inliers: int
    residual_mm: Optional[Dict[str, float]]
    overlap: float
    half_sample_mm: Optional[float]
    crop: Optional[Dict[str, List[int]]]
    crop_of: str
    fixed_points_lps: np.ndarray
    moving_points_lps: np.ndarray
    warnings: Tuple[str, ...] = ()

    def to_report(self) -> Dict[str, Any]:
        """Plain numbers for JSON; what does not exist is None, never NaN."""
        return {
            "matrix": self.matrix.tolist(),
            "transform": self.transform,
            "status": self.status,
            "reasons": list(self.reasons),
            "points_sampled": self.points_sampled,
            "inliers": self.inliers,
            "pairs": len(self.fixed_points_lps),
            "residual_mm": self.residual_mm or {"mean": None, "median": None, "p95": None},
            "overlap": self.overlap,
            "half_sample_mm": self.half_sample_mm,
            "crop": self.crop,
            "crop_of": self.crop_of if self.crop else None,
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class _Sides:
    """Which of the two images is the smaller one, and how to turn pairs of it into (fixed, moving)."""

    small: Embedding
    large: Embedding
    small_body: np.ndarray
    small_is_fixed: bool

    def ordered(self, pairs: Correspondences) -> Tuple[np.ndarray, np.ndarray]:
        """Points of the fixed and of the moving image."""
        both = (pairs.source_lps, pairs.target_lps)
        return both if self.small_is_fixed else both[::-1]

    def small_to_large(self, matrix: np.ndarray) -> np.ndarray:
        return matrix if self.small_is_fixed else np.linalg.inv(matrix)


def register(
    emb_fixed: Embedding,
    emb_moving: Embedding,
    transform: str = "rigid",
    seed: int = 0,
    progress: Optional[Progress] = None,
    settings: Settings = SETTINGS,
) -> Registration:
    """The transform from the fixed to the moving image.

    :param transform: ``"rigid"``, ``"similarity"`` or ``"affine"``.
    :param seed: of sampling; the same embeddings and seed give the same result.
    :param progress: called as ``progress(fraction, text)``; may raise ``Cancelled``.
    :raises UsageError: unknown transform.
    :raises ModelError: embeddings of different models.
    :raises InputError: a volume without a body.
    """
    if transform not in KINDS:
        raise UsageError(f"There is no transform {transform!r}.", f"Choose one of {', '.join(KINDS)}.")
    check_comparable(emb_fixed, emb_moving)
    tell = progress or (lambda fraction, text: None)
    sides = _sides(emb_fixed, emb_moving)
    points = spread_points(sides.small_body, settings.n_points, seed)
    first = correspond(sides.small, sides.large, points, lambda f, text: tell(0.5 * f, "Matching points"))
    found = _first_fit(transform, sides, first, seed, settings)
    if found is None:
        return _nothing_found(transform, sides, len(points))
    tell(0.5, "Matching points near their predicted places")
    second = _second_matches(sides, found.matrix, seed, settings, lambda f, text: tell(0.5 + 0.4 * f, text))
    matrix, kept = _second_fit(transform, sides, second, found.matrix, seed, settings)
    tell(0.9, "Checking the transform")
    registration = _judge(transform, sides, first, second, matrix, kept, seed, settings)
    tell(1.0, "Done")
    logger.info("%s: %s, %d inliers", transform, registration.status, registration.inliers)
    return registration


def _sides(emb_fixed: Embedding, emb_moving: Embedding) -> _Sides:
    bodies = body_points(emb_fixed), body_points(emb_moving)
    voxel_mm3 = [abs(np.linalg.det(e.fine.grid.ijk_to_lps[:3, :3])) for e in (emb_fixed, emb_moving)]
    small_is_fixed = len(bodies[0]) * voxel_mm3[0] <= len(bodies[1]) * voxel_mm3[1]
    if small_is_fixed:
        return _Sides(emb_fixed, emb_moving, bodies[0], True)
    return _Sides(emb_moving, emb_fixed, bodies[1], False)


def _first_fit(
    transform: str, sides: _Sides, pairs: Correspondences, seed: int, settings: Settings
) -> Optional[RobustFit]:
    """The transform that explains most matches; an affine starts as a similarity, which noise imitates less."""
    kind = "similarity" if transform == "affine" else transform
    weights = pairs.trust(settings.cycle_scale_mm, settings.max_cycle_mm)
    if not weights.sum() > 0:
        return None
    return ransac(kind, *sides.ordered(pairs), settings.threshold_mm, weights, seed)


def _second_matches(
    sides: _Sides, matrix: np.ndarray, seed: int, settings: Settings, progress: Progress
) -> Correspondences:
    """More points, inside the other volume, searched near the places that the first transform predicts."""
    to_large = sides.small_to_large(matrix)
    inside = sides.large.volume_grid.contains(transform_points(to_large, sides.small_body))
    points = spread_points(sides.small_body, settings.n_points_second, seed + 1, inside)
    predicted = transform_points(to_large, points)
    return correspond_nearby(sides.small, sides.large, points, predicted, settings.radius_mm, progress)


def _second_fit(
    transform: str, sides: _Sides, pairs: Correspondences, matrix: np.ndarray, seed: int, settings: Settings
) -> Tuple[np.ndarray, np.ndarray]:
    """The final matrix and (N,) bool, the pairs it was fitted to; the first matrix when nothing was matched."""
    if not len(pairs.source_lps):
        return matrix, np.zeros(0, dtype=bool)
    weights = pairs.trust(settings.cycle_scale_mm, settings.radius_mm / 2)
    source, target = sides.ordered(pairs)
    if not weights.sum() > 0:
        return matrix, np.zeros(len(source), dtype=bool)
    found = ransac(transform, source, target, settings.threshold_second_mm, weights, seed, start=matrix)
    if found is None:
        return matrix, np.zeros(len(source), dtype=bool)
    kept = found.inliers & (weights > 0)
    if kept.sum() > 3:
        final = refine(transform, source[kept], target[kept], found.matrix, weights[kept])
        kept = (residuals_mm(final, source, target) <= settings.threshold_second_mm) & (weights > 0)
        return final, kept
    return found.matrix, kept


def _judge(
    transform: str,
    sides: _Sides,
    first: Correspondences,
    second: Correspondences,
    matrix: np.ndarray,
    kept: np.ndarray,
    seed: int,
    settings: Settings,
) -> Registration:
    """Measure the transform against the free matches of the first pass and give the verdict."""
    to_large = sides.small_to_large(matrix)
    grid = sides.large.volume_grid
    overlap = float(grid.contains(transform_points(to_large, sides.small_body)).mean())
    within = grid.contains(transform_points(to_large, first.source_lps))
    free_source, free_target = (points[within] for points in sides.ordered(first))
    explained = residuals_mm(matrix, free_source, free_target) <= settings.threshold_mm
    half_sample = _half_sample_disagreement_mm(transform, sides, first, seed, settings)
    fixed, moving = (points[kept] for points in sides.ordered(second))
    residual = _summary(residuals_mm(matrix, fixed, moving)) if len(fixed) else None
    open_ends = undetermined(transform, free_source[explained], settings.min_spread_mm)
    status, reasons = _verdict(
        matrix, explained, free_source, residual, overlap, half_sample, open_ends, settings
    )
    crop = _crop(sides, to_large, settings.crop_margin_mm) if status != "failed" else None
    return Registration(
        matrix=matrix,
        transform=transform,
        status=status,
        reasons=reasons,
        points_sampled=int(within.sum()),
        inliers=int(explained.sum()),
        residual_mm=residual,
        overlap=overlap,
        half_sample_mm=half_sample,
        crop=crop,
        crop_of="moving" if sides.small_is_fixed else "fixed",
        fixed_points_lps=fixed,
        moving_points_lps=moving,
        warnings=tuple(f"Undetermined by the matches: {what}." for what in open_ends),
    )


def _half_sample_disagreement_mm(
    transform: str, sides: _Sides, pairs: Correspondences, seed: int, settings: Settings
) -> Optional[float]:
    """How far two transforms from two halves of the matches put the body apart (95th percentile), mm."""
    order = np.random.default_rng(seed + 2).permutation(len(pairs.source_lps))
    halves = []
    for half in (order[::2], order[1::2]):
        chosen = Correspondences(
            pairs.source_lps[half], pairs.target_lps[half], pairs.similarity[half], pairs.cycle_mm[half]
        )
        found = _first_fit(transform, sides, chosen, seed, settings)
        if found is None:
            return None
        halves.append(sides.small_to_large(found.matrix))
    apart = transform_points(halves[0], pairs.source_lps) - transform_points(halves[1], pairs.source_lps)
    return float(np.percentile(np.linalg.norm(apart, axis=1), 95))


def _verdict(
    matrix: np.ndarray,
    explained: np.ndarray,
    points: np.ndarray,
    residual: Optional[Dict[str, float]],
    overlap: float,
    half_sample_mm: Optional[float],
    open_ends: Tuple[str, ...],
    settings: Settings,
) -> Tuple[str, Tuple[str, ...]]:
    """Status and, unless all is well, the reasons."""
    inliers, fraction = int(explained.sum()), float(explained.mean()) if len(explained) else 0.0
    apart = np.inf if half_sample_mm is None else half_sample_mm
    median = np.inf if residual is None else residual["median"]
    stretch = np.linalg.svd(matrix[:3, :3], compute_uv=False)
    spread = spread_mm(points[explained])
    share = f"{inliers} of {len(explained)} matches agree"
    halves = "two halves of the matches disagree" + ("" if half_sample_mm is None else f" by {apart:.0f} mm")
    failed = [
        (inliers < settings.failed_inliers or fraction < settings.failed_inlier_fraction, f"only {share}"),
        (overlap < settings.failed_overlap, f"only {overlap:.0%} of the smaller body lies in the other volume"),
        (apart > settings.failed_half_sample_mm, halves),
    ]
    doubts = [
        (inliers < settings.min_inliers or fraction < settings.min_inlier_fraction, f"only {share}"),
        (median > settings.max_median_residual_mm, f"the pairs fit to {median:.0f} mm only"),
        (overlap < settings.min_overlap, f"only {overlap:.0%} of the smaller body lies in the other volume"),
        (apart > settings.max_half_sample_mm, halves),
        (spread[1] < settings.min_spread_mm, "the agreeing matches lie almost on a line"),
        (bool(open_ends), f"undetermined: {', '.join(open_ends)}"),
        (
            stretch[0] > settings.stretch[1] or stretch[2] < settings.stretch[0],
            f"the bodies differ in size by factors of {stretch[2]:.2f} to {stretch[0]:.2f}",
        ),
    ]
    for status, checks in (("failed", failed), ("uncertain", doubts)):
        reasons = tuple(text for broken, text in checks if broken)
        if reasons:
            return status, reasons
    return "registered", ()


def _summary(distances: np.ndarray) -> Dict[str, float]:
    return {
        "mean": float(distances.mean()),
        "median": float(np.median(distances)),
        "p95": float(np.percentile(distances, 95)),
    }


def _crop(sides: _Sides, to_large: np.ndarray, margin_mm: float) -> Optional[Dict[str, List[int]]]:
    """The box of the larger volume's voxels that holds the smaller body and a margin; None when it is all of it."""
    grid: Grid = sides.large.volume_grid
    ijk = grid.to_ijk(transform_points(to_large, sides.small_body))
    margin = margin_mm / grid.spacing_ijk_mm
    low = np.clip(np.floor(ijk.min(axis=0) - margin), 0, grid.size_ijk - 1).astype(int)
    high = np.clip(np.ceil(ijk.max(axis=0) + margin), 0, grid.size_ijk - 1).astype(int)
    if np.all(low == 0) and np.all(high == grid.size_ijk - 1):
        return None
    return {"ijk_min": low.tolist(), "ijk_max": high.tolist()}


def _nothing_found(transform: str, sides: _Sides, n_points: int) -> Registration:
    return Registration(
        matrix=np.eye(4),
        transform=transform,
        status="failed",
        reasons=("no match of the sampled points came back to its start",),
        points_sampled=n_points,
        inliers=0,
        residual_mm=None,
        overlap=0.0,
        half_sample_mm=None,
        crop=None,
        crop_of="moving" if sides.small_is_fixed else "fixed",
        fixed_points_lps=np.empty((0, 3)),
        moving_points_lps=np.empty((0, 3)),
        warnings=("No transform was found; the matrix is the identity.",),
    )
