"""Refinement on intensities: CT with MR, from starts that the search would give."""

import numpy as np
from scipy.spatial.transform import Rotation

from SAMv2Core.intensity import tissue_image
from SAMv2Core.pose_refinement import Level, refine
from Testing.limb_phantom import body_grid, error_mm, limb

CT, MR = tissue_image(limb("ct")), tissue_image(limb("mr", (-50.0, 60.0), half_width_mm=70.0))
COARSE, FINE = Level(8.0, 1500, 30, 3.0), Level(2.0, 5000, 30, 0.7)


def away(angles, shift):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    matrix[:3, 3] = shift
    return matrix


def test_starts_of_a_batch_come_back_each_on_its_own():
    starts = np.stack([np.eye(4), away((8, -5, 10), (8, -6, 12)), away((-6, 7, -8), (-5, 9, -10))])
    found = refine(CT, MR, refine(CT, MR, starts, COARSE).matrices, FINE)
    for matrix in found.matrices:
        assert error_mm(matrix, np.eye(4), body_grid()) < 2.0  # voxels of 3 mm
        np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-6)


def test_the_score_is_highest_at_the_truth_and_the_overlap_is_counted():
    still = (0, 0, 0)
    places = np.stack([np.eye(4), away(still, (0, 0, 15)), away((0, 0, 25), still), away(still, (0, 0, 95))])
    measured = refine(CT, MR, places, FINE._replace(steps=0))
    np.testing.assert_array_equal(measured.matrices, places)
    assert measured.score.argmax() == 0
    assert measured.overlap[0] > 0.98
    assert 0.35 < measured.overlap[3] < 0.6  # 55 of 110 mm stick out


def test_a_rerun_gives_the_same():
    start = away((4, 3, -5), (6, -4, 9))[None]
    np.testing.assert_array_equal(refine(CT, MR, start, COARSE).matrices, refine(CT, MR, start, COARSE).matrices)
