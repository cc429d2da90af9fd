"""Headers of DICOM files: what each image says about itself, before any pixel is read.

Every file of a folder is looked at on its own, with pydicom, and every frame of a multi-frame file becomes a
:class:`Frame` like a file of its own, so that all later steps know one kind of image. A file that cannot be read is no
reason to refuse others: its fault is kept with it and counts when one asks for its series. Nothing that a header claims
is believed before it has been compared with the length of the file.

Conventions: LPS mm, as in DICOM itself. Tags that identify the patient are kept in memory only (:class:`DicomTags`).
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings as python_warnings
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from SAMv2Core.errors import InputError
from SAMv2Core.io.files import suffix_of

MAX_FILES = 20000
_OTHER_SUFFIXES = frozenset(
    ".nii .nii.gz .nrrd .nhdr .mha .mhd .raw .json .mrk.json .csv .txt .xml .png .jpg .jpeg .pdf .html .htm "
    ".exe .dll .zip .gz .py .md .log .ini .inf".split()
)

SEGMENTATIONS = {
    "1.2.840.10008.5.1.4.1.1.66.4": "DICOM segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "DICOM label map segmentation",
}

#: Transfer syntaxes whose pixels are stored as they are: implicit and explicit little endian, explicit big endian.
UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")
BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
#: Those that GDCM decodes: JPEG (baseline, extended, lossless), JPEG-LS, JPEG 2000, RLE.
DECODABLE = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91)) + ("1.2.840.10008.1.2.5",)
_SYNTAX_NAMES = {
    **{f"1.2.840.10008.1.2.4.{n}": "JPEG XL" for n in (110, 111, 112)},
    **{f"1.2.840.10008.1.2.4.{n}": "High-Throughput JPEG 2000" for n in (201, 202, 203)},
    **{f"1.2.840.10008.1.2.4.{n}": "MPEG video" for n in (100, 101, 102, 103, 104, 105, 106, 107, 108)},
}
# A compressed frame can be this much larger than its bytes; RLE reaches 64, JPEG 2000 of one constant slice a few
# hundred.
_MAX_RATIO = 2000
_MAX_INFLATED = 4 << 30

# Has frames, but is no picture of a patient, and its frames say nothing of their place.
_RT_DOSE = "1.2.840.10008.5.1.4.1.1.481.2"
_GRAY = ("MONOCHROME1", "MONOCHROME2", "")

_TAG_KEYWORDS = {
    "modality": "Modality",
    "study_date": "StudyDate",
    "patient_id": "PatientID",
    "study_instance_uid": "StudyInstanceUID",
    "series_instance_uid": "SeriesInstanceUID",
    "series_description": "SeriesDescription",
    "frame_of_reference_uid": "FrameOfReferenceUID",
}

#: What may tell volumes at the same place apart, in the order in which it is asked; name for people -> keywords.
MARKS: Dict[str, Tuple[str, ...]] = {
    "stack": ("StackID",),
    "time point": ("TemporalPositionIndex", "TemporalPositionIdentifier", "TemporalPositionTimeOffset"),
    "acquisition": ("AcquisitionNumber",),
    "contrast": ("ContrastBolusAgent",),
    "time of contrast": ("ContrastBolusStartTime",),
    "kernel": ("ConvolutionKernel",),
    "filter": ("FilterType",),
    "b-value": ("DiffusionBValue",),
    "gradient": ("DiffusionGradientOrientation",),
    "echo time": ("EffectiveEchoTime", "EchoTime"),
    "echo": ("EchoNumbers",),
    "inversion time": ("InversionTime",),
    "flip angle": ("FlipAngle",),
    "component": ("ComplexImageComponent",),
    "sequence": ("SequenceName",),
    "image type": ("FrameType", "ImageType"),
    "tube voltage": ("KVP",),
    "cardiac phase": ("NominalPercentageOfCardiacPhase", "NominalCardiacTriggerDelayTime", "TriggerTime"),
    "rescale type": ("RescaleType",),
    "slice thickness": ("SliceThickness",),
    "description": ("SeriesDescription",),
    "protocol": ("ProtocolName",),
    "series number": ("SeriesNumber",),
    "frame of reference": ("FrameOfReferenceUID",),
    "study": ("StudyInstanceUID",),
    "date": ("AcquisitionDate",),
    "series time": ("SeriesTime",),
    "acquisition time": ("FrameAcquisitionDateTime", "AcquisitionDateTime", "AcquisitionTime"),
    "content time": ("ContentTime",),
}
_HEADER_KEYWORDS = (
    *_TAG_KEYWORDS.values(),
    *(keyword for keywords in MARKS.values() for keyword in keywords),
    "SOPClassUID", "SOPInstanceUID", "InstanceNumber", "NumberOfFrames", "Rows", "Columns", "SamplesPerPixel",
    "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "RescaleSlope",
    "RescaleIntercept", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SpacingBetweenSlices",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "DimensionIndexSequence", "SegmentSequence",
    "SegmentationType", "MaximumFractionalValue", "PixelPaddingValue", "ModalityLUTSequence",
    "InConcatenationTotalNumber",
)  # fmt: skip
# Sequences of one item, one of them within another, that hold what a classic image has at its top.
_GROUPS = tuple(
    f"{name}Sequence"
    for name in (
        "PlanePosition", "PlanePositionVolume", "PlaneOrientation", "PlaneOrientationVolume", "PixelMeasures",
        "PixelValueTransformation", "FrameContent", "TemporalPosition", "MREcho", "MRDiffusion",
        "MRTimingAndRelatedParameters", "CTReconstruction", "CTImageFrameType", "MRImageFrameType",
        "CardiacSynchronization", "CTXRayDetails", "SegmentIdentification", "DiffusionGradientDirection",
    )
)  # fmt: skip
_PLACE_POINTERS = {(0x0020, 0x0032), (0x0020, 0x9057), (0x0020, 0x9056)}  # position, position in stack, stack


@dataclass(frozen=True)
class DicomTags:
    """What a series says about itself. It may identify the patient: never written into a report unasked."""

    modality: str = ""
    study_date: str = ""
    patient_id: str = ""
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    series_description: str = ""
    frame_of_reference_uid: str = ""


@dataclass(frozen=True)
class Pixels:
    """Where the stored values of a file are and how they are stored.

    :param fault: why they cannot be read, "" when they can.
    """

    syntax: str
    offset: int
    n_bytes: int
    rows: int
    columns: int
    n_frames: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool
    fault: str = ""

    @property
    def is_compressed(self) -> bool:
        return self.syntax not in UNCOMPRESSED

    @property
    def frame_bytes(self) -> int:
        return self.rows * self.columns * self.bits_allocated // 8


@dataclass(frozen=True, eq=False)
class Frame:
    """One image: a file, or a frame of one.

    :param index: of the frame in its file, from 0.
    :param position: (3,) LPS mm of the center of its first pixel; None when it does not say.
    :param axes: (3, 3) columns: along a row (i), along a column (j), normal; None when it does not say.
    :param spacing: (i, j) mm; None when it does not say.
    :param is_rescaled: it says what its intercept is.
    :param thickness: mm, and :param distance: from slice to slice, as tags say; 0 when they do not.
    :param marks: what may tell it from others at its place.
    :param segment: number of the segment that it shows, in a segmentation.
    :param parts: of how many files its image is one (a concatenation); 0 when it is whole.
    """

    path: Path
    index: int
    tags: DicomTags
    sop_class: str
    sop_uid: str
    number: int
    position: Optional[np.ndarray]
    axes: Optional[np.ndarray]
    spacing: Optional[Tuple[float, float]]
    slope: float
    intercept: float
    is_rescaled: bool
    photometric: str
    thickness: float
    distance: float
    pixels: Pixels
    marks: Dict[str, str] = field(default_factory=dict)
    segment: int = 0
    parts: int = 0

    @property
    def size(self) -> Tuple[int, int]:
        """(columns, rows)."""
        return self.pixels.columns, self.pixels.rows

    @property
    def name(self) -> str:
        """For messages: the file, and the frame where it has several."""
        return self.path.name if self.pixels.n_frames == 1 else f"{self.path.name} frame {self.index + 1}"


class Damaged(NamedTuple):
    """A file that holds DICOM but cannot be read."""

    path: Path
    reason: str


class Found(NamedTuple):
    """What a folder holds: images by SeriesInstanceUID, files that could not be read, and what the others are."""

    series: Dict[str, List[Frame]]
    damaged: List[Damaged]
    others: List[str]


def files_of(folder: Path) -> List[Path]:
    """Candidate files, those of subfolders included, in a stable order."""
    found: List[Path] = []
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(root, name)
            if name.startswith(".") or name.upper() == "DICOMDIR" or suffix_of(path) in _OTHER_SUFFIXES:
                continue
            found.append(path)
            if len(found) > MAX_FILES:
                raise InputError(
                    f"{folder} holds more than {MAX_FILES} files.", "Choose the folder of one DICOM series."
                )
    return found


def read_headers(paths: Sequence[Path]) -> Found:
    """The images of many files; what holds no gray image (reports, plans, color pictures) is named, text passed over.

    :raises InputError: a file cannot be opened at all.
    """
    found = Found({}, [], [])
    with quiet_pydicom():
        for path in paths:
            try:
                frames = _frames_of(path)
            except _NoImage as other:
                found.others.append(str(other))
                continue
            except Exception as error:  # whatever a damaged file makes of pydicom, errors without a number included
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                if starts_like_dicom(path):
                    found.damaged.append(Damaged(path, f"its header is damaged or cut off ({type(error).__name__})"))
                continue
            for frame in frames:
                found.series.setdefault(frame.tags.series_instance_uid, []).append(frame)
    return found


@contextlib.contextmanager
def quiet_pydicom() -> Iterator[None]:
    """No word of pydicom about odd values: it would quote them, and they may name the patient."""
    import pydicom

    log = logging.getLogger("pydicom")
    was_disabled = log.disabled
    log.disabled = True
    try:
        with pydicom.config.disable_value_validation(), python_warnings.catch_warnings():
            python_warnings.simplefilter("ignore")
            yield
    finally:
        log.disabled = was_disabled


class _NoImage(Exception):
    """A DICOM object without a gray image; its text says what it is."""


def starts_like_dicom(path: Path) -> bool:
    """By content, whatever the name says."""
    with open(path, "rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def read_dataset(stream: Any) -> Any:
    """The header of an open file; the stream is left before the pixels.

    :raises Exception: whatever pydicom finds; None for a file that is no DICOM.
    """
    import pydicom

    head = stream.read(132)
    stream.seek(0)
    # Old files have no preamble: they begin with group 2 or 8.
    if head[128:] != b"DICM" and head[:2] not in (b"\x02\x00", b"\x08\x00"):
        return None
    with quiet_pydicom():
        return pydicom.dcmread(stream, force=True, stop_before_pixels=True, specific_tags=list(_HEADER_KEYWORDS))


def _frames_of(path: Path) -> List[Frame]:
    """The gray images of a file; none when it is no DICOM.

    :raises _NoImage: it is DICOM, but something else.
    """
    with open(path, "rb") as stream:
        dataset = read_dataset(stream)
        if dataset is None:
            return []
        syntax = str(getattr(dataset.file_meta, "TransferSyntaxUID", "")) or UNCOMPRESSED[0]
        if syntax == DEFLATED:
            plain = inflated(path)
            dataset = read_dataset(plain)
            where = _pixels_at(plain, syntax)
        else:
            where = _pixels_at(stream, syntax)
    kind = dataset.get("SOPClassUID") or getattr(dataset.file_meta, "MediaStorageSOPClassUID", None)
    if "Rows" not in dataset or "Columns" not in dataset or kind == _RT_DOSE:
        if kind is None or kind.name.endswith("Image Storage"):
            raise ValueError("it ends within its header")
        raise _NoImage(kind.name.replace(" Storage", ""))
    photometric = _text(dataset, "PhotometricInterpretation")
    if int(dataset.get("SamplesPerPixel", 1) or 1) != 1 or photometric not in _GRAY:
        raise _NoImage(f"color pictures ({photometric})")
    if where is None and "SOPClassUID" not in dataset:
        return []
    length = os.path.getsize(path) if syntax != DEFLATED else _MAX_INFLATED
    pixels = _pixels(dataset, syntax, where, length)
    tags = DicomTags(**{name: _text(dataset, keyword) for name, keyword in _TAG_KEYWORDS.items()})
    return list(_frames(path, dataset, tags, pixels))


@contextlib.contextmanager
def opened(path: Path, syntax: str) -> Iterator[IO[bytes]]:
    """The file, or the inflated twin of a deflated one, in which places are those of :class:`Pixels`."""
    with inflated(path) if syntax == DEFLATED else open(path, "rb") as stream:
        yield stream


def inflated(path: Path) -> io.BytesIO:
    """A deflated file as its explicit little endian twin in memory."""
    content = path.read_bytes()
    start = 132 + 12 + int.from_bytes(content[140:144], "little")
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    body = inflater.decompress(content[start:], min(_MAX_INFLATED, len(content) * 1032))
    # The twin's meta header names the plain syntax: the UIDs are padded to the same length with zeros.
    meta = content[:start].replace(DEFLATED.encode(), UNCOMPRESSED[1].encode() + b"\0\0\0", 1)
    return io.BytesIO(meta + body)


class _Place(NamedTuple):
    offset: int
    n_bytes: int


def _pixels_at(stream: Any, syntax: str) -> Optional[_Place]:
    """Where the value of the pixel data begins and how long it claims to be (-1: until its end is found)."""
    order = "big" if syntax == BIG_ENDIAN else "little"
    head = stream.read(12)
    if len(head) < 8 or head[:4] != (0x7FE0).to_bytes(2, order) + (0x0010).to_bytes(2, order):  # type: ignore[arg-type]
        return None
    is_implicit = syntax == UNCOMPRESSED[0] and head[4:6] not in (b"OW", b"OB")
    length = int.from_bytes(head[4:8] if is_implicit else head[8:12], order)  # type: ignore[arg-type]
    offset = stream.tell() - len(head) + (8 if is_implicit else 12)
    return _Place(offset, -1 if length == 0xFFFFFFFF else length)


def _pixels(dataset: Any, syntax: str, where: Optional[_Place], length: int) -> Pixels:
    """The layout of the stored values, checked against the file's length."""
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    n_frames = max(1, int(dataset.get("NumberOfFrames", 1) or 1))
    allocated = int(dataset.get("BitsAllocated", 16) or 16)
    stored = int(dataset.get("BitsStored", allocated) or allocated)
    pixels = Pixels(
        syntax, where.offset if where else 0, 0, rows, columns, n_frames, allocated, stored,
        int(dataset.get("HighBit", stored - 1) or stored - 1), bool(int(dataset.get("PixelRepresentation", 0) or 0)),
    )  # fmt: skip
    size = f"{columns} x {rows}" + (f" x {n_frames}" if n_frames > 1 else "")
    needed = (rows * columns * n_frames * allocated + 7) // 8
    there = max(0, length - pixels.offset)
    if where is None:
        fault = "it ends before its pixels, or they are no whole numbers (a parametric map)"
    elif dataset.get("ModalityLUTSequence"):
        fault = "its values go through a table (Modality LUT) that is not read here"
    elif rows < 1 or columns < 1 or allocated not in (1, 8, 16, 32) or not 1 <= stored <= allocated:
        fault = f"its header makes no sense ({size} pixels of {allocated} bits)"
    elif allocated == 1 and _text(dataset, "SOPClassUID") not in SEGMENTATIONS:
        fault = "its pixels have one bit each: a mask, not a scan"
    elif pixels.is_compressed and syntax not in DECODABLE:
        fault = f"its transfer syntax, {syntax_name(syntax)}, cannot be decoded here"
    elif needed > there * (_MAX_RATIO if pixels.is_compressed else 1):
        fault = f"it is truncated or damaged: its header names {size} pixels, more than the file holds"
    elif n_frames > MAX_FILES:
        fault = f"its header names {n_frames} frames"
    else:
        fault = ""
    n_bytes = there if where is None or where.n_bytes < 0 else min(where.n_bytes, there)
    return Pixels(**{**pixels.__dict__, "n_bytes": n_bytes, "fault": fault})


def syntax_name(syntax: str) -> str:
    """The name of a transfer syntax with its UID."""
    from pydicom.uid import UID

    name = _SYNTAX_NAMES.get(syntax) or UID(syntax).name
    return syntax if name == syntax else f"{name} ({syntax})"


def _frames(path: Path, dataset: Any, tags: DicomTags, pixels: Pixels) -> Iterator[Frame]:
    shared = _item(dataset, "SharedFunctionalGroupsSequence")
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    dimensions = [_pointer(item) for item in dataset.get("DimensionIndexSequence") or []]
    is_multiframe = pixels.n_frames > 1 or shared is not None or len(per_frame) > 0
    for index in range(pixels.n_frames if not pixels.fault else min(pixels.n_frames, max(1, len(per_frame)))):
        own = per_frame[index] if index < len(per_frame) else None
        # From the frame outward: what a frame says of itself, what all share, what the file says.
        layers = [*_groups(own), *_groups(shared), dataset]
        marks = {name: text for name, keywords in MARKS.items() if (text := _first_text(layers, keywords))}
        marks.update(_further_dimensions(own, dimensions))
        yield Frame(
            path=path, index=index, tags=tags, sop_class=_text(dataset, "SOPClassUID"),
            sop_uid=_text(dataset, "SOPInstanceUID"),
            number=index + 1 if is_multiframe else _whole(dataset, "InstanceNumber"),
            position=_numbers(layers if index < len(per_frame) or pixels.n_frames == 1 else layers[:-1],
                              "ImagePositionPatient", 3),
            axes=_axes(_numbers(layers, "ImageOrientationPatient", 6)),
            spacing=_spacing(_numbers(layers, "PixelSpacing", 2)),
            slope=_number(layers, "RescaleSlope", 1.0), intercept=_number(layers, "RescaleIntercept", 0.0),
            is_rescaled=bool(np.isfinite(_number(layers, "RescaleIntercept", np.nan))),
            photometric=_text(dataset, "PhotometricInterpretation"),
            thickness=_number(layers, "SliceThickness", 0.0), distance=_number(layers, "SpacingBetweenSlices", 0.0),
            pixels=pixels, marks=marks,
            segment=int(_number(layers, "ReferencedSegmentNumber", 0)),
            parts=_whole(dataset, "InConcatenationTotalNumber"),
        )  # fmt: skip


def _item(dataset: Any, keyword: str) -> Any:
    items = dataset.get(keyword) if dataset is not None else None
    return items[0] if items else None


def _groups(macros: Any) -> List[Any]:
    """The functional groups of a frame, each a dataset of its own."""
    found = [item for name in _GROUPS if (item := _item(macros, name)) is not None]
    return [group for item in found for group in (item, *_groups(item))]


def _pointer(item: Any) -> Tuple[Tuple[int, int], str]:
    tag = item.get("DimensionIndexPointer")
    return ((tag.group, tag.element) if tag is not None else (0, 0)), _text(item, "DimensionDescriptionLabel")


def _further_dimensions(own: Any, dimensions: List[Tuple[Tuple[int, int], str]]) -> Dict[str, str]:
    """Indices of a frame along dimensions other than place."""
    values = (_item(own, "FrameContentSequence") or {}).get("DimensionIndexValues")
    values = [] if values is None else list(values) if hasattr(values, "__len__") else [values]
    return {
        label or f"dimension {n}": str(value)
        for n, ((pointer, label), value) in enumerate(zip(dimensions, values), 1)
        if pointer not in _PLACE_POINTERS
    }


def _text(dataset: Any, keyword: str) -> str:
    value = dataset.get(keyword)
    if value is None:
        return ""
    text = "\\".join(str(one) for one in value) if _is_several(value) else str(value)
    return text.encode("utf-8", "replace").decode("utf-8").strip(" \0")


def _is_several(value: Any) -> bool:
    return not isinstance(value, (str, bytes)) and hasattr(value, "__len__")


def _first_text(layers: Sequence[Any], keywords: Sequence[str]) -> str:
    return next((text for keyword in keywords for layer in layers if (text := _text(layer, keyword))), "")


def _whole(dataset: Any, keyword: str) -> int:
    try:
        return int(dataset.get(keyword) or 0)
    except (TypeError, ValueError):
        return 0


def _numbers(layers: Sequence[Any], keyword: str, count: int) -> Optional[np.ndarray]:
    """The first of the layers' values that is ``count`` finite numbers."""
    for layer in layers:
        value = layer.get(keyword)
        if value is None or not _is_several(value) or len(value) != count:
            continue
        try:
            numbers = np.array([float(one) for one in value])
        except (TypeError, ValueError):
            continue
        if np.all(np.isfinite(numbers)):
            return numbers
    return None


def _number(layers: Sequence[Any], keyword: str, default: float) -> float:
    for layer in layers:
        value = layer.get(keyword)
        try:
            number = float(value[0] if _is_several(value) else value)
        except (TypeError, ValueError, IndexError):
            continue
        if np.isfinite(number):
            return number
    return default


def _axes(cosines: Optional[np.ndarray]) -> Optional[np.ndarray]:
    """(3, 3) with unit columns, or None when the two directions are none, or not perpendicular."""
    if cosines is None:
        return None
    row, column = cosines[:3], cosines[3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if min(lengths) < 0.9 or max(lengths) > 1.1 or abs(row @ column) > 0.01:
        return None
    row, column = row / lengths[0], column / lengths[1]
    column = column - (row @ column) * row
    column /= np.linalg.norm(column)
    return np.stack([row, column, np.cross(row, column)], axis=1)


def _spacing(rows_and_columns: Optional[np.ndarray]) -> Optional[Tuple[float, float]]:
    """(i, j): PixelSpacing names the distance of rows first."""
    if rows_and_columns is None or min(rows_and_columns) <= 0:
        return None
    return float(rows_and_columns[1]), float(rows_and_columns[0])
