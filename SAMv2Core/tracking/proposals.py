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
from typing import Any, List, Optional, Sequence, Tuple

import numpy as np
import torch

from SAMv2Core.embedding.embedding import Embedding
from SAMv2Core.io.lesions import Lesion
from SAMv2Core.matching.confidence import RIVAL_RADIUS_MM
from SAMv2Core.matching.fixed_point import FixedPointOptions, vote_of_pairs
from SAMv2Core.matching.match import Match, match
from SAMv2Core.matching.search import SearchIndex, search_index
from SAMv2Core.matching.similarity import joint_vectors
from SAMv2Core.matching.subvoxel import refine
from SAMv2Core.progress import Progress, part, silent

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
    tell = progress or silent
    offsets = [lesion.points_lps - lesion.center_lps for lesion in lesions]
    points: Any = np.concatenate([center + around for center, around in zip(centers_lps, offsets)])
    centers: Any = centers_lps
    # The body's expectation is weighed here too: alone, one of seven points in a repetitive place goes astray.
    single = match(emb_from, emb_to, points, "nearest", part(tell, 0.0, 0.4), expect=True)
    fixed = match(emb_from, emb_to, centers, "fixed-point", part(tell, 0.4, 1.0), options=STARTS)
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

MAX_ITERATIONS = 8
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
    found = []
    for n, (lesion, center, place, spread) in enumerate(zip(lesions, centers_lps, expected_lps, spread_mm)):
        tell(n / len(lesions), f"looking for {lesion.label}")
        template, query = ball_rows(source, center), ball_rows(target, place)
        enough = min(len(template), len(query)) >= SMALLEST_BALL
        points = center + lesion.points_lps - lesion.center_lps
        vectors = joint_vectors(emb_from, points)
        balls = _Balls(source, target, template, query, place, float(spread)) if enough else None
        found.append(None if balls is None else _propose_one(balls, lesion, center, points, vectors))
    return found


def ball_rows(index: SearchIndex, center_lps: np.ndarray, radius_mm: float = BALL_MM) -> np.ndarray:
    """(m,) rows of the body voxels within a radius of a place."""
    axes = index.grid.ijk_to_lps[:3, :3]
    reach = np.ceil(radius_mm * np.linalg.norm(np.linalg.inv(axes), axis=1)).astype(int)
    middle = np.rint(index.grid.to_ijk(center_lps)).astype(np.int64)
    low, high = np.maximum(middle - reach, 0), np.minimum(middle + reach, index.grid.size_ijk - 1)
    if np.any(high < low):
        return np.empty(0, dtype=np.int64)
    ijk = np.stack(np.meshgrid(*(np.arange(a, b + 1) for a, b in zip(low, high)), indexing="ij"), axis=-1)
    ijk = ijk.reshape(-1, 3)
    ijk = ijk[np.sum((index.grid.to_lps(ijk) - center_lps) ** 2, axis=1) <= radius_mm**2]
    rows = index.rows_at(ijk)
    return rows[rows >= 0]


class _Balls:
    """Two balls of voxels and the most similar ones between them."""

    def __init__(
        self,
        source: SearchIndex,
        target: SearchIndex,
        template: np.ndarray,
        query: np.ndarray,
        place: np.ndarray,
        spread_mm: float,
    ) -> None:
        self.source, self.target = source, target
        self.template, self.query = template, query
        self.template_vectors, self.query_vectors = source.vectors(template), target.vectors(query)
        self.query_lps = target.points_lps(query)
        distance = np.linalg.norm(self.query_lps - place, axis=1)
        penalty = PENALTY_PER_SPREAD * (distance / spread_mm) ** 2
        self.penalty = torch.from_numpy(penalty.astype(np.float32)).to(self.query_vectors.device)

    def forth(self, vectors: torch.Tensor) -> np.ndarray:
        """(n,) positions in ``query`` of the best voxels."""
        return (vectors @ self.query_vectors.T - self.penalty).argmax(dim=1).cpu().numpy()

    def back(self, vectors: torch.Tensor) -> np.ndarray:
        """(n,) positions in ``template`` of the best voxels."""
        return (vectors @ self.template_vectors.T).argmax(dim=1).cpu().numpy()


def _propose_one(
    balls: _Balls, lesion: Lesion, center: np.ndarray, points: np.ndarray, vectors: torch.Tensor
) -> Candidate:
    """The votes of the template points and of the fixed points around the center."""
    rows = balls.query[balls.forth(vectors)]
    ends = refine(balls.target, vectors, rows)
    at_ends = balls.target.vectors(rows)
    similarity = (vectors * at_ends).sum(1).cpu().numpy()
    back = refine(balls.source, at_ends, balls.template[balls.back(at_ends)])
    cycle = np.linalg.norm(back - points, axis=1)
    anchor, n_fixed = _fixed_point(balls, center)
    votes = ends - (points - center)
    sure = trust_of(cycle) * np.clip((similarity - 0.3) / 0.5, 0, 1)
    found = candidate_of(votes, lesion.weights, cycle, sure, anchor, n_fixed, margin=0.0)
    return replace(found, margin=_margin(balls, vectors[:1], found.lps))


def _fixed_point(balls: _Balls, center: np.ndarray) -> Tuple[Optional[np.ndarray], int]:
    """The fixed points' answer for the center and how many pairs voted (arXiv 2311.15111, sec. 3.2)."""
    options = FixedPointOptions()
    steps = np.arange(STARTS.starts_per_axis) - STARTS.starts_per_axis // 2
    offsets = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    starts = balls.source.rows_at(np.rint(balls.source.grid.to_ijk(center)).astype(np.int64) + offsets)
    here = np.flatnonzero(np.isin(balls.template, starts[starts >= 0]))
    there = np.empty(0, dtype=np.int64)
    for _ in range(MAX_ITERATIONS):
        there = balls.forth(balls.template_vectors[here])
        after = balls.back(balls.query_vectors[there])
        if np.array_equal(after, here):
            break
        here = np.unique(after)
    else:
        there = balls.forth(balls.template_vectors[here])
    stands = balls.back(balls.query_vectors[there]) == here if len(here) else np.zeros(0, dtype=bool)
    vectors = balls.template_vectors[here[stands]]
    partners = balls.query[there[stands]]
    similar = (vectors * balls.target.vectors(partners)).sum(1).cpu().numpy() >= options.min_similarity
    if not np.any(similar):
        return None, 0
    ends = refine(balls.target, vectors, partners)[similar]
    voted = vote_of_pairs(center, balls.source.points_lps(balls.template[here[stands]])[similar], ends, options)
    return voted.query_lps, voted.fixed_points if voted.query_lps is not None else 0


def _margin(balls: _Balls, vector: torch.Tensor, place: np.ndarray) -> float:
    """Lead of the center's similarity near the place over the best one elsewhere in the ball."""
    values = (vector @ balls.query_vectors.T)[0].cpu().numpy()
    near = np.linalg.norm(balls.query_lps - place, axis=1) <= RIVAL_RADIUS_MM
    if not near.any() or near.all():
        return 0.0
    return float(values[near].max() - values[~near].max())
