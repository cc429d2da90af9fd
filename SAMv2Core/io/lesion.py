"""What a lesion of a baseline scan is: where it lies, how large it is, and the places inside it that stand for it.

Following one point of a lesion rests on one vector; a lesion has many. So each is carried as a few weighted
places within its extent: the voxels of its segmentation, or a small ball where only a center (and perhaps a
diameter) is known.

Conventions: LPS mm. A diameter is a RECIST one, the longest in a slice, with the short axis across it
(:mod:`SAMv2Core.geometry.diameters`): taken as given, or measured on a segmentation's axial slices; never guessed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Optional, Sequence

import numpy as np

from SAMv2Core.errors import InputError

ROLES = ("target", "non_target", "new")
"""What a reader may call a lesion; one that was new last month still is so when that month is the baseline."""

N_SAMPLES = 7
"""Places that stand for a lesion: its center and six others, each a vector to search for."""

SAMPLE_RADIUS = 0.6
"""Places of a lesion known by its diameter lie this share of its radius from the center: well inside."""

UNKNOWN_RADIUS_MM, MAX_SAMPLE_RADIUS_MM = 5.0, 12.0
"""Radius of a lesion of unknown size (half of all measured ones are smaller); farther out is other anatomy."""


@dataclass(frozen=True, eq=False)
class Lesion:
    """One lesion of the baseline.

    :param label: its name, unique among the lesions tracked together.
    :param center_lps: (3,) LPS mm.
    :param diameter_mm: longest diameter, or None when nobody measured it.
    :param points_lps: (N, 3) LPS mm, places inside the lesion; the first one is the center.
    :param weights: (N,) positive, how much each place counts; they sum to 1.
    :param short_mm: short axis across the diameter, or None.
    :param ends_lps: (2, 3) ends of the diameter, or None.
    :param role: ``target``, ``non_target`` or ``new`` (:mod:`SAMv2Core.tracking.recist`), "" when nobody said.
    :param organ: name of the organ, "" when nobody said.
    :param is_node: a lymph node, which counts by its short axis.
    :param volume_ml: of its segmentation, or None.
    :param tracking_uid: DICOM's Tracking UID, when the lesion comes from a report; "" otherwise.
    """

    label: str
    center_lps: np.ndarray
    diameter_mm: Optional[float]
    points_lps: np.ndarray
    weights: np.ndarray
    short_mm: Optional[float] = None
    ends_lps: Optional[np.ndarray] = None
    role: str = ""
    organ: str = ""
    is_node: bool = False
    tracking_uid: str = ""
    volume_ml: Optional[float] = None

    def __post_init__(self) -> None:
        center = np.array(self.center_lps, dtype=np.float64).reshape(-1)
        points = np.array(self.points_lps, dtype=np.float64)
        weights = np.array(self.weights, dtype=np.float64)
        diameter, short = (None if mm is None else float(mm) for mm in (self.diameter_mm, self.short_mm))
        if center.shape != (3,) or not np.all(np.isfinite(center)):
            raise InputError(f"Lesion {self.label!r} has no position.", "Give it a center (mm, LPS).")
        for mm in (diameter, short):
            if mm is not None and not 0 < mm < math.inf:
                raise InputError(f"Lesion {self.label!r}: a diameter of {mm:g} mm makes no sense.", "Correct it.")
        if self.role not in ("", *ROLES):
            raise InputError(f"Lesion {self.label!r}: there is no role {self.role!r}.", f"Use {' or '.join(ROLES)}.")
        if points.ndim != 2 or points.shape[1] != 3 or not len(points) or not np.all(np.isfinite(points)):
            raise InputError(f"Lesion {self.label!r} has no places to look for.", "Give at least its center.")
        if weights.shape != (len(points),) or not np.all(np.isfinite(weights)) or weights.min() <= 0:
            raise InputError(f"Lesion {self.label!r}: its weights are not positive numbers.", "Give one per place.")
        checked = {"center_lps": center, "diameter_mm": diameter, "points_lps": points, "short_mm": short}
        for name, value in {**checked, "weights": weights / weights.sum()}.items():
            object.__setattr__(self, name, value)

    @property
    def radius_mm(self) -> float:
        """Half the diameter, or a usual radius when it is unknown."""
        return UNKNOWN_RADIUS_MM if self.diameter_mm is None else self.diameter_mm / 2


def lesion_at(label: str, center_lps: Sequence[float], diameter_mm: Optional[float] = None) -> Lesion:
    """A lesion known by its center, and its diameter where there is one: a small ball of places around it.

    :raises InputError: a center or a diameter that makes no sense.
    """
    center = np.array(center_lps, dtype=np.float64).reshape(-1)
    radius = UNKNOWN_RADIUS_MM if diameter_mm is None else float(diameter_mm) / 2
    reach = min(SAMPLE_RADIUS * radius, MAX_SAMPLE_RADIUS_MM)
    offsets = np.concatenate([np.zeros((1, 3)), np.eye(3), -np.eye(3)]) * reach
    return Lesion(label, center, diameter_mm, center + offsets, _weights(offsets))


def lesion_of_samples(
    label: str, samples_lps: np.ndarray, diameter_mm: Optional[float] = None, center_lps: Optional[np.ndarray] = None
) -> Lesion:
    """A lesion known by places inside it, such as the voxels of its segmentation.

    :param samples_lps: (M, 3) LPS mm, M >= 1; a few well-spread ones of them are kept.
    :param center_lps: (3,), or None for their mean (the closest of them, when the mean lies outside: a crescent).
    :raises InputError: no samples, or numbers that are none.
    """
    samples = np.array(samples_lps, dtype=np.float64)
    if samples.ndim != 2 or samples.shape[1] != 3 or not len(samples) or not np.all(np.isfinite(samples)):
        raise InputError(f"Lesion {label!r} has no places inside it.", "Give at least one (l, p, s) in mm.")
    center = samples.mean(axis=0) if center_lps is None else np.array(center_lps, dtype=np.float64)
    to_center = np.linalg.norm(samples - center, axis=1)
    if center_lps is None and to_center.min() > _typical_gap_mm(samples):
        center = samples[np.argmin(to_center)]
    # The rim's vectors show what lies beside the lesion; its inner part moves with it.
    reach = np.percentile(to_center, 60) if len(samples) > N_SAMPLES else math.inf
    points = _spread_out(center, samples[to_center <= min(reach, MAX_SAMPLE_RADIUS_MM)], N_SAMPLES)
    return Lesion(label, center, diameter_mm, points, _weights(points - center))


def check_labels(lesions: Sequence[Lesion]) -> None:
    """Refuse what a result could not name.

    :raises InputError: no lesions, or two of one label.
    """
    if not lesions:
        raise InputError("There is no lesion to track.", "Mark at least one in the baseline.")
    labels = [lesion.label for lesion in lesions]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        shown = ", ".join(repr(label) for label in twice[:5])
        raise InputError(f"Several lesions bear the same label: {shown}.", "Give each lesion a label of its own.")


def _typical_gap_mm(samples: np.ndarray) -> float:
    """Distance between neighbors of evenly spread samples in their bounding box, with some slack."""
    size = np.maximum(np.ptp(samples, axis=0), 1.0)
    return 2.0 * float(np.cbrt(size.prod() / len(samples)))


def _spread_out(center: np.ndarray, samples: np.ndarray, count: int) -> np.ndarray:
    """(n <= count, 3): the center, then always the sample farthest from those chosen."""
    chosen = [center]
    distance = np.linalg.norm(samples - center, axis=1)
    while len(chosen) < count and len(samples) and distance.max() > 1e-6:
        chosen.append(samples[np.argmax(distance)])
        distance = np.minimum(distance, np.linalg.norm(samples - chosen[-1], axis=1))
    return np.array(chosen)


def _weights(offsets: np.ndarray) -> np.ndarray:
    """The center counts twice as much as a place at the end of the reach."""
    distance = np.linalg.norm(offsets, axis=1)
    return 1 / (1 + distance / max(float(distance.max()), 1e-9))
