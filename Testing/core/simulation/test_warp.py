"""The simulated truth: exact, smooth, invertible, on any grid."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from SAMv2Core.geometry.grid import Grid
from SAMv2Core.simulation.posture import about_center
from SAMv2Core.simulation.warp import Deformation, InverseSampler, control_lattice, spline_weights


def oblique_grid(shape_zyx=(24, 40, 32), spacing_ijk=(3.0, 2.0, 5.0), left_handed=True):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", [20, -35, 50], degrees=True).as_matrix() * spacing_ijk
    if left_handed:
        matrix[:3, 2] *= -1
    matrix[:3, 3] = (-120.0, 40.0, 700.0)
    return Grid(shape_zyx, matrix)


def random_deformation(grid, amplitude=6.0, spacing_mm=45.0, seed=0):
    controls = control_lattice(grid, spacing_mm)
    rng = np.random.default_rng(seed)
    coefficients = amplitude * rng.standard_normal((3, *controls.shape_zyx))
    center = grid.to_lps((grid.size_ijk - 1) / 2)
    affine = about_center(center, np.array([1.0, -0.8, 1.2]), 10.0, 0.93, np.array([4.0, -7.0, 12.0]))
    return Deformation(affine, controls, coefficients).limited(0.7)[0]


def points_in(grid, n=500, seed=1, margin=0.0):
    rng = np.random.default_rng(seed)
    return grid.to_lps((rng.uniform(-margin, 1 + margin, (n, 3))) * (grid.size_ijk - 1))


def test_spline_weights_are_a_partition_of_unity_and_reproduce_lines():
    positions = np.linspace(1, 8, 57)
    weights = spline_weights(positions, 10)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(weights @ np.arange(10), positions, atol=1e-12)
    slopes = spline_weights(positions, 10, derivative=True)
    np.testing.assert_allclose(slopes @ np.arange(10), 1.0, atol=1e-12)


@pytest.mark.parametrize("left_handed", [False, True])
def test_the_dense_field_equals_the_map_at_voxel_centers(left_handed):
    grid = oblique_grid(left_handed=left_handed)
    deformation = random_deformation(grid)
    field = deformation.field_on(grid)
    rng = np.random.default_rng(2)
    ijk = np.stack([rng.integers(0, n, 300) for n in grid.size_ijk], axis=-1)
    points = grid.to_lps(ijk)
    expected = deformation.map_points(points) - points
    assert field.shape == (*grid.shape_zyx, 3) and field.dtype == np.float32
    np.testing.assert_allclose(field[ijk[:, 2], ijk[:, 1], ijk[:, 0]], expected, atol=1e-3)  # float32 storage


def test_mapping_there_and_back_is_the_identity_inside_and_outside_the_volume():
    grid = oblique_grid()
    deformation = random_deformation(grid)
    points = points_in(grid, margin=0.5)
    back = deformation.unmap_points(deformation.map_points(points))
    assert np.linalg.norm(back - points, axis=1).max() < 0.02  # 2.4 tolerances of 0.005 mm


def test_inverse_on_a_grid_is_within_a_tenth_of_a_millimeter():
    grid = oblique_grid()
    deformation = random_deformation(grid, amplitude=12.0)
    target = Grid((20, 30, 30), grid.ijk_to_lps)
    sources_zyx = InverseSampler(deformation, target).sources(grid, 5, 15)
    k, j, i = np.meshgrid(np.arange(5, 15), np.arange(30), np.arange(30), indexing="ij")
    wanted = target.to_lps(np.stack([i, j, k], axis=-1).reshape(-1, 3))
    reached = deformation.map_points(grid.to_lps(sources_zyx.reshape(3, -1)[::-1].T))
    assert np.linalg.norm(reached - wanted, axis=1).max() < 0.1


def test_jacobians_agree_with_finite_differences():
    grid = oblique_grid()
    deformation = random_deformation(grid)
    points, h = points_in(grid, n=200), 1e-3
    columns = [
        (
            deformation.displacement(points + h * np.eye(3)[axis])
            - deformation.displacement(points - h * np.eye(3)[axis])
        )
        / (2 * h)
        for axis in range(3)
    ]
    stretch = np.linalg.norm(np.stack(columns, axis=-1), ord=2, axis=(1, 2))
    assert stretch.max() <= deformation.lipschitz() * 1.03  # sampled on a lattice: a few percent below the true maximum
    assert stretch.max() > 0.5 * deformation.lipschitz()
    sampled = deformation.jacobians_of_displacement(samples_per_control=1)
    n = np.array(deformation.control_grid.shape_zyx) - 2
    k, j, i = np.meshgrid(*(np.arange(1, m + 1) for m in n), indexing="ij")
    ijk = np.stack([i, j, k], axis=-1).reshape(-1, 3)
    at = deformation.control_grid.to_lps(ijk)
    inner = np.all((ijk > 1) & (ijk < n[::-1]), axis=1)  # at the lattice's end the field continues as a constant
    for axis in range(3):
        e = h * np.eye(3)[axis]
        slope = (deformation.displacement(at + e) - deformation.displacement(at - e)) / (2 * h)
        np.testing.assert_allclose(sampled[inner][:, :, axis], slope[inner], atol=1e-4)


def test_a_displacement_that_would_fold_is_scaled_down():
    grid = oblique_grid()
    controls = control_lattice(grid, 25.0)
    wild = Deformation(np.eye(4), controls, 40.0 * np.random.default_rng(3).standard_normal((3, *controls.shape_zyx)))
    assert wild.minimum_jacobian() < 0  # it does fold
    tame, factor = wild.limited(0.7)
    assert 0 < factor < 1
    assert tame.lipschitz() == pytest.approx(0.7, rel=1e-6)
    assert tame.minimum_jacobian() > 0
    points = points_in(grid)
    assert np.linalg.norm(tame.unmap_points(tame.map_points(points)) - points, axis=1).max() < 0.02
