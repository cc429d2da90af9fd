"""The official code's rigid solve against ours: equal, but for its clamp of rotations at 0.2 rad per axis."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from SAMv2Core.registration.least_squares import fit, residuals_mm

pytestmark = pytest.mark.shared


def official_clamp(matrix, source, target, limit_rad=0.2):
    """What the official code does after its least squares: limit the rotation vector, keep the centroids."""
    rotvec = np.clip(Rotation.from_matrix(matrix[:3, :3]).as_rotvec(), -limit_rad, limit_rad)
    clamped = np.eye(4)
    clamped[:3, :3] = Rotation.from_rotvec(rotvec).as_matrix()
    clamped[:3, 3] = target.mean(axis=0) - clamped[:3, :3] @ source.mean(axis=0)
    return clamped


@pytest.fixture(scope="module")
def vectors(shared):
    return np.load(shared / "reference" / "edge_and_rigid.npz")


def case(vectors, number):
    source = vectors[f"rigid{number}_q_zyx"][::-1].T
    target = vectors[f"rigid{number}_k_zyx"][::-1].T
    return source, target, vectors[f"rigid{number}_matrix_xyz_q_to_k"].astype(np.float64)


def test_small_rotations_equal_the_official_solution(vectors):
    source, target, official = case(vectors, 0)
    ours = fit("rigid", source, target)
    np.testing.assert_allclose(ours[:3, :3], official[:3, :3], atol=1e-5)
    np.testing.assert_allclose(ours, official, atol=1e-3)  # theirs is float32


def test_large_rotations_are_found_where_the_official_code_clamps(vectors):
    source, target, official = case(vectors, 1)
    ours = fit("rigid", source, target)
    rotvec = Rotation.from_matrix(ours[:3, :3]).as_rotvec()
    np.testing.assert_allclose(rotvec, (0.1, -0.5, 0.3), atol=0.005)  # the truth the case was made with
    assert residuals_mm(ours, source, target).mean() < 0.2 * residuals_mm(official, source, target).mean()
    np.testing.assert_allclose(official_clamp(ours, source, target), official, atol=1e-3)
