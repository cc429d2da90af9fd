"""A volume on another grid: the moving scan as the fixed one sees it, and the part of a scan in a box.

Indices go through the full matrices of both grids, so oblique, left-handed and sheared volumes need no special case.
Conventions: LPS mm; a transform maps points of the fixed to the moving image (ITK's resampling).
"""

from __future__ import annotations

from typing import Dict, List, Optional, Tuple

import numpy as np
import SimpleITK as sitk

from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.transforms import to_itk_transform
from SAMv2Core.io.volume import Volume


def resample_to(grid: Grid, moving: Volume, fixed_to_moving: np.ndarray) -> Volume:
    """The moving volume on ``grid``, linearly interpolated, in its own scalar type.

    :param grid: of the fixed volume.
    :param fixed_to_moving: (4, 4) LPS mm.
    :returns: outside of the moving volume its smallest finite value (air).
    """
    values = moving.array.astype(np.float32)
    finite = values[np.isfinite(values)]
    outside = float(finite.min()) if finite.size else 0.0
    values = np.where(np.isfinite(values), values, outside)
    ijk_to_ijk = moving.grid.lps_to_ijk @ fixed_to_moving @ grid.ijk_to_lps
    array = sampled(values, ijk_to_ijk, grid.shape_zyx, outside)
    if moving.array.dtype.kind in "iu":
        array = np.rint(array)
    return Volume(array.astype(moving.array.dtype), grid.ijk_to_lps, f"{moving.source} resampled", moving.modality)


def sampled(values: np.ndarray, ijk_to_ijk: np.ndarray, shape_zyx: Tuple[int, int, int], outside: float) -> np.ndarray:
    """An array seen through an affine map of indices, linearly interpolated.

    By ITK in index space, which knows no shear and ends at the voxels' outer faces: scipy ends at their centers, where
    a rounding error of 1e-13 decides between the scan and the outside.

    :param values: (z, y, x).
    :param ijk_to_ijk: (4, 4), index (x, y, z) of the result to index of ``values``.
    :returns: ``shape_zyx``; ``outside`` beyond the outer faces of ``values``.
    """
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize([int(n) for n in shape_zyx[::-1]])
    resampler.SetTransform(to_itk_transform(ijk_to_ijk))
    resampler.SetDefaultPixelValue(outside)
    return sitk.GetArrayFromImage(resampler.Execute(sitk.GetImageFromArray(values)))


def crop_to(volume: Volume, box: Optional[Dict[str, List[int]]]) -> Volume:
    """The part of a volume in a box, in its place in the world.

    :param box: ``ijk_min`` and ``ijk_max``, (x, y, z) indices, both inclusive; None for the whole volume.
    """
    if box is None:
        return volume
    low, high = np.array(box["ijk_min"]), np.array(box["ijk_max"])
    (i0, j0, k0), (i1, j1, k1) = low, high + 1
    matrix = volume.ijk_to_lps.copy()
    matrix[:3, 3] = volume.grid.to_lps(low)
    return Volume(volume.array[k0:k1, j0:j1, i0:i1], matrix, f"{volume.source} cropped", volume.modality)
