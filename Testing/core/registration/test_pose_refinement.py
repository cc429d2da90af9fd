"""Refinement on intensities: CT with MR, from starts that the search would give."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from SAMv2Core.io.volume import Volume
from SAMv2Core.registration.pose_refinement import Level, refine
from SAMv2Core.registration.tissue import tissue_image
from Testing.samples.limb_phantom import T1_MR, body_grid, error_mm, limb, tissue_at

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


def with_soft_tissue_moved(shift_lps):
    """The limb's MR: skin and fascia moved, the bones not, and the more in between the farther from the bones."""
    volume = limb("mr", (-50.0, 60.0), half_width_mm=70.0)
    k, j, i = np.meshgrid(*(np.arange(n) for n in volume.array.shape), indexing="ij")
    points = volume.grid.to_lps(np.stack([i, j, k], axis=-1).reshape(-1, 3))
    share = np.clip((np.hypot(points[:, 0], points[:, 1]) - 25) / 20, 0, 1)
    still, soft = tissue_at(points), tissue_at(points - share[:, None] * shift_lps)
    soft[np.isin(soft, (4, 5))] = 2
    tissue = np.where(np.isin(still, (4, 5)), still, soft)
    return Volume(T1_MR[tissue].reshape(volume.array.shape).astype(np.int16), volume.ijk_to_lps, "limb.mr")


def test_bone_counts_more_than_skin_where_they_disagree():
    shifted = tissue_image(with_soft_tissue_moved(np.array([9.0, -7.0, 0.0])))
    anywhere = refine(CT, shifted, np.eye(4)[None], FINE)
    near_bone = refine(CT, shifted, np.eye(4)[None], FINE._replace(bone_mm=12.0))
    off = [error_mm(found.matrices[0], np.eye(4), body_grid()) for found in (anywhere, near_bone)]
    assert off[0] > 5.0  # of the 11 mm that the skin moved
    assert off[1] < 3.0  # voxels of 3 mm


def test_the_score_weighs_what_is_near_bone_and_asks_no_more_overlap_than_it_is_told():
    out = away((0, 0, 0), (0, 0, 47))[None]  # 7 mm of 110 stick out
    level = FINE._replace(steps=0, bone_mm=12.0, bone_weight=4.0)
    for full, told in ((1.0, lambda overlap: overlap), (0.9, lambda overlap: 1.0)):
        found = refine(CT, MR, out, level._replace(full_overlap=full))
        assert 0.9 < found.overlap[0] < 0.97
        everywhere = (found.information[0] + found.edges[0]) * told(found.overlap[0])
        assert found.score[0] == pytest.approx((everywhere + 4 * found.bone[0]) / 5, rel=1e-5)  # float32


def test_without_bone_the_measure_near_bone_is_that_of_everything():
    found = refine(MR, MR, np.eye(4)[None], FINE._replace(steps=0, bone_mm=12.0))
    everywhere = (found.information[0] + found.edges[0]) * found.overlap[0]
    assert found.bone[0] == pytest.approx(everywhere, rel=1e-5)  # float32


def test_one_side_of_a_plane_sees_only_that_side():
    plane = np.array([0.0, 0.0, 1.0, 0.0])
    upper = refine(CT, MR, np.eye(4)[None], FINE._replace(steps=0), side=plane)
    shifted = away((0, 0, 0), (0, 0, 65))[None]  # of the upper half's 60 mm 35 stay inside the CT, of all 110 mm 85
    assert upper.overlap[0] > 0.98
    assert refine(CT, MR, shifted, FINE._replace(steps=0), side=plane).overlap[0] < 0.75
    assert refine(CT, MR, shifted, FINE._replace(steps=0)).overlap[0] > 0.7
