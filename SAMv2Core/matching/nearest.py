"""Which place of one body looks like which place of another, with a check by matching back.

The nearest neighbor of every sampled point is searched in the whole other body, then matched back (paper sec.
3.2 uses the same cycle for single points). A correct match comes back near its start; one that comes back
elsewhere says that the anatomy is missing or ambiguous. A second pass, once a transform is known, searches
near the predicted place only.

Conventions: points (N, 3) LPS mm; a match is a position between voxels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np
import torch

from SAMv2Core.embedding.embedding import Embedding
from SAMv2Core.matching import subvoxel
from SAMv2Core.matching.search import SearchIndex, search, search_index
from SAMv2Core.matching.similarity import joint_vectors
from SAMv2Core.progress import Progress, part

CANDIDATES_PER_TILE = 16384  # voxels looked at together near predictions: some 25 MB of vectors


@dataclass(frozen=True, eq=False)
class Correspondences:
    """Points of one body and their matches in another.

    :param source_lps: (N, 3) the points.
    :param target_lps: (N, 3) their matches.
    :param similarity: (N,) of each match, -1 to 1.
    :param cycle_mm: (N,) distance between each point and the match of its match; infinite where there is
        none.
    """

    source_lps: np.ndarray
    target_lps: np.ndarray
    similarity: np.ndarray
    cycle_mm: np.ndarray

    def trust(self, cycle_scale_mm: float, max_cycle_mm: float) -> np.ndarray:
        """(N,) weights 0..1: falling with the cycle's length and, by rank, with the similarity.

        By rank, since what similarity is high depends on the model; the least similar match counts a quarter.
        """
        rank = np.argsort(np.argsort(self.similarity)) / max(len(self.similarity) - 1, 1)
        weights = (0.25 + 0.75 * rank) / (1 + (self.cycle_mm / cycle_scale_mm) ** 2)
        return np.where(self.cycle_mm <= max_cycle_mm, weights, 0.0)


def match_nearest(
    emb_a: Embedding, emb_b: Embedding, points_lps: np.ndarray, progress: Optional[Progress] = None
) -> Tuple[np.ndarray, np.ndarray]:
    """The most similar place of b's whole body for points of a.

    :returns: (N, 3) LPS mm and (N,) similarities.
    """
    index, vectors = search_index(emb_b), joint_vectors(emb_a, points_lps)
    rows, similarity = search(index, vectors, progress=progress)
    return subvoxel.refine(index, vectors, rows), similarity.astype(np.float64)


def match_nearby(
    emb_a: Embedding,
    emb_b: Embedding,
    points_lps: np.ndarray,
    around_lps: np.ndarray,
    radius_mm: float,
    progress: Optional[Progress] = None,
) -> Tuple[np.ndarray, np.ndarray]:
    """The most similar place of b's body within ``radius_mm`` of the expected places.

    :returns: (N, 3) LPS mm and (N,) similarities; NaN and -1 where there is no body within the radius.
    """
    index, vectors = search_index(emb_b), joint_vectors(emb_a, points_lps)
    offsets = _offsets_within(index, radius_mm)
    centers = np.rint(index.grid.to_ijk(around_lps)).astype(np.int64)
    found = np.full(len(points_lps), -1, dtype=np.int64)
    best = np.full(len(points_lps), -1.0, dtype=np.float32)
    tile = max(1, CANDIDATES_PER_TILE // len(offsets))
    for start in range(0, len(points_lps), tile):
        if progress is not None:
            progress(start / len(points_lps), "Searching near the predicted places")
        tiled = slice(start, start + tile)
        rows = index.rows_at(centers[tiled, None] + offsets[None])  # (n, m)
        values = _similarities(index, vectors[tiled], np.maximum(rows, 0))
        values[rows < 0] = -1.0
        leader = values.argmax(axis=1)
        one_each = np.arange(len(leader))
        best[tiled] = values[one_each, leader]
        found[tiled] = np.where(best[tiled] > -1.0, rows[one_each, leader], -1)
    positions = np.full((len(points_lps), 3), np.nan)
    hit = found >= 0
    positions[hit] = subvoxel.refine(index, vectors[torch.from_numpy(hit)], found[hit])
    return positions, best.astype(np.float64)


def correspond(
    emb_a: Embedding, emb_b: Embedding, points_lps: np.ndarray, progress: Optional[Progress] = None
) -> Correspondences:
    """Match points of a in the whole of b, and back in the whole of a."""
    target, similarity = match_nearest(emb_a, emb_b, points_lps, part(progress, 0.0, 0.5))
    back, _ = match_nearest(emb_b, emb_a, target, part(progress, 0.5, 1.0))
    return Correspondences(points_lps, target, similarity, np.linalg.norm(back - points_lps, axis=1))


def correspond_nearby(
    emb_a: Embedding,
    emb_b: Embedding,
    points_lps: np.ndarray,
    predicted_lps: np.ndarray,
    radius_mm: float,
    progress: Optional[Progress] = None,
) -> Correspondences:
    """Match points of a near their predicted places in b, and back; points with no body there are dropped."""
    target, similarity = match_nearby(emb_a, emb_b, points_lps, predicted_lps, radius_mm, part(progress, 0.0, 0.5))
    hit = np.isfinite(target[:, 0])
    points, target, similarity = points_lps[hit], target[hit], similarity[hit]
    back, _ = match_nearby(emb_b, emb_a, target, points, radius_mm, part(progress, 0.5, 1.0))
    cycle = np.linalg.norm(back - points, axis=1)
    return Correspondences(points, target, similarity, np.where(np.isfinite(cycle), cycle, np.inf))


def _offsets_within(index: SearchIndex, radius_mm: float) -> np.ndarray:
    """(m, 3) voxel offsets (x, y, z) whose length in mm is at most the radius."""
    axes = index.grid.ijk_to_lps[:3, :3]
    reach = np.ceil(radius_mm * np.linalg.norm(np.linalg.inv(axes), axis=1)).astype(int)
    ijk = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1).reshape(-1, 3)
    return ijk[np.linalg.norm(ijk @ axes.T, axis=1) <= radius_mm + 1e-6]


def _similarities(index: SearchIndex, vectors: torch.Tensor, rows: np.ndarray) -> np.ndarray:
    """(n, m) float32 similarities of n vectors to m rows each."""
    candidates = index.vectors(rows.reshape(-1)).reshape(*rows.shape, -1)
    return torch.einsum("nmk,nk->nm", candidates, vectors.to(candidates)).cpu().numpy()
