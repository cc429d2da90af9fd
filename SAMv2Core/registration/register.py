"""Register two volumes from their embeddings: rigid, similarity or affine, whatever their fields of view.

Points spread over the body with the smaller field of view are matched in the other body and back; a robust
estimation finds the transform that explains most of them (:mod:`SAMv2Core.registration.ransac`); a second pass matches
more points near their predicted places and refits. This is the idea of the paper's AdaReg (arXiv 2311.15111,
sec. 3.3) with two differences: matches must survive the way back, and rotations are not limited.

Across modalities matches are fewer and worse. There the volumes themselves, when given, decide between many
hypotheses, those of the matches among them, and refine the best (:mod:`SAMv2Core.registration.poses`).

A transform always comes with a verdict (:mod:`SAMv2Core.registration.verdict`), and with the pairs it was fitted to,
which can start another program's registration.

Conventions: LPS mm; the matrix maps points of the fixed to the moving image, as ITK's resampling wants it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Dict, List, Optional, Tuple

import numpy as np

from SAMv2Core.embedding.embedding import Embedding
from SAMv2Core.errors import UsageError
from SAMv2Core.geometry.grid import Grid, transform_points
from SAMv2Core.io.volume import Volume
from SAMv2Core.matching.nearest import Correspondences, correspond, correspond_nearby
from SAMv2Core.matching.sampling import body_points, spread_points
from SAMv2Core.matching.search import search_index
from SAMv2Core.matching.similarity import check_comparable
from SAMv2Core.progress import Progress, part, silent
from SAMv2Core.registration.least_squares import KINDS, fit, residuals_mm, undetermined
from SAMv2Core.registration.poses import Choice, angle_deg, choose_pose, match_modes, score_poses, vote_of
from SAMv2Core.registration.ransac import RobustFit, ransac, refine
from SAMv2Core.registration.tissue import TissueImage, tissue_image
from SAMv2Core.registration.verdict import SETTINGS, Evidence, Registration, Settings, verdict

__all__ = ["REFINEMENTS", "Registration", "Settings", "register"]

REFINEMENTS = ("auto", "on", "off")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Sides:
    """Which of the two images is the smaller one, and how to turn pairs of it into (fixed, moving)."""

    small: Embedding
    large: Embedding
    small_body: np.ndarray
    small_is_fixed: bool
    images: Optional[Tuple[TissueImage, TissueImage]] = None  # small and large, when intensities are to be used

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
    *,
    fixed_volume: Optional[Volume] = None,
    moving_volume: Optional[Volume] = None,
    refine: str = "auto",
    initial: Optional[np.ndarray] = None,
) -> Registration:
    """The transform from the fixed to the moving image.

    Parameters
    ----------
    emb_fixed, emb_moving : Embedding
        Of one model.
    transform : {"rigid", "similarity", "affine"}
    seed : int
        Of sampling; the same embeddings and seed give the same result.
    progress : callable, optional
        Called as ``progress(fraction, text)``; may raise ``Cancelled``.
    settings : Settings
        Every number that a registration depends on.
    fixed_volume, moving_volume : Volume, optional
        What the embeddings were computed from; both are needed to use intensities.
    refine : {"auto", "on", "off"}
        Use the volumes' intensities; ``auto`` when the modalities differ.
    initial : (4, 4) array, optional
        Fixed to moving, a guess that competes with the others.

    Returns
    -------
    Registration
        ``.matrix`` is (4, 4) LPS mm, fixed to moving; ``.status`` says how far to trust it.

    Raises
    ------
    UsageError
        Unknown transform or refinement, a guess that is no affine matrix, no volumes for ``"on"``, no embeddings.
    ModelError
        Embeddings of different models.
    InputError
        A volume without a body.

    Examples
    --------
    >>> import SAMv2Core as s
    >>> template = s.load_model("lite-ct", "cpu").embed(volume)
    >>> result = s.register(template, template)
    >>> bool(np.allclose(result.matrix, np.eye(4), atol=0.5))
    True
    >>> moved = s.resample_to(volume.grid, volume, result.matrix)
    """
    _check_arguments(transform, refine, initial, fixed_volume is not None and moving_volume is not None)
    check_comparable(emb_fixed, emb_moving)
    tell = progress or silent
    for emb in (emb_fixed, emb_moving):  # refuses a volume without a body
        tell(0.0, "Preparing the search")
        search_index(emb)
    wanted = refine == "on" or (refine == "auto" and emb_fixed.modality != emb_moving.modality)
    sides = _sides(emb_fixed, emb_moving, fixed_volume if wanted else None, moving_volume)
    if sides.images:  # the matches propose, they do not decide
        settings = replace(settings, n_points=settings.n_points // 2, n_points_second=settings.n_points_second // 2)
    points = spread_points(sides.small_body, settings.n_points, seed)
    share = 0.2 if sides.images else 0.5
    first = correspond(sides.small, sides.large, points, part(tell, 0.0, share))
    matrix, choice = _first_pose(transform, sides, first, initial, seed, settings, part(tell, share, 0.8))
    if matrix is None:
        return _nothing_found(transform, sides, len(points))
    nearby = part(tell, 0.8 if sides.images else 0.5, 0.9)
    second = _second_matches(sides, matrix, seed, settings, nearby)
    matrix, kept = _second_fit(transform, sides, second, matrix, choice, seed, settings)
    tell(0.9, "Checking the transform")
    registration = _judge(transform, sides, first, second, matrix, kept, choice, seed, settings)
    tell(1.0, "Done")
    logger.info("%s: %s, %d inliers", transform, registration.status, registration.inliers)
    return registration


def _check_arguments(transform: str, refine: str, initial: Optional[np.ndarray], has_volumes: bool) -> None:
    if transform not in KINDS:
        raise UsageError(f"There is no transform {transform!r}.", f"Choose one of {', '.join(KINDS)}.")
    if refine not in REFINEMENTS:
        raise UsageError(f"There is no refinement {refine!r}.", f"Choose one of {', '.join(REFINEMENTS)}.")
    if refine == "on" and not has_volumes:
        raise UsageError("Intensities cannot be used without both volumes.", "Give both, or refine='auto'.")
    if initial is not None:
        given = np.asarray(initial, dtype=np.float64)
        is_affine = given.shape == (4, 4) and np.all(np.isfinite(given)) and np.linalg.det(given[:3, :3]) > 1e-3
        if not is_affine:
            raise UsageError("The initial transform is no affine matrix without a mirror.", "Give a 4x4 matrix.")


def _sides(
    emb_fixed: Embedding, emb_moving: Embedding, fixed_volume: Optional[Volume], moving_volume: Optional[Volume]
) -> _Sides:
    bodies = body_points(emb_fixed), body_points(emb_moving)
    voxel_mm3 = [abs(np.linalg.det(e.fine.grid.ijk_to_lps[:3, :3])) for e in (emb_fixed, emb_moving)]
    small_is_fixed = len(bodies[0]) * voxel_mm3[0] <= len(bodies[1]) * voxel_mm3[1]
    images = None
    if fixed_volume is not None and moving_volume is not None:
        images = tissue_image(fixed_volume, emb_fixed.modality), tissue_image(moving_volume, emb_moving.modality)
    if small_is_fixed:
        return _Sides(emb_fixed, emb_moving, bodies[0], True, images)
    return _Sides(emb_moving, emb_fixed, bodies[1], False, images and images[::-1])


def _first_pose(
    transform: str,
    sides: _Sides,
    pairs: Correspondences,
    initial: Optional[np.ndarray],
    seed: int,
    settings: Settings,
    progress: Progress,
) -> Tuple[Optional[np.ndarray], Optional[Choice]]:
    """A first matrix from the matches alone, or with the volumes the pose that intensities choose."""
    if sides.images is None:
        found = _first_fit(transform, sides, pairs, seed, settings, initial)
        return (None if found is None else found.matrix), None
    small, large = sides.images
    weights = pairs.trust(settings.cycle_scale_mm, settings.max_cycle_mm)
    matches = (pairs.source_lps, pairs.target_lps, weights, settings.threshold_mm)
    starts = [np.eye(4), *match_modes(*matches, seed)]
    if initial is not None:
        starts.append(_nearest_rigid(sides.small_to_large(initial), sides.small_body))
    choice = choose_pose(large, small, starts, vote_of(*matches), seed, progress)
    return (None if choice is None else sides.small_to_large(choice.matrix)), choice


def _nearest_rigid(matrix: np.ndarray, points_lps: np.ndarray) -> np.ndarray:
    """The rigid matrix that moves the points most like an affine one."""
    return fit("rigid", points_lps, transform_points(matrix, points_lps))


def _first_fit(
    transform: str,
    sides: _Sides,
    pairs: Correspondences,
    seed: int,
    settings: Settings,
    initial: Optional[np.ndarray] = None,
) -> Optional[RobustFit]:
    """The transform that explains most matches; an affine starts as a similarity, less often chance."""
    kind = "similarity" if transform == "affine" else transform
    weights = pairs.trust(settings.cycle_scale_mm, settings.max_cycle_mm)
    if not weights.sum() > 0:
        return None
    return ransac(kind, *sides.ordered(pairs), settings.threshold_mm, weights, seed, start=initial)


def _second_matches(
    sides: _Sides, matrix: np.ndarray, seed: int, settings: Settings, progress: Progress
) -> Correspondences:
    """More points, inside the other volume, searched near the places that the first transform predicts."""
    to_large = sides.small_to_large(matrix)
    inside = sides.large.volume_grid.contains(transform_points(to_large, sides.small_body))
    points = spread_points(sides.small_body, settings.n_points_second, seed + 1, inside)
    if not len(points):
        return Correspondences(points, points, np.empty(0), np.empty(0))
    predicted = transform_points(to_large, points)
    return correspond_nearby(sides.small, sides.large, points, predicted, settings.radius_mm, progress)


def _second_fit(
    transform: str,
    sides: _Sides,
    pairs: Correspondences,
    matrix: np.ndarray,
    choice: Optional[Choice],
    seed: int,
    settings: Settings,
) -> Tuple[np.ndarray, np.ndarray]:
    """The final matrix and (N,) bool, the pairs it was fitted to; the given matrix when nothing matched.

    A rigid pose that intensities chose stays, since it is more exact than matches on a lattice of 4 mm; a similarity or
    an affine takes its place when the intensities agree.
    """
    source, target = sides.ordered(pairs)
    none = np.zeros(len(source), dtype=bool)
    weights = pairs.trust(settings.cycle_scale_mm, settings.radius_mm / 2)
    if not weights.sum() > 0:
        return matrix, none
    if choice is not None and transform == "rigid":
        return matrix, (residuals_mm(matrix, source, target) <= settings.threshold_second_mm) & (weights > 0)
    found = ransac(transform, source, target, settings.threshold_second_mm, weights, seed, start=matrix)
    if found is None or not _agreed(sides, matrix, found.matrix, choice):
        return matrix, none
    kept = found.inliers & (weights > 0)
    if kept.sum() > 3:
        final = refine(transform, source[kept], target[kept], found.matrix, weights[kept])
        kept = (residuals_mm(final, source, target) <= settings.threshold_second_mm) & (weights > 0)
        return final, kept
    return found.matrix, kept


def _agreed(sides: _Sides, before: np.ndarray, after: np.ndarray, choice: Optional[Choice]) -> bool:
    """Whether intensities, where they are used, speak for a matrix from matches."""
    if sides.images is None or choice is None:
        return True
    small, large = sides.images
    both = np.stack([sides.small_to_large(before), sides.small_to_large(after)])
    score = score_poses(large, small, both)
    return bool(score[1] >= score[0])


def _judge(
    transform: str,
    sides: _Sides,
    first: Correspondences,
    second: Correspondences,
    matrix: np.ndarray,
    kept: np.ndarray,
    choice: Optional[Choice],
    seed: int,
    settings: Settings,
) -> Registration:
    """Measure the transform against the free matches of the first pass and give the verdict."""
    to_large = sides.small_to_large(matrix)
    grid = sides.large.volume_grid
    overlap = float(grid.contains(transform_points(to_large, sides.small_body)).mean())
    within = grid.contains(transform_points(to_large, first.source_lps))
    consistent = within & (first.cycle_mm <= settings.consistent_mm)
    free_fixed, free_moving = (points[consistent] for points in sides.ordered(first))
    explained = residuals_mm(matrix, free_fixed, free_moving) <= settings.threshold_mm
    fixed, moving = (points[kept] for points in sides.ordered(second))
    residual = _summary(residuals_mm(matrix, fixed, moving)) if len(fixed) else None
    # Intensities choose without it, and it takes two estimations.
    half_sample = _half_sample_disagreement_mm(transform, sides, first, seed, settings) if choice is None else None
    evidence = Evidence(
        matrix=matrix,
        points_lps=free_fixed,
        explained=explained,
        median_residual_mm=np.inf if residual is None else residual["median"],
        overlap=overlap,
        half_sample_mm=np.inf if half_sample is None else half_sample,
        undetermined=undetermined(transform, free_fixed[explained], settings.min_spread_mm),
        intensity=choice,
        crosses_modalities=sides.small.modality != sides.large.modality,
    )
    status, reasons = verdict(evidence, settings)
    return Registration(
        matrix=matrix,
        transform=transform,
        status=status,
        reasons=reasons,
        points_sampled=int(within.sum()),
        consistent=len(explained),
        inliers=int(explained.sum()),
        residual_mm=residual,
        overlap=overlap,
        half_sample_mm=half_sample,
        crop=None if status == "failed" else _crop(sides, to_large, settings.crop_margin_mm),
        crop_of="moving" if sides.small_is_fixed else "fixed",
        fixed_points_lps=fixed,
        moving_points_lps=moving,
        warnings=_warnings(evidence, settings),
        intensity=choice,
    )


def _warnings(evidence: Evidence, settings: Settings) -> Tuple[str, ...]:
    found = []
    if evidence.intensity is None:  # which leave nothing open that a body shows
        found += [f"Undetermined by the matches: {what}." for what in evidence.undetermined]
    angle = angle_deg(evidence.matrix)
    if angle > settings.turned_deg:
        found.append(
            f"The transform turns by {angle:.0f} degrees: by the headers the patient lies differently in the two scans "
            "(prone, or feet first), or one header is wrong."
        )
    return tuple(found)


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


def _summary(distances: np.ndarray) -> Dict[str, float]:
    return {
        "mean": float(distances.mean()),
        "median": float(np.median(distances)),
        "p95": float(np.percentile(distances, 95)),
    }


def _crop(sides: _Sides, to_large: np.ndarray, margin_mm: float) -> Optional[Dict[str, List[int]]]:
    """The box of the larger volume's voxels that holds the smaller body and a margin; None when it is all."""
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
        consistent=0,
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
