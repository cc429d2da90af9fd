"""Lesions of one study as a DICOM Structured Report (TID 1500 Measurement Report), readable by other viewers.

Each lesion is one planar measurement group (TID 1410): tracking identifier and UID, its place in three dimensions, its
long axis where one is known, and, as qualitative evaluations of our own coding scheme, what the tracker proposed and
what the user decided. The Tracking UID belongs to the lesion, not to the study: the reports of all studies of a patient
name the same one, which is how viewers recognize a lesion over time.

Slicer 5.12 and later have a TID 1500 plugin of their own, which cannot write these reports: ``DICOMTID1500Plugin``
(Slicer's Modules/Scripted/DICOMPlugins, titled "DICOM SR TID1500 Object Import Plugin") examines and loads, and has no
``examineForExport`` or ``export``; its only Tracking UIDs are those it reads and puts on segments. So highdicom writes,
on every version, and that plugin reads: it takes places (3D points) as point lists and wants a finding site in every
group, which therefore is given as "body structure". Lines in 3D it does not draw; other viewers do.

Needs the package highdicom, which Slicer has since 5.12 only: imported when a report is written, see
:func:`is_available`. Positions are LPS mm in the scan's own frame of reference.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Optional, Sequence, Tuple

import numpy as np

from SAMv2Core.errors import InputError
from SAMv2Core.io.files import atomic_path

REQUIREMENT = "highdicom>=0.22"
SCHEME = "99SAMV2"
"""Coding scheme of the two evaluations that no standard scheme has codes for."""

STATUS_WORDS = {
    "matched": "Matched",
    "uncertain": "Uncertain",
    "not_found": "Not found",
    "baseline": "Baseline",
    "new": "New",
}
DECISION_WORDS = {"": "Not reviewed", "accepted": "Accepted", "moved": "Corrected by hand", "rejected": "Rejected"}
SERIES_NUMBER = 9127
#: Of patient and study: must be there, may be empty (type 2 of the standard).
_MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
CODE_LENGTH = 16
"""DICOM's value representation SH, of which code values are."""


@dataclass(frozen=True)
class ReportedLesion:
    """What a report says about one lesion in one study.

    :param tracking_uid: the same in all studies.
    :param position: (3,) LPS mm in the frame of reference of the scan.
    :param ends: (2, 3) end points of the long axis; without them the measurement has a length but no line.
    :param status: ``matched``, ``uncertain``, ``not_found`` or ``baseline``.
    :param decision: ``accepted``, ``moved``, ``rejected`` or empty.
    """

    label: str
    tracking_uid: str
    position: Tuple[float, float, float]
    status: str
    decision: str = ""
    diameter_mm: Optional[float] = None
    ends: Optional[Tuple[Tuple[float, float, float], Tuple[float, float, float]]] = None


@dataclass(frozen=True)
class Study:
    """Which scan the lesions are in.

    :param files: the DICOM files of the scan, one series.
    :param time_point: "Baseline", "Follow-up 1"; :param order: 0 for the baseline, then 1, 2...
    """

    files: Tuple[str, ...]
    time_point: str
    order: int


def is_available() -> bool:
    """Whether highdicom is installed; imports nothing."""
    return importlib.util.find_spec("highdicom") is not None


def new_tracking_uid() -> str:
    """A globally unique identifier (2.25.<random>, DICOM PS3.5 B.2), without any package."""
    import uuid

    return f"2.25.{uuid.uuid4().int}"


def write_report(path: str, study: Study, lesions: Sequence[ReportedLesion], algorithm: str, version: str) -> str:
    """Write the report of one study; its SOP Instance UID.

    :param path: the ``.dcm`` file to write, whole or not at all.
    :param algorithm: name of the model that proposed the places; :param version: of this software.
    :raises InputError: no lesion, unreadable or mixed DICOM files, or highdicom is missing.
    :raises OutputError: the file cannot be written.
    """
    if not is_available():
        raise InputError("The package highdicom is not installed.", f"Install it (pip install '{REQUIREMENT}').")
    if not lesions:
        raise InputError(f"{study.time_point} has no lesion with a position.", "Track or place lesions first.")
    evidence = _read_evidence(study.files)
    report = _document(evidence, study, lesions, algorithm, version)
    with atomic_path(path) as temporary:
        _save(report, str(temporary))
    return str(report.SOPInstanceUID)


def _save(report: Any, path: str) -> None:
    """Write a file with all that a DICOM file must have; pydicom before 3 (Slicer 5.8) calls that otherwise."""
    import pydicom

    is_old = int(pydicom.__version__.split(".")[0]) < 3
    report.save_as(path, **({"write_like_original": False} if is_old else {"enforce_file_format": True}))


def _read_evidence(files: Sequence[str]) -> List[Any]:
    """Headers of the files, sorted by place; all of one series with one frame of reference."""
    import pydicom

    headers = []
    for file in files:
        try:
            headers.append(_completed(pydicom.dcmread(file, stop_before_pixels=True)))
        except Exception as error:
            raise InputError(f"{Path(file).name} is not readable DICOM: {error}.", "Load the scan again.") from error
    if not headers:
        raise InputError("The scan was not loaded from DICOM files.", "Export the lesions as CSV instead.")
    for name in ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
        if len({str(getattr(header, name, "")) for header in headers}) != 1 or not getattr(headers[0], name, ""):
            raise InputError(f"The DICOM files of the scan have no common {name}.", "Load one series only.")
    return sorted(headers, key=lambda header: str(header.SOPInstanceUID))


def _completed(header: Any) -> Any:
    """A header with the attributes that a report copies from it: empty where de-identification took them away."""
    for keyword in _MAY_BE_EMPTY:
        if keyword not in header:
            setattr(header, keyword, "")
    return header


def _document(
    evidence: List[Any], study: Study, lesions: Sequence[ReportedLesion], algorithm: str, version: str
) -> Any:
    import highdicom
    from highdicom import sr
    from pydicom.sr.codedict import codes

    observer = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=highdicom.UID(), name="SAMv2 for 3D Slicer"
        ),
    )
    identification = sr.AlgorithmIdentification(name=algorithm[:64], version=version)
    groups = [_group(lesion, study, str(evidence[0].FrameOfReferenceUID), identification) for lesion in lesions]
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion
        if str(evidence[0].get("Modality", "")) == "CT"
        else codes.LN.MRUnspecifiedBodyRegion,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    document = sr.Comprehensive3DSR(
        evidence=evidence,
        content=report,
        series_number=SERIES_NUMBER,
        series_instance_uid=highdicom.UID(),
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="SAMv2 for 3D Slicer",
        is_complete=True,
        is_verified=False,
        series_description="SAMv2 lesions (research use)",
    )
    # Labels are of any language, whatever the scan's character set.
    document.SpecificCharacterSet = "ISO_IR 192"
    return document


def _group(lesion: ReportedLesion, study: Study, frame_of_reference: str, identification: Any) -> Any:
    """One lesion: TID 1410."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    measurements = []
    if lesion.diameter_mm is not None and np.isfinite(lesion.diameter_mm):
        measurements.append(
            sr.Measurement(name=_long_axis(), value=round(float(lesion.diameter_mm), 2), unit=codes.UCUM.Millimeter)
        )
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=lesion.tracking_uid, identifier=lesion.label),
        referenced_region=_region(lesion, frame_of_reference),
        time_point_context=sr.TimePointContext(time_point=study.time_point, time_point_order=study.order),
        finding_type=codes.SCT.Lesion,
        finding_sites=[sr.FindingSite(anatomic_location=codes.SCT.BodyStructure)],
        algorithm_id=identification,
        measurements=measurements or None,
        qualitative_evaluations=[
            _evaluation("proposal", "Proposal by matching", lesion.status, STATUS_WORDS),
            _evaluation("decision", "Decision of the reader", lesion.decision, DECISION_WORDS),
        ],
    )


def _region(lesion: ReportedLesion, frame_of_reference: str) -> Any:
    """The long axis as a line, or the place as a point."""
    from highdicom import sr

    if lesion.ends is not None:
        kind, points = sr.GraphicTypeValues3D.POLYLINE, np.array(lesion.ends, dtype=np.float64)
    else:
        kind, points = sr.GraphicTypeValues3D.POINT, np.array([lesion.position], dtype=np.float64)
    return sr.ImageRegion3D(graphic_type=kind, graphic_data=points, frame_of_reference_uid=frame_of_reference)


def _long_axis() -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept("103339001", "SCT", "Long axis")


def _evaluation(name: str, meaning: str, value: str, words: dict) -> Any:
    from highdicom import sr

    code = (value or "none")[:CODE_LENGTH]
    return sr.QualitativeEvaluation(
        name=sr.CodedConcept(name, SCHEME, meaning), value=sr.CodedConcept(code, SCHEME, words.get(value, value))
    )
