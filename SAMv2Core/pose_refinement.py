"""Rigid transforms refined on intensities: many starts at once, by gradient ascent.

The measure is mutual information plus the agreement of edges. Mutual information alone lets a limb slide along its
axis (on training pairs its best pose was more than 20 mm off in 10 % of the cases, with edges in none): edges are
compared by the squared cosine of their directions, whatever the contrast (normalized gradient fields, Haber and
Modersitzki 2006). Both count where both scans show something, times the share of the small body that lies inside.

Points are drawn once with a fixed seed, in torch on the CPU: a rerun gives the same.
Conventions: LPS mm; matrices (K, 4, 4) map points of the small to the large scan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Sequence, Tuple

import numpy as np
import torch

from SAMv2Core.intensity import TissueImage, mutual_information, near_body, sample

RIM_MM = 10.0
EDGE_WEIGHT = 1.0


class Level(NamedTuple):
    """One stage of a refinement: lattice, points drawn, steps of ascent, length of the first one."""

    spacing_mm: float
    n_points: int
    steps: int
    step_mm: float


@dataclass(frozen=True, eq=False)
class Poses:
    """Transforms with what speaks for them.

    :param matrices: (K, 4, 4).
    :param information: (K,) mutual information in nats.
    :param edges: (K,) agreement of the directions of edges, 0..1.
    :param overlap: (K,) share of the small body that both scans show, 0..1.
    """

    matrices: np.ndarray
    information: np.ndarray
    edges: np.ndarray
    overlap: np.ndarray

    @property
    def score(self) -> np.ndarray:
        """(K,) what is maximized."""
        return (self.information + EDGE_WEIGHT * self.edges) * self.overlap

    def chosen(self, rows: Sequence[int]) -> Poses:
        """Some of them, in this order."""
        order = np.asarray(rows, dtype=int)
        return Poses(self.matrices[order], self.information[order], self.edges[order], self.overlap[order])

    def joined(self, others: Poses) -> Poses:
        """These and others."""
        names = ("matrices", "information", "edges", "overlap")
        return Poses(*(np.concatenate([getattr(self, name), getattr(others, name)]) for name in names))


def refine(large: TissueImage, small: TissueImage, matrices: np.ndarray, level: Level, seed: int = 0) -> Poses:
    """Ascend from every start; the best pose of each path is kept. With no steps the starts are scored."""
    ascent = _Ascent(large.at_spacing(level.spacing_mm), small.at_spacing(level.spacing_mm), matrices, level, seed)
    return ascent.run(level)


class _Ascent:
    """Points of the small scan, carried by a batch of motions about the places where the starts put them."""

    def __init__(self, large: TissueImage, small: TissueImage, matrices: np.ndarray, level: Level, seed: int) -> None:
        self._grid, self._channels = large.grid, torch.cat([large.shares, large.edges])
        points, self._shares, edges = _points(small, level.n_points, seed)
        center = points.mean(0)
        # One unit of rotation moves the points by a millimeter on average, as one of translation does.
        self._lever = float((points - center).norm(dim=1).square().mean().sqrt().clamp_min(1.0))
        self._start = torch.from_numpy(np.asarray(matrices, dtype=np.float64))
        turn, shift = self._start[:, :3, :3], self._start[:, None, :3, 3]
        self._pivot = center @ turn.transpose(1, 2) + shift[:, 0]
        self._arms = (points @ turn.transpose(1, 2) + shift - self._pivot[:, None]).float()
        self._edges = edges @ turn.transpose(1, 2).float()

    def run(self, level: Level) -> Poses:
        count = len(self._start)
        motion, climb = torch.zeros(count, 6), _Climb(count)
        kept, best, measured = motion, torch.full((count,), -torch.inf), torch.zeros(3, count)
        for step in range(level.steps + 1):
            motion.requires_grad_(step < level.steps)
            terms = self._measure(motion)
            score = (terms[0] + EDGE_WEIGHT * terms[1]) * terms[2]
            with torch.no_grad():
                better = score > best
                best, kept = torch.where(better, score, best), torch.where(better[:, None], motion, kept)
                measured = torch.where(better, terms, measured)
            if step < level.steps:
                (gradient,) = torch.autograd.grad(score.sum(), motion)
                length = level.step_mm * (1 - 0.9 * step / level.steps)
                motion = motion.detach() + length * climb.direction(gradient)
        return Poses(self._matrices(kept.detach()), *measured.double().numpy())

    def _measure(self, motion: torch.Tensor) -> torch.Tensor:
        """(3, K): mutual information, agreement of edges, overlap."""
        turn = _rotations(motion[:, :3] / self._lever).transpose(1, 2)
        where = self._arms @ turn + self._pivot[:, None].float() + motion[:, None, 3:]
        found = sample(self._channels, self._grid, where)  # (A + 3, K, N)
        joint = torch.einsum("akn,nb->abk", found[:-3], self._shares)
        theirs, ours = found[-3:].permute(1, 2, 0), self._edges @ turn
        squares = (theirs * theirs).sum(2).square().sum(1) * (ours * ours).sum(2).square().sum(1)
        agreement = (theirs * ours).sum(2).square().sum(1) / torch.sqrt(squares + 1e-6)
        return torch.stack([mutual_information(joint), agreement, joint.sum((0, 1)) / self._shares.sum()])

    def _matrices(self, motion: torch.Tensor) -> np.ndarray:
        turn = _rotations(motion[:, :3].double() / self._lever)
        out = torch.eye(4, dtype=torch.float64).repeat(len(motion), 1, 1)
        out[:, :3, :3] = turn @ self._start[:, :3, :3]
        arm = (self._start[:, :3, 3] - self._pivot)[:, :, None]
        out[:, :3, 3] = (turn @ arm)[:, :, 0] + self._pivot + motion[:, 3:].double()
        return out.numpy()


class _Climb:
    """Adam's direction (Kingma and Ba 2015). torch's own loads its compiler, which takes 4 s, for this."""

    DECAYS = (0.8, 0.95)

    def __init__(self, count: int) -> None:
        self._mean, self._square, self._step = torch.zeros(count, 6), torch.zeros(count, 6), 0

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        self._step += 1
        first, second = self.DECAYS
        self._mean = first * self._mean + (1 - first) * gradient
        self._square = second * self._square + (1 - second) * gradient.square()
        mean, square = self._mean / (1 - first**self._step), self._square / (1 - second**self._step)
        return mean / (square.sqrt() + 1e-8)


def _points(image: TissueImage, n_points: int, seed: int) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random places in the body and its rim: (N, 3) float64 LPS mm, (N, C) their shares, (N, 3) their edges.

    Between voxels, since two lattices that fall onto one another would look more alike than they are: from voxel
    centers, a phantom's pose was 2 to 6 mm off along its axis.
    """
    near = near_body(image, RIM_MM).numpy()
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(near)
    rows = rng.choice(rows, n_points, replace=len(rows) < n_points)
    k, j, i = np.unravel_index(rows, near.shape)
    ijk = np.stack([i, j, k], axis=-1) + rng.uniform(-0.5, 0.5, (n_points, 3))
    points = torch.from_numpy(image.grid.to_lps(ijk))
    shares, edges = (sample(channels, image.grid, points).T.contiguous() for channels in (image.shares, image.edges))
    return points, shares, edges


def _rotations(vectors: torch.Tensor) -> torch.Tensor:
    """(K, 3) rotation vectors to (K, 3, 3) matrices, differentiable at 0."""
    zero = torch.zeros_like(vectors[:, 0])
    x, y, z = vectors.unbind(1)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).reshape(-1, 3, 3)
    return torch.linalg.matrix_exp(cross)
