"""Fixed-point matching: only places that find each other may vote on where a point goes.

Source: arXiv 2311.15111, sec. 3.2, eq. 4-5. One nearest neighbor may be wrong; a place t of the template
whose best match q in the query has t as *its* best match (t = f(t), f = query -> template after template ->
query) rarely is. Around a template point L x L x L starts are iterated, t <- f(t), until they stand still.
Similarity cannot decrease along the way, so every start arrives at a fixed point, and many starts share one.
The fixed points near the template point give pairs (t_i, q_i); an affine map fitted to them carries the
template point itself: q = T t.

Decisions where the paper leaves room, all in millimeters of the world:

* lattice steps use voxel centers, so that "maps to itself" is exact; the pairs that survive get sub-voxel
  ends;
* the affine map is fitted *around the point*: pairs weigh less with their distance from it, outliers by
  Huber's rule, and its linear part is drawn toward the identity as a prior. A few pairs, or pairs in a plane
  or on a line, so end in a translation of their own accord, and no rank decision is needed;
* a result far from where the pairs nearest to the point would put it (an extrapolation) is no result.

All starts of all points are searched in one batch, and f is looked up once per voxel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import List, Optional, Tuple

import numpy as np

from SAMv2Core.errors import UsageError
from SAMv2Core.matching.body_map import BodyMap, expectation_of
from SAMv2Core.matching.robust import huber, reweighted
from SAMv2Core.matching.search import SearchIndex, search
from SAMv2Core.matching.subvoxel import refine
from SAMv2Core.progress import Progress, part

MAX_STRAIN = 0.35
"""Shifts of neighbors may differ by this share of their distance: a turn of 20 degrees, or a third of stretch."""


@dataclass(frozen=True)
class FixedPointOptions:
    """Knobs of the method. The defaults were chosen on 120 points of a simulated follow-up and 71 landmarks
    between patients, all searched in validation scans; errors change little around them.

    :param starts_per_axis: L of the paper; L^3 starts on the fine lattice around the point.
    :param max_iterations: full cycles; three or four are usual, the cap guards against ties.
    :param tau_dis_mm: fixed points further from the template point do not vote.
    :param min_similarity: pairs less similar than this do not vote.
    :param min_fixed_points: with fewer the caller falls back to the nearest neighbor.
    :param locality_mm: standard deviation of the weight over the distance from the point.
    :param noise_mm: error of one pair, one standard deviation; also the smallest scale of Huber's rule.
    :param prior_strain: expected departure of the linear part from the identity, per entry, one standard
        deviation.
    :param gate_mm: pairs whose shift differs by more than this from the most common one are outliers (plus
        what a turn or stretch explains).
    :param consensus_mm: how far the result may lie from the shifts of the nearest pairs.
    """

    starts_per_axis: int = 5
    max_iterations: int = 20
    tau_dis_mm: float = 35.0
    min_similarity: float = 0.3
    min_fixed_points: int = 1
    locality_mm: float = 16.0
    noise_mm: float = 2.0
    prior_strain: float = 0.1
    gate_mm: float = 6.0
    consensus_mm: float = 8.0

    def __post_init__(self) -> None:
        if self.starts_per_axis < 1 or self.starts_per_axis % 2 == 0:
            raise UsageError(f"L = {self.starts_per_axis} starts per axis have no middle.", "Give an odd number.")


@dataclass(frozen=True, eq=False)
class FixedPointResult:
    """What the fixed points say about one template point.

    :param query_lps: (3,) LPS mm in the query, or None when too few points survived or they contradict.
    :param fixed_points: pairs that voted.
    :param residual_mm: how far the pairs lie from the fitted map, median; NaN when nothing was fitted.
    :param template_pairs_lps: (n, 3) fixed points in the template.
    :param query_pairs_lps: (n, 3) their partners in the query.
    """

    query_lps: Optional[np.ndarray]
    fixed_points: int
    residual_mm: float
    template_pairs_lps: np.ndarray
    query_pairs_lps: np.ndarray


BodyMaps = Tuple[Optional[BodyMap], Optional[BodyMap]]
"""Where the bodies are expected in each other, forth and back; None expects nothing."""


class _Cycle:
    """The map f of eq. 4 between two indices, evaluated once per template voxel."""

    def __init__(self, template: SearchIndex, query: SearchIndex, maps: BodyMaps) -> None:
        self.template, self.query = template, query
        self.forth_map, self.back_map = maps
        self.partner = np.full(template.n_body, -1, dtype=np.int64)
        self.similarity = np.full(template.n_body, -1.0, dtype=np.float32)
        self.back = np.full(query.n_body, -1, dtype=np.int64)

    def evaluate(self, rows: np.ndarray, progress: Optional[Progress]) -> np.ndarray:
        """f of template rows; only those never asked for before are searched."""
        new = np.unique(rows[self.partner[rows] < 0])
        if len(new):
            vectors = self.template.vectors(new)
            expected = expectation_of(self.forth_map, self.template.points_lps(new))
            half = part(progress, 0.0, 0.5)
            self.partner[new], self.similarity[new] = search(self.query, vectors, progress=half, expected=expected)
        partners = self.partner[rows]
        new = np.unique(partners[self.back[partners] < 0])
        if len(new):
            vectors = self.query.vectors(new)
            expected = expectation_of(self.back_map, self.query.points_lps(new))
            self.back[new], _ = search(self.template, vectors, progress=part(progress, 0.5, 1.0), expected=expected)
        return self.back[partners]


def fixed_point_matches(
    template: SearchIndex,
    query: SearchIndex,
    points_lps: np.ndarray,
    options: FixedPointOptions = FixedPointOptions(),
    progress: Optional[Progress] = None,
    maps: BodyMaps = (None, None),
) -> List[FixedPointResult]:
    """Fixed-point matches of template points, all in one batch.

    :param points_lps: (N, 3) LPS mm in the template.
    :param progress: called between tiles of the search; may raise ``Cancelled``.
    :param maps: expectations of the searches, template to query and back
        (:func:`SAMv2Core.matching.body_map.body_maps`).
    :returns: one result per point, in order.
    """
    points = np.atleast_2d(np.asarray(points_lps, dtype=np.float64))
    starts = [_starts(template, point, options.starts_per_axis) for point in points]
    cycle = _Cycle(template, query, maps)
    current = np.unique(np.concatenate([*starts, np.empty(0, dtype=np.int64)]))
    for number in range(options.max_iterations):
        if not len(current):
            break
        image = cycle.evaluate(current, _cycle_progress(progress, number))
        current = np.unique(image[image != current])
    fixed = [_follow(cycle, rows, options) for rows in starts]
    everyone = np.unique(np.concatenate([*fixed, np.empty(0, dtype=np.int64)]))
    ends = _partners_lps(cycle, everyone)
    results = []
    for point, rows in zip(points, fixed):
        results.append(vote_of_pairs(point, template.points_lps(rows), ends[np.searchsorted(everyone, rows)], options))
    return results


def _cycle_progress(progress: Optional[Progress], number: int) -> Progress:
    """Progress of one cycle; how many follow is unknown, so each is given three quarters of what is left."""
    left = 0.25**number
    return part(progress, 1 - left, 1 - 0.25 * left)


def _starts(template: SearchIndex, point: np.ndarray, per_axis: int) -> np.ndarray:
    """Rows of the body voxels in the cube of starts around a point, each once."""
    steps = np.arange(per_axis) - per_axis // 2
    offsets = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    center = np.rint(template.grid.to_ijk(point)).astype(np.int64)
    rows = template.rows_at(center + offsets)
    return np.unique(rows[rows >= 0])


def _follow(cycle: _Cycle, rows: np.ndarray, options: FixedPointOptions) -> np.ndarray:
    """The fixed points that some starts arrived at, similar enough, each once."""
    for _ in range(options.max_iterations):
        rows = np.unique(cycle.back[cycle.partner[rows]])
    fixed = rows[cycle.back[cycle.partner[rows]] == rows]
    return fixed[cycle.similarity[fixed] >= options.min_similarity]


def _partners_lps(cycle: _Cycle, rows: np.ndarray) -> np.ndarray:
    """(n, 3) LPS mm, where the template rows' vectors are most similar in the query, between its voxels."""
    if not len(rows):
        return np.empty((0, 3))
    return refine(cycle.query, cycle.template.vectors(rows), cycle.partner[rows])


def vote_of_pairs(
    point: np.ndarray, template_lps: np.ndarray, query_lps: np.ndarray, options: FixedPointOptions
) -> FixedPointResult:
    """Gate the pairs by distance and by agreement, then fit."""
    near = np.linalg.norm(template_lps - point, axis=1) <= options.tau_dis_mm
    template_lps, query_lps = template_lps[near], query_lps[near]
    if len(template_lps):
        agreeing = _largest_agreement(point, template_lps, query_lps, options)
        template_lps, query_lps = template_lps[agreeing], query_lps[agreeing]
    found, residual = None, math.nan
    if len(template_lps) >= options.min_fixed_points:
        found, residual = local_affine(point, template_lps, query_lps, options)
        if not _near_consensus(found, point, template_lps, query_lps, options):
            found = None
    return FixedPointResult(found, len(template_lps), residual, template_lps, query_lps)


def _largest_agreement(
    point: np.ndarray, template_lps: np.ndarray, query_lps: np.ndarray, options: FixedPointOptions
) -> np.ndarray:
    """(n,) bool: the pairs that agree with the pair that most agree with; those near the point count more.

    Wrong fixed points come in clusters (a vertebra one level off, the other kidney), so the usual shift is
    not at the median of all but where most of them are.
    """
    shift = query_lps - template_lps
    between = np.linalg.norm(template_lps[:, None] - template_lps[None], axis=2)
    apart = np.linalg.norm(shift[:, None] - shift[None], axis=2)
    agree = apart <= options.gate_mm + MAX_STRAIN * between
    return agree[np.argmax(agree @ _locality(point, template_lps, options))]


def _locality(point: np.ndarray, template_lps: np.ndarray, options: FixedPointOptions) -> np.ndarray:
    """(n,) Gaussian weights of the distance from the point; the closest pair always counts in full."""
    squared = np.sum((template_lps - point) ** 2, axis=1)
    return np.exp(-0.5 * (squared - squared.min()) / options.locality_mm**2)


def local_affine(
    point: np.ndarray, template_lps: np.ndarray, query_lps: np.ndarray, options: FixedPointOptions
) -> Tuple[np.ndarray, float]:
    """Carry a point by the affine map that its neighbors' pairs suggest (eq. 5, fitted around the point).

    Minimizes ``sum w_i |q_i - q - A (t_i - p)|^2 / noise^2 + |A - I|^2 / strain^2`` over q and A by
    iteratively re-weighted least squares; w_i is a Gaussian of ``|t_i - p|`` times Huber's weight.

    :param point: (3,) p, LPS mm.
    :param template_lps: (n, 3) t_i.
    :param query_lps: (n, 3) q_i.
    :returns: (3,) q, LPS mm, and the median distance of the pairs from the map, mm.
    """
    relative = template_lps - point
    design = np.column_stack([np.ones(len(relative)), relative])
    shift = query_lps - template_lps  # with A = I + D, the shift is q - p + D (t_i - p): the prior pulls D to 0
    locality = _locality(point, template_lps, options)
    ridge = np.diag([0.0, 1, 1, 1]) * (options.noise_mm / options.prior_strain) ** 2
    size = np.linalg.norm(shift - np.median(shift, axis=0), axis=1)

    def weigh(size: np.ndarray) -> np.ndarray:
        return locality * huber(size, max(options.noise_mm, 1.4826 * float(np.median(size))))

    solution, size = reweighted(design, shift, ridge, size, weigh, n_iterations=20, settled=1e-3)
    return point + solution[0], float(np.median(size))


def _near_consensus(
    found: np.ndarray,
    point: np.ndarray,
    template_lps: np.ndarray,
    query_lps: np.ndarray,
    options: FixedPointOptions,
) -> bool:
    """Whether the result agrees with the plain shifts of the (up to) eight pairs closest to the point."""
    distance = np.linalg.norm(template_lps - point, axis=1)
    nearest = np.argsort(distance, kind="stable")[:8]
    consensus = point + np.median((query_lps - template_lps)[nearest], axis=0)
    allowed = options.consensus_mm + MAX_STRAIN * float(np.mean(distance[nearest]))
    return bool(np.linalg.norm(found - consensus) <= allowed)
