"""Patches of prepared scans with known geometry: what the paper's recipes see (sec. 3.1, 4.1).

A patch is a turned and scaled box of a scan. It is described by a map from its own coordinates u (mm about its center,
axes of the scan's lattice) to coordinates p of the scan (mm from the center of voxel 0 along the lattice's axes),

    p = center + M u,        M = rotation x scale,

so the place of every voxel is known exactly; nothing has to be carried through the augmentation beside the image.
Drawing (CPU, this module) only copies the part of the memory-mapped scan that the patch covers; resampling and
intensities run on the device (:func:`render`, :mod:`Training.views.intensity`).

Arrays are (z, y, x), points (x, y, z) mm. Which voxels a feature map has, and where, follows ``Grid.strided`` of
SAMv2Core, as at run time.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Callable, Dict, Literal, Optional, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F

from Training.data.index import AIR, LATTICE_MM, Entry, Index, to_network
from Training.views.geometry import rotation
from Training.views.intensity import IntensityDraw, IntensityOptions, apply_intensity, draw_intensity

SMALLEST_ZYX = (8, 32, 32)
FINE_STRIDE, COARSE_STRIDE = (2, 2, 2), (4, 16, 16)

Size3 = Tuple[int, int, int]


@dataclass(frozen=True)
class PatchOptions:
    """How two views of one scan are drawn.

    :param size_zyx: voxels of a patch.
    :param spacing_mm: of a patch at scale 1.
    :param scale: range of each view's scale.
    :param rotation_deg: largest rotation about each axis.
    :param independent: probability that the views are drawn without a common point.
    :param body_seed: probability that the common point lies in the body.
    :param margin_zyx: voxels between the common point and the faces of both views.
    :param voxels: which voxels are anchors and negatives: all of the ``scan``, or those of the ``body``.
    """

    size_zyx: Size3 = (32, 96, 96)
    spacing_mm: float = 2.0
    scale: Tuple[float, float] = (0.8, 1.2)
    rotation_deg: float = 0.0
    independent: float = 0.2
    body_seed: float = 0.9
    margin_zyx: Size3 = (4, 10, 10)
    voxels: Literal["scan", "body"] = "scan"

    def __post_init__(self) -> None:
        check_size(self.size_zyx)
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError("scale must be an increasing range above 0")


def check_size(size_zyx: Size3) -> None:
    """:raises ValueError: too small for the network, whose coarse map needs two cells along every axis."""
    if any(n < least for n, least in zip(size_zyx, SMALLEST_ZYX)):
        raise ValueError(f"a patch of {tuple(size_zyx)} voxels is too small; the network needs {SMALLEST_ZYX}")


@dataclass(frozen=True)
class LevelPlaces:
    """Where the voxels of a feature map lie, in the order of the flattened map.

    :param points: (N, 3) float32 LPS mm, in the frame that both views of a pair share.
    :param valid: (N,) bool: takes part in the losses.
    :param outside: (N,) bool: valid, but beyond the partner's field of view; None within one scan.
    """

    points: torch.Tensor
    valid: torch.Tensor
    outside: Optional[torch.Tensor] = None


@dataclass(frozen=True)
class Patch:
    """One patch, ready for :func:`render`.

    :param image: (d, h, w) int16 stored units, the part of the scan that the patch covers.
    :param body: (d, h, w) bool of the same part, or None where no augmentation needs it.
    :param to_crop: (3, 4) float32: patch voxel (x, y, z, 1) to voxel of ``image`` (x, y, z).
    :param size_zyx: of the patch.
    :param spacing_mm: of the patch's voxels in the scan.
    :param labels: (N,) int64 at the fine voxels, 0 = none; or None.
    :param name: of the scan.
    """

    image: torch.Tensor
    body: Optional[torch.Tensor]
    to_crop: torch.Tensor
    size_zyx: Size3
    spacing_mm: float
    fine: LevelPlaces
    coarse: LevelPlaces
    labels: Optional[torch.Tensor]
    intensity: IntensityDraw
    name: str


@dataclass(frozen=True)
class Pose:
    """:param center: (3,) mm in the scan; :param matrix: (3, 3) M; :param scale: its scale."""

    center: np.ndarray
    matrix: np.ndarray
    scale: float


class ScanReader:
    """The arrays of an index, memory-mapped once per process; may be used by several threads."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self._arrays: Dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    def __call__(self, path: Optional[str]) -> np.ndarray:
        with self._lock:
            if path is None or path not in self._arrays:
                self._arrays[str(path)] = self.index.array(path)
            return self._arrays[str(path)]

    def seed(self, entry: Entry, rng: np.random.Generator, path: Optional[str]) -> np.ndarray:
        """(3,) x, y, z mm of a random voxel; of one that is not 0 in the array at ``path``, unless None."""
        shape = np.array(entry.shape_zyx)
        if path is None:
            return (rng.random(3) * (shape - 1))[::-1] * LATTICE_MM
        array = self(path)
        tries = (rng.random((256, 3)) * shape).astype(int)
        hits = np.flatnonzero(array[tries[:, 0], tries[:, 1], tries[:, 2]])
        if len(hits):
            return tries[hits[0]][::-1] * LATTICE_MM
        found = np.argwhere(np.asarray(array) != 0)
        chosen = found[rng.integers(len(found))] if len(found) else shape // 2
        return chosen[::-1].astype(np.float64) * LATTICE_MM


def draw_pose(entry: Entry, seed: np.ndarray, rng: np.random.Generator, options: PatchOptions, size_zyx: Size3) -> Pose:
    """A pose whose box holds ``seed`` (mm in the scan) and leaves the scan as little as it can."""
    scale = float(rng.uniform(*options.scale))
    angles = np.deg2rad(rng.uniform(-options.rotation_deg, options.rotation_deg, 3))
    matrix = rotation(angles) * scale
    half = np.array(size_zyx[::-1]) * options.spacing_mm / 2
    free = np.maximum(half - np.array(options.margin_zyx[::-1]) * options.spacing_mm, 0.0)
    center = seed - matrix @ rng.uniform(-free, free)
    reach = np.abs(matrix) @ half
    length = (np.array(entry.shape_zyx[::-1]) - 1) * LATTICE_MM
    inside = np.clip(center, np.minimum(reach, length / 2), np.maximum(length - reach, length / 2))
    return Pose(inside, matrix, scale)


def level_shape(size_zyx: Size3, stride: Size3) -> Size3:
    """Voxels of a feature map of the paper's network: pool2 floors along z, every convolution rounds up."""
    d, h, w = size_zyx
    return -(-(d // 2) // (stride[0] // 2)), -(-h // stride[1]), -(-w // stride[2])


def level_points(pose: Pose, size_zyx: Size3, stride: Size3, spacing_mm: float) -> np.ndarray:
    """(N, 3) x, y, z mm in the scan of the voxels of a feature map, flattened from (z, y, x)."""
    axes = [
        (stride[k] * np.arange(n) + (stride[k] - 1) / 2 - (size_zyx[k] - 1) / 2) * spacing_mm
        for k, n in enumerate(level_shape(size_zyx, stride))
    ]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return np.stack([x, y, z], axis=-1).reshape(-1, 3) @ pose.matrix.T + pose.center


def make_patch(
    reader: ScanReader,
    entry: Entry,
    pose: Pose,
    rng: np.random.Generator,
    options: PatchOptions,
    intensity: IntensityOptions,
    size_zyx: Size3,
    to_common: Optional[Callable[[np.ndarray], np.ndarray]] = None,
    beyond: Optional[Callable[[np.ndarray], np.ndarray]] = None,
) -> Patch:
    """Copy a patch's part of a scan and compute where its voxels lie.

    :param to_common: (N, 3) LPS of the scan to the frame shared by the pair; None: LPS itself.
    :param beyond: (N, 3) LPS of the scan to (N,) bool, beyond the partner's field of view; None: no partner.
    """
    draw = draw_intensity(rng, intensity)
    image, first = _cut(reader(entry.image), pose, size_zyx, options.spacing_mm, AIR)
    inside, _ = _cut(reader(entry.body), pose, size_zyx, options.spacing_mm, 0)
    body = torch.from_numpy(inside > 0) if draw.curve is not None and intensity.body_only else None
    levels = []
    labels = None
    for stride in (FINE_STRIDE, COARSE_STRIDE):
        points = level_points(pose, size_zyx, stride, options.spacing_mm)
        voxel = np.rint(points / LATTICE_MM).astype(int)
        inside = np.all((voxel >= 0) & (voxel < np.array(entry.shape_zyx[::-1])), axis=1)
        valid = inside & _lookup(reader(entry.body), voxel, inside).astype(bool) if options.voxels == "body" else inside
        if stride == FINE_STRIDE and entry.labels is not None:
            labels = torch.from_numpy(_lookup(reader(entry.labels), voxel, inside).astype(np.int64))
        lps = entry.grid.to_lps(points / LATTICE_MM)
        outside = None if beyond is None else torch.from_numpy(beyond(lps) & valid)
        common = lps if to_common is None else to_common(lps)
        levels.append(LevelPlaces(torch.from_numpy(common.astype(np.float32)), torch.from_numpy(valid), outside))
    to_crop = _patch_to_crop(pose, size_zyx, options.spacing_mm, first)
    return Patch(
        torch.from_numpy(image), body, to_crop, size_zyx, options.spacing_mm * pose.scale, levels[0], levels[1], labels,
        draw, entry.name,
    )  # fmt: skip


def draw_patches(
    reader: ScanReader, entry: Entry, rng: np.random.Generator, options: PatchOptions, intensity: IntensityOptions
) -> Tuple[Patch, Patch]:
    """Two views of one scan, which share a point unless drawn independently."""
    independent = rng.random() < options.independent
    seeds = []
    for _ in range(2 if independent else 1):
        seeds.append(reader.seed(entry, rng, entry.body if rng.random() < options.body_seed else None))
    poses = [draw_pose(entry, seeds[k % len(seeds)], rng, options, options.size_zyx) for k in range(2)]
    a, b = (make_patch(reader, entry, pose, rng, options, intensity, options.size_zyx) for pose in poses)
    return a, b


def _cut(array: np.ndarray, pose: Pose, size_zyx: Size3, spacing_mm: float, fill: int) -> Tuple[np.ndarray, np.ndarray]:
    """The box of the scan that a patch reads, padded with ``fill``; and the index (x, y, z) of its first voxel."""
    reach = np.abs(pose.matrix) @ (np.array(size_zyx[::-1]) * spacing_mm / 2)
    first = np.floor((pose.center - reach) / LATTICE_MM).astype(int) - 1
    last = np.ceil((pose.center + reach) / LATTICE_MM).astype(int) + 2
    low = np.clip(first, 0, array.shape[::-1])
    high = np.clip(last, low, array.shape[::-1])
    part = np.asarray(array[low[2] : high[2], low[1] : high[1], low[0] : high[0]])
    pad = [(int(low[k] - first[k]), int(last[k] - high[k])) for k in (2, 1, 0)]
    return np.pad(part, pad, constant_values=fill), first


def _lookup(array: np.ndarray, voxel: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Values at voxels (N, 3) x, y, z; 0 where not inside."""
    x, y, z = np.where(inside[:, None], voxel, 0).T
    return np.where(inside, array[z, y, x], 0)


def _patch_to_crop(pose: Pose, size_zyx: Size3, spacing_mm: float, first: np.ndarray) -> torch.Tensor:
    linear = pose.matrix * (spacing_mm / LATTICE_MM)
    middle = (np.array(size_zyx[::-1]) - 1) / 2
    shift = pose.center / LATTICE_MM - first - linear @ middle
    return torch.from_numpy(np.column_stack([linear, shift]).astype(np.float32))


def render(views: Sequence[Patch]) -> torch.Tensor:
    """The patches as the network sees them, (N, 1, D, H, W) float32 in [-50, 205], on the device of the views."""
    patches = torch.cat([_resample(to_network(view.image.float()), view) for view in views])
    body = None
    if any(view.body is not None for view in views):
        masks = [None if view.body is None else _resample(view.body.float(), view) > 0.5 for view in views]
        body = torch.cat([torch.ones_like(patches[:1], dtype=torch.bool) if m is None else m for m in masks])
    return apply_intensity(patches, body, [view.intensity for view in views], [view.spacing_mm for view in views])


def _resample(values: torch.Tensor, view: Patch) -> torch.Tensor:
    """(1, 1, D, H, W): linear samples of the crop at the patch's voxels."""
    size = torch.tensor(values.shape[::-1], device=values.device, dtype=torch.float32)
    axes = [torch.arange(n, device=values.device, dtype=torch.float32) for n in view.size_zyx]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    position = torch.stack((x, y, z), dim=-1) @ view.to_crop[:, :3].T + view.to_crop[:, 3]
    grid = (position + 0.5) / size * 2 - 1
    return F.grid_sample(values[None, None], grid[None], padding_mode="border", align_corners=False)


def moved(content: Any, device: torch.device) -> Any:
    """Nested lists, tuples, dicts and dataclasses with all their tensors on a device."""
    if isinstance(content, torch.Tensor):
        return content.to(device, non_blocking=True)
    if isinstance(content, dict):
        return {key: moved(value, device) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(moved(value, device) for value in content)
    if isinstance(content, (Patch, LevelPlaces)):
        return type(content)(**{key: moved(value, device) for key, value in vars(content).items()})
    return content
