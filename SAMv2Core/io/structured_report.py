"""Lesions of one study as a DICOM Structured Report (TID 1500 Measurement Report), readable by other viewers.

Each lesion is one planar measurement group (TID 1410): tracking identifier and UID, finding site, its place in three
dimensions, long and short axis where they are known, and, as qualitative evaluations of our own coding scheme, what
the tracker proposed, what the reader decided, what has become of the lesion and whether it is a target. One that has
vanished has the place where it was and a long axis of 0 mm. The Tracking UID belongs to the lesion, not to the study:
the reports of all studies of a patient name the same one, which is how viewers recognize a lesion over time. What
earlier studies measured follows as groups of that UID without a region (TID 1501), each with its time point, so that
the last report alone tells the whole course (:mod:`SAMv2Core.io.report_reader` reads it back).

Slicer 5.12 and later have a TID 1500 plugin of their own, which cannot write these reports: ``DICOMTID1500Plugin``
(Slicer's Modules/Scripted/DICOMPlugins, titled "DICOM SR TID1500 Object Import Plugin") examines and loads, and has no
``examineForExport`` or ``export``; its only Tracking UIDs are those it reads and puts on segments. So highdicom writes,
on every version, and that plugin reads: it takes places (3D points) as point lists and wants a finding site in every
group, which therefore is given as "body structure". Lines in 3D it does not draw; other viewers do.

Needs the package highdicom, which Slicer has since 5.12 only: imported when a report is written, see
:func:`is_available`. Positions are LPS mm in the scan's own frame of reference.
"""

from __future__ import annotations

import contextlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from SAMv2Core.errors import InputError
from SAMv2Core.io.dicom_write import MANUFACTURER, MODEL_NAME, PRODUCT, Device, write_dataset
from SAMv2Core.io.files import atomic_path
from SAMv2Core.io.finding_sites import CODE_LENGTH, SCHEME, site_of
from SAMv2Core.io.uids import new_uid, uid_of
from SAMv2Core.progress import Progress, silent

if TYPE_CHECKING:
    from SAMv2Core.io.volume import Volume

REQUIREMENT = "highdicom>=0.22"
PROPOSAL, DECISION, STATE, ROLE = "proposal", "decision", "state", "role"
"""Codes of the evaluations that no standard scheme has codes for."""

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
# By code: pydicom renamed the second one.
_PROCEDURES = {
    True: ("25045-6", "LN", "CT unspecified body region"),
    False: ("25056-3", "LN", "MRI unspecified body region"),
}
STATE_WORDS = {
    "present": "Present", "vanished": "Vanished", "too_small": "Too small", "merged": "Merged",
    "progressed": "Progressed", "not_evaluable": "Not evaluable", "absent": "Not there yet",
}  # fmt: skip
ROLE_WORDS = {"target": "Target lesion", "non_target": "Non-target", "new": "New lesion"}
LONG_AXIS, SHORT_AXIS = ("103339001", "SCT", "Long axis"), ("103340004", "SCT", "Short axis")


@dataclass(frozen=True)
class PastReading:
    """What was known of a lesion in one study.

    :param order: 0 for the baseline; :param time_point: its name.
    :param state: as in :data:`STATE_WORDS`, "" when nobody said.
    """

    order: int
    time_point: str
    state: str = ""
    long_mm: Optional[float] = None
    short_mm: Optional[float] = None


@dataclass(frozen=True)
class ReportedLesion:
    """What a report says about one lesion in one study.

    :param tracking_uid: the same in all studies.
    :param position: (3,) LPS mm in the frame of reference of the scan.
    :param ends: (2, 3) end points of the long axis; without them the measurement has a length but no line.
    :param status: ``matched``, ``uncertain``, ``not_found``, ``baseline`` or ``new``.
    :param decision: ``accepted``, ``moved``, ``rejected`` or empty.
    :param position: None where no place is known; the group then has no region.
    :param organ: name of the finding site. :param state: :param role: as in :data:`STATE_WORDS`, :data:`ROLE_WORDS`.
    :param history: what earlier studies said.
    """

    label: str
    tracking_uid: str
    position: Optional[Tuple[float, float, float]]
    status: str
    decision: str = ""
    diameter_mm: Optional[float] = None
    ends: Optional[Tuple[Tuple[float, float, float], Tuple[float, float, float]]] = None
    short_mm: Optional[float] = None
    organ: str = ""
    state: str = ""
    role: str = ""
    history: Tuple[PastReading, ...] = ()


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
    """The Tracking UID of a lesion that somebody has just marked: random."""
    return new_uid()


def tracking_uid_of(series_uid: str, label: str, center_lps: Sequence[float]) -> str:
    """The Tracking UID of a lesion that a file names: the same whenever that file is read.

    :param series_uid: of the scan that it lies in; :param center_lps: mm.
    """
    return uid_of("lesion", series_uid, label, *(round(float(value), 3) for value in center_lps))


def series_files(volume: Volume) -> List[str]:
    """The files of the DICOM series that a volume was read from.

    :raises InputError: it was not read from a DICOM folder, or its files are gone.
    """
    import pydicom

    from SAMv2Core.io.dicom_header import files_of

    found = []
    folder = Path(volume.source)
    for file in files_of(folder) if volume.dicom is not None and folder.is_dir() else ():
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
        except (pydicom.errors.InvalidDicomError, OSError):
            continue
        if volume.dicom is not None and str(header.get("SeriesInstanceUID", "")) == volume.dicom.series_instance_uid:
            found.append(str(file))
    if not found:
        raise InputError(f"{volume.source} is no folder of DICOM images.", "Give the scan as a DICOM folder.")
    return found


def write_report(
    path: str,
    study: Study,
    lesions: Sequence[ReportedLesion],
    algorithm: str,
    version: str,
    model_sha256: str = "",
) -> str:
    """Write the report of one study; its SOP Instance UID, the same for the same content.

    :param path: the ``.dcm`` file to write, whole or not at all.
    :param algorithm: name of the model that proposed the places; :param version: of this software.
    :param model_sha256: of the model's weights, where it is known.
    :raises InputError: no lesion, unreadable or mixed DICOM files, or highdicom is missing.
    :raises OutputError: the file cannot be written.
    """
    report = make_report(study, lesions, algorithm, version, model_sha256)
    save_report(path, report)
    return str(report.SOPInstanceUID)


def make_report(
    study: Study,
    lesions: Sequence[ReportedLesion],
    algorithm: str,
    version: str,
    model_sha256: str = "",
    progress: Progress = silent,
) -> Any:
    """What :func:`write_report` writes, a pydicom dataset: so that many can be made before the first is written.

    :param progress: told with every file of the scan, whose headers take most of the time.
    :raises InputError: no lesion, unreadable or mixed DICOM files, or highdicom is missing.
    """
    if not is_available():
        raise InputError("The package highdicom is not installed.", f"Install it (pip install '{REQUIREMENT}').")
    if not lesions:
        raise InputError(f"{study.time_point} has no lesion with a position.", "Track or place lesions first.")
    evidence = _read_evidence(study.files, progress)
    return _document(evidence, study, lesions, Device(version, algorithm, model_sha256))


def save_report(path: str, report: Any) -> None:
    """Write what :func:`make_report` made, whole or not at all.

    :raises OutputError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        write_dataset(report, temporary)


def _read_evidence(files: Sequence[str], progress: Progress) -> List[Any]:
    """Headers of the files, sorted by place; all of one series with one frame of reference."""
    import pydicom

    headers = []
    for n, file in enumerate(files):
        progress(n / len(files), Path(file).name)
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
    """A header with the attributes that a report copies from it: empty where de-identification took them away or left
    what the standard does not allow, in a character set for all languages.

    :raises AttributeError: it does not say which instance it is.
    """
    from pydicom.valuerep import DA, TM

    header.decode()
    header.SpecificCharacterSet = "ISO_IR 192"
    kinds: Dict[str, Any] = {"Date": DA, "Time": TM}
    for keyword in _MAY_BE_EMPTY:
        value = str(header.get(keyword) or "")
        is_allowed = keyword != "PatientSex" or value in ("M", "F", "O")
        with contextlib.suppress(ValueError):
            kinds.get(keyword[-4:], str)(value)
            if is_allowed and keyword in header:
                continue
        setattr(header, keyword, "")
    _ = header.SOPInstanceUID
    return header


def _document(evidence: List[Any], study: Study, lesions: Sequence[ReportedLesion], device: Device) -> Any:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    observer = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=device.uid,
            name=PRODUCT,
            manufacturer_name=MANUFACTURER,
            model_name=f"{MODEL_NAME} {device.version}",
            serial_number=device.serial_number,
        ),
    )
    identification = sr.AlgorithmIdentification(
        name=device.model[:64],
        version=device.version,
        parameters=[f"model SHA-256 {device.sha256}"] if device.sha256 else None,
    )
    groups = [_group(lesion, study, str(evidence[0].FrameOfReferenceUID), identification) for lesion in lesions]
    groups += [_past_group(lesion, past) for lesion in lesions for past in lesion.history]
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=sr.CodedConcept(*_PROCEDURES[str(evidence[0].get("Modality", "")) == "CT"]),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    said = (*(str(header.SOPInstanceUID) for header in evidence), *(item.to_json() for item in report))
    document = sr.Comprehensive3DSR(
        evidence=evidence,
        content=report,
        series_number=SERIES_NUMBER,
        series_instance_uid=uid_of("series of a report", *said),
        sop_instance_uid=uid_of("report", *said),
        instance_number=1,
        is_complete=True,
        is_verified=False,
        manufacturer=MANUFACTURER,
        series_description="SAMv2 lesions (research use)",
    )
    device.describe(document)
    # Labels are of any language, whatever the scan's character set.
    document.SpecificCharacterSet = "ISO_IR 192"
    return document


def _group(lesion: ReportedLesion, study: Study, frame_of_reference: str, identification: Any) -> Any:
    """One lesion in this study: TID 1410, or TID 1501 where it has no place."""
    from highdicom import sr

    known = {
        **_common(lesion, study.time_point, study.order),
        "algorithm_id": identification,
        "measurements": _measurements(lesion.diameter_mm, lesion.short_mm, lesion.state),
        "qualitative_evaluations": [
            _evaluation(PROPOSAL, "Proposal by matching", lesion.status, STATUS_WORDS),
            _evaluation(DECISION, "Decision of the reader", lesion.decision, DECISION_WORDS),
            *_evaluations(lesion.state, lesion.role),
        ],
    }
    region = _region(lesion, frame_of_reference)
    if region is None:
        return sr.MeasurementsAndQualitativeEvaluations(**known)
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(referenced_region=region, **known)


def _past_group(lesion: ReportedLesion, past: PastReading) -> Any:
    """The lesion in an earlier study: numbers and words, no region."""
    from highdicom import sr

    return sr.MeasurementsAndQualitativeEvaluations(
        **_common(lesion, past.time_point, past.order),
        measurements=_measurements(past.long_mm, past.short_mm, past.state),
        qualitative_evaluations=_evaluations(past.state, "") or None,
    )


def _common(lesion: ReportedLesion, time_point: str, order: int) -> Dict[str, Any]:
    """What names a lesion and a time, in every group."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    return {
        "tracking_identifier": sr.TrackingIdentifier(uid=lesion.tracking_uid, identifier=lesion.label),
        "time_point_context": sr.TimePointContext(time_point=time_point, time_point_order=order),
        "finding_type": codes.SCT.Lesion,
        "finding_sites": [sr.FindingSite(anatomic_location=sr.CodedConcept(*site_of(lesion.organ)))],
    }


def _measurements(long_mm: Optional[float], short_mm: Optional[float], state: str) -> Any:
    """Long and short axis; None when neither is known."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    if state == "vanished" and long_mm is None:
        long_mm = 0.0
    return [
        sr.Measurement(name=sr.CodedConcept(*name), value=round(float(mm), 2), unit=codes.UCUM.Millimeter)
        for name, mm in ((LONG_AXIS, long_mm), (SHORT_AXIS, short_mm))
        if mm is not None and np.isfinite(mm)
    ] or None


def _evaluations(state: str, role: str) -> List[Any]:
    """State and role, as far as they are known."""
    both = ((STATE, "State of the lesion", state, STATE_WORDS), (ROLE, "Role in the sum", role, ROLE_WORDS))
    return [_evaluation(name, meaning, value, words) for name, meaning, value, words in both if value]


def _region(lesion: ReportedLesion, frame_of_reference: str) -> Any:
    """The long axis as a line, or the place as a point; None without a place."""
    from highdicom import sr

    if lesion.position is None:
        return None
    if lesion.ends is not None:
        kind, points = sr.GraphicTypeValues3D.POLYLINE, np.array(lesion.ends, dtype=np.float64)
    else:
        kind, points = sr.GraphicTypeValues3D.POINT, np.array([lesion.position], dtype=np.float64)
    return sr.ImageRegion3D(graphic_type=kind, graphic_data=points, frame_of_reference_uid=frame_of_reference)


def _evaluation(name: str, meaning: str, value: str, words: dict) -> Any:
    from highdicom import sr

    code = (value or "none")[:CODE_LENGTH]
    return sr.QualitativeEvaluation(
        name=sr.CodedConcept(name, SCHEME, meaning), value=sr.CodedConcept(code, SCHEME, words.get(value, value))
    )
