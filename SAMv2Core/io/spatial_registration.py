"""A registration as a DICOM Spatial Registration object, for systems that keep everything in DICOM.

Needs ``pydicom`` (optional) and inputs that were read from DICOM folders: the object speaks of their frames of
reference and names their images. A matrix of the standard maps a frame of reference to the registered one (PS3.3
C.20.2), which is the fixed image's here, so it holds the inverse of our matrix, which maps fixed to moving. SlicerRT
multiplies the matrices of all items, takes the product for what moves the moving volume, and applies it to the
referenced series that belongs to another study than the object: the object goes into the fixed image's study.

Conventions: LPS mm, as in DICOM itself.
"""

from __future__ import annotations

import datetime
import importlib
import io
from pathlib import Path
from typing import Any, Iterable, List

import numpy as np

from SAMv2Core.errors import InputError, UsageError
from SAMv2Core.io.dicom_header import DicomTags, files_of
from SAMv2Core.io.dicom_write import Device, write_dataset
from SAMv2Core.io.files import PathLike, write_bytes
from SAMv2Core.io.uids import uid_of
from SAMv2Core.io.volume import Volume

STORAGE_CLASS = "1.2.840.10008.5.1.4.1.1.66.1"
MATRIX_TYPES = {"rigid": "RIGID", "similarity": "RIGID_SCALE", "affine": "AFFINE"}
#: Of the fixed image's headers, what makes the object part of its study.
_STUDY = (
    "SpecificCharacterSet", "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID",
    "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


def write_spatial_registration(
    matrix: np.ndarray,
    transform: str,
    fixed: Volume,
    moving: Volume,
    path: PathLike,
    inputs: Iterable[PathLike] = (),
    version: str = "",
    model_sha256: str = "",
) -> None:
    """Write a ``.dcm`` file, atomically; its UIDs are the same for the same content.

    :param matrix: (4, 4) LPS mm, fixed to moving.
    :param transform: ``"rigid"``, ``"similarity"`` or ``"affine"``.
    :param fixed: read from a DICOM folder, like the moving volume.
    :param version: of this software; :param model_sha256: of the model's weights, where it is known.
    :raises UsageError: ``pydicom`` is not installed.
    :raises InputError: a volume that is not from a DICOM folder, without a frame of reference, or both in one.
    """
    pydicom = _pydicom()
    tags = _tags_of_both(fixed, moving)
    series = [_headers(pydicom, volume, its.series_instance_uid) for volume, its in zip((fixed, moving), tags)]
    dataset = _object(pydicom, series[0][0], tags[0], Device(version, sha256=model_sha256))
    dataset.RegistrationSequence = pydicom.Sequence(
        [
            _item(pydicom, tags[0], series[0], np.eye(4), "rigid"),
            _item(pydicom, tags[1], series[1], np.linalg.inv(matrix), transform),
        ]
    )
    _reference_studies(pydicom, dataset, tags, series)
    _sign(pydicom, dataset)
    stream = io.BytesIO()
    write_dataset(dataset, stream)
    write_bytes(path, stream.getvalue(), inputs)


def check_sources(fixed: Volume, moving: Volume) -> None:
    """Refuse now what :func:`write_spatial_registration` would refuse after the work.

    :raises UsageError: ``pydicom`` is not installed.
    :raises InputError: a volume that is not from a DICOM folder, without a frame of reference, or both in one.
    """
    _pydicom()
    _tags_of_both(fixed, moving)


def _pydicom() -> Any:
    try:
        return importlib.import_module("pydicom")
    except ImportError as error:
        raise UsageError(f"The Python package pydicom does not load ({error}).", "pip install pydicom") from error


def _tags_of(volume: Volume) -> DicomTags:
    tags = volume.dicom
    if tags is None or not Path(volume.source).is_dir():
        raise InputError(
            f"{volume.source} is no DICOM folder: a Spatial Registration speaks of DICOM images.",
            "Give folders of DICOM, or leave out the DICOM output.",
        )
    if not tags.frame_of_reference_uid:
        raise InputError(f"{volume.source} has no frame of reference UID.", "Leave out the DICOM output.")
    return tags


def _tags_of_both(fixed: Volume, moving: Volume) -> List[DicomTags]:
    tags = [_tags_of(fixed), _tags_of(moving)]
    if tags[0].frame_of_reference_uid == tags[1].frame_of_reference_uid:
        raise InputError(
            f"{fixed.source} and {moving.source} lie in one frame of reference: a Spatial Registration would map it to "
            "itself in two ways.",
            "Leave --sro out; the transform of --output says it.",
        )
    return tags


def _headers(pydicom: Any, volume: Volume, series_uid: str) -> List[Any]:
    """The headers of a series' images, by position in the list of files."""
    wanted = [*_STUDY, "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID"]
    found = []
    for path in files_of(Path(volume.source)):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=wanted)
        except (pydicom.errors.InvalidDicomError, OSError):
            continue
        if str(header.get("SeriesInstanceUID", "")) == series_uid and "SOPInstanceUID" in header:
            found.append(header)
    if not found:
        raise InputError(f"The images of {volume.source} are no longer there.", "Check the folder.")
    return found


def _object(pydicom: Any, source: Any, tags: DicomTags, device: Device) -> Any:
    """Everything but the registration itself, its own name and its time."""
    dataset = pydicom.Dataset()
    for name in _STUDY:
        value = source.get(name, None)
        if value is not None or name != "SpecificCharacterSet":
            setattr(dataset, name, "" if value is None else value)
    dataset.SOPClassUID = STORAGE_CLASS
    dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber, dataset.Laterality = "REG", "1", "1", ""
    dataset.SeriesDescription = "SAMv2 registration (research)"
    device.describe(dataset)
    dataset.ContentLabel, dataset.ContentDescription = "REGISTRATION", "Moving to fixed image, by SAMv2"
    dataset.ContentCreatorName = ""
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = tags.frame_of_reference_uid, ""
    return dataset


def _sign(pydicom: Any, dataset: Any) -> None:
    """UIDs that follow from all the rest, so that one written again is the same instance; then the time."""
    content = dataset.to_json()
    dataset.SOPInstanceUID, dataset.SeriesInstanceUID = uid_of("registration", content), uid_of("its series", content)
    now = datetime.datetime.now()
    dataset.ContentDate = dataset.SeriesDate = now.strftime("%Y%m%d")
    dataset.ContentTime = dataset.SeriesTime = now.strftime("%H%M%S")
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = STORAGE_CLASS
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID


def _item(pydicom: Any, tags: DicomTags, headers: List[Any], to_registered: np.ndarray, transform: str) -> Any:
    """One image set and the matrix from its frame of reference to the registered one."""
    matrix = pydicom.Dataset()
    # Decimal strings have 16 characters at most.
    matrix.FrameOfReferenceTransformationMatrix = [_decimal(value) for value in to_registered.ravel()]
    matrix.FrameOfReferenceTransformationMatrixType = MATRIX_TYPES[transform]
    registration = pydicom.Dataset()
    registration.FrameOfReferenceTransformationComment = ""
    registration.RegistrationTypeCodeSequence = pydicom.Sequence([])
    registration.MatrixSequence = pydicom.Sequence([matrix])
    item = pydicom.Dataset()
    item.FrameOfReferenceUID = tags.frame_of_reference_uid
    item.ReferencedImageSequence = pydicom.Sequence([_reference(pydicom, header) for header in headers])
    item.MatrixRegistrationSequence = pydicom.Sequence([registration])
    return item


def _decimal(value: float) -> str:
    for digits in range(16, 0, -1):
        text = f"{value + 0.0:.{digits}g}"
        if len(text) <= 16:
            return text
    return f"{value:.8e}"


def _reference(pydicom: Any, header: Any) -> Any:
    reference = pydicom.Dataset()
    reference.ReferencedSOPClassUID = header.SOPClassUID
    reference.ReferencedSOPInstanceUID = header.SOPInstanceUID
    return reference


def _reference_studies(pydicom: Any, dataset: Any, tags: List[DicomTags], series: List[List[Any]]) -> None:
    """Common instance reference: series of the object's own study, and of others."""
    own, others = [], []
    for its, headers in zip(tags, series):
        entry = pydicom.Dataset()
        entry.SeriesInstanceUID = its.series_instance_uid
        entry.ReferencedInstanceSequence = pydicom.Sequence([_reference(pydicom, header) for header in headers])
        if its.study_instance_uid == tags[0].study_instance_uid:
            own.append(entry)
        else:
            others.append((its.study_instance_uid, entry))
    dataset.ReferencedSeriesSequence = pydicom.Sequence(own)
    if others:
        dataset.StudiesContainingOtherReferencedInstancesSequence = pydicom.Sequence(
            [_other_study(pydicom, study, entry) for study, entry in others]
        )


def _other_study(pydicom: Any, study_uid: str, entry: Any) -> Any:
    study = pydicom.Dataset()
    study.StudyInstanceUID = study_uid
    study.ReferencedSeriesSequence = pydicom.Sequence([entry])
    return study
