"""Point lists: points with names, the unit of all matching, and their files.

3D Slicer's ``.mrk.json`` (read in all versions, written after its Markups schema 1.0.3; slicer-core 5.13 reads it with
labels, descriptions and undefined points), its older ``.fcsv``, and ``.csv`` with the header ``label,l,p,s``.

Positions are LPS mm here and in every file that is written; files that say RAS are converted on reading. A point
without a position (``positionStatus`` undefined, an empty cell) stays in its list with ``position_lps`` None, so that
order, labels and number of points survive every round trip. Labels may repeat.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from SAMv2Core.errors import InputError, OutputError
from SAMv2Core.io.files import PathLike, suffix_of, write_json, write_text
from SAMv2Core.io.tables import delimiter_of, number_of, read_table, read_text, rows_of, table_text

SUFFIXES = (".mrk.json", ".fcsv", ".csv")

# Sign of (x, y, z) that turns a file's coordinates into LPS, by what the formats call their system.
_TO_LPS = {"LPS": (1.0, 1.0, 1.0), "1": (1.0, 1.0, 1.0), "RAS": (-1.0, -1.0, 1.0), "0": (-1.0, -1.0, 1.0)}
_DECIMALS = 6  # a nanometer: positions are written without noise digits

_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)

_FCSV_COLUMNS = (
    "id", "x", "y", "z", "ow", "ox", "oy", "oz", "vis", "sel", "lock", "label", "desc", "associatedNodeID",
)  # fmt: skip
# Slicer 5 appends two unnamed columns: the position status (0 undefined, 2 defined) and whether it was
# auto-created.
_FCSV_UNDEFINED, _FCSV_DEFINED = "0", "2"

_CSV_AXES = (("l", "p", "s"), ("r", "a", "s"))
_SLICER_COLUMNS = ("defined", "selected", "visible", "locked")
_FALSE = ("0", "0.0", "false", "no")


@dataclass(frozen=True)
class Point:
    """A named point.

    :param label: as displayed; may repeat or be empty.
    :param position_lps: (l, p, s) mm, or None when it has no position.
    :param description: free text.
    :param extra: further columns of a CSV file, such as ``diameter_mm``, as text.
    """

    label: str
    position_lps: Optional[Tuple[float, float, float]]
    description: str = ""
    extra: Dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PointList:
    """Points in order, with the name of their list."""

    points: Tuple[Point, ...]
    name: str = "F"

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[Point]:
        return iter(self.points)

    @property
    def labels(self) -> List[str]:
        return [point.label for point in self.points]

    @property
    def positions_lps(self) -> np.ndarray:
        """(N, 3) float64 LPS mm; NaN where a point has no position."""
        rows = [point.position_lps or (math.nan,) * 3 for point in self.points]
        return np.array(rows, dtype=np.float64).reshape(-1, 3)


def _position_from(values: Sequence[Any], sign: Sequence[float], where: str) -> Optional[Tuple[float, float, float]]:
    """LPS mm, or None when all coordinates are missing, or one is not finite."""
    if not isinstance(values, (list, tuple)) or len(values) != 3:
        raise InputError(f"{where}: {values!r} is not a list of 3 coordinates.", "Correct the file.")
    is_empty = [value is None or str(value).strip() == "" for value in values]
    if all(is_empty):
        return None
    if any(is_empty):
        raise InputError(f"{where}: only some of its coordinates are there.", "Give all three, or none.")
    x, y, z = (number_of(value, where) * factor for value, factor in zip(values, sign))
    # Adding 0.0 turns -0.0, which the change of sign makes of 0, into 0.0.
    return (x + 0.0, y + 0.0, z + 0.0) if all(map(math.isfinite, (x, y, z))) else None


def _sign_of_system(system: Any, path: Path) -> Tuple[float, float, float]:
    key = str(system).strip().upper()
    if key not in _TO_LPS:
        raise InputError(f"{path} uses the coordinate system {system!r}.", "Save it in LPS or RAS.")
    return _TO_LPS[key]


def _rounded(position: Optional[Sequence[float]]) -> Optional[List[float]]:
    return None if position is None else [round(float(value), _DECIMALS) + 0.0 for value in position]


def _parse_mrk_json(path: Path, text: str) -> PointList:
    try:
        markups = json.loads(text)["markups"]
        kinds = [str(markup["type"]) for markup in markups]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is not a Slicer markups file.", "Save the points again from 3D Slicer.") from error
    if kinds != ["Fiducial"]:
        what = f"a markup of type {kinds[0]}" if len(kinds) == 1 else f"{len(kinds)} markups"
        raise InputError(f"{path} holds {what}, not one point list.", "Save one point list from 3D Slicer.")
    markup = markups[0]
    sign = _sign_of_system(markup.get("coordinateSystem", "LPS"), path)
    units = markup.get("coordinateUnits", "mm")
    unit = units[0] if isinstance(units, list) and units else units
    if unit not in ("mm", "um"):
        raise InputError(f"{path} uses the length unit {unit!r}.", "Save it in millimeters.")
    scale = 1e-3 if unit == "um" else 1.0
    points = []
    controls = markup.get("controlPoints") or []
    if not isinstance(controls, list):
        raise InputError(f"{path} is damaged: its control points are no list.", "Save it again from 3D Slicer.")
    for n, control in enumerate(controls, 1):
        where = f"{path}, point {n}"
        if not isinstance(control, dict):
            raise InputError(f"{where} is damaged.", "Save the points again from 3D Slicer.")
        position = None
        if control.get("positionStatus", "defined") == "defined" and control.get("position") is not None:
            position = _position_from(control["position"], [factor * scale for factor in sign], where)
        label, description = (str(control.get(name) or "") for name in ("label", "description"))
        points.append(Point(label, position, description))
    return PointList(tuple(points), str(markup.get("name") or path.name[: -len(suffix_of(path))]))


def _control_point(n: int, point: Point) -> Dict[str, Any]:
    position = _rounded(point.position_lps)
    return {
        "id": str(n),
        "label": point.label,
        "description": point.description,
        "associatedNodeID": "",
        # No position at all rather than zeros, which a reader that ignores positionStatus would take for a
        # point.
        **({} if position is None else {"position": position}),
        "orientation": [-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0],
        "selected": True,
        "locked": False,
        "visibility": True,
        "positionStatus": "undefined" if position is None else "defined",
    }


def _mrk_json_content(points: PointList) -> Dict[str, Any]:
    return {
        "@schema": _SCHEMA,
        "markups": [
            {
                "type": "Fiducial",
                "name": points.name,
                "coordinateSystem": "LPS",
                "coordinateUnits": "mm",
                "locked": False,
                "fixedNumberOfControlPoints": False,
                "labelFormat": "%N-%d",
                "lastUsedControlPointNumber": len(points),
                "controlPoints": [_control_point(n, point) for n, point in enumerate(points, 1)],
                "measurements": [],
                "display": {
                    "visibility": True,
                    "opacity": 1.0,
                    "color": [0.4, 1.0, 1.0],
                    "selectedColor": [1.0, 0.5, 0.0],
                    "propertiesLabelVisibility": True,
                    "pointLabelsVisibility": True,
                    "textScale": 3.0,
                    "glyphType": "Sphere3D",
                    "glyphScale": 2.0,
                    "glyphSize": 5.0,
                    "useGlyphScale": True,
                },
            }
        ],
    }


def _parse_fcsv(path: Path, text: str) -> PointList:
    sign, columns = _sign_of_system("RAS", path), list(_FCSV_COLUMNS)
    lines = text.splitlines(keepends=True)
    n_comments = next((n for n, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    body = "".join(lines[n_comments:])
    delimiter = delimiter_of(body)
    for line in lines[:n_comments]:
        # A spreadsheet fills all lines up to the same number of cells.
        key, _, value = line.strip().rstrip(delimiter).lstrip("#").partition("=")
        if key.strip().lower() == "coordinatesystem":
            sign = _sign_of_system(value.strip(), path)
        elif key.strip().lower() == "columns":
            columns = [name.strip() for name in re.split(f"[,{delimiter}]", value)]
    points = []
    for number, cells in rows_of(body, path, delimiter):
        if cells[0].startswith("#"):
            continue
        where = f"{path}, line {n_comments + number}"
        row = dict(zip(columns, cells))
        status = cells[len(columns)].strip() if len(cells) > len(columns) else _FCSV_DEFINED
        position = None
        if not all(name in row for name in (*"xyz", *({"label"} & set(columns)))):
            raise InputError(f"{where}: {len(cells)} cells under {len(columns)} columns.", "Complete the row.")
        if status == _FCSV_DEFINED:
            position = _position_from([row[axis] for axis in "xyz"], sign, where)
        points.append(Point(row.get("label", ""), position, row.get("desc", "")))
    return PointList(tuple(points), path.stem)


def _read_csv(path: Path) -> PointList:
    """Own tables (label,l,p,s and any others) and those of Slicer's Markups (l,p,s or r,a,s; defined, ...)."""
    table = read_table(path, ("label", *"lpsra"))
    lower = [name.lower() for name in table.names]
    axes = next((axes for axes in _CSV_AXES if set(axes) <= set(lower)), None)
    missing = [name for name in ("label", *(() if axes else "lps")) if name not in lower]
    if axes is None or missing:
        raise InputError(
            f"{path} has no column {', '.join(missing)} in its first line.",
            "Use the header label,l,p,s (mm, LPS).",
        )
    if len({axes for axes in _CSV_AXES if set(axes) <= set(lower)}) > 1:
        raise InputError(f"{path} has columns l, p, s and r, a, s.", "Keep three of them.")
    sign = _TO_LPS["RAS" if axes == ("r", "a", "s") else "LPS"]
    own = {"label", *axes, "description"}
    is_slicers = set(_SLICER_COLUMNS) <= set(lower)
    points = []
    for row in table.rows:
        cells = row.cells
        is_defined = cells.get("defined", "").strip().lower() not in _FALSE
        position = (
            _position_from([cells[axis] for axis in axes], sign, f"{path}, line {row.line}") if is_defined else None
        )
        extra = {
            name: cells.get(name.lower(), "")
            for name in table.names
            if name and name.lower() not in own and not (is_slicers and name.lower() in _SLICER_COLUMNS)
        }
        points.append(Point(cells["label"], position, cells.get("description", ""), extra))
    return PointList(tuple(points), path.stem)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _fcsv_text(points: PointList) -> str:
    out = io.StringIO()
    out.write("# Markups fiducial file version = 5.6\n# CoordinateSystem = LPS\n")
    out.write(f"# columns = {','.join(_FCSV_COLUMNS)}\n")
    writer = csv.writer(out, lineterminator="\n")
    for n, point in enumerate(points, 1):
        position = _rounded(point.position_lps)
        texts = [_one_line(point.label), _one_line(point.description), ""]
        status = _FCSV_UNDEFINED if position is None else _FCSV_DEFINED
        writer.writerow([n, *(position or [0, 0, 0]), 0, 0, 0, 1, 1, 1, 0, *texts, status, 0])
    return out.getvalue()


def _csv_text(points: PointList) -> str:
    extras = list(dict.fromkeys(name for point in points for name in point.extra))
    described = ["description"] if any(point.description for point in points) else []
    rows = []
    for point in points:
        position: Sequence[Any] = _rounded(point.position_lps) or ["", "", ""]
        extra = [point.extra.get(name, "") for name in extras]
        rows.append([point.label, *position, *extra, *([point.description] if described else [])])
    return table_text(["label", "l", "p", "s", *extras, *described], rows)


def read_points(path: PathLike) -> PointList:
    """Read a point list.

    Parameters
    ----------
    path : path
        ``.mrk.json`` (one Fiducial markup), ``.fcsv`` or ``.csv`` with header ``label,l,p,s``.

    Returns
    -------
    PointList
        Positions in LPS mm, in file order; points without a position included. ``.positions_lps`` is the (N, 3) array.

    Raises
    ------
    InputError
        Missing, another format or markup type, no points, coordinates that are no numbers.

    Examples
    --------
    >>> import SAMv2Core as s
    >>> s.write_points(s.PointList((s.Point("carina", (1.5, -20.0, 310.0)), s.Point("lost", None))), "points.mrk.json")
    >>> s.read_points("points.mrk.json").positions_lps.tolist()
    [[1.5, -20.0, 310.0], [nan, nan, nan]]
    """
    path = Path(path)
    suffix = suffix_of(path)
    if suffix == ".csv":
        points = _read_csv(path)
    elif suffix == ".fcsv":
        points = _parse_fcsv(path, read_text(path))
    elif suffix in (".mrk.json", ".json"):
        points = _parse_mrk_json(path, read_text(path))
    else:
        raise InputError(f"{path} is not a point list by its name.", f"Use a file of type {', '.join(SUFFIXES)}.")
    if not points.points:
        raise InputError(f"{path} holds no points.", "Place at least one point.")
    return points


def write_points(points: PointList, path: PathLike, inputs: Iterable[PathLike] = ()) -> None:
    """Write a point list as ``.mrk.json``, ``.fcsv`` or ``.csv`` (by the suffix), LPS mm, atomically.

    Parameters
    ----------
    points : PointList
    path : path
    inputs : iterable of paths, optional
        Files that were read; overwriting one is refused.

    Raises
    ------
    OutputError
        Another suffix, or see :func:`SAMv2Core.io.files.check_output`.

    Examples
    --------
    See :func:`read_points`.
    """
    suffix = suffix_of(path)
    if suffix == ".mrk.json":
        write_json(path, _mrk_json_content(points), inputs)
    elif suffix == ".fcsv":
        write_text(path, _fcsv_text(points), inputs)
    elif suffix == ".csv":
        write_text(path, _csv_text(points), inputs)
    else:
        raise OutputError(
            f"{path} cannot be written: point lists of type {suffix or 'no suffix'} are not supported.",
            f"Choose a name that ends in {', '.join(SUFFIXES)}.",
        )
