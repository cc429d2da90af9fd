"""All lesions of a baseline in one follow-up: proposals, what they say together, one place and one verdict each.

1. Every lesion is looked for from the baseline, near where the body's landmarks put it
   (:mod:`SAMv2Core.tracking.proposals`), or everywhere when that fails (:mod:`SAMv2Core.tracking.proposals`).
2. The trustworthy ones of all proposals, the body's landmarks and what a person has verified make the study's field
   (:mod:`SAMv2Core.tracking.field`). A lesion found in the study before is looked for from there, too; one that
   the field cannot explain is looked for again close to the place that the field expects.
3. Of a lesion's proposals the one is taken that looks most like it and that the field explains best.
4. Two lesions on one place: the weaker one goes where the field expects it, if it looks like it there; else both stay
   and the finding says so (they may have merged).

Conventions: LPS mm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np

from SAMv2Core.embedding.embedding import Embedding
from SAMv2Core.io.lesion import Lesion
from SAMv2Core.matching.body_map import FLOOR_MM, BodyMap, body_map
from SAMv2Core.matching.confidence import MATCHED, NOT_FOUND, UNCERTAIN
from SAMv2Core.matching.match import why_not_asked
from SAMv2Core.matching.search import search_index
from SAMv2Core.matching.similarity import joint_vectors
from SAMv2Core.progress import Progress, part, silent
from SAMv2Core.tracking.confidence import OUTSIDE, TrackEvidence, TrackUncertainty
from SAMv2Core.tracking.field import CUT_MM, LESION_WEIGHT, VERIFIED_WEIGHT, StudyField, study_field
from SAMv2Core.tracking.proposals import Candidate, propose, propose_nearby

Places = Dict[int, np.ndarray]
Expected = Dict[int, Tuple[np.ndarray, float]]  # place and spread that the rest of the study expects, by lesion

TRUSTED = 0.5
"""Proposals whose template points are less sure than this do not shape the field."""

WEAK = 0.3
"""Less sure ones are looked for in the whole body, in case its landmarks are wrong about this part."""

CHAIN_SPREAD_MM, NEAR_SPREAD_MM = 10.0, 5.0
"""Spreads that the ways through the study before, and close to the field's place, are given at least."""

EXPLAINED_MM, EXPLAINED_SPREADS = 6.0, 3.0
"""The field explains a place within this distance plus so many of its own spreads."""

FIELD_PENALTY = 0.1
"""Similarity that a place at the border of what the field explains gives up; four times as much at twice that."""

SAME_PLACE = 0.4
"""Two lesions whose distance shrinks below this share of what it was in the baseline end on one place."""


@dataclass(frozen=True, eq=False)
class Placed:
    """One lesion in one study.

    :param lps: (3,) best place, whatever the status, or None when there is none at all.
    :param evidence: None when there is none at all.
    """

    lps: Optional[np.ndarray]
    evidence: Optional[TrackEvidence]
    confidence: float
    status: str
    reason: str


@dataclass(frozen=True, eq=False)
class _Choice:
    """A lesion's chosen place with what speaks for it, before the verdict."""

    lps: np.ndarray
    candidate: Candidate
    similarity: float
    score: float
    chain_mm: float = math.nan
    note: str = ""


def place_lesions(
    emb_baseline: Embedding,
    emb_study: Embedding,
    lesions: Sequence[Lesion],
    decided: Dict[int, Optional[np.ndarray]],
    before: Optional[Tuple[Embedding, Places]] = None,
    seed: int = 0,
    progress: Optional[Progress] = None,
) -> List[Optional[Placed]]:
    """Each lesion's place in a study.

    :param decided: numbers of lesions whose place a person has verified (None: absent); they help the others.
    :param before: the study before, and where lesions lie in it (by number); None for the first follow-up.
    :returns: by lesion; None for those decided.
    """
    tell = progress or silent
    open_ones = [n for n in range(len(lesions)) if n not in decided]
    index = search_index(emb_baseline)
    refusals = {n: why_not_asked(emb_baseline, index, lesions[n].center_lps) for n in open_ones}
    asked = [n for n in open_ones if not refusals[n]]
    body = body_map(emb_baseline, emb_study, seed)
    direct = _directly(emb_baseline, emb_study, lesions, asked, body, part(tell, 0.0, 0.6))
    field = _field_of(emb_study, lesions, direct, decided, body)
    expected = {} if field is None else {n: field.predict(lesions[n].center_lps, without=n) for n in asked}
    chained = _chain(emb_study, lesions, direct, expected, before, part(tell, 0.6, 0.95))
    options = {n: [c for c in (direct.get(n), chained.get(n)) if c is not None] for n in asked}
    _look_near(emb_baseline, emb_study, lesions, options, expected)
    tell(0.97, "Comparing")
    chosen = {
        n: replace(_past_the_cut(emb_study, choice, expected.get(n)), chain_mm=_gap_mm(direct.get(n), chained.get(n)))
        for n, choice in _choose(emb_baseline, emb_study, lesions, options, expected).items()
    }
    chosen = _apart(emb_baseline, emb_study, lesions, chosen, decided, expected)
    tell(1.0, "Tracked")
    uncertainty = TrackUncertainty.from_metadata(emb_study.calibration)
    return [
        None if n in decided else _judge(emb_study, chosen.get(n), expected.get(n), refusals[n], uncertainty)
        for n in range(len(lesions))
    ]


def _directly(
    emb_baseline: Embedding,
    emb_study: Embedding,
    lesions: Sequence[Lesion],
    asked: Sequence[int],
    body: Optional[BodyMap],
    tell: Progress,
) -> Dict[int, Candidate]:
    """Proposals from the baseline."""
    centers = np.array([lesions[n].center_lps for n in asked]).reshape(-1, 3)
    found: List[Optional[Candidate]] = [None] * len(asked)
    weak = list(range(len(asked)))
    if body is not None and asked:
        places, spreads = body.predict(centers)
        wanted = [lesions[n] for n in asked]
        found = propose_nearby(emb_baseline, emb_study, centers, wanted, places, spreads, part(tell, 0.0, 0.8))
        inside = emb_study.volume_grid.contains(places)
        weak = [i for i, c in enumerate(found) if inside[i] and (c is None or c.vote_confidence < WEAK)]
    everywhere = propose(
        emb_baseline, emb_study, centers[weak], [lesions[asked[i]] for i in weak], part(tell, 0.8, 1.0)
    )
    for i, candidate in zip(weak, everywhere):
        local = found[i]
        if local is None or (candidate is not None and candidate.vote_confidence > local.vote_confidence):
            found[i] = candidate
    return {n: candidate for n, candidate in zip(asked, found) if candidate is not None}


def _chain(
    emb_study: Embedding,
    lesions: Sequence[Lesion],
    direct: Dict[int, Candidate],
    expected: Expected,
    before: Optional[Tuple[Embedding, Places]],
    tell: Progress,
) -> Dict[int, Candidate]:
    """Proposals from the study before, of the lesions that have a place there."""
    if before is None:
        return {}
    emb_before, places = before
    known = [n for n in places if n in expected or n in direct]
    if not known:
        return {}
    centers = np.array([places[n] for n in known])
    # Without a field the direct way says where to look; agreeing with it then proves less, but looking elsewhere more.
    wanted = [expected[n] if n in expected else (direct[n].lps, FLOOR_MM) for n in known]
    spreads = np.array([max(spread, CHAIN_SPREAD_MM) for _, spread in wanted])
    goals = np.array([place for place, _ in wanted])
    found = propose_nearby(emb_before, emb_study, centers, [lesions[n] for n in known], goals, spreads, tell)
    return {n: candidate for n, candidate in zip(known, found) if candidate is not None}


def _field_of(
    emb_study: Embedding,
    lesions: Sequence[Lesion],
    direct: Dict[int, Candidate],
    decided: Dict[int, Optional[np.ndarray]],
    body: Optional[BodyMap],
) -> Optional[StudyField]:
    pairs = [(n, c.lps, LESION_WEIGHT * c.vote_confidence) for n, c in direct.items() if c.vote_confidence > TRUSTED]
    pairs += [(n, lps, VERIFIED_WEIGHT) for n, lps in decided.items() if lps is not None]
    owners = np.array([n for n, _, _ in pairs], dtype=np.int64)
    sources = np.array([lesions[n].center_lps for n in owners]).reshape(-1, 3)
    targets = np.array([lps for _, lps, _ in pairs]).reshape(-1, 3)
    weights = np.array([weight for _, _, weight in pairs], dtype=np.float64)
    return study_field(emb_study.volume_grid, body, sources, targets, weights, owners)


def _off_mm(place: np.ndarray, expected: Optional[Tuple[np.ndarray, float]]) -> float:
    return math.nan if expected is None else float(np.linalg.norm(place - expected[0]))


def _explained(spread_mm: float) -> float:
    return EXPLAINED_MM + EXPLAINED_SPREADS * spread_mm


def _gap_mm(one: Optional[Candidate], other: Optional[Candidate]) -> float:
    """Distance between the ends of the two ways to a study; NaN when there is only one."""
    return math.nan if one is None or other is None else float(np.linalg.norm(one.lps - other.lps))


def _look_near(
    emb_baseline: Embedding,
    emb_study: Embedding,
    lesions: Sequence[Lesion],
    options: Dict[int, List[Candidate]],
    expected: Expected,
) -> None:
    """Add a proposal near the expected place where none of a lesion's proposals is explained."""
    lost = [
        n
        for n, candidates in options.items()
        if n in expected
        and candidates
        and all(_off_mm(c.lps, expected[n]) > _explained(expected[n][1]) for c in candidates)
    ]
    if lost:
        places = np.array([expected[n][0] for n in lost])
        spreads = np.maximum([expected[n][1] for n in lost], NEAR_SPREAD_MM)
        centers = np.array([lesions[n].center_lps for n in lost])
        near = propose_nearby(emb_baseline, emb_study, centers, [lesions[n] for n in lost], places, spreads)
        for n, candidate in zip(lost, near):
            options[n] += [candidate] if candidate is not None else []


def _choose(
    emb_baseline: Embedding,
    emb_study: Embedding,
    lesions: Sequence[Lesion],
    options: Dict[int, List[Candidate]],
    expected: Expected,
) -> Dict[int, _Choice]:
    """The best proposal of each lesion; agreeing ones are averaged."""
    flat = [(n, candidate) for n, candidates in options.items() for candidate in candidates]
    similarity = similarities(emb_baseline, emb_study, [(lesions[n], c.lps) for n, c in flat])
    rated: Dict[int, List[_Choice]] = {}
    for (n, candidate), value in zip(flat, similarity):
        score = value - _penalty(candidate.lps, expected.get(n))
        rated.setdefault(n, []).append(_Choice(candidate.lps, candidate, float(value), score))
    return {n: _averaged(sorted(choices, key=lambda c: -c.score)) for n, choices in rated.items()}


def _penalty(place: np.ndarray, expected: Optional[Tuple[np.ndarray, float]]) -> float:
    if expected is None:
        return 0.0
    return FIELD_PENALTY * min((_off_mm(place, expected) / _explained(expected[1])) ** 2, 4.0)


def _averaged(choices: Sequence[_Choice]) -> _Choice:
    """The first choice, moved to the mean of those that agree with it, the tighter votes counting more."""
    best = choices[0]
    near = [c for c in choices if np.linalg.norm(c.lps - best.lps) <= EXPLAINED_MM]
    weights = np.array([1 / (1 + c.candidate.scatter_mm) ** 2 for c in near])
    return replace(best, lps=weights @ np.array([c.lps for c in near]) / weights.sum())


def _past_the_cut(emb_study: Embedding, choice: _Choice, expected: Optional[Tuple[np.ndarray, float]]) -> _Choice:
    """At the end of the scan, where what lies beyond is matched to the last slices, the field knows better."""
    depth = float(emb_study.volume_grid.depth_mm(choice.lps))
    if expected is None or depth > CUT_MM or expected[1] > CUT_MM:
        return choice
    # Halfway the two are worth the same; from the face on, the field alone counts.
    share = float(np.clip(depth / CUT_MM, 0, 1))
    return replace(choice, lps=share * choice.lps + (1 - share) * expected[0])


def similarities(
    emb_baseline: Embedding, emb_study: Embedding, asked: Sequence[Tuple[Lesion, np.ndarray]]
) -> np.ndarray:
    """(n,) weighted mean cosine of lesions' template points to those around places in the study."""
    if not asked:
        return np.zeros(0)
    sources = np.concatenate([lesion.points_lps for lesion, _ in asked])
    targets = np.concatenate([place + lesion.points_lps - lesion.center_lps for lesion, place in asked])
    cosine = (joint_vectors(emb_baseline, sources) * joint_vectors(emb_study, targets)).sum(1).cpu().numpy()
    ends = np.cumsum([len(lesion.points_lps) for lesion, _ in asked])[:-1]
    return np.array([lesion.weights @ part for (lesion, _), part in zip(asked, np.split(cosine, ends))])


def _apart(
    emb_baseline: Embedding,
    emb_study: Embedding,
    lesions: Sequence[Lesion],
    chosen: Dict[int, _Choice],
    decided: Dict[int, Optional[np.ndarray]],
    expected: Expected,
) -> Dict[int, _Choice]:
    """Move the weaker of two lesions on one place to where the field expects it, or note that they coincide."""
    chosen = dict(chosen)
    for n in sorted(chosen, key=lambda n: chosen[n].score):
        rival = _rival(n, lesions, chosen, decided)
        if rival is None:
            continue
        note = f"it ends on the place of {lesions[rival].label!r}; they may have merged"
        if n in expected:
            similarity = float(similarities(emb_baseline, emb_study, [(lesions[n], expected[n][0])])[0])
            moved = replace(chosen[n], lps=expected[n][0], similarity=similarity, score=similarity)
            if similarity >= chosen[n].similarity - FIELD_PENALTY:
                others = {**chosen, n: moved}
                if _rival(n, lesions, others, decided) is None:
                    chosen[n] = moved
                    continue
        chosen[n] = replace(chosen[n], note=note)
    return chosen


def _rival(
    n: int, lesions: Sequence[Lesion], chosen: Dict[int, _Choice], decided: Dict[int, Optional[np.ndarray]]
) -> Optional[int]:
    """A better placed lesion on the same place, or None."""
    places = {m: choice.lps for m, choice in chosen.items() if m != n and choice.score >= chosen[n].score}
    places.update({m: lps for m, lps in decided.items() if lps is not None})
    for m, place in places.items():
        was = float(np.linalg.norm(lesions[m].center_lps - lesions[n].center_lps))
        near = SAME_PLACE * min(was, lesions[m].radius_mm + lesions[n].radius_mm)
        if np.linalg.norm(place - chosen[n].lps) < near:
            return m
    return None


def _judge(
    emb_study: Embedding,
    choice: Optional[_Choice],
    expected: Optional[Tuple[np.ndarray, float]],
    refusal: str,
    uncertainty: TrackUncertainty,
) -> Placed:
    """Evidence and verdict of a chosen place."""
    if choice is None:
        place = None if expected is None else expected[0]
        beyond = 0.0 if place is None else emb_study.volume_grid.beyond_mm(place)
        outside = OUTSIDE.format(math.ceil(beyond)) if beyond else "Nothing in this scan is like it."
        return Placed(place, None, 0.0, NOT_FOUND, refusal or outside)
    evidence = TrackEvidence(
        similarity=choice.similarity,
        scatter_mm=choice.candidate.scatter_mm,
        cycle_error_mm=choice.candidate.cycle_error_mm,
        fixed_points=choice.candidate.fixed_points,
        margin=choice.candidate.margin,
        field_mm=_off_mm(choice.lps, expected),
        field_spread_mm=math.nan if expected is None else expected[1],
        chain_mm=choice.chain_mm,
        depth_mm=float(emb_study.volume_grid.depth_mm(choice.lps)),
    )
    confidence, status, reason = uncertainty.verdict(evidence, emb_study.volume_grid.beyond_mm(choice.lps))
    if choice.note and status != NOT_FOUND:
        lead = "Needs a look: " if status == MATCHED else reason.rstrip(".") + "; "
        status, reason = UNCERTAIN, f"{lead}{choice.note}."
    return Placed(choice.lps, evidence, confidence, status, reason)
