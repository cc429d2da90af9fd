"""How the simulated patient lies and breathes: amplitudes as asked for, in the places meant."""

import numpy as np
from scipy.spatial.transform import Rotation

from SAMv2Core.geometry.grid import Grid, transform_points
from SAMv2Core.simulation import posture
from SAMv2Core.simulation.warp import Deformation, control_lattice

GRID = Grid((60, 50, 70), np.array([[5.0, 0, 0, -175], [0, 5, 0, -125], [0, 0, 5, 800], [0, 0, 0, 1]]))


def chest():
    """An elliptic trunk with two lungs in the upper half; HU."""
    k, j, i = np.meshgrid(*(np.arange(n) for n in GRID.shape_zyx), indexing="ij")
    x, y, z = np.moveaxis(GRID.to_lps(np.stack([i, j, k], axis=-1).reshape(-1, 3)).reshape(*i.shape, 3), -1, 0)
    array = np.full(i.shape, -1000.0)
    array[(x / 160) ** 2 + (y / 110) ** 2 < 1] = 40.0
    for side in (-70, 70):
        array[(((x - side) / 55) ** 2 + (y / 75) ** 2 < 1) & (z > 950)] = -850.0
    return array


def test_rotation_and_size_are_about_the_center():
    center = np.array([10.0, -20, 900])
    matrix = posture.about_center(center, np.array([0, 0, 3.0]), 90.0, 0.9, np.zeros(3))
    np.testing.assert_allclose(transform_points(matrix, center), center, atol=1e-9)
    np.testing.assert_allclose(transform_points(matrix, center + np.array([10, 0, 0])), center + np.array([0, 9, 0]))
    assert abs(Rotation.from_matrix(matrix[:3, :3] / 0.9).magnitude() - np.pi / 2) < 1e-9


def test_the_elastic_displacement_is_as_long_as_asked_for():
    body = posture.body_points(chest() > -200, GRID)
    controls = control_lattice(GRID, 50.0)
    elastic = Deformation(np.eye(4), controls, posture.elastic(controls, body, 12.0, np.random.default_rng(1)))
    lengths = np.linalg.norm(elastic.displacement(body), axis=1)
    assert abs(lengths.max() - 12.0) < 1e-9 and lengths.mean() > 2.0


def test_the_diaphragm_is_where_the_lungs_end():
    assert abs(posture.diaphragm_level_mm(chest(), GRID) - 950) < 10
    belly = chest()[:25]  # below the lungs
    assert posture.diaphragm_level_mm(belly, Grid(belly.shape, GRID.ijk_to_lps)) > 920  # its upper end


def test_breathing_moves_the_front_at_the_diaphragm_down_and_the_spine_not():
    body = posture.body_points(chest() > -200, GRID)
    controls = control_lattice(GRID, 40.0)
    field = Deformation(np.eye(4), controls, posture.breathing(controls, body, 950.0, 20.0))
    front, spine, apex = field.displacement(np.array([[0.0, -60, 950], [0.0, 100, 950], [0.0, -60, 1090]]))
    assert -20 <= front[2] < -14 and front[1] < -2
    assert np.linalg.norm(spine) < 1.0
    assert abs(apex[2]) < 0.4 * abs(front[2])


def test_weight_moves_the_skin_and_leaves_the_spine():
    body = posture.body_points(chest() > -200, GRID)
    controls = control_lattice(GRID, 40.0)
    back = np.percentile(body[:, 1], 98)
    for amplitude in (12.0, -12.0):
        field = Deformation(np.eye(4), controls, posture.weight(controls, body, amplitude))
        belly, left, spine = field.displacement(
            np.array([[0.0, -107, 950], [155.0, back - posture.SPINE_MM, 950], [0.0, back - posture.SPINE_MM, 950]])
        )
        assert 0.8 < -belly[1] / amplitude < 1.05 and 0.7 < left[0] / amplitude < 1.05  # splines smooth the skin's turn
        assert np.linalg.norm(spine) < 2.5  # control points are 40 mm apart: the field cannot end at once
        assert np.abs(field.displacement(body)[:, 2]).max() < 1e-9


def test_a_volume_without_body_has_its_middle():
    np.testing.assert_allclose(posture.body_points(np.zeros(GRID.shape_zyx, bool), GRID), [[-2.5, -2.5, 947.5]])
