"""What tracking finds, and what a person decides: plain results, apart from how they are found; no torch is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np

from SAMv2Core.tracking.confidence import TrackEvidence


@dataclass(frozen=True, eq=False)
class Finding:
    """One lesion in one study.

    :param label: the lesion's.
    :param study: 0 is the baseline, 1 the first follow-up.
    :param lps: (3,) LPS mm in that study's world, or None when the status is ``not_found``.
    :param similarity: weighted mean cosine of the lesion's template points at the place, -1..1; NaN when unknown.
    :param cycle_error_mm: how far from its template points the way back ends, weighted mean; NaN when unknown.
    :param confidence: 0..1, estimated probability that the place is within 10 mm of the truth.
    :param status: ``"matched"``, ``"uncertain"`` or ``"not_found"``; of the *place*: whether the lesion itself is still
        there, an embedding cannot say.
    :param reason: for people, why not more; empty when matched.
    :param diameter_mm: as given with the lesion, in the row of the baseline; None elsewhere (nobody measured it there).
    :param candidate_lps: (3,) best position even when not found, or None; for debugging, never a result.
    :param evidence: what the verdict rests on, for calibration; None when nothing was searched.
    :param state: what a segmentation or a reader says of the lesion itself, one of
        :data:`SAMv2Core.tracking.recist.STATES`; "" when nobody said.
    :param short_mm: short axis across the diameter, :param ends_lps: (2, 3) ends of the diameter, LPS mm; or None.
    :param volume_ml: of its segmentation, or None.
    """

    label: str
    study: int
    lps: Optional[np.ndarray]
    similarity: float
    cycle_error_mm: float
    confidence: float
    status: str
    reason: str
    diameter_mm: Optional[float] = None
    candidate_lps: Optional[np.ndarray] = None
    evidence: Optional[TrackEvidence] = None
    state: str = ""
    short_mm: Optional[float] = None
    ends_lps: Optional[np.ndarray] = None
    volume_ml: Optional[float] = None

    def __repr__(self) -> str:
        place = "nowhere" if self.lps is None else f"({', '.join(f'{value:.1f}' for value in self.lps)})"
        return f"<Finding {self.label!r} in study {self.study}: {place}, {self.status}, {self.confidence:.2f}>"


@dataclass(frozen=True, eq=False)
class Verified:
    """What a person has decided on one lesion in one follow-up.

    :param lps: (3,) LPS mm where it lies, or None: confirmed absent.
    """

    label: str
    study: int
    lps: Optional[np.ndarray]
