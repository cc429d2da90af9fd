"""3D Slicer's ``.mrk.json``, read in all versions and written after its Markups schema 1.0.3.

That Slicer reads the written file with labels, descriptions and undefined points was checked with slicer-core
5.13.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict

from SAMv2Core.errors import InputError
from SAMv2Core.io.files import suffix_of
from SAMv2Core.io.points import Point, PointList, position_from, rounded, sign_of_system

_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)


def parse_mrk_json(path: Path, text: str) -> PointList:
    try:
        markups = json.loads(text)["markups"]
        kinds = [str(markup["type"]) for markup in markups]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is not a Slicer markups file.", "Save the points again from 3D Slicer.") from error
    if kinds != ["Fiducial"]:
        what = f"a markup of type {kinds[0]}" if len(kinds) == 1 else f"{len(kinds)} markups"
        raise InputError(f"{path} holds {what}, not one point list.", "Save one point list from 3D Slicer.")
    markup = markups[0]
    sign = sign_of_system(markup.get("coordinateSystem", "LPS"), path)
    units = markup.get("coordinateUnits", "mm")
    unit = units[0] if isinstance(units, list) and units else units
    if unit not in ("mm", "um"):
        raise InputError(f"{path} uses the length unit {unit!r}.", "Save it in millimeters.")
    scale = 1e-3 if unit == "um" else 1.0
    points = []
    for n, control in enumerate(markup.get("controlPoints") or [], 1):
        where = f"{path}, point {n}"
        if not isinstance(control, dict):
            raise InputError(f"{where} is damaged.", "Save the points again from 3D Slicer.")
        position = None
        if control.get("positionStatus", "defined") == "defined" and control.get("position") is not None:
            position = position_from(control["position"], [factor * scale for factor in sign], where)
        points.append(Point(str(control.get("label", "")), position, str(control.get("description", ""))))
    return PointList(tuple(points), str(markup.get("name") or path.name[: -len(suffix_of(path))]))


def _control_point(n: int, point: Point) -> Dict[str, Any]:
    position = rounded(point.position_lps)
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


def mrk_json_content(points: PointList) -> Dict[str, Any]:
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
