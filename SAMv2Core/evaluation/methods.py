"""The ways of finding points that the evaluations compare, under one interface.

* ``nearest``: the most similar vector (the paper's SAM);
* ``fixed-point``: the paper's fixed points (arXiv 2311.15111, sec. 3.2) and nothing else;
* ``default``: what ``samv2 match`` does, fixed points and where the whole body's matches expect the point;
* ``track``: what ``samv2 track`` does: all lesions of the pair of scans together, each by several places within its
  extent. For lesions only.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Optional, Sequence

import numpy as np

if TYPE_CHECKING:
    from SAMv2Core.embedding.embedding import Embedding

POINT_METHODS: Dict[str, Dict[str, Any]] = {
    "nearest": {"method": "nearest"},
    "fixed-point": {"method": "fixed-point", "expect": False},
    "default": {"method": "fixed-point"},
}
LESION_METHODS = (*POINT_METHODS, "track")


class Answer(NamedTuple):
    """Where a point was found.

    :param place_lps: (3,) the result, or the best candidate of a point that was not found; None without one.
    """

    place_lps: Optional[np.ndarray]
    status: str
    confidence: float
    reason: str


def find_points(
    template: Embedding,
    query: Embedding,
    points_lps: np.ndarray,
    method: str,
    diameters_mm: Optional[Sequence[float]] = None,
) -> List[Answer]:
    """Find points of the template in the query.

    :param points_lps: (N, 3).
    :param method: one of :data:`LESION_METHODS`.
    :param diameters_mm: of lesions, NaN where unknown; for ``track``.
    """
    if method == "track":
        return _track(template, query, points_lps, diameters_mm or [math.nan] * len(points_lps))
    from SAMv2Core.matching.match import match

    found = match(template, query, points_lps.tolist(), **POINT_METHODS[method])
    return [_answer(m.query_lps, m.candidate_lps, m.status, m.confidence, m.reason) for m in found]


def _track(template: Embedding, query: Embedding, points: np.ndarray, diameters: Sequence[float]) -> List[Answer]:
    from SAMv2Core.io.lesion import lesion_at
    from SAMv2Core.tracking.track import track

    sizes = [float(diameter) if math.isfinite(diameter) else None for diameter in diameters]
    lesions = [lesion_at(str(n), point.tolist(), size) for n, (point, size) in enumerate(zip(points, sizes))]
    rows = {finding.label: finding for finding in track(template, [query], lesions) if finding.study == 1}
    found = [rows[lesion.label] for lesion in lesions]
    return [_answer(f.lps, f.candidate_lps, f.status, f.confidence, f.reason) for f in found]


def _answer(
    place: Optional[np.ndarray], candidate: Optional[np.ndarray], status: str, confidence: float, reason: str
) -> Answer:
    return Answer(place if place is not None else candidate, status, float(confidence), reason)
