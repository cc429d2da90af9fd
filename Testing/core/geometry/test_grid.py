"""Index and world coordinates of a lattice; expected values are worked out by hand or by SimpleITK."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from SAMv2Core.errors import InputError
from SAMv2Core.geometry.grid import Grid, canonical_axes, is_upright, shear_of, transform_points, without_rounding

OBLIQUE = Rotation.from_euler("xyz", [25, -40, 70], degrees=True).as_matrix()


def grid_of(direction, spacing=(0.7, 1.1, 3.0), origin=(-12.0, 34.0, 560.0), shape=(9, 11, 13)):
    matrix = np.eye(4)
    matrix[:3, :3] = direction * np.array(spacing)
    matrix[:3, 3] = origin
    return Grid(shape, matrix)


@pytest.mark.parametrize("direction", [np.eye(3), np.diag([-1, -1, 1]), np.diag([1, 1, -1]), OBLIQUE])
def test_points_agree_with_simpleitk(direction):
    grid = grid_of(direction)
    image = sitk.Image(13, 11, 9, sitk.sitkUInt8)
    image.SetSpacing((0.7, 1.1, 3.0))
    image.SetOrigin((-12.0, 34.0, 560.0))
    image.SetDirection(direction.ravel().tolist())
    ijk = np.array([[0, 0, 0], [12, 10, 8], [3.25, 7.5, 1.125]])
    expected = np.array([image.TransformContinuousIndexToPhysicalPoint(p) for p in ijk.tolist()])
    np.testing.assert_allclose(grid.to_lps(ijk), expected, atol=1e-10)
    np.testing.assert_allclose(grid.to_ijk(expected), ijk, atol=1e-10)


def test_shear_is_kept_both_ways():
    matrix = np.diag([1.0, 1.0, 2.0, 1.0])
    matrix[1, 2] = 0.5
    grid = Grid((4, 4, 4), matrix)
    np.testing.assert_allclose(grid.to_lps([1, 1, 2]), [1, 2, 4])
    np.testing.assert_allclose(grid.to_ijk([1, 2, 4]), [1, 1, 2], atol=1e-12)


def test_sizes_and_spacing():
    grid = grid_of(OBLIQUE)
    assert grid.size_ijk.tolist() == [13, 11, 9]
    assert grid.n_voxels == 13 * 11 * 9
    np.testing.assert_allclose(grid.spacing_ijk_mm, [0.7, 1.1, 3.0])


def test_corners_are_voxel_faces():
    corners = Grid((2, 3, 4), np.diag([2.0, 2.0, 2.0, 1.0])).corners_lps()
    assert corners.shape == (8, 3)
    assert corners.min(axis=0).tolist() == [-1, -1, -1]
    assert corners.max(axis=0).tolist() == [7, 5, 3]


def test_contains_ends_at_the_faces():
    grid = Grid((2, 3, 4), np.eye(4))
    points = [[-0.49, 0, 0], [-0.51, 0, 0], [3.49, 2, 1], [3, 2, 1.51]]
    assert grid.contains(points).tolist() == [True, False, True, False]
    assert grid.contains([[-0.49, 0, 0]], margin_voxels=0.0).tolist() == [False]


def test_strided_grid_has_centers_of_groups():
    grid = grid_of(OBLIQUE, shape=(8, 8, 8))
    coarse = grid.strided((4, 2, 2), (2, 4, 4))
    assert coarse.shape_zyx == (2, 4, 4)
    # Feature voxel (i, j, k) = (1, 0, 1) averages input voxels i 2..3, j 0..1, k 4..7.
    np.testing.assert_allclose(coarse.to_lps([1, 0, 1]), grid.to_lps([2.5, 0.5, 5.5]))


def test_strides_compose():
    grid = grid_of(OBLIQUE, shape=(16, 16, 16))
    twice = grid.strided((2, 2, 2), (8, 8, 8)).strided((2, 2, 2), (4, 4, 4))
    np.testing.assert_allclose(twice.ijk_to_lps, grid.strided((4, 4, 4), (4, 4, 4)).ijk_to_lps, atol=1e-12)


@pytest.mark.parametrize(
    "matrix", [np.zeros((4, 4)), np.diag([1.0, 1.0, 0.0, 1.0]), np.full((4, 4), np.nan), np.eye(3)]
)
def test_impossible_geometry_is_refused(matrix):
    with pytest.raises(InputError):
        Grid((2, 2, 2), matrix)


def test_matrix_is_frozen():
    source = np.eye(4)
    grid = Grid((2, 2, 2), source)
    with pytest.raises(ValueError, match="read-only"):
        grid.ijk_to_lps[0, 0] = 5
    source[0, 0] = 5
    assert grid.ijk_to_lps[0, 0] == 1


def test_transform_points_takes_one_or_many():
    matrix = np.eye(4)
    matrix[:3, 3] = [1, 2, 3]
    assert transform_points(matrix, [1, 1, 1]).tolist() == [2, 3, 4]
    assert transform_points(matrix, [[0, 0, 0], [1, 1, 1]]).tolist() == [[1, 2, 3], [2, 3, 4]]


TILTED = Rotation.from_euler("xyz", [6, -5, 4], degrees=True).as_matrix()


def matrix_of(axes, spacing=(0.5, 1.0, 3.0)):
    matrix = np.eye(4)
    matrix[:3, :3] = np.asarray(axes) * spacing
    matrix[:3, 3] = [10, -20, 30]
    return matrix


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)))
def test_canonical_axes(order, signs):
    matrix = matrix_of(TILTED @ np.eye(3)[:, list(order)] * signs)
    axes, found_signs = canonical_axes(matrix)
    for world, axis in enumerate(axes):
        assert matrix[world, axis] * found_signs[world] > 0.9 * np.linalg.norm(matrix[:3, axis])


def test_every_axis_is_used_once_at_45_degrees():
    for seed in range(30):
        axes, _ = canonical_axes(matrix_of(Rotation.random(random_state=seed).as_matrix()))
        assert sorted(axes) == [0, 1, 2]


def test_shear():
    assert shear_of(matrix_of(TILTED)) < 1e-12
    matrix = np.eye(4)
    matrix[1, 2] = np.tan(np.radians(15))  # gantry tilt
    assert shear_of(matrix) == pytest.approx(np.sin(np.radians(15)))
    assert shear_of(np.zeros((4, 4))) == 1
    assert shear_of(np.full((4, 4), np.nan)) == 1


@pytest.mark.parametrize("left_handed", [False, True])
def test_rounding_is_undone_and_shear_is_not(left_handed):
    axes = TILTED @ np.diag([1, 1, -1 if left_handed else 1])
    rounded = matrix_of(np.round(axes, 4))
    repaired = without_rounding(rounded)
    assert shear_of(rounded) > 1e-6
    assert shear_of(repaired) < 1e-12
    np.testing.assert_allclose(repaired, rounded, atol=3e-4)
    assert (np.linalg.det(repaired[:3, :3]) < 0) == left_handed
    sheared = matrix_of(axes)
    sheared[0, 1] += 0.1
    assert np.array_equal(without_rounding(sheared), sheared)


@pytest.mark.parametrize(
    ("degrees", "upright"), [(0, True), (9.9, True), (10.1, False), (45, False), (84, True), (90, True)]
)
def test_upright_within_ten_degrees_of_any_axes(degrees, upright):
    assert is_upright(matrix_of(Rotation.from_euler("x", degrees, degrees=True).as_matrix())) == upright


def test_a_sheared_scan_is_not_upright():
    matrix = matrix_of(np.eye(3))
    matrix[1, 2] += 0.06
    assert not is_upright(matrix)
