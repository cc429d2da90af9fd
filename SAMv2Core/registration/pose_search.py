"""Where a small scan lies in a large one, by intensities alone: all translations at once, many rotations.

The joint histogram of two volumes of tissue shares at every translation is a set of cross-correlations, so FFT gives
the mutual information at all translations for the price of a few dozen transforms (cross-mutual information
functions: Oefverstedt, Lindblad and Sladoje, arXiv 2106.14699). No start is needed, and nothing is lost when the
fields of view differ: only voxels that both scans show are counted, near the smaller body. The center of the small
body has to lie inside the large scan.

Conventions: LPS mm; matrices (4, 4) map points of the small to the large scan.
"""

from __future__ import annotations

from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from scipy import fft
from scipy.spatial.transform import Rotation

from SAMv2Core.registration.tissue import TissueImage, mutual_information, near_body, sample

RIM_MM = 12.0
MIN_OVERLAP = 0.35  # of the small body: of less, too little is known
SPACING_MM = 8.0
MAX_FFT_VOXELS = 400_000  # some 60 MB of joint histograms; larger scans are searched on a coarser lattice


class Pose(NamedTuple):
    """A (4, 4) matrix and its score."""

    matrix: np.ndarray
    score: float


def rotations_within(reach_deg: float, step_deg: float) -> List[np.ndarray]:
    """(3, 3) rotations on a lattice of rotation vectors, up to ``reach_deg`` about each axis, corners left out."""
    n = int(np.ceil(reach_deg / step_deg))
    angles = np.linspace(-reach_deg, reach_deg, 2 * n + 1) if n else np.zeros(1)
    vectors = np.stack(np.meshgrid(angles, angles, angles, indexing="ij"), axis=-1).reshape(-1, 3)
    vectors = vectors[np.linalg.norm(vectors, axis=1) <= 1.5 * reach_deg]
    return [Rotation.from_rotvec(vector, degrees=True).as_matrix() for vector in vectors]


def search(
    large: TissueImage,
    small: TissueImage,
    rotations: Sequence[np.ndarray],
    count: int = 2,
    apart_mm: float = 24.0,
    progress: Optional[Callable[[float], None]] = None,
) -> List[Pose]:
    """The best poses over all rotations, best first; ``count`` of each rotation, ``apart_mm`` from one another."""
    large, small = large.at_spacing(SPACING_MM), _with_body(small, SPACING_MM)
    searcher = _Searcher(large, small)
    while searcher.n_voxels > MAX_FFT_VOXELS:
        large, small = large.halved, _with_body(small, 2 * small.spacing_mm)
        searcher = _Searcher(large, small)
    found: List[Pose] = []
    for n, rotation in enumerate(rotations):
        if progress is not None:
            progress(n / len(rotations))
        found += searcher.best(rotation, count, apart_mm)
    return sorted(found, key=lambda pose: -pose.score)


def _with_body(image: TissueImage, spacing_mm: float) -> TissueImage:
    """The level of the pyramid at about this spacing, or the coarsest that still shows a body."""
    while image.spacing_mm * 1.5 <= spacing_mm and image.halved.body.any():
        image = image.halved
    return image


def _merged(shares: torch.Tensor) -> torch.Tensor:
    """Fewer levels, since time goes with their product: the lowest (air) as it is, of the others pairs from the top."""
    others = list(shares[1:])
    pairs = [sum(others[max(stop - 2, 0) : stop]) for stop in range(len(others), 0, -2)]
    return torch.stack([shares[0], *pairs[::-1]])


class _Searcher:
    """The large scan's spectrum is kept; each rotation of the small scan is tried in turn."""

    def __init__(self, large: TissueImage, small: TissueImage) -> None:
        self._large, self._small = large, small
        mask = near_body(small, RIM_MM)
        self._shares, self._theirs = _merged(small.shares * mask), _merged(large.shares)
        k, j, i = np.nonzero(mask.numpy())
        points = small.grid.to_lps(np.stack([i, j, k], axis=-1))
        self._center = center = (points.min(axis=0) + points.max(axis=0)) / 2
        self._half = int(np.ceil(np.linalg.norm(points - center, axis=1).max() / large.spacing_mm))
        self._total = float(self._shares.sum()) * (small.spacing_mm / large.spacing_mm) ** 3
        # With the center inside the large scan, half of the small one is all that can stick out.
        self._size = [fft.next_fast_len(n + self._half, real=True) for n in large.body.shape]
        self._size = [max(n, 2 * self._half + 1) for n in self._size]
        self._spectrum: Optional[torch.Tensor] = None

    @property
    def n_voxels(self) -> int:
        return int(np.prod(self._size))

    def best(self, rotation: np.ndarray, count: int, apart_mm: float) -> List[Pose]:
        """The best translations for one rotation of the small scan."""
        if self._spectrum is None:
            self._spectrum = torch.fft.rfftn(self._theirs, s=self._size, dim=(1, 2, 3))
        depth, height, width = self._large.body.shape
        turned = torch.fft.rfftn(self._turned(rotation), dim=(1, 2, 3)).conj()
        joint = torch.stack([torch.fft.irfftn(one * turned, s=self._size, dim=(1, 2, 3)) for one in self._spectrum])
        joint = joint[:, :, :depth, :height, :width]
        overlap = joint.sum((0, 1)) / self._total
        score = mutual_information(joint) * overlap.clamp(0, 1)
        score[overlap < MIN_OVERLAP] = -1.0
        return [Pose(self._matrix(rotation, where), value) for where, value in self._peaks(score, count, apart_mm)]

    def _turned(self, rotation: np.ndarray) -> torch.Tensor:
        """The small scan's shares, turned, on the large one's lattice, wrapped around its center at voxel 0."""
        steps = torch.arange(-self._half, self._half + 1, dtype=torch.float64)
        z, y, x = torch.meshgrid(steps, steps, steps, indexing="ij")
        to_small = torch.from_numpy(rotation.T @ self._large.grid.ijk_to_lps[:3, :3])
        where = torch.stack([x, y, z], -1) @ to_small.T + torch.from_numpy(self._center)
        padded = torch.zeros(len(self._shares), *self._size)
        padded[:, : len(steps), : len(steps), : len(steps)] = sample(self._shares, self._small.grid, where)
        return padded.roll((-self._half,) * 3, (1, 2, 3))

    def _peaks(self, score: torch.Tensor, count: int, apart_mm: float) -> List[Tuple[np.ndarray, float]]:
        """Voxels (z, y, x) of the large scan where the small one's center goes, best first."""
        reach = int(np.ceil(apart_mm / self._large.spacing_mm))
        found = []
        for _ in range(count):
            where = np.array(np.unravel_index(int(score.argmax()), tuple(score.shape)))
            value = float(score[tuple(where)])
            if value <= 0:
                break
            found.append((where, value))
            score[tuple(slice(max(0, w - reach), w + reach + 1) for w in where)] = -1.0
        return found

    def _matrix(self, rotation: np.ndarray, where_zyx: np.ndarray) -> np.ndarray:
        matrix = np.eye(4)
        matrix[:3, :3] = rotation
        matrix[:3, 3] = self._large.grid.to_lps(where_zyx[None, ::-1])[0] - rotation @ self._center
        return matrix
