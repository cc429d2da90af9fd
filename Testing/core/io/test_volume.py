"""Volumes: every geometry survives every format; bad files are errors that name them, with a quiet stderr."""

from __future__ import annotations

import dataclasses
import gzip

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from SAMv2Core.errors import InputError, OutputError
from SAMv2Core.io.volume import WRITABLE_SUFFIXES, Volume, read_volume, write_volume
from Testing.files import nrrd
from Testing.files.scan import SCAN, same_anatomy
from Testing.samples.synthetic import make_body_volume

OBLIQUE = Rotation.from_euler("xyz", [12, -25, 40], degrees=True).as_matrix()
LEFT_HANDED = OBLIQUE @ np.diag([1, 1, -1])
SAGITTAL = np.array([[0, 0, 1], [1, 0, 0], [0, -1, 0]], dtype=float)


@pytest.fixture
def body():
    return make_body_volume((6, 7, 8), (1.0, 1.5, 4.0))


def refuse(path, match):
    with pytest.raises(InputError, match=match) as caught:
        read_volume(path)
    assert path.name in caught.value.cause
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("suffix", WRITABLE_SUFFIXES)
@pytest.mark.parametrize("direction", [np.eye(3), OBLIQUE, LEFT_HANDED, SAGITTAL, np.diag([-1.0, -1.0, 1.0])])
def test_round_trip_of_voxels_and_geometry(tmp_path, suffix, direction):
    volume = make_body_volume((6, 7, 8), (0.7, 1.5, 4.0), direction, center_lps=(33.0, -210.0, 815.0))
    path = tmp_path / ("Ordner mit ü" + suffix)
    write_volume(volume, path)
    again = read_volume(path)
    assert again.array.dtype == np.int16
    assert np.array_equal(again.array, volume.array)
    # float32 in NIfTI: 815 mm has steps of 6e-5; text in the others.
    np.testing.assert_allclose(again.ijk_to_lps, volume.ijk_to_lps, atol=2e-4)
    assert again.source == str(path)
    assert again.warnings == ()


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_shear_survives_with_a_warning(tmp_path, suffix):
    matrix = np.diag([1.0, 1.0, 3.0, 1.0])
    matrix[1, 2] = 0.8  # gantry tilt of 15 degrees
    volume = Volume(np.arange(120, dtype=np.float32).reshape(4, 5, 6), matrix)
    write_volume(volume, tmp_path / ("a" + suffix))
    again = read_volume(tmp_path / ("a" + suffix))
    np.testing.assert_allclose(again.ijk_to_lps, matrix, atol=1e-5)
    assert any("perpendicular" in warning for warning in again.warnings)


def test_rounded_directions_are_repaired_silently():
    matrix = np.eye(4)
    matrix[:3, :3] = np.round(OBLIQUE, 4)
    volume = Volume(np.zeros((3, 3, 3), np.int16), matrix)
    axes = volume.ijk_to_lps[:3, :3] / volume.grid.spacing_ijk_mm
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(volume.ijk_to_lps, matrix, atol=2e-4)
    assert volume.warnings == ()


def test_a_volume_is_frozen(body):
    with pytest.raises(dataclasses.FrozenInstanceError):
        body.array = None
    with pytest.raises(ValueError, match="read-only"):
        body.array[0, 0, 0] = 1
    source = np.zeros((3, 3, 3))
    Volume(source, np.eye(4))
    source[0] = 1  # the caller's own array stays writable


def test_copies_do_not_repeat_warnings():
    matrix = np.eye(4)
    matrix[0, 1] = 0.3
    volume = Volume(np.zeros((3, 3, 3)), matrix)
    assert len(dataclasses.replace(volume, array=np.ones((3, 3, 3))).warnings) == 1


def test_missing_file(tmp_path):
    refuse(tmp_path / "nö such.nii.gz", "does not exist")


@pytest.mark.parametrize(
    "name", ["text.nii.gz", "text.nii", "text.nrrd", "text.mha", "text.xyz", "text.dcm", "text.zip"]
)
def test_text_under_a_wrong_name(tmp_path, name, capfd):
    (tmp_path / name).write_text("This is a letter, not a scan.\n" * 40)
    refuse(tmp_path / name, name)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["empty.nii.gz", "empty.nrrd"])
def test_empty_file(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    refuse(tmp_path / name, "empty")


def test_truncated_metaimage_without_compression(tmp_path, body, capfd):
    path = tmp_path / "cut.mha"
    sitk.WriteImage(sitk.GetImageFromArray(body.array), str(path), False)
    path.write_bytes(path.read_bytes()[:-10])
    refuse(path, "truncated")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("suffix", WRITABLE_SUFFIXES)
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_truncated_file(tmp_path, suffix, kept, capfd):
    path = tmp_path / ("cut" + suffix)
    write_volume(make_body_volume((12, 24, 24)), path)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(kept * len(raw))])
    refuse(path, "cut")
    assert capfd.readouterr().err == ""


def test_gzip_with_a_damaged_byte(tmp_path):
    path = tmp_path / "bad.nii.gz"
    write_volume(make_body_volume((12, 24, 24)), path)
    raw = bytearray(path.read_bytes())
    raw[-6] ^= 0xFF  # within the checksum
    path.write_bytes(bytes(raw))
    refuse(path, "damaged")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_flat_images(tmp_path, suffix):
    for image in (sitk.Image(20, 30, sitk.sitkInt16), sitk.Image([20, 30, 1], sitk.sitkInt16)):
        sitk.WriteImage(image, str(tmp_path / ("flat" + suffix)))
        refuse(tmp_path / ("flat" + suffix), "2-D|single slice")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_four_dimensions(tmp_path, suffix):
    path = tmp_path / ("time" + suffix)
    sitk.WriteImage(sitk.Image([4, 5, 6, 3], sitk.sitkInt16), str(path))
    refuse(path, "several volumes")
    sitk.WriteImage(sitk.Image([4, 5, 6, 1], sitk.sitkInt16), str(path))
    assert read_volume(path).array.shape == (6, 5, 4)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_vectors_and_colors(tmp_path, suffix):
    path = tmp_path / ("rgb" + suffix)
    sitk.WriteImage(sitk.Image([4, 5, 6], sitk.sitkVectorUInt8, 3), str(path))
    refuse(path, "colors|vectors")


def test_complex_numbers(tmp_path):
    sitk.WriteImage(sitk.Image([4, 5, 6], sitk.sitkComplexFloat32), str(tmp_path / "c.nii"))
    refuse(tmp_path / "c.nii", "complex")


def patched(path, offset, values, dtype):
    write_volume(make_body_volume((6, 7, 8)), path)
    raw = bytearray(path.read_bytes())
    raw[offset : offset + np.array(values, dtype).nbytes] = np.array(values, dtype).tobytes()
    path.write_bytes(bytes(raw))
    return path


def test_a_header_larger_than_the_file(tmp_path):
    path = patched(tmp_path / "huge.nii", 42, [30000, 30000, 30000], "<i2")
    refuse(path, "30000 x 30000 x 30000")
    packed = tmp_path / "huge.nii.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    refuse(packed, "30000 x 30000 x 30000")


def test_a_text_header_larger_than_its_data(tmp_path):
    (tmp_path / "huge.nrrd").write_bytes(
        b"NRRD0004\ntype: short\ndimension: 3\nsizes: 30000 30000 30000\nencoding: gzip\nendian: little\n"
        b"space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n"
        b"space origin: (0,0,0)\n\n" + gzip.compress(bytes(1000))
    )
    refuse(tmp_path / "huge.nrrd", "30000 x 30000 x 30000")
    (tmp_path / "small.raw").write_bytes(bytes(1000))
    (tmp_path / "huge.mhd").write_text(
        "ObjectType = Image\nNDims = 3\nDimSize = 30000 30000 30000\nElementType = MET_SHORT\n"
        "ElementSpacing = 1 1 1\nElementDataFile = small.raw\n"
    )
    refuse(tmp_path / "huge.mhd", "30000 x 30000 x 30000")


def test_detached_data_are_read(tmp_path, body):
    image = sitk.GetImageFromArray(body.array)
    for name in ("a.mhd", "a.nhdr", "a.hdr"):
        sitk.WriteImage(image, str(tmp_path / name))
        assert np.array_equal(read_volume(tmp_path / name).array, body.array)


def test_no_voxels(tmp_path):
    refuse(patched(tmp_path / "none.nii", 42, [8, 0, 6], "<i2"), "empty or damaged")
    with pytest.raises(InputError, match="no voxels"):
        Volume(np.zeros((0, 4, 4)), np.eye(4))


@pytest.mark.parametrize("spacing", [0.0, 1e-6, 500.0, np.nan, np.inf])
def test_spacing_without_sense(tmp_path, spacing):
    matrix = np.diag([spacing, 1.0, 1.0, 1.0])
    with pytest.raises(InputError, match=r"spacing|finite"):
        Volume(np.zeros((4, 4, 4)), matrix, "scan")
    path = patched(tmp_path / "spacing.nii", 280, [spacing, 0, 0, 0], "<f4")  # sform
    raw = bytearray(path.read_bytes())
    raw[80:84] = np.array([spacing], "<f4").tobytes()  # pixdim
    raw[252:254] = bytes(2)  # no qform
    path.write_bytes(bytes(raw))
    refuse(path, "spacing|finite|no geometry")


def test_parallel_axes():
    matrix = np.eye(4)
    matrix[:3, 1] = [1, 0, 1e-4]
    with pytest.raises(InputError, match="parallel"):
        Volume(np.zeros((4, 4, 4)), matrix)


@pytest.mark.parametrize("array", [np.zeros((4, 4)), np.zeros((4, 4, 4, 2)), np.zeros((4, 4, 4), complex),
                                   np.full((4, 4, 4), "x"), np.zeros((1, 4, 4))])  # fmt: skip
def test_arrays_that_are_no_volume(array):
    with pytest.raises(InputError):
        Volume(array, np.eye(4), "scan")


@pytest.mark.parametrize(("given", "kept"), [(bool, "u1"), ("f2", "f4"), (">i2", "i2"), (">f8", "f8"), ("u4", "u4")])
def test_scalar_types_that_itk_knows(tmp_path, given, kept):
    volume = Volume(np.ones((3, 3, 3), given), np.eye(4))
    assert volume.array.dtype == np.dtype(kept)
    write_volume(volume, tmp_path / "a.nrrd")
    assert read_volume(tmp_path / "a.nrrd").array.dtype == np.dtype(kept)


def test_other_suffixes_are_not_written(tmp_path, body):
    for name in ("a.dcm", "a.mhd", "a.png", "a"):
        with pytest.raises(OutputError, match="not supported"):
            write_volume(body, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_inputs_are_not_overwritten(tmp_path, body, suffix):
    path = tmp_path / ("in" + suffix)
    write_volume(body, path)
    before = path.read_bytes()
    with pytest.raises(OutputError, match="also an input"):
        write_volume(make_body_volume((6, 7, 8), seed=5), path, inputs=(path,))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("line", ["space: scanner-xyz", "space: 3D-right-handed", "space dimension: 3"])
def test_a_space_that_does_not_say_where_left_is_counts_as_ras_and_is_told(tmp_path, line):
    volume = read_volume(nrrd.in_space(tmp_path, line))
    assert same_anatomy(volume)
    assert len(volume.warnings) == 1 and "does not say where left is" in volume.warnings[0]


@pytest.mark.parametrize("space", ["LPS", "RAS", "left-anterior-superior"])
def test_an_anatomical_space_needs_no_word(tmp_path, space):
    signs = {"LPS": (1, 1), "RAS": (-1, -1), "left-anterior-superior": (1, -1)}[space]
    path = nrrd.write(tmp_path / "a.nrrd", [f"space: {space}"], np.diag([*signs, 1, 1]) @ SCAN.ijk_to_lps)
    volume = read_volume(path)
    assert same_anatomy(volume) and volume.warnings == ()


def test_lengths_that_are_no_millimeters_are_told(tmp_path):
    volume = read_volume(nrrd.centimeters(tmp_path))
    assert any("in cm" in warning and "0.4 x 0.4 x 0.5 mm" in warning for warning in volume.warnings)


@pytest.mark.parametrize("kind", ["nrrd", "mha", "analyze", "tiff"])
def test_no_orientation_is_told_in_every_format(tmp_path, kind):
    if kind == "nrrd":
        path = nrrd.spacings_only(tmp_path)
    elif kind == "mha":
        path = tmp_path / "a.mha"
        sizes = " ".join(str(n) for n in SCAN.array.shape[::-1])
        header = f"NDims = 3\nDimSize = {sizes}\nElementSpacing = 4 4 5\nElementType = MET_SHORT\n"
        path.write_bytes((header + "ElementDataFile = LOCAL\n").encode() + SCAN.array.tobytes())
    else:
        path = tmp_path / ("a.hdr" if kind == "analyze" else "a.tif")
        sitk.WriteImage(sitk.GetImageFromArray(SCAN.array.astype(np.uint16 if kind == "tiff" else np.int16)), str(path))
        if kind == "analyze":  # what is written is NIfTI in two files
            path.write_bytes(path.read_bytes()[:344] + bytes(4))
    assert any("stores no orientation" in warning for warning in read_volume(path).warnings)


def test_a_raw_file_cannot_hold_more_than_its_bytes(tmp_path):
    path = nrrd.write(tmp_path / "a.nrrd", ["space: LPS"])
    path.write_bytes(path.read_bytes().replace(b"sizes: 8 10 12", b"sizes: 8 10 99"))
    refuse(path, "truncated|damaged")
