"""Rigid transforms refined on intensities: many starts at once, by gradient ascent.

The measure is mutual information plus the agreement of edges. Mutual information alone lets a limb slide along its
axis (on training pairs its best pose was more than 20 mm off in 10 % of the cases, with edges in none): edges are
compared by the squared cosine of their directions, whatever the contrast (normalized gradient fields, Haber and
Modersitzki 2006). Both count where both scans show something, times the share of the small body that lies inside.

Bone is rigid, skin and muscle are not: where a CT tells the bone, the same measure over the places near it counts as
well, at last four times as much. Without it, a thigh that lay differently in the two scans was aligned by its skin,
17 mm from its femur.

Points are drawn once with a fixed seed, in torch on the CPU: a rerun gives the same.
Conventions: LPS mm; matrices (K, 4, 4) map points of the small to the large scan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch

from SAMv2Core.registration.choice import EDGE_WEIGHT
from SAMv2Core.registration.tissue import BONE_SPACING_MM, TissueImage, mutual_information, near_body, sample

RIM_MM = 10.0
MIN_BONE_SHARE = 0.05  # of the points: of fewer, little is known


class Level(NamedTuple):
    """One stage of a refinement: lattice, points drawn, steps of ascent, length of the first one.

    ``bone_mm`` is the distance from bone, as it lies at the start, up to which places count more, 0 for nowhere;
    ``bone_weight`` what these count, against what is seen everywhere. No more overlap is asked than ``full_overlap``:
    of two scans that end at about one height it is larger where they lie end on end than where they belong.
    """

    spacing_mm: float
    n_points: int
    steps: int
    step_mm: float
    bone_mm: float = 0.0
    bone_weight: float = 1.0
    full_overlap: float = 1.0


@dataclass(frozen=True, eq=False)
class Poses:
    """Transforms with what speaks for them.

    :param matrices: (K, 4, 4).
    :param information: (K,) mutual information in nats.
    :param edges: (K,) agreement of the directions of edges, 0..1.
    :param overlap: (K,) share of the small body that both scans show, 0..1.
    :param bone: (K,) what these three give over the places near bone alone, or everywhere where there is no bone.
    :param score: (K,) what is maximized.
    """

    matrices: np.ndarray
    information: np.ndarray
    edges: np.ndarray
    overlap: np.ndarray
    bone: np.ndarray
    score: np.ndarray

    def chosen(self, rows: Sequence[int]) -> Poses:
        """Some of them, in this order."""
        order = np.asarray(rows, dtype=int)
        return Poses(*(getattr(self, name)[order] for name in _NAMES))

    def joined(self, others: Poses) -> Poses:
        """These and others."""
        return Poses(*(np.concatenate([getattr(self, name), getattr(others, name)]) for name in _NAMES))


_NAMES = ("matrices", "information", "edges", "overlap", "bone", "score")


def refine(
    large: TissueImage,
    small: TissueImage,
    matrices: np.ndarray,
    level: Level,
    seed: int = 0,
    side: Optional[np.ndarray] = None,
) -> Poses:
    """Ascend from every start; the best pose of each path is kept. With no steps the starts are scored.

    :param side: (4,) plane: only points of the small scan with ``side[:3] @ point + side[3] >= 0`` are used.
    """
    large, small = large.at_spacing(level.spacing_mm), small.at_spacing(level.spacing_mm)
    return _Ascent(large, small, matrices, level, seed, side).run()


class _Ascent:
    """Points of the small scan, carried by a batch of motions about the places where the starts put them."""

    def __init__(
        self,
        large: TissueImage,
        small: TissueImage,
        matrices: np.ndarray,
        level: Level,
        seed: int,
        side: Optional[np.ndarray],
    ) -> None:
        self._level = level
        self._grid, self._channels = large.grid, torch.cat([large.shares, large.edges])
        points, self._shares, edges = _points(small, level.n_points, seed, side)
        center = points.mean(0)
        # One unit of rotation moves the points by a millimeter on average, as one of translation does.
        self._lever = float((points - center).norm(dim=1).square().mean().sqrt().clamp_min(1.0))
        self._start = torch.from_numpy(np.asarray(matrices, dtype=np.float64))
        turn, shift = self._start[:, :3, :3], self._start[:, None, :3, 3]
        self._pivot = center @ turn.transpose(1, 2) + shift[:, 0]
        self._arms = (points @ turn.transpose(1, 2) + shift - self._pivot[:, None]).float()
        self._edges = edges @ turn.transpose(1, 2).float()
        self._near = _near_bone(large, small, points, self._arms + self._pivot[:, None].float(), level.bone_mm)

    def run(self) -> Poses:
        count, level = len(self._start), self._level
        motion, climb = torch.zeros(count, 6), _Climb(count)
        kept, best, measured = motion, torch.full((count,), -torch.inf), torch.zeros(5, count)
        for step in range(level.steps + 1):
            motion.requires_grad_(step < level.steps)
            terms = self._measure(motion)
            score = terms[-1]
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
        """(5, K): mutual information, agreement of edges, overlap, what these give near bone, and the score."""
        turn = _rotations(motion[:, :3] / self._lever).transpose(1, 2)
        where = self._arms @ turn + self._pivot[:, None].float() + motion[:, None, 3:]
        found = sample(self._channels, self._grid, where)  # (A + 3, K, N)
        theirs, ours = found[-3:].permute(1, 2, 0), self._edges @ turn
        lengths = (theirs * theirs).sum(2).square(), (ours * ours).sum(2).square()
        products = (*lengths, (theirs * ours).sum(2).square())
        information, edges, overlap = self._terms(found[:-3], products, None)
        everywhere = near = self._joined(information, edges, overlap)
        if self._near is not None:
            bone = self._joined(*self._terms(found[:-3], products, self._near))
            near = torch.where(self._near.mean(1) >= MIN_BONE_SHARE, bone, everywhere)
        weight = self._level.bone_weight
        return torch.stack([information, edges, overlap, near, (everywhere + weight * near) / (1 + weight)])

    def _joined(self, information: torch.Tensor, edges: torch.Tensor, overlap: torch.Tensor) -> torch.Tensor:
        full = self._level.full_overlap
        return (information + EDGE_WEIGHT * edges) * overlap.clamp(max=full) / full

    def _terms(
        self, shares: torch.Tensor, products: Tuple[torch.Tensor, ...], weights: Optional[torch.Tensor]
    ) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mutual information, agreement of edges and overlap (K,) of weighted points, weights (K, N)."""
        if weights is None:
            total = self._shares.sum()
        else:
            shares, products = shares * weights, tuple(product * weights for product in products)
            total = (weights @ self._shares).sum(1).clamp_min(1e-6)
        joint = torch.einsum("akn,nb->abk", shares, self._shares)
        theirs, ours, both = (product.sum(1) for product in products)
        return mutual_information(joint), both / torch.sqrt(theirs * ours + 1e-6), joint.sum((0, 1)) / total

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


def _near_bone(
    large: TissueImage, small: TissueImage, points: torch.Tensor, placed: torch.Tensor, reach_mm: float
) -> Optional[torch.Tensor]:
    """(K, N) 1 for points that lie near bone at the start, 0 for others; None where no scan tells the bone.

    Settled at the start, so that no pose is better for having moved its points off the bone.
    """
    if reach_mm <= 0:
        return None
    for image, where in ((large, placed), (small, points.float().expand(len(placed), -1, -1))):
        image = image.at_spacing(BONE_SPACING_MM)
        if image.bone_distance is not None:
            far = 1.0 / (1.0 + image.bone_distance)  # 0 outside, as far as can be
            return (sample(far, image.grid, where)[0] >= 1.0 / (1.0 + reach_mm)).float()
    return None


def _points(
    image: TissueImage, n_points: int, seed: int, side: Optional[np.ndarray] = None
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random places in the body and its rim: (N, 3) float64 LPS mm, (N, C) their shares, (N, 3) their edges.

    Between voxels, since two lattices that fall onto one another would look more alike than they are: from voxel
    centers, a phantom's pose was 2 to 6 mm off along its axis.
    """
    near = near_body(image, RIM_MM).numpy()
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(near)
    if side is not None:
        k, j, i = np.unravel_index(rows, near.shape)
        rows = rows[image.grid.to_lps(np.stack([i, j, k], axis=-1)) @ side[:3] + side[3] >= 0]
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
