"""Point lists: order, labels, missing positions and coordinate systems survive every format."""

from __future__ import annotations

import json

import numpy as np
import pytest

from SAMv2Core.errors import InputError, OutputError
from SAMv2Core.io.points import SUFFIXES, Point, PointList, read_points, write_points

POINTS = PointList(
    (
        Point("liver, tip", (1.5, -2.25, 3.125), "status=matched; similarity=0.9"),
        Point("lost", None, "not found"),
        Point("liver, tip", (0.0, -0.0, 1e-9), 'a "quoted" text'),
        Point("Ä β", (-310.123456, 20.0, 1530.7)),
    ),
    "My list",
)


def save(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def markup(points, **more):
    return {"markups": [{"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": points, **more}]}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip(tmp_path, suffix):
    path = tmp_path / ("Punkte ü" + suffix)
    write_points(POINTS, path)
    again = read_points(path)
    assert again.labels == POINTS.labels
    assert [point.description for point in again] == [point.description for point in POINTS]
    assert [point.position_lps is None for point in again] == [False, True, False, False]
    np.testing.assert_allclose(again.positions_lps, POINTS.positions_lps, atol=1e-6)
    write_points(again, tmp_path / ("twice" + suffix))
    assert read_points(tmp_path / ("twice" + suffix)).points == again.points


def test_written_json_is_what_slicer_expects(tmp_path):
    write_points(POINTS, tmp_path / "a.mrk.json")
    content = json.loads((tmp_path / "a.mrk.json").read_text(encoding="utf-8"))
    assert content["@schema"].endswith("markups-schema-v1.0.3.json#")
    (markups,) = content["markups"]
    assert markups["type"] == "Fiducial"
    assert markups["coordinateSystem"] == "LPS"
    assert markups["name"] == "My list"
    assert markups["lastUsedControlPointNumber"] == 4
    first, lost = markups["controlPoints"][:2]
    assert first["position"] == [1.5, -2.25, 3.125]
    assert first["positionStatus"] == "defined"
    assert lost["positionStatus"] == "undefined"
    assert "position" not in lost  # nothing that could be taken for a point at the origin
    ids = [point["id"] for point in markups["controlPoints"]]
    assert len(set(ids)) == len(ids)


def test_written_fcsv(tmp_path):
    write_points(POINTS, tmp_path / "a.fcsv")
    lines = (tmp_path / "a.fcsv").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# Markups fiducial file version = ")
    assert lines[1] == "# CoordinateSystem = LPS"
    assert lines[3] == '1,1.5,-2.25,3.125,0,0,0,1,1,1,0,"liver, tip",status=matched; similarity=0.9,,2,0'
    assert lines[4].endswith(",lost,not found,,0,0")


def test_written_csv(tmp_path):
    points = PointList((Point("a", (1, 2, 3), extra={"diameter_mm": "12.5"}), Point("b", None)))
    write_points(points, tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == "label,l,p,s,diameter_mm\na,1.0,2.0,3.0,12.5\nb,,,,\n"


@pytest.mark.parametrize(("system", "expected"), [("LPS", [1, 2, 3]), ("RAS", [-1, -2, 3])])
def test_json_coordinate_systems(tmp_path, system, expected):
    content = markup([{"label": "a", "position": [1, 2, 3]}], coordinateSystem=system)
    assert read_points(save(tmp_path / "a.mrk.json", content)).positions_lps.tolist() == [expected]


def test_json_without_a_system_is_lps(tmp_path):
    content = markup([{"position": [1, 2, 3]}])
    del content["markups"][0]["coordinateSystem"]
    assert read_points(save(tmp_path / "a.mrk.json", content)).positions_lps.tolist() == [[1, 2, 3]]


def test_json_units(tmp_path):
    content = markup([{"position": [1000, 2000, 3000]}], coordinateUnits=["um", "UCUM", "micrometer"])
    np.testing.assert_allclose(read_points(save(tmp_path / "a.mrk.json", content)).positions_lps, [[1, 2, 3]])
    content["markups"][0]["coordinateUnits"] = "inch"
    with pytest.raises(InputError, match="inch"):
        read_points(save(tmp_path / "a.mrk.json", content))


@pytest.mark.parametrize(
    "control",
    [{"positionStatus": "undefined", "position": [0, 0, 0]}, {"positionStatus": "undefined", "position": ""},
     {"positionStatus": "missing", "position": [1, 2, 3]},
     {"positionStatus": "preview", "position": [1, 2, 3]},
     {"positionStatus": "undefined"}, {"position": None}, {"label": "only a label"}],
)  # fmt: skip
def test_points_without_position(tmp_path, control):
    points = read_points(save(tmp_path / "a.mrk.json", markup([control, {"position": [1, 2, 3]}])))
    assert points.points[0].position_lps is None
    assert points.points[1].position_lps == (1, 2, 3)


@pytest.mark.parametrize("kind", ["Line", "Curve", "ROI", "Plane", "Angle"])
def test_other_markups_are_refused(tmp_path, kind):
    content = markup([{"position": [1, 2, 3]}])
    content["markups"][0]["type"] = kind
    with pytest.raises(InputError, match=kind):
        read_points(save(tmp_path / "a.mrk.json", content))


@pytest.mark.parametrize(
    "content",
    ["no json", "[]", "{}", '{"markups": 3}', '{"markups": []}', '{"markups": [7]}',
     markup([5]), markup([{"position": [1, 2]}]), markup([{"position": ["x", 2, 3]}]), markup([]),
     markup([{"position": [1, 2, 3]}], coordinateSystem="IJK"), "[" * 100000],
)  # fmt: skip
def test_damaged_json(tmp_path, content):
    path = save(tmp_path / "a.mrk.json", content)
    with pytest.raises(InputError) as caught:
        read_points(path)
    assert "a.mrk.json" in caught.value.cause
    assert caught.value.remedy


@pytest.mark.parametrize(("system", "sign"), [("0", -1), ("RAS", -1), ("1", 1), ("LPS", 1)])
def test_fcsv_coordinate_systems(tmp_path, system, sign):
    text = (
        "# Markups fiducial file version = 4.11\n"
        f"# CoordinateSystem = {system}\n"
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
        'vtkMRMLMarkupsFiducialNode_0,1,2,3,0,0,0,1,1,1,0,"F, 1",a text,vtkMRMLScalarVolumeNode1\n'
    )
    points = read_points(save(tmp_path / "a.fcsv", text))
    assert points.positions_lps.tolist() == [[sign, 2 * sign, 3]]
    assert points.points[0].label == "F, 1"
    assert points.points[0].description == "a text"


def test_fcsv_columns_of_old_versions(tmp_path):
    text = "# Fiducial List file\n# columns = label,x,y,z,sel,vis\nF1,1,2,3,1,1\n"
    assert read_points(save(tmp_path / "a.fcsv", text)).points == (Point("F1", (-1, -2, 3)),)


def test_fcsv_in_voxels_is_refused(tmp_path):
    with pytest.raises(InputError, match="coordinate system '2'"):
        read_points(save(tmp_path / "a.fcsv", "# CoordinateSystem = 2\n1,1,2,3\n"))


def test_csv_with_more_columns_in_any_order(tmp_path):
    text = "\ufeffdiameter_mm,Label,L,P,S,note\r\n12.5,a,1,2,3,x\r\n,b,,,,\r\n"
    points = read_points(save(tmp_path / "a.csv", text))
    assert points.points[0] == Point("a", (1, 2, 3), extra={"diameter_mm": "12.5", "note": "x"})
    assert points.points[1].position_lps is None


def test_csv_of_a_spreadsheet(tmp_path):
    assert read_points(save(tmp_path / "a.csv", "label;l;p;s\na;1;2;3\n")).points == (Point("a", (1, 2, 3)),)


@pytest.mark.parametrize(
    ("text", "match"),
    [("label,l,p\na,1,2\n", "column s"), ("label,x,y,z\na,1,2,3\n", "column l, p"), ("", "column"),
     ("label,l,p,s\na,one,2,3\n", "line 2.*'one'"), ("label,l,p,s\n", "no points")],
)  # fmt: skip
def test_damaged_csv(tmp_path, text, match):
    with pytest.raises(InputError, match=match):
        read_points(save(tmp_path / "a.csv", text))


def test_nan_is_no_position(tmp_path):
    points = read_points(save(tmp_path / "a.csv", "label,l,p,s\na,nan,2,3\nb,1,inf,3\n"))
    assert [point.position_lps for point in points] == [None, None]
    assert np.isnan(points.positions_lps).all()


def test_unreadable_files(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_points(tmp_path / "no.mrk.json")
    with pytest.raises(InputError, match="by its name"):
        read_points(save(tmp_path / "a.txt", "label,l,p,s\n"))
    (tmp_path / "b.csv").write_bytes(b"\x80\x00\x81\x82binary")
    with pytest.raises(InputError, match="UTF-8"):
        read_points(tmp_path / "b.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError):
        read_points(tmp_path / "folder.csv")


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(OutputError, match="not supported"):
        write_points(POINTS, tmp_path / "a.xlsx")
    source = save(tmp_path / "in.csv", "label,l,p,s\na,1,2,3\n")
    with pytest.raises(OutputError, match="also an input"):
        write_points(POINTS, source, inputs=[source])
    assert read_points(source).labels == ["a"]
