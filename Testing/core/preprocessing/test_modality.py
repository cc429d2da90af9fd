"""CT or MR from the values; the tag wins; a CT without rescale is recognized."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from SAMv2Core.io.volume import Volume, read_volume
from SAMv2Core.preprocessing import modality as modality_module
from SAMv2Core.preprocessing.modality import CT_OFFSET, ct_scale, detect_modality, doubt
from SAMv2Core.preprocessing.preprocess import prepare
from Testing.samples.synthetic import make_body_volume


def with_array(volume, array):
    return dataclasses.replace(volume, array=array)


@pytest.mark.parametrize("seed", range(3))
def test_ct_and_mr_are_told_apart(seed):
    for wanted in ("ct", "mr"):
        found, reason = detect_modality(make_body_volume(seed=seed, modality=wanted))
        assert found == wanted
        assert reason


def test_float_ct_with_nan_and_padding():
    volume = make_body_volume()
    array = volume.array.astype(np.float32)
    array[:5] = np.nan
    array[:, :4] = -3024
    assert detect_modality(with_array(volume, array))[0] == "ct"


def test_a_crop_inside_the_body_is_still_ct():
    values = np.random.default_rng(0).normal(-100, 15, (20, 20, 20))
    values[:, 5:] = np.random.default_rng(1).normal(55, 15, (20, 15, 20))
    assert detect_modality(Volume(np.round(values).astype(np.int16), np.eye(4)))[0] == "ct"


@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0, 20.0])
def test_mr_of_any_scale(scale):
    volume = make_body_volume(modality="mr")
    assert detect_modality(with_array(volume, volume.array * np.float32(scale)))[0] == "mr"


def test_normalized_mr_with_negative_values():
    volume = make_body_volume(modality="mr")
    array = (volume.array - volume.array.mean()) / volume.array.std()
    assert detect_modality(with_array(volume, array))[0] == "mr"


def test_the_tag_wins():
    volume = dataclasses.replace(make_body_volume(modality="ct"), modality="mr")
    found, reason = detect_modality(volume)
    assert found == "mr"
    assert "DICOM" in reason


def test_doubts_about_a_choice():
    ct, mr = make_body_volume(modality="ct"), make_body_volume(modality="mr")
    assert doubt(ct, "ct") is None
    assert doubt(mr, "mr") is None
    assert "looks like CT" in doubt(ct, "mr")
    assert "does not look like HU" in doubt(mr, "ct")


def test_ct_without_rescale():
    volume = make_body_volume()
    shifted = with_array(volume, np.clip(volume.array + int(CT_OFFSET), 0, None).astype(np.uint16))
    assert ct_scale(shifted)[:2] == (1.0, -CT_OFFSET)
    found, reason = detect_modality(shifted)
    assert found == "ct"
    assert "without its rescale" in reason


@pytest.mark.parametrize(
    ("slope", "intercept"), [(1.0, 300.0), (1e-3, 0.0), (1e-3, 0.3), (0.8, 150.0), (1.0, 1000.0), (10.0, 0.0)]
)
def test_a_ct_on_another_scale_is_recognized_and_rescaled(slope, intercept):
    volume = make_body_volume()
    noise = np.random.default_rng(0).normal(0, 20, volume.array.shape)
    stored = (np.clip(volume.array + noise, -1000, None) * slope + intercept).astype(np.float32)
    other = with_array(volume, stored)
    assert detect_modality(other)[0] == "ct"
    scale = ct_scale(other)
    # Soft tissue within 150 HU: its peak may be fat or muscle. Usual slopes and offsets are met exactly.
    for hu in (-1000.0, 40.0):
        assert scale.slope * (hu * slope + intercept) + scale.intercept == pytest.approx(hu, abs=150)
    prepared = prepare(other)
    inside = prepared.body & (np.abs(prepare(volume).values - 40) < 200)
    assert np.abs(prepared.values[inside] - prepare(volume).values[inside]).mean() < 150
    assert any("not in HU" in warning or "without their rescale" in warning for warning in prepared.warnings)


def test_hu_are_left_alone():
    assert ct_scale(make_body_volume()) is None and ct_scale(make_body_volume(modality="mr"), is_ct=False) is None


def test_the_sample_is_small_and_covers_the_volume():
    values = modality_module._sample(Volume(np.ones((300, 200, 5), np.int16), np.eye(4)))
    assert 10_000 < values.size <= 600_000


@pytest.mark.slow
def test_all_real_scans(shared):
    """Every scan of the project's data, and each CT again without its rescale."""
    paths = [path for path in sorted((shared / "data").glob("*/*/*.nii.gz")) if "_labels" not in path.name]
    assert len(paths) > 50
    wrong = []
    for path in paths:
        volume = read_volume(path)
        wanted = "mr" if path.name.endswith("_mr.nii.gz") else "ct"
        if detect_modality(volume)[0] != wanted or ct_scale(volume, is_ct=False) is not None:
            wrong.append(path.name)
        if wanted == "ct":
            raw = np.clip(volume.array, -1024, None) + 1024
            if (ct_scale(with_array(volume, raw)) or (0, 0))[:2] != (1.0, -CT_OFFSET):
                wrong.append(f"{path.name} shifted")
    assert wrong == []


@pytest.mark.parametrize("top", [255, 1])
def test_a_window_of_a_ct_is_asked_about_and_rescaled_when_it_is_said_to_be_one(top):
    volume = make_body_volume()
    rng = np.random.default_rng(0)
    hu = volume.array + rng.normal(0, 10, volume.array.shape)
    inside = np.abs(volume.array) < 200
    hu[inside & (rng.random(hu.shape) < 0.3)] = -100  # fat
    hu[inside & (rng.random(hu.shape) < 0.05)] = 600  # bone
    window = (np.clip((hu + 160) / 400, 0, 1) * top).astype(np.float32)
    other = with_array(volume, window)
    assert detect_modality(other)[0] == "mr" and "looks like a window of a CT" in doubt(other, "mr")
    scale = ct_scale(other)
    for value in (0.15, 0.5):  # fat and soft tissue
        assert scale.slope * value * top + scale.intercept == pytest.approx(400 * value - 160, abs=40)
    assert any("taken as HU" in warning for warning in prepare(other, "ct").warnings)


def test_a_ct_on_a_scale_that_an_mr_could_have_is_asked_about():
    volume = make_body_volume()
    noise = np.random.default_rng(0).normal(0, 20, volume.array.shape)
    attenuation = with_array(
        volume, (0.02 * (1 + np.clip(volume.array + noise, -1000, None) / 1000)).astype(np.float32)
    )
    assert detect_modality(attenuation)[0] == "mr"
    assert "peaks of air and soft tissue of a CT; say ct" in doubt(attenuation, "mr")
