"""The module on two real CT scans, from loading to the reopened scene: numbers, and pictures of what a user sees.

::

    python Testing/slicer/tour.py --output tour [--template A.nii.gz --query B.nii.gz]

By default the scans and their hand-placed landmarks are those of ../shared/data/ct. Prints how far the matches are from
the query's landmarks, how long a click takes until its match is shown on cached embeddings, and how many places per
second follow the cursor; writes slice views of both scans with the linked points, and the panel.
"""

import argparse
import json
import os
import statistics
import sys
import time
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
import vtk  # noqa: E402
from panel_tools import cells, close, settle  # noqa: E402

import SAMv2Slicer  # noqa: E402
from SAMv2Core.io.volume import read_volume  # noqa: E402
from SAMv2SlicerLib.scene import match_list, node_geometry  # noqa: E402

SHARED = Path(os.environ.get("SAMV2_SHARED") or HERE.parents[2] / "shared") / "data" / "ct"
TEMPLATE, QUERY = SHARED / "train" / "LIDC-IDRI-0001.nii.gz", SHARED / "val" / "LIDC-IDRI-0314.nii.gz"
ORIENTATIONS = ("Axial", "Sagittal", "Coronal")


def addScan(path, name):
    """A volume node with a soft-tissue window."""
    node = node_geometry.addVolumeNode(read_volume(path), name)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevelMinMax(-160, 240)
    return node


def landmarksLPS(path):
    """{name: (3,) LPS mm} of the sure landmarks beside a scan, empty without a file."""
    file = Path(str(path).replace(".nii.gz", ".landmarks.json"))
    if not file.is_file():
        return {}
    found = json.loads(file.read_text(encoding="utf-8"))["landmarks"]
    return {name: np.array(entry["lps"]) for name, entry in found.items() if entry["sure"] >= 0.75}


def openPanel():
    """The module's widget as Slicer builds and enters it."""
    parent = slicer.qMRMLWidget()
    qt.QVBoxLayout(parent)
    parent.setMRMLScene(slicer.mrmlScene)
    parent.isEntered = True
    parent.resize(420, 1150)
    widget = SAMv2Slicer.SAMv2SlicerWidget(parent)
    widget.setup()
    widget.enter()
    return widget


def placeLandmarks(widget, points, landmarks):
    """Click each landmark; ms from the placed point to its match being shown, the embedding click left out."""
    milliseconds = []
    for name, lps in landmarks.items():
        started = time.perf_counter()
        points.AddControlPointWorld(vtk.vtkVector3d(*(lps * [-1, -1, 1])), name)
        shown = _waitForMatch(widget, points)
        milliseconds.append(1000 * (shown - started))
        settle(widget, 600)
    return milliseconds


def _waitForMatch(widget, points, seconds=900):
    """Time at which every placed point has a match in the scene."""
    end = time.monotonic() + seconds
    listNode = None
    while listNode is None or listNode.GetNumberOfControlPoints() < points.GetNumberOfControlPoints():
        slicer.app.processEvents()
        time.sleep(0.001)
        listNode = match_list.findMatchList(points, widget.panel.parameters.queryVolume)
        if time.monotonic() > end:
            raise TimeoutError(widget.ui.statusLabel.text)
    return time.perf_counter()


def followCursor(widget, path):
    """Move the crosshair along world positions; places per second that were shown in the query."""
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode") or slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLCrosshairNode"
    )
    widget.ui.followCursorButton.checked = True
    started = time.perf_counter()
    for position in path:
        crosshair.SetCursorPositionRAS(position)
        settle(widget)
    elapsed = time.perf_counter() - started
    widget.ui.followCursorButton.checked = False
    return len(path) / elapsed


def distances(points, listNode, truthLPS):
    """{name: mm or None} from each match to the query's landmark of that name."""
    found = {}
    for n in range(listNode.GetNumberOfControlPoints()):
        name = listNode.GetNthControlPointLabel(n)
        isDefined = n in node_geometry.definedPointIndices(listNode)
        position = node_geometry.pointWorld(listNode, n) * [-1, -1, 1] if isDefined else None
        if name in truthLPS:
            found[name] = float(np.linalg.norm(position - truthLPS[name])) if isDefined else None
    return found


def picture(rows):
    """(h, w, 3) pixels: one row per (volume, list, index of a point), axial, sagittal and coronal through the point."""
    from slice_view import SliceView

    images = []
    for volume, listNode, index in rows:
        for _, other, _ in rows:
            other.SetDisplayVisibility(other is listNode)
        position, row = node_geometry.pointWorld(listNode, index), []
        for orientation in ORIENTATIONS:
            view = SliceView(f"{volume.GetName()}-{orientation}", orientation)
            view.show(volume)
            view.node.JumpSliceByCentering(*position)
            row.append(view.pixels())
        images.append(np.concatenate(row, axis=1))
    for _, listNode, _ in rows:
        listNode.SetDisplayVisibility(True)
    return np.concatenate(images, axis=0)


def run(templatePath, queryPath, folder, nPoints=None, nFollowed=30):
    """The whole tour; a dict of what was measured. Writes match.png, panel.png and scene.mrb into ``folder``.

    :param nPoints: of the template's landmarks only the first so many; :param nFollowed: cursor positions to follow.
    """
    from slice_view import saveImage

    folder = Path(folder).resolve()  # a bundle cannot be written to a relative path
    folder.mkdir(parents=True, exist_ok=True)
    slicer.mrmlScene.Clear()
    if slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLInteractionNode") is None:
        slicer.mrmlScene.AddNewNodeByClass("vtkMRMLInteractionNode")  # the application has one; markups need it
    template, query = addScan(templatePath, "Template"), addScan(queryPath, "Query")
    points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "F")
    points.CreateDefaultDisplayNodes()
    widget = openPanel()
    widget.panel.parameters.points = points
    landmarks, truth = landmarksLPS(templatePath), landmarksLPS(queryPath)
    common = [name for name in landmarks if name in truth]
    landmarks = {name: landmarks[name] for name in [*common, *(n for n in landmarks if n not in truth)][:nPoints]}
    milliseconds = placeLandmarks(widget, points, landmarks)
    matched = match_list.findMatchList(points, query)
    report = {
        "points": cells(widget),
        "distances_mm": distances(points, matched, truth),
        "first_click_s": milliseconds[0] / 1000,
        "click_to_match_ms": statistics.median(milliseconds[1:]),
        "click_to_match_ms_worst": max(milliseconds[1:]),
    }
    start, end = node_geometry.pointWorld(points, 0), node_geometry.pointWorld(points, 1)
    path = [start + (end - start) * t for t in np.linspace(0, 1, nFollowed)]
    report["follow_cursor_per_s"] = followCursor(widget, path)
    widget.ui.resultsTable.selectRow(0)
    best = max(node_geometry.definedPointIndices(matched), key=lambda n: match_list.resultAt(matched, n).confidence)
    index = points.GetNthControlPointIndexByID(match_list.resultAt(matched, best).templatePoint)
    image = picture([(template, points, index), (query, matched, best)])
    saveImage(folder / "match.png", image)
    for name in ("advancedCollapsibleButton", "logCollapsibleButton"):
        getattr(widget.ui, name).collapsed = True  # the stand-in folds what is there, the .ui file set it before
    widget.parent.grab().save(str(folder / "panel.png"))
    positions = match_list.captureList(matched)
    slicer.mrmlScene.WriteToMRB(str(folder / "scene.mrb"))
    slicer.mrmlScene.Clear()
    slicer.mrmlScene.ReadFromMRB(str(folder / "scene.mrb"))
    settle(widget)
    again = match_list.findMatchList(
        slicer.mrmlScene.GetFirstNodeByName("F"), slicer.mrmlScene.GetFirstNodeByName("Query")
    )
    report["reopened_equal"] = (
        _sameLists(positions, match_list.captureList(again)) and cells(widget) == report["points"]
    )
    close(widget)
    return report


def _sameLists(first, second):
    return len(first) == len(second) and all(
        a["label"] == b["label"]
        and a["description"] == b["description"]
        and (a["position"] is None) == (b["position"] is None)
        and (a["position"] is None or np.allclose(a["position"], b["position"], atol=1e-3))
        for a, b in zip(first, second)
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--template", type=Path, default=TEMPLATE)
    parser.add_argument("--query", type=Path, default=QUERY)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--points", type=int, help="only the first so many landmarks")
    parser.add_argument("--followed", type=int, default=30, help="cursor positions to follow")
    arguments = parser.parse_args()
    report = run(arguments.template, arguments.query, arguments.output, arguments.points, arguments.followed)
    print(json.dumps(report, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
