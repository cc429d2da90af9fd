"""Fixed-point matching: only places that find each other may vote on where a point goes.

Source: arXiv 2311.15111, sec. 3.2, eq. 4-5. One nearest neighbor may be wrong; a place t of the template whose best
match q in the query has t as *its* best match (t = f(t), f = query -> template after template -> query) rarely is.
Around a template point L x L x L starts are iterated, t <- f(t); those that come to stand still are fixed points, and
their pairs (t_i, q_i) say together where the template point itself goes.

Two ways to use them:

* :func:`fixed_point_matches`, the default: every search is confined to a ball around where the body map expects the
  place and weighs that expectation (:mod:`SAMv2Core.matching.body_map`); the point moves as the pairs that agree do in
  the mean, the near ones counting more;
* :func:`paper_matches`, for comparison: the whole bodies are searched, nothing is expected, and one affine map is
  fitted to all pairs alike (eq. 5).

With exact nearest neighbors the similarity cannot fall along the way, so every start arrives at a fixed point. With
an expectation, which is another one on the way back, it may go in circles: such starts do not vote.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Tuple

import numpy as np
import torch

from SAMv2Core.errors import UsageError
from SAMv2Core.matching.body_map import BodyMap
from SAMv2Core.matching.search import Expectation, Places, SearchIndex, most_similar, search
from SAMv2Core.progress import Progress, part

Step = Callable[[np.ndarray], np.ndarray]

BodyMaps = Tuple[Optional[BodyMap], Optional[BodyMap]]
"""Where the bodies are expected in each other, forth and back; None expects nothing."""


@dataclass(frozen=True)
class FixedPointOptions:
    """Knobs of the method, with what they do to the errors of torsos, necks and simulated follow-ups (n = 448, 266, 235
    points of validation scans; differences of means in mm with 95 % intervals by patient; weights until 29 Nov 2026).

    What was measured to do nothing is left out: an affine map of the pairs, drawn toward the identity, instead of
    their mean (-0.01 [-0.06, 0.08], 0.01 [-0.10, 0.08], 0.00 [-0.02, 0.01]), Huber weights (0.00 [-0.05, 0.04], 0.02
    [-0.02, 0.05], 0.00 [-0.01, 0.00]), a gate on the similarity of pairs. What was measured to harm: ends between the
    voxels (-0.01 [-0.10, 0.07], 0.06 [-0.03, 0.15], 0.12 [0.06, 0.17]), the mean of field and local similarity as a
    posterior (0.12 [0.03, 0.27], 0.62 [0.39, 0.85], 0.24 [0.13, 0.35]).

    :param starts_per_axis: L of the paper; L^3 starts around the point.
    :param step_mm: distance of the starts. 27 of them 8 mm apart span what 125 do 4 mm apart, and match as well in a
        third of the time (torso 10.0 / 17.9 against 10.0 / 18.0 mm, median / mean).
    :param max_iterations: full cycles; two or three are usual, the cap is for starts that go in circles.
    :param ball_mm: how far from the expected place is searched; three spreads of a body map between patients.
    :param gate_mm: pairs whose shift differs by more than this from the most common one are outliers, plus
    :param max_strain: this share of their distance: a turn of 20 degrees, or a third of stretch. Without the gate 4 of
        100 points of torsos less are within 10 mm [0, 7].
    :param locality_mm: standard deviation of the weight over the distance from the point; 24 is no better (0.01
        [-0.10, 0.08] in torsos).
    """

    starts_per_axis: int = 3
    step_mm: float = 8.0
    max_iterations: int = 8
    ball_mm: float = 60.0
    gate_mm: float = 6.0
    max_strain: float = 0.35
    locality_mm: float = 16.0

    def __post_init__(self) -> None:
        if self.starts_per_axis < 1 or self.starts_per_axis % 2 == 0:
            raise UsageError(f"L = {self.starts_per_axis} starts per axis have no middle.", "Give an odd number.")


PAPER = FixedPointOptions(starts_per_axis=5, step_mm=4.0, max_iterations=20)
"""L = 5 of the paper, on its lattice of 4 mm."""


@dataclass(frozen=True, eq=False)
class FixedPointResult:
    """What the fixed points say about one template point.

    :param query_lps: (3,) LPS mm in the query, or None without any fixed point.
    :param fixed_points: pairs that voted.
    :param residual_mm: how far the pairs lie from what they say together, median; NaN without any.
    :param template_pairs_lps: (n, 3) fixed points in the template.
    :param query_pairs_lps: (n, 3) their partners in the query.
    """

    query_lps: Optional[np.ndarray]
    fixed_points: int
    residual_mm: float
    template_pairs_lps: np.ndarray
    query_pairs_lps: np.ndarray


NO_VOTE = FixedPointResult(None, 0, math.nan, np.empty((0, 3)), np.empty((0, 3)))


class _Cycle:
    """The map f of eq. 4, evaluated once per template row.

    :param forth: (n,) template rows to their partners in the query; :param back: query rows to template rows.
    """

    def __init__(self, forth: Step, back: Step) -> None:
        self._forth, self._back = forth, back
        self._known: Dict[int, Tuple[int, int]] = {}

    def image(self, rows: np.ndarray) -> np.ndarray:
        """(n,) f of template rows."""
        new = np.array([row for row in np.unique(rows) if row not in self._known], dtype=np.int64)
        if len(new):
            partners = self._forth(new)
            self._known.update(zip(new.tolist(), zip(partners.tolist(), self._back(partners).tolist())))
        return np.array([self._known[row][1] for row in rows.tolist()], dtype=np.int64)

    def partners(self, rows: np.ndarray) -> np.ndarray:
        """(n,) query rows of template rows whose images are known."""
        return np.array([self._known[row][0] for row in rows.tolist()], dtype=np.int64)

    def fixed(self, starts: np.ndarray, max_iterations: int) -> np.ndarray:
        """The fixed points that some starts arrive at, each once."""
        rows = np.unique(starts)
        for _ in range(max_iterations):
            after = np.unique(self.image(rows))
            if np.array_equal(after, rows):
                break
            rows = after
        return rows[self.image(rows) == rows]


@dataclass(frozen=True, eq=False)
class Balls:
    """Where a point is looked for: a ball of the template around it, one of the query around where it is expected.

    :param expect: places (n, 3) of the template, LPS mm, to what is expected of them in the query; None: nothing.
    :param expect_back: likewise from the query to the template.
    """

    template: SearchIndex
    query: SearchIndex
    here: Places
    there: Places
    expect: Callable[[np.ndarray], Optional[Expectation]]
    expect_back: Callable[[np.ndarray], Optional[Expectation]]

    def forth(self, vectors: torch.Tensor, points_lps: np.ndarray) -> np.ndarray:
        """(n,) query rows of the most similar places; ``vectors`` (n, K) and ``points_lps`` (n, 3) of the template."""
        return most_similar(self.there, vectors, self.expect(points_lps))[0]

    def back(self, vectors: torch.Tensor, points_lps: np.ndarray) -> np.ndarray:
        """(n,) template rows of the most similar places."""
        return most_similar(self.here, vectors, self.expect_back(points_lps))[0]

    def pairs(self, point: np.ndarray, options: FixedPointOptions) -> Tuple[np.ndarray, np.ndarray]:
        """Fixed points (n, 3) around a point and their partners (n, 3), LPS mm."""
        if not len(self.here.rows) or not len(self.there.rows):
            return np.empty((0, 3)), np.empty((0, 3))
        cycle = _Cycle(
            lambda rows: self.forth(self.template.vectors(rows), self.template.points_lps(rows)),
            lambda rows: self.back(self.query.vectors(rows), self.query.points_lps(rows)),
        )
        rows = cycle.fixed(_starts(self.template, point, options), options.max_iterations)
        return self.template.points_lps(rows), self.query.points_lps(cycle.partners(rows))


def fixed_point_matches(
    template: SearchIndex,
    query: SearchIndex,
    points_lps: np.ndarray,
    options: FixedPointOptions = FixedPointOptions(),
    progress: Optional[Progress] = None,
    maps: BodyMaps = (None, None),
) -> List[FixedPointResult]:
    """Fixed-point matches of template points.

    :param points_lps: (N, 3) LPS mm in the template.
    :param progress: called between points; may raise ``Cancelled``.
    :param maps: where the bodies are expected in each other (:func:`SAMv2Core.matching.body_map.body_maps`); without
        them the whole bodies are searched.
    :returns: one result per point, in order.
    """
    points = np.atleast_2d(np.asarray(points_lps, dtype=np.float64))
    there, back = maps
    if there is None or back is None:
        pairs = _pairs_in_bodies(template, query, points, options, progress)
        return [vote_of_pairs(point, *ends, options) for point, ends in zip(points, pairs)]
    found = []
    for n, (point, place) in enumerate(zip(points, there.predict(points)[0])):
        if progress is not None:
            progress(n / len(points), "Matching")
        near = template.ball(point, options.ball_mm), query.ball(place, options.ball_mm)
        balls = Balls(template, query, *near, there.expectation, back.expectation)
        found.append(vote_of_pairs(point, *balls.pairs(point, options), options))
    return found


def paper_matches(
    template: SearchIndex, query: SearchIndex, points_lps: np.ndarray, progress: Optional[Progress] = None
) -> List[FixedPointResult]:
    """As :func:`fixed_point_matches`, in the paper's form: all pairs of whole bodies, one affine map (eq. 4-5)."""
    points = np.atleast_2d(np.asarray(points_lps, dtype=np.float64))
    pairs = _pairs_in_bodies(template, query, points, PAPER, progress)
    return [affine_of_all(point, *ends) for point, ends in zip(points, pairs)]


def _starts(template: SearchIndex, point: np.ndarray, options: FixedPointOptions) -> np.ndarray:
    """Rows of the body voxels in the cube of starts around a point, each once."""
    steps = (np.arange(options.starts_per_axis) - options.starts_per_axis // 2) * options.step_mm
    offsets = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    # Whole voxels, the same for all starts: rounded one by one, two starts may fall on one voxel.
    voxels = np.rint(offsets / template.grid.spacing_ijk_mm).astype(np.int64)
    rows = template.rows_at(np.rint(template.grid.to_ijk(point)).astype(np.int64) + voxels)
    return np.unique(rows[rows >= 0])


def _pairs_in_bodies(
    template: SearchIndex,
    query: SearchIndex,
    points: np.ndarray,
    options: FixedPointOptions,
    progress: Optional[Progress],
) -> List[Tuple[np.ndarray, np.ndarray]]:
    """As :meth:`Balls.pairs` for all points, in whole bodies: every pass over a body serves the starts of all."""
    starts = [_starts(template, point, options) for point in points]
    everyone = np.unique(np.concatenate([*starts, np.empty(0, dtype=np.int64)]))
    left = 1.0  # how many cycles follow is unknown, so each is given three quarters of what is left

    def forth(rows: np.ndarray) -> np.ndarray:
        return search(query, template.vectors(rows), progress=part(progress, 1 - left, 1 - 0.6 * left))[0]

    def back(rows: np.ndarray) -> np.ndarray:
        return search(template, query.vectors(rows), progress=part(progress, 1 - 0.6 * left, 1 - 0.25 * left))[0]

    cycle = _Cycle(forth, back)
    for _ in range(options.max_iterations):
        everyone = np.unique(cycle.image(everyone))
        left *= 0.25
    fixed = [cycle.fixed(rows, options.max_iterations) for rows in starts]
    return [(template.points_lps(rows), query.points_lps(cycle.partners(rows))) for rows in fixed]


def vote_of_pairs(
    point: np.ndarray, template_lps: np.ndarray, query_lps: np.ndarray, options: FixedPointOptions
) -> FixedPointResult:
    """A point moved as the pairs that agree do in the mean, the near ones counting more.

    :param point: (3,) LPS mm; :param template_lps: (n, 3) fixed points; :param query_lps: (n, 3) their partners.
    """
    if not len(template_lps):
        return NO_VOTE
    agreeing = _largest_agreement(point, template_lps, query_lps, options)
    template_lps, query_lps = template_lps[agreeing], query_lps[agreeing]
    shift = query_lps - template_lps
    mean = np.average(shift, axis=0, weights=_locality(point, template_lps, options))
    residual = float(np.median(np.linalg.norm(shift - mean, axis=1)))
    return FixedPointResult(point + mean, len(template_lps), residual, template_lps, query_lps)


def _largest_agreement(
    point: np.ndarray, template_lps: np.ndarray, query_lps: np.ndarray, options: FixedPointOptions
) -> np.ndarray:
    """(n,) bool: the pairs that agree with the pair that most agree with; those near the point count more.

    Wrong fixed points come in clusters (a vertebra one level off, the other kidney), so the usual shift is not at the
    median of all but where most of them are.
    """
    shift = query_lps - template_lps
    between = np.linalg.norm(template_lps[:, None] - template_lps[None], axis=2)
    apart = np.linalg.norm(shift[:, None] - shift[None], axis=2)
    agree = apart <= options.gate_mm + options.max_strain * between
    return agree[np.argmax(agree @ _locality(point, template_lps, options))]


def _locality(point: np.ndarray, template_lps: np.ndarray, options: FixedPointOptions) -> np.ndarray:
    """(n,) Gaussian weights of the distance from the point; the closest pair always counts in full."""
    squared = np.sum((template_lps - point) ** 2, axis=1)
    return np.exp(-0.5 * (squared - squared.min()) / options.locality_mm**2)


def affine_of_all(point: np.ndarray, template_lps: np.ndarray, query_lps: np.ndarray) -> FixedPointResult:
    """Carry a point by the affine map of all pairs (eq. 5); what few pairs leave open is a translation."""
    if not len(template_lps):
        return NO_VOTE
    middle, shift = template_lps.mean(axis=0), query_lps - template_lps
    slope = np.linalg.pinv(template_lps - middle, rcond=1e-3) @ (shift - shift.mean(axis=0))
    left = shift - shift.mean(axis=0) - (template_lps - middle) @ slope
    residual = float(np.median(np.linalg.norm(left, axis=1)))
    found = point + shift.mean(axis=0) + (point - middle) @ slope
    return FixedPointResult(found, len(template_lps), residual, template_lps, query_lps)
