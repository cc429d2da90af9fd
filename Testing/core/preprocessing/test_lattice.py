"""The 2 mm lattice: its rule, its place in the world, and the interpolation against an independent one."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial.transform import Rotation

from SAMv2Core.geometry.grid import Grid, is_upright
from SAMv2Core.preprocessing.lattice import relabelled_grid, to_lattice
from Testing.samples.synthetic import body_grid

SIGNED_PERMUTATIONS = [
    np.eye(3)[:, list(order)] * signs
    for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    for signs in ((1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, -1))
]
TILTED = Rotation.from_euler("xyz", [6, -5, 4], degrees=True).as_matrix()


def smooth_noise(shape, seed=0):
    field = np.random.default_rng(seed).normal(0, 1, shape)
    return ndimage.gaussian_filter(field, 1.5) * 1000


def linear(points_lps):
    """A linear function of the world: linear interpolation gives it exactly."""
    return 3.0 * points_lps[..., 0] - 2.0 * points_lps[..., 1] + 1.5 * points_lps[..., 2] + 10


def all_positions(grid):
    z, y, x = np.meshgrid(*(np.arange(n) for n in grid.shape_zyx), indexing="ij")
    return grid.to_lps(np.stack([x, y, z], axis=-1).reshape(-1, 3)).reshape(*grid.shape_zyx, 3)


def inner(grid, positions):
    """Samples between voxel centers, where no border value is repeated."""
    return grid.contains(positions.reshape(-1, 3), margin_voxels=-1e-6).reshape(positions.shape[:-1])


@pytest.mark.parametrize("direction", SIGNED_PERMUTATIONS)
def test_world_positions_are_right_in_every_orientation(direction):
    grid = body_grid((12, 13, 14), (0.9, 1.7, 3.1), direction, (12.0, -7.0, 300.0))
    lattice = to_lattice(linear(all_positions(grid)), grid, 0.0)
    positions = all_positions(lattice.grid)
    ok = inner(grid, positions)
    assert ok.mean() > 0.5
    np.testing.assert_allclose(lattice.values[ok], linear(positions)[ok], rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(lattice.grid.ijk_to_lps[:3, :3], 2 * np.eye(3), atol=1e-12)
    assert np.array_equal(lattice.covered, grid.contains(positions.reshape(-1, 3)).reshape(ok.shape))


@pytest.mark.parametrize(
    "direction", [TILTED, TILTED @ np.diag([1, -1, 1]), Rotation.from_euler("y", 35, degrees=True).as_matrix(),
                  Rotation.from_euler("xyz", [40, 30, 20], degrees=True).as_matrix() @ np.diag([1, 1, -1])],
)  # fmt: skip
def test_world_positions_are_right_when_oblique(direction):
    grid = body_grid((12, 13, 14), (1.4, 1.7, 3.1), direction, (12.0, -7.0, 300.0))
    lattice = to_lattice(linear(all_positions(grid)), grid, -5000.0)
    positions = all_positions(lattice.grid)
    ok = inner(grid, positions)
    assert ok.sum() > 200
    np.testing.assert_allclose(lattice.values[ok], linear(positions)[ok], rtol=1e-5, atol=1e-2)
    np.testing.assert_allclose(lattice.grid.spacing_ijk_mm, [2, 2, 2])


def test_a_sheared_volume_is_straightened():
    matrix = np.diag([1.5, 1.5, 3.0, 1.0])
    matrix[1, 2] = 0.8
    grid = Grid((12, 20, 20), matrix)
    assert not is_upright(matrix)
    lattice = to_lattice(linear(all_positions(grid)), grid, -5000.0)
    positions = all_positions(lattice.grid)
    ok = inner(grid, positions)
    np.testing.assert_allclose(lattice.values[ok], linear(positions)[ok], rtol=1e-5, atol=1e-2)
    np.testing.assert_allclose(lattice.grid.ijk_to_lps[:3, :3], 2 * np.eye(3))


def test_a_straightened_volume_is_covered_whole_and_air_outside():
    grid = body_grid((20, 20, 20), (2, 2, 2), Rotation.from_euler("z", 45, degrees=True).as_matrix())
    lattice = to_lattice(np.full((20, 20, 20), 7, np.int16), grid, -1024.0)
    assert np.all(lattice.grid.contains(grid.corners_lps(), margin_voxels=0.5 + 1e-9))
    assert np.all(lattice.values[lattice.covered] == 7)
    assert np.all(lattice.values[~lattice.covered] == -1024)
    assert 0.4 < lattice.covered.mean() < 0.6  # a square in the square around its corners


@pytest.mark.parametrize("degrees", [9, 11])
def test_small_tilts_keep_their_axes(degrees):
    direction = Rotation.from_euler("x", degrees, degrees=True).as_matrix()
    grid = body_grid((10, 10, 10), (2, 2, 2), direction)
    lattice = to_lattice(np.zeros((10, 10, 10), np.int16), grid, 0.0)
    keeps = np.allclose(lattice.grid.ijk_to_lps, grid.ijk_to_lps)
    assert keeps == (degrees < 10)


@pytest.mark.parametrize(("n", "spacing", "expected"), [(50, 0.8, 20), (52, 0.8, 21), (60, float(np.float32(0.8)), 25),
                                                       (100, 2.0, 100), (14, 5.0, 35), (3, 0.3, 1)])  # fmt: skip
def test_number_of_samples(n, spacing, expected):
    grid = relabelled_grid(body_grid((n, 4, 4), (2.0, 2.0, spacing)))
    assert grid.shape_zyx == (expected, 4, 4)


def test_rounding_of_an_oblique_matrix_adds_no_sample():
    for seed in range(20):
        rotation = Rotation.from_rotvec(np.random.default_rng(seed).normal(0, 0.05, 3)).as_matrix()
        assert relabelled_grid(body_grid((50, 60, 70), (2, 2, 2), rotation)).shape_zyx == (50, 60, 70)


@pytest.mark.parametrize("spacing", [(0.7, 0.7, 1.25), (0.8, 1.6, 5.0), (3.0, 2.4, 2.0), (0.3, 0.3, 0.5)])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_interpolation_equals_itk(spacing, dtype):
    array = smooth_noise((20, 24, 28)).astype(dtype)
    grid = body_grid(array.shape, spacing)
    lattice = to_lattice(array, grid, 0.0)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(grid.ijk_to_lps[:3, 3].tolist())
    expected = sitk.Resample(
        image, lattice.grid.size_ijk.tolist(), sitk.Transform(), sitk.sitkLinear,
        lattice.grid.ijk_to_lps[:3, 3].tolist(), (2.0, 2.0, 2.0), np.eye(3).ravel().tolist(), 0.0, sitk.sitkFloat32,
    )  # fmt: skip
    np.testing.assert_allclose(lattice.values, sitk.GetArrayFromImage(expected), atol=1e-3)


def test_orientation_does_not_change_the_result():
    """The same voxels stored in another order give the same lattice, bit for bit where sizes are even."""
    array = smooth_noise((10, 12, 14)).astype(np.float32)
    grid = body_grid(array.shape, (2.0, 2.0, 2.0))
    expected = to_lattice(array, grid, 0.0)
    flip = np.eye(4)
    flip[0, 0], flip[0, 3] = -1, 13
    stored = Grid((12, 10, 14), (grid.ijk_to_lps @ flip)[:, [0, 2, 1, 3]])
    lattice = to_lattice(array[:, :, ::-1].transpose(1, 0, 2), stored, 0.0)
    np.testing.assert_allclose(lattice.values, expected.values, atol=1e-4)
    np.testing.assert_allclose(lattice.grid.ijk_to_lps, expected.grid.ijk_to_lps, atol=1e-9)
