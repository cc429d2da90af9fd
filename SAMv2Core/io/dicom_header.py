"""Headers of DICOM files: what each image says about itself, before any pixel is read.

Every file of a folder is looked at on its own (SimpleITK's GDCM). A damaged file must not hurt: the pixel
matrix that its header names is compared with its length (GDCM alone maps 8 GiB for a 9 kB file that claims
65535 x 65535 pixels).
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import SimpleITK as sitk

from SAMv2Core.errors import InputError
from SAMv2Core.io.files import suffix_of
from SAMv2Core.io.itk import quiet_itk

# A compressed pixel matrix can be this much larger than its file; RLE reaches 64, deflate 1032, JPEG 2000 of
# one constant slice a few hundred.
_MAX_RATIO = 2000
_PIXEL_DATA = b"\xe0\x7f\x10\x00"  # the tag (7FE0,0010), little endian
_TRANSFER_SYNTAX = b"\x02\x00\x10\x00UI"  # (0002,0010)
_UNCOMPRESSED = (b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1")

MAX_FILES = 20000
_OTHER_SUFFIXES = frozenset(
    ".nii .nii.gz .nrrd .nhdr .mha .mhd .raw .json .mrk.json .csv .txt .xml .png .jpg .jpeg .pdf .html .htm "
    ".exe .dll .zip .gz .py .md .log .ini .inf".split()
)


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


class Slice(NamedTuple):
    """Header of one file: position and axes in LPS, size, spacing."""

    path: Path
    tags: DicomTags
    size: Tuple[int, ...]
    position: np.ndarray
    axes: np.ndarray  # (3, 3) columns: along i, along j, normal
    spacing: Tuple[float, ...]
    number: int


_TAG_KEYS = {
    "modality": "0008|0060",
    "study_date": "0008|0020",
    "patient_id": "0010|0020",
    "study_instance_uid": "0020|000d",
    "series_instance_uid": "0020|000e",
    "series_description": "0008|103e",
    "frame_of_reference_uid": "0020|0052",
}


def _text(reader: sitk.ImageFileReader, key: str) -> str:
    if not reader.HasMetaDataKey(key):
        return ""
    # GDCM pads values to even length; foreign character sets may hold bytes that are no UTF-8.
    return str(reader.GetMetaData(key)).encode("utf-8", "replace").decode("utf-8").strip(" \0")


def _is_uncompressed(content: mmap.mmap) -> bool:
    """By the transfer syntax in the file's meta header, which SimpleITK does not pass on."""
    start = content.find(_TRANSFER_SYNTAX, 0, 4096)
    if start < 0:
        return True  # without a meta header: implicit VR, by the standard
    length = int.from_bytes(content[start + 6 : start + 8], "little")
    return content[start + 8 : start + 8 + length].strip(b" \0") in _UNCOMPRESSED


def _pixels_are_cut(content: mmap.mmap, n_bytes: int) -> bool:
    """True when the file ends before its uncompressed pixel matrix; GDCM fills such a slice with anything."""
    start = content.find(_PIXEL_DATA)
    while start >= 0:
        # Explicit VR: tag, "OW" or "OB", two reserved bytes, length; implicit VR: tag, length.
        for header in (12, 8):
            length = int.from_bytes(content[start + header - 4 : start + header], "little")
            if n_bytes <= length <= n_bytes + 1:  # padded to even length
                return start + header + n_bytes > len(content)
        start = content.find(_PIXEL_DATA, start + 4)
    return n_bytes > len(content)


def _has_pixels(path: Path) -> bool:
    """True for a DICOM file with a pixel matrix, readable or not; a report or a plan has none."""
    content = path.read_bytes()
    return content[128:132] == b"DICM" and _PIXEL_DATA in content


def _check_size(reader: sitk.ImageFileReader, path: Path) -> None:
    bits = _text(reader, "0028|0100")
    bytes_per_pixel = max(1, int(bits) // 8) if bits.isdigit() else 1
    n_bytes = bytes_per_pixel * int(np.prod([int(n) for n in reader.GetSize()], dtype=object))
    with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if _is_uncompressed(content):
            is_damaged = _pixels_are_cut(content, n_bytes)
        else:
            is_damaged = n_bytes > len(content) * _MAX_RATIO
    if is_damaged:
        size = " x ".join(str(n) for n in reader.GetSize())
        raise InputError(
            f"{path} is truncated or damaged: its header names {size} pixels, more than the file holds.",
            "Export the series again.",
        )


def _read_header(path: Path) -> Optional[Slice]:
    """Header of a DICOM image, or None when the file is something else (report, DICOMDIR, text)."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    reader.LoadPrivateTagsOff()
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        if _has_pixels(path):
            raise InputError(f"{path} is truncated or damaged.", "Export the series again.") from error
        return None
    if reader.GetNumberOfComponents() != 1:
        return None  # a color screenshot
    _check_size(reader, path)
    tags = DicomTags(**{name: _text(reader, key) for name, key in _TAG_KEYS.items()})
    axes = np.array(reader.GetDirection(), dtype=np.float64)
    axes = axes.reshape(3, 3) if axes.size == 9 else np.eye(3)
    size = tuple(int(n) for n in reader.GetSize())
    position = np.array([*reader.GetOrigin(), 0.0, 0.0][:3], dtype=np.float64)
    number = _text(reader, "0020|0013")
    return Slice(
        path, tags, size, position, axes, tuple(float(s) for s in reader.GetSpacing()),
        int(number) if number.lstrip("-").isdigit() else 0,
    )  # fmt: skip


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


def read_headers(paths: Sequence[Path]) -> Dict[str, List[Slice]]:
    """Image headers by SeriesInstanceUID."""
    series: Dict[str, List[Slice]] = {}
    with quiet_itk():
        for path in paths:
            header = _read_header(path)
            if header is not None:
                series.setdefault(header.tags.series_instance_uid, []).append(header)
    return series
