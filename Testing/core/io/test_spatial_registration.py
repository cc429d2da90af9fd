"""The DICOM Spatial Registration object, read as SlicerRT reads it and as the standard says."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from SAMv2Core.errors import InputError
from SAMv2Core.geometry.grid import transform_points
from SAMv2Core.io.spatial_registration import MATRIX_TYPES, write_spatial_registration
from SAMv2Core.io.volume import read_volume

pydicom = pytest.importorskip("pydicom")
from Testing.core.io.test_dicom import write_series  # noqa: E402

MATRIX = np.eye(4)
MATRIX[:3, :3] = Rotation.from_euler("xyz", [17, -8, 31], degrees=True).as_matrix()
MATRIX[:3, 3] = (-12.3456789, 250.0, -1033.25)


@pytest.fixture
def scans(tmp_path):
    """Fixed and moving, of two studies and two frames of reference."""
    write_series(tmp_path / "fixed", series="1.2.3", StudyInstanceUID="1.5", FrameOfReferenceUID="1.9.1")
    write_series(tmp_path / "moving", series="1.2.4", StudyInstanceUID="1.6", FrameOfReferenceUID="1.9.2")
    return read_volume(tmp_path / "fixed"), read_volume(tmp_path / "moving")


def as_slicer_rt(path):
    """vtkSlicerDicomSroReader: the product of all matrices in order, then RAS; it is applied to the moving volume."""
    product = np.eye(4)
    for item in pydicom.dcmread(path).RegistrationSequence:
        for registration in item.MatrixRegistrationSequence:
            for matrix in registration.MatrixSequence:
                assert matrix.FrameOfReferenceTransformationMatrixType
                product = product @ np.array(matrix.FrameOfReferenceTransformationMatrix, float).reshape(4, 4)
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    return to_ras @ product @ to_ras


def test_slicer_rt_moves_the_moving_volume_onto_the_fixed_one(scans, tmp_path):
    write_spatial_registration(MATRIX, "rigid", *scans, tmp_path / "s.dcm")
    on_fixed = np.array([[10.0, -20.0, 300.0], [-50.0, 44.0, 280.5]])
    in_moving = transform_points(MATRIX, on_fixed)
    to_ras = np.array([-1, -1, 1])
    applied = transform_points(as_slicer_rt(tmp_path / "s.dcm"), in_moving * to_ras)
    np.testing.assert_allclose(applied * to_ras, on_fixed, atol=1e-6)


def test_frames_studies_and_images_are_named(scans, tmp_path):
    write_spatial_registration(MATRIX, "affine", *scans, tmp_path / "s.dcm")
    found = pydicom.dcmread(tmp_path / "s.dcm")
    assert found.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.1" and found.Modality == "REG"
    assert found.StudyInstanceUID == "1.5" and found.PatientID == "SECRET-7"  # an object of the fixed scan's study
    assert found.FrameOfReferenceUID == "1.9.1"
    fixed, moving = found.RegistrationSequence
    assert (fixed.FrameOfReferenceUID, moving.FrameOfReferenceUID) == ("1.9.1", "1.9.2")
    assert len(moving.ReferencedImageSequence) == scans[1].array.shape[0]
    kind = moving.MatrixRegistrationSequence[0].MatrixSequence[0].FrameOfReferenceTransformationMatrixType
    assert kind == MATRIX_TYPES["affine"] == "AFFINE"
    assert found.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.3"
    (other,) = found.StudiesContainingOtherReferencedInstancesSequence
    assert other.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.4"


def test_one_written_again_is_the_same_instance_and_any_other_is_not(scans, tmp_path):
    def uids(matrix=MATRIX, transform="rigid", **facts):
        write_spatial_registration(matrix, transform, *scans, tmp_path / "s.dcm", **facts)
        found = pydicom.dcmread(tmp_path / "s.dcm")
        assert found.file_meta.MediaStorageSOPInstanceUID == found.SOPInstanceUID != found.SeriesInstanceUID
        assert found.ContentDate and found.ContentTime
        return found.SOPInstanceUID, found.SeriesInstanceUID

    moved = MATRIX + np.array([[0, 0, 0, 0.5]] + [[0] * 4] * 3)
    first, others = uids(), [uids(moved), uids(transform="affine"), uids(version="2"), uids(model_sha256="ab" * 32)]
    assert uids() == first and len({uid for pair in (first, *others) for uid in pair}) == 10


def test_other_files_than_dicom_and_missing_frames_are_refused(scans, tmp_path):
    fixed, moving = scans
    nameless = dataclasses.replace(moving, dicom=dataclasses.replace(moving.dicom, frame_of_reference_uid=""))
    for other in (dataclasses.replace(moving, dicom=None), nameless):
        with pytest.raises(InputError):
            write_spatial_registration(MATRIX, "rigid", fixed, other, tmp_path / "s.dcm")
    assert not (tmp_path / "s.dcm").exists()
