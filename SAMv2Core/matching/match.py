"""Find template points in another volume: the verb that the command line, the GUI and scripts share.

``fixed-point`` looks where the whole body's matches expect the point (:mod:`SAMv2Core.matching.body_map`) and lets
the places around it vote (arXiv 2311.15111, sec. 3.2; :mod:`SAMv2Core.matching.fixed_point`); without a vote it falls
back to the nearest neighbor. ``nearest`` is the most similar place of the whole body, between the voxels, and
``paper`` the paper's own form (eq. 4-5), both for comparison. All end with the same evidence and the same verdict
(:mod:`SAMv2Core.matching.confidence`); anatomy that the query does not show is ``not_found``, not a guess.

Conventions: points are LPS mm; nothing here depends on voxel axes, spacing or handedness of either volume.
"""

from __future__ import annotations

import math
from typing import Any, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch

from SAMv2Core.embedding.embedding import Embedding
from SAMv2Core.errors import InputError, UsageError
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.points import PointList
from SAMv2Core.matching.body_map import body_maps, expectation_of
from SAMv2Core.matching.confidence import (
    EDGE_MM,
    NO_MAP,
    NOT_FOUND,
    RIVAL_RADIUS_MM,
    SKIN_TOLERANCE_MM,
    Evidence,
    UncertaintyModel,
    Verdict,
    judge,
)
from SAMv2Core.matching.exemplars import by_label, combined
from SAMv2Core.matching.fixed_point import (
    BodyMaps,
    FixedPointOptions,
    FixedPointResult,
    fixed_point_matches,
    paper_matches,
)
from SAMv2Core.matching.result import Match
from SAMv2Core.matching.search import Expectation, SearchIndex, search, search_index, search_near
from SAMv2Core.matching.similarity import check_comparable, joint_vectors
from SAMv2Core.matching.subvoxel import refine
from SAMv2Core.progress import Progress, part, silent

NO_MAPS: BodyMaps = (None, None)
"""Nothing is to be expected; not the same as bodies that were compared and gave no map."""

METHODS = ("fixed-point", "nearest", "paper")

Points = Union[np.ndarray, Sequence[Sequence[float]], Sequence[float], PointList]

LOCATE_RETURN_MM, LOCATE_SIMILARITY = 15.0, 0.5
"""A quick match that comes back further from its start, or is less similar, is none. Rules of thumb, not calibrated;
Testing/benchmarks/slicer.py prints how many landmarks they show and how far off these are."""


def match(
    emb_template: Union[Embedding, List[Embedding], Tuple[Embedding, ...]],
    emb_query: Embedding,
    points_lps: Union[Points, Sequence[Points]],
    method: str = "fixed-point",
    progress: Optional[Progress] = None,
    *,
    options: Optional[FixedPointOptions] = None,
    uncertainty: Optional[UncertaintyModel] = None,
    expect: Optional[bool] = None,
) -> List[Match]:
    """Find template points in the query.

    Parameters
    ----------
    emb_template, emb_query : Embedding
        Of one model, see :meth:`SAMv2Core.Model.embed`. A list of templates gives one answer from all that show the
        point (:mod:`SAMv2Core.matching.exemplars`).
    points_lps : (N, 3) or (3,) array, or PointList
        LPS mm in the template's world. Of several templates a list with the points of each: point lists, whose labels
        say which points are the same, or (N, 3) arrays with the same point in the same row, NaN where it is not marked.
    method : {"fixed-point", "nearest", "paper"}
    progress : callable, optional
        Called as ``progress(fraction, text)``; may raise ``Cancelled``.
    options : FixedPointOptions, optional
        Knobs of the fixed-point method (paper sec. 3.2).
    uncertainty : UncertaintyModel, optional
        Coefficients of the confidence; None for those that came with the model.
    expect : bool, optional
        Whether to weigh where the whole body's matches expect the point (:mod:`SAMv2Core.matching.body_map`, not in the
        paper); None does so with fixed points and leaves the nearest neighbor plain.

    Returns
    -------
    list of Match
        One per point, in input order (several point lists: labels in the order in which they first come, see
        :func:`SAMv2Core.matching.exemplars.by_label`); :func:`positions` makes an array of them.

    Raises
    ------
    UsageError
        Unknown method, or something else than embeddings.
    InputError
        Points that are no finite (N, 3) numbers, or an embedding without a body.
    ModelError
        Embeddings of different models.

    Examples
    --------
    >>> import SAMv2Core as s
    >>> model = s.load_model("lite-ct", "cpu")
    >>> template, query = model.embed(volume), model.embed(s.simulate_follow_up(volume, seed=1).volume)
    >>> s.match(template, query, [0, 10, 0])[0].status in ("matched", "uncertain", "not_found")
    True
    >>> s.match(volume, query, [0, 10, 0])
    Traceback (most recent call last):
        ...
    SAMv2Core.errors.UsageError: A Volume is no embedding. Embed it first: model.embed(volume), once per scan.
    """
    if method not in METHODS:
        raise UsageError(f"There is no matching method {method!r}.", f"Choose one of: {', '.join(METHODS)}.")
    if isinstance(emb_template, (list, tuple)):
        knobs = {"method": method, "options": options, "uncertainty": uncertainty, "expect": expect}
        return _match_several(emb_template, emb_query, points_lps, progress or silent, **knobs)
    options = options or FixedPointOptions()
    check_comparable(emb_template, emb_query)
    uncertainty = uncertainty or UncertaintyModel.from_metadata(emb_query.calibration)
    points = _checked_points(points_lps)
    tell = progress or silent
    tell(0.0, "Preparing the search")
    template = search_index(emb_template)
    refusals = [why_not_asked(emb_template, template, point) for point in points]
    asked = np.array([i for i, refusal in enumerate(refusals) if not refusal], dtype=np.int64)
    answers: Iterator[Match] = iter(())
    if len(asked):
        weigh = method == "fixed-point" if expect is None else expect
        # Weighed or not, the map tells the verdict whether the bodies are alike: votes of two patients agree, too.
        maps = body_maps(emb_template, emb_query) if weigh or method != "nearest" else NO_MAPS
        pair = (emb_template, emb_query)
        answers = iter(_find(pair, points[asked], method, options, uncertainty, maps, weigh, tell))
    tell(1.0, "Matched")
    nothing = (None, math.nan, math.nan, 0, 0.0, NOT_FOUND)
    return [Match(p, *nothing, refusal) if refusal else next(answers) for p, refusal in zip(points, refusals)]


def _match_several(
    templates: Sequence[Embedding], emb_query: Embedding, lists: Any, tell: Progress, **knobs: Any
) -> List[Match]:
    """Every template's points by themselves, then one answer per point."""
    if not isinstance(lists, (list, tuple)) or len(lists) != len(templates) or not templates:
        raise UsageError(
            f"{len(templates)} templates need a list of {len(templates)} point lists.",
            "Give the points of each template, in the order of the templates.",
        )
    if all(isinstance(points, PointList) for points in lists):
        _, aligned = by_label(lists)
    else:
        aligned = [_checked_points(points, may_miss=True) for points in lists]
        if len({len(points) for points in aligned}) > 1:
            raise InputError("The templates have different numbers of points.", "Give NaN for a point that one lacks.")
    found: List[List[Match]] = [[] for _ in aligned[0]]
    for number, (template, points) in enumerate(zip(templates, aligned)):
        rows = np.flatnonzero(np.isfinite(points).all(axis=1))
        mine = part(tell, number / len(templates), (number + 1) / len(templates))
        for row, one in zip(rows, match(template, emb_query, points[rows], progress=mine, **knobs)):
            found[row].append(one)
    model = knobs["uncertainty"] or UncertaintyModel.from_metadata(emb_query.calibration)
    nobody = Match(np.full(3, np.nan), None, math.nan, math.nan, 0, 0.0, NOT_FOUND, "No template has this point.")
    return [combined(several, emb_query.volume_grid, model) if several else nobody for several in found]


def locate(emb_template: Embedding, emb_query: Embedding, points_lps: Points) -> np.ndarray:
    """Where template points lie in the query, as fast as it goes: for places that follow a cursor.

    The nearest neighbor near where the whole body's matches expect it, if it leads back to the point. Fixed points and
    the rival, on which a confidence rests, are left out: the next place is asked for before anyone could read it.

    Parameters
    ----------
    emb_template, emb_query : Embedding
        Of one model.
    points_lps : (N, 3) or (3,) array, or PointList
        LPS mm in the template's world.

    Returns
    -------
    (N, 3) float64 array
        LPS mm in the query's world, NaN where nothing was found.

    Raises
    ------
    InputError
        Points that are no finite (N, 3) numbers, or an embedding without a body.
    ModelError
        Embeddings of different models.

    Examples
    --------
    >>> import SAMv2Core as s
    >>> template = s.load_model("lite-ct", "cpu").embed(volume)
    >>> s.locate(template, template, [0, 10, 0]).shape
    (1, 3)
    """
    points = _checked_points(points_lps)
    check_comparable(emb_template, emb_query)
    template, query = search_index(emb_template), search_index(emb_query)
    found = np.full(points.shape, np.nan)
    asked = np.flatnonzero(emb_template.volume_grid.contains(points))
    if not len(asked):
        return found
    there, back = body_maps(emb_template, emb_query)
    vectors = joint_vectors(emb_template, points[asked])
    rows = _nearest_rows(query, vectors, expectation_of(there, points[asked]))
    places = refine(query, vectors, rows)
    at_place = joint_vectors(emb_query, places)
    returned = _nearest_rows(template, at_place, expectation_of(back, places))
    apart = np.linalg.norm(template.points_lps(returned) - points[asked], axis=1)
    similarity = (at_place * vectors).sum(1).cpu().numpy()
    sure = (apart <= LOCATE_RETURN_MM) & (similarity >= LOCATE_SIMILARITY)
    found[asked[sure]] = places[sure]
    return found


def _nearest_rows(
    index: SearchIndex, vectors: torch.Tensor, expected: Optional[Expectation], progress: Optional[Progress] = None
) -> np.ndarray:
    """(N,) rows of the most similar places: near where they are expected, else in the whole body."""
    if expected is None:
        return search(index, vectors, progress=progress)[0]
    rows, _ = search_near(index, vectors, expected, FixedPointOptions().ball_mm)
    lost = np.flatnonzero(rows < 0)  # expected where this scan has no body
    if len(lost):
        rows[lost], _ = search(index, vectors[torch.from_numpy(lost)], expected=expected.part(lost), progress=progress)
    return rows


def _find(
    embeddings: Tuple[Embedding, Embedding],
    points: np.ndarray,
    method: str,
    options: FixedPointOptions,
    uncertainty: UncertaintyModel,
    maps: BodyMaps,
    weigh: bool,
    tell: Progress,
) -> List[Match]:
    """Matches of points that lie in the template's body: result, then evidence, then verdict.

    :param weigh: whether the searches weigh where ``maps`` expect the points; the verdict always does.
    """
    emb_template, emb_query = embeddings
    template, query = search_index(emb_template), search_index(emb_query)
    vectors = joint_vectors(emb_template, points)
    expected = expectation_of(maps[0] if weigh else None, points)
    rows = _nearest_rows(query, vectors, expected, part(tell, 0.05, 0.2))
    found = nearest = refine(query, vectors, rows)
    votes: Sequence[Optional[FixedPointResult]] = [None] * len(points)
    if method == "fixed-point":
        votes = fixed_point_matches(template, query, points, options, part(tell, 0.2, 0.7), maps if weigh else NO_MAPS)
    elif method == "paper":
        votes = paper_matches(template, query, points, part(tell, 0.2, 0.7))
    if method != "nearest":
        found = np.array([n if v is None or v.query_lps is None else v.query_lps for n, v in zip(nearest, votes)])
    at_result = joint_vectors(emb_query, found)
    similarity = (at_result * vectors).sum(1).cpu().numpy()
    _, rival = search(query, vectors, found, RIVAL_RADIUS_MM, part(tell, 0.7, 0.85))
    back_rows, _ = search(template, at_result, progress=part(tell, 0.85, 1.0))
    cycle_error = np.linalg.norm(refine(template, at_result, back_rows) - points, axis=1)
    departure, likeness = np.full(len(points), np.nan), math.nan if maps is NO_MAPS else NO_MAP
    if maps[0] is not None:
        places, spread = maps[0].predict(points)
        departure = np.linalg.norm(found - places, axis=1) / spread
        likeness = min(one.likeness for one in maps if one is not None)
    matches = []
    for i, (point, result, vote) in enumerate(zip(points, found, votes)):
        fell_back = vote is not None and vote.query_lps is None
        voted = vote is not None and not fell_back
        evidence = Evidence(
            similarity=float(similarity[i]),
            cycle_error_mm=float(cycle_error[i]),
            margin=float(similarity[i] - rival[i]),
            fixed_points=vote.fixed_points if vote is not None else 0,
            residual_mm=vote.residual_mm if vote is not None and voted else math.nan,
            agreement_mm=float(np.linalg.norm(result - nearest[i])) if voted else math.nan,
            at_edge=bool(emb_query.volume_grid.depth_mm(result) < EDGE_MM),
            fell_back=fell_back,
            departure=float(departure[i]),
            likeness=likeness,
        )
        matches.append(_answer(point, result, evidence, emb_query.volume_grid.beyond_mm(result), uncertainty))
    return matches


def _answer(
    point: np.ndarray, result: np.ndarray, evidence: Evidence, beyond_mm: float, uncertainty: UncertaintyModel
) -> Match:
    verdict = judge(evidence, uncertainty)
    if beyond_mm > 0:  # the surroundings were found and point out of the scan: that is an answer, not a doubt
        reason = f"The point would lie {math.ceil(beyond_mm)} mm outside the other scan."
        verdict = Verdict(min(verdict.confidence, uncertainty.not_found_below / 2), NOT_FOUND, reason)
    return Match(
        template_lps=point,
        query_lps=None if verdict.status == NOT_FOUND else result,
        similarity=evidence.similarity,
        cycle_error_mm=evidence.cycle_error_mm,
        fixed_points=evidence.fixed_points,
        confidence=verdict.confidence,
        status=verdict.status,
        reason=verdict.reason,
        candidate_lps=result,
        evidence=evidence,
    )


def similarity_map(
    emb_template: Embedding, emb_query: Embedding, point_lps: Sequence[float]
) -> Tuple[np.ndarray, Grid]:
    """Similarity of one template point to every place of the query's body.

    Parameters
    ----------
    emb_template, emb_query : Embedding
        Of one model.
    point_lps : (3,) array
        LPS mm in the template's world.

    Returns
    -------
    similarities : (d, h, w) float32 array
        In -1..1 on the query's fine lattice, axes (z, y, x); -1 outside the body.
    grid : Grid
        That lattice: ``Volume(similarities, grid.ijk_to_lps)`` can be written and shown.

    Raises
    ------
    InputError
        The point is not three finite numbers.
    ModelError
        Embeddings of different models.

    Examples
    --------
    >>> import SAMv2Core as s
    >>> template = s.load_model("lite-ct", "cpu").embed(volume)
    >>> similarities, grid = s.similarity_map(template, template, [0, 10, 0])
    >>> k, j, i = np.unravel_index(similarities.argmax(), similarities.shape)
    >>> bool(np.linalg.norm(grid.to_lps([i, j, k]) - [0, 10, 0]) < 4)  # the point itself, within a voxel
    True
    """
    check_comparable(emb_template, emb_query)
    vector = joint_vectors(emb_template, _checked_points([point_lps]))[0].cpu()
    index = search_index(emb_query)
    similarities = np.full(index.grid.n_voxels, -1.0, dtype=np.float32)
    for places in index.chunks():
        similarities[index.voxels[places.rows]] = (places.vectors.cpu() @ vector).numpy()
    return similarities.reshape(index.grid.shape_zyx), index.grid


def _checked_points(points_lps: Any, may_miss: bool = False) -> np.ndarray:
    """(N, 3) float64 of (N, 3) or (3,) numbers or of a point list; NaN only where some ``may_miss``."""
    given = getattr(points_lps, "positions_lps", points_lps)
    try:
        points = np.array(given, dtype=np.float64)
    except (TypeError, ValueError):
        points = np.full((1, 3), np.nan)
    points = points.reshape(-1, 3) if points.size == 0 or points.shape == (3,) else points
    if points.ndim != 2 or points.shape[1] != 3 or not (may_miss or np.all(np.isfinite(points))):
        raise InputError("The points are not finite (N, 3) coordinates.", "Give x, y, z in mm (LPS) for each point.")
    return points


def why_not_asked(emb: Embedding, index: SearchIndex, point: np.ndarray) -> str:
    """Why a template point cannot be asked for; empty when it can."""
    beyond = emb.volume_grid.beyond_mm(point)
    if beyond > 0:
        return f"The point lies {math.ceil(beyond)} mm outside the template scan."
    reach = np.ceil(SKIN_TOLERANCE_MM / index.grid.spacing_ijk_mm).astype(int)
    offsets = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1).reshape(-1, 3)
    around = np.rint(index.grid.to_ijk(point)).astype(np.int64) + offsets
    in_body = around[index.rows_at(around) >= 0]
    distance = np.linalg.norm(index.grid.to_lps(in_body) - point, axis=1)
    if not np.any(distance <= SKIN_TOLERANCE_MM):
        return "The point lies in the air around the patient (or on the table) in the template scan."
    return ""
