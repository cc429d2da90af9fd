"""Choosing a pose among hypotheses: large displacements, patients lying the other way round, rivals."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from SAMv2Core.geometry.grid import transform_points
from SAMv2Core.registration.poses import angle_deg, choose_pose, match_modes, vote_of
from SAMv2Core.registration.tissue import tissue_image
from Testing.samples.limb_phantom import body_grid, error_mm, limb

CT = tissue_image(limb("ct"))


def moved(angles, shift, turn=(1, 1, 1)):
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(turn)
    motion[:3, 3] = shift
    return motion


@pytest.mark.parametrize("turn", [(1, 1, 1), (1, -1, -1)])
def test_a_cropped_mr_is_found_however_its_header_lies(turn):
    motion = moved((18, -15, 12), (55, -60, 40), turn)
    small = tissue_image(limb("mr", (-10.0, 70.0), motion=motion, half_width_mm=70.0))
    choice = choose_pose(CT, small, [])
    assert error_mm(choice.matrix, motion, body_grid((0.0, 61.0))) < 3.0  # the scans have voxels of 3 mm
    assert choice.runner_up < 0.9
    assert choice.overlap > 0.95
    assert (choice.turned_deg > 90) == (turn != (1, 1, 1))


def test_another_patient_has_a_rival_as_good():
    wrong = choose_pose(CT, tissue_image(limb("mr", (-10.0, 70.0), patient=5, half_width_mm=70.0)), [])
    right = choose_pose(CT, tissue_image(limb("mr", (-10.0, 70.0), half_width_mm=70.0)), [])
    assert wrong.runner_up > right.runner_up + 0.05
    assert right.halves_mm < 5.0  # voxels of 3 mm, and 40 mm of a tube along which it slides easily


def test_a_start_beyond_the_search_is_used():
    motion = moved((0, 0, 75), (10, 20, 30))  # neither near 0 nor half a turn
    small = tissue_image(limb("mr", (-50.0, 60.0), motion=motion, half_width_mm=70.0))
    choice = choose_pose(CT, small, [np.linalg.inv(motion)])
    assert error_mm(choice.matrix, motion, body_grid()) < 3.0


def test_modes_of_matches_are_disjoint_and_ordered():
    rng = np.random.default_rng(0)
    points = rng.uniform(-100, 100, (120, 3))
    truths = [moved((10, 0, 0), (5, 5, 5)), moved((0, 0, 40), (0, 0, 80))]
    target = np.concatenate([transform_points(truths[0], points[:70]), transform_points(truths[1], points[70:])])
    found = match_modes(points, target, np.ones(120), 5.0, seed=0)
    assert len(found) >= 2
    for matrix, truth in zip(found, truths):
        np.testing.assert_allclose(matrix, truth, atol=1e-6)
    votes = vote_of(points, target, np.ones(120), 5.0)(np.stack(truths))
    assert votes[0] >= 70 / 120 > 0.5 > votes[1] >= 50 / 120


def test_the_angle_of_a_matrix_with_stretch_is_that_of_its_rotation():
    assert angle_deg(moved((0, 0, 35), (1, 2, 3)) @ np.diag([1.2, 0.9, 1.0, 1.0])) == pytest.approx(35, abs=6)
    assert angle_deg(1.3 * moved((0, 0, 170), (0, 0, 0))) == pytest.approx(170)
