"""The most similar place of a body, or of a ball in it: plain products of vectors, chunk by chunk.

The rows of a search are the joint vectors of the body's voxels (:mod:`SAMv2Core.matching.similarity`), float16 as the
heads are stored, multiplied in float32. With an expectation of where a point lies, a ball of some thousand voxels is
all that has to be compared; the whole body (a torso: 270,000 to 900,000 voxels) is for what nothing is expected of.
Branch and bound over bricks of voxels was exact, too, and 1.1 to 1.8 times as fast where many points are searched in
the whole body, for three times the code and 0.9 s to prepare every index.

Memory of an index: ``rows * (2 K + 8)`` bytes plus 4 bytes per voxel of the fine lattice. An index lives as long as its
embedding, or until :func:`release_index`.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from functools import cached_property
from typing import Dict, Iterator, Optional, Tuple

import numpy as np
import torch

from SAMv2Core.embedding.embedding import Embedding, with_shell
from SAMv2Core.errors import InputError, ModelError
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.matching.similarity import lattice_vectors
from SAMv2Core.progress import Progress

ROWS_PER_CHUNK = 16384
POINTS_PER_TILE = 512


@dataclass(frozen=True, eq=False)
class Places:
    """Some places of a body, ready to be compared.

    :param index: of the body.
    :param rows: (n,) int64, their rows in the index.
    :param vectors: (n, K) float32.
    """

    index: SearchIndex
    rows: np.ndarray
    vectors: torch.Tensor

    @cached_property
    def points_lps(self) -> np.ndarray:
        """(n, 3) LPS mm; a fifth of a search that asks for them."""
        return self.index.points_lps(self.rows)


@dataclass(frozen=True, eq=False)
class SearchIndex:
    """The rows of one embedding that a search may return, and what is needed to search and refine them.

    Rows ``0 .. n_body - 1`` are the body voxels in the lattice's order; then come the voxels around the body, which are
    never found but serve the sub-voxel fit.

    :param grid: the fine lattice.
    :param voxels: (R,) int64, flat (z, y, x) index of each row's voxel.
    :param row_of_voxel: (d*h*w,) int32, row of each voxel, -1 where there is none.
    :param rows: (R, K) float16 joint vectors of unit length.
    :param n_body: number of body voxels.
    """

    grid: Grid
    voxels: np.ndarray
    row_of_voxel: np.ndarray
    rows: torch.Tensor
    n_body: int

    @property
    def nbytes(self) -> int:
        arrays = self.voxels.nbytes + self.row_of_voxel.nbytes
        return arrays + self.rows.numel() * self.rows.element_size()

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

    def vectors(self, rows: np.ndarray | slice) -> torch.Tensor:
        """(n, K) float32 joint vectors of rows."""
        if isinstance(rows, slice):
            return self.rows[rows].float()
        return self.rows[torch.from_numpy(np.asarray(rows, dtype=np.int64)).to(self.rows.device)].float()

    def rows_within(self, center_lps: np.ndarray, radius_mm: float) -> np.ndarray:
        """(n,) rows of the body voxels within a radius of a place."""
        reach = np.ceil(radius_mm * np.linalg.norm(self.grid.lps_to_ijk[:3, :3], axis=1)).astype(int)
        middle = np.rint(self.grid.to_ijk(center_lps)).astype(np.int64)
        low, high = np.maximum(middle - reach, 0), np.minimum(middle + reach, self.grid.size_ijk - 1)
        if np.any(high < low):
            return np.empty(0, dtype=np.int64)
        (i0, j0, k0), (i1, j1, k1) = low, high + 1
        rows = self.row_of_voxel.reshape(self.grid.shape_zyx)[k0:k1, j0:j1, i0:i1]
        rows = rows[(rows >= 0) & (rows < self.n_body)].astype(np.int64)
        return rows[np.square(self.points_lps(rows) - center_lps).sum(axis=1) <= radius_mm**2]

    def ball(self, center_lps: np.ndarray, radius_mm: float) -> Places:
        """The body voxels within a radius of a place."""
        rows = self.rows_within(center_lps, radius_mm)
        return Places(self, rows, self.vectors(rows))

    def chunks(self) -> Iterator[Places]:
        """The whole body, :data:`ROWS_PER_CHUNK` voxels at a time."""
        for start in range(0, self.n_body, ROWS_PER_CHUNK):
            rows = np.arange(start, min(start + ROWS_PER_CHUNK, self.n_body))
            yield Places(self, rows, self.vectors(slice(start, int(rows[-1]) + 1)))


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

    def penalty(self, points_lps: np.ndarray) -> np.ndarray:
        """(N, M) float32, what each of (M, 3) points costs each vector."""
        return (self.stiffness[:, None] * np.maximum(_squared_mm(self.places_lps, points_lps), 0)).astype(np.float32)


def _squared_mm(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, M) squared distances of (N, 3) and (M, 3) points, by one product; rounding may leave -1e-9 for 0."""
    return np.square(a).sum(1)[:, None] - 2 * a @ b.T + np.square(b).sum(1)[None]


def build_index(emb: Embedding) -> SearchIndex:
    """Prepare an embedding for searching.

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
    inside, voxels = with_shell(body)
    row_of_voxel = np.full(body.size, -1, dtype=np.int32)
    row_of_voxel[voxels] = np.arange(len(voxels), dtype=np.int32)
    rows = lattice_vectors(emb, voxels, torch.float16)
    if not bool(torch.isfinite(rows.sum(dtype=torch.float32))):  # one that is no number makes the sum none
        raise ModelError(
            f"The embedding of {emb.source or 'the volume'} holds values that are no numbers.",
            "Embed the volume again in full precision (--precision fp32).",
        )
    return SearchIndex(emb.fine.grid, voxels, row_of_voxel, rows, len(inside))


_INDEXES: Dict[int, SearchIndex] = {}
_LOCKS: Dict[int, threading.Lock] = {}
_LOCK = threading.Lock()


def search_index(emb: Embedding) -> SearchIndex:
    """The index of an embedding, built at the first call and dropped with the embedding.

    Two threads build two indexes at once, and one of one embedding once: a ready index never waits.
    """
    key = id(emb)
    with _LOCK:
        if key not in _LOCKS:
            _LOCKS[key] = threading.Lock()
            weakref.finalize(emb, _forget, key)
        lock = _LOCKS[key]
    index = _INDEXES.get(key)
    if index is None:
        with lock:
            index = _INDEXES.get(key)
            if index is None:
                index = _INDEXES[key] = build_index(emb)
    return index


def _forget(key: int) -> None:
    _INDEXES.pop(key, None)
    _LOCKS.pop(key, None)


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
    best = np.full(len(vectors), -np.inf, dtype=np.float32)
    for start in range(0, len(vectors), POINTS_PER_TILE):
        tile = slice(start, start + POINTS_PER_TILE)
        if progress is not None:
            progress(start / len(vectors), "Searching")
        away = None if away_from_lps is None else np.asarray(away_from_lps)[tile]
        prior = None if expected is None else expected.part(tile)
        mine = vectors[tile].to(index.rows.device)
        for places in index.chunks():
            rows, values = most_similar(places, mine, prior, away, radius_mm)
            better = values > best[tile]
            found[tile] = np.where(better, rows, found[tile])
            best[tile] = np.where(better, values, best[tile])
    return found, np.where(found >= 0, best, -1.0).astype(np.float32)


def search_near(
    index: SearchIndex, vectors: torch.Tensor, expected: Expectation, radius_mm: float
) -> Tuple[np.ndarray, np.ndarray]:
    """As :func:`search`, within a radius of the expected places; -1 where the body does not reach."""
    found = np.full(len(vectors), -1, dtype=np.int64)
    best = np.full(len(vectors), -1.0, dtype=np.float32)
    for n, place in enumerate(expected.places_lps):
        one, ball = slice(n, n + 1), index.ball(place, radius_mm)
        if len(ball.rows):
            found[one], best[one] = most_similar(ball, vectors[one].to(index.rows.device), expected.part(one))
    return found, best


def most_similar(
    places: Places,
    vectors: torch.Tensor,
    expected: Optional[Expectation] = None,
    away_from_lps: Optional[np.ndarray] = None,
    radius_mm: float = 0.0,
) -> Tuple[np.ndarray, np.ndarray]:
    """As :func:`search`, among some places: (N,) rows and (N,) similarities, ``-inf`` where no candidate is left.

    :raises IndexError: no places.
    """
    similarity = vectors @ places.vectors.T
    if away_from_lps is not None:
        near = _squared_mm(away_from_lps, places.points_lps) <= radius_mm**2
        similarity.masked_fill_(torch.from_numpy(near).to(similarity.device), -np.inf)
    if expected is not None:
        similarity -= torch.from_numpy(expected.penalty(places.points_lps)).to(similarity.device)
    values, columns = similarity.max(dim=1)
    return places.rows[columns.cpu().numpy()], values.cpu().numpy()
