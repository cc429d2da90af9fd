"""One DICOM series as one volume.

Every file is looked at on its own, because a folder holds what it holds: several series, scouts within a
series, slices that were lost, two phases in one series, a tilted gantry. Files are told apart by their
content, sorted by their position along the slice normal, and stacked; what was odd is reported as a warning,
what would make a wrong volume as an error. The geometry is the one of the positions in the files, not of tags
such as SliceThickness.

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
import SimpleITK as sitk

from SAMv2Core.errors import InputError
from SAMv2Core.io.dicom_header import MAX_FILES, DicomTags, Slice, files_of, read_headers
from SAMv2Core.io.files import PathLike, suffix_of
from SAMv2Core.io.itk import matrix_of, quiet_itk

# Positions closer than this are the same slice; gaps that differ by less are equal (positions have 3 decimals
# or so).
_SAME_POSITION_MM = 0.01
_GAP_TOLERANCE = 0.02  # of the slice distance

_MAX_ZIP_BYTES = 16 << 30


class SeriesContent(NamedTuple):
    """array (z, y, x) with rescale applied; ijk_to_lps (4, 4); tags; warnings for the user."""

    array: np.ndarray
    ijk_to_lps: np.ndarray
    tags: DicomTags
    warnings: List[str]


def _choose(series: Dict[str, List[Slice]], wanted: Optional[str], path: Path) -> List[Slice]:
    listing = "; ".join(
        f"{uid} ({slices[0].tags.modality or '?'}, {slices[0].tags.series_description or 'no description'}, "
        f"{len(slices)} image{'s' if len(slices) != 1 else ''})"
        for uid, slices in sorted(series.items())
    )
    if not series:
        raise InputError(f"{path} holds no DICOM images.", "Choose the folder of a DICOM series, or a volume file.")
    if wanted is not None:
        if wanted not in series:
            raise InputError(f"{path} holds no series {wanted}. It holds: {listing}.", "Choose one of these.")
        return series[wanted]
    if len(series) > 1:
        raise InputError(
            f"{path} holds {len(series)} DICOM series: {listing}.",
            "Choose one with --series UID (series=... in Python).",
        )
    return next(iter(series.values()))


def _same_stack(slices: List[Slice], path: Path, warnings: List[str]) -> List[Slice]:
    """The largest group of one size, spacing and orientation; others (scouts) are left out; warned."""
    groups: Dict[Tuple, List[Slice]] = {}
    for one in slices:
        key = (one.size[:2], tuple(np.round(one.axes.ravel(), 3) + 0.0), tuple(np.round(one.spacing[:2], 3)))
        groups.setdefault(key, []).append(one)
    largest = max(groups.values(), key=len)
    n_others = len(slices) - len(largest)
    if n_others:
        warnings.append(f"{path}: {n_others} images of another size or orientation (scouts?) were left out.")
    return largest


def _sorted_by_position(slices: List[Slice], path: Path, warnings: List[str]) -> Tuple[List[Slice], np.ndarray]:
    """Slices from low to high along the normal, one per position, and these positions in mm."""
    normal = slices[0].axes[:, 2]
    ordered = sorted(slices, key=lambda one: (float(one.position @ normal), one.number, str(one.path)))
    depths = np.array([float(one.position @ normal) for one in ordered])
    first = np.concatenate([[True], np.diff(depths) > _SAME_POSITION_MM])
    n_positions, n_slices = int(first.sum()), len(ordered)
    if n_positions < 2:
        raise InputError(f"{path} holds a single slice position, not a volume.", "Choose a volumetric series.")
    if n_slices % n_positions == 0 and n_slices > n_positions:
        raise InputError(
            f"{path}: the series holds {n_slices // n_positions} images at each position "
            "(phases, echoes or repetitions).",
            "Split it into one series per phase (3D Slicer's DICOM module does it).",
        )
    if n_slices > n_positions:
        warnings.append(f"{path}: {n_slices - n_positions} images repeat the position of another and were left out.")
    return [one for one, keep in zip(ordered, first) if keep], depths[first]


def _stack(slices: List[Slice], path: Path) -> np.ndarray:
    """(n, rows, columns), rescale applied; the common type of all slices."""
    planes: List[np.ndarray] = []
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    for one in slices:
        reader.SetFileName(str(one.path))
        try:
            with quiet_itk():
                plane = sitk.GetArrayFromImage(reader.Execute())
        except RuntimeError as error:
            raise InputError(f"{one.path} is damaged or truncated.", "Export the series again.") from error
        planes.append(plane.reshape(plane.shape[-2:]))
    dtype = np.result_type(*{plane.dtype for plane in planes})
    if dtype == np.float64:  # a rescale slope that is not whole
        dtype = np.dtype(np.float32)
    array = np.empty((len(planes), *planes[0].shape), dtype)
    for n, plane in enumerate(planes):
        array[n] = plane
    return array


def _evenly_spaced(array: np.ndarray, depths: np.ndarray, path: Path, warnings: List[str]) -> Tuple[np.ndarray, float]:
    """The stack on even positions, and their distance; gaps are filled by interpolation, with a warning."""
    gaps = np.diff(depths)
    step = float(np.median(gaps))
    if np.all(np.abs(gaps - step) <= _GAP_TOLERANCE * step):
        return array, float(gaps.mean())
    n_missing = int(np.sum(np.maximum(np.round(gaps / step) - 1, 0)))
    n_even = round(float(depths[-1] - depths[0]) / step) + 1
    if n_even > 4 * len(depths):
        raise InputError(f"{path}: its slices are too far apart from each other ({gaps.max():.0f} mm gap).",
                         "Choose a series without gaps.")  # fmt: skip
    step = float(depths[-1] - depths[0]) / (n_even - 1)
    what = f"{n_missing} slices are missing" if n_missing else "its slices are unevenly spaced"
    warnings.append(
        f"{path}: {what} (gaps {gaps.min():.2f} to {gaps.max():.2f} mm); the volume was interpolated to {step:.2f} mm."
    )
    position = np.interp(depths[0] + step * np.arange(n_even), depths, np.arange(len(depths)))
    lower = np.minimum(position.astype(int), len(depths) - 2)
    even = np.empty((n_even, *array.shape[1:]), array.dtype)
    for n, (low, weight) in enumerate(zip(lower, position - lower)):
        plane = array[low] * (1 - weight) + array[low + 1] * weight
        even[n] = np.round(plane) if array.dtype.kind in "iu" else plane
    return even, step


def _geometry(slices: List[Slice], step: float, path: Path, warnings: List[str]) -> np.ndarray:
    """4x4 LPS matrix whose third column follows the slice positions: sheared for a tilted gantry."""
    first, last = slices[0], slices[-1]
    matrix = np.eye(4)
    matrix[:3, 0] = first.axes[:, 0] * first.spacing[0]
    matrix[:3, 1] = first.axes[:, 1] * first.spacing[1]
    normal = first.axes[:, 2]
    along = last.position - first.position
    along *= step / float(along @ normal)
    matrix[:3, 2] = along
    matrix[:3, 3] = first.position
    tilt = float(np.degrees(np.arccos(np.clip(step / np.linalg.norm(along), -1, 1))))
    if tilt > 0.1:
        warnings.append(f"{path}: the gantry was tilted by {tilt:.1f} degrees; the sheared geometry is kept.")
    return matrix


def _multiframe(one: Slice) -> Tuple[np.ndarray, np.ndarray]:
    """Array and matrix of a file that holds a whole volume (enhanced CT or MR)."""
    try:
        with quiet_itk():
            image = sitk.ReadImage(str(one.path), imageIO="GDCMImageIO")
    except RuntimeError as error:
        raise InputError(f"{one.path} is damaged or truncated.", "Export the series again.") from error
    array = sitk.GetArrayFromImage(image)
    return (array.astype(np.float32) if array.dtype == np.float64 else array), matrix_of(image)


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

    :param series: SeriesInstanceUID, when there are several.
    :raises InputError: no DICOM images, several series (listed), several phases, damaged files.
    """
    path = Path(path)
    if path.is_file() and suffix_of(path) == ".zip":
        with _unpacked(path) as folder:
            return _read_folder(files_of(folder), series, path)
    return _read_folder([path] if path.is_file() else files_of(path), series, path)


def _read_folder(files: Sequence[Path], series: Optional[str], path: Path) -> SeriesContent:
    warnings: List[str] = []
    slices = _choose(read_headers(files), series, path)
    volumes = [one for one in slices if len(one.size) > 2 and one.size[2] > 1]
    if volumes:
        if len(volumes) > 1:
            raise InputError(f"{path} holds {len(volumes)} multi-frame images in one series.", "Choose one file.")
        array, matrix = _multiframe(volumes[0])
        return SeriesContent(array, matrix, volumes[0].tags, warnings)
    slices = _same_stack(slices, path, warnings)
    slices, depths = _sorted_by_position(slices, path, warnings)
    array, step = _evenly_spaced(_stack(slices, path), depths, path, warnings)
    return SeriesContent(array, _geometry(slices, step, path, warnings), slices[0].tags, warnings)
