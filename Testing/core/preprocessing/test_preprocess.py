"""From volume to tensor: ranges, air, NaN, shifts, warnings; the lattice has its own tests."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from SAMv2Core.errors import InputError, UsageError
from SAMv2Core.io.volume import Volume
from SAMv2Core.preprocessing.preprocess import preprocess, preprocess_report, scale_ct, scale_mr
from Testing.samples.synthetic import make_body_volume


def changed(volume, array):
    return dataclasses.replace(volume, array=array)


def grey(hu):
    return (hu + 1024) * 255 / 4095 - 50


def test_ct_scale():
    values = np.array([-3000, -1024, 0, 3071, 9000], np.float32)
    np.testing.assert_allclose(scale_ct(values), [-50, -50, grey(0), 205, 205], atol=1e-4)


def test_mr_scale_uses_integer_percentiles():
    values = np.arange(1001, dtype=np.float32) + 0.75  # percentiles 0.2 and 99.8: 2.75 and 998.75
    scaled = scale_mr(values.copy())
    np.testing.assert_allclose(scaled[500], (500.75 - 2) / (998 - 2) * 255 - 50, atol=1e-3)
    np.testing.assert_allclose(
        [scaled[0], scaled[-1]], [(2.75 - 2) / 996 * 255 - 50, 996.75 / 996 * 255 - 50], atol=1e-3
    )


@pytest.mark.parametrize("scale", [1e-4, 1e-2, 0.8, 1.0, 5.0, 40.0])
def test_mr_of_small_values_keeps_its_contrast(scale):
    values = (np.random.default_rng(0).uniform(0, 1, 10000) * scale).astype(np.float32)
    scaled = scale_mr(values)
    assert np.ptp(scaled) > 150
    assert scaled.min() >= -50.001
    assert scaled.max() <= 205 + 0.05 * 255


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_the_full_result(modality):
    volume = make_body_volume(modality=modality)
    result = preprocess_report(volume)
    assert result.modality == modality
    assert result.modality_reason
    assert result.x.dtype == torch.float32
    assert result.x.shape == (1, 1, *result.grid.shape_zyx)
    assert result.x.is_contiguous()
    assert result.body.shape == result.grid.shape_zyx
    assert 0.2 < result.body.mean() < 0.6
    assert result.x.min() >= -50.001
    assert result.x.max() <= 206
    assert result.warnings == ()
    x, grid = preprocess(volume, modality)
    assert torch.equal(x, result.x)
    assert np.array_equal(grid.ijk_to_lps, result.grid.ijk_to_lps)


def test_the_volume_is_not_changed():
    volume = make_body_volume(modality="mr")
    before = volume.array.copy()
    preprocess(volume)
    assert np.array_equal(volume.array, before)


def test_the_table_stays_in_the_voxels():
    with_table, without = make_body_volume(table=True), make_body_volume(table=False)
    first, second = preprocess_report(with_table), preprocess_report(without)
    assert torch.abs(first.x - second.x).max() > 30
    assert np.mean(first.body != second.body) < 0.01


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_air(value):
    volume = make_body_volume()
    array = volume.array.astype(np.float32)
    array[10:14, 20:25, 20:30] = value
    result = preprocess_report(changed(volume, array))
    assert torch.isfinite(result.x).all()
    array[10:14, 20:25, 20:30] = -1024
    expected = preprocess_report(changed(volume, array))
    assert torch.equal(result.x, expected.x)
    assert any("200 voxels are NaN or infinite" in warning for warning in result.warnings)


def test_air_in_a_ct_of_tissue_alone():
    values = np.random.default_rng(0).normal(-100, 15, (20, 20, 20)).astype(np.float32)
    values[:, 5:] = np.random.default_rng(1).normal(55, 15, (20, 15, 20))
    values[0, 0, 0] = np.nan
    x, _ = preprocess(Volume(values, np.diag([2.0, 2, 2, 1])))
    assert float(x[0, 0, 0, 0, 0]) == -50


@pytest.mark.parametrize("array", [np.zeros((5, 5, 5)), np.full((5, 5, 5), 7, np.int16), np.full((5, 5, 5), np.nan)])
def test_constant_volumes_are_refused(array):
    with pytest.raises(InputError, match=r"one single value|no finite voxel"):
        preprocess(Volume(array, np.eye(4), "scan"))


def test_a_ct_without_rescale_is_shifted():
    volume = make_body_volume()
    raw = np.clip(volume.array + 1024, 0, None).astype(np.uint16)
    expected = preprocess_report(changed(volume, raw.astype(np.int16) - 1024))
    for modality in ("auto", "ct"):
        result = preprocess_report(changed(volume, raw), modality)
        np.testing.assert_allclose(result.x, expected.x, atol=1e-4)
        assert np.array_equal(result.body, expected.body)
        assert any("without their rescale" in warning for warning in result.warnings)


def test_choices_against_the_data_are_told():
    ct = make_body_volume(modality="ct")
    assert any("looks like CT" in warning for warning in preprocess_report(ct, "mr").warnings)
    tagged = dataclasses.replace(ct, modality="mr")
    assert any("marked as MR" in warning for warning in preprocess_report(tagged, "ct").warnings)
    with pytest.raises(UsageError, match="'pet'"):
        preprocess(ct, "pet")


def test_no_body_is_told():
    air = np.random.default_rng(0).normal(-1000, 5, (20, 20, 20)).astype(np.int16)
    result = preprocess_report(Volume(air, np.diag([2.0, 2, 2, 1])), "ct")
    assert not result.body.any()
    assert any("no body" in warning for warning in result.warnings)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.int64, np.float32, np.float64, ">i2"])
def test_scalar_types_give_the_same_image(dtype):
    mr = make_body_volume(modality="mr")
    small = changed(mr, (mr.array // 12).astype(np.int16))
    expected, _ = preprocess(small, "mr")
    result, _ = preprocess(changed(mr, small.array.astype(dtype)), "mr")
    np.testing.assert_allclose(result, expected, atol=1e-4)


def test_thick_slices_and_long_pixels_lie_right():
    """A bright ball is found at its place, whatever the voxels look like."""
    for spacing, shape in (((0.8, 0.8, 5.0), (20, 100, 100)), ((0.6, 2.9, 1.1), (80, 30, 120))):
        matrix = np.diag([*spacing, 1.0])
        matrix[:3, 3] = (11, -22, 33)
        volume = Volume(np.zeros(shape, np.int16), matrix)
        z, y, x = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
        points = volume.grid.to_lps(np.stack([x, y, z], -1).reshape(-1, 3)).reshape(*shape, 3)
        center = points.reshape(-1, 3).mean(axis=0) + np.array([4, -6, 5])
        ball = np.exp(-((points - center) ** 2).sum(-1) / (2 * 8.0**2))
        tensor, grid = preprocess(changed(volume, (ball * 1000).astype(np.int16)), "mr")
        weights = tensor[0, 0].numpy().astype(float) + 50
        k, j, i = (np.sum(np.arange(n).reshape([-1 if a == axis else 1 for a in range(3)]) * weights) / weights.sum()
                   for axis, n in enumerate(weights.shape))  # fmt: skip
        np.testing.assert_allclose(grid.to_lps([i, j, k]), center, atol=0.5)


@pytest.mark.parametrize("degrees", [(7, -12, 18), (25, 0, 0), (0, 25, 25)])
def test_a_ct_in_a_turned_frame_is_the_same_to_a_network(degrees):
    """A transform that was hardened turns the frame, not the patient in the scan; an MR's tilt is the scanner's."""
    volume = make_body_volume(modality="ct")
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    turned = dataclasses.replace(volume, ijk_to_lps=turn @ volume.ijk_to_lps)
    plain, other = preprocess_report(volume, "ct"), preprocess_report(turned, "ct")
    assert torch.equal(plain.x, other.x) and np.array_equal(plain.body, other.body)
    np.testing.assert_allclose(other.grid.ijk_to_lps, turn @ plain.grid.ijk_to_lps, atol=1e-9)
    upright = preprocess_report(turned, "mr").grid.ijk_to_lps[:3, :3]
    np.testing.assert_allclose(upright, 2 * np.eye(3), atol=1e-9)
