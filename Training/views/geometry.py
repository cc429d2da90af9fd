"""Two views of one scan with exactly known correspondence (paper sec. 3.1, self-supervised sampling).

A *view* is a deformed, cropped copy of a volume. It is described by a map from view coordinates ``u`` (mm about the
view's centre, axes x, y, z of the lattice) to scan coordinates ``p`` (mm from the centre of voxel 0):

    p = centre + M (u + d(u)),      M = rotation x scale,      d = smooth random displacement.

Both the context crop (4 mm) and the detail crop (2 mm, a box inside the context crop) are read through the same map,
and a point of one view is found in the other by inverting the map (fixed-point iteration), so positives are exact to
a fraction of a voxel instead of the nearest voxel.

Arrays are (z, y, x); points and vectors are (x, y, z); units are mm. Scans lie on a 2 mm lattice with LPS axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np
import torch
import torch.nn.functional as F

from Training.data.index import LATTICE_MM

DETAIL_MM = LATTICE_MM
CONTEXT_MM = 4.0
COARSE_MM = 8.0


@dataclass(frozen=True)
class ViewOptions:
    """How views are drawn; angles in degrees, lengths in mm, sizes in voxels (z, y, x).

    :param context_size: crop of the context branch at 4 mm.
    :param detail_size: crop of the detail branch at 2 mm; a multiple of 8.
    :param rotation: largest rotation about each axis.
    :param scale: range of the isotropic scale.
    :param stretch: each axis varies by up to this share more.
    :param deformation_mm: largest standard deviation of the displacement at the control points.
    :param control_mm: distance of the control points.
    :param bulk_mm: the same of a second, coarser displacement, ``bulk_control_mm`` apart: build and posture.
    :param shift_mm: largest offset (x, y, z) between the centres of the two views.
    :param cut_probability: probability that one end of a view is cut off along z (field of view).
    :param other_contrast: probability that a view is shown in the contrast of another modality or sequence.
    """

    context_size: Tuple[int, int, int] = (48, 56, 80)
    detail_size: Tuple[int, int, int] = (40, 56, 56)
    rotation: float = 15.0
    scale: Tuple[float, float] = (0.8, 1.25)
    stretch: float = 0.05
    deformation_mm: float = 6.0
    control_mm: float = 48.0
    bulk_mm: float = 0.0
    bulk_control_mm: float = 110.0
    shift_mm: Tuple[float, float, float] = (80.0, 60.0, 90.0)
    cut_probability: float = 0.5
    other_contrast: float = 0.0


@dataclass(frozen=True)
class ViewMap:
    """u -> p of the module docstring.

    :param centre: (3,) x, y, z mm in the scan.
    :param matrix: (3, 3).
    :param field: (1, 3, d, h, w) displacement in mm (x, y, z) at control points spanning the context crop.
    :param extent: (3,) x, y, z mm: the control points reach from -extent/2 to +extent/2.
    """

    centre: torch.Tensor
    matrix: torch.Tensor
    field: torch.Tensor
    extent: torch.Tensor

    def displacement(self, u: torch.Tensor) -> torch.Tensor:
        """d at (N, 3) view coordinates, trilinear between the control points; (N, 3) mm."""
        grid = (u / (self.extent / 2)).view(1, 1, 1, -1, 3)
        return F.grid_sample(self.field, grid, padding_mode="border", align_corners=True)[0, :, 0, 0].T

    def to_scan(self, u: torch.Tensor) -> torch.Tensor:
        """(N, 3) view coordinates to scan coordinates."""
        return self.centre + (u + self.displacement(u)) @ self.matrix.T

    def to_view(self, p: torch.Tensor, n_iterations: int = 8) -> torch.Tensor:
        """(N, 3) scan coordinates to view coordinates; the displacement is contracting, so iteration converges."""
        affine = (p - self.centre) @ torch.linalg.inv(self.matrix).T
        u = affine - self.displacement(affine)
        for _ in range(n_iterations):
            u = affine - self.displacement(u)
        return u


def crop_coordinates(size_zyx: Tuple[int, int, int], spacing: float, offset: torch.Tensor) -> torch.Tensor:
    """View coordinates (d, h, w, 3) of the voxel centres of a box whose centre lies at ``offset`` (x, y, z mm)."""
    axes = [(torch.arange(n, dtype=torch.float32) - (n - 1) / 2) * spacing for n in size_zyx]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    return torch.stack((x, y, z), dim=-1) + offset


def draw_map(rng: np.random.Generator, centre: np.ndarray, options: ViewOptions) -> ViewMap:
    """Draw rotation, scale and displacement for a view centred at ``centre`` (x, y, z mm in the scan)."""
    angles = np.deg2rad(rng.uniform(-options.rotation, options.rotation, 3))
    scales = rng.uniform(*options.scale) * rng.uniform(1 - options.stretch, 1 + options.stretch, 3)
    matrix = rotation(angles) @ np.diag(scales)
    extent = np.array(options.context_size[::-1]) * CONTEXT_MM
    field = _draw_field(rng, extent, options.control_mm, options.deformation_mm)
    if options.bulk_mm > 0:
        bulk = _draw_field(rng, extent, options.bulk_control_mm, options.bulk_mm)
        field = field + F.interpolate(bulk, size=field.shape[2:], mode="trilinear", align_corners=True)
    return ViewMap(
        torch.tensor(centre, dtype=torch.float32),
        torch.tensor(matrix, dtype=torch.float32),
        field,
        torch.tensor(extent, dtype=torch.float32),
    )


def _draw_field(rng: np.random.Generator, extent: np.ndarray, control_mm: float, largest_mm: float) -> torch.Tensor:
    """(1, 3, d, h, w) random displacements in mm at control points over the extent (x, y, z mm)."""
    n_control = np.ceil(extent / control_mm).astype(int) + 1
    amplitude = largest_mm * rng.uniform(0, 1)
    return torch.tensor(rng.normal(0, amplitude, (1, 3, *n_control[::-1])), dtype=torch.float32)


def rotation(angles: np.ndarray) -> np.ndarray:
    """(3, 3) turn about x, then y, then z by (3,) radians."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    rx = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    ry = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    rz = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return rz @ ry @ rx


def sample_scan(
    array: np.ndarray, spacing: float, p: torch.Tensor, outside: float, mode: str = "bilinear"
) -> torch.Tensor:
    """Values of a scan (z, y, x) at scan coordinates (..., 3) mm, shape (...); ``outside`` beyond the scan.

    Only the box of voxels that is needed is converted to float32: scans stay int16 in memory.
    """
    index = p / spacing
    flat = index.reshape(-1, 3)
    low = flat.amin(0).floor().int().numpy() - 1
    high = flat.amax(0).ceil().int().numpy() + 2
    size = np.array(array.shape[::-1])
    low, high = np.clip(low, 0, size), np.clip(high, 0, size)
    shape = p.shape[:-1]
    if np.any(high - low < 2):
        return torch.full(shape, outside)
    box = array[low[2] : high[2], low[1] : high[1], low[0] : high[0]]
    values = torch.from_numpy(np.ascontiguousarray(box)).float()[None, None] - outside
    extent = torch.tensor(high - low - 1, dtype=torch.float32)
    grid = (index - torch.tensor(low, dtype=torch.float32)) / extent * 2 - 1
    out = F.grid_sample(values, grid.view(1, 1, 1, -1, 3), mode=mode, padding_mode="zeros", align_corners=True)
    return out.view(shape) + outside


def sample_map(vectors: torch.Tensor, u: torch.Tensor, spacing: float, offset: torch.Tensor) -> torch.Tensor:
    """Trilinear samples of a feature map (C, d, h, w) at view coordinates (N, 3); (N, C), not normalised.

    The map's voxels lie at ``crop_coordinates(shape, spacing, offset)``.
    """
    size = torch.tensor(vectors.shape[:0:-1], dtype=torch.float32, device=u.device)
    grid = ((u - offset.to(u.device)) / spacing * 2 / size).view(1, 1, 1, -1, 3)
    out = F.grid_sample(vectors[None], grid, padding_mode="border", align_corners=False)
    return out[0, :, 0, 0].T


def inside_box(
    u: torch.Tensor, size_zyx: Tuple[int, int, int], spacing: float, offset: torch.Tensor, margin: float = 0.0
) -> torch.Tensor:
    """(N,) bool: view coordinates inside a box, at least ``margin`` mm from its faces."""
    half = torch.tensor(size_zyx[::-1], dtype=torch.float32) * spacing / 2 - margin
    return ((u - offset).abs() <= half).all(dim=-1)


def detail_offset(u_centre: torch.Tensor, options: ViewOptions) -> Tuple[torch.Tensor, Tuple[int, int, int]]:
    """The detail box nearest to a wished centre that is aligned to the 8 mm lattice of the context crop.

    :param u_centre: (3,) wished centre, view coordinates.
    :return: the box's centre (x, y, z mm) and the index (z, y, x) of its first 8 mm voxel.
    """
    n_context = torch.tensor(options.context_size[::-1]) // 2
    n_detail = torch.tensor(options.detail_size[::-1]) // 4
    free = (n_context - n_detail).float()
    first = (u_centre / COARSE_MM + (n_context - n_detail) / 2).round().clamp(torch.zeros(3), free)
    offset = (first - free / 2) * COARSE_MM
    x, y, z = (int(v) for v in first)
    return offset, (z, y, x)


def cut_plane(rng: np.random.Generator, options: ViewOptions) -> Optional[Tuple[float, float]]:
    """Range of view z (mm) that remains after cutting off one end, or None; at least half of the crop remains."""
    if rng.random() > options.cut_probability:
        return None
    half = options.context_size[0] * CONTEXT_MM / 2
    cut = rng.uniform(0, half)
    return (-half, cut) if rng.random() < 0.5 else (-cut, half)
