"""To SimpleITK and back: images with their whole geometry, matrices as transforms, and ITK kept quiet.

ITK reports on stderr what its exceptions say again; users of the command line see one line of cause and one
of remedy.
"""

from __future__ import annotations

import contextlib
from typing import Iterator, Sequence

import numpy as np
import SimpleITK as sitk

from SAMv2Core.geometry.grid import Grid


@contextlib.contextmanager
def quiet_itk() -> Iterator[None]:
    """Keep ITK's own warnings off stderr inside the block."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def image_of(array: np.ndarray, grid: Grid) -> sitk.Image:
    """Scalars (z, y, x) or vectors (z, y, x, n) on a grid, copied; a sheared direction matrix is passed on as it is."""
    image = sitk.GetImageFromArray(array, isVector=array.ndim == 4)
    spacing = grid.spacing_ijk_mm
    image.SetSpacing(spacing.tolist())
    image.SetDirection((grid.ijk_to_lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(grid.ijk_to_lps[:3, 3].tolist())
    return image


def matrix_of(image: sitk.Image) -> np.ndarray:
    """(4, 4) float64, indices (i, j, k) of a 3-D image to LPS mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    matrix[:3, 3] = image.GetOrigin()
    return matrix


def transform_of(matrix: np.ndarray) -> sitk.AffineTransform:
    """A 4x4 matrix as an ITK affine transform with its center at the origin."""
    matrix = np.asarray(matrix, dtype=np.float64)
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation(matrix[:3, 3].tolist())
    return transform


def resampled(array: np.ndarray, transform: sitk.Transform, shape_zyx: Sequence[int], outside: float) -> np.ndarray:
    """Values (z, y, x) between voxels, linearly interpolated, as float32 (float64 of types of 8 bytes).

    ITK meets indices only, so sheared and left-handed grids are as good as others. A voxel reaches to its outer faces:
    up to half a voxel beyond the outermost centers the nearest value holds, so that rounding blackens no border.

    :param transform: new (i, j, k) to old ones.
    :param outside: the value beyond.
    """
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize([int(n) for n in shape_zyx[::-1]])
    resampler.SetTransform(transform)
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.SetDefaultPixelValue(outside)
    resampler.SetOutputPixelType(sitk.sitkFloat64 if array.dtype.itemsize > 4 else sitk.sitkFloat32)
    return sitk.GetArrayFromImage(resampler.Execute(sitk.GetImageFromArray(array)))
