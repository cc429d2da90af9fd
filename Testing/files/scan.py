"""The scan that all troublesome files show, and the comparison with what was read."""

from __future__ import annotations

from typing import Dict

import numpy as np
from scipy import ndimage

from SAMv2Core.io.volume import Volume

N_SLICES, N_ROWS, N_COLUMNS = 12, 10, 8
SPACING_MM = (4.0, 4.0, 5.0)


def _scan() -> Volume:
    noise = np.random.default_rng(22).normal(0, 1, (N_SLICES, N_ROWS, N_COLUMNS))
    smooth = ndimage.gaussian_filter(noise, 1.0)
    array = np.round(smooth / np.abs(smooth).max() * 900).astype(np.int16)
    matrix = np.diag([*SPACING_MM, 1.0])
    matrix[:3, 3] = (-40.0, 25.0, -310.0)
    return Volume(array, matrix, "the scan")


SCAN = _scan()
"""(z, y, x) = (12, 10, 8) voxels of 4 x 4 x 5 mm, HU from -900 to 900; no symmetry that could hide a flip."""


def two_lesions() -> Dict[str, np.ndarray]:
    """(z, y, x) masks by name; they overlap."""
    masks = {name: np.zeros(SCAN.array.shape, bool) for name in ("Liver met", "Läsion 2")}
    masks["Liver met"][2:5, 2:5, 1:4] = True
    masks["Läsion 2"][4:9, 3:7, 3:6] = True  # overlaps the first one
    return masks


def same_anatomy(volume: Volume, tolerance_hu: float = 1.0, margin_voxels: int = 0) -> bool:
    """Whether the volume holds the scan's voxels where the scan has them (linear between its own)."""
    inner = tuple(slice(margin_voxels, n - margin_voxels) for n in SCAN.array.shape)
    zyx = np.indices(SCAN.array.shape)[(slice(None), *inner)].reshape(3, -1).T
    ijk = volume.grid.to_ijk(SCAN.grid.to_lps(zyx[:, ::-1].astype(float)))
    if np.any(ijk < -0.02) or np.any(ijk > volume.grid.size_ijk - 0.98):
        return False
    values = ndimage.map_coordinates(volume.array.astype(float), ijk[:, ::-1].T, order=1, mode="nearest")
    return bool(np.abs(values - SCAN.array[inner].ravel()).max() <= tolerance_hu)
