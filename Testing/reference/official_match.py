"""The official code's way of matching, kept beside ours for comparison only.

Why: published figures of SAM and SAMv2 (arXiv 2311.15111) were made with it, so a difference between those
figures and ours can only be explained by running both on the same embeddings. Nothing in SAMv2 uses it to
answer a user.

Faithful to the official behaviour, including what :mod:`SAMv2Core.matching.match` does differently on purpose: integer
voxels throughout, query vectors taken at ``floor`` indices, four fixed half-steps instead of convergence, a
survival radius counted in 2 mm voxels, votes truncated toward zero, no body mask, no world geometry
(orientation is ignored).

Conventions: coordinates are voxel indices (x, y, z) of the *original* image unless a name says ``grid`` (fine
feature lattice); maps are (C, d, h, w) = (C, z, y, x) float32; ``norm_ratio`` = original spacing / 2 mm,
order (x, y, z).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, List, Optional, Tuple

import numpy as np
import torch
import torch.nn.functional as F

from SAMv2Core.errors import InputError, UsageError

VOXELS_PER_CHUNK = 16384
HALF_STEPS = 4
MAX_OFFSET = 100.0  # in 2 mm voxels: the official code takes them for millimetres
MIN_SCORE = 0.8
HUBER_T = 1.345


@dataclass(frozen=True)
class OfficialImage:
    """Embedding of one image with the little geometry the official matcher knows.

    :param fine: (C, d, h, w) L2-normalized.
    :param coarse: (C, d', h', w') L2-normalized, or None to match on the other heads alone.
    :param semantic: (C, d, h, w) L2-normalized, or None.
    :param shape_zyx: size of the original image.
    :param norm_ratio: (3,) original spacing / 2 mm, order (x, y, z).
    """

    fine: torch.Tensor
    coarse: Optional[torch.Tensor]
    semantic: Optional[torch.Tensor]
    shape_zyx: Tuple[int, int, int]
    norm_ratio: np.ndarray

    @property
    def grid_shape_zyx(self) -> Tuple[int, int, int]:
        d, h, w = self.fine.shape[1:]
        return int(d), int(h), int(w)

    def heads(self) -> List[torch.Tensor]:
        """(C, d*h*w) of every head on the fine lattice; coarse upsampled, normalized again."""
        maps = [self.fine]
        if self.coarse is not None:
            size = self.grid_shape_zyx
            upsampled = F.interpolate(self.coarse[None], size=size, mode="trilinear", align_corners=False)[0]
            maps.append(F.normalize(upsampled, dim=0))
        if self.semantic is not None:
            maps.append(self.semantic)
        return [m.reshape(m.shape[0], -1) for m in maps]

    def to_grid(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) original voxels to fine indices, floor(p * norm_ratio / 2), clamped to the grid."""
        index = np.floor(np.asarray(points, dtype=np.float64) * self.norm_ratio / 2).astype(np.int64)
        return np.clip(index, 0, np.array(self.grid_shape_zyx[::-1]) - 1)

    def from_grid(self, index: np.ndarray) -> np.ndarray:
        """(N, 3) fine indices to original voxels, round((2k + 0.5) / norm_ratio); may be one past the end."""
        return np.rint((2 * np.asarray(index) + 0.5) / self.norm_ratio).astype(np.int64)


def _flat(grid_xyz: np.ndarray, shape_zyx: Tuple[int, int, int]) -> torch.Tensor:
    x, y, z = np.asarray(grid_xyz, dtype=np.int64).T
    return torch.from_numpy((z * shape_zyx[1] + y) * shape_zyx[2] + x)


def _unflat(flat: np.ndarray, shape_zyx: Tuple[int, int, int]) -> np.ndarray:
    return np.stack(np.unravel_index(flat, shape_zyx)[::-1], axis=1).astype(np.int64)


def _check(source: OfficialImage, target: OfficialImage) -> None:
    if (source.coarse is None, source.semantic is None) != (target.coarse is None, target.semantic is None):
        raise UsageError("The two embeddings have different heads.", "Embed both images with the same model.")


def _similarities(source: OfficialImage, target: OfficialImage, grid: np.ndarray) -> Iterator[Tuple[int, torch.Tensor]]:
    """Yield (first voxel, (N, chunk) mean of the heads' cosines) over the target's fine lattice."""
    _check(source, target)
    index = _flat(grid, source.grid_shape_zyx)
    queries = [head[:, index].T.contiguous() for head in source.heads()]
    keys = target.heads()
    for start in range(0, keys[0].shape[1], VOXELS_PER_CHUNK):
        parts = [q @ k[:, start : start + VOXELS_PER_CHUNK] for q, k in zip(queries, keys)]
        yield start, torch.stack(parts).sum(0) / len(parts)


def similarity_volume(source: OfficialImage, target: OfficialImage, point: np.ndarray) -> torch.Tensor:
    """Similarity of one original voxel of ``source`` to all of ``target``, in its original (z, y, x) size."""
    grid = source.to_grid(np.atleast_2d(point))
    flat = torch.cat([chunk for _, chunk in _similarities(source, target, grid)], dim=1)
    volume = flat.reshape((1, 1, *target.grid_shape_zyx))
    return F.interpolate(volume, size=target.shape_zyx, mode="trilinear", align_corners=False)[0, 0]


def nearest(source: OfficialImage, target: OfficialImage, points: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Best original voxel of ``target`` for each point, the first maximum in (z, y, x) scan order.

    :param points: (N, 3) original voxels of ``source``, (x, y, z).
    :returns: ((N, 3) int64 original voxels of ``target``, (N,) similarity).
    """
    found, scores = [], []
    for point in np.atleast_2d(points):
        volume = similarity_volume(source, target, point)
        best = int(torch.argmax(volume))
        found.append(_unflat(np.array([best]), target.shape_zyx)[0])
        scores.append(float(volume.reshape(-1)[best]))
    return np.array(found), np.array(scores)


def nearest_on_grid(source: OfficialImage, target: OfficialImage, grid: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Best fine index of ``target`` for each one of ``source``; (N, 3) int64 (x, y, z), (N,) similarity."""
    best = torch.full((len(grid),), -np.inf)
    where = torch.zeros(len(grid), dtype=torch.int64)
    for start, chunk in _similarities(source, target, grid):
        value, index = chunk.max(dim=1)
        better = value > best  # strict: an equal later voxel must not displace the first one
        best = torch.where(better, value, best)
        where = torch.where(better, index + start, where)
    return _unflat(where.numpy(), target.grid_shape_zyx), best.numpy()


def start_patch(center_grid: np.ndarray, grid_shape_zyx: Tuple[int, int, int], margin: int = 2) -> np.ndarray:
    """The (2*margin+1)^3 fine indices around one, clamped to the grid, each once; (n, 3) int64, sorted."""
    steps = np.arange(-margin, margin + 1)
    offsets = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    return np.unique(np.clip(center_grid + offsets, 0, np.array(grid_shape_zyx[::-1]) - 1), axis=0)


def fixed_point(
    source: OfficialImage, target: OfficialImage, point: np.ndarray, margin: int = 2
) -> Tuple[np.ndarray, float]:
    """The official fixed-point match of one point.

    :param point: (3,) original voxel of ``source``, (x, y, z).
    :returns: ((3,) int64 original voxel of ``target``, mean similarity of the surviving cycles).
    :raises InputError: when no cycle survives; the official code crashes there.
    """
    point = np.asarray(point, dtype=np.float64)
    grid = start_patch(source.to_grid(point[None])[0], source.grid_shape_zyx, margin)
    ends: List[np.ndarray] = []
    score = np.empty(0)
    pair = (source, target)
    for step in range(HALF_STEPS):
        here, there = pair[step % 2], pair[1 - step % 2]
        index, score = nearest_on_grid(here, there, grid)
        ends.append(there.from_grid(index))
        grid = there.to_grid(ends[-1])
    in_target, in_source = ends[-2], ends[-1]
    kept = (np.linalg.norm((in_source - point) * source.norm_ratio, axis=1) < MAX_OFFSET) & (score > MIN_SCORE)
    if not np.any(kept):
        raise InputError("No fixed point survived the official thresholds.", "Use the fixed-point method of SAMv2.")
    mean_score = float(np.mean(score[kept]))
    in_target, first = np.unique(in_target[kept], axis=0, return_index=True)
    in_source = in_source[kept][first]
    linear = _linear_part(in_source, in_target, source.norm_ratio, target.norm_ratio)
    votes = np.trunc(in_target - (in_source - point) @ linear.T)
    votes = np.clip(votes, 0, np.array(target.shape_zyx[::-1]) - 1)
    return np.trunc(votes.mean(axis=0)).astype(np.int64), mean_score


def _linear_part(source: np.ndarray, target: np.ndarray, ratio_s: np.ndarray, ratio_t: np.ndarray) -> np.ndarray:
    """(3, 3) linear part of the robust affine; z only scaled when all targets share one slice."""
    if len(np.unique(target[:, 2])) > 1:
        return robust_affine(source, target)[:, :3]
    linear = np.zeros((3, 3))
    linear[:2, :2] = robust_affine(source[:, :2], target[:, :2])[:, :2]
    linear[2, 2] = ratio_s[2] / ratio_t[2]
    return linear


def robust_affine(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Affine source -> target, each output coordinate regressed on its own with Huber weights.

    :param source: (N, n) coordinates.
    :param target: (N, m) coordinates.
    :returns: (m, n + 1), the last column is the offset.
    """
    design = np.column_stack([source, np.ones(len(source))]).astype(np.float64)
    return np.stack([huber_regression(design, column) for column in np.asarray(target, dtype=np.float64).T])


def huber_regression(design: np.ndarray, values: np.ndarray, max_iterations: int = 50, tol: float = 1e-8) -> np.ndarray:
    """Huber M-estimate by iteratively re-weighted least squares; the scale is the MAD about zero of each step.

    Starts from ordinary least squares and stops when the deviance moves by no more than ``tol``, or when the
    scale is zero (half of the residuals vanish). The pseudo-inverse gives the minimum-norm answer for a
    rank-deficient design.

    :param design: (N, p).
    :param values: (N,).
    :returns: (p,) coefficients.
    """
    coefficients = np.linalg.pinv(design) @ values
    deviance = np.inf
    for _ in range(max_iterations):
        residual = values - design @ coefficients
        scale = np.median(np.abs(residual)) / 0.6744897501960817
        if scale == 0:
            break
        scaled = np.abs(residual) / scale
        previous, deviance = deviance, float(np.sum(_huber_rho(scaled)))
        if abs(previous - deviance) <= tol:
            break
        root = np.sqrt(np.minimum(1.0, HUBER_T / np.maximum(scaled, HUBER_T)))
        coefficients = np.linalg.pinv(design * root[:, None]) @ (values * root)
    return coefficients


def _huber_rho(scaled: np.ndarray) -> np.ndarray:
    return np.where(scaled <= HUBER_T, 0.5 * scaled**2, HUBER_T * scaled - 0.5 * HUBER_T**2)
