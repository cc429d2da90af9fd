"""The table of pairs to register: a CSV file, its columns named as in anatomix's registration tests where they fit.

``fixed,moving`` are needed; of the truth at least one pair of columns: ``fixed_keypoints,moving_keypoints`` (point
lists; points belong together by their names, or by their order where they have none) or ``fixed_labels,moving_labels``
(label maps: centroids, tops, bottoms and Dice). Besides: ``id``; ``initial_transform`` (an ITK file, fixed to moving,
from which every method starts); ``fixed_modality,moving_modality`` (ct, mr). Paths are relative to the table's folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np

from SAMv2Core.errors import InputError
from SAMv2Core.evaluation.landmark_points import from_labels
from SAMv2Core.io.files import PathLike
from SAMv2Core.io.points import PointList, read_points
from SAMv2Core.io.tables import read_table
from SAMv2Core.io.transforms import read_transform
from SAMv2Core.io.volume import Volume, read_volume
from SAMv2Core.preprocessing.modality import MODALITIES

FILES = (
    "fixed", "moving", "fixed_keypoints", "moving_keypoints", "fixed_labels", "moving_labels", "initial_transform",
)  # fmt: skip
COLUMNS = ("id", *FILES, "fixed_modality", "moving_modality")


@dataclass(frozen=True)
class Pair:
    """One row. Paths that the row does not give are None."""

    key: str
    fixed: Path
    moving: Path
    fixed_keypoints: Optional[Path] = None
    moving_keypoints: Optional[Path] = None
    fixed_labels: Optional[Path] = None
    moving_labels: Optional[Path] = None
    initial_transform: Optional[Path] = None
    fixed_modality: str = "auto"
    moving_modality: str = "auto"


@dataclass(frozen=True, eq=False)
class Truth:
    """What belongs together in a pair.

    :param names: of the landmarks.
    :param fixed_lps: (N, 3).
    :param moving_lps: (N, 3).
    :param label_maps: of fixed and moving, or None.
    """

    names: Tuple[str, ...]
    fixed_lps: np.ndarray
    moving_lps: np.ndarray
    label_maps: Optional[Tuple[Volume, Volume]] = None


def read_pairs(path: PathLike) -> Tuple[List[Pair], List[str]]:
    """The rows of a table, and the names of columns that are not used.

    :raises InputError: unreadable, no ``fixed`` or ``moving``, a row without truth, an id twice.
    """
    path = Path(path)
    table = read_table(path)
    names = [name.lower() for name in table.names]
    rows = [{name: value.strip() for name, value in row.cells.items()} for row in table.rows]
    if not {"fixed", "moving"} <= set(names):
        raise InputError(f"{path} has no columns fixed and moving.", f"Its columns are of {', '.join(COLUMNS)}.")
    pairs = [_pair(row, number, path) for number, row in enumerate(rows, 1) if any(row.values())]
    if not pairs:
        raise InputError(f"{path} holds no pairs.", "Add a row per pair.")
    keys = [pair.key for pair in pairs]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise InputError(f"{path}: the id {twice[0]} occurs twice.", "Give each pair an id of its own.")
    return pairs, [name for name in names if name not in COLUMNS]


def _pair(row: Mapping[str, str], number: int, table: Path) -> Pair:
    where = f"{table}, pair {number}"
    values: Dict[str, Any] = {name: table.parent / row[name] for name in FILES if row.get(name)}
    for name in ("fixed", "moving"):
        if name not in values:
            raise InputError(f"{where} names no {name} volume.", "Complete the row.")
    kinds = [{f"{side}_{kind}" for side in ("fixed", "moving")} for kind in ("keypoints", "labels")]
    if any(len(kind & set(values)) == 1 for kind in kinds) or not any(kind <= set(values) for kind in kinds):
        raise InputError(
            f"{where} has no complete truth.", "Give fixed_keypoints and moving_keypoints, or both label maps."
        )
    for side in ("fixed", "moving"):
        modality = row.get(f"{side}_modality", "").lower()
        if modality not in ("", "auto", *MODALITIES):
            raise InputError(f"{where}: there is no modality {modality!r}.", "Use ct, mr or leave it empty.")
        values[f"{side}_modality"] = modality or "auto"
    return Pair(key=row.get("id") or str(number), **values)


def initial_matrix(pair: Pair) -> np.ndarray:
    """(4, 4) LPS fixed to moving, from which all methods start; the identity when none is given."""
    return np.eye(4) if pair.initial_transform is None else read_transform(pair.initial_transform)


def read_truth(pair: Pair, names: Optional[Mapping[int, str]] = None) -> Truth:
    """The landmarks and label maps of a pair.

    :param names: of labels.
    :raises InputError: unreadable, or nothing in common.
    """
    found: Dict[str, Tuple[np.ndarray, np.ndarray]] = {}
    maps = None
    if pair.fixed_labels and pair.moving_labels:
        maps = (read_volume(pair.fixed_labels), read_volume(pair.moving_labels))
        fixed, moving = (from_labels(volume, names) for volume in maps)
        found.update({name: (fixed[name], moving[name]) for name in fixed if name in moving})
    if pair.fixed_keypoints and pair.moving_keypoints:
        found.update(_partners(read_points(pair.fixed_keypoints), read_points(pair.moving_keypoints), pair))
    if not found:
        raise InputError(f"The pair {pair.key} has no landmark in common.", "Check names and labels.")
    ends = np.array(list(found.values()), dtype=np.float64)
    return Truth(tuple(found), ends[:, 0], ends[:, 1], maps)


def _partners(fixed: PointList, moving: PointList, pair: Pair) -> Dict[str, Tuple[np.ndarray, np.ndarray]]:
    """Points that belong together: by name when all have names of their own, else by order."""
    has_names = all(len(set(points.labels)) == len(points) and all(points.labels) for points in (fixed, moving))
    ends = [dict(zip(points.labels, points.positions_lps)) for points in (fixed, moving)]
    if not has_names:
        if len(fixed) != len(moving):
            raise InputError(
                f"The pair {pair.key} has {len(fixed)} and {len(moving)} keypoints without names of their own.",
                "Name the points, or give as many on both sides in the same order.",
            )
        ends = [{f"point {n}": p for n, p in enumerate(points.positions_lps, 1)} for points in (fixed, moving)]
    common = [name for name in ends[0] if name in ends[1]]
    placed = [name for name in common if np.isfinite([ends[0][name], ends[1][name]]).all()]
    return {name: (ends[0][name], ends[1][name]) for name in placed}
