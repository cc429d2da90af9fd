"""What "similar" means: one vector per place; the dot product of two is the similarity of their places.

The paper concatenates the heads' vectors (arXiv 2311.15111, sec. 3.1) and compares with a dot product. Here
each head's unit vector is scaled by the square root of its weight before they are joined, so that the joint
vector has unit length and a dot product of two joint vectors is the weighted mean of the heads' cosines, in
[-1, 1].

Heads live on lattices of their own. All of them are sampled at *world* positions (trilinear, clamped to the
outermost voxel centers, then normalized again), so orientation, stride and spacing of a head never enter the
matching.

Conventions: points are (N, 3) LPS mm; maps are (C, d, h, w) = (C, z, y, x); joint vectors are (N, K) float32.
"""

from __future__ import annotations

from typing import List, Tuple

import numpy as np
import torch
import torch.nn.functional as F

from SAMv2Core.embedding.embedding import Embedding, FeatureMap
from SAMv2Core.errors import ModelError, UsageError
from SAMv2Core.geometry.grid import Grid

ROWS_PER_CHUNK = 16384
_CORNERS = np.array([[(n >> axis) & 1 for axis in range(3)] for n in range(8)])


def weighted_heads(emb: Embedding) -> List[Tuple[FeatureMap, float]]:
    """The heads that count, each with its weight; weights sum to 1, equal when the embedding names none.

    :raises ModelError: when no head has a positive weight.
    """
    named = {head.name: float(emb.head_weights.get(head.name, 0.0 if emb.head_weights else 1.0)) for head in emb.heads}
    total = sum(weight for weight in named.values() if weight > 0)
    if not total > 0:
        raise ModelError(
            f"The model {emb.model!r} gives no head of its embedding a positive weight.",
            "Import the model again.",
        )
    return [(head, named[head.name] / total) for head in emb.heads if named[head.name] > 0]


def check_comparable(emb_template: Embedding, emb_query: Embedding) -> None:
    """Refuse to compare vectors that two different networks made.

    :raises UsageError: something else than an embedding.
    :raises ModelError: when model, weights file or heads differ.
    """
    for given in (emb_template, emb_query):
        if not hasattr(given, "fine"):
            what = f"A {type(given).__name__}" if type(given).__name__ == "Volume" else f"{given!r:.60}"
            raise UsageError(f"{what} is no embedding.", "Embed it first: model.embed(volume), once per scan.")
    a, b = emb_template, emb_query
    if (a.model, a.model_sha256) != (b.model, b.model_sha256):
        same_name = f" (weights {a.model_sha256[:12]} and {b.model_sha256[:12]})" if a.model == b.model else ""
        raise ModelError(
            f"The embeddings come from different models, {a.model!r} and {b.model!r}{same_name}.",
            "Embed both volumes with the same model.",
        )
    heads_a = [(head.name, head.vectors.shape[0], weight) for head, weight in weighted_heads(a)]
    heads_b = [(head.name, head.vectors.shape[0], weight) for head, weight in weighted_heads(b)]
    if heads_a != heads_b:
        raise ModelError(
            f"The embeddings have different heads: {[h[0] for h in heads_a]} and {[h[0] for h in heads_b]}.",
            "Embed both volumes with the same model.",
        )


def vector_length(emb: Embedding) -> int:
    """K, the length of the joint vectors."""
    return sum(int(head.vectors.shape[0]) for head, _ in weighted_heads(emb))


def joint_vectors(emb: Embedding, points_lps: np.ndarray) -> torch.Tensor:
    """Joint vectors at world positions.

    :param points_lps: (N, 3) LPS mm; positions outside a head's lattice take the nearest border value.
    :returns: (N, K) float32 of unit length, on the embedding's device.
    """
    points = np.atleast_2d(np.asarray(points_lps, dtype=np.float64))
    parts = []
    for head, weight in weighted_heads(emb):
        index, corner_weights = _trilinear(head, points)
        flat = head.vectors.reshape(head.vectors.shape[0], -1)
        corners = flat[:, index.to(flat.device)].float()
        vectors = (corners * corner_weights.to(flat.device)).sum(-1)
        parts.append(F.normalize(vectors, dim=0) * float(np.sqrt(weight)))
    return torch.cat(parts).T.contiguous()


def lattice_vectors(emb: Embedding, flat_index: np.ndarray, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Joint vectors at fine feature voxels; heads on the fine lattice are looked up, the others sampled.

    :param flat_index: (M,) int64 into the flattened (z, y, x) fine lattice.
    :param dtype: precision of the result; the only array of full length that is made.
    :returns: (M, K) of unit length, on the embedding's device.
    """
    grid = emb.fine.grid
    out = torch.empty((len(flat_index), vector_length(emb)), dtype=dtype, device=emb.fine.vectors.device)
    column = 0
    for head, weight in weighted_heads(emb):
        width = int(head.vectors.shape[0])
        same = head.grid.shape_zyx == grid.shape_zyx and np.allclose(head.grid.ijk_to_lps, grid.ijk_to_lps)
        table = head.vectors.reshape(width, -1)
        table = table if same else table.T.float().contiguous()
        for start in range(0, len(flat_index), ROWS_PER_CHUNK):
            rows = flat_index[start : start + ROWS_PER_CHUNK]
            vectors = _look_up(table, rows) if same else _sample(table, head, _voxel_centers(grid, rows))
            torch.mul(vectors, float(np.sqrt(weight)), out=out[start : start + len(rows), column : column + width])
        column += width
    return out


def _voxel_centers(grid: Grid, flat_index: np.ndarray) -> np.ndarray:
    z, y, x = np.unravel_index(flat_index, grid.shape_zyx)
    return grid.to_lps(np.stack([x, y, z], axis=1))


def _look_up(table: torch.Tensor, flat_index: np.ndarray) -> torch.Tensor:
    """(M, C) columns of a (C, V) map, in the precision stored; the network normalized them already."""
    chosen_index = torch.from_numpy(flat_index).to(table.device)
    if table.stride(0) == 1:  # voxel after voxel, as the cache keeps them: rows are copied whole, 10 times as fast
        return table.T.index_select(0, chosen_index)
    chosen = table.index_select(1, chosen_index)
    if chosen.dtype == torch.float16:  # torch transposes 16-bit integers 2.4 times faster than halves on a CPU
        return chosen.view(torch.int16).T.contiguous().view(torch.float16)
    return chosen.T.contiguous()


def _sample(table: torch.Tensor, head: FeatureMap, points_lps: np.ndarray) -> torch.Tensor:
    """(M, C) float32 unit vectors at many world positions: a weighted sum of 8 rows of a (V, C) map each."""
    index, corner_weights = _trilinear(head, points_lps)
    index, corner_weights = index.to(table.device), corner_weights.to(table.device)
    return F.normalize(F.embedding_bag(index, table, per_sample_weights=corner_weights, mode="sum"), dim=1)


def _trilinear(head: FeatureMap, points_lps: np.ndarray) -> Tuple[torch.Tensor, torch.Tensor]:
    """The 8 surrounding voxels of each point, (N, 8) flat indices, and their weights, (N, 8) float32."""
    size = head.grid.size_ijk
    ijk = np.clip(head.grid.to_ijk(points_lps), 0, size - 1)
    low = np.minimum(np.floor(ijk).astype(np.int64), np.maximum(size - 2, 0))
    fraction = (ijk - low)[:, None, :]
    corner = np.minimum(low[:, None, :] + _CORNERS, size - 1)
    weights = np.prod(np.where(_CORNERS == 1, fraction, 1 - fraction), axis=2)
    flat = (corner[..., 2] * size[1] + corner[..., 1]) * size[0] + corner[..., 0]
    return torch.from_numpy(flat), torch.from_numpy(weights.astype(np.float32))
