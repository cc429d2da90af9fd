"""Last month's DICOM report as this month's baseline: lesions, their Tracking UIDs and what was known of them before.

Reads TID 1500 Measurement Reports, ours (:mod:`SAMv2Core.io.structured_report`) or another program's, by pydicom alone.
Of every measurement group it takes the tracking identifier and UID, the finding site, the region and the lengths. A
region may lie in space (SCOORD3D, LPS mm) or in an image (SCOORD, columns and rows of an instance), which is why the
scan's own files are asked for: their headers say where the image lies. Codes of lengths are those of SNOMED CT, in its
new and in its old (SRT) form; what else a group holds is left alone.

Conventions: LPS mm in the frame of reference of the scan that the report speaks of.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from SAMv2Core.errors import InputError, SAMv2Error
from SAMv2Core.io.dicom_header import files_of, quiet_pydicom
from SAMv2Core.io.files import PathLike
from SAMv2Core.io.finding_sites import organ_of
from SAMv2Core.io.lesion import ROLES, Lesion, lesion_at
from SAMv2Core.io.structured_report import ROLE, SCHEME, STATE, STATE_WORDS, PastReading

REPORTS = tuple(f"1.2.840.10008.5.1.4.1.1.88.{n}" for n in (22, 33, 34))
"""Enhanced, Comprehensive and Comprehensive 3D SR."""

_GROUP, _IDENTIFIER, _UID, _SITE = "125007", "112039", "112040", ("363698007", "G-C0E3")
_TIME_POINT, _ORDER = "C2348792", "126073"
_LONG = ("103339001", "G-A185", "410668003", "G-D7FE", "81827009", "M-02550")  # long axis, length, diameter
_SHORT = ("103340004", "G-A186")
_PER_MM = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001}
_NODES = ("lymph node", "lymph")


@dataclass(frozen=True, eq=False)
class PastLesion:
    """One lesion as a report knows it.

    :param uid: Tracking UID, "" when the report gives none.
    :param readings: by time; the last one is of the report's own time point, if the lesion was read then.
    """

    label: str
    uid: str
    organ: str
    role: str
    readings: Tuple[PastReading, ...]


@dataclass(frozen=True, eq=False)
class LesionReport:
    """What a report says.

    :param lesions: those with a place, to be tracked on.
    :param past: all of them, by label.
    :param order: of the report's own time point; 0 when it names none.
    :param patient_id: :param frame_of_reference_uid: "" when not said.
    """

    lesions: Tuple[Lesion, ...]
    past: Dict[str, PastLesion]
    order: int
    patient_id: str
    frame_of_reference_uid: str


@dataclass(frozen=True, eq=False)
class _Group:
    label: str
    uid: str
    organ: str
    points_lps: Optional[np.ndarray]
    frame_of_reference_uid: str
    reading: PastReading
    role: str


def is_report(path: PathLike) -> bool:
    """Whether a file is a structured report."""
    dataset = _read(path, only=["SOPClassUID"])
    return dataset is not None and _class_of(dataset) in REPORTS


def _class_of(dataset: Any) -> str:
    """The SOP class, "" where it is damaged: pydicom decodes a value when it is asked for, and raises anything then."""
    try:
        return str(dataset.get("SOPClassUID", ""))
    except Exception:
        return ""


def read_report(path: PathLike, scan: Optional[PathLike] = None) -> LesionReport:
    """The lesions of a TID 1500 report.

    :param scan: folder of the images that it speaks of, for regions that are drawn in images.
    :raises InputError: no report, damaged, none of its groups has a region, or its images are not in ``scan``.
    """
    dataset = _read(path)
    if dataset is None or _class_of(dataset) not in REPORTS:
        raise InputError(f"{path} is no DICOM structured report.", "Choose a Measurement Report (TID 1500).")
    try:
        with quiet_pydicom():
            places = _Places(path, scan)
            groups = [_group_of(item, n, places) for n, item in enumerate(_groups(dataset), 1)]
            patient_id = str(dataset.get("PatientID", "") or "")
    except SAMv2Error:
        raise
    except Exception as error:  # as in _class_of
        raise InputError(f"{path} is damaged ({type(error).__name__}).", "Export the report again.") from error
    if not groups:
        raise InputError(f"{path} holds no measurement group.", "Choose a Measurement Report (TID 1500).")
    return _report_of(groups, patient_id, path)


def _report_of(groups: Sequence[_Group], patient_id: str, path: PathLike) -> LesionReport:
    order = max(group.reading.order for group in groups)
    placed: Dict[str, _Group] = {}
    past: Dict[str, PastLesion] = {}
    for label, mine in _by_lesion(groups).items():
        readings = {group.reading.order: group.reading for group in reversed(mine)}
        now = [group for group in mine if group.reading.order == order]
        organ, role = (next((getattr(g, name) for g in mine if getattr(g, name)), "") for name in ("organ", "role"))
        past[label] = PastLesion(label, mine[0].uid, organ, role, tuple(readings[n] for n in sorted(readings)))
        if now and now[0].points_lps is not None:
            placed[label] = now[0]
    if not placed:
        raise InputError(f"{path} holds no place of a lesion.", "Choose a report whose measurements have regions.")
    frames = {group.frame_of_reference_uid for group in placed.values() if group.frame_of_reference_uid}
    return LesionReport(
        lesions=tuple(_lesion_of(label, group) for label, group in placed.items()),
        past=past,
        order=order,
        patient_id=patient_id,
        frame_of_reference_uid=frames.pop() if len(frames) == 1 else "",
    )


def _by_lesion(groups: Sequence[_Group]) -> Dict[str, List[_Group]]:
    """The groups of each lesion, by a label that is its own: other programs call all of them "Lesion"."""
    of_uid: Dict[str, List[_Group]] = {}
    for n, group in enumerate(groups):
        of_uid.setdefault(group.uid or f"#{n}", []).append(group)
    names = [mine[0].label for mine in of_uid.values()]
    found = {}
    for n, (name, mine) in enumerate(zip(names, of_uid.values())):
        found[name if names.count(name) == 1 else f"{name} ({names[: n + 1].count(name)})"] = mine
    return found


def _lesion_of(label: str, group: _Group) -> Lesion:
    points = group.points_lps
    assert points is not None
    long_mm = group.reading.long_mm
    ends = points if len(points) == 2 else None
    if long_mm is None and ends is not None:
        long_mm = float(np.linalg.norm(ends[1] - ends[0]))
    if len(points) > 2:  # an outline, or both axes one after the other
        ends = _farthest(points)
    lesion = lesion_at(label, _middle(points), long_mm or None)
    return replace(
        lesion, short_mm=group.reading.short_mm or None, ends_lps=ends, role=group.role, organ=group.organ,
        is_node=group.organ.lower().startswith(_NODES), tracking_uid=group.uid,
    )  # fmt: skip


def _middle(points: np.ndarray) -> List[float]:
    """The middle of the box, of an outline or a line."""
    return ((points.min(axis=0) + points.max(axis=0)) / 2).tolist()


def _farthest(points: np.ndarray) -> np.ndarray:
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return points[list(np.unravel_index(np.argmax(apart), apart.shape))]


# --- the tree of a report --------------------------------------------------------------------------------------------


def _read(path: PathLike, only: Optional[List[str]] = None) -> Any:
    """A dataset, or None for what is no DICOM file."""
    import pydicom

    if not Path(path).is_file():
        return None
    try:
        with quiet_pydicom():
            return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=only)
    except Exception:  # whatever other files make of pydicom
        return None


def _items(item: Any) -> Iterator[Any]:
    yield from item.get("ContentSequence", None) or ()


def _groups(item: Any) -> Iterator[Any]:
    """All measurement groups below an item, in order."""
    for child in _items(item):
        if _code(child) == _GROUP:
            yield child
        else:
            yield from _groups(child)


def _code(item: Any, name: str = "ConceptNameCodeSequence") -> str:
    return _triple(item, name)[0]


def _triple(item: Any, name: str) -> Tuple[str, str, str]:
    found = item.get(name, None)
    if not found:
        return "", "", ""
    code = found[0]
    keys = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
    value, scheme, meaning = (str(code.get(key, "") or "") for key in keys)
    return value or str(code.get("LongCodeValue", "") or ""), scheme, meaning


def _group_of(item: Any, number: int, places: _Places) -> _Group:
    label = uid = organ = role = state = time_point = frame = ""
    order, long_mm, short_mm, points = 0, None, None, None
    for child in _items(item):
        code, kind = _code(child), str(child.get("ValueType", ""))
        if code == _IDENTIFIER:
            label = str(child.get("TextValue", "")).strip()
        elif code == _UID:
            uid = str(child.get("UID", ""))
        elif code in _SITE:
            organ = organ_of(_triple(child, "ConceptCodeSequence"))
        elif code == _ORDER:
            order = int(_number(child)[0] or 0)
        elif code == _TIME_POINT:
            time_point = str(child.get("TextValue", ""))
        elif kind == "CODE" and _triple(child, "ConceptNameCodeSequence")[1] == SCHEME:
            value = _code(child, "ConceptCodeSequence")
            state = value if code == STATE and value in STATE_WORDS else state
            role = value if code == ROLE and value in ROLES else role
        elif kind == "NUM" and code in _LONG + _SHORT:
            mm = _millimeters(child)
            long_mm = mm if code in _LONG and (long_mm is None or code == _LONG[0]) else long_mm
            short_mm = mm if code in _SHORT else short_mm
        if points is None:
            points, frame = places.of(child)
    label = label or f"lesion {number}"
    reading = PastReading(order, time_point or f"Study {order}", state, long_mm, short_mm)
    return _Group(label, uid, organ, points, frame, reading, role)


def _number(item: Any) -> Tuple[Optional[float], str]:
    measured = item.get("MeasuredValueSequence", None)
    if not measured:
        return None, ""
    value = float(measured[0].NumericValue)
    return (value if math.isfinite(value) else None), _code(measured[0], "MeasurementUnitsCodeSequence")


def _millimeters(item: Any) -> Optional[float]:
    value, unit = _number(item)
    factor = _PER_MM.get(unit)
    return None if value is None or factor is None or value < 0 else value * factor


class _Places:
    """Regions as points in space; headers of the images are read when a region in an image comes up."""

    def __init__(self, path: PathLike, scan: Optional[PathLike]) -> None:
        self._path, self._scan = path, scan
        self._headers: Optional[Dict[str, Any]] = None

    def of(self, item: Any) -> Tuple[Optional[np.ndarray], str]:
        """((n, 3) LPS mm, frame of reference) of an item or, with lengths, of what they were inferred from."""
        kind = str(item.get("ValueType", ""))
        if kind == "SCOORD3D":
            points = np.array(item.GraphicData, dtype=np.float64).reshape(-1, 3)
            return points, str(item.get("ReferencedFrameOfReferenceUID", ""))
        if kind == "SCOORD":
            return self._in_image(item)
        if kind == "NUM":
            for child in _items(item):
                found = self.of(child)
                if found[0] is not None:
                    return found
        return None, ""

    def _in_image(self, item: Any) -> Tuple[np.ndarray, str]:
        """Columns and rows, 0 at the first pixel's corner (PS3.3 C.18.6), in the image that is named below."""
        images = [child for child in _items(item) if child.get("ReferencedSOPSequence", None)]
        uid = str(images[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID) if images else ""
        header = self._known().get(uid)
        if header is None:
            raise InputError(
                f"{self._path} marks lesions in images that are not in {self._scan or 'the scan'}.",
                "Give the DICOM folder that the report was made on as the baseline.",
            )
        column_row = np.array(item.GraphicData, dtype=np.float64).reshape(-1, 2) - 0.5
        rows_mm, columns_mm = (float(value) for value in header.PixelSpacing)
        along = np.array(header.ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
        points = column_row * [columns_mm, rows_mm] @ along + np.array(header.ImagePositionPatient, dtype=np.float64)
        return points, str(header.get("FrameOfReferenceUID", ""))

    def _known(self) -> Dict[str, Any]:
        """SOP Instance UID -> header of the scan's files."""
        if self._headers is None:
            self._headers = {}
            wanted = ["SOPInstanceUID", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient",
                      "FrameOfReferenceUID"]  # fmt: skip
            for file in files_of(Path(self._scan)) if self._scan and Path(self._scan).is_dir() else ():
                header = _read(file, only=wanted)
                if header is not None and all(name in header for name in wanted[:4]):
                    self._headers[str(header.SOPInstanceUID)] = header
        return self._headers
