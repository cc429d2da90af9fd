"""What a folder or DICOMDIR of studies holds: series, when and how they were made, what they show; reports.

An archive is read header by header; of other patients nothing is kept. Series are of one patient when their
PatientID is the same and not empty; where both name a birth date, that must agree, too.

Conventions: LPS mm in the series' own frame of reference.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np

from SAMv2Core.errors import InputError
from SAMv2Core.io.dicom_header import SEGMENTATIONS, quiet_pydicom, read_headers
from SAMv2Core.io.files import PathLike
from SAMv2Core.io.report_reader import REPORTS
from SAMv2Core.progress import Progress, silent

MODALITIES = ("CT", "MR")
MIN_IMAGES = 5
"""Fewer are a scout."""

WANTED = ["PatientID", "PatientBirthDate", "StudyInstanceUID", "SeriesInstanceUID", "StudyDate", "StudyTime",
          "Modality", "FrameOfReferenceUID", "SOPClassUID", "SeriesDescription", "ImageType", "NumberOfFrames",
          "ImageOrientationPatient", "SharedFunctionalGroupsSequence", "SliceThickness", "ConvolutionKernel",
          "ProtocolName", "ContrastBolusAgent", "ContentDate", "ContentTime",
          "CurrentRequestedProcedureEvidenceSequence", "ContentTemplateSequence"]  # fmt: skip
"""What is read of every header."""
_PLANES = ("sagittal", "coronal", "axial")


@dataclass(frozen=True)
class ArchivedSeries:
    """One series; tags identify the patient and stay in memory.

    :param date: YYYYMMDD, :param time: HHMMSS, of the study.
    :param files: all of it, unless it lies on a server, at :param url:.
    :param n_images: of it, frames counted.
    :param orientation: plane that its images are nearest to: ``axial``, ``coronal``, ``sagittal``; "" when not said.
    :param thickness_mm: of a slice, as its tag says. :param protocol: its name. :param has_contrast: an agent is named.
    """

    patient_id: str
    birth_date: str
    study_uid: str
    series_uid: str
    date: str
    time: str
    modality: str
    frame_of_reference_uid: str
    description: str
    files: Tuple[Path, ...] = ()
    url: str = ""
    n_images: int = 0
    orientation: str = ""
    thickness_mm: Optional[float] = None
    kernel: str = ""
    protocol: str = ""
    has_contrast: bool = False

    @property
    def folder(self) -> Path:
        """The folder that holds all its files."""
        return Path(os.path.commonpath([file.parent for file in self.files]))

    @property
    def place(self) -> str:
        """What commands take as a volume: folder or address."""
        return self.url or str(self.folder)

    @property
    def when(self) -> Tuple[str, str]:
        return self.date, self.time

    def is_of_patient(self, other: ArchivedSeries) -> bool:
        born = {self.birth_date, other.birth_date} - {""}
        return bool(self.patient_id) and self.patient_id == other.patient_id and len(born) < 2

    def shows(self, point_lps: np.ndarray) -> bool:
        """Whether a point (3,) lies between its images; its files are read for that."""
        frames = [f for frames in read_headers(self.files).series.values() for f in frames]
        frames = [f for f in frames if f.position is not None and f.axes is not None and f.spacing is not None]
        if len(frames) < MIN_IMAGES:
            return False
        axes, spacing, size = frames[0].axes, frames[0].spacing, frames[0].size
        assert axes is not None and spacing is not None
        depths = np.sort([float(f.position @ axes[:, 2]) for f in frames if f.position is not None])
        half = float(np.median(np.diff(depths))) / 2
        if not depths[0] - half <= float(point_lps @ axes[:, 2]) <= depths[-1] + half:
            return False
        nearest = min(frames, key=lambda f: abs(float((point_lps - f.position) @ axes[:, 2])))
        at = (point_lps - nearest.position) @ axes[:, :2] / np.array(spacing)
        return bool(np.all(at >= -0.5) and np.all(at <= np.array(size) - 0.5))


@dataclass(frozen=True)
class ArchivedReport:
    """One structured report.

    :param place: file or address. :param series_uids: of the images that it speaks of, as far as it names them.
    :param written: (date, time) of its content.
    """

    patient_id: str
    birth_date: str
    study_uid: str
    sop_class: str
    place: str
    series_uids: Tuple[str, ...]
    written: Tuple[str, str]


@dataclass(frozen=True)
class Contents:
    """What an archive holds of a patient, or of all."""

    series: Tuple[ArchivedSeries, ...]
    reports: Tuple[ArchivedReport, ...]


@dataclass
class _Group:
    """Files of a series; one header is kept, those of a whole archive would fill the memory."""

    header: Any
    files: List[Path] = field(default_factory=list)
    n_images: int = 0


def study_of(path: PathLike, series_uid: Optional[str] = None) -> ArchivedSeries:
    """The series of a study's folder: the one named, else the one of most images.

    :raises InputError: no DICOM series of CT or MR, or no PatientID or date in it.
    """
    found = read_archive(path)
    mine = [series for series in found if series_uid in (None, series.series_uid)]
    if not mine:
        raise InputError(f"{path} holds no DICOM series of CT or MR.", "Give the folder of a study.")
    chosen = max(mine, key=lambda series: series.n_images)
    if not chosen.patient_id or not chosen.date:
        missing = "PatientID" if not chosen.patient_id else "StudyDate"
        raise InputError(f"{path} has no {missing}: its earlier studies cannot be told.", "Give DICOM that has one.")
    return chosen


def earlier_series(
    study: ArchivedSeries, archive: PathLike, progress: Optional[Progress] = None
) -> List[ArchivedSeries]:
    """The patient's series of earlier studies, the latest study first; within one, the study's modality and the
    series of most images first.

    :raises InputError: an archive that cannot be read or holds no DICOM.
    """
    found = [
        series
        for series in read_archive(archive, study.patient_id, progress)
        if series.is_of_patient(study)
        and series.study_uid != study.study_uid
        and series.date
        and series.when < study.when
    ]
    found.sort(key=lambda series: (series.modality == study.modality, series.n_images), reverse=True)
    return sorted(found, key=lambda series: series.when, reverse=True)


def read_archive(
    path: PathLike, patient_id: Optional[str] = None, progress: Optional[Progress] = None
) -> List[ArchivedSeries]:
    """The CT and MR series of a folder (subfolders included) or a DICOMDIR, of one patient or of all.

    :raises InputError: there is no such folder or DICOMDIR, or it holds no DICOM at all.
    """
    return list(read_contents(path, patient_id, progress).series)


def read_contents(path: PathLike, patient_id: Optional[str] = None, progress: Optional[Progress] = None) -> Contents:
    """The same with the structured reports.

    :raises InputError: there is no such folder or DICOMDIR, or it holds no DICOM at all.
    """
    import pydicom

    tell = progress or silent
    files = list(_files(Path(path)))
    groups: Dict[str, _Group] = {}
    reports: List[ArchivedReport] = []
    n_read = 0
    with quiet_pydicom():
        for n, file in enumerate(files):
            if n % 200 == 0:
                tell(n / max(len(files), 1), f"{n} of {len(files)} files")
            try:
                header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=WANTED)
            except Exception:  # whatever other files make of pydicom
                continue
            n_read += 1
            if patient_id not in (None, text_of(header, "PatientID")):
                continue
            if is_image(header):
                mine = groups.setdefault(text_of(header, "SeriesInstanceUID"), _Group(header))
                mine.files.append(file)
                mine.n_images += _frames_of(header)
            elif is_report_of_measurements(header):
                reports.append(report_from(header, str(file)))
        found = [replace(series_from(g.header, g.n_images), files=tuple(g.files)) for g in groups.values()]
    if not n_read:
        raise InputError(f"{path} holds no DICOM files.", "Give a folder of DICOM studies, or a DICOMDIR.")
    tell(1.0, f"{len(files)} files")
    return Contents(tuple(series for series in found if series.n_images >= MIN_IMAGES), tuple(reports))


def _files(path: Path) -> Iterator[Path]:
    import pydicom

    if path.is_file() and path.name.upper() == "DICOMDIR":
        try:
            with quiet_pydicom():
                records = pydicom.dcmread(path).DirectoryRecordSequence
        except Exception as error:
            raise InputError(f"{path} is no readable DICOMDIR.", "Give the folder that it lies in.") from error
        for record in records:
            parts = record.get("ReferencedFileID", None)
            if parts:
                file = path.parent.joinpath(*([parts] if isinstance(parts, str) else [str(part) for part in parts]))
                # A directory record names files below its own folder, and nothing else.
                if ".." not in file.parts and file.is_file():
                    yield file
    elif path.is_dir():
        for root, folders, names in os.walk(path):
            folders.sort()
            yield from (Path(root, name) for name in sorted(names) if name.upper() != "DICOMDIR")
    else:
        raise InputError(f"{path} is no folder and no DICOMDIR.", "Check the path.")


def text_of(header: Any, name: str) -> str:
    return str(header.get(name, "") or "").strip()


def is_image(header: Any) -> bool:
    """CT or MR, and neither a scout nor a segmentation."""
    is_scout = "LOCALIZER" in [str(part).upper() for part in header.get("ImageType", None) or ()]
    is_segmentation = text_of(header, "SOPClassUID") in SEGMENTATIONS
    return text_of(header, "Modality") in MODALITIES and not is_segmentation and not is_scout


def is_report_of_measurements(header: Any) -> bool:
    """A structured report whose template is TID 1500, or not said."""
    templates = [text_of(item, "TemplateIdentifier") for item in header.get("ContentTemplateSequence", None) or ()]
    return text_of(header, "SOPClassUID") in REPORTS and (not templates or "1500" in templates)


def _frames_of(header: Any) -> int:
    number = text_of(header, "NumberOfFrames")
    return int(number) if number.isdecimal() and int(number) else 1


def series_from(header: Any, n_images: int) -> ArchivedSeries:
    """A series by the header of one of its images; where it lies is the caller's to say."""
    names = ("PatientID", "PatientBirthDate", "StudyInstanceUID", "SeriesInstanceUID", "StudyDate")
    patient, born, study, series, date = (text_of(header, name) for name in names)
    kernel = header.get("ConvolutionKernel", None) or ""
    return ArchivedSeries(
        patient, born, study, series, date, text_of(header, "StudyTime").partition(".")[0],
        text_of(header, "Modality"), text_of(header, "FrameOfReferenceUID"), text_of(header, "SeriesDescription"),
        n_images=n_images, orientation=_plane(header), thickness_mm=_positive(text_of(header, "SliceThickness")),
        kernel=kernel if isinstance(kernel, str) else " ".join(map(str, kernel)),
        protocol=text_of(header, "ProtocolName"), has_contrast=bool(text_of(header, "ContrastBolusAgent")),
    )  # fmt: skip


def report_from(header: Any, place: str) -> ArchivedReport:
    """A structured report by its header."""
    evidence = header.get("CurrentRequestedProcedureEvidenceSequence", None) or ()
    items = [item for study in evidence for item in study.get("ReferencedSeriesSequence", None) or ()]
    return ArchivedReport(
        text_of(header, "PatientID"), text_of(header, "PatientBirthDate"), text_of(header, "StudyInstanceUID"),
        text_of(header, "SOPClassUID"), place, tuple(text_of(item, "SeriesInstanceUID") for item in items),
        (text_of(header, "ContentDate"), text_of(header, "ContentTime")),
    )  # fmt: skip


def _plane(header: Any) -> str:
    """The plane whose normal is nearest to that of the images."""
    axes = header.get("ImageOrientationPatient", None)
    for group in header.get("SharedFunctionalGroupsSequence", None) or ():
        for plane in group.get("PlaneOrientationSequence", None) or ():
            axes = plane.get("ImageOrientationPatient", axes)
    try:
        along = np.array(axes, dtype=np.float64).reshape(2, 3)
    except (TypeError, ValueError):  # not said, or not six numbers
        return ""
    return _PLANES[int(np.argmax(np.abs(np.cross(*along))))]


def _positive(text: str) -> Optional[float]:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None
