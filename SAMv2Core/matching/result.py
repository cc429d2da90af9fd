"""What a match is, apart from how it is found: this module loads no torch, so that results can be told anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterable, Optional, Tuple

import numpy as np

from SAMv2Core.matching.confidence import Evidence


@dataclass(frozen=True, eq=False)
class Match:
    """The answer for one template point.

    :param template_lps: (3,) float64, the point asked for.
    :param query_lps: (3,) float64, or None when the status is ``not_found``.
    :param similarity: weighted mean cosine at the result, -1..1; NaN when nothing was searched.
    :param cycle_error_mm: how far from the point the way back ends; NaN when nothing was searched.
    :param fixed_points: pairs that voted; 0 with the nearest method.
    :param confidence: 0..1, estimated probability that the result is right.
    :param status: ``"matched"``, ``"uncertain"`` or ``"not_found"``.
    :param reason: for people, why not more; empty when matched.
    :param candidate_lps: (3,) best position even when not found, or None; for debugging, never a result.
    :param evidence: what the verdict rests on, for calibration; None when nothing was searched, and for several
        templates.
    :param exemplars: with several templates, the match of each that shows the point.
    """

    template_lps: np.ndarray
    query_lps: Optional[np.ndarray]
    similarity: float
    cycle_error_mm: float
    fixed_points: int
    confidence: float
    status: str
    reason: str
    candidate_lps: Optional[np.ndarray] = None
    evidence: Optional[Evidence] = None
    exemplars: Tuple[Match, ...] = ()

    def __repr__(self) -> str:
        place = "nothing" if self.query_lps is None else _in_words(self.query_lps)
        return f"<Match: {_in_words(self.template_lps)} -> {place}, {self.status}, confidence {self.confidence:.2f}>"


def _in_words(place_lps: np.ndarray) -> str:
    return f"({', '.join(f'{value:.1f}' for value in place_lps)})"


def positions(matches: Iterable[Match]) -> np.ndarray:
    """The places found, as one array.

    Parameters
    ----------
    matches : iterable of Match
        As :func:`match` returns them.

    Returns
    -------
    (N, 3) float64 array
        LPS mm in the query's world, in the order of the matches; NaN where nothing was found.

    Examples
    --------
    >>> import SAMv2Core as s
    >>> template = s.load_model("lite-ct", "cpu").embed(volume)
    >>> found = s.positions(s.match(template, template, [[0, 10, 0], [0, 0, 900]]))
    >>> found.shape, np.isnan(found).any(axis=1).tolist()  # the second point lies outside the scan
    ((2, 3), [False, True])
    """
    nothing = np.full(3, np.nan)
    return np.array([nothing if m.query_lps is None else m.query_lps for m in matches], dtype=np.float64).reshape(-1, 3)
