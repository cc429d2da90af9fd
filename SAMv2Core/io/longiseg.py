"""Tracked lesions in LongiSeg's exchange file ``trackingTr.json``, which its segmentation of follow-ups starts from.

LongiSeg (DKFZ, Apache-2.0, arXiv 2605.23118) reads, for each patient, a list with one dictionary per consecutive
pair of scans: the lesion's number in the baseline's segmentation -> ``img_bl`` and ``img_fu`` (names without ending
and channel), ``bl_point``, ``fu_point_prop`` (proposed), ``fu_point`` (verified) and ``merged_lesions`` (numbers in
the follow-up; [0] when the lesion has vanished). Points are voxels x, y, z of each image; what is missing is NaN,
which is no JSON by the letter, and what that program reads and writes.

Its readers cut a point to whole voxels, so voxel k reaches from k to k + 1 there: half a voxel is added to our
indices, whose whole numbers are centers.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np

from SAMv2Core.errors import InputError
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.files import PathLike, write_text

HALF_VOXEL = 0.5
MISSING = float("nan")


@dataclass(frozen=True, eq=False)
class TrackedPoint:
    """One lesion in a pair of consecutive scans; places in LPS mm of their own scan, None where there is none.

    :param proposed_lps: where tracking found it in the later scan.
    :param verified_lps: where a person or a segmentation says it is.
    :param is_vanished: a person or a segmentation says that it is gone.
    :param partner: label of the lesion that it has merged with, or "".
    """

    label: str
    earlier_lps: Optional[np.ndarray]
    proposed_lps: Optional[np.ndarray]
    verified_lps: Optional[np.ndarray] = None
    is_vanished: bool = False
    partner: str = ""


@dataclass(frozen=True, eq=False)
class ScanPair:
    """Two consecutive scans: their names as LongiSeg has them, their grids, and the lesions."""

    earlier: str
    later: str
    earlier_grid: Grid
    later_grid: Grid
    points: Tuple[TrackedPoint, ...]


def write_tracking(
    path: PathLike, patient: str, pairs: Sequence[ScanPair], inputs: Iterable[PathLike] = ()
) -> Dict[str, int]:
    """Write the pairs of one patient into the file, which may hold others already; the number of each label.

    :raises InputError: a file that is there and is none of these.
    :raises OutputError: it cannot be written.
    """
    content = _read(path)
    numbers = numbers_of([point.label for pair in pairs for point in pair.points])
    content[patient] = [_pair(pair, numbers) for pair in pairs]
    write_text(path, json.dumps(content, indent=2), inputs)
    return numbers


def numbers_of(labels: Sequence[str]) -> Dict[str, int]:
    """The number in a label such as ``lesion 12`` when all have one of their own, else their order from 1 on."""
    distinct = list(dict.fromkeys(labels))
    found = [re.search(r"(\d+)\D*$", label) for label in distinct]
    numbers = [int(match[1]) for match in found if match is not None]
    if len(numbers) == len(distinct) == len(set(numbers)) and 0 not in numbers:
        return dict(zip(distinct, numbers))
    return {label: n for n, label in enumerate(distinct, 1)}


def scan_name(path: PathLike) -> str:
    """A scan's name without folder, ending and nnU-Net's channel: ``p1_20220111`` of ``p1_20220111_0000.nii.gz``."""
    name = re.sub(r"(\.nii(\.gz)?|\.nrrd|\.mha|\.mhd)$", "", Path(path).name)
    return re.sub(r"_\d{4}$", "", name)


def _read(path: PathLike) -> Dict[str, Any]:
    if not Path(path).exists():
        return {}
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict) or not all(isinstance(pairs, list) for pairs in content.values()):
        raise InputError(f"{path} is there and is no tracking file of LongiSeg.", "Choose another name.")
    return content


def _pair(pair: ScanPair, numbers: Dict[str, int]) -> Dict[str, Any]:
    found = {}
    for point in pair.points:
        own = numbers[point.label]
        merged = [0] if point.is_vanished else [numbers.get(point.partner, own)]
        found[str(own)] = {
            "img_bl": pair.earlier,
            "img_fu": pair.later,
            "bl_point": _voxel(pair.earlier_grid, point.earlier_lps),
            "fu_point_prop": _voxel(pair.later_grid, point.proposed_lps),
            "fu_point": _voxel(pair.later_grid, None if point.is_vanished else point.verified_lps),
            "merged_lesions": merged,
        }
    return found


def _voxel(grid: Grid, lps: Optional[np.ndarray]) -> Any:
    """Voxel x, y, z, half a voxel added; NaN without a place."""
    if lps is None:
        return MISSING
    values: List[float] = (grid.to_ijk(np.asarray(lps)[None])[0] + HALF_VOXEL).tolist()
    return [round(value, 4) for value in values]
