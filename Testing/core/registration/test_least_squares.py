"""Least squares for point pairs: exact, no reflection, no clamp, and calm where points leave things open."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from SAMv2Core.errors import UsageError
from SAMv2Core.geometry.grid import transform_points
from SAMv2Core.registration.least_squares import fit, residuals_mm, spread_mm, undetermined

RNG = np.random.default_rng(0)
CLOUD = RNG.normal(0, 60, (40, 3)) + np.array([100, -300, 1200])


def motion(angle_deg=30.0, scale=1.0, axis=(1, -2, 0.5), shift=(15, -40, 300)):
    matrix = np.eye(4)
    axis = np.array(axis, dtype=float) / np.linalg.norm(axis)
    matrix[:3, :3] = scale * Rotation.from_rotvec(np.deg2rad(angle_deg) * axis).as_matrix()
    matrix[:3, 3] = shift
    return matrix


def stretch():
    matrix = motion(25.0)
    matrix[:3, :3] = matrix[:3, :3] @ np.array([[1.1, 0.05, 0], [0, 0.9, -0.1], [0.02, 0, 1.0]])
    return matrix


@pytest.mark.parametrize("angle", [0.0, 11.0, 90.0, 179.9, 180.0])
def test_rigid_motion_is_recovered_at_any_angle(angle):
    truth = motion(angle)
    np.testing.assert_allclose(fit("rigid", CLOUD, transform_points(truth, CLOUD)), truth, atol=1e-9)


@pytest.mark.parametrize("kind, truth", [("similarity", motion(120.0, 0.83)), ("affine", stretch())])
def test_similarity_and_affine_are_recovered(kind, truth):
    np.testing.assert_allclose(fit(kind, CLOUD, transform_points(truth, CLOUD)), truth, atol=1e-8)


def test_a_mirror_image_gives_a_rotation_not_a_reflection():
    mirrored = CLOUD * (-1, 1, 1)
    for kind in ("rigid", "similarity"):
        assert np.linalg.det(fit(kind, CLOUD, mirrored)[:3, :3]) > 0


def test_the_solution_is_the_least_squares_one():
    target = transform_points(motion(40.0), CLOUD) + RNG.normal(0, 3, CLOUD.shape)
    weights = RNG.uniform(0.2, 1, len(CLOUD))

    def cost(matrix):
        return float(weights @ np.square(residuals_mm(matrix, CLOUD, target)))

    found = fit("rigid", CLOUD, target, weights)
    for _ in range(50):
        wiggle = motion(RNG.uniform(-1, 1), axis=RNG.normal(size=3), shift=RNG.normal(0, 0.1, 3))
        assert cost(found) <= cost(wiggle @ found)


def test_weights_of_zero_remove_pairs():
    target = transform_points(motion(), CLOUD)
    target[:10] += 500
    weights = np.r_[np.zeros(10), np.ones(30)]
    for kind in ("rigid", "similarity", "affine"):
        assert residuals_mm(fit(kind, CLOUD, target, weights), CLOUD, target)[10:].max() < 1e-8


def test_points_on_a_line_give_the_smallest_rotation():
    line = np.linspace(-50, 50, 9)[:, None] * np.array([[1.0, 0, 0]])
    truth = motion(90.0, axis=(0, 0, 1), shift=(5, 6, 7))  # x axis onto y axis
    found = fit("rigid", line, transform_points(truth, line))
    np.testing.assert_allclose(found, truth, atol=1e-9)
    np.testing.assert_allclose(fit("rigid", line, -line)[:3, :3] @ (1, 0, 0), (-1, 0, 0), atol=1e-9)


def test_one_point_gives_a_shift_and_two_give_a_direction():
    found = fit("affine", CLOUD[:1], CLOUD[:1] + np.array([1, 2, 3]))
    np.testing.assert_allclose(found, motion(0.0, shift=(1, 2, 3)), atol=1e-9)
    two = fit("similarity", CLOUD[:2], 2 * CLOUD[:2])
    np.testing.assert_allclose(transform_points(two, CLOUD[:2]), 2 * CLOUD[:2], atol=1e-7)


def test_an_affine_from_a_plane_does_not_stretch_across_it():
    plane = CLOUD * (1, 1, 0)
    found = fit("affine", plane, plane * (1.2, 1.2, 1.0))
    lengths = np.linalg.svd(found[:3, :3], compute_uv=False)
    np.testing.assert_allclose(lengths, 1.2, atol=1e-6)  # as the similarity: not 0, not 1e9


def test_what_points_leave_open_is_said():
    line, plane = CLOUD * (1, 0, 0), CLOUD * (1, 1, 0)
    assert undetermined("rigid", CLOUD) == () == undetermined("affine", CLOUD) == undetermined("rigid", plane)
    assert "line" in undetermined("rigid", line)[0]
    assert "plane" in undetermined("affine", plane)[0]
    assert "one place" in undetermined("similarity", CLOUD[:1])[0]
    np.testing.assert_allclose(spread_mm(np.array([[30.0, 0, 0], [-30, 0, 0]])), (30, 0, 0), atol=1e-9)


@pytest.mark.parametrize("arguments", [("rotation", CLOUD, CLOUD), ("rigid", CLOUD, CLOUD[:5]),
                                       ("rigid", CLOUD[:0], CLOUD[:0])])  # fmt: skip
def test_nonsense_is_refused(arguments):
    with pytest.raises(UsageError):
        fit(*arguments)
