"""Matrices of scans: shear, rounding, and which axis runs where in the patient."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from SAMv2Core.geometry.affine import canonical_axes, is_upright, shear_of, without_rounding

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
