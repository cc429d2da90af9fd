"""Earlier series of a patient in a folder or DICOMDIR: which there are, of when, and what part of space they show.

An archive is read header by header; of other patients nothing is kept. Series are of one patient when their
PatientID is the same and not empty; where both name a birth date, that must agree, too.

Conventions: LPS mm in the series' own frame of reference.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np

from SAMv2Core.errors import InputError
from SAMv2Core.io.dicom_header import SEGMENTATIONS, quiet_pydicom, read_headers
from SAMv2Core.io.files import PathLike
from SAMv2Core.progress import Progress, silent

MODALITIES = ("CT", "MR")
MIN_IMAGES = 5
"""Fewer are a scout."""

_WANTED = ["PatientID", "PatientBirthDate", "StudyInstanceUID", "SeriesInstanceUID", "StudyDate", "StudyTime",
           "Modality", "FrameOfReferenceUID", "SOPClassUID", "SeriesDescription", "ImageType"]  # fmt: skip


@dataclass(frozen=True)
class ArchivedSeries:
    """One series; tags identify the patient and stay in memory.

    :param date: YYYYMMDD, :param time: HHMMSS, of the study.
    :param files: all of it.
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
    files: Tuple[Path, ...]

    @property
    def folder(self) -> Path:
        """The folder that holds all its files."""
        return Path(os.path.commonpath([file.parent for file in self.files]))

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


def study_of(path: PathLike, series_uid: Optional[str] = None) -> ArchivedSeries:
    """The series of a study's folder: the one named, else the one of most images.

    :raises InputError: no DICOM series of CT or MR, or no PatientID or date in it.
    """
    found = read_archive(path)
    mine = [series for series in found if series_uid in (None, series.series_uid)]
    if not mine:
        raise InputError(f"{path} holds no DICOM series of CT or MR.", "Give the folder of a study.")
    chosen = max(mine, key=lambda series: len(series.files))
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
    found.sort(key=lambda series: (series.modality == study.modality, len(series.files)), reverse=True)
    return sorted(found, key=lambda series: series.when, reverse=True)


def read_archive(
    path: PathLike, patient_id: Optional[str] = None, progress: Optional[Progress] = None
) -> List[ArchivedSeries]:
    """The CT and MR series of a folder (subfolders included) or a DICOMDIR, of one patient or of all.

    :raises InputError: there is no such folder or DICOMDIR, or it holds no DICOM at all.
    """
    import pydicom

    tell = progress or silent
    files = list(_files(Path(path)))
    groups: Dict[str, Tuple[Any, List[Path]]] = {}
    n_images = 0
    with quiet_pydicom():
        for n, file in enumerate(files):
            if n % 200 == 0:
                tell(n / max(len(files), 1), f"{n} of {len(files)} files")
            try:
                header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_WANTED)
            except Exception:  # whatever other files make of pydicom
                continue
            n_images += 1
            if patient_id not in (None, _text(header, "PatientID")) or not _is_image(header):
                continue
            groups.setdefault(_text(header, "SeriesInstanceUID"), (header, []))[1].append(file)
    if not n_images:
        raise InputError(f"{path} holds no DICOM files.", "Give a folder of DICOM studies, or a DICOMDIR.")
    tell(1.0, f"{len(files)} files")
    return [_series(header, mine) for header, mine in groups.values() if len(mine) >= MIN_IMAGES]


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


def _text(header: Any, name: str) -> str:
    return str(header.get(name, "") or "").strip()


def _is_image(header: Any) -> bool:
    is_scout = "LOCALIZER" in [str(part).upper() for part in header.get("ImageType", None) or ()]
    return (
        _text(header, "Modality") in MODALITIES and _text(header, "SOPClassUID") not in SEGMENTATIONS and not is_scout
    )


def _series(header: Any, files: List[Path]) -> ArchivedSeries:
    names = ("PatientID", "PatientBirthDate", "StudyInstanceUID", "SeriesInstanceUID", "StudyDate")
    patient, born, study, series, date = (_text(header, name) for name in names)
    return ArchivedSeries(
        patient, born, study, series, date, _text(header, "StudyTime").partition(".")[0], _text(header, "Modality"),
        _text(header, "FrameOfReferenceUID"), _text(header, "SeriesDescription"), tuple(files),
    )  # fmt: skip
