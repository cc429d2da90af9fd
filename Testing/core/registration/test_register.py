"""Registration of synthetic embeddings of known truth: any grid, field of view, angle; honest verdicts."""

import dataclasses
import functools
import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from SAMv2Core.errors import Cancelled, InputError, ModelError, UsageError
from SAMv2Core.geometry.grid import transform_points
from SAMv2Core.registration.register import register
from Testing.samples.limb_phantom import body_grid, error_mm, limb
from Testing.samples.synthetic_embeddings import AnatomyField, lattice, matrix_map, synthetic_embedding, trunk

FIELD = AnatomyField(seed=1)


def pose(angle_deg, axis=(1.0, 0.4, -0.3), scale=1.0, shift=(40, -25, 310)):
    matrix = np.eye(4)
    axis = np.array(axis) / np.linalg.norm(axis)
    matrix[:3, :3] = scale * Rotation.from_rotvec(np.deg2rad(angle_deg) * axis).as_matrix()
    matrix[:3, 3] = shift
    return matrix


def short_trunk(points):
    return trunk(points) & (np.abs(points[:, 2]) < 130)


@functools.cache
def fixed_embedding(**more):
    return synthetic_embedding(FIELD, lattice(), inside=short_trunk, **more)


def moving_embedding(truth, *arguments, **more):
    return _moving_embedding(tuple(truth.ravel()), *arguments, **more)


@functools.cache
def _moving_embedding(truth, size_mm=(360, 360, 360), center=(0, 0, 0), **more):
    """The anatomy after ``truth`` (fixed to moving), on an oblique left-handed grid of its own."""
    truth = np.array(truth).reshape(4, 4)
    where = transform_points(truth, np.array(center, dtype=float))
    grid = lattice(size_mm, 7.0, tuple(where), euler_deg=(12, -25, 140), left_handed=True)
    return synthetic_embedding(FIELD, grid, matrix_map(np.linalg.inv(truth)), inside=short_trunk, seed=9, **more)


def target_error_mm(registration, truth):
    """Mean distance, over a grid of body points, between where the result and the truth put them."""
    x, y, z = np.meshgrid([-100, 0, 100], [-60, 0, 60], [-100, 0, 100])
    points = np.stack([x, y, z], axis=-1).reshape(-1, 3)
    apart = transform_points(registration.matrix, points) - transform_points(truth, points)
    return float(np.linalg.norm(apart, axis=1).mean())


@pytest.mark.parametrize("angle", [0.0, 35.0, 90.0, 180.0])
def test_rigid_motion_of_any_angle_between_different_grids(angle):
    truth = pose(angle)
    found = register(fixed_embedding(noise=0.3), moving_embedding(truth, noise=0.3))
    assert target_error_mm(found, truth) < 1.5  # voxels of 7 and 8 mm, hundreds of pairs
    assert found.status == "registered", found.reasons
    assert found.overlap > 0.95 and found.half_sample_mm < 5


def test_the_matrix_maps_points_of_the_fixed_image_to_the_moving_image():
    truth = pose(50.0)
    found = register(fixed_embedding(), moving_embedding(truth))
    points = np.array([[30.0, -20.0, 60.0], [-80.0, 40.0, -70.0]])
    np.testing.assert_allclose(transform_points(found.matrix, points), transform_points(truth, points), atol=2.0)
    error = transform_points(found.matrix, found.fixed_points_lps) - found.moving_points_lps
    assert np.median(np.linalg.norm(error, axis=1)) < 4.0
    swapped = register(moving_embedding(truth), fixed_embedding())
    np.testing.assert_allclose(transform_points(swapped.matrix, transform_points(truth, points)), points, atol=2.0)


@pytest.mark.parametrize("kind", ["similarity", "affine"])
def test_size_and_shear_are_recovered(kind):
    truth = pose(25.0, scale=0.88)
    if kind == "affine":
        truth[:3, :3] = truth[:3, :3] @ np.array([[1.08, 0.06, 0], [0, 0.95, -0.05], [0, 0, 1.05]])
    found = register(fixed_embedding(noise=0.3), moving_embedding(truth, noise=0.3), transform=kind)
    assert target_error_mm(found, truth) < 2.0
    assert found.status == "registered", found.reasons
    assert found.transform == kind


@pytest.mark.parametrize("small", ["moving", "fixed"])
def test_a_crop_to_forty_percent_is_found_in_the_whole(small):
    truth = pose(20.0)
    whole, part = fixed_embedding(noise=0.3), moving_embedding(truth, (360, 360, 105), (0, 0, 60), noise=0.3)
    found = register(whole, part) if small == "moving" else register(part, whole)
    expected = truth if small == "moving" else np.linalg.inv(truth)
    points = np.array([[0.0, 0, 60], [60, 30, 90], [-60, -30, 30]])
    points = points if small == "moving" else transform_points(truth, points)
    error = transform_points(found.matrix, points) - transform_points(expected, points)
    assert np.linalg.norm(error, axis=1).max() < 3.0
    assert found.status == "registered", found.reasons
    assert found.crop_of == ("fixed" if small == "moving" else "moving")
    grid = whole.volume_grid
    low, high = np.array(found.crop["ijk_min"]), np.array(found.crop["ijk_max"])
    assert np.all(low >= 0) and np.all(high < grid.size_ijk) and np.all(low < high)
    heights = grid.to_lps(np.stack([low, high]))[:, 2]
    assert heights.min() < 25 and heights.max() > 95  # holds the part
    assert np.ptp(heights) < 245  # but not the whole 260 mm


@pytest.mark.parametrize("seed", [0, 1])
def test_seventy_percent_wrong_vectors_are_survived(seed):
    truth = pose(60.0)
    fixed = fixed_embedding(noise=0.3, wrong_fraction=0.7, seed=seed)
    found = register(fixed, moving_embedding(truth, noise=0.3), seed=seed)
    assert target_error_mm(found, truth) < 4.0
    assert found.status != "failed"
    assert found.inliers < 0.65 * found.points_sampled  # it does not pretend


def test_noise_is_failed():
    fixed = fixed_embedding(wrong_fraction=1.0)
    found = register(fixed, moving_embedding(pose(10.0)))
    assert found.status == "failed" and found.reasons
    json.dumps(found.to_report(), allow_nan=False)


def test_another_anatomy_is_failed():
    other = synthetic_embedding(AnatomyField(seed=77), lattice(), inside=short_trunk)
    found = register(fixed_embedding(), other)
    assert found.status == "failed", found


def test_a_body_part_that_the_other_volume_does_not_show_is_failed():
    upper = synthetic_embedding(FIELD, lattice((320, 220, 120), center_lps=(0, 0, 400)), inside=trunk)
    lower = synthetic_embedding(FIELD, lattice((320, 220, 160), center_lps=(0, 0, -400)), inside=trunk)
    assert register(upper, lower).status == "failed"


def test_a_partial_overlap_is_registered_by_what_is_common():
    upper = synthetic_embedding(FIELD, lattice((320, 220, 240), center_lps=(0, 0, 70)), inside=trunk, noise=0.3)
    truth = pose(15.0)
    grid = lattice((320, 220, 240), 8.0, tuple(transform_points(truth, np.array([0.0, 0, -70]))))
    lower = synthetic_embedding(FIELD, grid, matrix_map(np.linalg.inv(truth)), inside=trunk, noise=0.3)
    found = register(upper, lower)
    points = np.array([[0.0, 0, 0], [60, 30, 30], [-60, -30, -30]])
    error = transform_points(found.matrix, points) - transform_points(truth, points)
    assert np.linalg.norm(error, axis=1).max() < 4.0
    assert found.status in ("registered", "uncertain") and 0.2 < found.overlap < 0.7


def test_the_same_seed_gives_the_same_result():
    fixed, moving = fixed_embedding(noise=0.5), moving_embedding(pose(30.0), noise=0.5)
    first, again = (register(fixed, moving, seed=4) for _ in range(2))
    np.testing.assert_array_equal(first.matrix, again.matrix)
    assert first.to_report() == again.to_report()


def test_report_is_plain_json_with_the_contract_s_names():
    report = register(fixed_embedding(), moving_embedding(pose(5.0))).to_report()
    names = {"matrix", "transform", "points_sampled", "inliers", "residual_mm", "overlap", "crop", "status"}
    assert names <= set(report) and set(report["residual_mm"]) == {"mean", "median", "p95"}
    assert report == json.loads(json.dumps(report, allow_nan=False))
    assert np.array(report["matrix"]).shape == (4, 4)


def test_progress_rises_and_cancel_passes_through():
    fixed, moving = fixed_embedding(), moving_embedding(pose(5.0))
    seen = []
    register(fixed, moving, progress=lambda fraction, text: seen.append(fraction))
    assert seen == sorted(seen) and seen[-1] == 1.0

    def stop(fraction, text):
        if fraction > 0.2:
            raise Cancelled()

    with pytest.raises(Cancelled):
        register(fixed, moving, progress=stop)


def test_nonsense_is_refused():
    fixed = fixed_embedding()
    empty = dataclasses.replace(fixed, body=np.zeros_like(fixed.body))
    for pair in ((fixed, empty), (empty, fixed)):
        with pytest.raises(InputError):
            register(*pair)
    with pytest.raises(UsageError):
        register(fixed, fixed, transform="elastic")
    with pytest.raises(ModelError):
        register(fixed, synthetic_embedding(FIELD, lattice(), model="other"))


@functools.cache
def limb_scans():
    """CT and cropped MR of one limb, the MR's header moved, and embeddings that say nothing of either."""
    motion = pose(24.0, axis=(0.5, -0.6, 0.6), shift=(50, -60, 45))
    ct, mr = limb("ct"), limb("mr", (-10.0, 70.0), motion=motion, half_width_mm=70.0)
    embeddings = []
    for seed, (volume, modality) in enumerate(((ct, "ct"), (mr, "mr"))):
        grid = volume.grid
        center = tuple(grid.corners_lps().mean(axis=0))
        noise = synthetic_embedding(AnatomyField(seed=seed + 5), lattice((160, 160, 80), 8.0, center))
        embeddings.append(dataclasses.replace(noise, modality=modality, volume_grid=grid))
    return motion, ct, mr, embeddings


@pytest.mark.parametrize("fixed_is_ct", [True, False])
def test_across_modalities_the_volumes_decide_where_matches_say_nothing(fixed_is_ct):
    motion, ct, mr, (emb_ct, emb_mr) = limb_scans()
    if fixed_is_ct:
        found = register(emb_ct, emb_mr, fixed_volume=ct, moving_volume=mr)
    else:
        found = register(emb_mr, emb_ct, fixed_volume=mr, moving_volume=ct)
    mr_to_ct = np.linalg.inv(found.matrix) if fixed_is_ct else found.matrix
    assert error_mm(mr_to_ct, motion, body_grid((0.0, 61.0))) < 3.0  # voxels of 3 mm
    assert found.status == "registered", found.reasons
    assert json.loads(json.dumps(found.to_report(), allow_nan=False))["intensity"]["score"] > 0.5


def test_without_volumes_or_refinement_such_matches_fail_and_a_guess_does_not_help():
    motion, ct, mr, (emb_ct, emb_mr) = limb_scans()
    assert register(emb_ct, emb_mr).status == "failed"
    found = register(emb_ct, emb_mr, fixed_volume=ct, moving_volume=mr, refine="off", initial=motion)
    assert found.status == "failed" and found.intensity is None


def test_a_guess_wins_where_nothing_else_finds_the_place():
    truth = pose(100.0)
    fixed, moving = fixed_embedding(wrong_fraction=0.93, noise=0.3), moving_embedding(truth, noise=0.3)
    assert target_error_mm(register(fixed, moving, initial=truth), truth) < 8.0


def test_a_turned_patient_is_told():
    found = register(fixed_embedding(), moving_embedding(pose(180.0)))
    assert any("180 degrees" in text and "prone" in text for text in found.warnings)


def test_more_nonsense_is_refused():
    fixed = fixed_embedding()
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
    for options in ({"refine": "on"}, {"refine": "always"}, {"initial": mirror}, {"initial": np.eye(3)}):
        with pytest.raises(UsageError):
            register(fixed, fixed, **options)
