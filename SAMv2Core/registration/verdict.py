"""What a registration gives, and when it may be trusted: all thresholds of a registration stand here.

The verdict rests on matches that know nothing of the transform, since they were searched in the whole body, and
of these on the ones that came back to their start. Measured with the first ``lite-ct`` weights on the torso CTs
kept for validation, a right transform (simulated follow-ups, also cut to 40 %) explains 65 to 97 % of those, a
wrong one (parts of a body that do not overlap, other patients) up to 34 %. The share of *all* matches separates
worse: points whose anatomy is missing count against it.

Where intensities chose the pose, they decide alone, since across modalities even the right pose explains only 0 to 30 %
of the matches: how well they agree, whether the best pose elsewhere does nearly as well, and whether two halves of the
smaller scan, each aligned alone, stay together. Of 30 training pairs of CT and MR, displaced, whole and cut to 40 %,
27 of 48 poses within 10 mm of the pair as aligned anew at its bones meet all three limits (17 of 26 whole, 10 of 22
cut), and two of 12 beyond (13 and 15 mm); none of 60 pairs of two patients do. Two lower legs of two patients do (one
of 40 pairs of validation scans), which no limit tells apart. Halves up to 20 mm apart, where no other pose reaches 65 %
of the score, would let 34 pass, but also a limb that lies a centimeter off.

Matches alone cannot vouch for CT and MR: with another network of the size of ``lite-ctmr``, better at them, the
transform explained up to 86 % of the matches of two different patients, and up to 80 % where it was 32 mm off. Such a
transform is at best *uncertain*.

Conventions: LPS mm; the matrix maps points of the fixed image to the moving image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from SAMv2Core.registration.choice import Choice
from SAMv2Core.registration.least_squares import spread_mm

_Checks = List[Tuple[bool, str]]


@dataclass(frozen=True)
class Settings:
    """Every number that a registration depends on; lengths in mm.

    The first block steers the search, the second decides between *registered* (all limits met), *uncertain*
    and *failed* (any of the ``failed_`` limits broken).
    """

    n_points: int = 1000
    n_points_second: int = 1000
    cycle_scale_mm: float = 8.0  # two voxels of the fine lattice: the error of a good match
    max_cycle_mm: float = 32.0
    threshold_mm: float = 15.0  # soft tissue moves this much against any rigid fit
    threshold_second_mm: float = 12.0
    radius_mm: float = 24.0  # of the second search
    crop_margin_mm: float = 15.0

    consistent_mm: float = 16.0  # a match that comes back this close is one to be explained
    min_inliers: int = 60
    min_inlier_fraction: float = 0.55
    max_median_residual_mm: float = 8.0
    min_overlap: float = 0.3
    min_spread_mm: float = 15.0
    max_half_sample_mm: float = 12.0
    stretch: Tuple[float, float] = (0.75, 1.33)
    failed_inliers: int = 20
    failed_inlier_fraction: float = 0.4
    failed_overlap: float = 0.1
    failed_half_sample_mm: float = 60.0

    # With intensities: score (nats + 0..1), and the best other pose's share of it.
    min_score: float = 0.55
    max_runner_up: float = 0.85
    max_halves_mm: float = 9.0  # two halves of the smaller scan, each aligned alone
    failed_score: float = 0.35
    failed_runner_up: float = 0.95
    turned_deg: float = 90.0  # beyond, the headers disagree about how the patient lies


SETTINGS = Settings()


@dataclass(frozen=True, eq=False)
class Registration:
    """A transform and how far to trust it.

    :param matrix: (4, 4) LPS, fixed to moving; the identity when nothing was found.
    :param transform: ``"rigid"``, ``"similarity"`` or ``"affine"``.
    :param status: ``"registered"``, ``"uncertain"`` or ``"failed"``; of a failed one no use should be made.
    :param reasons: why it is not ``"registered"``, for people.
    :param points_sampled: points matched in the whole body and lying in the overlap of both volumes.
    :param consistent: how many of these matches came back to their start.
    :param inliers: how many of the consistent ones the transform explains.
    :param residual_mm: mean, median and 95th percentile of the distances of the pairs below; None without
        pairs.
    :param overlap: fraction of the smaller body inside the other volume, 0..1.
    :param half_sample_mm: 95th percentile over the body of the distance of two transforms from two halves of
        the matches; None when a half gave none, and where intensities chose.
    :param crop: ``ijk_min`` and ``ijk_max`` (inclusive, x y z) of the box in ``crop_of`` that holds the other
        body with a margin; None when it would be the whole volume.
    :param crop_of: ``"fixed"`` or ``"moving"``, the volume with the larger body.
    :param fixed_points_lps: (P, 3) the pairs the transform was fitted to.
    :param moving_points_lps: (P, 3) their partners.
    :param warnings: what the user should know.
    :param intensity: how well the intensities agree, see :class:`SAMv2Core.registration.poses.Choice`; None when they
        were not used.
    """

    matrix: np.ndarray
    transform: str
    status: str
    reasons: Tuple[str, ...]
    points_sampled: int
    consistent: int
    inliers: int
    residual_mm: Optional[Dict[str, float]]
    overlap: float
    half_sample_mm: Optional[float]
    crop: Optional[Dict[str, List[int]]]
    crop_of: str
    fixed_points_lps: np.ndarray
    moving_points_lps: np.ndarray
    warnings: Tuple[str, ...] = ()
    intensity: Optional[Choice] = None

    def __repr__(self) -> str:
        agree = f"{self.inliers} of {self.consistent} matches agree, overlap {self.overlap:.0%}"
        return f"<Registration: {self.transform}, {self.status}, {agree}>"

    def to_report(self) -> Dict[str, Any]:
        """Plain numbers for JSON; what does not exist is None, never NaN."""
        return {
            "matrix": self.matrix.tolist(),
            "transform": self.transform,
            "status": self.status,
            "reasons": list(self.reasons),
            "points_sampled": self.points_sampled,
            "consistent": self.consistent,
            "inliers": self.inliers,
            "pairs": len(self.fixed_points_lps),
            "residual_mm": self.residual_mm or {"mean": None, "median": None, "p95": None},
            "overlap": self.overlap,
            "half_sample_mm": self.half_sample_mm,
            "crop": self.crop,
            "crop_of": self.crop_of if self.crop else None,
            "intensity": None if self.intensity is None else self.intensity.to_report(),
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the verdict rests on.

    :param matrix: (4, 4) fixed to moving.
    :param points_lps: (N, 3) points of matches that came back to their start and lie in the overlap.
    :param explained: (N,) bool, those that the transform explains.
    :param median_residual_mm: of the pairs it was fitted to; infinite without pairs.
    :param overlap: fraction of the smaller body inside the other volume.
    :param half_sample_mm: disagreement of two halves of the matches; infinite when a half gave no transform.
    :param undetermined: what the explained points leave open.
    :param intensity: the pose that intensities chose, None when they were not used.
    :param crosses_modalities: one image is CT and the other MR.
    """

    matrix: np.ndarray
    points_lps: np.ndarray
    explained: np.ndarray
    median_residual_mm: float
    overlap: float
    half_sample_mm: float
    undetermined: Tuple[str, ...]
    intensity: Optional[Choice] = None
    crosses_modalities: bool = False


def verdict(evidence: Evidence, settings: Settings = SETTINGS) -> Tuple[str, Tuple[str, ...]]:
    """Status, and the reasons unless it is ``"registered"``."""
    if evidence.intensity is not None:
        return _first_status(*_checks_of_intensity(evidence, evidence.intensity, settings))
    inliers, consistent = int(evidence.explained.sum()), len(evidence.explained)
    fraction = inliers / max(consistent, 1)
    apart = evidence.half_sample_mm
    stretch = np.linalg.svd(evidence.matrix[:3, :3], compute_uv=False)
    spread = spread_mm(evidence.points_lps[evidence.explained])
    few = f"only {inliers} of {consistent} consistent matches agree"
    little = f"only {evidence.overlap:.0%} of the smaller body lies in the other volume"
    halves = "two halves of the matches disagree" + (f" by {apart:.0f} mm" if np.isfinite(apart) else "")
    failed = [
        (inliers < settings.failed_inliers or fraction < settings.failed_inlier_fraction, few),
        (evidence.overlap < settings.failed_overlap, little),
        (apart > settings.failed_half_sample_mm, halves),
    ]
    doubts = [
        (inliers < settings.min_inliers or fraction < settings.min_inlier_fraction, few),
        (evidence.overlap < settings.min_overlap, little),
        (apart > settings.max_half_sample_mm, halves),
        (
            evidence.median_residual_mm > settings.max_median_residual_mm,
            f"half of the pairs are more than {settings.max_median_residual_mm:.0f} mm off",
        ),
        (spread[1] < settings.min_spread_mm, "the agreeing matches lie almost on a line"),
        (bool(evidence.undetermined), f"undetermined: {', '.join(evidence.undetermined)}"),
        (
            stretch[0] > settings.stretch[1] or stretch[2] < settings.stretch[0],
            f"the bodies differ in size by factors of {stretch[2]:.2f} to {stretch[0]:.2f}",
        ),
        (
            evidence.crosses_modalities,
            "matches alone do not tell whether CT and MR lie right; use the intensities, too",
        ),
    ]
    return _first_status(failed, doubts)


def _checks_of_intensity(evidence: Evidence, choice: Choice, settings: Settings) -> Tuple[_Checks, _Checks]:
    """What makes a pose chosen by intensities failed, and what uncertain."""
    little = f"only {evidence.overlap:.0%} of the smaller body lies in the other volume"
    weak = f"the intensities agree little ({choice.score:.2f})"
    rival = f"another pose explains the intensities {choice.runner_up:.0%} as well"
    halves = f"two halves of the smaller scan, each aligned alone, end {choice.halves_mm:.0f} mm apart"
    failed = [
        (choice.score < settings.failed_score, weak),
        (choice.runner_up > settings.failed_runner_up, rival),
        (evidence.overlap < settings.failed_overlap, little),
    ]
    doubts = [
        (choice.score < settings.min_score, weak),
        (choice.runner_up > settings.max_runner_up, rival),
        (choice.halves_mm > settings.max_halves_mm, halves),
        (evidence.overlap < settings.min_overlap, little),
    ]
    return failed, doubts


def _first_status(failed: _Checks, doubts: _Checks) -> Tuple[str, Tuple[str, ...]]:
    for status, checks in (("failed", failed), ("uncertain", doubts)):
        reasons = tuple(text for broken, text in checks if broken)
        if reasons:
            return status, reasons
    return "registered", ()
