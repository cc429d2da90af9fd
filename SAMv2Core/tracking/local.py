"""Looking for lesions where the body expects them: the same search as everywhere, confined to a ball.

Within one patient the body's landmarks say to a few centimeters where a lesion should be. Comparing with the places
around there, instead of with the whole body, is what makes 50 lesions in several follow-ups a matter of seconds, and it
keeps wrong ends of the body out. All searches of one lesion (template points, fixed points forth and back) are products
of two small matrices. Where the ball holds nothing, the lesion's place is not in the scan.

Conventions: LPS mm.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Callable, List, Optional, Sequence, Tuple

import numpy as np
import torch

from SAMv2Core.embedding.embedding import Embedding
from SAMv2Core.io.lesions import Lesion
from SAMv2Core.matching.confidence import RIVAL_RADIUS_MM
from SAMv2Core.matching.fixed_point import FixedPointOptions, vote_of_pairs
from SAMv2Core.matching.search import SearchIndex, search_index
from SAMv2Core.matching.similarity import joint_vectors
from SAMv2Core.matching.subvoxel import refine
from SAMv2Core.tracking.candidates import Candidate, candidate_of, trust_of

Progress = Callable[[float, str], None]

BALL_MM = 50.0
"""Radius of the ball searched, twice what the body's landmarks are usually off between patients."""

PENALTY_PER_SPREAD = 0.02
"""Similarity given up at one spread from the expected place, four times as much at two; as in ``body_map``."""

STARTS_PER_AXIS = 3
"""27 starts of the fixed points, as in the official script (the paper's L = 5 makes 125): the other template points
stand in for the farther ones."""

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
    tell = progress or (lambda fraction, text: None)
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
    steps = np.arange(STARTS_PER_AXIS) - STARTS_PER_AXIS // 2
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
