"""The tutorial's steps, done by a script in the harness, and its pictures.

::

    python Testing/slicer/tutorial.py --output Resources/Screenshots

Two CTs that may be shown (LIDC-IDRI-0001 and -0314, TCIA, CC BY 3.0) and two simulated later scans of the second, whose
truth is known: so the script also prints how far every finding is from it. Nothing in the pictures is retouched; the
"lesions" are landmarks that stand in for lesions.
"""

import argparse
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path[:0] = [str(HERE), str(HERE.parents[1] / "SAMv2Slicer"), str(HERE.parents[1])]
    from standins.install import install

    install()

import numpy as np  # noqa: E402
import qt  # noqa: E402
import slicer  # noqa: E402
import slicer.util  # noqa: E402
import tour  # noqa: E402
import vtk  # noqa: E402
from panel_tools import close, settle  # noqa: E402
from slice_view import SliceView  # noqa: E402
from vtk.util.numpy_support import vtk_to_numpy  # noqa: E402

from SAMv2Core.geometry.grid import Grid  # noqa: E402
from SAMv2Core.io.volume import Volume, read_volume  # noqa: E402
from SAMv2Core.simulation.simulate import FOLLOW_UP, simulate_follow_up  # noqa: E402
from SAMv2SlicerLib.register import comparison  # noqa: E402
from SAMv2SlicerLib.scene import match_list, node_geometry  # noqa: E402
from SAMv2SlicerLib.track import diameters, findings, findings_table, studies  # noqa: E402

VIEW, ZOOM = 300, 2
"""Pixels of a slice view in the pictures, and how many times larger it is rendered: its texts are not smoothed."""

DATES = ("2024-03-01", "2024-09-02", "2025-03-03")
SIZES_MM = {0: (14.0, 17.0, 12.5), 1: (20.0, 18.0, 9.0), 2: (9.0, 11.5, 16.0)}
"""Diameters that the script "measures" in each study: invented, to show the plot."""

AIRWAY_LPS, AIR_HU = (2.0, -9.0, 20.0), -500
"""From the carina to a place in the airway above it, whose depth stands in for a lesion's diameter; what is air."""


def savePNG(path, pixels):
    """Write (h, w, 3) uint8, small: 64 levels per color, and a palette where 256 colors are enough."""
    pixels = np.ascontiguousarray(pixels & 0xFC)
    height, width, _ = pixels.shape
    image = qt.QImage(pixels.data, width, height, 3 * width, qt.QImage.Format_RGB888)
    if len(np.unique(pixels.reshape(-1, 3), axis=0)) <= 256:
        image = image.convertToFormat(qt.QImage.Format_Indexed8)
    image.save(str(path))


def grab(widget, path, width, height):
    """The panel as a picture."""
    widget.ui.logCollapsibleButton.collapsed = True
    widget.ui.advancedCollapsibleButton.collapsed = True
    widget.ui.storageCollapsibleButton.collapsed = True
    widget.parent.resize(width, height)
    slicer.app.processEvents()
    pixmap = widget.parent.grab()
    pixmap.save(str(path))


def views(rows, orientations=tour.ORIENTATIONS, fieldOfViewMm=None, size=VIEW):
    """(h, w, 3): a row per (volume, markups shown, world position), a column per orientation."""
    size *= ZOOM
    shown = {node for _, nodes, _ in rows for node in nodes}
    images = []
    for volume, nodes, position in rows:
        for node in shown:
            node.SetDisplayVisibility(node in nodes)
        row = []
        for orientation in orientations:
            view = SliceView(f"{volume.GetName()}-{orientation}", orientation, size)
            view.show(volume)
            if fieldOfViewMm is not None:
                view.node.SetFieldOfView(fieldOfViewMm, fieldOfViewMm, view.node.GetFieldOfView()[2])
            view.node.JumpSliceByCentering(*(float(x) for x in position))
            row.append(captioned(_smaller(view.pixels()), f"{volume.GetName()}, {orientation.lower()}"))
        images.append(np.concatenate(row, axis=1))
    for node in shown:
        node.SetDisplayVisibility(True)
    return np.concatenate(images, axis=0)


def _smaller(pixels):
    """Means of ZOOM x ZOOM pixels."""
    height, width, _ = pixels.shape
    blocks = pixels.reshape(height // ZOOM, ZOOM, width // ZOOM, ZOOM, 3)
    return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)


def captioned(pixels, text):
    """(h, w, 3): with a text in the upper left corner, as Slicer's views have it, and a frame."""
    pixels = np.ascontiguousarray(pixels)
    height, width, _ = pixels.shape
    image = qt.QImage(pixels.data, width, height, 3 * width, qt.QImage.Format_RGB888).copy()
    painter = qt.QPainter(image)
    font = painter.font()
    font.setPixelSize(13)
    painter.setFont(font)
    painter.setPen(qt.QColor(90, 90, 90))
    painter.drawRect(0, 0, width - 1, height - 1)
    painter.fillRect(1, 1, painter.fontMetrics().horizontalAdvance(text) + 14, 23, qt.QColor(0, 0, 0, 170))
    painter.setPen(qt.QColor(255, 255, 255))
    painter.drawText(8, 18, text)
    painter.end()
    return (
        np.array(image.constBits(), dtype=np.uint8)
        .reshape(height, image.bytesPerLine())[:, : 3 * width]
        .reshape(height, width, 3)
    )


def plot(chartNode, size=(640, 360)):
    """(h, w, 3): a plot node drawn by VTK's charts, which Slicer's plot view uses, too."""
    view = vtk.vtkContextView()
    view.GetRenderWindow().SetOffScreenRendering(1)
    view.GetRenderWindow().SetMultiSamples(8)
    view.GetRenderWindow().SetSize(*size)
    chart = vtk.vtkChartXY()
    view.GetScene().AddItem(chart)
    chart.SetTitle(f"{chartNode.GetTitle()}\n ")  # some space below it
    chart.GetTitleProperties().SetFontSize(14)
    chart.SetShowLegend(True)
    for axis, title in ((vtk.vtkAxis.BOTTOM, chartNode.GetXAxisTitle()), (vtk.vtkAxis.LEFT, chartNode.GetYAxisTitle())):
        chart.GetAxis(axis).SetTitle(title)
        chart.GetAxis(axis).GetTitleProperties().SetFontSize(13)
        chart.GetAxis(axis).GetLabelProperties().SetFontSize(12)
    for n in range(chartNode.GetNumberOfPlotSeriesNodes()):
        series = chartNode.GetNthPlotSeriesNode(n)
        line = chart.AddPlot(vtk.vtkChart.LINE)
        line.SetInputData(series.GetTableNode().GetTable(), series.GetXColumnName(), series.GetYColumnName())
        line.SetColorF(*series.GetColor())
        line.SetWidth(2.0)
        line.SetMarkerStyle(series.GetMarkerStyle())  # the same numbers in both
        line.SetMarkerSize(9.0)
        line.SetLabel(series.GetName())
    chart.GetAxis(vtk.vtkAxis.LEFT).SetBehavior(vtk.vtkAxis.FIXED)
    chart.GetAxis(vtk.vtkAxis.LEFT).SetRange(0, 25)
    view.GetRenderWindow().Render()
    grabber = vtk.vtkWindowToImageFilter()
    grabber.SetInput(view.GetRenderWindow())
    grabber.ReadFrontBufferOff()
    grabber.Update()
    width, height, _ = grabber.GetOutput().GetDimensions()
    pixels = vtk_to_numpy(grabber.GetOutput().GetPointData().GetScalars())
    return pixels.reshape(height, width, -1)[::-1, :, :3].copy()


def addFollowUps(path):
    """[(volume node, SimulatedFollowUp)] of two later scans of one scan."""
    baseline, made = read_volume(path), []
    for n in (1, 2):
        simulated = simulate_follow_up(baseline, FOLLOW_UP, seed=20 + n)
        volume = simulated.volume
        node = node_geometry.addVolumeNode(Volume(volume.array, volume.ijk_to_lps), f"Follow-up {n}")
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetAutoWindowLevel(False)
        node.GetDisplayNode().SetWindowLevelMinMax(-160, 240)
        made.append((node, simulated))
    return made


def matchStep(widget, template, query, folder):
    """Place two landmarks on the template; their matches in the query."""
    points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "F")
    points.CreateDefaultDisplayNodes()
    widget.panel.parameters.points = points
    landmarks, truth = tour.landmarksLPS(tour.TEMPLATE), tour.landmarksLPS(tour.QUERY)
    names = [name for name in landmarks if name in truth][:5]
    tour.placeLandmarks(widget, points, {name: landmarks[name] for name in names})
    matched = match_list.findMatchList(points, query)
    found = tour.distances(points, matched, truth)
    best = min((name for name in found if found[name] is not None), key=lambda name: found[name])
    index = names.index(best)
    savePNG(
        folder / "slicer-match.png",
        views(
            [
                (template, [points], node_geometry.pointWorld(points, index)),
                (query, [matched], node_geometry.pointWorld(matched, index)),
            ]
        ),
    )
    widget.ui.resultsTable.selectRow(index)
    grab(widget, folder / "slicer-panel-match.png", 470, 1040)
    return {"distances_mm": found, "shown": best}


def lesionStep(widget, baseline, followUps, folder):
    """Mark three places with lines, track, judge, measure; pictures of the matrix, the views and the plot."""
    landmarks = tour.landmarksLPS(tour.QUERY)
    ends = [
        landmarks["apex_left_lung"] + np.array([[-0.5], [0.5]]) * [SIZES_MM[0][0], 0, 0],
        airwayLPS(baseline, landmarks["carina"] + AIRWAY_LPS),
        landmarks["left_atrium_centre"] + np.array([[-0.5], [0.5]]) * [SIZES_MM[2][0], 0, 0],
    ]
    lines = []
    for n, pair in enumerate(ends):
        line = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsLineNode", f"L{n + 1}")
        line.CreateDefaultDisplayNodes()
        for end in pair * [-1, -1, 1]:
            line.AddControlPointWorld(vtk.vtkVector3d(*end))
        lines.append(line)
    for node, date in zip((baseline, *(node for node, _ in followUps)), DATES):
        studies.setDate(node, date)
    widget.ui.tabWidget.currentIndex = 1
    parameters = widget.panel.parameters
    parameters.baselineVolume = baseline
    parameters.followUpVolumes = [node for node, _ in followUps]
    parameters.lesionSources = lines
    widget.ui.trackButton.click()
    settle(widget, 1800)
    tracker = widget.logic.tracker
    rows = findings.findings(tracker.lesionList(), parameters.followUpVolumes)
    linePicture(baseline, lines[1], rows[1], folder)
    report = {}
    for n, row in enumerate(rows):
        for k, finding in enumerate(row[1:], 1):
            truth = followUps[k - 1][1].deformation.map_points(ends[n]) * [-1, -1, 1]
            key = f"{finding.label} in {DATES[k]}"
            isFound = finding.world is not None
            report[key] = float(np.linalg.norm(finding.world - truth.mean(axis=0))) if isFound else None
            report[f"{key}, length"] = [finding.proposedMm, float(np.linalg.norm(truth[1] - truth[0]))]
            if finding.world is not None:
                _measureAs(widget, n, k, SIZES_MM[n][k])
    widget.ui.findingsTable.setCurrentCell(0, 1)
    widget.ui.acceptFindingButton.click()
    widget.ui.findingsTable.setCurrentCell(1, 2)
    settle(widget)
    grab(widget, folder / "slicer-panel-lesions.png", 520, 1200)
    savePNG(folder / "slicer-plot.png", plot(findings_table.find(tracker.lesionList(), findings_table.CHART)))
    return report


def airwayLPS(volumeNode, place):
    """(2, 3) LPS: front and back wall of the airway around a place, by the values along the ray between them."""
    steps = place + np.arange(-20, 20, 0.25)[:, None] * [0.0, 1.0, 0.0]
    values = slicer.util.arrayFromVolume(volumeNode)
    ijk = np.rint(Grid(values.shape, node_geometry.ijkToLPS(volumeNode)).to_ijk(steps)).astype(int)
    walls = np.flatnonzero(values[tuple(ijk.T[::-1])] > AIR_HU)
    middle = len(steps) // 2
    return steps[[walls[walls < middle].max(), walls[walls > middle].min()]]


def linePicture(baseline, line, found, folder):
    """A marked diameter, and what is proposed in both later scans before anybody measures: axial above sagittal."""
    drawn = diameters.linesOf(slicer.mrmlScene.GetNodeByID(found[0].listID))
    rows = [(baseline, [line], found[0].world)]
    for finding in found[1:]:
        node = slicer.mrmlScene.GetNodeByID(finding.volumeID)
        rows.append((node, [drawn[(finding.uid, finding.volumeID)]], finding.world))
    others = [*slicer.util.getNodesByClass("vtkMRMLMarkupsNode")]
    shown = {node.GetID(): node.GetDisplayVisibility() for node in others if node.GetDisplayNode() is not None}
    for node in others:
        node.SetDisplayVisibility(False)
    for _, (item,), _ in rows:
        item.GetDisplayNode().SetGlyphScale(2.5)
        item.GetDisplayNode().SetTextScale(2.9)
    pictures = [
        np.concatenate([views([row], (name,), fieldOfViewMm=110.0) for name in ("Axial", "Sagittal")], axis=0)
        for row in rows
    ]
    savePNG(folder / "slicer-lesions.png", np.concatenate(pictures, axis=1))
    for nodeID, isVisible in shown.items():
        slicer.mrmlScene.GetNodeByID(nodeID).SetDisplayVisibility(isVisible)


def _measureAs(widget, lesion, study, length):
    """Press Measure on a cell and fit the line to a length."""
    widget.ui.findingsTable.setCurrentCell(lesion, study)
    widget.ui.measureButton.click()
    finding = widget.panel.trackTab.matrix.selected()
    line = diameters.linesOf(widget.logic.tracker.lesionList())[(finding.uid, finding.volumeID)]
    ends = node_geometry.pointsWorld(line, (0, 1))
    center, axis = ends.mean(axis=0), (ends[1] - ends[0]) / np.linalg.norm(ends[1] - ends[0])
    for n, sign in enumerate((-0.5, 0.5)):
        line.SetNthControlPointPositionWorld(n, *(center + sign * length * axis))
    settle(widget)


def registerStep(widget, baseline, followUp, simulated, folder):
    """Align the first follow-up with the baseline: checkerboards before and after."""
    widget.ui.tabWidget.currentIndex = 2
    parameters = widget.panel.parameters
    parameters.fixedVolume, parameters.movingVolume = baseline, followUp
    landmarks = np.array(list(tour.landmarksLPS(tour.QUERY).values()))
    truth = simulated.deformation.map_points(landmarks)
    place = landmarks.mean(axis=0) * [-1, -1, 1]
    before = comparison.addCheckerboard(baseline, followUp)
    widget.ui.registerButton.click()
    settle(widget, 1800)
    after = comparison.addCheckerboard(baseline, followUp)
    before.SetName("Before")
    after.SetName("After")
    grab(widget, folder / "slicer-panel-register.png", 470, 800)
    savePNG(
        folder / "slicer-registration.png",
        views([(before, [], place), (after, [], place)]),
    )
    apart = node_geometry.volumeLPSToWorld(baseline, landmarks) - node_geometry.volumeLPSToWorld(followUp, truth)
    return {"status": widget.ui.registrationCardLabel.text, "landmarks_mm": float(np.linalg.norm(apart, axis=1).mean())}


def run(folder):
    """All steps; a dict of what was measured."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    slicer.mrmlScene.Clear()
    if slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLInteractionNode") is None:
        slicer.mrmlScene.AddNewNodeByClass("vtkMRMLInteractionNode")
    template, query = tour.addScan(tour.TEMPLATE, "Template"), tour.addScan(tour.QUERY, "Query")
    widget = tour.openPanel()
    report = {"match": matchStep(widget, template, query, folder)}
    query.SetName("Baseline")
    followUps = addFollowUps(tour.QUERY)
    report["lesions_mm"] = lesionStep(widget, query, followUps, folder)
    report["registration"] = registerStep(widget, query, *followUps[0], folder)
    close(widget)
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    print(json.dumps(run(parser.parse_args().output), indent=2, ensure_ascii=False))
