"""The rest of the tour: scans as they come (under transforms, oblique, stored in any order), and CT with MR.

::

    python Testing/slicer/tour_more.py --output tour

*Geometry*: a chest CT and another patient's, cropped to 12 cm, in five disguises; each match must lie where SAMv2Core
puts it on the same voxels and geometry, carried by hand through the transform. *CT-MR*: two scans of one patient
(../shared/data/ctmr, aligned by their authors), the MR turned away by a known transform: matched, registered, compared,
saved, reopened, undone; how far the scans are from the authors' alignment before and after.
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
import slicer  # noqa: E402
import slicer.util  # noqa: E402
import tour  # noqa: E402
import vtk  # noqa: E402
from panel_tools import close, settle  # noqa: E402

import SAMv2Core  # noqa: E402
from SAMv2Core.io.volume import Volume, read_volume  # noqa: E402
from SAMv2SlicerLib.logic import SAMv2SlicerLogic  # noqa: E402
from SAMv2SlicerLib.scene import match_list, node_geometry  # noqa: E402

CTMR = tour.SHARED.parent / "ctmr" / "val"
CROP_MM = 60.0
FLIP = node_geometry.LPS_FROM_RAS


def turned(degrees, shift):
    """(4, 4) RAS: a turn about the patient's long axis and one about the left-right axis, then a shift in mm."""
    a, b = np.radians(degrees)
    about = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    across = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = about @ across, shift
    return matrix


def cropped(path, centerLPS):
    """A scan's slices within CROP_MM of a place."""
    volume = read_volume(path)
    z = volume.ijk_to_lps[2, 2] * np.arange(volume.array.shape[0]) + volume.ijk_to_lps[2, 3]
    kept = np.flatnonzero(np.abs(z - centerLPS[2]) <= CROP_MM)
    matrix = volume.ijk_to_lps.copy()
    matrix[:3, 3] += matrix[:3, :3] @ [0, 0, kept[0]]
    return Volume(np.ascontiguousarray(volume.array[kept[0] : kept[-1] + 1]), matrix)


def disguises(volume):
    """{name: (Volume as stored, (4, 4) RAS parent transform or None)} of one scan."""
    oblique = FLIP @ turned((12.0, 9.0), (15.0, -20.0, 30.0)) @ FLIP
    backwards = np.eye(4)  # voxels stored from right to left and back to front, as RAS files have them
    backwards[:3, :3] = np.diag([-1, -1, 1])
    backwards[:3, 3] = [volume.array.shape[2] - 1, volume.array.shape[1] - 1, 0]
    sagittal = np.eye(4)[[2, 1, 0, 3]]  # slices along x
    mirrored = np.eye(4)  # left-handed: only x is stored backwards
    mirrored[0, 0], mirrored[0, 3] = -1, volume.array.shape[2] - 1
    return {
        "under a transform": (volume, turned((25.0, -10.0), (40.0, 10.0, -25.0))),
        "oblique": (Volume(volume.array, oblique @ volume.ijk_to_lps), None),
        "RAS-stored": (Volume(volume.array[:, ::-1, ::-1].copy(), volume.ijk_to_lps @ backwards), None),
        "sagittal slices": (Volume(volume.array.transpose(2, 1, 0).copy(), volume.ijk_to_lps @ sagittal), None),
        "left-handed": (Volume(volume.array[:, :, ::-1].copy(), volume.ijk_to_lps @ mirrored), None),
    }


def geometryTour(names=None):
    """{disguise: largest distance in mm between the module's matches and SAMv2Core's, statuses}."""
    template, query = tour.landmarksLPS(tour.TEMPLATE), tour.landmarksLPS(tour.QUERY)
    shared = [name for name in template if name in query]
    points = np.array([template[name] for name in shared])
    scan = cropped(tour.TEMPLATE, points.mean(axis=0))
    inside = np.abs(points[:, 2] - points.mean(axis=0)[2]) < CROP_MM - 5
    points = points[inside][:4]
    logic, model, report = SAMv2SlicerLogic(), SAMv2Core.load_model("lite-ct", device="cpu"), {}
    embedded = model.embed(scan, modality="ct")
    target = cropped(tour.QUERY, np.array(list(query.values())).mean(axis=0))
    try:
        for name, (stored, parent) in disguises(target).items():
            if names is not None and name not in names:
                continue
            slicer.mrmlScene.Clear()
            nodes = node_geometry.addVolumeNode(scan, "Template"), node_geometry.addVolumeNode(stored, name)
            if parent is not None:
                transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
                transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(parent))
                nodes[1].SetAndObserveTransformNodeID(transform.GetID())
            marks = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "F")
            for point in points:
                marks.AddControlPointWorld(vtk.vtkVector3d(*(point * [-1, -1, 1])))
            matched = logic.matchPoints(*nodes, marks, model="lite-ct", device="cpu", modalities=("ct", "ct"))
            direct = SAMv2Core.match(embedded, model.embed(stored, modality="ct"), points)
            report[name] = _compared(matched, direct, parent)
    finally:
        logic.cleanup()
        slicer.mrmlScene.Clear()
    return report


def _compared(matched, direct, parent):
    apart = []
    for n, match in enumerate(direct):
        isDefined = n in node_geometry.definedPointIndices(matched)
        if isDefined != (match.query_lps is not None and match.status != "not_found"):
            apart.append(np.inf)
        elif isDefined:
            world = np.append(np.asarray(match.query_lps) * [-1, -1, 1], 1.0)
            world = (np.eye(4) if parent is None else parent) @ world
            apart.append(float(np.linalg.norm(node_geometry.pointWorld(matched, n) - world[:3])))
    return {"largest_mm": max(apart, default=0.0), "statuses": [match.status for match in direct]}


def ctmrTour(folder, patient="STS_006"):
    """Match and register MR to CT in the panel, save, reopen, undo; a dict of what was measured. Writes ctmr.png."""
    from slice_view import saveImage, views

    from SAMv2SlicerLib.register import comparison

    folder = Path(folder).resolve()  # a bundle cannot be written to a relative path
    folder.mkdir(parents=True, exist_ok=True)
    slicer.mrmlScene.Clear()
    if slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLInteractionNode") is None:
        slicer.mrmlScene.AddNewNodeByClass("vtkMRMLInteractionNode")
    ct = tour.addScan(CTMR / f"{patient}_ct.nii.gz", "CT")
    mr = node_geometry.addVolumeNode(read_volume(CTMR / f"{patient}_mr.nii.gz"), "MR")
    mr.CreateDefaultDisplayNodes()
    away = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Other table")
    away.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(turned((8.0, -5.0), (30.0, -20.0, 15.0))))
    mr.SetAndObserveTransformNodeID(away.GetID())
    inside = _placesInside(mr)
    widget = tour.openPanel()
    widget.ui.tabWidget.currentIndex = 2
    parameters = widget.panel.parameters
    parameters.fixedVolume, parameters.movingVolume = ct, mr
    before = comparison.addCheckerboard(ct, mr)
    report = {"before_mm": _misalignment(mr, inside)}
    widget.ui.registerButton.click()
    settle(widget, 1800)
    report["status"], report["card"] = widget.ui.statusLabel.text, widget.ui.registrationCardLabel.text
    report["after_mm"] = _misalignment(mr, inside)
    report["parent_kept"] = mr.GetParentTransformNode().GetParentTransformNode() is away
    after = comparison.addCheckerboard(ct, mr)
    center = inside.mean(axis=0) * [-1, -1, 1]
    saveImage(folder / "ctmr.png", views([(before, [], center), (after, [], center)]))
    report["match"] = _matchInto(widget, ct, mr, inside)
    slicer.mrmlScene.WriteToMRB(str(folder / "ctmr.mrb"))
    while widget.logic.undoStack.nextUndo() is not None:
        widget.ui.undoButton.click()
    report["undone_mm"] = _misalignment(mr, inside)
    slicer.mrmlScene.Clear()
    slicer.mrmlScene.ReadFromMRB(str(folder / "ctmr.mrb"))
    settle(widget)
    widget.ui.tabWidget.currentIndex = 2
    report["reopened_mm"] = _misalignment(slicer.mrmlScene.GetFirstNodeByName("MR"), inside)
    report["reopened_card"] = widget.ui.registrationCardLabel.text == report["card"]
    close(widget)
    return report


def _placesInside(mr):
    """(n, 3) LPS places within the body that MR shows, in the authors' common frame."""
    values = slicer.util.arrayFromVolume(mr)
    k, j, i = np.nonzero(values > np.percentile(values, 60))
    chosen = np.random.default_rng(0).choice(len(k), 200, replace=False)
    ijk = np.stack([i, j, k], axis=1)[chosen]
    matrix = node_geometry.ijkToLPS(mr)
    return ijk @ matrix[:3, :3].T + matrix[:3, 3]


def _misalignment(mr, placesLPS):
    """Median distance in mm between where the MR's places lie in the world and where the authors aligned them."""
    return float(
        np.median(np.linalg.norm(node_geometry.volumeLPSToWorld(mr, placesLPS) * [-1, -1, 1] - placesLPS, axis=1))
    )


def _matchInto(widget, ct, mr, inside):
    """Three places of the CT matched in the MR, through the panel: statuses, and mm from the authors' alignment."""
    widget.ui.tabWidget.currentIndex = 0
    parameters = widget.panel.parameters
    parameters.templateVolume, parameters.queryVolume = ct, mr
    points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "F")
    points.CreateDefaultDisplayNodes()
    parameters.points = points
    for place in inside[:3]:
        points.AddControlPointWorld(vtk.vtkVector3d(*(place * [-1, -1, 1])))
    settle(widget, 900)
    listNode, found = match_list.findMatchList(points, mr), []
    for n in range(listNode.GetNumberOfControlPoints()):
        isDefined = n in node_geometry.definedPointIndices(listNode)
        lps = node_geometry.worldToVolumeLPS(mr, node_geometry.pointWorld(listNode, n))[0] if isDefined else None
        apart = None if lps is None else float(np.linalg.norm(lps - inside[n]))
        found.append({"status": match_list.resultAt(listNode, n).status, "mm": apart})
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", choices=("geometry", "ctmr"), help="one half of the tour")
    parser.add_argument("--patient", default="STS_006", help="of the CT-MR pair")
    options = parser.parse_args()
    if options.only != "ctmr":
        print(json.dumps({"geometry": geometryTour()}, indent=2), flush=True)
    if options.only != "geometry":
        print(json.dumps({"ctmr": ctmrTour(options.output, options.patient)}, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
