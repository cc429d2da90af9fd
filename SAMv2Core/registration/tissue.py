"""A volume as shares of tissue: what two modalities can be compared by without knowing either's gray values.

Every voxel is shared between a few levels of intensity (hat functions between knots: first-order Parzen windows),
so that a joint histogram of two volumes is a sum of products, smooth in the transform and quick by FFT. CT has knots
at the HU of air, fat, fluid, muscle and bone; MR has no scale, so its knots are quantiles of the body. The shares
are averaged when the lattice gets coarser, which keeps thin bone visible.

Conventions: tensors (channel, z, y, x); LPS mm; the shares of a voxel add up to how much of it was scanned.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Dict, Optional

import numpy as np
import torch
from scipy import ndimage
from torch.nn.functional import avg_pool3d, grid_sample, max_pool3d

from SAMv2Core.errors import InputError
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.volume import Volume
from SAMv2Core.preprocessing.preprocess import AIR_HU, prepare

CT_KNOTS_HU = (-1000.0, -110.0, 10.0, 70.0, 250.0, 700.0)
MR_QUANTILES = (10.0, 30.0, 50.0, 70.0, 90.0)  # of the body's values, above the background
SMOOTHING_VOXELS = 1.0
_MIN_KNOT_STEP = 0.04  # of the range; closer quantiles are one tissue
_PADDING_HU = -1200.0
BONE_HU = 230.0
MIN_BONE_MM3 = 1500.0  # of one piece: less is a calcification, a clip or a vessel with contrast agent
BONE_SPACING_MM = 4.0  # of the map of distances
_MAX_VOXELS = 2_000_000  # of the finest level: 50 MB of shares


@dataclass(frozen=True, eq=False)
class TissueImage:
    """Shares of intensity levels on an isotropic lattice with perpendicular axes.

    :param shares: (C, D, H, W) float32, adding up to 1 inside the volume and 0 outside.
    :param body: (D, H, W) bool, inside the patient.
    :param grid: the lattice.
    :param bone: (D, H, W) bool; None where nothing tells it (MR), or where there is none.
    """

    shares: torch.Tensor
    body: torch.Tensor
    grid: Grid
    bone: Optional[torch.Tensor] = None

    @property
    def spacing_mm(self) -> float:
        return float(self.grid.spacing_ijk_mm[0])

    @cached_property
    def halved(self) -> TissueImage:
        """The same at twice the spacing; what does not fill a block counts as not scanned."""
        pad = [part for n in reversed(self.body.shape) for part in (0, n % 2)]
        shares = avg_pool3d(torch.nn.functional.pad(self.shares, pad)[None], 2)[0]
        body = avg_pool3d(torch.nn.functional.pad(self.body.float(), pad)[None, None], 2)[0, 0] >= 0.5
        bone = None
        if self.bone is not None:
            bone = max_pool3d(torch.nn.functional.pad(self.bone.float(), pad)[None], 2)[0] > 0
        return TissueImage(shares, body, self.grid.strided((2, 2, 2), body.shape), bone)

    def at_spacing(self, spacing_mm: float) -> TissueImage:
        """The level of the pyramid at about this spacing."""
        image = self
        while image.spacing_mm * 1.5 <= spacing_mm:
            image = image.halved
        return image

    @cached_property
    def near(self) -> Dict[int, torch.Tensor]:
        """What :func:`near_body` found, by voxels of reach."""
        return {}

    @cached_property
    def bone_distance(self) -> Optional[torch.Tensor]:
        """(1, D, H, W) float32 mm to the nearest bone, on the lattice of its level; None without bone."""
        if self.bone is None:
            return None
        voxels = ndimage.distance_transform_edt(~self.bone.numpy())
        return torch.from_numpy(voxels.astype(np.float32) * self.spacing_mm)[None]

    @cached_property
    def edges(self) -> torch.Tensor:
        """(3, D, H, W) LPS direction of rising intensity, its length 0 to 1 by how clear the edge is.

        Normalized gradients (Haber and Modersitzki 2006), of the position between the knots rather than of gray
        values; 0 at the border of the scan.
        """
        knots = torch.arange(len(self.shares), dtype=torch.float32)
        position = torch.einsum("c,czyx->zyx", knots, self.shares)
        gradient = torch.zeros(3, *position.shape)
        gradient[2, 1:-1] = position[2:] - position[:-2]
        gradient[1, :, 1:-1] = position[:, 2:] - position[:, :-2]
        gradient[0, :, :, 1:-1] = position[:, :, 2:] - position[:, :, :-2]
        partial = (self.shares.sum(0) < 0.99).float()
        gradient *= max_pool3d(torch.nn.functional.pad(partial, [1] * 6, value=1.0)[None], 3, 1)[0] == 0
        size = torch.sqrt(gradient[0] ** 2 + gradient[1] ** 2 + gradient[2] ** 2)  # norm() takes ten times as long
        typical = size[self.body].mean() if self.body.any() else size.mean()
        axes = torch.as_tensor(self.grid.ijk_to_lps[:3, :3] / self.grid.spacing_ijk_mm, dtype=torch.float32)
        return torch.einsum("ij,jzyx->izyx", axes, gradient) / torch.sqrt(size**2 + typical**2 + 1e-12)


def sample(channels: torch.Tensor, grid: Grid, points_lps: torch.Tensor) -> torch.Tensor:
    """Channels (C, D, H, W) on ``grid`` at (..., 3) LPS mm: (C, ...), trilinear, differentiable; 0 outside."""
    matrix = torch.as_tensor(grid.lps_to_ijk, dtype=points_lps.dtype)
    size = torch.as_tensor(np.maximum(grid.size_ijk - 1, 1), dtype=points_lps.dtype)
    where = (2 * (points_lps @ matrix[:3, :3].T + matrix[:3, 3]) / size - 1).float()
    count = where.numel() // 3
    # torch samples the members of a batch in parallel, not the points of one.
    parts = torch.get_num_threads() if count % torch.get_num_threads() == 0 else 1
    batch = channels.expand(parts, *channels.shape)
    found = grid_sample(batch, where.reshape(parts, 1, 1, count // parts, 3), align_corners=True)
    return found.transpose(0, 1).reshape(len(channels), *points_lps.shape[:-1])


def tissue_image(volume: Volume, modality: str = "auto") -> TissueImage:
    """The finest level: 2 mm, or 4 mm and more where a volume is large.

    :param modality: ``"ct"``, ``"mr"`` or ``"auto"``.
    :raises InputError: no body in the volume.
    """
    prepared = prepare(volume, modality)
    values, covered, body, grid = prepared.values, prepared.covered, prepared.body, prepared.grid
    is_ct = prepared.modality == "ct"
    if not body.any():
        raise InputError(f"No body was found in {volume.source}.", "Choose a volume that shows a patient.")
    bone = None
    if is_ct:
        covered &= values > _PADDING_HU
        values = np.where(body, values, AIR_HU)  # tables and blankets are not in the other scan
        bone = _bone(values, grid)
    values = _smoothed(values, covered)
    shares = _shares(values, np.array(CT_KNOTS_HU) if is_ct else _mr_knots(values[covered], values[body]))
    shares *= covered
    image = TissueImage(torch.from_numpy(shares), torch.from_numpy(body), grid, bone)
    while image.body.numel() > _MAX_VOXELS:
        image = image.halved
    return image


def _bone(values_hu: np.ndarray, grid: Grid) -> Optional[torch.Tensor]:
    """(D, H, W) bool, pieces of bone of some size; None without any."""
    pieces, _ = ndimage.label(values_hu >= BONE_HU, np.ones((3, 3, 3)))
    voxel_mm3 = float(abs(np.linalg.det(grid.ijk_to_lps[:3, :3])))
    large = np.bincount(pieces.ravel()) * voxel_mm3 >= MIN_BONE_MM3
    large[0] = False
    return torch.from_numpy(large[pieces]) if large.any() else None


def _smoothed(values: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Gaussian smoothing that knows nothing of what was not scanned.

    Slices of 3 mm on a lattice of 2 mm are noisy where they fall on it and smooth between, and two such patterns align.
    """
    weights = ndimage.gaussian_filter(covered.astype(np.float32), SMOOTHING_VOXELS, mode="constant")
    total = ndimage.gaussian_filter(np.where(covered, values, 0).astype(np.float32), SMOOTHING_VOXELS, mode="constant")
    return np.where(covered, total / np.maximum(weights, 1e-3), values)


def _mr_knots(values: np.ndarray, body_values: np.ndarray) -> np.ndarray:
    """The lowest value, and quantiles of the body that are far enough apart."""
    low, high = np.percentile(values, 0.5), np.percentile(body_values, 99.0)
    knots = [float(low)]
    for quantile in np.percentile(body_values, MR_QUANTILES):
        if quantile - knots[-1] > _MIN_KNOT_STEP * max(high - low, 1e-6):
            knots.append(float(quantile))
    return np.array(knots if len(knots) > 1 else [float(low), float(max(high, low + 1e-6))])


def _shares(values: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """(C, D, H, W) float32 hat functions: 1 at the own knot, 0 at the neighboring ones."""
    position = np.interp(values, knots, np.arange(len(knots))).astype(np.float32)
    shares = np.empty((len(knots), *values.shape), np.float32)
    for n in range(len(knots)):
        shares[n] = np.clip(1 - np.abs(position - n), 0, 1)
    return shares


def near_body(image: TissueImage, rim_mm: float) -> torch.Tensor:
    """(D, H, W) bool: the scanned part of the body and of the air ``rim_mm`` around it; kept with the image."""
    reach = max(1, round(rim_mm / image.spacing_mm))
    if reach not in image.near:
        image.near[reach] = _near_body(image, reach)
    return image.near[reach]


def _near_body(image: TissueImage, reach: int) -> torch.Tensor:
    grown = image.body.float()[None]
    for axis in range(3):
        kernel, pad = [1, 1, 1], [0, 0, 0]
        kernel[axis], pad[axis] = 2 * reach + 1, reach
        grown = max_pool3d(grown, kernel, 1, pad)
    return (grown[0] > 0) & (image.shares.sum(0) > 0.5)


def mutual_information(joint: torch.Tensor) -> torch.Tensor:
    """Mutual information in nats of joint histograms.

    :param joint: (A, B, ...) sums of products of shares, of any size.
    :returns: (...)
    """
    p = joint.clamp_min(0) / joint.sum((0, 1)).clamp_min(1e-6)
    return _entropy(p.sum(1)).sum(0) + _entropy(p.sum(0)).sum(0) - _entropy(p).sum((0, 1))


def _entropy(p: torch.Tensor) -> torch.Tensor:
    """-p log p, 0 at 0, with a finite slope there."""
    return -p * torch.log(p + 1e-7)
