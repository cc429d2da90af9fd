"""A rival without training or network: intensities sampled sparsely around a point, searched from coarse to fine.

The idea of two papers, written anew from what their abstracts say (arXiv 2308.07337, a hierarchical descriptor and a
hierarchical search; arXiv 2507.23609, a check for consistency): a point is described by intensities on small cubic
grids around it, from the next millimeters to half the body; the place of the other scan with the most similar
description is searched on a coarse lattice first and then step by step around the best places; of several such places
the first whose own search leads back to the point is the answer. Grids, similarity, steps and the form of the check are
ours (see :class:`Sampling`), so the figures are those of the idea, not of the authors' program. Other than theirs, the
scan is first brought to the 2 mm lattice of our networks, each grid reads a scan averaged over its spacing, and the
place is told between voxels.

To measure against, no part of the product: the method may be covered by patents. Its confidence is a similarity and a
way back, calibrated on nothing: it never says ``matched``.

Conventions: points (N, 3) LPS mm; voxels (z, y, x) of the 2 mm lattice.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from scipy import ndimage

from SAMv2Core.errors import InputError
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.volume import Volume
from SAMv2Core.matching.confidence import NOT_FOUND, UNCERTAIN
from SAMv2Core.preprocessing.body import body_on_features
from SAMv2Core.preprocessing.preprocess import prepare

NAME = "sparse-sampling"


@dataclass(frozen=True)
class Sampling:
    """What descriptor and search depend on. Window and spacings were chosen on six torsos of ``ct/train`` (279
    landmarks, and 114 places in simulated follow-ups); the rest is judgment.

    :param spacings_mm: of the grids, multiples of 4 mm; each is ``side`` samples wide.
    :param window: HU between which differences count (48 % within 10 mm; from -1000 to 500 HU 39 %); an MR's is between
        its :data:`MR_PERCENTILES`.
    :param lattice_mm: of the places that are tried first, all over the body.
    :param steps_mm: of the search around the best places, each to the 26 neighbors.
    :param starts: places that are searched around.
    :param places: how many of the most similar ones, apart from each other, are matched back.
    :param apart_mm: of two of them.
    :param return_mm: a way back that ends this near is consistent.
    """

    spacings_mm: Tuple[int, ...] = (4, 8, 16, 32, 64)
    side: int = 5
    window: Tuple[float, float] = (-200.0, 300.0)
    lattice_mm: int = 8
    steps_mm: Tuple[int, ...] = (4, 2, 2)
    starts: int = 16
    places: int = 5
    apart_mm: float = 8.0
    return_mm: float = 10.0


SAMPLING = Sampling()
MR_PERCENTILES = (0.2, 99.8)
VOXEL_MM = 2  # of the lattice that a scan is brought to
_BATCH = 4096  # descriptors made together: 10 MB


class Place(NamedTuple):
    """Where a point was found; named as a match's fields are.

    :param query_lps: (3,) the place, None when no way led back.
    :param candidate_lps: (3,) the best place even then.
    :param confidence: the similarity when the way back is consistent, else 0; not calibrated.
    """

    query_lps: Optional[np.ndarray]
    candidate_lps: np.ndarray
    status: str
    confidence: float
    evidence: None = None


@dataclass(frozen=True, eq=False)
class SampledScan:
    """A scan ready to be described and searched.

    :param levels: of each spacing, the averaged scan (z, y, x) uint8 with a border as wide as the grid reaches.
    :param grid: of the 2 mm lattice.
    :param body: (z, y, x) bool on every second voxel, as an embedding's; ``body_grid`` is its lattice.
    :param volume_grid: of the volume itself.
    :param places: (M, 3) voxels that are tried first.
    :param descriptors: (M, F) float32 of these.
    """

    levels: Tuple[np.ndarray, ...]
    grid: Grid
    body: np.ndarray
    body_grid: Grid
    volume_grid: Grid
    places: np.ndarray
    descriptors: np.ndarray
    sampling: Sampling


class SparseSampling:
    """Stands where a model stands in a benchmark; what it makes is searched with :func:`find_places`."""

    def __init__(self, sampling: Sampling = SAMPLING) -> None:
        self._sampling = sampling

    def embed(self, volume: Volume, modality: str = "auto") -> SampledScan:
        """The scan, sampled; errors are those of preprocessing.

        :raises InputError: the scan shows no body.
        """
        prepared, sampling = prepare(volume, modality), self._sampling
        low, high = sampling.window if prepared.modality == "ct" else np.percentile(prepared.values, MR_PERCENTILES)
        gray = (np.clip(prepared.values, low, high) - low) * (255 / max(high - low, 1e-6))
        levels = tuple(_level(gray, spacing, sampling) for spacing in sampling.spacings_mm)
        shape = tuple(-(-n // 2) for n in prepared.body.shape)
        stride = sampling.lattice_mm // VOXEL_MM
        tried = np.zeros_like(prepared.body)
        tried[(slice(stride // 2, None, stride),) * 3] = True
        places = np.argwhere(prepared.body & tried)
        if not len(places):
            raise InputError(f"{volume.source} shows no body.", "Check its intensities and modality.")
        return SampledScan(
            levels=levels,
            grid=prepared.grid,
            body=body_on_features(prepared.body, (2, 2, 2), shape),
            body_grid=prepared.grid.strided((2, 2, 2), shape),
            volume_grid=volume.grid,
            places=places,
            descriptors=_describe(levels, sampling, places),
            sampling=sampling,
        )


def find_places(template: SampledScan, query: SampledScan, points_lps: Sequence[Sequence[float]]) -> List[Place]:
    """Find points of the template in the query, each for itself.

    :param points_lps: (N, 3); a point outside the template is described from its nearest voxel.
    :raises InputError: the two scans were sampled differently.
    """
    if template.sampling != query.sampling:
        raise InputError("The two scans were sampled differently.", "Sample both with the same settings.")
    points = np.asarray(points_lps, dtype=np.float64).reshape(-1, 3)
    asked = _inside(np.rint(template.grid.to_ijk(points))[:, ::-1].astype(np.int64), template.grid)
    descriptors = _describe(template.levels, template.sampling, asked)
    results = []
    for point, voxel, descriptor, found in zip(points, asked, descriptors, _search(query, descriptors)):
        place, leads_back, similarity = _chosen(template, query, voxel, *found)
        exact = query.grid.to_lps((place + _peak(query, descriptor, place))[None, ::-1])[0]
        exact += point - template.grid.to_lps(voxel[None, ::-1])[0]  # a point's rest from its voxel is its match's, too
        status, sure = (UNCERTAIN, float(np.clip(similarity, 0, 1))) if leads_back else (NOT_FOUND, 0.0)
        results.append(Place(exact if leads_back else None, exact, status, sure))
    return results


def _chosen(
    template: SampledScan, query: SampledScan, asked: np.ndarray, places: np.ndarray, similarity: np.ndarray
) -> Tuple[np.ndarray, bool, float]:
    """The most similar place that leads back, else the one whose way back ends nearest; whether it leads back, and its
    similarity."""
    back = _search(template, _describe(query.levels, query.sampling, places))
    off_mm = np.array([np.linalg.norm(voxels[0] - asked) * VOXEL_MM for voxels, _ in back])
    consistent = off_mm <= query.sampling.return_mm
    n = int(np.argmax(consistent)) if consistent.any() else int(np.argmin(off_mm))
    return places[n], bool(consistent[n]), float(similarity[n])


def _peak(scan: SampledScan, descriptor: np.ndarray, place: np.ndarray) -> np.ndarray:
    """(3,) the top of a parabola through the neighbors' similarities along each axis, at most half a voxel away."""
    around = place + np.concatenate([-_AXES, _AXES, 0 * _AXES[:1]])
    similarity = _describe(scan.levels, scan.sampling, _inside(around, scan.grid)) @ descriptor
    before, after, here = similarity[:3], similarity[3:6], similarity[6]
    bend = np.minimum(before + after - 2 * here, -1e-6)
    return np.clip((before - after) / (2 * bend), -0.5, 0.5)


def _search(scan: SampledScan, descriptors: np.ndarray) -> List[Tuple[np.ndarray, np.ndarray]]:
    """For each descriptor the most similar places (n, 3), apart from each other, best first, and their similarities."""
    sampling = scan.sampling
    similarity = descriptors @ scan.descriptors.T
    n = min(sampling.starts, len(scan.places))
    starts = np.argpartition(-similarity, n - 1, axis=1)[:, :n]
    return [_descend(scan, descriptor, scan.places[rows]) for descriptor, rows in zip(descriptors, starts)]


def _descend(scan: SampledScan, descriptor: np.ndarray, places: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Search around each place in ever smaller steps."""
    values = np.empty(0)
    for step_mm in scan.sampling.steps_mm:
        around = _inside(places[:, None] + step_mm // VOXEL_MM * _CUBE, scan.grid)
        similarity = _describe(scan.levels, scan.sampling, around.reshape(-1, 3)) @ descriptor
        similarity = similarity.reshape(around.shape[:2])
        best = similarity.argmax(axis=1)
        rows = np.arange(len(best))
        places, values = around[rows, best], similarity[rows, best]
    kept: List[int] = []
    for n in np.argsort(-values):
        if len(kept) == scan.sampling.places:
            break
        if all(np.linalg.norm(places[n] - places[k]) * VOXEL_MM > scan.sampling.apart_mm for k in kept):
            kept.append(int(n))
    return places[kept], values[kept]


_CUBE = np.array(list(itertools.product((-1, 0, 1), repeat=3)))
_AXES = np.eye(3, dtype=np.int64)


def _inside(voxels: np.ndarray, grid: Grid) -> np.ndarray:
    return np.clip(voxels, 0, np.array(grid.shape_zyx) - 1)


def _level(gray: np.ndarray, spacing_mm: int, sampling: Sampling) -> np.ndarray:
    """The scan as the grid of this spacing reads it: averaged over the spacing; beyond it, its last slices go on along
    the body (measured: 57 % of another patient's landmarks within 10 mm, 48 % with air there), and air is around it."""
    width = spacing_mm // VOXEL_MM
    smooth = ndimage.uniform_filter(gray, width, mode="nearest") if spacing_mm > min(sampling.spacings_mm) else gray
    border = (width * (sampling.side // 2),) * 2
    longer = np.pad(np.rint(smooth).astype(np.uint8), (border, (0, 0), (0, 0)), mode="edge")
    return np.pad(longer, ((0, 0), border, border))


def _describe(levels: Sequence[np.ndarray], sampling: Sampling, voxels: np.ndarray) -> np.ndarray:
    """(N, F) float32 descriptors of unit length of (N, 3) voxels: every grid centered and normalized by itself, so that
    their dot product is the mean of the grids' correlations."""
    return np.concatenate(
        [_describe_batch(levels, sampling, voxels[n : n + _BATCH]) for n in range(0, max(len(voxels), 1), _BATCH)]
    )


def _describe_batch(levels: Sequence[np.ndarray], sampling: Sampling, voxels: np.ndarray) -> np.ndarray:
    axis = np.arange(sampling.side)
    parts = []
    for level, spacing_mm in zip(levels, sampling.spacings_mm):
        # A voxel's index is that of its grid's first corner in the padded level.
        strides = np.array([level.shape[1] * level.shape[2], level.shape[2], 1])
        offsets = spacing_mm // VOXEL_MM * np.array(list(itertools.product(axis, repeat=3))) @ strides
        values = level.ravel()[(voxels @ strides)[:, None] + offsets].astype(np.float32)
        values -= values.mean(axis=1, keepdims=True)
        parts.append(values / (np.linalg.norm(values, axis=1, keepdims=True) + 1.0))  # a flat grid says nothing
    return np.concatenate(parts, axis=1) / np.float32(np.sqrt(len(levels)))
