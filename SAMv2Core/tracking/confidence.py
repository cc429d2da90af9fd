"""How far to trust a tracked lesion: every threshold of tracking, in one place.

A logistic function turns what is known of a finding into the estimated probability that it lies within 10 mm of the
truth; two cuts turn that into a status. What is known: the similarity of the lesion's template points at the place,
their scatter and the error of their ways back, the fixed points, the lead over the best place elsewhere, how far the
place lies from what the rest of the study says (the field), whether the way through the study before ends there, too,
and whether the scan ends there. The coefficients are fitted by ``Testing/benchmarks/calibration.py`` and stored with a
model (:meth:`TrackUncertainty.from_metadata`); the numbers here serve models without.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Dict, List, Mapping, Tuple

from SAMv2Core.matching.confidence import (
    MATCHED,
    MAX_MARGIN,
    NOT_FOUND,
    UNCERTAIN,
    length,
    logistic,
    nonsense,
    reason_of,
)

MATCHED_ABOVE, NOT_FOUND_BELOW = 0.8, 0.6
"""Chosen so that nine of ten places outside a follow-up are reported so, at fewer than one false alarm in twenty."""

BEYOND = 0.1
"""Confidence of a place outside the scan at most: such a finding is never right."""

OUTSIDE = "The lesion's place lies {} mm outside this scan."

EDGE_MM = 10.0
"""Closer to the end of the scan a place is in doubt: what lies beyond is matched to the last slices, too."""

DISAGREE_MM = 10.0
"""Both ways to a study end farther apart than this: a person must look."""


@dataclass(frozen=True)
class TrackEvidence:
    """What is known of one finding; NaN where a thing does not exist.

    :param similarity: weighted mean cosine of the template points at the place, -1..1.
    :param scatter_mm: how far apart the template points' votes lie.
    :param cycle_error_mm: how far from each template point its way back ends.
    :param fixed_points: pairs that voted around the center.
    :param margin: lead over the best place elsewhere.
    :param field_mm: distance from the place that the rest of the study expects.
    :param field_spread_mm: how far off that expectation may be.
    :param chain_mm: distance from the place that the way through the study before leads to.
    :param depth_mm: how deep inside the study's volume the place lies; negative outside.
    """

    similarity: float
    scatter_mm: float
    cycle_error_mm: float
    fixed_points: int
    margin: float
    field_mm: float = math.nan
    field_spread_mm: float = math.nan
    chain_mm: float = math.nan
    depth_mm: float = math.inf


COEFFICIENTS: Dict[str, float] = {
    "bias": 1.71,
    "similarity": 1.82,
    "scatter": -2.62,
    "cycle": 0.0,
    "fixed_points": 1.41,
    "margin": 1.73,
    "field": -2.01,
    "no_field": -1.0,  # by judgment: the scans that the others were fitted on all have a field
    "chain": -1.56,
    "edge": -4.2,
}


def terms(evidence: TrackEvidence) -> Dict[str, float]:
    """The evidence as the logistic function takes it, by the names of :data:`COEFFICIENTS`.

    The distance from the field counts beyond what the field itself may be off.
    """
    e = evidence
    has_field = math.isfinite(e.field_mm)
    excess = max(e.field_mm - e.field_spread_mm, 0.0) if has_field else 0.0
    return {
        "bias": 1.0,
        "similarity": e.similarity,
        "scatter": length(e.scatter_mm),
        "cycle": length(e.cycle_error_mm),
        "fixed_points": math.log1p(e.fixed_points / 5),
        "margin": min(e.margin, MAX_MARGIN),
        "field": length(excess),
        "no_field": 0.0 if has_field else 1.0,
        "chain": length(e.chain_mm),
        "edge": float(min(max(1 - e.depth_mm / EDGE_MM, 0.0), 1.0)),
    }


@dataclass(frozen=True)
class TrackUncertainty:
    """Coefficients of the confidence, by the names of :func:`terms`, and the cuts that make a status of it."""

    coefficients: Mapping[str, float] = field(default_factory=lambda: dict(COEFFICIENTS))
    matched_above: float = MATCHED_ABOVE
    not_found_below: float = NOT_FOUND_BELOW

    @staticmethod
    def from_metadata(calibration: Mapping[str, Any]) -> TrackUncertainty:
        """What a model's calibration holds under ``track``; what is not named keeps its default.

        :raises ModelError: unknown names or values that are no finite numbers.
        """
        default = TrackUncertainty()
        try:
            values = dict(calibration.get("track") or {})
            coefficients = {**default.coefficients, **values.pop("coefficients", {})}
            model = replace(default, coefficients=coefficients, **values)
        except (TypeError, ValueError):
            raise nonsense() from None
        numbers = [*coefficients.values(), model.matched_above, model.not_found_below]
        if set(coefficients) != set(COEFFICIENTS) or not all(
            isinstance(n, (int, float)) and math.isfinite(n) for n in numbers
        ):
            raise nonsense()
        return model

    def confidence(self, evidence: TrackEvidence) -> float:
        """Estimated probability that the place is within 10 mm of the truth, 0..1."""
        return logistic(self.coefficients[name] * value for name, value in terms(evidence).items())

    def verdict(self, evidence: TrackEvidence, beyond_mm: float) -> Tuple[float, str, str]:
        """(confidence, status, reason) of a finding.

        :param beyond_mm: how far outside the study's volume the place lies, 0 inside.
        """
        sure = self.confidence(evidence)
        if beyond_mm > 0:
            return min(sure, BEYOND), NOT_FOUND, OUTSIDE.format(math.ceil(beyond_mm))
        if sure < self.not_found_below:
            lead = "No reliable place; the region may be outside this scan"
            return sure, NOT_FOUND, reason_of(lead, _doubts(evidence), worth=1.0)
        if math.isfinite(evidence.chain_mm) and evidence.chain_mm > DISAGREE_MM:
            sure = min(sure, self.matched_above - 0.01)
        if sure < self.matched_above:
            return sure, UNCERTAIN, reason_of("Needs a look", _doubts(evidence), worth=1.0)
        return sure, MATCHED, ""


def _doubts(evidence: TrackEvidence) -> List[Tuple[float, str]]:
    """What speaks against a finding, as parts of a sentence with their weights."""
    e = evidence
    return [
        (e.chain_mm / DISAGREE_MM, f"the way through the study before ends {e.chain_mm:.0f} mm away"),
        (e.field_mm / 15.0, f"the surroundings moved to a place {e.field_mm:.0f} mm away"),
        (e.scatter_mm / 10.0, f"its parts are found {e.scatter_mm:.0f} mm apart"),
        (e.cycle_error_mm / 15.0, f"matched back, it ends {e.cycle_error_mm:.0f} mm from where it was"),
        (4 * (0.85 - e.similarity), f"similarity is only {e.similarity:.2f}"),
        (1.5 if e.fixed_points == 0 else 0.0, "the surrounding places do not agree"),
        (1.2 if e.depth_mm < EDGE_MM else 0.0, "it lies at the end of the scan"),
    ]
