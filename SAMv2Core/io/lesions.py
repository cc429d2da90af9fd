"""Lesions of a baseline scan, read: from a point list, from a table with a diameter, from a report, or from a
segmentation, of which each label, or each separate part of a binary one, is a lesion (:mod:`SAMv2Core.io.lesion`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
from scipy import ndimage

from SAMv2Core.errors import InputError
from SAMv2Core.geometry.diameters import axes_in_slice
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.files import PathLike, suffix_of
from SAMv2Core.io.lesion import Lesion, lesion_at, lesion_of_samples
from SAMv2Core.io.points import SUFFIXES, Point, PointList, read_points
from SAMv2Core.io.report_reader import is_report, read_report
from SAMv2Core.io.segments import Segment, read_segments
from SAMv2Core.io.tables import number_of
from SAMv2Core.io.volume import Volume, read_volume

MAX_LESIONS = 2000
"""A segmentation with more separate parts is noise or an organ map, not lesions."""


# What a scan has and a segmentation of lesions has not: most voxels labelled, or many labels strewn over the volume.
_MAX_SHARE, _MANY, _SCATTERED = 0.5, 20, 0.02
_ROUNDING = 1e-3
_YES, _NO = ("yes", "true", "1", "node"), ("", "no", "false", "0")
_LABELS_NEEDED = "Choose a label volume: 0 outside, a whole number per lesion."


def lesions_from_points(points: PointList) -> List[Lesion]:
    """The points with a position, each a lesion; what else is known of it from further columns of a table.

    These are ``diameter_mm``, ``short_mm``, ``role`` (target, non_target), ``organ`` and ``node`` (yes, no).

    :raises InputError: no point has a position, a diameter is no positive number, a role or a yes makes no sense.
    """
    found = [
        replace(lesion_at(p.label, p.position_lps, _mm_of(p, "diameter_mm")), **_facts_of(p))
        for p in points
        if p.position_lps is not None
    ]
    if not found:
        raise InputError(f"{points.name} holds no lesion: none of its points has a position.", "Place one at least.")
    return found


def lesions_from_segmentation(volume: Volume) -> List[Lesion]:
    """Each label of a segmentation, or each separate part when there is one label only, as a lesion.

    Labels are named ``lesion 1``, ``lesion 2``, ... by their value, parts by their order from the first voxel on.

    :raises InputError: nothing but 0 in it, values that are no labels (a scan's), or thousands of parts.
    """
    return [measured(f"lesion {number}", ijk, volume.grid) for number, ijk in _parts_of(volume)]


def measured(label: str, ijk: np.ndarray, grid: Grid) -> Lesion:
    """A lesion known by its voxels, with both axes and the volume of them.

    :param ijk: (n, 3) int voxel indices (x, y, z).
    """
    axes = axes_in_slice(ijk, grid)
    lesion = lesion_of_samples(label, grid.to_lps(ijk), axes.long_mm)
    volume_ml = len(ijk) * abs(float(np.linalg.det(grid.ijk_to_lps[:3, :3]))) / 1000
    return replace(lesion, short_mm=axes.short_mm, ends_lps=axes.long_lps, volume_ml=volume_ml)


def lesions_from_segments(segments: Sequence[Segment], source: PathLike) -> List[Lesion]:
    """Each named segment, or each separate part when there is one segment only, as a lesion of its name.

    :raises InputError: no segment has a voxel, or thousands of parts.
    """
    if len(segments) == 1:
        name, ijk, grid = segments[0]
        low = ijk.min(axis=0)
        mask = np.zeros((ijk.max(axis=0) - low + 1)[::-1], bool)
        mask[tuple((ijk - low)[:, ::-1].T)] = True
        parts, n_parts = ndimage.label(mask, np.ones((3, 3, 3)))
        if n_parts > MAX_LESIONS:
            raise InputError(f"{source} holds {n_parts} separate parts.", "Choose a segmentation of lesions.")
        numbers = range(1, n_parts + 1)
        segments = [
            Segment(name if n_parts == 1 else f"{name} {n}", np.argwhere(parts == n)[:, ::-1] + low, grid)
            for n in numbers
        ]
    if not segments:
        raise InputError(f"{source} holds no lesion: all its segments are empty.", "Choose a segmentation.")
    names = [segment.name for segment in segments]
    return [
        measured(name if names.count(name) == 1 else f"{name} ({names[: n + 1].count(name)})", ijk, grid)
        for n, (name, ijk, grid) in enumerate(segments)
    ]


def read_lesions(path: PathLike, scan: Optional[PathLike] = None) -> List[Lesion]:
    """Lesions from a file.

    Parameters
    ----------
    path : path
        Points (``.mrk.json``, ``.fcsv``, ``.csv``, the last with optional columns, see
        :func:`lesions_from_points`), named segments
        (``.seg.nrrd``, DICOM SEG), a DICOM report (TID 1500, :mod:`SAMv2Core.io.report_reader`), or a label volume.
    scan : path, optional
        Folder of the scan that a report speaks of; needed when it marks lesions in images.

    Returns
    -------
    list of Lesion

    Raises
    ------
    InputError
        Not readable, without lesions, or one of them makes no sense.

    Examples
    --------
    >>> import SAMv2Core as s
    >>> s.write_points(s.PointList((s.Point("L1", (0.0, 10.0, 0.0), extra={"diameter_mm": "12"}),)), "lesions.csv")
    >>> [(lesion.label, lesion.diameter_mm) for lesion in s.read_lesions("lesions.csv")]
    [('L1', 12.0)]
    """
    if Path(path).suffix.lower() == ".json" or suffix_of(path) in SUFFIXES:
        return lesions_from_points(read_points(path))
    if is_report(path):
        return list(read_report(path, scan).lesions)
    segments = read_segments(path)
    if segments is not None:
        return lesions_from_segments(segments, path)
    return lesions_from_segmentation(read_volume(path))


def _facts_of(point: Point) -> Dict[str, Any]:
    """What the further columns of a table say about a lesion."""
    node = _text_of(point, "node").lower()
    if node not in _YES + _NO:
        raise InputError(f"Lesion {point.label!r}: node is {node!r}.", "Write yes or no.")
    role = _text_of(point, "role").lower().replace("-", "_").replace(" ", "_")
    short = _mm_of(point, "short_mm")
    return {"short_mm": short, "role": role, "organ": _text_of(point, "organ"), "is_node": node in _YES}


def _mm_of(point: Point, column: str) -> Optional[float]:
    text = _text_of(point, column)
    return number_of(text, f"Lesion {point.label!r}, {column}") if text else None


def _text_of(point: Point, column: str) -> str:
    named = {name.strip().lower(): value for name, value in point.extra.items()}
    return named.get(column, "").strip()


def _parts_of(volume: Volume) -> Iterator[Tuple[int, np.ndarray]]:
    """(number, (n, 3) int voxel indices (x, y, z)) of every lesion of a segmentation."""
    array = volume.array
    if volume.modality is not None:
        raise InputError(f"{volume.source} is a {volume.modality.upper()} scan, not a segmentation.", _LABELS_NEEDED)
    if array.dtype.kind == "f":
        whole = np.round(array)
        # Resampling and float32 leave 0.9999999 of a label.
        if not np.all(np.isfinite(array)) or np.abs(array - whole).max() > _ROUNDING:
            raise InputError(f"{volume.source} is no segmentation: it holds fractions.", _LABELS_NEEDED)
        array = whole.astype(np.int64)
    labels = np.unique(array[array != 0])
    if len(labels) and labels[0] < 0:
        raise InputError(f"{volume.source} is no segmentation: it holds negative values (a CT scan?).", _LABELS_NEEDED)
    if np.count_nonzero(array) > _MAX_SHARE * array.size:
        raise InputError(
            f"{volume.source} is no segmentation of lesions: most of its voxels have a label (a scan?).", _LABELS_NEEDED
        )
    if not len(labels):
        raise InputError(f"{volume.source} holds no lesion: all its voxels are 0.", "Choose a segmentation.")
    if len(labels) == 1:
        array, n_parts = ndimage.label(array, np.ones((3, 3, 3)))
        labels = np.arange(1, n_parts + 1)
    if len(labels) > MAX_LESIONS:
        raise InputError(f"{volume.source} holds {len(labels)} separate parts.", "Choose a segmentation of lesions.")
    boxes = ndimage.find_objects(array) if labels[-1] <= MAX_LESIONS else None
    if boxes is not None and len(labels) > _MANY:
        filled = [float(np.mean(array[boxes[int(label) - 1]] == label)) for label in labels]
        if np.median(filled) < _SCATTERED:
            raise InputError(
                f"{volume.source} is no segmentation: its {len(labels)} labels are scattered all over (a scan?).",
                _LABELS_NEEDED,
            )
    for label in labels:
        box = boxes[int(label) - 1] if boxes is not None else (slice(None),) * 3
        zyx = np.argwhere(array[box] == label) + [part.start or 0 for part in box]
        yield int(label), zyx[:, ::-1]
