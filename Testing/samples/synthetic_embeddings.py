"""Embeddings without a network: a smooth random field of unit vectors, fixed to an anatomy.

A trained network gives every place of the body its own vector, changing smoothly from place to place,
whatever volume shows it. So does a random field of waves over the *anatomy's* space. Two synthetic volumes of
one anatomy that lie differently therefore have embeddings whose right matches are known exactly, on any pair
of grids.

Anatomy space is LPS mm around 0; ``to_anatomy`` maps a volume's world points into it.
"""

from __future__ import annotations

from typing import Callable, Optional, Tuple

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from SAMv2Core.embedding.embedding import Embedding, FeatureMap
from SAMv2Core.geometry.grid import Grid, transform_points

WRONG_BLOCK = 6  # fine voxels
PointMap = Callable[[np.ndarray], np.ndarray]


class AnatomyField:
    """(N, 3) mm -> (N, channels) unit vectors: cosines of random waves, of 40 to 240 mm by default."""

    def __init__(self, seed: int = 0, channels: int = 32, wavelengths_mm: Tuple[float, float] = (40, 240)) -> None:
        rng = np.random.default_rng(seed)
        directions = rng.standard_normal((3, channels))
        directions /= np.linalg.norm(directions, axis=0)
        self._waves = directions * 2 * np.pi / np.exp(rng.uniform(*np.log(wavelengths_mm), channels))
        self._phases = rng.uniform(0, 2 * np.pi, channels)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        values = np.cos(points @ self._waves + self._phases)
        return values / np.linalg.norm(values, axis=1, keepdims=True)


def trunk(points: np.ndarray, half_axes_mm: Tuple[float, float] = (150, 100)) -> np.ndarray:
    """(N,) bool, inside an endless elliptic trunk along z, a body without ends."""
    return (points[:, 0] / half_axes_mm[0]) ** 2 + (points[:, 1] / half_axes_mm[1]) ** 2 < 1


def lattice(
    size_mm: Tuple[float, float, float] = (320, 220, 280),
    spacing_mm: float = 8.0,
    center_lps: Tuple[float, float, float] = (0, 0, 0),
    euler_deg: Tuple[float, float, float] = (0, 0, 0),
    left_handed: bool = False,
) -> Grid:
    """A box of voxels around a center, turned; ``left_handed`` reverses its third axis."""
    n = np.maximum(np.round(np.array(size_mm) / spacing_mm), 2).astype(int)
    axes = Rotation.from_euler("xyz", euler_deg, degrees=True).as_matrix() * spacing_mm
    if left_handed:
        axes[:, 2] *= -1
    matrix = np.eye(4)
    matrix[:3, :3] = axes
    matrix[:3, 3] = np.array(center_lps) - axes @ ((n - 1) / 2)
    return Grid((int(n[2]), int(n[1]), int(n[0])), matrix)


def synthetic_embedding(
    field: Callable[[np.ndarray], np.ndarray],
    fine_grid: Grid,
    to_anatomy: Optional[PointMap] = None,
    inside: Callable[[np.ndarray], np.ndarray] = trunk,
    noise: float = 0.0,
    wrong_fraction: float = 0.0,
    seed: int = 0,
    model: str = "synthetic",
) -> Embedding:
    """The embedding that a perfect network would give of a volume on ``fine_grid``.

    :param to_anatomy: (N, 3) world LPS mm -> anatomy; a 4x4 matrix may be given as ``matrix_map(matrix)``.
    :param inside: body of the anatomy.
    :param noise: length of a random vector added to each unit vector.
    :param wrong_fraction: share of the voxels whose vectors are replaced by random ones in all heads.
    """
    rng = np.random.default_rng(seed)
    coarse_grid = fine_grid.strided((2, 2, 2), tuple(max(1, n // 2) for n in fine_grid.shape_zyx))
    wrong_fine = _in_blocks(fine_grid.shape_zyx, WRONG_BLOCK, wrong_fraction, rng)
    wrong_coarse = wrong_fine[::2, ::2, ::2][tuple(slice(n) for n in coarse_grid.shape_zyx)]

    def head(name: str, grid: Grid, wrong_zyx: np.ndarray, waves: PointMap) -> FeatureMap:
        points = _centers(grid)
        vectors = waves(points if to_anatomy is None else to_anatomy(points))
        extra = rng.standard_normal(vectors.shape)
        extra /= np.linalg.norm(extra, axis=1, keepdims=True)
        vectors = vectors + noise * extra
        wrong = wrong_zyx.reshape(-1)
        vectors[wrong] = extra[wrong]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        map_zyx = vectors.T.reshape(-1, *grid.shape_zyx)
        return FeatureMap(name, torch.from_numpy(np.ascontiguousarray(map_zyx)).half(), grid)

    points = _centers(fine_grid)
    body = inside(points if to_anatomy is None else to_anatomy(points)).reshape(fine_grid.shape_zyx)
    return Embedding(
        fine=head("fine", fine_grid, wrong_fine, field),
        coarse=head("coarse", coarse_grid, wrong_coarse, lambda p: field(p * 0.5 + 1000.0)),
        semantic=None,
        body=body,
        input_grid=_finer(fine_grid),
        volume_grid=_finer(fine_grid),
        modality="ct",
        model=model,
        model_sha256="0" * 64,
        head_weights={"fine": 0.5, "coarse": 0.5},
    )


def matrix_map(matrix: np.ndarray) -> PointMap:
    """The point map of a 4x4 matrix."""
    return lambda points: transform_points(matrix, points)


def _in_blocks(shape_zyx: Tuple[int, ...], edge: int, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """(z, y, x) bool, true in a random share of cubes; for single voxels, their neighbors would make up."""
    blocks = rng.uniform(size=[-(-n // edge) for n in shape_zyx]) < fraction
    for axis in range(3):
        blocks = np.repeat(blocks, edge, axis=axis)
    return blocks[tuple(slice(n) for n in shape_zyx)]


def _centers(grid: Grid) -> np.ndarray:
    k, j, i = np.meshgrid(*(np.arange(n) for n in grid.shape_zyx), indexing="ij")
    return grid.to_lps(np.stack([i, j, k], axis=-1).reshape(-1, 3))


def _finer(grid: Grid) -> Grid:
    """The lattice of twice the resolution whose stride 2 gives ``grid``."""
    half = np.diag([0.5, 0.5, 0.5, 1.0])
    half[:3, 3] = -0.25
    return Grid(tuple(2 * n for n in grid.shape_zyx), grid.ijk_to_lps @ half)  # type: ignore[arg-type]
