"""Matrices survive ITK's transform files, and mean what resampling means by them."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from SAMv2Core.errors import InputError, OutputError
from SAMv2Core.geometry.grid import transform_points
from SAMv2Core.io import transforms
from SAMv2Core.io.volume import to_itk
from Testing.samples.synthetic import make_body_volume


def random_affine(seed=0):
    rng = np.random.default_rng(seed)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(rng.normal(0, 0.5, 3)).as_matrix() * rng.uniform(0.8, 1.2, 3)
    matrix[:3, 3] = rng.normal(0, 100, 3)
    return matrix


@pytest.mark.parametrize("suffix", transforms.SUFFIXES)
def test_round_trip(tmp_path, suffix):
    matrix = random_affine()
    path = tmp_path / ("räum lich" + suffix)
    transforms.write_transform(matrix, path)
    np.testing.assert_allclose(transforms.read_transform(path), matrix, atol=1e-9)


@pytest.mark.parametrize("suffix", transforms.SUFFIXES)
def test_itk_maps_fixed_points_to_moving(tmp_path, suffix):
    matrix = random_affine(1)
    transforms.write_transform(matrix, tmp_path / ("t" + suffix))
    loaded = sitk.ReadTransform(str(tmp_path / ("t" + suffix)))
    point = (12.0, -30.0, 55.0)
    np.testing.assert_allclose(loaded.TransformPoint(point), transform_points(matrix, np.array(point)), atol=1e-9)


def test_resampling_with_it_aligns_moving_to_fixed(tmp_path):
    # The moving scan is the same anatomy at another place: fixed point p is at p + shift there.
    shift = np.array([30.0, -12.0, 20.0])
    size = {"shape_zyx": (20, 24, 30), "spacing": (8, 8, 8), "half_mm": (120, 96, 80)}
    fixed, moving = make_body_volume(**size), make_body_volume(**size, center_lps=shift)
    matrix = np.eye(4)
    matrix[:3, 3] = shift
    transforms.write_transform(matrix, tmp_path / "t.h5")
    aligned = sitk.Resample(
        to_itk(moving), to_itk(fixed), sitk.ReadTransform(str(tmp_path / "t.h5")), sitk.sitkLinear, -1000
    )
    difference = np.abs(sitk.GetArrayFromImage(aligned).astype(float) - fixed.array)
    assert np.median(difference) < 60  # two draws of 12 HU noise, interpolation
    unaligned = sitk.Resample(to_itk(moving), to_itk(fixed), sitk.Transform(), sitk.sitkLinear, -1000)
    assert np.mean(difference) < 0.2 * np.abs(sitk.GetArrayFromImage(unaligned).astype(float) - fixed.array).mean()


def test_centered_and_composite_transforms_are_read(tmp_path):
    euler = sitk.Euler3DTransform((10.0, 20.0, 30.0), 0.1, -0.2, 0.3, (1.0, 2.0, 3.0))
    sitk.WriteTransform(sitk.CompositeTransform([euler]), str(tmp_path / "c.tfm"))
    matrix = transforms.read_transform(tmp_path / "c.tfm")
    np.testing.assert_allclose(
        transform_points(matrix, np.array([5.0, -7.0, 11.0])),
        euler.TransformPoint((5.0, -7.0, 11.0)),
        atol=1e-9,
    )


@pytest.mark.parametrize("suffix", [".tfm", ".txt"])
def test_text_files_are_those_of_itk(tmp_path, suffix):
    matrix = random_affine(2)
    transforms.write_transform(matrix, tmp_path / ("ours" + suffix))
    sitk.WriteTransform(transforms.transform_of(matrix), str(tmp_path / ("itk" + suffix)))
    ours, theirs = ((tmp_path / (name + suffix)).read_text().split() for name in ("ours", "itk"))
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs):
        assert mine == other or abs(float(mine) - float(other)) < 1e-12


@pytest.mark.parametrize("name", ["t.mat", "t.nii.gz", "t", "t.xfm"])
def test_other_suffixes_are_refused(tmp_path, name):
    with pytest.raises(OutputError, match="not supported"):
        transforms.write_transform(np.eye(4), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_unreadable_transforms(tmp_path, capfd):
    (tmp_path / "text.tfm").write_text("no transform")
    (tmp_path / "text.h5").write_text("no transform")
    for name in ("missing.h5", "text.tfm", "text.h5"):
        with pytest.raises(InputError, match=name):
            transforms.read_transform(tmp_path / name)
    displacement = sitk.DisplacementFieldTransform(sitk.Image(4, 4, 4, sitk.sitkVectorFloat64))
    sitk.WriteTransform(displacement, str(tmp_path / "field.h5"))
    with pytest.raises(InputError, match="affine"):
        transforms.read_transform(tmp_path / "field.h5")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["MatrixOffsetTransformBase_double_3_3", "AffineTransform_float_3_3"])
def test_matrices_of_any_type_are_read_at_once(tmp_path, kind):
    path = tmp_path / "base.tfm"
    lines = ("#Insight Transform File V1.0", "#Transform 0", f"Transform: {kind}",
             "Parameters: 0 -1 0 1 0 0 0 0 1 5 6 7", "FixedParameters: 1 2 3", "")  # fmt: skip
    path.write_text("\n".join(lines))
    # y = M (x - c) + c + t: the origin goes to (1 + 2 + 5, 2 - 1 + 6, 7).
    expected = [[0, -1, 0, 8], [1, 0, 0, 7], [0, 0, 1, 7], [0, 0, 0, 1]]
    np.testing.assert_allclose(transforms.read_transform(path), expected, atol=1e-6)


def test_a_composite_amounts_to_one_matrix(tmp_path):
    first, second = random_affine(3), random_affine(4)
    both = sitk.CompositeTransform([transforms.transform_of(first), transforms.transform_of(second)])
    sitk.WriteTransform(both, str(tmp_path / "c.h5"))
    np.testing.assert_allclose(transforms.read_transform(tmp_path / "c.h5"), first @ second, atol=1e-9)


@pytest.mark.parametrize("parameters", ["0 0 0 0 0 0 0 0 0 1 2 3", "nan 0 0 0 1 0 0 0 1 0 0 0", "1 0 0 0 1"])
def test_numbers_that_are_no_transform(tmp_path, parameters):
    path = tmp_path / "bad.tfm"
    path.write_text(
        "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
        f"Parameters: {parameters}\nFixedParameters: 0 0 0\n"
    )
    with pytest.raises(InputError, match=r"bad\.tfm"):
        transforms.read_transform(path)
