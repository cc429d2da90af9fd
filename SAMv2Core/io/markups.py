"""Point lists in files: 3D Slicer's ``.mrk.json`` and ``.fcsv``, and ``.csv``.

Positions are LPS mm here and in every file that is written; files that say RAS are converted on reading. A
point without a position (``positionStatus`` undefined, an empty cell) stays in the list, so that order,
labels and number of points survive every round trip.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Iterable

from SAMv2Core.errors import InputError, OutputError
from SAMv2Core.io.files import PathLike, suffix_of, write_json, write_text
from SAMv2Core.io.markups_json import mrk_json_content, parse_mrk_json
from SAMv2Core.io.point_tables import csv_text, fcsv_text, parse_csv, parse_fcsv
from SAMv2Core.io.points import Point, PointList

__all__ = ["SUFFIXES", "Point", "PointList", "read_points", "write_points"]

SUFFIXES = (".mrk.json", ".fcsv", ".csv")


def read_points(path: PathLike) -> PointList:
    """Read a point list: ``.mrk.json`` (one Fiducial markup), ``.fcsv`` or ``.csv`` with header
    ``label,l,p,s``.

    :returns: positions in LPS mm, in file order; points without a position included.
    :raises InputError: missing, another format or markup type, no points, coordinates that are no numbers.
    """
    path = Path(path)
    readers = {".mrk.json": parse_mrk_json, ".json": parse_mrk_json, ".fcsv": parse_fcsv, ".csv": parse_csv}
    reader = readers.get(suffix_of(path))
    if reader is None:
        raise InputError(f"{path} is not a point list by its name.", f"Use a file of type {', '.join(SUFFIXES)}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.", "Check the path.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text file in UTF-8.", "Save the points again.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.", "Check its permissions.") from error
    try:
        points = reader(path, text)
    except csv.Error as error:
        raise InputError(f"{path} is not a valid table ({error}).", "Save the points again.") from error
    if not points.points:
        raise InputError(f"{path} holds no points.", "Place at least one point.")
    return points


def write_points(points: PointList, path: PathLike, inputs: Iterable[PathLike] = ()) -> None:
    """Write a point list as ``.mrk.json``, ``.fcsv`` or ``.csv`` (by the suffix), LPS mm, atomically.

    :param inputs: files that were read; overwriting one is refused.
    :raises OutputError: another suffix, or see :func:`SAMv2Core.io.files.check_output`.
    """
    suffix = suffix_of(path)
    if suffix == ".mrk.json":
        write_json(path, mrk_json_content(points), inputs)
    elif suffix == ".fcsv":
        write_text(path, fcsv_text(points), inputs)
    elif suffix == ".csv":
        write_text(path, csv_text(points), inputs)
    else:
        raise OutputError(
            f"{path} cannot be written: point lists of type {suffix or 'no suffix'} are not supported.",
            f"Choose a name that ends in {', '.join(SUFFIXES)}.",
        )
