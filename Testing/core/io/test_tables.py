"""Tables of all programs and countries say the same; what would run in a spreadsheet is made harmless."""

from __future__ import annotations

import csv
import io

import pytest

from SAMv2Core.errors import InputError
from SAMv2Core.io.points import Point, PointList, read_points, write_points
from SAMv2Core.io.tables import number_of, read_table, read_text, safe_cell, table_text
from Testing.files import tables


def positions(path):
    return {point.label: point.position_lps for point in read_points(path)}


@pytest.mark.parametrize("axes", ["l,p,s", "r,a,s"])
def test_slicers_own_table_with_a_point_that_is_not_placed(tmp_path, axes):
    assert positions(tables.slicers_csv(tmp_path, axes)) == tables.POINTS


def test_descriptions_of_several_lines_are_no_points(tmp_path):
    path = tables.fcsv_with_lines(tmp_path)
    assert positions(path) == tables.POINTS
    assert read_points(path).points[0].description.startswith("line one\n9,9,9")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
@pytest.mark.parametrize(("delimiter", "decimal"), [(";", ","), ("\t", ","), (";", "."), (",", ".")])
def test_spreadsheets_of_all_countries(tmp_path, encoding, delimiter, decimal):
    path = tables.spreadsheet(tmp_path, delimiter=delimiter, decimal=decimal, encoding=encoding)
    assert positions(path) == tables.POINTS
    assert read_points(path).points[0].extra == {"Größe": "ü"}


def test_quoted_decimal_commas_and_the_note_on_the_separator(tmp_path):
    assert positions(tables.spreadsheet(tmp_path, delimiter=",", quote=True)) == tables.POINTS
    assert positions(tables.spreadsheet(tmp_path, head="sep=;")) == tables.POINTS


def test_windows_1252_is_told(tmp_path, caplog):
    read_points(tables.spreadsheet(tmp_path, encoding="cp1252"))
    assert "Windows-1252" in caplog.text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("label,l,p,s\na,1,2\n", "line 2: 3 cells"),
        ("label,l,p,s\na,-21,4,174,2,-494,3\n", "line 2: 7 cells"),
        ("label,l,p,s\na,1,,3\n", "only some of its coordinates"),
        ("label,l,p,s,r,a\na,1,2,3,-1,-2\n", "l, p, s and r, a, s"),
        ("label,l,p,s,L\na,1,2,3,4\n", "two columns l"),
    ],
)
def test_rows_whose_cells_cannot_be_told_apart_are_refused(tmp_path, text, told):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=told):
        read_points(tmp_path / "a.csv")


def test_optional_cells_at_the_end_may_be_left_out(tmp_path):
    (tmp_path / "a.csv").write_text("label,l,p,s,diameter_mm\na,1,2,3\n")
    assert read_points(tmp_path / "a.csv").points == (Point("a", (1, 2, 3), extra={"diameter_mm": ""}),)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-21,4", -21.4),
        ("1.234,5", 1234.5),
        ("1,234.5", 1234.5),
        ("\N{MINUS SIGN}3.5", -3.5),
        (" 7 ", 7),
        ("1e-3", 1e-3),
    ],
)
def test_numbers_of_all_countries(text, value):
    assert number_of(text, "here") == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "1,2,3", "12 mm", "--3", "0x10"])
def test_what_is_no_number(text):
    with pytest.raises(InputError, match=r"here.*not a number"):
        number_of(text, "here")


@pytest.mark.parametrize("label", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "-"])
def test_labels_that_a_spreadsheet_would_run_are_harmless_and_come_back(tmp_path, label):
    path = tmp_path / "a.csv"
    write_points(PointList((Point(label, (1.0, -2.0, 3.0), "=x", {"note": label}),)), path)
    (header, cells) = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
    assert not any(cell[:1] in "=+-@\t" and not cell.lstrip("+-").replace(".", "").isdigit() for cell in cells if cell)
    assert read_points(path).points[0] == Point(label, (1.0, -2.0, 3.0), "=x", {"note": label})
    assert header[0] == "label"


@pytest.mark.parametrize("cell", ["-1.5", "+3", "F-1", "'quoted", "", -4, 2.5, None, "-1e-3"])
def test_other_cells_stay_as_they_are(cell):
    assert safe_cell(cell) == ("" if cell is None else str(cell))


def test_round_trip_of_a_table(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(table_text(("Name", "value"), [("=a\nb", 1.5), ("c", None)]), encoding="utf-8")
    table = read_table(path)
    assert table.names == ("Name", "value")
    assert [row.cells for row in table.rows] == [{"name": "=a\nb", "value": "1.5"}, {"name": "c", "value": ""}]


@pytest.mark.parametrize("content", [bytes(range(256)), b"PK\x03\x04\x14" + bytes(3)])
def test_what_is_no_text(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InputError, match="not a text file"):
        read_text(tmp_path / "a.csv")
