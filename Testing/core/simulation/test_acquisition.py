"""The simulated scanner: monotone intensities, air stays air, noise as asked for, a couch in air only."""

import numpy as np

from SAMv2Core.geometry.grid import Grid
from SAMv2Core.simulation import acquisition

CT = acquisition.IntensityScale(-200.0, 300.0, -1024.0)


def test_scale_of_a_ct_is_in_hu_and_of_an_mr_from_percentiles():
    ct = np.array([-1024, 0, 60, 1500], dtype=np.int16)
    assert acquisition.intensity_scale(ct, None) == CT
    assert acquisition.intensity_scale(np.maximum(ct, 0), "ct").air == 0  # a CT already cut at 0 HU
    mr = np.linspace(0, 1000, 1001)
    scale = acquisition.intensity_scale(mr, None)
    assert abs(scale.low - 20) < 2 and abs(scale.high - 980) < 2 and scale.air == 0
    assert abs(scale.of_hu(50) - 500) < 2


def test_remapping_is_monotone_keeps_air_and_does_nothing_by_default():
    values = np.linspace(-1024, 3000, 4025, dtype=np.float32)
    np.testing.assert_allclose(acquisition.remap_intensity(values, CT), values, atol=1e-3)
    for contrast, gamma, offset in ((0.7, 0.7, 30.0), (1.3, 1.4, -30.0), (1.25, 0.8, 20.0)):
        out = acquisition.remap_intensity(values, CT, contrast, gamma, offset)
        assert np.all(np.diff(out) > 0)
        assert out[0] == -1024
        liver_to_fat = np.diff(out[np.searchsorted(values, (-100, 60))])
        assert liver_to_fat > 160 * min(contrast, 1.0) * 0.6


def test_noise_has_the_deviation_asked_for():
    rng = np.random.default_rng(0)
    for grain in (0.0, 1.0):
        noise = acquisition.add_noise(np.zeros((20, 64, 64), np.float32), 17.0, grain, rng)
        assert abs(noise.std() - 17.0) < 0.3
    between_neighbors = np.corrcoef(noise[:, :, :-1].ravel(), noise[:, :, 1:].ravel())[0, 1]
    assert between_neighbors > 0.5  # grain 1 voxel: exp(-1/4) = 0.78 for a Gaussian


def test_kernels_blur_and_sharpen_a_step_in_millimeters():
    grid = Grid((8, 8, 64), np.diag([0.5, 1.0, 1.0, 1.0]))
    step = np.zeros((8, 8, 64), np.float32)
    step[:, :, 32:] = 100.0
    soft = acquisition.apply_kernel(step, grid, blur_mm=2.0)
    profile = np.diff(soft[4, 4])
    width_mm = 0.5 * np.sqrt((profile * (np.arange(63) - (profile * np.arange(63)).sum() / 100) ** 2).sum() / 100)
    assert abs(width_mm - 2.0) < 0.1  # truncated at 3 standard deviations
    assert acquisition.apply_kernel(step, grid, sharpen=1.0).max() > 105


def test_thick_slices_are_means():
    array = np.arange(24, dtype=np.float32).reshape(6, 2, 2)
    np.testing.assert_allclose(acquisition.average_slices(array, 3), [array[:3].mean(0), array[3:].mean(0)])


def test_a_table_is_written_behind_the_patient_in_air_only():
    matrix = np.diag([4.0, 4.0, 4.0, 1.0])
    matrix[:3, 3] = (-160, -160, 0)
    flipped = matrix.copy()  # y index runs to anterior: "behind" must follow the world, not the index
    flipped[1] = (0, -4.0, 0, 156)
    for frame in (matrix, flipped):
        grid = Grid((4, 80, 80), frame)
        array = np.full(grid.shape_zyx, -1000.0, np.float32)
        k, j, i = np.meshgrid(*(np.arange(n) for n in grid.shape_zyx), indexing="ij")
        points = grid.to_lps(np.stack([i, j, k], axis=-1).reshape(-1, 3)).reshape(*grid.shape_zyx, 3)
        patient = (points[..., 0] / 120) ** 2 + ((points[..., 1] + 20) / 80) ** 2 < 1
        array[patient] = 40.0
        out = acquisition.add_table(array, grid, CT)
        changed = out != array
        assert changed.sum() > 1000 and not changed[patient].any()
        assert np.median(points[..., 1][changed]) > 60.0  # behind the back at y = 60
