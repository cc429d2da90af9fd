"""Findings as nodes that Slicer shows and saves: a table of all, a table of sizes, and a plot of size over time.

All three are made from the point lists (findings.py) and rewritten when these change; nothing is read back from
them. Positions in the table are world LPS mm, as in the CSV files of ``samv2 track``.
"""

from __future__ import annotations

import csv
import math
from typing import Any, List, Optional, Sequence

import slicer
import slicer.util
import vtk

from SAMv2Core.io.files import atomic_path
from SAMv2Core.io.tables import safe_cell
from SAMv2Core.tracking.recist import ABSENT
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.scene import hierarchy, match_list, node_geometry
from SAMv2SlicerLib.track import findings, studies
from SAMv2SlicerLib.track.past import pastOf

ATTRIBUTE = "SAMv2.table"
FINDINGS, SIZES, CHART, SERIES = "findings", "sizes", "chart", "series"
ROLE_LIST = "SAMv2.lesionList"

CSV_COLUMNS = (
    "label",
    "study",
    "l",
    "p",
    "s",
    "similarity",
    "cycle_error_mm",
    "confidence",
    "status",
    "diameter_mm",
    "decision",
    "segmented",
    "proposed_mm",
    "scan",
    "state",
    "counts_mm",
    "role",
    "organ",
    "node",
    "presence",
    "presence_confidence",
    "volume_ml",
)
"""The columns of ``samv2 track`` (study 0 is the baseline), what the user decided, what a segmentation of the study
says, the length of a proposed diameter that nobody has taken over, the volume's date and name, what the user said of
the lesion itself, and what it counts in the sum (0 mm when it has vanished); role, organ
and whether it is a lymph node, and what has become of it by both scans at its place; the volume of its
segmentation."""

AS_MARKED = match_list.PointResult("", match_list.MATCHED, similarity=1.0, cycleErrorMm=0.0, confidence=1.0)
"""What ``samv2 track`` says of a lesion in its baseline."""

# Okabe and Ito's palette: series stay distinguishable in all common color vision deficiencies; markers differ, too.
COLORS = (
    (0.0, 0.45, 0.70),
    (0.90, 0.62, 0.0),
    (0.0, 0.62, 0.45),
    (0.80, 0.47, 0.65),
    (0.34, 0.71, 0.91),
    (0.84, 0.37, 0.0),
    (0.0, 0.0, 0.0),
)


def rowsFor(lesionListNode, order: Sequence[Any] = ()) -> List[dict]:
    """One dict with CSV_COLUMNS per lesion and study, baseline first; what is not known is None."""
    rows = []
    found, past = findings.findings(lesionListNode, order), pastOf(lesionListNode)
    for row, course in zip(found, findings.coursesOf(found, past)):
        of_lesion = {"role": course.role, "organ": course.organ, "node": "yes" if course.is_node else ""}
        for number, finding in enumerate(row):
            if finding.status:  # it was marked or searched here
                counts = course.size_mm(past.order + number)
                rows.append({**_asDict(number, finding), "counts_mm": counts, **of_lesion})
    return rows


def _asDict(number: int, finding) -> dict:
    volume = slicer.mrmlScene.GetNodeByID(finding.volumeID)
    lps = node_geometry.flipRASAndLPS(finding.world) if finding.world is not None else (None, None, None)
    result = finding.result if finding.result is not None else AS_MARKED
    return {
        "label": finding.label,
        "study": number,
        "l": _known(lps[0]),
        "p": _known(lps[1]),
        "s": _known(lps[2]),
        "similarity": _known(result.similarity),
        "cycle_error_mm": _known(result.cycleErrorMm),
        "confidence": _known(result.confidence),
        "status": result.status,
        "diameter_mm": _known(finding.sizeMm),
        "decision": finding.decision,
        "segmented": result.presence,
        "proposed_mm": _known(finding.proposedMm),
        "scan": studies.titleOf(volume),
        "state": result.state,
        "presence": result.looks,
        "presence_confidence": _known(result.looksConfidence),
        "volume_ml": _known(result.volumeMl),
    }


def _known(value) -> Optional[float]:
    return None if value is None or not math.isfinite(value) else float(value)


def writeCSV(path: str, lesionListNode, order: Sequence[Any] = ()) -> int:
    """Write all findings; how many rows.

    :raises OutputError: the file cannot be written.
    """
    rows = rowsFor(lesionListNode, order)
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, CSV_COLUMNS)
        writer.writeheader()
        for row in rows:
            writer.writerow({key: safe_cell(_text(value)) for key, value in row.items()})
    return len(rows)


def asText(lesionListNode, order: Sequence[Any] = ()) -> List[str]:
    """All findings as lines with tabs between the cells, the first one with the columns' names."""
    rows = [[_text(row[name]) for name in CSV_COLUMNS] for row in rowsFor(lesionListNode, order)]
    return ["\t".join(cell.replace("\t", " ") for cell in row) for row in [list(CSV_COLUMNS), *rows]]


def _text(value) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


# --- nodes -----------------------------------------------------------------------------------------------------------


def find(lesionListNode, kind: str):
    """The node of a kind (FINDINGS, SIZES, CHART) that belongs to a lesion list, or None."""
    className = "vtkMRMLPlotChartNode" if kind == CHART else "vtkMRMLTableNode"
    for node in slicer.util.getNodesByClass(className, scene=lesionListNode.GetScene()):
        if node.GetAttribute(ATTRIBUTE) == kind and node.GetNodeReferenceID(ROLE_LIST) == lesionListNode.GetID():
            return node
    return None


def update(lesionListNode, order: Sequence[Any] = ()):
    """Bring the tables and the plot up to date, making them when there are none; the table of findings."""
    table = _ensure(lesionListNode, FINDINGS, texts.findingsTableName)
    rows = rowsFor(lesionListNode, order)
    _fill(table, [(name, [row[name] for row in rows]) for name in CSV_COLUMNS])
    _updateSizes(lesionListNode, order)
    return table


def nodesOf(lesionListNode) -> List[Any]:
    """The plot and the tables of a lesion list that are there."""
    found = (find(lesionListNode, kind) for kind in (CHART, FINDINGS, SIZES))
    return [node for node in found if node is not None]


def remove(nodes: Sequence[Any]) -> None:
    """Remove tables and plots, these with their series."""
    for node in nodes:
        if node.IsA("vtkMRMLPlotChartNode"):
            _dropSeries(node, 0)
        hierarchy.removeNode(node)


def _ensure(lesionListNode, kind: str, name):
    node = find(lesionListNode, kind)
    if node is not None:
        return node
    scene, baseline = lesionListNode.GetScene(), findings.baselineOf(lesionListNode)
    className = "vtkMRMLPlotChartNode" if kind == CHART else "vtkMRMLTableNode"
    node = scene.AddNewNodeByClass(className, scene.GenerateUniqueName(name(baseline.GetName() if baseline else "")))
    node.SetAttribute(ATTRIBUTE, kind)
    node.SetNodeReferenceID(ROLE_LIST, lesionListNode.GetID())
    if baseline is not None:
        hierarchy.placeBeside(node, baseline)
    return node


def _fill(tableNode, columns) -> None:
    """Replace a table node's content; columns of texts are strings, all others numbers with NaN for what is missing."""
    with slicer.util.NodeModify(tableNode):
        table = vtk.vtkTable()
        for name, values in columns:
            isText = all(isinstance(value, str) for value in values) and len(values) > 0
            array = vtk.vtkStringArray() if isText else vtk.vtkDoubleArray()
            array.SetName(name)
            for value in values:
                array.InsertNextValue(value if isText else math.nan if value is None else float(value))
            table.AddColumn(array)
        tableNode.SetAndObserveTable(table)
        if hasattr(tableNode, "SetUseColumnTitleAsColumnHeader"):
            tableNode.SetUseColumnTitleAsColumnHeader(True)
        else:  # Slicer before 5.10
            tableNode.SetUseColumnNameAsColumnHeader(True)


def _updateSizes(lesionListNode, order: Sequence[Any]) -> None:
    """Sizes per study, one column per lesion that has any, and the plot of them."""
    volumes = findings.studiesOf(lesionListNode, order)
    rows, past = findings.findings(lesionListNode, order), pastOf(lesionListNode)
    here = range(past.order, past.order + len(volumes))
    courses = [
        course
        for course in findings.coursesOf(rows, past)
        if any(course.size_mm(n) for n in here)  # gone everywhere is no curve
    ]
    sums = findings.sums(rows, past)[past.order :]
    days = [studies.daysSince(volumes[0], volume) if volumes else None for volume in volumes]
    isDated = bool(days) and None not in days
    xName = texts.columnDays() if isDated else texts.columnStudy()
    columns = [
        (xName, [float(day) for day in days] if isDated else [float(n) for n in range(len(volumes))]),
        (texts.columnScan(), [studies.titleOf(volume) for volume in volumes]),
    ]
    columns += [
        (
            course.label,
            [course.size_mm(n) if course.readings[n].state != ABSENT else None for n in here],
        )
        for course in courses
    ]
    if sums:
        columns.append((texts.columnSum(), [item.sumMm for item in sums]))
    table = _ensure(lesionListNode, SIZES, texts.sizesTableName)
    _fill(table, columns)
    _updateChart(lesionListNode, table, xName, [name for name, _ in columns[2:]])


def _updateChart(lesionListNode, tableNode, xName: str, labels: List[str]) -> None:
    kinds = slicer.vtkMRMLPlotSeriesNode
    markers = (kinds.MarkerStyleCircle, kinds.MarkerStyleSquare, kinds.MarkerStyleDiamond, kinds.MarkerStyleCross)
    chart = _ensure(lesionListNode, CHART, texts.chartName)
    with slicer.util.NodeModify(chart):
        chart.SetTitle(texts.chartTitle())
        chart.SetXAxisTitle(xName)
        chart.SetYAxisTitle(texts.columnSize())
        _dropSeries(chart, len(labels))
        for n, label in enumerate(labels):
            series = chart.GetNthPlotSeriesNode(n)
            if series is None:
                series = chart.GetScene().AddNewNodeByClass("vtkMRMLPlotSeriesNode", label)
                series.SetHideFromEditors(True)
                chart.AddAndObservePlotSeriesNodeID(series.GetID())
            series.SetName(label)
            series.SetAndObserveTableNodeID(tableNode.GetID())
            series.SetXColumnName(xName)
            series.SetYColumnName(label)
            series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
            series.SetMarkerStyle(markers[n % len(markers)])
            series.SetColor(*COLORS[n % len(COLORS)])


def _dropSeries(chart, keep: int) -> None:
    """Remove all but the first series of a chart, with their nodes."""
    for n in reversed(range(keep, chart.GetNumberOfPlotSeriesNodes())):
        node = chart.GetNthPlotSeriesNode(n)
        chart.RemoveNthPlotSeriesNodeID(n)
        if node is not None:
            chart.GetScene().RemoveNode(node)
