"""A volume on another grid: the moving scan as the fixed one sees it, and the part of a scan in a box.

Indices go through the full matrices of both grids, so oblique, left-handed and sheared volumes need no special case.
Conventions: LPS mm; a transform maps points of the fixed to the moving image (ITK's resampling).
"""

from __future__ import annotations

from typing import Dict, List, Optional, Union

import numpy as np
import SimpleITK as sitk

from SAMv2Core.errors import UsageError
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.itk import resampled, transform_of
from SAMv2Core.io.volume import Volume


def resample_to(
    grid: Grid, moving: Volume, fixed_to_moving: Optional[Union[np.ndarray, sitk.Transform]] = None
) -> Volume:
    """The moving volume on another grid, linearly interpolated, in its own scalar type.

    A voxel reaches to its outer faces: up to half a voxel beyond the outermost centers the nearest value holds, so that
    rounding (-1e-13 of a voxel) blackens no border.

    Parameters
    ----------
    grid : Grid
        Of the fixed volume, ``fixed.grid``.
    moving : Volume
    fixed_to_moving : (4, 4) array or SimpleITK.Transform, optional
        Maps points of the fixed to the moving image, LPS mm; without one, the scans lie as their files say.

    Returns
    -------
    Volume
        Outside of the moving volume its smallest finite value (air).

    Raises
    ------
    UsageError
        The transform is neither a finite 4x4 matrix nor a transform of SimpleITK.

    Examples
    --------
    >>> import numpy as np
    >>> import SAMv2Core as s
    >>> scan = s.Volume(np.arange(27, dtype=np.int16).reshape(3, 3, 3), np.diag([2.0, 2.0, 2.0, 1.0]))
    >>> fine = s.Grid((5, 5, 5), np.eye(4))  # 1 mm instead of 2 mm
    >>> s.resample_to(fine, scan).array[0, 0].tolist()
    [0, 0, 1, 2, 2]
    """
    values, is_finite = moving.array, np.isfinite(moving.array)
    outside = float(values[is_finite].min()) if is_finite.any() else 0.0
    if not is_finite.all():
        values = np.where(is_finite, values, np.asarray(outside, values.dtype))
    array = resampled(values, _between_indices(grid, moving.grid, fixed_to_moving), grid.shape_zyx, outside)
    if values.dtype.kind in "iu":
        array = np.rint(array)
    return Volume(array.astype(values.dtype), grid.ijk_to_lps, f"{moving.source} resampled", moving.modality)


def _between_indices(
    fixed: Grid, moving: Grid, fixed_to_moving: Optional[Union[np.ndarray, sitk.Transform]]
) -> sitk.Transform:
    if isinstance(fixed_to_moving, sitk.Transform):
        # The transform that was added last is applied first.
        parts = [transform_of(moving.lps_to_ijk), fixed_to_moving, transform_of(fixed.ijk_to_lps)]
        return sitk.CompositeTransform(parts)
    matrix = np.eye(4) if fixed_to_moving is None else np.asarray(fixed_to_moving)
    if matrix.shape != (4, 4) or matrix.dtype.kind not in "iuf" or not np.isfinite(matrix).all():
        raise UsageError("The transform is not a finite 4x4 matrix.", "Give registration.matrix, or None for none.")
    return transform_of(moving.lps_to_ijk @ matrix @ fixed.ijk_to_lps)


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
