"""Point lists and tables as Slicer and the spreadsheets of several countries write them. All hold the points of
:data:`POINTS`."""

from __future__ import annotations

from pathlib import Path

POINTS = {"carina": (-21.4, 174.2, -494.3), "gone": None, "arch": (2.2, 162.6, -475.7)}


def _rows(sign: int = 1) -> list:
    rows = []
    for label, lps in POINTS.items():
        x, y, z = lps or (-1.0, -2.0, 3.0)  # what a point was moved from before it was taken away
        rows.append((label, sign * x, sign * y, z, int(lps is not None)))
    return rows


def slicers_csv(folder: Path, axes: str = "l,p,s") -> Path:
    """Slicer's Markups table; a point that is not placed keeps its stale position and says ``defined`` 0."""
    quoted = ",".join(f'"{name}"' for name in f"label,{axes},defined,selected,visible,locked,description".split(","))
    rows = _rows(-1 if axes.startswith("r") else 1)
    lines = [f'"{label}",{x},{y},{z},{defined},1,1,0,""' for label, x, y, z, defined in rows]
    path = folder / "slicer.csv"
    path.write_text("\n".join([quoted, *lines, ""]), encoding="utf-8")
    return path


def fcsv_with_lines(folder: Path) -> Path:
    """A description of two lines, of which the second looks like a point."""
    lines = ["# Markups fiducial file version = 5.6", "# CoordinateSystem = LPS",
             "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"]  # fmt: skip
    for n, (label, x, y, z, defined) in enumerate(_rows(), 1):
        text = '"line one\n9,9,9,9,0,0,0,1,1,1,0,no point,,,2,0"' if n == 1 else ""
        lines.append(f"{n},{x},{y},{z},0,0,0,1,1,1,0,{label},{text},,{2 * defined},0")
    path = folder / "lines.fcsv"
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return path


def spreadsheet(folder: Path, *, delimiter: str = ";", decimal: str = ",", encoding: str = "utf-8", head: str = "",
                quote: bool = False) -> Path:  # fmt: skip
    """Decimal commas, semicolons or tabs, CR LF, any encoding, and the note on the separator of one of them."""
    mark = '"' if quote else ""
    lines = [head] if head else []
    lines.append(delimiter.join(("Label", "L", "P", "S", "Größe")))
    for label, lps in POINTS.items():
        cells = [f"{mark}{value:.1f}{mark}".replace(".", decimal) for value in lps] if lps else ["", "", ""]
        lines.append(delimiter.join((label, *cells, "ü")))
    path = folder / "spreadsheet.csv"
    path.write_bytes("\r\n".join([*lines, ""]).encode(encoding))
    return path


def fcsv_of_a_spreadsheet(folder: Path, delimiter: str = ";") -> Path:
    """Slicer's list, opened in a spreadsheet and saved: lines are filled up, the decimal sign is the country's."""
    path = fcsv_with_lines(folder)
    lines = (
        path.read_text(encoding="utf-8").replace('"line one\n9,9,9,9,0,0,0,1,1,1,0,no point,,,2,0"', "").splitlines()
    )
    if delimiter == ";":
        lines = [line if line.startswith("#") else line.replace(",", ";").replace(".", ",") for line in lines]
    filled = [line + delimiter * 12 if line.startswith("#") else line for line in lines]
    path.write_text("\r\n".join([*filled, ""]), encoding="utf-8")
    return path
