"""What a landmark in a scan is, apart from how it is found: this module loads no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Dict, Mapping, Optional

import numpy as np

from SAMv2Core.matching.confidence import MATCHED, NOT_FOUND, UNCERTAIN

LEVELS = "vertebra_"


@dataclass(frozen=True)
class Coefficients:
    """What each piece of evidence adds to the argument of the logistic function, and the cuts of the confidence.

    ``bias``, ``agreement * share of exemplars within AGREE_MM``, ``similarity * s``, ``spread * log(1 + mm / 4)`` of
    the exemplars' choices about their median, ``departure * min(d, 5)`` from the expected place in units of its spread,
    ``witnesses * log(number of exemplars)``, ``beyond * mm / 10`` that the expected place lies outside the scan,
    ``reliability * r`` of the landmark in other patients, ``edge`` and ``crowded`` where they apply, and of a vertebra
    ``level * log(p / (1 - p))``, p being the probability of its level.
    Fitted by ``python -m Training.landmark_atlas`` on patients left out one at a time.
    """

    bias: float = -4.0
    agreement: float = 4.0
    similarity: float = 3.0
    spread: float = -0.8
    departure: float = -0.4
    witnesses: float = 0.3
    beyond: float = -1.0
    reliability: float = 2.0
    edge: float = -1.0
    crowded: float = -1.0
    level: float = 0.5
    matched_above: float = 0.8
    not_found_below: float = 0.25
    level_matched_above: float = 0.95
    level_not_found_below: float = 0.5

    def status(self, name: str, confidence: float) -> str:
        """``matched``, ``uncertain`` or ``not_found``; levels of the spine have cuts of their own, since a spine is
        counted wrongly as a whole."""
        is_level = name.startswith(LEVELS)
        if confidence < (self.level_not_found_below if is_level else self.not_found_below):
            return NOT_FOUND
        return MATCHED if confidence >= (self.level_matched_above if is_level else self.matched_above) else UNCERTAIN

    @staticmethod
    def of(values: Mapping[str, float]) -> Coefficients:
        """Those of an atlas; what it does not name keeps its default, what is not known is no error."""
        known = {part.name for part in fields(Coefficients)}
        return Coefficients(**{name: float(value) for name, value in values.items() if name in known})


@dataclass(frozen=True)
class Witnesses:
    """What is known of one landmark's place.

    :param agreement: share of the exemplars whose choice lies within :data:`AGREE_MM` of the answer.
    :param similarity: mean of their cosines.
    :param spread_mm: mean distance of the choices from the answer.
    :param departure: distance from the expected place in units of its spread; NaN when nothing was expected.
    :param exemplars: how many had this landmark.
    :param beyond_mm: how far outside the scan the place is expected.
    :param reliability: of this landmark in other patients; that of an average one where nobody knows.
    :param at_edge: the answer lies within :data:`EDGE_MM` of the scan's faces, where what is missing collects.
    :param is_crowded: a landmark with better witnesses was found where this one should not be beside it.
    :param level: of a vertebra, the probability that the chain of all levels gives it, 0 when it ends before; NaN of
        what is none.
    :param neighbor: the vertebra that it else might be.
    """

    agreement: float
    similarity: float
    spread_mm: float
    departure: float
    exemplars: int
    beyond_mm: float
    reliability: float = 0.6
    at_edge: bool = False
    is_crowded: bool = False
    level: float = math.nan
    neighbor: str = ""

    def terms(self, c: Coefficients) -> Dict[str, float]:
        """Summands of the confidence, by name."""
        return {
            "bias": c.bias,
            "agreement": c.agreement * self.agreement,
            "similarity": c.similarity * self.similarity,
            "spread": c.spread * math.log1p(self.spread_mm / 4),
            "departure": c.departure * min(self.departure, 5.0) if math.isfinite(self.departure) else 0.0,
            "witnesses": c.witnesses * math.log(max(self.exemplars, 1)),
            "beyond": c.beyond * self.beyond_mm / 10,
            "reliability": c.reliability * self.reliability,
            "edge": c.edge * self.at_edge,
            "crowded": c.crowded * self.is_crowded,
            "level": c.level * _log_odds(self.level) if math.isfinite(self.level) else 0.0,
        }


def _log_odds(probability: float) -> float:
    """Bounded: the chain's probability is that of a model."""
    bounded = min(max(probability, 0.01), 0.99)
    return math.log(bounded / (1 - bounded))


@dataclass(frozen=True, eq=False)
class Landmark:
    """The answer for one name.

    :param name: as in the atlas.
    :param position_lps: (3,) LPS mm, None when it was not found.
    :param confidence: 0..1, estimated probability that the place is within 10 mm of the truth.
    :param status: ``matched``, ``uncertain`` or ``not_found``.
    :param reason: for people, why not more; empty when matched.
    :param candidate_lps: (3,) best place even when not found; for debugging, never a result.
    :param witnesses: what the verdict rests on.
    """

    name: str
    position_lps: Optional[np.ndarray]
    confidence: float
    status: str
    reason: str
    candidate_lps: np.ndarray
    witnesses: Witnesses
