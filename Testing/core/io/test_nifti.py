"""The own NIfTI reader and writer against nibabel and SimpleITK."""

from __future__ import annotations

import gzip
import itertools

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from SAMv2Core.errors import InputError
from SAMv2Core.io.nifti import RAS_TO_LPS, read_nifti, write_nifti
from SAMv2Core.io.volume import read_volume
from Testing.files import nifti as troublesome
from Testing.files.scan import same_anatomy

nib = pytest.importorskip("nibabel")

RNG = np.random.default_rng(0)
VOXELS = RNG.integers(-1000, 2000, (4, 5, 6)).astype(np.int16)  # (x, y, z) as nibabel has it


def affine(angles=(0, 0, 0), spacing=(0.8, 1.5, 3.0), origin=(-80.0, 55.0, 412.5)):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * spacing
    matrix[:3, 3] = origin
    return matrix


def itk_matrix(path):
    image = sitk.ReadImage(str(path))
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    return matrix


@pytest.mark.parametrize(("q_code", "s_code"), list(itertools.product((0, 1, 2), (0, 1, 2, 4))))
def test_the_matrix_is_chosen_as_itk_does(tmp_path, q_code, s_code):
    image = nib.Nifti1Image(VOXELS, None)
    image.set_qform(affine((10, 20, 30)), q_code)
    image.set_sform(affine((-5, 0, 8), origin=(1, 2, 3)), s_code)
    image.header["qform_code"], image.header["sform_code"] = q_code, s_code
    nib.save(image, tmp_path / "a.nii")
    content = read_nifti(tmp_path / "a.nii")
    # float32 header: 1e-5 of a coordinate of 400 mm is 4 of its steps; ITK repairs to 1e-4.
    np.testing.assert_allclose(content.ijk_to_lps, itk_matrix(tmp_path / "a.nii"), atol=3e-4)
    assert np.array_equal(content.array, VOXELS.T)
    # Two matrices that count and lie apart are told, and so is none at all.
    assert bool(content.warnings) == (q_code == s_code == 0 or (q_code > 0 and s_code > 0))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (troublesome.sform_of_unit_length, "pixdim is used"),
        (troublesome.forms_apart, "lie up to 32.0 mm apart; the qform is used"),
        (troublesome.zero_sform, "sform that is no geometry; the qform is used"),
        (troublesome.long_quaternion, None),
        (troublesome.empty_fourth_dimension, None),
    ],
)
def test_a_header_that_contradicts_itself_is_read_as_itk_does_and_told(tmp_path, make, told):
    path = make(tmp_path)
    volume = read_volume(path)
    assert same_anatomy(volume)
    np.testing.assert_allclose(volume.ijk_to_lps, itk_matrix(path), atol=1e-4)
    assert [told in warning for warning in volume.warnings] == ([True] if told else [])


def test_a_lost_voxel_size_counts_as_in_itk_and_is_told(tmp_path):
    path = troublesome.lost_voxel_size(tmp_path)
    volume = read_volume(path)
    np.testing.assert_allclose(volume.ijk_to_lps, itk_matrix(path), atol=1e-4)
    assert any("1 mm" in warning for warning in volume.warnings)


def test_no_geometry_at_all_is_refused_as_itk_does(tmp_path):
    path = troublesome.zero_sform_alone(tmp_path)
    with pytest.raises(RuntimeError):
        sitk.ReadImage(str(path))
    with pytest.raises(InputError, match="no geometry"):
        read_volume(path)


def test_no_orientation_is_told(tmp_path):
    assert any("stores no orientation" in warning for warning in read_volume(troublesome.no_codes(tmp_path)).warnings)


@pytest.mark.parametrize("s_code", [1, 2, 4])
def test_a_sheared_sform_is_kept_where_itk_refuses_it(tmp_path, s_code):
    sheared = affine((5, 0, 0))
    sheared[1, 2] += 1.2
    image = nib.Nifti1Image(VOXELS, None)
    image.set_sform(sheared, s_code)
    image.header["qform_code"] = 0
    nib.save(image, tmp_path / "a.nii")
    with pytest.raises(RuntimeError, match="orthonormal"):
        sitk.ReadImage(str(tmp_path / "a.nii"))
    np.testing.assert_allclose(read_nifti(tmp_path / "a.nii").ijk_to_lps, RAS_TO_LPS @ sheared, atol=1e-4)


@pytest.mark.parametrize("kind", ["Nifti1Image", "Nifti2Image"])
@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.float32, np.float64]
)
def test_types_and_versions(tmp_path, kind, dtype):
    voxels = np.clip(VOXELS, 0, 100).astype(dtype)
    nib.save(getattr(nib, kind)(voxels, affine(), dtype=dtype), tmp_path / "a.nii.gz")
    content = read_nifti(tmp_path / "a.nii.gz")
    assert content.array.dtype == dtype
    assert np.array_equal(content.array, voxels.T)


def test_big_endian(tmp_path):
    header = nib.Nifti1Header(endianness=">")
    image = nib.Nifti1Image(VOXELS.astype(">i2"), affine(), header)
    nib.save(image, tmp_path / "a.nii")
    assert (tmp_path / "a.nii").read_bytes()[:4] == b"\x00\x00\x01\x5c"
    content = read_nifti(tmp_path / "a.nii")
    assert content.array.dtype.isnative
    assert np.array_equal(content.array, VOXELS.T)
    np.testing.assert_allclose(content.ijk_to_lps, RAS_TO_LPS @ affine(), atol=1e-4)


@pytest.mark.parametrize(
    ("slope", "inter", "dtype"), [(1.0, -1024.0, np.int16), (2.0, 0.0, np.int16), (100.0, 0.0, np.int32),
                                  (0.5, 3.0, np.float32), (0.0, 7.0, np.int16)]
)  # fmt: skip
def test_scaling_keeps_whole_numbers_whole(tmp_path, slope, inter, dtype):
    image = nib.Nifti1Image(VOXELS, affine())
    nib.save(image, tmp_path / "a.nii")
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[112:120] = np.array([slope, inter], "<f4").tobytes()  # as the file says, not as nibabel prefers
    raw[352:] = VOXELS.astype("<i2").tobytes(order="F")
    (tmp_path / "a.nii").write_bytes(bytes(raw))
    content = read_nifti(tmp_path / "a.nii")
    # A slope of 0 means no scaling, and ITK adds the intercept all the same.
    expected = VOXELS.T.astype(float) * (slope or 1) + inter
    np.testing.assert_allclose(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nii"))), expected)
    assert [("intercept of 7" in warning) for warning in content.warnings] == ([] if slope else [True])
    assert content.array.dtype == dtype
    np.testing.assert_allclose(content.array, expected)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    "matrix",
    [affine(), affine((20, -35, 60)), affine((180, 0, 0)), affine((0, 180, 0)), affine((90, 0, 90)),
     affine() @ np.diag([-1, 1, 1, 1]), affine((33, 11, -77)) @ np.diag([1, 1, -1, 1])],
)  # fmt: skip
def test_written_files_are_read_alike_by_all(tmp_path, matrix, suffix):
    path = tmp_path / ("a" + suffix)
    write_nifti(VOXELS.T, matrix, path)
    ours, theirs = read_nifti(path), nib.load(path)
    np.testing.assert_allclose(ours.ijk_to_lps, matrix, atol=5e-5)
    np.testing.assert_allclose(itk_matrix(path), matrix, atol=3e-4)
    np.testing.assert_allclose(theirs.affine, RAS_TO_LPS @ matrix, atol=5e-5)
    np.testing.assert_allclose(theirs.get_qform(), RAS_TO_LPS @ matrix, atol=2e-4)
    assert theirs.header.get_xyzt_units()[0] == "mm"
    assert np.array_equal(np.asarray(theirs.dataobj), VOXELS)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), VOXELS.T)


def test_shear_survives_writing(tmp_path):
    matrix = affine()
    matrix[1, 2] = 1.0
    write_nifti(VOXELS.T, matrix, tmp_path / "a.nii.gz")
    np.testing.assert_allclose(read_nifti(tmp_path / "a.nii.gz").ijk_to_lps, matrix, atol=5e-5)


def test_the_same_volume_gives_the_same_bytes(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(VOXELS.T, affine(), tmp_path / name)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_compression_is_told_by_content(tmp_path):
    write_nifti(VOXELS.T, affine(), tmp_path / "a.nii")
    (tmp_path / "plain.nii.gz").write_bytes((tmp_path / "a.nii").read_bytes())
    (tmp_path / "packed.nii").write_bytes(gzip.compress((tmp_path / "a.nii").read_bytes()))
    for name in ("plain.nii.gz", "packed.nii"):
        assert np.array_equal(read_nifti(tmp_path / name).array, VOXELS.T)


@pytest.mark.parametrize("seed", range(6))
def test_damaged_headers_are_errors_not_tracebacks(tmp_path, seed):
    write_nifti(VOXELS.T, affine(), tmp_path / "a.nii")
    good = (tmp_path / "a.nii").read_bytes()
    rng = np.random.default_rng(seed)
    for _ in range(60):
        raw = bytearray(good)
        for position in rng.integers(0, 352, rng.integers(1, 12)):
            raw[position] = rng.integers(0, 256)
        (tmp_path / "b.nii").write_bytes(bytes(raw))
        try:
            content = read_nifti(tmp_path / "b.nii")
        except InputError:
            continue
        assert content.array.nbytes <= 100 * len(good)
