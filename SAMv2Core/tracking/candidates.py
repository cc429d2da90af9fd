"""Where a lesion may lie in another study, looked for in the whole body: proposals, before any is believed.

A lesion is looked for by all its template points at once: its center by the fixed points around it
(arXiv 2311.15111, sec. 3.2), every point by its own nearest neighbor. Each point that is found and finds its way
back votes for the lesion's center; the votes and the fixed points' answer give the place, their scatter is the first
thing to know about its reliability. :mod:`SAMv2Core.tracking.local` does the same near an expected place, which is
quicker; this way serves where nothing is expected, or what was found there does not convince.

Conventions: LPS mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, List, Optional, Sequence

import numpy as np

from SAMv2Core.embedding.embedding import Embedding
from SAMv2Core.io.lesions import Lesion
from SAMv2Core.matching.fixed_point import FixedPointOptions
from SAMv2Core.matching.match import Match, match

Progress = Callable[[float, str], None]

STARTS = FixedPointOptions(starts_per_axis=3)
"""27 starts around the center, as in the official script (the paper's L = 5 makes 125): the other template points stand
in for the farther ones, and 50 lesions take a fifth of the time of 125 starts."""

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
    tell = progress or (lambda fraction, text: None)
    offsets = [lesion.points_lps - lesion.center_lps for lesion in lesions]
    points: Any = np.concatenate([center + around for center, around in zip(centers_lps, offsets)])
    centers: Any = centers_lps
    # The body's expectation is weighed here too: alone, one of seven points in a repetitive place goes astray.
    single = match(emb_from, emb_to, points, "nearest", lambda f, t: tell(0.4 * f, t), expect=True)
    fixed = match(emb_from, emb_to, centers, "fixed-point", lambda f, t: tell(0.4 + 0.6 * f, t), options=STARTS)
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
