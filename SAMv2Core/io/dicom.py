"""One DICOM series as one volume.

Every file is looked at on its own, because a folder holds what it holds: several series, segmentations, damaged files,
scouts within a series, slices that were lost, several phases in one series. Frames of a multi-frame file are images
like any others. :mod:`SAMv2Core.io.dicom_header` reads what each image says, :mod:`SAMv2Core.io.dicom_volumes` tells
which belong together, :mod:`SAMv2Core.io.dicom_stack` puts them where they lie; here one series is chosen. What was odd
is reported as a warning, what would make a wrong volume as an error.

Conventions: array (z, y, x); ijk = (x, y, z); LPS mm, as in DICOM itself. Tags that identify the patient are
kept in memory only (:class:`DicomTags`).
"""

from __future__ import annotations

import contextlib
import tempfile
import zipfile
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from SAMv2Core.errors import InputError
from SAMv2Core.io.dicom_header import MAX_FILES, SEGMENTATIONS, DicomTags, Found, Frame, files_of, read_headers
from SAMv2Core.io.dicom_stack import assemble, check_values
from SAMv2Core.io.dicom_volumes import check_places, choose, parts_of, without_copies
from SAMv2Core.io.files import PathLike, suffix_of

_MAX_ZIP_BYTES = 16 << 30


class SeriesContent(NamedTuple):
    """array (z, y, x) with rescale applied; ijk_to_lps (4, 4); tags; warnings for the user."""

    array: np.ndarray
    ijk_to_lps: np.ndarray
    tags: DicomTags
    warnings: List[str]


def _listed(series: Dict[str, List[Frame]]) -> str:
    return "; ".join(
        f"{uid} ({frames[0].tags.modality or '?'}, {frames[0].tags.series_description or 'no description'}, "
        f"{len(frames)} image{'s' if len(frames) != 1 else ''})"
        for uid, frames in sorted(series.items())
    )


def _is_segmentation(frames: Sequence[Frame]) -> bool:
    return frames[0].sop_class in SEGMENTATIONS


def _n_places(frames: Sequence[Frame]) -> int:
    """Copies of one image, or phases of one slice, are no volume."""
    return len({(f.path, f.index) if f.position is None else tuple(f.position) for f in frames})


def _is_unreadable(frames: Sequence[Frame]) -> bool:
    return all(frame.pixels.fault for frame in frames)


def _chosen(found: Found, wanted: Optional[str], path: Path, warnings: List[str]) -> List[Frame]:
    """The images of the series that was asked for, or of the only one that can be a volume."""
    series = found.series
    if not series:
        first = found.damaged[0] if found.damaged else None
        if first:
            raise InputError(f"{first.path} cannot be read: {first.reason}.", "Export the series again.")
        only = f"no scan, only {', '.join(sorted(set(found.others)))}" if found.others else "no DICOM images"
        raise InputError(f"{path} holds {only}.", "Choose the folder of a DICOM series, or a volume file.")
    if wanted:
        if wanted not in series:
            raise InputError(f"{path} holds no series {wanted}. It holds: {_listed(series)}.", "Choose one of these.")
        if _is_segmentation(series[wanted]):
            raise InputError(f"{path}: series {wanted} is a {SEGMENTATIONS[series[wanted][0].sop_class]}, not a scan.",
                             "Choose the scan; lesions go to --lesions.")  # fmt: skip
        return series[wanted]
    scans = {uid: frames for uid, frames in series.items() if not _is_segmentation(frames)}
    if not scans:
        raise InputError(f"{path} holds no scan, only a {SEGMENTATIONS[next(iter(series.values()))[0].sop_class]}.",
                         "Choose the scan; lesions go to --lesions.")  # fmt: skip
    whole = {uid: frames for uid, frames in scans.items() if not _is_unreadable(frames)}
    volumes = {uid: frames for uid, frames in (whole or scans).items() if _n_places(frames) > 1}
    if len(scans) > 1 and len(volumes) == 1:
        return _the_only_volume(scans, next(iter(volumes)), path, warnings)
    if len(scans) > 2 and not volumes and _are_one_stack(scans):
        warnings.append(f"{path}: each image has a series of its own; they are read as one.")
        return [frame for frames in scans.values() for frame in frames]
    if len(scans) > 1:
        raise InputError(
            f"{path} holds {len(scans)} DICOM series: {_listed(scans)}.",
            "Choose one with --series UID (series=... in Python).",
        )
    return next(iter(scans.values()))


def _the_only_volume(scans: Dict[str, List[Frame]], uid: str, path: Path, warnings: List[str]) -> List[Frame]:
    others = {other: frames for other, frames in scans.items() if other != uid}
    for frames in others.values():
        if _is_unreadable(frames):
            warnings.append(f"{frames[0].path} cannot be read: {frames[0].pixels.fault}; its series was left out.")
    single = {other: frames for other, frames in others.items() if not _is_unreadable(frames)}
    if single:
        warnings.append(f"{path}: series of single images were left out: {_listed(single)}.")
    return scans[uid]


def _are_one_stack(scans: Dict[str, List[Frame]]) -> bool:
    """Single images of one study, size and orientation."""
    first = next(iter(scans.values()))[0]
    frames = [frames[0] for frames in scans.values()]
    return first.axes is not None and all(
        frame.axes is not None
        and frame.size == first.size
        and frame.tags.study_instance_uid == first.tags.study_instance_uid
        and frame.tags.frame_of_reference_uid == first.tags.frame_of_reference_uid
        and np.abs(frame.axes - first.axes).max() < 1e-3
        for frame in frames
    )


@contextlib.contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """A folder with the files of a zip, removed afterwards. Names are made up: no path can escape."""
    with tempfile.TemporaryDirectory(prefix="samv2-") as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                members = [m for m in archive.infolist() if not m.is_dir()][: MAX_FILES + 1]
                if len(members) > MAX_FILES or sum(m.file_size for m in members) > _MAX_ZIP_BYTES:
                    raise InputError(f"{path} is too large.", "Unpack it and choose the folder of one series.")
                for n, member in enumerate(members):
                    name = f"{n:06d}{suffix_of(member.filename)}"
                    Path(folder, name).write_bytes(archive.read(member))
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise InputError(f"{path} is not a readable zip file ({error}).", "Unpack it by hand.") from error
        yield Path(folder)


def read_series(path: PathLike, series: Optional[str] = None) -> SeriesContent:
    """Read a folder (subfolders included), a zip, or one multi-frame file as one volume.

    :param series: SeriesInstanceUID, when there are several; ``UID:2`` (or ``:2``) for the second of the volumes that
        one series holds, in the order of the error that lists them.
    :raises InputError: no DICOM images, several series or volumes (listed), geometry missing, damaged files.
    """
    path = Path(path)
    if path.is_file() and suffix_of(path) == ".zip":
        with _unpacked(path) as folder:
            return _read_files(files_of(folder), series, path)
    return _read_files(dicom_files(path), series, path)


def dicom_files(path: Path) -> List[Path]:
    """The file itself, or the candidates in a folder."""
    return [path] if path.is_file() else files_of(path)


def _parsed(series: Optional[str]) -> Tuple[Optional[str], Optional[int]]:
    """UID and number of the volume, each None where it is not named."""
    uid, colon, number = (series or "").partition(":")
    if colon and not (number.isdecimal() and int(number) > 0):
        raise InputError(f"{series!r} names no series.", "Give a UID, or UID:2 for its second volume.")
    return uid or None, int(number) if colon else None


def _read_files(files: Sequence[Path], series: Optional[str], path: Path) -> SeriesContent:
    warnings: List[str] = []
    uid, number = _parsed(series)
    found = read_headers(files)
    frames = _chosen(found, uid, path, warnings)
    for damaged in found.damaged[:3]:
        warnings.append(f"{damaged.path} cannot be read: {damaged.reason}; it was left out.")
    if len(found.damaged) > 3:
        warnings.append(f"{path}: {len(found.damaged) - 3} more files cannot be read and were left out.")
    if len(frames) < 2:
        raise InputError(
            f"{path} holds a single slice, not a volume.", "Choose the folder of the whole series, or a volume file."
        )
    n_files = len({frame.path for frame in frames})
    if frames[0].parts > n_files:
        warnings.append(f"{path}: {n_files} of the {frames[0].parts} files of its image are there.")
    frames = without_copies(check_places(frames, path, warnings), path, warnings)
    frames = choose(parts_of(frames, path, warnings), number, frames[0].tags.series_instance_uid, path)
    array, matrix = assemble(frames, path, warnings)
    check_values(frames, path, warnings)
    return SeriesContent(array, matrix, frames[0].tags, warnings)
