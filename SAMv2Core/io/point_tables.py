"""Point lists as tables: Slicer's older ``.fcsv``, and ``.csv`` with the header ``label,l,p,s``."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any, Sequence

from SAMv2Core.errors import InputError
from SAMv2Core.io.points import Point, PointList, position_from, rounded, sign_of_system

_FCSV_COLUMNS = (
    "id", "x", "y", "z", "ow", "ox", "oy", "oz", "vis", "sel", "lock", "label", "desc", "associatedNodeID",
)  # fmt: skip
# Slicer 5 appends two unnamed columns: the position status (0 undefined, 2 defined) and whether it was
# auto-created.
_FCSV_UNDEFINED, _FCSV_DEFINED = "0", "2"


def parse_fcsv(path: Path, text: str) -> PointList:
    sign, columns, lines = sign_of_system("RAS", path), list(_FCSV_COLUMNS), []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#"):
            key, _, value = line[1:].partition("=")
            if key.strip().lower() == "coordinatesystem":
                sign = sign_of_system(value.strip(), path)
            elif key.strip().lower() == "columns":
                columns = [name.strip() for name in value.split(",")]
        elif line.strip():
            lines.append((number, line))
    points = []
    for number, line in lines:
        cells = next(csv.reader([line]))
        row = dict(zip(columns, cells))
        status = cells[len(columns)].strip() if len(cells) > len(columns) else _FCSV_DEFINED
        position = None
        if status == _FCSV_DEFINED:
            position = position_from([row.get(axis) for axis in "xyz"], sign, f"{path}, line {number}")
        points.append(Point(row.get("label", ""), position, row.get("desc", "")))
    return PointList(tuple(points), path.stem)


def parse_csv(path: Path, text: str) -> PointList:
    header = text.partition("\n")[0]
    # Spreadsheets write semicolons or tabs where the comma is the decimal sign.
    delimiter = max(",;\t", key=header.count)
    rows = list(csv.reader(io.StringIO(text), delimiter=delimiter))
    names = [name.strip() for name in rows[0]] if rows else []
    lower = [name.lower() for name in names]
    missing = [name for name in ("label", "l", "p", "s") if name not in lower]
    if missing:
        raise InputError(
            f"{path} has no column {', '.join(missing)} in its first line.",
            "Use the header label,l,p,s (mm, LPS).",
        )
    points = []
    for number, row in enumerate(rows[1:], 2):
        if not any(cell.strip() for cell in row):
            continue
        cells = dict(zip(lower, row))
        position = position_from([cells.get(axis, "") for axis in "lps"], (1, 1, 1), f"{path}, line {number}")
        extra = {
            name: value
            for name, value in zip(names, row)
            if name.lower() not in ("label", "l", "p", "s", "description")
        }
        points.append(Point(cells.get("label", ""), position, cells.get("description", ""), extra))
    return PointList(tuple(points), path.stem)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def fcsv_text(points: PointList) -> str:
    out = io.StringIO()
    out.write("# Markups fiducial file version = 5.6\n# CoordinateSystem = LPS\n")
    out.write(f"# columns = {','.join(_FCSV_COLUMNS)}\n")
    writer = csv.writer(out, lineterminator="\n")
    for n, point in enumerate(points, 1):
        position = rounded(point.position_lps)
        texts = [_one_line(point.label), _one_line(point.description), ""]
        status = _FCSV_UNDEFINED if position is None else _FCSV_DEFINED
        writer.writerow([n, *(position or [0, 0, 0]), 0, 0, 0, 1, 1, 1, 0, *texts, status, 0])
    return out.getvalue()


def csv_text(points: PointList) -> str:
    extras = list(dict.fromkeys(name for point in points for name in point.extra))
    described = ["description"] if any(point.description for point in points) else []
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["label", "l", "p", "s", *extras, *described])
    for point in points:
        position: Sequence[Any] = rounded(point.position_lps) or ["", "", ""]
        extra = [point.extra.get(name, "") for name in extras]
        writer.writerow([point.label, *position, *extra, *([point.description] if described else [])])
    return out.getvalue()
