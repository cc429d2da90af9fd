"""Where a lesion may lie in another study: proposals, before any is believed.

A lesion is looked for by all its template points at once: its center by the fixed points around it
(arXiv 2311.15111, sec. 3.2), every point by its own nearest neighbor. Each point that is found and finds its way
back votes for the lesion's center; the votes and the fixed points' answer give the place, their scatter is the first
thing to know about its reliability.

:func:`propose_nearby` does the same in a ball around where the body expects the lesion: within one patient the body's
landmarks say to a few centimeters where it should be. Comparing with the places around there is what makes 50 lesions
in several follow-ups a matter of seconds, and it keeps wrong ends of the body out; all searches of one lesion are
products of two small matrices. Where the ball holds nothing, the lesion's place is not in the scan. :func:`propose`
looks in the whole body, where nothing is expected, or what was found there does not convince.

Conventions: LPS mm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, List, Optional, Sequence

import numpy as np
import torch

from SAMv2Core.embedding.embedding import Embedding
from SAMv2Core.io.lesion import Lesion
from SAMv2Core.matching.confidence import RIVAL_RADIUS_MM
from SAMv2Core.matching.fixed_point import Balls, FixedPointOptions, vote_of_pairs
from SAMv2Core.matching.match import Match, match
from SAMv2Core.matching.search import Expectation, Places, search_index
from SAMv2Core.matching.similarity import joint_vectors
from SAMv2Core.matching.subvoxel import refine
from SAMv2Core.progress import Progress, part, silent

STARTS = FixedPointOptions(step_mm=4.0)
"""27 starts next to one another: the other template points stand in for the farther ones."""

FIXED_POINT_WEIGHT = 1.5
"""What the fixed points' answer counts beside all votes together, when every one of them is good."""

CYCLE_SCALE_MM = 8.0
"""A vote whose way back ends this far away counts 0.6 of one that returns."""

VOTE_SCALE_MM = 5.0
"""Votes farther than this from their common center count less (Huber)."""

FARTHEST_MM = 60.0
"""Votes farther away than this are simply wrong; how far does not matter."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One proposal.

    :param lps: (3,) LPS mm, the place proposed; it may lie outside the study's volume.
    :param scatter_mm: weighted mean distance of the template points' votes from it.
    :param cycle_error_mm: weighted mean over the template points: how far from each the way back ends.
    :param fixed_points: pairs that voted around the center.
    :param margin: similarity minus that of the best place elsewhere.
    :param vote_confidence: mean confidence of the template points' own matches, 0..1.
    """

    lps: np.ndarray
    scatter_mm: float
    cycle_error_mm: float
    fixed_points: int
    margin: float
    vote_confidence: float


def propose(
    emb_from: Embedding,
    emb_to: Embedding,
    centers_lps: np.ndarray,
    lesions: Sequence[Lesion],
    progress: Optional[Progress] = None,
) -> List[Optional[Candidate]]:
    """A candidate in ``emb_to`` for each lesion that lies at ``centers_lps`` in ``emb_from``.

    :param centers_lps: (n, 3) LPS mm, where the lesions lie in the study to look from.
    :param lesions: for the places around the centers, moved along with them.
    :returns: one per lesion; None for one that cannot be looked for (in the air, outside the scan).
    """
    if not len(lesions):
        return []
    tell = progress or silent
    offsets = [lesion.points_lps - lesion.center_lps for lesion in lesions]
    points: Any = np.concatenate([center + around for center, around in zip(centers_lps, offsets)])
    centers: Any = centers_lps
    # The body's expectation is weighed here too: alone, one of seven points in a repetitive place goes astray.
    single = match(emb_from, emb_to, points, "nearest", part(tell, 0.0, 0.4), expect=True)
    fixed = match(emb_from, emb_to, centers, "fixed-point", part(tell, 0.4, 1.0))
    found, first = [], 0
    for lesion, around, center_match in zip(lesions, offsets, fixed):
        own = single[first : first + len(around)]
        first += len(around)
        found.append(_combine(lesion, around, own, center_match))
    return found


def _combine(lesion: Lesion, offsets: np.ndarray, own: Sequence[Match], center: Match) -> Optional[Candidate]:
    """One proposal from the votes of the template points and from the fixed points around the center."""
    asked = [n for n, single in enumerate(own) if single.candidate_lps is not None]
    if not asked:
        return None
    evidence = center.evidence or own[asked[0]].evidence
    voted = center.evidence is not None and center.fixed_points > 0 and not center.evidence.fell_back
    return candidate_of(
        votes=np.array([own[n].candidate_lps - offsets[n] for n in asked]),
        weights=lesion.weights[asked] / lesion.weights[asked].sum(),
        cycle_mm=np.array([own[n].cycle_error_mm for n in asked]),
        sure=np.array([own[n].confidence for n in asked]),
        anchor=center.candidate_lps if voted else None,
        fixed_points=center.fixed_points if voted else 0,
        margin=0.0 if evidence is None else evidence.margin,
    )


def trust_of(cycle_mm: np.ndarray) -> np.ndarray:
    """(n,) what votes count whose ways back end so far away, 0..1."""
    return np.exp(-0.5 * (np.minimum(cycle_mm, FARTHEST_MM) / CYCLE_SCALE_MM) ** 2)


def candidate_of(
    votes: np.ndarray,
    weights: np.ndarray,
    cycle_mm: np.ndarray,
    sure: np.ndarray,
    anchor: Optional[np.ndarray],
    fixed_points: int,
    margin: float,
) -> Candidate:
    """The proposal that the template points' votes make together.

    :param votes: (n, 3) LPS mm, where each point puts the center, with ``weights`` (n,) that sum to 1.
    :param cycle_mm: (n,) how far from each point its way back ends.
    :param sure: (n,) confidence of each vote, 0..1.
    :param anchor: (3,) the fixed points' answer, None without one.
    """
    place = common_place(votes, weights * trust_of(cycle_mm), anchor)
    apart = np.minimum(np.linalg.norm(votes - place, axis=1), FARTHEST_MM)
    return Candidate(
        lps=place,
        scatter_mm=float(weights @ apart),
        cycle_error_mm=float(weights @ np.minimum(cycle_mm, FARTHEST_MM)),
        fixed_points=fixed_points,
        margin=margin,
        vote_confidence=float(weights @ sure),
    )


def common_place(votes: np.ndarray, trust: np.ndarray, anchor: Optional[np.ndarray]) -> np.ndarray:
    """(3,) robust mean of the votes (n, 3) and of the fixed points' answer, where there is one."""
    points, weights = votes, trust + 1e-6
    if anchor is not None:
        points = np.concatenate([votes, anchor[None]])
        weights = np.append(weights, FIXED_POINT_WEIGHT)
        place = anchor
    else:
        near = np.linalg.norm(votes[:, None] - votes[None], axis=2) <= 2 * VOTE_SCALE_MM
        place = votes[np.argmax(near @ weights)]
    for _ in range(10):
        distance = np.linalg.norm(points - place, axis=1)
        # Beyond three scales a vote is no vote: wrong ones come in clusters, and Huber alone lets them pull.
        huber = np.minimum(1.0, VOTE_SCALE_MM / np.maximum(distance, 1e-9)) * (distance <= 3 * VOTE_SCALE_MM)
        total = weights * huber
        if total.sum() <= 0:
            break
        moved = total @ points / total.sum()
        if np.linalg.norm(moved - place) < 0.01:
            break
        place = moved
    return place


BALL_MM = 50.0
"""Radius of the ball searched, twice what the body's landmarks are usually off between patients."""

PENALTY_PER_SPREAD = 0.02
"""Similarity given up at one spread from the expected place, four times as much at two; as in ``body_map``."""

SMALLEST_BALL = 30  # voxels; fewer are a sliver at the scan's end, where everything is the best match


def propose_nearby(
    emb_from: Embedding,
    emb_to: Embedding,
    centers_lps: np.ndarray,
    lesions: Sequence[Lesion],
    expected_lps: np.ndarray,
    spread_mm: np.ndarray,
    progress: Optional[Progress] = None,
) -> List[Optional[Candidate]]:
    """A candidate near each expected place; None where the scan holds nothing there.

    :param centers_lps: (n, 3) LPS mm, where the lesions lie in ``emb_from``.
    :param expected_lps: (n, 3) LPS mm in ``emb_to``, with ``spread_mm`` (n,), one standard deviation.
    :param progress: told before every lesion; may raise ``Cancelled``.
    """
    tell = progress or silent
    source, target = search_index(emb_from), search_index(emb_to)
    found: List[Optional[Candidate]] = []
    for n, (lesion, center, place, spread) in enumerate(zip(lesions, centers_lps, expected_lps, spread_mm)):
        tell(n / len(lesions), f"looking for {lesion.label}")
        here, there = source.ball(center, BALL_MM), target.ball(place, BALL_MM)
        if min(len(here.rows), len(there.rows)) < SMALLEST_BALL:
            found.append(None)
            continue
        points = center + lesion.points_lps - lesion.center_lps
        near = partial(_at, place, PENALTY_PER_SPREAD / float(spread) ** 2)
        balls = Balls(source, target, here, there, near, lambda _: None)
        found.append(_propose_one(balls, lesion, center, points, joint_vectors(emb_from, points)))
    return found


def _at(place: np.ndarray, stiffness: float, points_lps: np.ndarray) -> Expectation:
    """The same expectation for all points of a lesion."""
    return Expectation(np.tile(place, (len(points_lps), 1)), np.full(len(points_lps), stiffness))


def _propose_one(
    balls: Balls, lesion: Lesion, center: np.ndarray, points: np.ndarray, vectors: torch.Tensor
) -> Candidate:
    """The votes of the template points and of the fixed points around the center."""
    rows = balls.forth(vectors, points)
    ends = refine(balls.query, vectors, rows)
    at_ends = balls.query.vectors(rows)
    similarity = (vectors * at_ends).sum(1).cpu().numpy()
    back = refine(balls.template, at_ends, balls.back(at_ends, ends))
    cycle = np.linalg.norm(back - points, axis=1)
    voted = vote_of_pairs(center, *balls.pairs(center, STARTS), STARTS)
    votes = ends - (points - center)
    sure = trust_of(cycle) * np.clip((similarity - 0.3) / 0.5, 0, 1)
    found = candidate_of(votes, lesion.weights, cycle, sure, voted.query_lps, voted.fixed_points, margin=0.0)
    return replace(found, margin=_margin(balls.there, vectors[:1], found.lps))


def _margin(there: Places, vector: torch.Tensor, place: np.ndarray) -> float:
    """Lead of the center's similarity near the place over the best one elsewhere in the ball."""
    values = (vector @ there.vectors.T)[0].cpu().numpy()
    near = np.linalg.norm(there.points_lps - place, axis=1) <= RIVAL_RADIUS_MM
    if not near.any() or near.all():
        return 0.0
    return float(values[near].max() - values[~near].max())
