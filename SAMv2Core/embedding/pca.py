"""An embedding as a color picture: its three main directions of variation as red, green and blue.

Equal anatomy gets equal colors, so a glance shows whether two embeddings agree and where the network sees
nothing. The axes come from the patient's voxels alone: air would take one whole color otherwise.
"""

from __future__ import annotations

import numpy as np

from SAMv2Core.embedding.embedding import Embedding, FeatureMap
from SAMv2Core.errors import UsageError

#: Voxels that the axes are computed from; more change the colors by less than one step.
_MAX_SAMPLES = 20000
_PERCENTILES = (1.0, 99.0)


def embedding_pca(emb: Embedding, head: str = "fine") -> np.ndarray:
    """Principal components of one head as colors.

    :param head: ``fine``, ``coarse`` or ``semantic``.
    :returns: (d, h, w, 3) uint8 on the grid of that head; black outside the body.
    :raises UsageError: the embedding has no such head.
    """
    found = {present.name: present for present in emb.heads}.get(head)
    if found is None:
        raise UsageError(f"The embedding has no head {head!r}.", f"Use one of {', '.join(h.name for h in emb.heads)}.")
    inside = _body_on(found, emb)
    colors = np.zeros((*found.grid.shape_zyx, 3), np.uint8)
    vectors = found.vectors.reshape(found.vectors.shape[0], -1)
    index = np.flatnonzero(inside)
    if not len(index):
        return colors
    sample = index[np.linspace(0, len(index) - 1, min(len(index), _MAX_SAMPLES)).astype(int)]
    chosen = vectors[:, sample].float().cpu().numpy().astype(np.float64).T
    mean, axes = _principal_axes(chosen)
    low, high = np.percentile((chosen - mean) @ axes, _PERCENTILES, axis=0)
    flat = colors.reshape(-1, 3)
    for part in np.array_split(index, len(index) // 65536 + 1):  # float copies of a part only
        projected = (vectors[:, part].float().cpu().numpy().T - mean) @ axes
        flat[part] = np.clip((projected - low) / np.maximum(high - low, 1e-12), 0, 1) * 255 + 0.5
    return colors


def _body_on(feature_map: FeatureMap, emb: Embedding) -> np.ndarray:
    """The body mask (d, h, w) on the grid of a head; nearest voxel of the fine grid."""
    if feature_map.grid.shape_zyx == emb.body.shape:
        return emb.body
    k, j, i = np.indices(feature_map.grid.shape_zyx).reshape(3, -1)
    points_lps = feature_map.grid.to_lps(np.stack([i, j, k], axis=1))
    nearest = np.rint(emb.fine.grid.to_ijk(points_lps)).astype(int)
    x, y, z = np.clip(nearest, 0, emb.fine.grid.size_ijk - 1).T
    return emb.body[z, y, x].reshape(feature_map.grid.shape_zyx)


def _principal_axes(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (C,) and three main axes (C, 3) of (N, C) vectors.

    An axis's sign is arbitrary; here its largest component is positive, so that colors do not flip between
    runs.
    """
    mean = vectors.mean(axis=0)
    centered = vectors - mean
    _, axes = np.linalg.eigh(centered.T @ centered)
    axes = axes[:, ::-1][:, :3]
    if axes.shape[1] < 3:
        axes = np.pad(axes, ((0, 0), (0, 3 - axes.shape[1])))
    largest = np.abs(axes).argmax(axis=0)
    return mean, axes * np.where(axes[largest, range(3)] < 0, -1.0, 1.0)
