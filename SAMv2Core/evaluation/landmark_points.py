"""Landmarks of a scan: from a point list, or from a label map as centroids and extremes.

A label that the edge of the volume cuts has no meaningful centroid, and no top or bottom on the cut side: those are
left out. Tops and bottoms are the protocol of the paper's abdominal registration (arXiv 2311.15111: top and bottom of
liver and spleen, tops of the kidneys): the middle of the label's highest and lowest slice, "high" being superior in
the patient whatever the storage order.

Conventions: LPS mm; a landmark is known by its name, which is the same in all scans.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Dict, Mapping, Optional

import numpy as np
from scipy import ndimage

from SAMv2Core.errors import InputError
from SAMv2Core.geometry.grid import canonical_axes
from SAMv2Core.io.files import PathLike
from SAMv2Core.io.points import read_points
from SAMv2Core.io.volume import Volume, read_volume

Landmarks = Dict[str, np.ndarray]

POINT_SUFFIXES = (".mrk.json", ".fcsv", ".csv", ".landmarks.json")
LABEL_SUFFIXES = ("_labels", "_label", "_seg")
MIN_VOXELS = 20  # smaller labels are specks, or the tip of an organ


def scan_stem(path: Path) -> str:
    """A scan's file name without what says its format."""
    for suffix in (".nii.gz", ".seg.nrrd"):
        if path.name.endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def landmarks_beside(scan: Path, kind: str, names: Optional[Mapping[int, str]] = None) -> Landmarks:
    """The landmarks of a scan from the file beside it that has its name.

    :param kind: ``markups`` (``NAME.mrk.json``, ``.fcsv``, ``.csv`` or ``.landmarks.json``) or ``labels``
        (``NAME_labels.nii.gz``, ``_label``, ``_seg``, any volume format).
    :param names: of labels.
    :raises InputError: no such file, or unreadable.
    """
    stem = scan_stem(scan)
    if kind == "labels":
        for ending in LABEL_SUFFIXES:
            for path in sorted(scan.parent.glob(f"{_escaped(stem + ending)}.*")):
                return from_labels(read_volume(path), names)
        raise InputError(f"There is no label map beside {scan}.", f"Name it {stem}_labels.nii.gz.")
    for ending in POINT_SUFFIXES:
        path = scan.with_name(stem + ending)
        if path.exists():
            return from_points(path)
    raise InputError(f"There is no point list beside {scan}.", f"Name it {stem}.mrk.json, .fcsv or .csv.")


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "[]*?" else letter for letter in name)


def from_points(path: PathLike) -> Landmarks:
    """Named points of a file; points without a position or a name are left out.

    :raises InputError: unreadable, or a name that occurs twice.
    """
    if Path(path).name.endswith(".landmarks.json"):
        return _from_landmark_json(Path(path))
    found: Landmarks = {}
    for point in read_points(path):
        if point.position_lps is None or not point.label:
            continue
        if point.label in found:
            raise InputError(f"{path} has two points named {point.label!r}.", "Landmarks need names of their own.")
        found[point.label] = np.array(point.position_lps)
    return found


def _from_landmark_json(path: Path) -> Landmarks:
    """``{"landmarks": {name: {"lps": [...], "sure": 0..1}}}``; those of ``sure`` below 0.75 are left out."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["landmarks"]
        sure = {name: entry for name, entry in entries.items() if entry.get("sure", 1) >= 0.75}
        return {name: np.array(entry["lps"], dtype=np.float64).reshape(3) for name, entry in sure.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a landmark file ({error}).", "Use Markups (.mrk.json).") from error


def from_labels(volume: Volume, names: Optional[Mapping[int, str]] = None) -> Landmarks:
    """Centroid, top and bottom of every label that the volume shows whole.

    :param volume: whole numbers, 0 = background.
    :param names: label to name; others are called by their number.
    :returns: ``NAME``, ``NAME top``, ``NAME bottom`` to (3,) LPS mm.
    :raises InputError: not whole numbers.
    """
    array = as_labels(volume)
    axis, sign = _superior_axis(volume)
    found: Landmarks = {}
    for label, box in enumerate(ndimage.find_objects(array), 1):
        if box is None:
            continue
        voxels = np.argwhere(array[box] == label) + [part.start for part in box]
        if len(voxels) < MIN_VOXELS:
            continue
        cut_low, cut_high = voxels.min(0) == 0, voxels.max(0) == np.array(array.shape) - 1
        name = str((names or {}).get(label, f"label {label}"))
        ijk = voxels[:, ::-1]
        if not cut_low.any() and not cut_high.any():
            found[name] = volume.grid.to_lps(ijk.mean(0))
        sides = np.delete(cut_low | cut_high, 2 - axis)
        if sides.any():
            continue
        for which, is_high in (("top", sign > 0), ("bottom", sign < 0)):
            if (cut_high if is_high else cut_low)[2 - axis]:
                continue
            height = ijk[:, axis]
            slice_of_label = ijk[height == (height.max() if is_high else height.min())]
            found[f"{name} {which}"] = volume.grid.to_lps(slice_of_label.mean(0))
    return found


def as_labels(volume: Volume) -> np.ndarray:
    """(z, y, x) int32 of a label map.

    :raises InputError: not whole numbers from 0 on.
    """
    array = volume.array
    if array.dtype.kind == "f" and not (np.all(np.isfinite(array)) and np.all(array == np.rint(array))):
        raise InputError(f"{volume.source} is not a label map (it holds fractions).", "Choose the label map.")
    if array.min() < 0 or array.max() > 65535:
        raise InputError(f"{volume.source} is not a label map (values beyond 0..65535).", "Choose the label map.")
    return array.astype(np.int32)


def _superior_axis(volume: Volume) -> tuple:
    """Which of i, j, k runs along the patient, and whether towards the head (+1) or the feet (-1)."""
    axes, signs = canonical_axes(volume.ijk_to_lps)
    return axes[2], float(signs[2])


def read_label_names(path: str) -> Dict[int, str]:
    """Label names of a JSON file, ``{"1": "liver"}`` or ``{"liver": 1}``; ``FILE#KEY`` takes the object under a key.

    :raises InputError: unreadable, or nothing of that kind in it.
    """
    file, _, key = path.partition("#") if not Path(path).exists() else (path, "", "")
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
        table = dict(content[key] if key else content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read as label names ({error}).", "Check the file.") from error
    names: Dict[int, str] = {}
    for name, value in table.items():
        if str(name).isdecimal() and isinstance(value, str):
            names[int(name)] = value
        elif isinstance(value, int) and not isinstance(value, bool):
            names[value] = str(name)
    if not names:
        raise InputError(f"{path} names no labels.", 'Its form is {"1": "liver"}; FILE#KEY chooses a part of a file.')
    return names
