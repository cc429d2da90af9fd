"""A limb as CT and MR see it: a bent, tapering tube with fat, muscles, two bones and some lumps; seeded, no files."""

from __future__ import annotations

from typing import Optional, Tuple

import numpy as np

from SAMv2Core.geometry.grid import Grid, transform_points
from SAMv2Core.io.volume import Volume

# air, fat, muscle, another muscle, bone, marrow, lump
CT_HU = np.array([-1000.0, -105.0, 55.0, 45.0, 900.0, -60.0, 25.0])
T1_MR = np.array([5.0, 980.0, 380.0, 430.0, 20.0, 900.0, 300.0])
HALF_LENGTH_MM = 110.0


def tissue_at(points_lps: np.ndarray, patient: int = 0) -> np.ndarray:
    """(N,) index of the tissue at (N, 3) LPS mm; the limb runs along S through the origin."""
    rng = np.random.default_rng(patient)
    taper, phase = rng.uniform(0.1, 0.3), rng.uniform(0, 6)
    z = points_lps[:, 2]
    x = points_lps[:, 0] - 8 * np.sin(z / 70 + phase)
    y = points_lps[:, 1] - 6 * np.cos(z / 55 + phase)
    radius, angle = np.hypot(x / 1.15, y), np.arctan2(y, x)
    scale = 1 - taper * z / HALF_LENGTH_MM
    skin = 58 * scale * (1 + 0.06 * np.cos(2 * angle + z / 60))
    fascia = 46 * scale * (1 + 0.08 * np.cos(3 * angle + z / 50 + phase))
    tissue = np.zeros(len(points_lps), int)
    tissue[radius < skin] = 1
    tissue[radius < fascia] = np.where(np.sin(2 * angle + z / 45 + phase) > 0, 2, 3)[radius < fascia]
    septum = np.abs(np.sin(2 * angle + z / 45 + phase)) < 0.12
    tissue[(radius < fascia) & septum] = 1
    for bx, by, r in ((12.0, 6.0, 13.0), (-14.0, -12.0, 8.0)):
        bone = np.hypot(x - bx - 5 * np.sin(z / 60), y - by)
        width = r * (1 + 0.35 * (z / HALF_LENGTH_MM) ** 2)
        tissue[bone < width] = 4
        tissue[bone < 0.6 * width] = 5
    # Without such things a tube could slide along itself.
    for height, side in zip(np.linspace(-85, 85, 9) + rng.uniform(-8, 8, 9), rng.uniform(0, 6, 9)):
        center = np.array([28 * np.cos(side), 28 * np.sin(side), height])
        stretch = [1, 1, rng.uniform(0.8, 1.5)]
        tissue[np.linalg.norm((points_lps - center) / stretch, axis=1) < 11] = rng.choice([1, 4, 6])
    return tissue


def limb(
    modality: str,
    z_range_mm: Tuple[float, float] = (-100.0, 100.0),
    spacing_mm: float = 3.0,
    motion: Optional[np.ndarray] = None,
    patient: int = 0,
    seed: int = 0,
    half_width_mm: float = 80.0,
) -> Volume:
    """A scan of the limb, its header moved by ``motion`` (4, 4): anatomy at x lies at motion x."""
    low, high = z_range_mm
    size = (round((high - low) / spacing_mm), *(2 * [round(2 * half_width_mm / spacing_mm)]))
    matrix = np.diag([spacing_mm] * 3 + [1.0])
    matrix[:3, 3] = (-half_width_mm, -half_width_mm, low)
    k, j, i = np.meshgrid(*(np.arange(n) for n in size), indexing="ij")
    points = Grid(size, matrix).to_lps(np.stack([i, j, k], axis=-1).reshape(-1, 3))
    rng = np.random.default_rng(seed)
    values = (CT_HU if modality == "ct" else T1_MR)[tissue_at(points, patient)].reshape(size)
    values = values + rng.normal(0, 15, size) if modality == "ct" else np.abs(values + rng.normal(0, 25, size))
    if motion is not None:
        matrix = motion @ matrix
    return Volume(np.round(values).astype(np.int16), matrix, f"limb.{modality}")


def body_grid(z_range_mm: Tuple[float, float] = (-60.0, 60.0)) -> np.ndarray:
    """(N, 3) points of the body, every 20 mm."""
    axes = [np.arange(-40, 41, 20.0), np.arange(-40, 41, 20.0), np.arange(*z_range_mm, 20.0)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def error_mm(small_to_large: np.ndarray, motion: np.ndarray, points_lps: np.ndarray) -> float:
    """Mean distance between points and where a matrix takes their moved places back to."""
    returned = transform_points(small_to_large, transform_points(motion, points_lps))
    return float(np.linalg.norm(returned - points_lps, axis=1).mean())
