"""Resampling and cropping, on grids that catch exchanged axes: oblique, left-handed, anisotropic."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from SAMv2Core.errors import UsageError
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.itk import resampled, transform_of
from SAMv2Core.io.resample import crop_to, resample_to
from SAMv2Core.io.volume import Volume


def oblique_matrix(spacing=(1.0, 1.5, 2.5), origin=(-30.0, 12.0, 7.0), flip=False) -> np.ndarray:
    """A left-handed (``flip``) or right-handed grid, turned by 25 and 15 degrees."""
    a, b = np.radians([25.0, 15.0])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    matrix = np.eye(4)
    matrix[:3, :3] = (about_z @ about_x) * np.array(spacing) * ([1, 1, -1] if flip else [1, 1, 1])
    matrix[:3, 3] = origin
    return matrix


def linear_volume(grid: Grid, dtype=np.float32) -> Volume:
    """Values that are a linear function of the place in the world: linear interpolation gives them exactly."""
    kji = np.indices(grid.shape_zyx).reshape(3, -1)
    lps = grid.to_lps(kji[::-1].T)
    return Volume((lps @ [3.0, -2.0, 5.0] + 100).reshape(grid.shape_zyx).astype(dtype), grid.ijk_to_lps)


@pytest.mark.parametrize("flip", [False, True])
def test_values_follow_the_transform(flip):
    moving = linear_volume(Grid((30, 28, 26), oblique_matrix(flip=flip)))
    center = moving.grid.to_lps((moving.grid.size_ijk - 1) / 2)
    fixed = Grid((6, 5, 4), np.array([[0, 1.1, 0, 0], [2.0, 0, 0, 0], [0, 0, -1.3, 0], [0, 0, 0, 1.0]]))
    fixed_to_moving = np.eye(4)
    fixed_to_moving[:3, 3] = center - fixed.to_lps((fixed.size_ijk - 1) / 2)
    resampled = resample_to(fixed, moving, fixed_to_moving)
    kji = np.indices(fixed.shape_zyx).reshape(3, -1)
    expected = (fixed.to_lps(kji[::-1].T) + fixed_to_moving[:3, 3]) @ [3.0, -2.0, 5.0] + 100
    # float32 interpolation of values up to some hundred
    np.testing.assert_allclose(resampled.array.ravel(), expected, atol=1e-3)


def test_outside_is_air_and_the_scalar_type_is_kept():
    moving = linear_volume(Grid((5, 5, 5), np.eye(4)), np.int16)
    fixed = Grid((5, 5, 5), np.diag([1.0, 1.0, 1.0, 1.0]) + np.array([[0, 0, 0, 100.0]] + [[0] * 4] * 3))
    resampled = resample_to(fixed, moving, np.eye(4))
    assert resampled.array.dtype == np.int16
    assert (resampled.array == moving.array.min()).all()


@pytest.mark.parametrize("flip", [False, True])
def test_identity_leaves_every_voxel_of_an_oblique_volume(flip):
    """Rounding puts border voxels at -1e-13 of a voxel: an interpolator that ends at the centers blackens them."""
    volume = linear_volume(Grid((30, 28, 26), oblique_matrix(origin=(-231.7, 112.3, 877.1), flip=flip)))
    resampled = resample_to(volume.grid, volume, np.eye(4))
    # float32 interpolation of values up to some thousand
    np.testing.assert_allclose(resampled.array, volume.array, atol=2e-3)
    # Without a transform the scans lie as their files say.
    np.testing.assert_array_equal(resample_to(volume.grid, volume).array, resampled.array)


def test_a_sheared_volume_is_resampled_through_its_whole_matrix():
    matrix = oblique_matrix()
    matrix[:3, 2] += 0.3 * matrix[:3, 1]  # a tilted gantry
    volume = linear_volume(Grid((12, 14, 16), matrix))
    middle = volume.grid.to_lps((volume.grid.size_ijk - 1) / 2)
    inner = Grid(
        (3, 3, 3), np.array([[1, 0, 0, middle[0]], [0, 1, 0, middle[1]], [0, 0, 1, middle[2]], [0, 0, 0, 1.0]])
    )
    np.testing.assert_allclose(resample_to(inner, volume).array, linear_volume(inner).array, atol=2e-3)


def test_a_transform_of_simpleitk_is_as_good_as_its_matrix():
    moving = linear_volume(Grid((30, 28, 26), oblique_matrix()))
    matrix = np.eye(4)
    matrix[:3, 3] = (2.5, -1.0, 4.0)
    through_itk = resample_to(moving.grid, moving, sitk.TranslationTransform(3, (2.5, -1.0, 4.0)))
    # ITK's fast path for matrices steps along rows: rounding of float32 values up to some hundred.
    np.testing.assert_allclose(through_itk.array, resample_to(moving.grid, moving, matrix).array, atol=2e-3)


def test_what_is_no_transform_says_what_to_give():
    volume = linear_volume(Grid((5, 5, 5), np.eye(4)))
    for wrong in (np.eye(3), np.full((4, 4), np.nan), "transform.h5"):
        with pytest.raises(UsageError, match="4x4"):
            resample_to(volume.grid, volume, wrong)


def test_not_a_number_is_air():
    array = np.full((4, 4, 4), 7.0, np.float32)
    array[1, 1, 1] = np.nan
    array[2, 2, 2] = -3.0
    resampled = resample_to(Grid((4, 4, 4), np.eye(4)), Volume(array, np.eye(4)), np.eye(4))
    assert resampled.array[1, 1, 1] == -3.0


def test_a_crop_stays_in_its_place():
    volume = linear_volume(Grid((9, 8, 7), oblique_matrix(flip=True)))
    cropped = crop_to(volume, {"ijk_min": [2, 3, 4], "ijk_max": [5, 6, 8]})
    assert cropped.array.shape == (5, 4, 4)
    np.testing.assert_allclose(cropped.array, linear_volume(cropped.grid).array, atol=1e-3)
    assert crop_to(volume, None) is volume


def test_what_is_seen_ends_at_the_outer_faces_of_the_voxels():
    line = np.array([[[3.0, 7.0]]], np.float32)
    to_ijk = np.diag([0.25, 1.0, 1.0, 1.0])
    to_ijk[0, 3] = -0.7
    found = resampled(line, transform_of(to_ijk), (1, 1, 12), -1.0)[0, 0]
    np.testing.assert_allclose(found, [-1, 3, 3, 3.2, 4.2, 5.2, 6.2, 7, 7, -1, -1, -1], atol=1e-5)
