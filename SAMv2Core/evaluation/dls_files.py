"""The files of DLS: annotations and results in the form of the DLT repository, and predictions as a table.

* annotations, ``{id: {"source", "target", "source center", "target center", "target box", "target spacing",
  "target recist diameter", ...}}``: names of NIfTI files, positions in voxels (x, y, z), boxes
  ``[x, y, z, w, h, d]``. Recist diameters are in pixels (a mark of 24 pixels is listed as 24.0 at any spacing);
* results, ``{"results": [{... the same keys ..., "predict target center": [x, y, z]}]}`` or the list alone: each entry
  carries its own truth. ``"predict target center"`` of an *annotation* is something else: an affine initialization;
* predictions as CSV, ``id,x,y,z``; an empty cell is a lesion that was not found.

File names begin with the patient's number (``000016_01_01_002-014.nii.gz``), by which confidence intervals are grouped.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from SAMv2Core.errors import InputError
from SAMv2Core.io.files import PathLike, suffix_of, write_json, write_text
from SAMv2Core.io.tables import number_of, read_table, table_text

Triple = Tuple[float, float, float]

PREDICTED = "predict target center"
_SAME_PLACE_PX = 1.0  # centers are rounded to 0.1 pixel in annotations
_REGION_KEYS = ("region", "lesion type", "coarse_lesion_type", "organ")
_LESION_TYPES = {
    "1": "bone", "2": "abdomen", "3": "mediastinum", "4": "liver", "5": "lung", "6": "kidney", "7": "soft tissue",
    "8": "pelvis",
}  # fmt: skip


@dataclass(frozen=True)
class LesionPair:
    """One lesion in two scans; positions in voxels (x, y, z) as the annotation counts them.

    :param key: the annotation's id, or the position in a results file.
    :param target_box: (x, y, z, w, h, d), or None.
    :param target_diameter_px: long RECIST diameter in pixels, or None; likewise of the source.
    :param region: of the body, empty when the file does not say.
    """

    key: str
    source: str
    target: str
    source_center: Optional[Triple]
    target_center: Triple
    source_spacing: Optional[Triple]
    target_spacing: Triple
    target_box: Optional[Tuple[float, ...]] = None
    source_box: Optional[Tuple[float, ...]] = None
    target_diameter_px: Optional[float] = None
    source_diameter_px: Optional[float] = None
    region: str = ""

    @property
    def source_diameter_mm(self) -> float:
        """Long RECIST diameter in the source, NaN when unknown."""
        if self.source_diameter_px is None or self.source_spacing is None or self.source_diameter_px <= 0:
            return math.nan
        return self.source_diameter_px * self.source_spacing[0]

    @property
    def patient(self) -> Optional[str]:
        """The digits that both files' names begin with, or None."""
        found = [re.match(r"(\d+)[_-]", Path(name).name) for name in (self.source, self.target)]
        numbers = {match.group(1) if match else None for match in found}
        return numbers.pop() if len(numbers) == 1 else None


def patients_of(pairs: Sequence[LesionPair]) -> Optional[List[str]]:
    """The patient of each pair; None unless all are known."""
    found = [pair.patient for pair in pairs]
    return None if any(name is None for name in found) else [str(name) for name in found]


def read_annotations(path: PathLike) -> List[LesionPair]:
    """All pairs of an annotation file, in its order.

    :raises InputError: missing, not JSON, or an entry that lacks what every evaluator needs.
    """
    content = _read_json(path)
    if not isinstance(content, dict) or "results" in content or not content:
        raise InputError(
            f"{path} is not an annotation file (id -> lesion pair).", "Results belong to --predictions, not here."
        )
    return [_pair(str(key), entry, f"{path}, {key}") for key, entry in content.items()]


def read_predictions(
    path: PathLike, annotated: Optional[Sequence[LesionPair]] = None
) -> Tuple[List[LesionPair], np.ndarray]:
    """Lesion pairs and the (N, 3) predicted centers, voxels of the targets, NaN where there is none.

    With annotations, all annotated pairs come back in their order, also those without a prediction. Truth is
    that of a results file where one is given, which has more digits; a CSV has none and needs annotations.

    :raises InputError: unreadable, or predictions of lesions that are not annotated.
    """
    if suffix_of(path) == ".csv":
        if annotated is None:
            raise InputError(f"{path} names lesions by id only.", "Give --annotations too.")
        return list(annotated), _predictions_of_table(path, annotated)
    pairs, predicted = _read_results(path)
    if annotated is None:
        return pairs, predicted
    return _in_order_of(annotated, pairs, predicted, path)


def write_predictions(
    path: PathLike, pairs: Sequence[LesionPair], predicted: np.ndarray, inputs: Iterable[PathLike] = ()
) -> None:
    """Write predictions as ``.csv`` (id,x,y,z), or as JSON in the form of DLT's results.

    :raises OutputError: the file cannot be written.
    """
    if suffix_of(path) == ".csv":
        rows = (
            [pair.key, *(f"{value:.4f}" if math.isfinite(value) else "" for value in center)]
            for pair, center in zip(pairs, predicted)
        )
        write_text(path, table_text(("id", "x", "y", "z"), rows), inputs)
        return
    results = [
        {
            "id": pair.key,
            "source": pair.source,
            "target": pair.target,
            "source center": pair.source_center,
            "target center": pair.target_center,
            "source spacing": pair.source_spacing,
            "target spacing": pair.target_spacing,
            "target box": pair.target_box,
            "target recist diameter": None if pair.target_diameter_px is None else [pair.target_diameter_px],
            PREDICTED: [float(value) for value in center] if np.all(np.isfinite(center)) else None,
        }
        for pair, center in zip(pairs, predicted)
    ]
    write_json(path, {"results": results}, inputs)


def read_regions(path: PathLike) -> Dict[str, str]:
    """CSV ``id,region``: the region of each lesion.

    :raises InputError: unreadable, or without these columns.
    """
    return {row["id"]: row["region"].strip() for row in _rows(path, ("id", "region"))}


def with_regions(pairs: Sequence[LesionPair], regions: Mapping[str, str]) -> List[LesionPair]:
    """The pairs with the regions of a table; a lesion that is not in it keeps its own."""
    return [replace(pair, region=regions.get(pair.key, pair.region)) for pair in pairs]


def _read_json(path: PathLike) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.", "Check the path.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.", "Check its permissions.") from error
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}).", "Download or export it again.") from error


def _read_results(path: PathLike) -> Tuple[List[LesionPair], np.ndarray]:
    content = _read_json(path)
    entries = content.get("results", content.get("distances")) if isinstance(content, dict) else content
    if not isinstance(entries, list) or not entries:
        raise InputError(f'{path} holds no list "results".', "Give results in the form of the DLT repository, or CSV.")
    pairs, predicted = [], []
    for number, entry in enumerate(entries, 1):
        where = f"{path}, result {number}"
        pair = _pair(str(number), entry, where)
        pairs.append(replace(pair, key=str(entry["id"])) if "id" in entry else pair)
        center = _numbers(entry, PREDICTED, 3, where, required=False)
        predicted.append(center or (math.nan,) * 3)
    return pairs, np.array(predicted, dtype=np.float64).reshape(-1, 3)


def _pair(key: str, entry: Any, where: str) -> LesionPair:
    if not isinstance(entry, dict):
        raise InputError(f"{where} is not a lesion pair.", "Check the file.")
    for name in ("source", "target"):
        if not isinstance(entry.get(name), str):
            raise InputError(f'{where} has no file name "{name}".', "Check the file.")
    region = next((str(entry[name]) for name in _REGION_KEYS if entry.get(name) not in (None, "", -1)), "")
    return LesionPair(
        key=key,
        source=entry["source"],
        target=entry["target"],
        source_center=_numbers(entry, "source center", 3, where, required=False),  # type: ignore[arg-type]
        target_center=_numbers(entry, "target center", 3, where),  # type: ignore[arg-type]
        source_spacing=_numbers(entry, "source spacing", 3, where, required=False),  # type: ignore[arg-type]
        target_spacing=_numbers(entry, "target spacing", 3, where),  # type: ignore[arg-type]
        target_box=_numbers(entry, "target box", 6, where, required=False),
        source_box=_numbers(entry, "source box", 6, where, required=False),
        target_diameter_px=_long_diameter(entry.get("target recist diameter")),
        source_diameter_px=_long_diameter(entry.get("source recist diameter")),
        region=_LESION_TYPES.get(region, region),
    )


def _long_diameter(diameters: Any) -> Optional[float]:
    listed = diameters if isinstance(diameters, list) else [diameters]
    sizes = [float(value) for value in listed if isinstance(value, (int, float)) and math.isfinite(value)]
    return max(sizes) if sizes else None


def _numbers(
    entry: Mapping[str, Any], name: str, count: int, where: str, required: bool = True
) -> Optional[Tuple[float, ...]]:
    values = entry.get(name)
    if values is None and not required:
        return None
    is_list = isinstance(values, (list, tuple)) and len(values) == count
    if not is_list or not all(isinstance(v, (int, float)) and math.isfinite(v) for v in values):  # type: ignore[union-attr]
        raise InputError(f'{where}: "{name}" is not a list of {count} numbers.', "Check the file.")
    return tuple(float(value) for value in values)  # type: ignore[union-attr]


def _rows(path: PathLike, columns: Sequence[str]) -> List[Dict[str, str]]:
    """Rows of a CSV file with a header, its column names in lower case."""
    table = read_table(path, columns)
    names = [name.lower() for name in table.names]
    missing = [name for name in columns if name not in names]
    if missing:
        raise InputError(f"{path} has no column {', '.join(missing)}.", f"Its header must be {','.join(columns)}.")
    return [row.cells for row in table.rows]


def _predictions_of_table(path: PathLike, annotated: Sequence[LesionPair]) -> np.ndarray:
    row_of = {pair.key: row for row, pair in enumerate(annotated)}
    predicted = np.full((len(annotated), 3), np.nan)
    seen = set()
    for number, row in enumerate(_rows(path, ("id", "x", "y", "z")), 2):
        key = row["id"].strip()
        if key not in row_of:
            raise InputError(f"{path}, line {number}: there is no annotated lesion {key!r}.", "Check the ids.")
        if key in seen:
            raise InputError(f"{path}, line {number}: lesion {key!r} occurs twice.", "Keep one prediction of each.")
        seen.add(key)
        cells = [row[axis].strip() for axis in "xyz"]
        if all(cells):
            predicted[row_of[key]] = [number_of(cell, f"{path}, line {number}") for cell in cells]
    return predicted


def _in_order_of(
    annotated: Sequence[LesionPair], pairs: Sequence[LesionPair], predicted: np.ndarray, path: PathLike
) -> Tuple[List[LesionPair], np.ndarray]:
    """Results joined to annotations: by files and place, since DLT's results carry no ids."""
    free: Dict[Tuple[str, str], List[int]] = {}
    for row, pair in enumerate(annotated):
        free.setdefault((pair.source, pair.target), []).append(row)
    joined, out = list(annotated), np.full((len(annotated), 3), np.nan)
    for pair, center in zip(pairs, predicted):
        rows = free.get((pair.source, pair.target), [])
        near = [row for row in rows if _is_same_lesion(annotated[row], pair)]
        if not near:
            raise InputError(
                f"{path}: the lesion {pair.key} of {pair.source} and {pair.target} is not annotated (or occurs twice).",
                "Give the annotations that these results belong to, or none.",
            )
        row = min(near, key=lambda r: _distance(annotated[r], pair))
        rows.remove(row)
        own = annotated[row]
        joined[row], out[row] = replace(pair, key=own.key, region=own.region or pair.region), center
    return joined, out


def _distance(one: LesionPair, other: LesionPair) -> float:
    ends = [(one.target_center, other.target_center)]
    if one.source_center and other.source_center:
        ends.append((one.source_center, other.source_center))
    return max(float(np.abs(np.subtract(a, b)).max()) for a, b in ends)


def _is_same_lesion(one: LesionPair, other: LesionPair) -> bool:
    return _distance(one, other) <= _SAME_PLACE_PX
