"""How far to trust a match: every threshold of matching, in one place.

A nearest neighbor always exists, also of anatomy that the query does not show, so a match needs evidence:

* *similarity* at the result;
* *cycle error*: the result, matched back, should end at the template point (mm);
* *margin*: how much better the result is than the best place more than 20 mm away;
* *fixed points* that voted, their *residual* about the map fitted to them (mm), and *agreement*: the distance
  between their result and the nearest neighbor's (mm);
* *departure*: how far the result lies from where the whole body's matches expect it, in units of their spread
  (:mod:`SAMv2Core.matching.body_map`);
* *likeness* of the two bodies by the whole body's matches (:attr:`SAMv2Core.matching.body_map.BodyMap.likeness`): 0.89
  and more between two scans of one patient, 0.88 and less between two patients, where the same similarity, cycle and
  votes are worth less. Bodies of which too few matches agree for a map are the worst there is, and nothing between them
  is called matched;
* *edge*: whether the result lies at the end of the query's field of view, where missing anatomy collects.

A logistic function turns them into a confidence in [0, 1], the estimated probability that the match is within
10 mm of the truth; two cuts turn the confidence into a status, and hard limits overrule it. The coefficients
belong to a model and can be stored with it (:meth:`UncertaintyModel.from_metadata`).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Dict, Iterable, List, Mapping, Sequence, Tuple

from SAMv2Core.errors import ModelError

MATCHED, UNCERTAIN, NOT_FOUND = "matched", "uncertain", "not_found"

SKIN_TOLERANCE_MM = 6.0
"""How far a template point may lie from a body voxel's center: the mask is 4 mm coarse, and skin is body."""

RIVAL_RADIUS_MM = 20.0
"""Places within this radius of a result are the same anatomy; the best one outside is its rival."""

EDGE_MM = 6.0
"""A result this close to the outer faces of the query's volume is at its edge."""

USUAL_LIKENESS = 0.88
"""Between that of two scans of one patient and that of two patients; in the confidence it counts from here."""

NO_MAP, LEAST_ALIKE = -1.0, 0.6
"""Likeness of bodies without a map; less alike than the second is no worse."""

MAX_MARGIN = 0.3
"""More lead over the rival than this is no further evidence."""

GOOD_SIMILARITY, SMALL_MARGIN, FEW_FIXED_POINTS = 0.8, 0.05, 10
"""Beyond these, similarity, margin and fixed points are no doubt worth a word."""


_EARLIER = ("other_patient", "map_cosine", "roughness")  # in records and embeddings of earlier versions


@dataclass(frozen=True)
class Evidence:
    """What is known of one match.

    :param similarity: weighted mean cosine at the result, -1..1.
    :param cycle_error_mm: distance between the template point and the match of the match.
    :param margin: similarity minus that of the best place outside ``RIVAL_RADIUS_MM``.
    :param fixed_points: pairs that voted; 0 with the nearest method.
    :param residual_mm: median distance of the voting pairs from their map; NaN when none was fitted.
    :param agreement_mm: distance between both methods' results; NaN when only one was run.
    :param at_edge: the result is in the outermost layer of the query's field of view.
    :param fell_back: fixed points were wanted, but too few survived or they contradicted each other.
    :param departure: distance from the expected place over its spread; NaN when nothing was expected.
    :param likeness: of the two bodies, the same for all points of two scans; :data:`NO_MAP` when too few matches agree
        for a map, NaN when none was asked for.
    """

    similarity: float
    cycle_error_mm: float
    margin: float
    fixed_points: int = 0
    residual_mm: float = math.nan
    agreement_mm: float = math.nan
    at_edge: bool = False
    fell_back: bool = False
    departure: float = math.nan
    likeness: float = math.nan


@dataclass(frozen=True)
class Verdict:
    """Confidence 0..1, status ``matched|uncertain|not_found``, and for people why not more."""

    confidence: float
    status: str
    reason: str


@dataclass(frozen=True)
class Coefficients:
    """What each piece of evidence adds to the argument of the logistic function.

    ``bias``, ``similarity * s``, ``margin * min(m, MAX_MARGIN)``, ``cycle * L(cycle_error_mm)``, ``fixed_points *
    log(1 + n / 5)``, ``residual * L(residual_mm)``, ``agreement * L(agreement_mm)``, ``departure * min(d, 5)``,
    ``likeness * (max(l, LEAST_ALIKE) - USUAL_LIKENESS)``, and ``edge`` and ``fell_back`` where they apply. L is
    :func:`length`.
    """

    bias: float
    similarity: float
    margin: float
    cycle: float
    fixed_points: float = 0.0
    residual: float = 0.0
    agreement: float = 0.0
    edge: float = 0.0
    fell_back: float = 0.0
    departure: float = 0.0
    likeness: float = 0.0

    def terms(self, evidence: Evidence) -> Dict[str, float]:
        """The summands, by name."""
        e = evidence
        return {
            "bias": self.bias,
            "similarity": self.similarity * e.similarity,
            "margin": self.margin * min(e.margin, MAX_MARGIN),
            "cycle": self.cycle * length(e.cycle_error_mm),
            "fixed_points": self.fixed_points * math.log1p(e.fixed_points / 5),
            "residual": self.residual * length(e.residual_mm),
            "agreement": self.agreement * length(e.agreement_mm),
            "edge": self.edge * e.at_edge,
            "fell_back": self.fell_back * e.fell_back,
            "departure": self.departure * min(e.departure, 5.0) if math.isfinite(e.departure) else 0.0,
            "likeness": self.likeness * (max(e.likeness, LEAST_ALIKE) - USUAL_LIKENESS)
            if e.likeness == e.likeness
            else 0.0,
        }


@dataclass(frozen=True)
class Several:
    """What the agreement of several exemplars (:class:`SAMv2Core.matching.exemplars.Agreement`) adds, and its cuts.

    The defaults are those of ``lite-ct`` on torsos and necks, each patient's judged without that patient.
    """

    bias: float = 0.24
    support: float = 2.0
    spread: float = -1.34
    matched_above: float = 0.85
    not_found_below: float = 0.15

    def confidence(self, terms: Mapping[str, float]) -> float:
        """Estimated probability that the agreed place is right, 0..1."""
        return logistic(getattr(self, name) * value for name, value in terms.items())


@dataclass(frozen=True)
class UncertaintyModel:
    """Coefficients for results of nearest neighbors and of fixed points, and the cuts.

    They need sets of their own: the cycle says most about a nearest neighbor, but is itself a pair of single
    neighbors, while the number of fixed points says most about what they found. A fixed-point match that fell back is
    judged as a nearest neighbor. ``Testing/benchmarks/calibration.py`` fits the numbers.

    ``map_likeness``: a map of two bodies less alike than this (:attr:`SAMv2Core.matching.body_map.BodyMap.likeness`) is
    one of bodies that share no part, and is not used.

    ``same_patient``: bodies less alike than this are those of two patients, and what a single exemplar of another
    patient says is never more than uncertain: no cut of the confidence makes 90 % of such matches right (torsos and
    necks), the agreement of several exemplars does (:class:`Several`).
    """

    nearest: Coefficients = Coefficients(bias=-6.1, similarity=9.2, margin=8.2, cycle=-2.0, edge=-0.5, fell_back=-1.3)
    fixed_point: Coefficients = Coefficients(
        bias=-4.1, similarity=4.4, margin=0.5, cycle=-0.35, fixed_points=1.1, residual=-0.7, agreement=-0.25, edge=-0.2
    )
    several: Several = Several()
    matched_above: float = 0.7
    not_found_below: float = 0.2
    min_similarity: float = 0.2
    max_cycle_error_nearest_mm: float = 40.0
    map_likeness: float = -1.0
    same_patient: float = -1.0

    @staticmethod
    def from_metadata(values: Mapping[str, Any]) -> UncertaintyModel:
        """Coefficients stored with a model, as ``dataclasses.asdict`` gives them; what is not named keeps its default.

        ``track`` belongs to :mod:`SAMv2Core.tracking.confidence`; names of earlier versions are passed over.

        :raises ModelError: unknown names or values that are no finite numbers.
        """
        default = UncertaintyModel()
        values = {name: value for name, value in values.items() if name not in ("track", *_EARLIER)}
        try:
            parts = {
                name: replace(getattr(default, name), **{k: v for k, v in given.items() if k not in _EARLIER})
                if isinstance(given, Mapping)
                else given
                for name, given in values.items()
            }
            model = replace(default, **parts)
            sets = (model.nearest, model.fixed_point, model.several)
            numbers = [value for coefficients in sets for value in asdict(coefficients).values()]
        except (TypeError, AttributeError):
            raise nonsense() from None
        numbers += [v for v in vars(model).values() if not isinstance(v, (Coefficients, Several))]
        if not all(isinstance(n, (int, float)) and math.isfinite(n) for n in numbers):
            raise nonsense()
        return model

    def coefficients(self, evidence: Evidence) -> Coefficients:
        """The set that fits a result: of the fixed points when they gave it."""
        return self.nearest if evidence.fixed_points == 0 or evidence.fell_back else self.fixed_point

    def confidence(self, evidence: Evidence) -> float:
        """Estimated probability that the match is right, 0..1."""
        return logistic(self.coefficients(evidence).terms(evidence).values())

    def is_beyond_limits(self, evidence: Evidence) -> bool:
        """Whether a match is wrong whatever the rest of the evidence says."""
        is_lost = evidence.cycle_error_mm > self.max_cycle_error_nearest_mm
        by_neighbor = self.coefficients(evidence) is self.nearest
        return evidence.similarity < self.min_similarity or (is_lost and by_neighbor)


def nonsense() -> ModelError:
    """The error for coefficients that are none."""
    return ModelError("The model's uncertainty coefficients make no sense.", "Import the model again.")


def logistic(summands: Iterable[float]) -> float:
    """The probability that summands of evidence make together, 0..1."""
    return 1 / (1 + math.exp(-max(min(sum(summands), 50.0), -50.0)))


def length(mm: float) -> float:
    """A length as evidence: one voxel counts, the difference of 50 and 60 mm does not; 0 where it does not exist."""
    return math.log1p(mm / 4) if math.isfinite(mm) else 0.0


def reason_of(lead: str, doubts: Sequence[Tuple[float, str]], worth: float) -> str:
    """A sentence for people: the lead and the two doubts that weigh most, of those that weigh more than ``worth``.

    :param doubts: (weight, part of a sentence); NaN weighs nothing.
    """
    # Chosen before they are sorted: a NaN is never larger, and among others it would leave any order.
    said = [text for _, text in sorted((doubt for doubt in doubts if doubt[0] > worth), reverse=True)]
    return f"{lead}: {'; '.join(said[:2])}." if said else f"{lead}."


def judge(evidence: Evidence, model: UncertaintyModel = UncertaintyModel()) -> Verdict:
    """Confidence and status of a match, and in words what speaks against it."""
    confidence = model.confidence(evidence)
    if model.is_beyond_limits(evidence):
        confidence = min(confidence, model.not_found_below / 2)
    if evidence.likeness < model.same_patient or evidence.likeness == NO_MAP:
        confidence = min(confidence, 0.99 * model.matched_above)
    if confidence < model.not_found_below:
        status = NOT_FOUND
    elif confidence < model.matched_above:
        status = UNCERTAIN
    else:
        return Verdict(confidence, MATCHED, "")
    lead = "No reliable match; the region may be outside the other scan" if status == NOT_FOUND else "Needs a look"
    return Verdict(confidence, status, reason_of(lead, _doubts(evidence, model), worth=0.0))


def _doubts(evidence: Evidence, model: UncertaintyModel) -> List[Tuple[float, str]]:
    """What speaks against a match, as parts of a sentence with their weights."""
    e, terms = evidence, model.coefficients(evidence).terms(evidence)
    weak = model.coefficients(evidence).similarity * (GOOD_SIMILARITY - e.similarity)
    few = FEW_FIXED_POINTS - e.fixed_points if 0 < e.fixed_points and not e.fell_back else 0
    found: List[Tuple[float, str]] = [
        (
            -terms["cycle"] if e.cycle_error_mm > 6 else 0.0,
            f"matched back, it ends {e.cycle_error_mm:.0f} mm from the point",
        ),
        (weak, f"similarity is only {e.similarity:.2f}"),
        (10 * (SMALL_MARGIN - e.margin), "another place looks as similar"),
        (-terms["edge"], "the result lies at the edge of the scan"),
        (-terms["fell_back"], "the surrounding places do not agree"),
        (-terms["departure"] if e.departure > 1.5 else 0.0, "the rest of the body points elsewhere"),
        _doubt_of_bodies(e.likeness, model.same_patient),
        (0.3 * few, f"only {e.fixed_points} of the surrounding places agree"),
    ]
    if e.agreement_mm > 6:
        text = f"the surroundings point {e.agreement_mm:.0f} mm away from the best single match"
        found.append((-2 * terms["agreement"], text))
    return found


def _doubt_of_bodies(likeness: float, same_patient: float) -> Tuple[float, str]:
    if likeness == NO_MAP:
        return 2.0, "too little of the two bodies agrees"
    return 0.4 if likeness < same_patient else 0.0, "the bodies differ as those of two patients do"
