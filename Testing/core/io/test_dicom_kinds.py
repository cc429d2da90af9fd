"""Troublesome DICOM: every image lies where its header says, or the file is refused by its true name."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import SimpleITK as sitk

from SAMv2Core.errors import InputError
from SAMv2Core.io import dicom_pixels
from SAMv2Core.io.lesions import read_lesions
from SAMv2Core.io.volume import read_volume
from Testing.files.scan import SCAN, same_anatomy

pydicom = pytest.importorskip("pydicom")
from Testing.files import dicom  # noqa: E402


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (dicom.write_slices_plain, []),
        (dicom.frames_in_any_order, []),
        (dicom.frames_with_their_own_slope, []),
        (dicom.segmentation_beside, []),
        (dicom.every_file_twice, ["12 images are copies"]),
        (dicom.one_series_per_slice, ["a series of its own"]),
        (dicom.damaged_beside, ["other.dcm cannot be read: it is truncated"]),
        (dicom.stray_picture, ["IM0901.dcm lies up to 400 mm away"]),
        (dicom.monochrome1, ["MONOCHROME1"]),
        (dicom.shifted_in_plane, ["3 of 12 slices (IM0005.dcm to IM0007.dcm) lie up to 8.0 mm beside"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_scan_lies_where_it_lies(tmp_path, make, told):
    volume = read_volume(make(tmp_path))
    # Columns that were rolled out of a shifted slice are the phantom's, not the reader's.
    assert same_anatomy(volume, margin_voxels=2 if make is dicom.shifted_in_plane else 0)
    assert len(volume.warnings) == len(told)
    assert all(text in warning for text, warning in zip(told, volume.warnings))
    assert "SECRET" not in str(volume.warnings) and "Secret" not in repr(volume)
    if make is not dicom.frames_with_their_own_slope:
        assert volume.array.dtype == np.int16


def test_missing_frames_are_told_and_interpolated(tmp_path):
    volume = read_volume(dicom.frames_missing(tmp_path))
    assert np.array_equal(volume.array[[0, 1, 2, 3, 4, 7, 8, 9, 10, 11]], SCAN.array[[0, 1, 2, 3, 4, 7, 8, 9, 10, 11]])
    expected = SCAN.array[4] * 2 / 3 + SCAN.array[7] / 3
    np.testing.assert_allclose(volume.array[5], expected, atol=0.51)
    assert "2 slices are missing between gap.dcm frame 5 and gap.dcm frame 6" in volume.warnings[0]


def test_a_tilted_multiframe_is_sheared_like_classic_slices(tmp_path):
    volume = read_volume(dicom.tilted_frames(tmp_path))
    np.testing.assert_allclose(volume.ijk_to_lps[:3, 2], [0, 1, 5], atol=1e-6)
    assert np.array_equal(volume.array, SCAN.array)
    assert any("tilted by 11.3 degrees" in warning for warning in volume.warnings)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (dicom.frames_without_positions, "ImagePositionPatient"),
        (lambda folder: dicom.without(folder, "PixelSpacing"), "PixelSpacing"),
        (lambda folder: dicom.without(folder, "ImageOrientationPatient"), "ImageOrientationPatient"),
        (lambda folder: dicom.without(folder, "ImagePositionPatient"), "ImagePositionPatient"),
        (dicom.jpeg_xl, r"JPEG XL \(1\.2\.840\.10008\.1\.2\.4\.110\)"),
    ],
)
def test_refused_by_the_true_name(tmp_path, make, told):
    with pytest.raises(InputError, match=told):
        read_volume(make(tmp_path))


def test_phases_of_a_multiframe_are_listed_and_chosen(tmp_path):
    path = dicom.frames_of_two_phases(tmp_path)
    with pytest.raises(InputError, match=r"2 volumes: :1 .time point 1, 12 images.*:2 .time point 2") as caught:
        read_volume(path)
    assert f"--series {dicom.SERIES}:1" in caught.value.remedy
    assert same_anatomy(read_volume(path, f"{dicom.SERIES}:1"))
    assert np.array_equal(read_volume(path, ":2").array, SCAN.array + 100)
    for wrong in (":3", ":0", ":x"):
        with pytest.raises(InputError):
            read_volume(path, wrong)


@pytest.mark.parametrize(
    ("marks", "name"),
    [
        ({"AcquisitionNumber": (None, 2)}, "acquisition"),
        ({"AcquisitionNumber": (3, 4)}, "acquisition"),
        ({"ContrastBolusAgent": (None, "Iohexol")}, "contrast"),
        ({"ConvolutionKernel": ("B30f", "B60f")}, "kernel"),
        ({"AcquisitionTime": (lambda k: f"1015{k:02d}", lambda k: f"1019{k:02d}")}, "acquisition time"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_interleaved_acquisitions_are_never_mixed(tmp_path, marks, name):
    path = dicom.interleaved(tmp_path, **marks)
    with pytest.raises(InputError, match=rf"2 volumes: :1 \({name}"):
        read_volume(path)
    assert same_anatomy(read_volume(path, ":1"))
    assert np.array_equal(read_volume(path, ":2").array, SCAN.array + 100)


def test_slices_acquired_in_two_passes_are_one_volume(tmp_path):
    """MR takes odd and even slices one after the other: together they are as dense as slices are thick."""

    def change(image, k):
        image.Modality, image.AcquisitionNumber = "MR", 1 + k % 2

    volume = read_volume(dicom.write_slices(tmp_path / "mr", change))
    assert same_anatomy(volume) and volume.warnings == ()


def test_jittered_orientations_are_one_stack(tmp_path):
    volume = read_volume(dicom.jittered_orientation(tmp_path))
    assert np.array_equal(volume.array, SCAN.array) and volume.warnings == ()


def test_uneven_slices_are_resampled_to_the_finest(tmp_path):
    volume = read_volume(dicom.uneven(tmp_path))
    assert "unevenly spaced (1.00 to 7.00 mm)" in volume.warnings[0]
    np.testing.assert_allclose(volume.grid.spacing_ijk_mm[2], 1.0)
    np.testing.assert_allclose(volume.array[:, 0, 0], 10 * np.arange(40), atol=0.51)


def test_a_hole_that_only_invention_could_fill_is_two_volumes(tmp_path):
    path = dicom.write_slices(
        tmp_path / "hole",
        lambda image, k: setattr(
            image, "ImagePositionPatient", [*dicom.FIRST[:2], dicom.FIRST[2] + 5 * k + 200 * (k > 5)]
        ),
    )
    with pytest.raises(InputError, match=r"2 volumes: :1 .part 1, 6 images.*:2 .part 2 beyond a gap"):
        read_volume(path)
    assert np.array_equal(read_volume(path, ":2").array, SCAN.array[6:])


def test_a_damaged_image_counts_in_its_own_series_only(tmp_path):
    folder = dicom.damaged_beside(tmp_path)
    assert same_anatomy(read_volume(folder, dicom.SERIES)) and not read_volume(folder, dicom.SERIES).warnings
    with pytest.raises(InputError, match=r"other\.dcm|single slice"):
        read_volume(folder, dicom.OTHER_SERIES)


def test_segmentations_are_lesions_not_scans(tmp_path):
    folder = dicom.segmentation_beside(tmp_path)
    expected = dicom.two_lesions()
    for path in (folder, folder / "seg.dcm"):
        lesions = read_lesions(path)
        assert [lesion.label for lesion in lesions] == list(expected)
        for lesion, mask in zip(lesions, expected.values()):
            center = SCAN.grid.to_lps(np.argwhere(mask)[:, ::-1]).mean(axis=0)
            np.testing.assert_allclose(lesion.center_lps, center, atol=1e-3)
    with pytest.raises(InputError, match="only a DICOM segmentation"):
        read_volume(folder / "seg.dcm")
    with pytest.raises(InputError, match="DICOM segmentation, not a scan"):
        read_volume(folder, f"{dicom.ROOT}.8.9")
    with pytest.raises(InputError, match="CT scan, not a segmentation"):
        read_lesions(dicom.write_slices(tmp_path / "ct"))


@pytest.mark.parametrize("syntax", ["RLE", "JPEG-LS", "JPEG 2000", "big endian", "deflated", "implicit"])
def test_transfer_syntaxes(tmp_path, syntax):
    folder = dicom.write_slices(tmp_path / "a")
    if syntax == "JPEG-LS":
        pytest.importorskip("jpeg_ls")
        if pydicom.__version__.startswith("2."):
            pytest.skip("pydicom 2 cannot compress to JPEG-LS")
    uids = {"RLE": "1.2.840.10008.1.2.5", "JPEG-LS": "1.2.840.10008.1.2.4.80", "big endian": "1.2.840.10008.1.2.2",
            "deflated": "1.2.840.10008.1.2.1.99", "implicit": "1.2.840.10008.1.2"}  # fmt: skip
    for path in sorted(folder.iterdir()):
        image = pydicom.dcmread(path)
        if syntax == "JPEG 2000":
            encode_jpeg_2000(path)
        elif syntax in ("RLE", "JPEG-LS"):
            image.compress(uids[syntax], generate_instance_uid=False)
            image.save_as(path)
        else:
            if syntax == "big endian":
                image.PixelData = np.frombuffer(image.PixelData, "<u2").astype(">u2").tobytes()
            if syntax == "deflated":
                image.file_meta.TransferSyntaxUID = uids[syntax]
                image.save_as(path)
                continue
            plain = pydicom.Dataset()
            plain.update(image)
            plain.file_meta = image.file_meta
            plain.file_meta.TransferSyntaxUID = uids[syntax]
            is_implicit, is_little = syntax == "implicit", syntax != "big endian"
            if pydicom.__version__.startswith("2."):
                plain.is_implicit_VR, plain.is_little_endian, plain.preamble = is_implicit, is_little, bytes(128)
                plain.save_as(path, write_like_original=False)
            else:
                plain.save_as(path, implicit_vr=is_implicit, little_endian=is_little, enforce_file_format=True)
    volume = read_volume(folder)
    assert same_anatomy(volume) and volume.warnings == ()


def encode_jpeg_2000(path):
    """With GDCM, as SimpleITK writes it."""
    image = pydicom.dcmread(path)
    writer = sitk.ImageFileWriter()
    encoded = path.with_name("encoded.dcm")
    writer.SetFileName(str(encoded))
    writer.SetUseCompression(True)
    writer.SetCompressor("JPEG2000")
    writer.Execute(sitk.GetImageFromArray(image.pixel_array[None]))
    theirs = pydicom.dcmread(encoded)
    encoded.unlink()
    image.file_meta.TransferSyntaxUID = theirs.file_meta.TransferSyntaxUID
    assert theirs.BitsAllocated == image.BitsAllocated and theirs.PixelRepresentation == image.PixelRepresentation
    image["PixelData"] = theirs["PixelData"]
    image.save_as(path)


def test_a_decoder_that_dies_is_an_error_with_a_name(tmp_path, monkeypatch):
    folder = dicom.write_slices(tmp_path / "a")
    for path in sorted(folder.iterdir()):
        image = pydicom.dcmread(path)
        image.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
        image.save_as(path)
    monkeypatch.setattr(dicom_pixels, "_DECODER", "import os; os.kill(os.getpid(), 11)")
    with pytest.raises(InputError, match=r"IM0001\.dcm.*ended with signal 11" if sys.platform != "win32" else "ended"):
        read_volume(folder)


def test_damaged_compressed_pixels_are_told(tmp_path):
    folder = dicom.write_slices(tmp_path / "a")
    path = sorted(folder.iterdir())[3]
    image = pydicom.dcmread(path)
    image.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
    raw = image.PixelData
    image.PixelData = raw[:24] + bytes(len(raw) - 24)
    image.save_as(path)
    with pytest.raises(InputError, match=r"IM0004\.dcm is truncated or damaged"):
        read_volume(folder)


def test_a_header_that_claims_more_than_its_file_is_refused_before_memory_is_taken(tmp_path):
    path = dicom.write_multiframe(tmp_path / "bomb.dcm")
    image = pydicom.dcmread(path)
    image.Rows = image.Columns = 65535
    image.NumberOfFrames = 10000
    image.save_as(path)
    with pytest.raises(InputError, match="65535 x 65535 x 10000"):
        read_volume(path)


def test_unused_high_bits_are_no_values(tmp_path):
    """Old files keep overlays above the 12 bits of a value."""

    def change(image, k):
        stored = np.frombuffer(image.PixelData, "<u2")
        image.BitsStored, image.HighBit = 12, 11
        image.PixelData = (stored | (0x1000 * (np.arange(stored.size) % 7 == 0)).astype("<u2")).astype("<u2").tobytes()

    assert same_anatomy(read_volume(dicom.write_slices(tmp_path / "a", change)))


def test_a_header_that_ends_in_the_middle_refuses_no_other_file(tmp_path):
    """pydicom raises an OSError for it, without a number."""
    folder = dicom.write_slices(tmp_path / "a")
    path = folder / "IM0900.dcm"
    path.write_bytes((folder / "IM0001.dcm").read_bytes()[:340])
    volume = read_volume(folder)
    assert np.array_equal(volume.array, SCAN.array)
