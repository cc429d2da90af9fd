"""Pictures for the log: two views with their embeddings in color (the paper's figure 4), and points found again."""

from __future__ import annotations

from typing import Any, List, Sequence, Tuple

import numpy as np
import torch

from SAMv2Core.embedding.embedding import Embedding, FeatureMap
from SAMv2Core.embedding.pca import embedding_pca
from SAMv2Core.geometry.grid import Grid
from Training.views.patches import FINE_STRIDE, Patch, Size3, level_shape

N_POINTS = 8
TRUTH, FOUND = (0, 255, 0), (255, 60, 60)

Pixel = Tuple[int, int]
Color = Tuple[int, int, int]


def picture_of(
    patches: torch.Tensor, vectors: Sequence[torch.Tensor], views: Tuple[Patch, Patch], looked: Any
) -> np.ndarray:
    """(h, w, 3) uint8: above the views, below their embeddings in color.

    Points of the first view are green crosses. In the second view a green cross is where the point truly lies, a red
    one where it was found, and a red line joins them; both may lie some planes away from the one shown.

    :param patches: (2, 1, D, H, W) as the network saw them.
    :param vectors: two of (N, C), the voxels of the fine maps.
    :param looked: a :class:`Training.tasks.retrieval.Looked`.
    """
    shape = level_shape(views[0].size_zyx, FINE_STRIDE)
    colors = joint_colors([v.float().cpu() for v in vectors], [view.fine.valid.cpu() for view in views], shape)
    rows, found = looked.rows.cpu(), looked.found.cpu()
    plane = _fullest_plane(rows, shape)
    here = torch.nonzero(rows // (shape[1] * shape[2]) == plane)[:N_POINTS, 0]
    rows, found = rows[here], found[here]
    truth = torch.cdist(views[0].fine.points.cpu()[rows], views[1].fine.points.cpu()).argmin(1)
    planes = [plane, int(torch.median(truth // (shape[1] * shape[2]))) if len(here) else shape[0] // 2]
    tiles = []
    for side in (0, 1):
        gray = _gray(patches[side, 0, min(2 * planes[side], patches.shape[2] - 1)].cpu().numpy())
        if side == 1:
            for true, there in zip(truth.tolist(), found.tolist()):
                _line(gray, _pixel(true, shape), _pixel(there, shape), FOUND)
                _cross(gray, _pixel(there, shape), FOUND)
        for index in (rows if side == 0 else truth).tolist():
            _cross(gray, _pixel(index, shape), TRUTH)
        color = colors[side][planes[side]].repeat(2, axis=0).repeat(2, axis=1)
        height, width = gray.shape[:2]
        tiles.append(np.vstack([gray, color[:height, :width]]))
    return np.hstack(tiles)


def joint_colors(vectors: List[torch.Tensor], valid: List[torch.Tensor], shape: Size3) -> List[np.ndarray]:
    """(d, h, w, 3) uint8 of each view by common principal axes, so that equal colors mean equal vectors."""
    both = torch.cat([v.T.reshape(-1, *shape) for v in vectors], dim=1)
    body = torch.cat([v.reshape(shape) for v in valid]).numpy()
    grid = Grid((2 * shape[0], shape[1], shape[2]), np.eye(4))
    level = FeatureMap("fine", both, grid)
    embedding = Embedding(level, level, None, body, grid, grid, "ct", "training", "")
    colors = embedding_pca(embedding, "fine")
    return [colors[: shape[0]], colors[shape[0] :]]


def _fullest_plane(rows: torch.Tensor, shape: Size3) -> int:
    """The plane of the fine map that holds most of the points."""
    counts = torch.bincount(rows // (shape[1] * shape[2]), minlength=shape[0])
    return int(counts.argmax())


def _gray(plane: np.ndarray) -> np.ndarray:
    low, high = np.percentile(plane, (2, 98))
    values = np.clip((plane - low) / max(high - low, 1e-6), 0, 1) * 255
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)


def _pixel(index: int, shape: Size3) -> Pixel:
    """Where a fine voxel lies in the picture of its plane."""
    return index // shape[2] % shape[1] * 2, index % shape[2] * 2


def _cross(image: np.ndarray, center: Pixel, color: Color) -> None:
    row, column = center
    image[max(0, row - 3) : row + 4, column] = color
    image[row, max(0, column - 3) : column + 4] = color


def _line(image: np.ndarray, start: Pixel, end: Pixel, color: Color) -> None:
    n = max(abs(start[0] - end[0]), abs(start[1] - end[1])) + 1
    rows, columns = (np.linspace(a, b, n).round().astype(int) for a, b in zip(start, end))
    image[rows, columns] = color
