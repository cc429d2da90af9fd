"""Roughly where every part of one body lies in another: what all matches together say, before one is asked for.

One match may be grossly wrong (a vertebra one level off, the wrong kidney), a thousand seldom are wrong together:
anatomy is locally smooth, wrong matches are not. So some points spread over the template's body are matched in the
query and back on a coarse lattice; those that return are smoothed by a robust affine map and a kernel regression of
what it leaves, with outliers rejected by what their neighbors say. The map is no answer by itself (its error between
patients is some 15 mm) but an expectation: a search that weighs it stays out of the wrong end of the body
(:class:`SAMv2Core.matching.search.Expectation`).

Not in the paper. It lowers the mean error of nearest neighbors between torsos from 15.2 to 11.9 mm (448 landmarks of 5
validation patients); fixed points come to 11.7 mm without and 11.1 with it (difference 0.6, 95 % -0.6 to 1.8). The
verdict and :func:`SAMv2Core.matching.match.locate` rest on it, too.

Conventions: points are (N, 3) LPS mm. Everything is seeded; equal inputs give equal maps.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from typing import Dict, Optional, Tuple

import numpy as np
import torch
from scipy.spatial import cKDTree

from SAMv2Core.embedding.embedding import Embedding
from SAMv2Core.matching.confidence import UncertaintyModel
from SAMv2Core.matching.robust import redescending, reweighted
from SAMv2Core.matching.search import Expectation, SearchIndex, search_index

N_POINTS = 1000
LATTICE_STEP = 2  # fine voxels: every eighth body voxel is a candidate
RETURN_MM = 20.0  # a match that comes back this near agrees with itself; candidates lie 8 mm apart
KERNEL_MM = 32.0
REJECT_MM = 25.0
MIN_MATCHES = 40
N_NEIGHBORS = 24
SCALES = (0.6, 1.6)
"""Bodies are not stretched or squeezed more than this along any axis: pairs of validation scans that overlap lie within
0.69 to 1.15, necks laid over abdomens at 0.12 to 2.06."""

ROUGH_COST, USUAL_ROUGHNESS_MM = 0.02, 10.0  # per mm; of the median pair of two patients

FLOOR_MM = 20.0
WEIGHT = 0.01
"""A departure of one spread costs this much similarity, two spreads four times as much. Chosen, like the floor of the
spread and the kernel, on landmarks between patients: at 0.02 the mean of 456 is 0.5 mm worse (0.3 to 0.7)."""


@dataclass(frozen=True, eq=False)
class BodyMap:
    """Where places of one body are expected in another.

    :param source_lps: (M, 3) points whose matches agree.
    :param shift_mm: (M, 3) their matches minus the affine map of the points.
    :param weights: (M,) trust in each.
    :param residual_mm: (M,) how far each lies from what its neighbors say.
    :param affine: (4, 3), ``[source 1] @ affine``.
    """

    source_lps: np.ndarray
    shift_mm: np.ndarray
    weights: np.ndarray
    residual_mm: np.ndarray
    affine: np.ndarray

    @property
    def likeness(self) -> float:
        """Median similarity of the matches that agree, less what their roughness costs.

        Maps between a neck and an abdomen are as similar as some between two necks (0.64 to 0.78 and 0.70 to 0.83), but
        rougher (10 to 16 mm and 6 to 9 mm); together the two tell them apart.
        """
        return float(np.median(self.weights)) - ROUGH_COST * (self.roughness_mm - USUAL_ROUGHNESS_MM)

    @property
    def roughness_mm(self) -> float:
        """How far a match typically lies from what its neighbors say; more between two patients than in a follow-up."""
        return float(np.median(self.residual_mm))

    def predict(self, points_lps: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Expected places and how far off they may be.

        :param points_lps: (N, 3) LPS mm in the source.
        :returns: (N, 3) LPS mm in the target and (N,) mm, one standard deviation of the distance, at least
            :data:`FLOOR_MM`; it grows away from the matches that support the map.
        """
        points = np.atleast_2d(np.asarray(points_lps, dtype=np.float64))
        values = np.column_stack([self.shift_mm, self.residual_mm**2])
        smooth, _ = kernel_regression(self.source_lps, values, self.weights, points)
        beyond, _ = cKDTree(self.source_lps).query(points)
        beyond = np.maximum(beyond - KERNEL_MM, 0.0)
        spread = np.sqrt(FLOOR_MM**2 + smooth[:, 3] + (0.5 * beyond) ** 2)
        return _homogeneous(points) @ self.affine + smooth[:, :3], spread

    def expectation(self, points_lps: np.ndarray) -> Expectation:
        """The map as a search weighs it, for (N, 3) LPS mm in the source."""
        places, spread = self.predict(points_lps)
        return Expectation(places, WEIGHT / spread**2)


def expectation_of(body_map: Optional[BodyMap], points_lps: np.ndarray) -> Optional[Expectation]:
    """What a map expects of points; nothing without a map."""
    return None if body_map is None else body_map.expectation(points_lps)


def fit_body_map(source_lps: np.ndarray, target_lps: np.ndarray, weights: np.ndarray) -> Optional[BodyMap]:
    """A smooth map through pairs of which many may be wrong.

    None when fewer than :data:`MIN_MATCHES` agree, or only on what no body becomes in another (:data:`SCALES`).

    :param source_lps: (N, 3) and their matches ``target_lps`` (N, 3), LPS mm.
    :param weights: (N,) > 0, trust in each pair.
    """
    keep = np.ones(len(source_lps), dtype=bool)
    trust = weights
    for number in range(4):
        if keep.sum() < MIN_MATCHES:
            return None
        affine = robust_affine(source_lps[keep], target_lps[keep], weights[keep])
        shift = target_lps - _homogeneous(source_lps) @ affine
        if number == 0:  # wrong matches must not outvote their neighbors before these have been heard
            trust = weights * redescending(np.linalg.norm(shift, axis=1), REJECT_MM)
        smooth, support = kernel_regression(source_lps[keep], shift[keep], trust[keep], source_lps, exclude_self=True)
        residual = np.linalg.norm(shift - smooth, axis=1)
        trust = weights * redescending(residual, REJECT_MM)
        keep = (residual < REJECT_MM) & (support > 0.1) if number else keep
    scales = np.linalg.svd(affine[:3], compute_uv=False)
    if keep.sum() < MIN_MATCHES or scales[-1] < SCALES[0] or scales[0] > SCALES[1]:
        return None
    return BodyMap(source_lps[keep], shift[keep], weights[keep], residual[keep], affine)


def robust_affine(source: np.ndarray, target: np.ndarray, weights: np.ndarray, n_iterations: int = 30) -> np.ndarray:
    """(4, 3) ``target ~ [source 1] @ M`` by re-weighted least squares, weakly drawn to unit scale."""
    x = _homogeneous(source)
    identity = np.r_[np.eye(3), np.zeros((1, 3))]
    shift = np.median(target, axis=0) - np.median(source, axis=0)
    size = np.linalg.norm(source + shift - target, axis=1)
    prior = np.diag([1.0, 1.0, 1.0, 0.0]) * len(source) * 25.0**2

    def weigh(size: np.ndarray) -> np.ndarray:
        return weights * redescending(size, max(8.0, 1.5 * float(np.median(size))))

    departure, _ = reweighted(x, target - source, prior, size, weigh, n_iterations, is_share=True)
    return identity + departure


def _homogeneous(points: np.ndarray) -> np.ndarray:
    return np.column_stack([points, np.ones(len(points))])


def kernel_regression(
    points: np.ndarray,
    values: np.ndarray,
    weights: np.ndarray,
    at: np.ndarray,
    sigma_mm: float = KERNEL_MM,
    exclude_self: bool = False,
) -> Tuple[np.ndarray, np.ndarray]:
    """Gaussian-weighted means over the nearest points.

    :param points: (N, 3) mm with ``values`` (N, K) and ``weights`` (N,).
    :param at: (M, 3) mm where the means are wanted.
    :param exclude_self: points at the very place do not count (leave one out).
    :returns: (M, K) means and (M,) summed weights, the support.
    """
    k = min(N_NEIGHBORS, len(points))
    distance, index = cKDTree(points).query(at, k=k)
    distance, index = distance.reshape(len(at), k), index.reshape(len(at), k)
    w = weights[index] * np.exp(-0.5 * (distance / sigma_mm) ** 2)
    if exclude_self:
        w[distance < 1e-6] = 0
    support = w.sum(axis=1)
    # Far from all points the weights vanish together; their ratios still mean something.
    relative = weights[index] * np.exp(-0.5 * (distance**2 - distance[:, :1] ** 2) / sigma_mm**2)
    used = np.where((support > 1e-6)[:, None], w, relative)
    return (used[..., None] * values[index]).sum(axis=1) / used.sum(axis=1)[:, None], support


_MAPS: Dict[Tuple[int, int, int], Tuple[Optional[BodyMap], Optional[BodyMap]]] = {}
_LOCKS: Dict[Tuple[int, int, int], threading.Lock] = {}
_LOCK = threading.Lock()


def body_maps(
    emb_template: Embedding, emb_query: Embedding, seed: int = 0
) -> Tuple[Optional[BodyMap], Optional[BodyMap]]:
    """The maps from template to query and back; both None when too few matches agree. Kept as long as both live.

    Bodies that share no part agree, too, but less: their :attr:`BodyMap.likeness` stays below what the model's
    calibration names (:attr:`SAMv2Core.matching.confidence.UncertaintyModel.map_likeness`), and they have no map.
    """
    key = (id(emb_template), id(emb_query), seed)
    with _LOCK:
        if key not in _LOCKS:
            _LOCKS[key] = threading.Lock()
            for emb in (emb_template, emb_query):
                weakref.finalize(emb, _forget, key)
        lock = _LOCKS[key]
    with lock:
        if key not in _MAPS:
            maps = _make_maps(search_index(emb_template), search_index(emb_query), seed)
            alike = emb_template.modality == emb_query.modality  # the cosine of a CT's and an MR's is another one
            least = UncertaintyModel.from_metadata(emb_query.calibration).map_likeness if alike else -1.0
            _MAPS[key] = maps if all(found is not None and found.likeness >= least for found in maps) else (None, None)
        return _MAPS[key]


def _forget(key: Tuple[int, int, int]) -> None:
    _MAPS.pop(key, None)
    _LOCKS.pop(key, None)


def body_map(emb_template: Embedding, emb_query: Embedding, seed: int = 0) -> Optional[BodyMap]:
    """The map from template to query, see :func:`body_maps`."""
    return body_maps(emb_template, emb_query, seed)[0]


def _make_maps(template: SearchIndex, query: SearchIndex, seed: int) -> Tuple[Optional[BodyMap], Optional[BodyMap]]:
    sides = []
    for index in (template, query):
        rows = np.arange(index.n_body)
        rows = rows[np.all(index.ijk(rows) % LATTICE_STEP == 0, axis=1)]
        sides.append((index.points_lps(rows), index.vectors(rows)))
    (points_t, vectors_t), (points_q, vectors_q) = sides
    if min(len(points_t), len(points_q)) < MIN_MATCHES:
        return None, None
    asked = np.random.default_rng(seed).permutation(len(points_t))[:N_POINTS]
    there, cosine = _most_similar(vectors_t[torch.from_numpy(asked)], vectors_q)
    back, _ = _most_similar(vectors_q[torch.from_numpy(there)], vectors_t)
    returned = np.linalg.norm(points_t[back] - points_t[asked], axis=1) <= RETURN_MM
    source, target = points_t[asked][returned], points_q[there][returned]
    weights = np.clip(cosine[returned], 0.05, 1.0)
    return fit_body_map(source, target, weights), fit_body_map(target, source, weights)


def _most_similar(vectors: torch.Tensor, bank: torch.Tensor) -> Tuple[np.ndarray, np.ndarray]:
    """Row of the bank most similar to each vector, and the similarity."""
    found = [(part @ bank.T).max(dim=1) for part in vectors.split(250)]
    rows = torch.cat([f.indices for f in found]).cpu().numpy()
    return rows, torch.cat([f.values for f in found]).cpu().numpy().astype(np.float64)
