"""Simulated follow-ups: voxels and truth agree, whatever the geometry; figures stay in their ranges."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from SAMv2Core.errors import UsageError
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.volume import Volume, read_volume
from SAMv2Core.simulation import posture
from SAMv2Core.simulation.simulate import FOLLOW_UP, SimulationOptions, simulate_follow_up

MOVED = SimulationOptions(rotation_deg=10, scale=(0.9, 1.1), translation_mm=20, deformation_mm=10)


def analytic(points_lps):
    """A smooth function of space, wavelengths of 60 to 90 mm, around 40 with amplitude 300."""
    x, y, z = np.moveaxis(points_lps, -1, 0)
    return 40 + 100 * (np.sin(x / 10) + np.cos(y / 12 + 0.4) + np.sin(z / 14 + x / 30))


def voxel_centers(grid):
    k, j, i = np.meshgrid(*(np.arange(n) for n in grid.shape_zyx), indexing="ij")
    return grid.to_lps(np.stack([i, j, k], axis=-1).reshape(-1, 3)).reshape(*grid.shape_zyx, 3)


def analytic_volume(shape_zyx=(40, 48, 44), spacing=(3.0, 2.5, 4.0), oblique=True, dtype=np.float32):
    matrix = np.eye(4)
    turn = Rotation.from_euler("xyz", [10, -20, 30] if oblique else [0, 0, 0], degrees=True).as_matrix()
    matrix[:3, :3] = turn * spacing
    if oblique:
        matrix[:3, 0] *= -1  # left-handed
    matrix[:3, 3] = (30.0, -200.0, 500.0)
    grid = Grid(shape_zyx, matrix)
    return Volume(analytic(voxel_centers(grid)).astype(dtype), matrix, "analytic", "ct")


@pytest.fixture(scope="module")
def torso(shared):
    return read_volume(str(shared / "data" / "ct" / "val" / "CRLM-CT-1004.nii.gz"))


def test_no_change_asked_for_gives_the_same_volume():
    baseline = analytic_volume(dtype=np.int16)
    same = simulate_follow_up(baseline, SimulationOptions(), seed=3)
    np.testing.assert_array_equal(same.volume.array, baseline.array)
    np.testing.assert_allclose(same.volume.ijk_to_lps, baseline.ijk_to_lps)
    assert np.abs(same.displacement).max() < 1e-4
    assert same.volume.array.dtype == np.int16


@pytest.mark.parametrize("oblique", [False, True])
def test_a_point_keeps_its_tissue_at_the_place_the_truth_names(oblique):
    baseline = analytic_volume(oblique=oblique)
    follow = simulate_follow_up(baseline, MOVED, seed=1)
    points = baseline.grid.to_lps(np.random.default_rng(0).uniform(0.15, 0.85, (400, 3)) * (baseline.grid.size_ijk - 1))
    moved, inside = follow.map_points(points)
    assert inside.mean() > 0.8
    zyx = follow.volume.grid.to_ijk(moved[inside])[:, ::-1].T
    found = ndimage.map_coordinates(follow.volume.array, zyx, order=3, mode="mirror")
    # the function's slope is at most 30 per mm: 3 units are the 0.1 mm promised, plus interpolation
    assert np.abs(found - analytic(points[inside])).max() < 4.0
    assert np.sqrt(np.mean((found - analytic(points[inside])) ** 2)) < 0.7


def test_map_points_unmap_points_and_the_dense_field_tell_the_same_truth():
    baseline = analytic_volume()
    follow = simulate_follow_up(baseline, MOVED, seed=2)
    ijk = np.stack([np.random.default_rng(4).integers(0, n, 200) for n in baseline.grid.size_ijk], axis=-1)
    points = baseline.grid.to_lps(ijk)
    moved, _ = follow.map_points(points)
    np.testing.assert_allclose(points + follow.displacement[ijk[:, 2], ijk[:, 1], ijk[:, 0]], moved, atol=1e-3)
    back, inside = follow.unmap_points(moved)
    np.testing.assert_allclose(back, points, atol=0.02)
    assert inside.all()


def test_the_same_seed_gives_the_same_follow_up_and_components_have_their_own_streams():
    baseline = analytic_volume()
    first, again = (simulate_follow_up(baseline, FOLLOW_UP, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first.volume.array, again.volume.array)
    other = simulate_follow_up(baseline, FOLLOW_UP, seed=6)
    assert np.abs(first.displacement - other.displacement).max() > 5
    quiet = simulate_follow_up(baseline, dataclasses.replace(FOLLOW_UP, noise_hu=0), seed=5)
    np.testing.assert_array_equal(first.displacement, quiet.displacement)
    assert np.abs(first.volume.array - quiet.volume.array).mean() > 5


def test_the_preset_keeps_the_promised_ranges_over_many_seeds():
    baseline = analytic_volume(shape_zyx=(30, 30, 30), spacing=(8.0, 8.0, 8.0))
    angles, sizes = [], []
    for seed in range(15):
        drawn = simulate_follow_up(baseline, FOLLOW_UP, seed).drawn
        angles.append(drawn["rotation_deg"])
        sizes.append(drawn["scale"])
        assert drawn["minimum_jacobian"] > 0.1
        assert drawn["deformation_max_mm"] == pytest.approx(15 * drawn["deformation_kept"], rel=1e-6)
        assert drawn["deformation_kept"] > 0.9
    assert 5 < max(angles) <= 10 and 0.9 <= min(sizes) < 0.97 and 1.03 < max(sizes) <= 1.1


def test_breathing_moves_the_diaphragm_down_and_leaves_the_spine(torso):
    amplitude = 18.0
    follow = simulate_follow_up(torso, SimulationOptions(breathing_mm=amplitude), seed=0)
    body = posture.body_points(torso.array > -200, torso.grid)
    level = posture.diaphragm_level_mm(torso.array.astype(np.float32), torso.grid)
    assert torso.grid.corners_lps()[:, 2].min() < level <= torso.grid.corners_lps()[:, 2].max()
    front, back = np.percentile(body[:, 1], (20, 97))
    center = np.median(body[:, 0])
    level = min(level, torso.grid.corners_lps()[:, 2].max() - 10)
    moved, _ = follow.map_points(np.array([[center, front, level], [center, back, level]]))
    assert -amplitude - 1 < moved[0, 2] - level < -0.5 * amplitude
    assert abs(moved[1, 2] - level) < 2.0


def test_slices_field_of_view_and_table_change_the_grid_not_the_truth():
    baseline = analytic_volume(oblique=False)
    options = SimulationOptions(slice_thickness_mm=10.0, field_of_view=(1.0, 1.0, 0.5), table=True)
    follow = simulate_follow_up(baseline, options, seed=1)
    assert follow.volume.grid.spacing_ijk_mm[2] == pytest.approx(10.0)
    assert follow.volume.array.shape == (8, 48, 44)  # half of 40 slices of 4 mm in slices of 10 mm
    points = voxel_centers(baseline.grid).reshape(-1, 3)[::97]
    moved, inside = follow.map_points(points)
    np.testing.assert_allclose(moved, points, atol=1e-6)
    assert 0.4 < inside.mean() < 0.6
    low, high = follow.volume.grid.corners_lps()[:, 2].min(), follow.volume.grid.corners_lps()[:, 2].max()
    np.testing.assert_array_equal(inside, (points[:, 2] >= low) & (points[:, 2] <= high))


def test_ends_that_the_baseline_cannot_fill_are_trimmed():
    baseline = analytic_volume(shape_zyx=(60, 40, 40), spacing=(4.0, 4.0, 4.0), oblique=False)
    shrunk = simulate_follow_up(baseline, SimulationOptions(scale=(0.8, 0.8)), seed=0)
    assert shrunk.volume.array.shape == (48, 40, 40)
    assert np.all(shrunk.volume.array[:, 20, 20] > -300)  # tissue to the first and the last slice


def test_nan_voxels_count_as_air_and_float_mr_volumes_work():
    baseline = analytic_volume()
    with_nan = dataclasses.replace(baseline, array=np.where(baseline.array > 250, np.nan, baseline.array - 30))
    assert np.isfinite(simulate_follow_up(with_nan, FOLLOW_UP, seed=0).volume.array).all()
    mr = dataclasses.replace(baseline, array=np.maximum(baseline.array, 0) * 0.01, modality="mr")
    out = simulate_follow_up(mr, FOLLOW_UP, seed=0).volume.array
    assert out.dtype == np.float32 and out.min() >= 0 and 1.0 < out.max() < 20.0


def test_on_a_real_ct_voxels_come_from_where_the_truth_says(torso):
    options = dataclasses.replace(FOLLOW_UP, contrast=(1, 1), gamma=(1, 1), offset_hu=0, clip_hu=None, noise_hu=0)
    follow = simulate_follow_up(torso, options, seed=11)
    rng = np.random.default_rng(0)
    ijk = np.stack([rng.integers(0, n, 3000) for n in follow.volume.grid.size_ijk], axis=-1)
    sources, inside = follow.unmap_points(follow.volume.grid.to_lps(ijk))
    zyx = torso.grid.to_ijk(sources[inside])[:, ::-1].T
    expected = ndimage.map_coordinates(torso.array.astype(np.float32), zyx, order=3, mode="mirror")
    found = follow.volume.array[ijk[:, 2], ijk[:, 1], ijk[:, 0]][inside]
    inner = np.all((zyx > 3) & (zyx < np.array(torso.array.shape)[:, None] - 4), axis=0)
    error = np.abs(found - np.clip(expected, torso.array.min(), torso.array.max()))[inner]
    assert inner.sum() > 1500
    assert np.percentile(error, 95) < 5.0 and np.median(error) < 1.0  # HU


@pytest.mark.parametrize(
    "bad",
    [{"scale": (0.0, 1.0)}, {"scale": (1.2, 1.1)}, {"gamma": (-1.0, 1.0)}, {"field_of_view": (1.0, 0.0, 1.0)},
     {"slice_thickness_mm": 0.0}, {"deformation_mm": -1.0}, {"interpolation": "magic"}],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(bad):
    with pytest.raises(UsageError):
        SimulationOptions(**bad)
