"""The search over all translations: MR found in a CT from anywhere, when the rotation is one of those tried."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from SAMv2Core.io.volume import Volume
from SAMv2Core.registration import pose_search
from SAMv2Core.registration.pose_search import rotations_within, search
from SAMv2Core.registration.tissue import tissue_image
from Testing.samples.limb_phantom import body_grid, error_mm, limb

CT = tissue_image(limb("ct"))


@pytest.mark.parametrize("shift", [(0, 0, 0), (60, -45, 80), (-300, 500, 1000)])
def test_any_translation_is_found_within_a_coarse_voxel(shift):
    motion = np.eye(4)
    motion[:3, 3] = shift
    found = search(CT, tissue_image(limb("mr", (-35.0, 45.0), motion=motion, half_width_mm=70.0)), [np.eye(3)])
    assert error_mm(found[0].matrix, motion, body_grid((-20.0, 40.0))) < 8.0
    assert found[0].score > found[1].score > 0


def test_the_right_one_of_several_rotations_wins():
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", [20, 0, -20], degrees=True).as_matrix()
    small = tissue_image(limb("mr", (-60.0, 60.0), motion=motion, half_width_mm=70.0))
    found = search(CT, small, [motion[:3, :3].T @ turn for turn in rotations_within(30.0, 30.0)])
    # A neighboring rotation may fit the coarse lattice better; the refinement bridges 15 degrees and 25 mm.
    assert error_mm(found[0].matrix, motion, body_grid()) < 20.0
    assert min(error_mm(pose.matrix, motion, body_grid()) for pose in found) < 10.0


def test_rotations_are_rotations_and_leave_out_corners():
    turns = np.array(rotations_within(20.0, 20.0))
    assert len(turns) == 19
    np.testing.assert_allclose(np.linalg.det(turns), 1.0)
    assert len(rotations_within(0.0, 10.0)) == 1


def test_a_body_smaller_than_a_coarse_voxel_is_still_looked_for(monkeypatch):
    """A piece of 16 mm searched at 16 mm, as in large scans: it falls across voxels and fills none."""
    voxels = np.full((80, 80, 80), -1000, np.int16)
    voxels[40:56, 40:56, 40:56] = 50
    piece = tissue_image(Volume(voxels, np.eye(4)), "ct")
    at_8_mm = pose_search._Searcher(CT.at_spacing(8.0), pose_search._with_body(piece, 8.0)).n_voxels
    monkeypatch.setattr(pose_search, "MAX_FFT_VOXELS", at_8_mm - 1)
    found = search(CT, piece, [np.eye(3)])
    assert found and all(np.isfinite(pose.matrix).all() for pose in found)
