"""DICOM folders as scanners and archives leave them; the series are written here with pydicom."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from SAMv2Core.errors import InputError
from SAMv2Core.io.dicom import DicomTags
from SAMv2Core.io.dicom_write import write_dataset
from SAMv2Core.io.volume import read_volume

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import FileDataset, FileMetaDataset  # noqa: E402
from pydicom.uid import ExplicitVRLittleEndian, generate_uid  # noqa: E402

N_SLICES, N_ROWS, N_COLUMNS = 6, 10, 8
HU = np.random.default_rng(0).integers(-1000, 1500, (N_SLICES, N_ROWS, N_COLUMNS)).astype(np.int16)
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"


def write_slice(path, plane, position, rotation=None, *, series="1.2.3", spacing=(1.5, 0.75), intercept=-1024, **tags):
    """One CT image; ``spacing`` is (between rows, between columns), as in PixelSpacing."""
    rotation = np.eye(3) if rotation is None else rotation
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CT_IMAGE
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    image.SOPClassUID, image.SOPInstanceUID = CT_IMAGE, meta.MediaStorageSOPInstanceUID
    image.Modality, image.PatientID, image.StudyDate = "CT", "SECRET-7", "20240131"
    image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = "1.2", series, "1.2.9"
    image.SeriesDescription = "Abdomen portal venous"
    image.ImagePositionPatient = [f"{value:.6f}" for value in position]
    image.ImageOrientationPatient = [f"{value:.8f}" for value in (*rotation[:, 0], *rotation[:, 1])]
    image.PixelSpacing, image.SliceThickness = list(spacing), 5
    image.Rows, image.Columns = plane.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
    image.RescaleSlope, image.RescaleIntercept = 1, intercept
    image.PixelData = (plane.astype(np.int32) - intercept).astype("<u2").tobytes()
    for name, value in tags.items():
        setattr(image, name, value)
    write_dataset(image, path)


def write_series(folder, depths=None, rotation=None, step=None, series="1.2.3", **tags):
    """Slices at ``depths`` (mm along the normal, or along ``step``), with file names in no order."""
    folder.mkdir(parents=True, exist_ok=True)
    rotation = np.eye(3) if rotation is None else rotation
    step = rotation[:, 2] if step is None else step
    depths = 3.0 * np.arange(N_SLICES) if depths is None else depths
    names = np.random.default_rng(1).permutation(len(depths))
    for n, depth in enumerate(depths):
        position = np.array([-50.0, 20.0, 300.0]) + depth * step
        write_slice(folder / f"IM{names[n]:03d}", HU[n], position, rotation, series=series, **tags)
    return folder


def test_a_series_with_its_geometry_and_values(tmp_path):
    volume = read_volume(write_series(tmp_path / "Schädel CT"))
    assert np.array_equal(volume.array, HU)
    expected = np.diag([0.75, 1.5, 3.0, 1.0])
    expected[:3, 3] = [-50, 20, 300]
    np.testing.assert_allclose(volume.ijk_to_lps, expected, atol=1e-6)
    assert volume.modality == "ct"
    assert volume.warnings == ()


def test_tags_are_kept_but_not_shown(tmp_path):
    volume = read_volume(write_series(tmp_path / "s"))
    assert volume.dicom == DicomTags(
        modality="CT", study_date="20240131", patient_id="SECRET-7", study_instance_uid="1.2",
        series_instance_uid="1.2.3", series_description="Abdomen portal venous",
        frame_of_reference_uid="1.2.9",
    )  # fmt: skip
    assert "SECRET" not in volume.source


@pytest.mark.parametrize("angles", [(20, 0, 0), (-15, 30, 5), (90, 0, 0), (90, 0, 90), (180, 0, 0)])
def test_any_orientation(tmp_path, angles):
    rotation = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    volume = read_volume(write_series(tmp_path / "s", rotation=rotation))
    expected = np.eye(4)
    expected[:3, :3] = rotation * [0.75, 1.5, 3.0]
    expected[:3, 3] = [-50, 20, 300]
    np.testing.assert_allclose(volume.ijk_to_lps, expected, atol=1e-5)
    assert np.array_equal(volume.array, HU)


def test_gantry_tilt_is_kept_as_shear(tmp_path):
    tilt = np.radians(12)
    step = np.array([0, np.tan(tilt), 1.0])  # slices move along y, their planes stay axial
    volume = read_volume(write_series(tmp_path / "s", step=step))
    np.testing.assert_allclose(volume.ijk_to_lps[:3, 2], 3 * step, atol=1e-5)
    assert any("tilted by 12.0 degrees" in warning for warning in volume.warnings)


def test_missing_slices_are_filled_with_a_warning(tmp_path):
    volume = read_volume(write_series(tmp_path / "s", depths=[0, 3, 6, 15, 18, 21]))
    assert volume.array.shape[0] == 8
    assert any("2 slices are missing" in warning for warning in volume.warnings)
    np.testing.assert_allclose(volume.grid.spacing_ijk_mm[2], 3.0)
    assert np.array_equal(volume.array[[0, 1, 2, 5, 6, 7]], HU)
    np.testing.assert_allclose(volume.array[3], HU[2] * 2 / 3 + HU[3] / 3, atol=0.51)


def test_uneven_slices_are_interpolated_with_a_warning(tmp_path):
    depths = np.array([0, 3, 6.4, 9, 12, 15])
    volume = read_volume(write_series(tmp_path / "s", depths=depths))
    assert any("unevenly spaced (2.60 to 3.40 mm)" in warning for warning in volume.warnings)
    # To the finest distance, stretched so that the last slice stays where it is: 15 mm in six steps.
    assert volume.array.shape[0] == 7
    np.testing.assert_allclose(volume.grid.spacing_ijk_mm[2], 2.5)
    at_5_mm = HU[1] + (2 / 3.4) * (HU[2].astype(float) - HU[1])
    np.testing.assert_allclose(volume.array[2], at_5_mm, atol=0.51)


def test_several_series_are_listed_and_chosen(tmp_path):
    folder = tmp_path / "two"
    write_series(folder / "a", series="1.2.3")
    write_series(folder / "b", series="1.2.4", depths=[0, 2, 4], SeriesDescription="Lung")
    with pytest.raises(InputError) as caught:
        read_volume(folder)
    assert "1.2.3 (CT, Abdomen portal venous, 6 images)" in caught.value.cause
    assert "1.2.4 (CT, Lung, 3 images)" in caught.value.cause
    assert "--series" in caught.value.remedy
    assert read_volume(folder, "1.2.4").array.shape[0] == 3
    with pytest.raises(InputError, match=r"no series 9\.9"):
        read_volume(folder, "9.9")


def test_a_scout_within_the_series_is_left_out(tmp_path):
    folder = write_series(tmp_path / "s")
    sagittal = np.array([[0, 0, 1], [1, 0, 0], [0, -1, 0]], dtype=float)
    write_slice(folder / "scout", np.zeros((20, 30), np.int16), (0, 0, 0), sagittal)
    volume = read_volume(folder)
    assert np.array_equal(volume.array, HU)
    assert any("1 images" in warning and "left out" in warning for warning in volume.warnings)


def test_phases_in_one_series_are_refused(tmp_path):
    folder = write_series(tmp_path / "s")
    write_series(folder / "phase2", intercept=-1124)
    with pytest.raises(InputError, match=r"2 volumes: :1 \(first image at each position"):
        read_volume(folder)
    volumes = [read_volume(folder, f":{n}").array for n in (1, 2)]
    assert all(np.array_equal(volume, HU) for volume in volumes)


def test_a_doubled_slice_is_dropped(tmp_path):
    folder = write_series(tmp_path / "s")
    write_slice(folder / "again", HU[0], (-50, 20, 300))
    volume = read_volume(folder)
    assert np.array_equal(volume.array, HU)
    assert any("copies" in warning for warning in volume.warnings)


def test_rescale_may_differ_between_slices(tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    for n in range(N_SLICES):
        plane = np.full((N_ROWS, N_COLUMNS), 10 + n)
        write_slice(folder / f"{n}", plane, (0, 0, 2 * n), intercept=0, RescaleSlope=f"{0.5 * (n + 1)}")
    volume = read_volume(folder)
    np.testing.assert_allclose(volume.array[:, 0, 0], [(10 + n) * 0.5 * (n + 1) for n in range(N_SLICES)])
    assert volume.array.dtype == np.float32


def test_other_files_in_the_folder_do_not_matter(tmp_path, capfd):
    folder = write_series(tmp_path / "s")
    (folder / "notes.txt").write_text("text")
    (folder / "DICOMDIR").write_bytes(b"index")
    (folder / "noise").write_bytes(bytes(range(256)) * 4)
    (folder / ".hidden").write_text("")
    assert np.array_equal(read_volume(folder).array, HU)
    assert capfd.readouterr().err == ""


def test_a_zip_is_read_like_its_folder(tmp_path):
    folder = write_series(tmp_path / "s")
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"../../{path.name}")  # a name that would escape
    assert np.array_equal(read_volume(tmp_path / "s.zip").array, HU)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s", "s.zip"]


@pytest.mark.parametrize("make", [lambda folder: None, lambda folder: (folder / "a.txt").write_text("x")])
def test_a_folder_without_dicom(tmp_path, make):
    make(tmp_path)
    with pytest.raises(InputError, match="no DICOM images"):
        read_volume(tmp_path)


def test_one_slice_is_no_volume(tmp_path):
    write_slice(tmp_path / "one.dcm", HU[0], (0, 0, 0))
    for path in (tmp_path, tmp_path / "one.dcm"):
        with pytest.raises(InputError, match="single slice"):
            read_volume(path)


def test_a_header_larger_than_the_file(tmp_path, capfd):
    folder = write_series(tmp_path / "s")
    for path in folder.iterdir():
        image = pydicom.dcmread(path)
        image.Rows = image.Columns = 65535
        image.save_as(path)
    with pytest.raises(InputError, match="65535 x 65535"):
        read_volume(folder)
    assert capfd.readouterr().err == ""


def test_truncated_slices(tmp_path, capfd):
    folder = write_series(tmp_path / "s")
    path = folder / "IM003"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"truncated|damaged"):
        read_volume(folder)
    assert capfd.readouterr().err == ""


def test_mr_and_others_by_their_tag(tmp_path):
    assert read_volume(write_series(tmp_path / "mr", Modality="MR")).modality == "mr"
    other = read_volume(write_series(tmp_path / "pt", Modality="PT"))
    assert other.modality is None
    assert any("modality is PT" in warning for warning in other.warnings)
