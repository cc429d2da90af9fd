"""One answer from several exemplars: the same point, marked in several scans, looked for in one more.

Between two patients one exemplar is a weak witness; several that agree are a strong one, and those that err do so in
different places. So the point is matched from every scan by itself (:func:`SAMv2Core.matching.match.match`), and the
geometric median of the places, weighted by the confidence of each, is the answer; its own confidence is that of
*agreement*, fitted like all others (Testing/benchmarks/calibration.py). Not in the paper, whose one-shot detection
(arXiv 2311.15111, sec. 3.2) has a single exemplar. Names that the landmark atlas knows: :mod:`SAMv2Core.landmarks`.

Conventions: points are LPS mm, NaN where a scan's list has no position for a label.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Dict, List, Sequence, Tuple

import numpy as np

from SAMv2Core.errors import InputError
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.points import PointList
from SAMv2Core.matching.confidence import MATCHED, NOT_FOUND, UNCERTAIN, UncertaintyModel
from SAMv2Core.matching.result import Match
from SAMv2Core.matching.robust import geometric_median

AGREE_MM = 10.0
"""Places this near to the answer are for it: what is called right everywhere else."""

TRUST = (0.01, 0.99)  # the least and the most that a confidence weighs


@dataclass(frozen=True)
class Agreement:
    """What several exemplars say together of one point.

    :param place_lps: (3,) weighted geometric median of their places.
    :param confidences: of the single matches, 0..1.
    :param distances_mm: of their places from the answer.
    """

    place_lps: np.ndarray
    confidences: np.ndarray
    distances_mm: np.ndarray

    def terms(self) -> Dict[str, float]:
        """Evidence, by name: what the coefficients of the model multiply (:class:`Several`).

        The largest of the confidences and those of the exemplars that disagree were tried as well and added nothing.
        """
        near = self.distances_mm <= AGREE_MM
        spread = float(np.average(self.distances_mm, weights=np.clip(self.confidences, *TRUST)))
        return {
            "bias": 1.0,
            "support": float(np.log1p(np.clip(self.confidences[near], *TRUST).sum())),
            "spread": math.log1p(spread / 4),
        }


def agree(places_lps: np.ndarray, confidences: np.ndarray) -> Agreement:
    """The place that weighted witnesses agree on.

    :param places_lps: (n, 3) LPS mm, n >= 1; those not found with their best candidate and its low confidence.
    :param confidences: (n,) 0..1.
    """
    weights = np.clip(confidences, *TRUST)
    place = geometric_median(places_lps, weights)
    return Agreement(place, np.asarray(confidences), np.linalg.norm(places_lps - place, axis=1))


def combined(matches: Sequence[Match], query: Grid, model: UncertaintyModel) -> Match:
    """One answer from the matches of one point.

    :param matches: n >= 1, one per scan in which the point is marked.
    :param query: the volume that was searched.
    """
    searched = [match for match in matches if match.candidate_lps is not None]
    if len(searched) < 2:
        return replace((searched or matches)[0], exemplars=tuple(matches))
    places = np.array([match.candidate_lps for match in searched])
    agreement = agree(places, np.array([match.confidence for match in searched]))
    confidence = model.several.confidence(agreement.terms())
    beyond = query.beyond_mm(agreement.place_lps)
    agreeing = [match for match, mm in zip(searched, agreement.distances_mm) if mm <= AGREE_MM]
    near = len(agreeing)
    if 2 * near > len(searched):  # the coefficients are those of other patients; an earlier scan of this one says more
        confidence = max([confidence, *(match.confidence for match in agreeing if match.status == MATCHED)])
    if beyond > 0:
        confidence = min(confidence, model.several.not_found_below / 2)
        reason = f"The point would lie {math.ceil(beyond)} mm outside the other scan."
    else:
        sure = f"the probability is {confidence:.0%}, {model.several.matched_above:.0%} are wanted"
        reason = f"Needs a look: {near} of {len(searched)} templates agree on the place; {sure}."
    if confidence < model.several.not_found_below:
        status = NOT_FOUND
        reason = reason if beyond > 0 else f"No reliable match: {near} of {len(searched)} templates agree on a place."
    else:
        status = MATCHED if confidence >= model.several.matched_above else UNCERTAIN
    weights = np.clip(agreement.confidences, *TRUST)
    return Match(
        template_lps=searched[0].template_lps,
        query_lps=None if status == NOT_FOUND else agreement.place_lps,
        similarity=float(np.average([match.similarity for match in searched], weights=weights)),
        cycle_error_mm=float(np.average([match.cycle_error_mm for match in searched], weights=weights)),
        fixed_points=sum(match.fixed_points for match in searched),
        confidence=confidence,
        status=status,
        reason="" if status == MATCHED else reason,
        candidate_lps=agreement.place_lps,
        exemplars=tuple(matches),
    )


def by_label(lists: Sequence[PointList]) -> Tuple[Tuple[str, ...], List[np.ndarray]]:
    """The same points of several scans side by side.

    :returns: the labels of all lists in the order in which they first come, and for each list (N, 3) LPS mm, NaN where
        it has no position for a label.
    :raises InputError: a label that is empty or comes twice in a list.
    """
    for points in lists:
        labels = points.labels
        twice = sorted({label for label in labels if not label or labels.count(label) > 1})
        if twice:
            raise InputError(
                f"The points of {points.name or 'a list'} cannot be told apart: {', '.join(map(repr, twice[:5]))}.",
                "With several templates, give every point a label of its own, the same in each list.",
            )
    names = tuple(dict.fromkeys(label for points in lists for label in points.labels))
    aligned = []
    for points in lists:
        known = dict(zip(points.labels, points.positions_lps))
        aligned.append(np.array([known.get(name, np.full(3, np.nan)) for name in names]).reshape(-1, 3))
    return names, aligned
