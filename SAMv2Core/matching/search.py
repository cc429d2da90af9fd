"""Exact search for the most similar place of a volume, prepared once per embedding.

Why not one big matrix product: a torso has some 450,000 voxels in the body and joint vectors of 128 to 384 numbers.
Comparing one vector with all of them takes 100 ms on one core, and a click needs three searches (forth, back and for a
rival) within 50 ms. So the search is branch and bound, and still exact:

* rows (joint vectors) are kept for body voxels only, sorted along a space-filling curve, so that a *brick* of
  :data:`BRICK` consecutive rows is a compact piece of the body;
* every row is also kept as its projection on the r directions that carry most of all rows' energy, plus the
  length of what is left over. By Cauchy-Schwarz, ``projection . projection + rest * rest`` can only exceed
  the similarity; with the rest as one more component this bound is a single product of r + 1 columns;
* bricks are visited in the order of their bounds until no bound exceeds the best similarity found.

With a trained network one brick in a hundred is read, and a search takes 6 to 9 ms; with vectors of no structure at
all it degrades to the full comparison. Rows are float16 (they come from float16 feature maps) and are multiplied in
float32, in [points, rows] tiles; no array of points x voxels is ever made.

Memory of an index: ``rows * (2 K + 4 (r + 1) + 8)`` bytes plus 4 bytes per voxel of the fine lattice; a torso of
458,000 body voxels takes 255 MB with K = 128 and r = 64, about 510 MB with K = 384. An index lives as long as its
embedding, or until :func:`release_index`.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from typing import Dict, Iterator, Optional, Tuple

import numpy as np
import torch
from scipy import ndimage

from SAMv2Core.embedding.embedding import Embedding
from SAMv2Core.errors import InputError, ModelError
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.matching.similarity import lattice_vectors
from SAMv2Core.progress import Progress

BRICK = 256
BRICKS_PER_TILE = 64
POINTS_PER_TILE = 256
ENERGY_KEPT = 0.95
MIN_DIRECTIONS, MAX_DIRECTIONS = 16, 64
_ROUNDING = 2e-3  # added to every rest, covers the rounding of float32 sums and float16 rows


@dataclass(frozen=True, eq=False)
class SearchIndex:
    """The rows of one embedding that a search may return, and what is needed to search and refine them.

    Rows ``0 .. n_body - 1`` are the body voxels, each once; copies of the last one fill its brick; then come
    the voxels around the body, which are never found but serve the sub-voxel fit.

    :param grid: the fine lattice.
    :param voxels: (R,) int64, flat (z, y, x) index of each row's voxel.
    :param row_of_voxel: (d*h*w,) int32, row of each voxel, -1 where there is none.
    :param rows: (R, K) float16 joint vectors of unit length.
    :param bounds: (n_bricks * BRICK, r + 1) float32, projections and rest.
    :param directions: (K, r) float32, orthonormal columns.
    :param n_body: number of body voxels.
    :param brick_centers_lps: (n_bricks, 3) LPS mm, middle of each brick's voxels.
    :param brick_radii_mm: (n_bricks,) distance of its farthest voxel from there.
    """

    grid: Grid
    voxels: np.ndarray
    row_of_voxel: np.ndarray
    rows: torch.Tensor
    bounds: torch.Tensor
    directions: torch.Tensor
    n_body: int
    brick_centers_lps: np.ndarray
    brick_radii_mm: np.ndarray

    @property
    def n_bricks(self) -> int:
        return int(self.bounds.shape[0]) // BRICK

    @property
    def nbytes(self) -> int:
        tensors = (self.rows, self.bounds, self.directions)
        arrays = self.voxels.nbytes + self.row_of_voxel.nbytes
        return arrays + sum(t.numel() * t.element_size() for t in tensors)

    def ijk(self, rows: np.ndarray) -> np.ndarray:
        """(..., 3) int voxel indices (x, y, z) of rows."""
        z, y, x = np.unravel_index(self.voxels[rows], self.grid.shape_zyx)
        return np.stack([x, y, z], axis=-1)

    def points_lps(self, rows: np.ndarray) -> np.ndarray:
        """(..., 3) LPS mm of the voxel centers of rows."""
        return self.grid.to_lps(self.ijk(rows))

    def rows_at(self, ijk: np.ndarray, body_only: bool = True) -> np.ndarray:
        """(...,) rows of voxels (x, y, z); -1 outside the lattice or, ``body_only``, outside the body."""
        ijk = np.asarray(ijk)
        inside = np.all((ijk >= 0) & (ijk < self.grid.size_ijk), axis=-1)
        safe = np.where(inside[..., None], ijk, 0)
        flat = np.ravel_multi_index((safe[..., 2], safe[..., 1], safe[..., 0]), self.grid.shape_zyx)
        rows = np.where(inside, self.row_of_voxel[flat], -1)
        return np.where(rows < self.n_body, rows, -1) if body_only else rows

    def vectors(self, rows: np.ndarray) -> torch.Tensor:
        """(n, K) float32 joint vectors of rows."""
        return self.rows[torch.from_numpy(np.asarray(rows, dtype=np.int64)).to(self.rows.device)].float()


@dataclass(frozen=True, eq=False)
class Expectation:
    """Where the results of a search are expected: departures lower the similarity by ``stiffness * distance^2``.

    :param places_lps: (N, 3) LPS mm.
    :param stiffness: (N,) per mm squared; 0 expects nothing.
    """

    places_lps: np.ndarray
    stiffness: np.ndarray

    def part(self, chosen: np.ndarray | slice) -> Expectation:
        return Expectation(self.places_lps[chosen], self.stiffness[chosen])

    def penalty(self, points_lps: np.ndarray, slack_mm: np.ndarray | float = 0.0) -> np.ndarray:
        """(N, M) float32, what each of (M, 3) points costs each vector; ``slack_mm`` (M,) is taken off the distance."""
        squared = np.square(points_lps).sum(1)[None] - 2 * self.places_lps @ points_lps.T
        squared += np.square(self.places_lps).sum(1)[:, None]
        distance = np.maximum(np.sqrt(np.maximum(squared, 0)) - slack_mm, 0)
        return (self.stiffness[:, None] * distance**2).astype(np.float32)


def build_index(emb: Embedding) -> SearchIndex:
    """Prepare an embedding for searching; takes about a second for a torso.

    :raises InputError: when the body mask is empty or does not fit the fine lattice.
    :raises ModelError: when the vectors are not finite.
    """
    body = np.asarray(emb.body, dtype=bool)
    if body.shape != emb.fine.grid.shape_zyx:
        raise InputError(
            f"The body mask has shape {body.shape}, the fine lattice {emb.fine.grid.shape_zyx}.",
            "Embed again.",
        )
    if not body.any():
        raise InputError(f"No body was found in {emb.source or 'the volume'}.", "Check the volume and its modality.")
    inside = _along_curve(np.flatnonzero(body), body.shape)
    shell = np.flatnonzero(ndimage.binary_dilation(body, np.ones((3, 3, 3))) & ~body)
    padding = np.full(-len(inside) % BRICK, inside[-1])
    voxels = np.concatenate([inside, padding, shell])
    row_of_voxel = np.full(body.size, -1, dtype=np.int32)
    row_of_voxel[voxels[::-1]] = np.arange(len(voxels), dtype=np.int32)[::-1]  # the first of equal voxels wins
    rows = lattice_vectors(emb, voxels, torch.float16)
    if not bool(torch.isfinite(rows).all()):
        raise ModelError(
            f"The embedding of {emb.source or 'the volume'} holds values that are no numbers.",
            "Embed the volume again in full precision (--precision fp32).",
        )
    n_searched = len(inside) + len(padding)
    directions = _main_directions(rows[:n_searched])
    bounds = _project(rows[:n_searched], directions)
    z, y, x = np.unravel_index(voxels[:n_searched], body.shape)
    places = emb.fine.grid.to_lps(np.stack([x, y, z], axis=1)).reshape(-1, BRICK, 3)
    centers = places.mean(axis=1)
    radii = np.linalg.norm(places - centers[:, None], axis=2).max(axis=1)
    return SearchIndex(emb.fine.grid, voxels, row_of_voxel, rows, bounds, directions, len(inside), centers, radii)


def _along_curve(flat: np.ndarray, shape_zyx: Tuple[int, ...]) -> np.ndarray:
    """Sort voxels along the Z-order curve: interleave the bits of z, y and x."""
    code = np.zeros(len(flat), dtype=np.int64)
    for place, axis_index in enumerate(np.unravel_index(flat, shape_zyx)[::-1]):
        for bit in range(12):
            code |= ((axis_index >> bit) & 1) << (3 * bit + place)
    return flat[np.argsort(code, kind="stable")]


def _main_directions(rows: torch.Tensor, n_sample: int = 20000) -> torch.Tensor:
    """(K, r) orthonormal directions with :data:`ENERGY_KEPT` of the rows' squared length, most first."""
    sample = rows[:: max(1, len(rows) // n_sample)].float()
    values, vectors = torch.linalg.eigh((sample.T @ sample).double().cpu())
    kept = torch.cumsum(values.flip(0), 0) / values.sum()
    needed = int(torch.searchsorted(kept, torch.tensor(ENERGY_KEPT, dtype=kept.dtype))) + 1
    count = min(max(needed, MIN_DIRECTIONS), MAX_DIRECTIONS, rows.shape[1])
    return vectors.flip(1)[:, :count].float().contiguous().to(rows.device)


def _project(vectors: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """(n, r + 1) float32: components along the directions and the length of the rest."""
    out = torch.empty((len(vectors), directions.shape[1] + 1), device=vectors.device)
    for start in range(0, len(vectors), BRICK * BRICKS_PER_TILE):
        part = vectors[start : start + BRICK * BRICKS_PER_TILE].float()
        projected = part @ directions
        rest = (part.square().sum(1) - projected.square().sum(1)).clamp_min(0).sqrt()
        out[start : start + len(part), :-1] = projected
        out[start : start + len(part), -1] = rest + _ROUNDING
    return out


_INDEXES: Dict[int, SearchIndex] = {}
_LOCK = threading.Lock()


def search_index(emb: Embedding) -> SearchIndex:
    """The index of an embedding, built at the first call and dropped with the embedding."""
    with _LOCK:
        index = _INDEXES.get(id(emb))
        if index is None:
            index = _INDEXES[id(emb)] = build_index(emb)
            weakref.finalize(emb, _INDEXES.pop, id(emb), None)
        return index


def release_index(emb: Embedding) -> None:
    """Free the memory of an embedding's index; the next search builds it again."""
    _INDEXES.pop(id(emb), None)


def search(
    index: SearchIndex,
    vectors: torch.Tensor,
    away_from_lps: Optional[np.ndarray] = None,
    radius_mm: float = 0.0,
    progress: Optional[Progress] = None,
    expected: Optional[Expectation] = None,
) -> Tuple[np.ndarray, np.ndarray]:
    """The body voxel most similar to each vector.

    :param vectors: (N, K) joint vectors.
    :param away_from_lps: (N, 3) LPS mm; rows within ``radius_mm`` of a vector's point do not count for it.
    :param progress: called as ``progress(fraction, text)`` between tiles of points; may raise ``Cancelled``.
    :param expected: where the results should lie; its penalty is part of the similarities returned.
    :returns: (N,) int64 rows, -1 where no candidate is left, and (N,) float32 similarities (-1 there).
    """
    found = np.full(len(vectors), -1, dtype=np.int64)
    best = np.full(len(vectors), -1.0, dtype=np.float32)
    for start in range(0, len(vectors), POINTS_PER_TILE):
        if progress is not None:
            progress(start / len(vectors), "Searching")
        tile = slice(start, start + POINTS_PER_TILE)
        away = None if away_from_lps is None else np.asarray(away_from_lps)[tile]
        prior = None if expected is None else expected.part(tile)
        found[tile], best[tile] = _search_tile(index, vectors[tile].to(index.rows.device), away, radius_mm, prior)
    # A copy that fills the last brick may win over its original by rounding; name the original.
    found = np.where(found >= 0, index.row_of_voxel[index.voxels[found]], -1)
    return found, np.where(found >= 0, best, -1.0).astype(np.float32)


def _search_tile(
    index: SearchIndex,
    vectors: torch.Tensor,
    away: Optional[np.ndarray],
    radius_mm: float,
    expected: Optional[Expectation],
) -> Tuple[np.ndarray, np.ndarray]:
    bounds = _brick_bounds(index, vectors).cpu().numpy()
    if expected is not None:
        bounds = bounds - expected.penalty(index.brick_centers_lps, index.brick_radii_mm + 1e-3)
    order = np.argsort(-bounds, axis=1, kind="stable")
    limit = np.take_along_axis(bounds, order, axis=1)
    best = np.full(len(vectors), -np.inf, dtype=np.float32)
    found = np.full(len(vectors), -1, dtype=np.int64)
    start, width = 0, 2
    active = np.arange(len(vectors))
    while len(active) and start < index.n_bricks:
        ranks = slice(start, start + width)
        open_brick = limit[active, ranks] > best[active, None]
        point, brick = np.repeat(active, open_brick.sum(1)), order[active, ranks][open_brick]
        for bricks, members in _work_pieces(point, brick):
            rows, values = _best_in_bricks(index, bricks, vectors, members, away, radius_mm, expected)
            better = values > best[members]
            best[members[better]], found[members[better]] = values[better], rows[better]
        start, width = start + width, min(2 * width, 64)
        active = active[limit[active, start] > best[active]] if start < index.n_bricks else active[:0]
    return found, best


def _brick_bounds(index: SearchIndex, vectors: torch.Tensor) -> torch.Tensor:
    """(N, n_bricks) float32: no row of a brick can be more similar to a vector than this."""
    queries = _project(vectors, index.directions)
    out = torch.empty((len(vectors), index.n_bricks), device=vectors.device)
    for first in range(0, index.n_bricks, BRICKS_PER_TILE):
        rows = index.bounds[first * BRICK : (first + BRICKS_PER_TILE) * BRICK]
        bound = (queries @ rows.T).reshape(len(vectors), -1, BRICK)
        out[:, first : first + bound.shape[1]] = bound.amax(dim=2)
    return out


def _work_pieces(point: np.ndarray, brick: np.ndarray) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
    """Split (point, brick) pairs into (bricks, points) products: one for a few points, else one per brick."""
    points, bricks = np.unique(point), np.unique(brick)
    if len(points) <= 8:
        yield bricks, points
        return
    for number in bricks:
        yield np.array([number]), point[brick == number]


def _best_in_bricks(
    index: SearchIndex,
    bricks: np.ndarray,
    vectors: torch.Tensor,
    members: np.ndarray,
    away: Optional[np.ndarray],
    radius_mm: float,
    expected: Optional[Expectation],
) -> Tuple[np.ndarray, np.ndarray]:
    """Best row and similarity of the vectors ``members`` in some bricks; (n,) int64, (n,) float32."""
    numbers = (bricks[:, None] * BRICK + np.arange(BRICK)).ravel()
    similarity = vectors[torch.from_numpy(members).to(vectors.device)] @ index.vectors(numbers).T
    if away is not None:
        offsets = index.points_lps(numbers)[None] - away[members][:, None]
        near = np.einsum("nrc,nrc->nr", offsets, offsets) <= radius_mm**2
        similarity = similarity.masked_fill(torch.from_numpy(near).to(similarity.device), -np.inf)
    if expected is not None:
        similarity = similarity - torch.from_numpy(expected.part(members).penalty(index.points_lps(numbers))).to(
            similarity.device
        )
    values, columns = similarity.max(dim=1)
    return numbers[columns.cpu().numpy()], values.cpu().numpy()
