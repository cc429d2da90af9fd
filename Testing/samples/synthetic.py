"""Small body-like volumes for the tests: the same seeded anatomy, sampled by any lattice.

The anatomy lives in LPS space, not in voxels, so that two volumes of one seed with different spacing,
direction or crop show the same patient. It fills the central part of the box that a volume spans: a trunk
with lungs, spine, liver and random organs, an arm beside it, and (CT) a thin curved table below.
"""

from __future__ import annotations

from typing import Optional, Sequence, Tuple

import numpy as np

from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.volume import Volume

AIR_HU, LUNG_HU, FAT_HU, MUSCLE_HU, BONE_HU, TABLE_HU = -1000.0, -820.0, -100.0, 50.0, 700.0, -150.0
_MR_OF_HU = ([-1000, -820, -150, -100, 50, 150, 700], [0, 30, 5, 900, 350, 420, 60])


def body_grid(
    shape_zyx: Sequence[int], spacing: Sequence[float], direction: Optional[np.ndarray] = None,
    center_lps: Sequence[float] = (0.0, 0.0, 0.0),
) -> Grid:  # fmt: skip
    """A lattice around ``center_lps``; spacing (x, y, z) mm; columns of direction are the axes i, j, k."""
    matrix = np.eye(4)
    matrix[:3, :3] = (np.eye(3) if direction is None else np.asarray(direction)) * np.asarray(spacing)
    middle = (np.array(tuple(shape_zyx)[::-1]) - 1) / 2
    matrix[:3, 3] = np.asarray(center_lps) - matrix[:3, :3] @ middle
    return Grid(tuple(shape_zyx), matrix)  # type: ignore[arg-type]


def _positions(grid: Grid) -> np.ndarray:
    """(D, H, W, 3) LPS mm of all voxel centers."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in grid.shape_zyx), indexing="ij")
    return grid.to_lps(np.stack([x, y, z], axis=-1).reshape(-1, 3)).reshape(*grid.shape_zyx, 3)


def _inside_trunk(u: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Elliptic cylinder along z, in units of the half box; cut by both ends of the box."""
    return (u[..., 0] / (0.62 * scale)) ** 2 + ((u[..., 1] + 0.05) / (0.62 * scale)) ** 2 < 1


def _inside_arm(u: np.ndarray) -> np.ndarray:
    return ((u[..., 0] - 0.83) / 0.13) ** 2 + (u[..., 1] / 0.2) ** 2 < 1


def body_truth(grid: Grid, half_mm: Sequence[float], center_lps: Sequence[float] = (0.0, 0.0, 0.0)) -> np.ndarray:
    """(D, H, W) bool: trunk and arm of the anatomy whose box has these half sizes (x, y, z)."""
    u = (_positions(grid) - np.asarray(center_lps)) / np.asarray(half_mm)
    return _inside_trunk(u) | _inside_arm(u)


def _hu(u: np.ndarray, rng: np.random.Generator, table: bool) -> np.ndarray:
    """HU at positions in units of the half box, (..., 3) LPS."""
    hu = np.full(u.shape[:-1], AIR_HU)
    if table:
        bed = 0.72 + 0.1 * u[..., 0] ** 2
        hu[np.abs(u[..., 1] - bed) < 0.025] = TABLE_HU
    hu[_inside_arm(u)] = MUSCLE_HU
    hu[_inside_trunk(u)] = FAT_HU
    hu[_inside_trunk(u, 0.9)] = MUSCLE_HU
    for side in (-0.28, 0.28):
        lung = ((u[..., 0] - side) / 0.2) ** 2 + ((u[..., 1] + 0.08) / 0.33) ** 2 + ((u[..., 2] - 0.45) / 0.5) ** 2 < 1
        hu[lung] = LUNG_HU
    for _ in range(25):
        center, radius = rng.uniform([-0.4, -0.4, -0.9], [0.4, 0.3, 0.9]), rng.uniform(0.05, 0.14)
        organ = ((u - center) ** 2).sum(axis=-1) < radius**2
        hu[organ & _inside_trunk(u, 0.85)] = rng.uniform(-60, 250)
    spine = (u[..., 0] / 0.09) ** 2 + ((u[..., 1] - 0.36) / 0.1) ** 2 < 1
    vertebra = np.cos(u[..., 2] * 8 * np.pi) > -0.6
    hu[spine] = MUSCLE_HU
    hu[spine & vertebra] = BONE_HU
    return hu


def make_body_volume(
    shape_zyx: Tuple[int, int, int] = (40, 48, 60),
    spacing: Sequence[float] = (5.0, 4.0, 5.0),
    direction: Optional[np.ndarray] = None,
    seed: int = 0,
    modality: str = "ct",
    *,
    center_lps: Sequence[float] = (0.0, 0.0, 0.0),
    half_mm: Optional[Sequence[float]] = None,
    table: bool = True,
) -> Volume:
    """A body-like volume; int16 HU for ``"ct"``, non-negative int16 for ``"mr"``.

    :param spacing: (x, y, z) mm, along i, j, k.
    :param direction: (3, 3), columns are the axes i, j, k in LPS; any orientation, left-handed too.
    :param center_lps: center of the volume and of the anatomy.
    :param half_mm: half sizes (x, y, z) of the anatomy's box; default: the box that the volume spans.
    """
    grid = body_grid(shape_zyx, spacing, direction, center_lps)
    if half_mm is None:
        half_mm = np.abs(grid.ijk_to_lps[:3, :3]) @ grid.size_ijk / 2
    u = (_positions(grid) - np.asarray(center_lps)) / np.asarray(half_mm)
    hu = _hu(u, np.random.default_rng(seed), table and modality == "ct")
    # Another generator: the noise must not shift the anatomy's random numbers.
    noise = np.random.default_rng(seed + 1_000_003).normal(0, 1, hu.shape)
    if modality == "mr":
        bias = 1 + 0.3 * u[..., 1]
        array = np.abs(np.interp(hu, *_MR_OF_HU) * bias + 8 * noise)
    else:
        array = hu + 12 * noise
    return Volume(np.round(array).astype(np.int16), grid.ijk_to_lps, f"synthetic {modality} {seed}")
