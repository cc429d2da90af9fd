"""Short labels beside the lines of lesions, while the module is shown: a length always follows its line."""

import tempfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

import slicer
import slicer.util
from lesions import PLACES_RAS, addLine, addStudies
from panel_tools import settle
from scene_tools import findingAt

from SAMv2SlicerLib.scene import line_labels, node_geometry
from SAMv2SlicerLib.track import diameters, measuring

TRACK_TAB = 1


def labelOf(line):
    """What stands beside a line: Slicer's label with the name and the properties, and those of the ends."""
    display = line.GetDisplayNode()
    ends = [line.GetNthControlPointLabel(n) for n in range(2)] if display.GetPointLabelsVisibility() else ["", ""]
    usual = f"{line.GetName()}:{line.GetPropertiesLabelText()}" if display.GetPropertiesLabelVisibility() else ""
    return (usual, *ends)


@pytest.fixture
def tracked(windows, widget, scene):
    """(widget, line in the baseline, proposed line in the follow-up, a line that is no lesion)."""
    volumes = addStudies(scene)
    widget.ui.tabWidget.currentIndex = TRACK_TAB
    p = widget.panel.parameters
    p.baselineVolume, p.followUpVolumes = volumes[0], [volumes[1]]
    line, free = addLine(scene, PLACES_RAS[0], 16.6, "L1"), addLine(scene, PLACES_RAS[1], 10.0, "free")
    p.lesionSources = [line]
    widget.ui.trackButton.click()
    settle(widget)
    (proposed,) = diameters.linesOf(widget.panel.trackTab.lesionList()).values()
    return widget, line, proposed, free


def test_labels_are_short_and_follow_the_line(tracked):
    widget, line, proposed, free = tracked
    length = diameters.lengthOf(proposed)
    assert labelOf(line) == ("", "L1 16.6 mm", "") and labelOf(proposed) == ("", f"    ? {length:.1f} mm", "")
    assert labelOf(free)[0].startswith("free: 10")
    for mm in (20.04, 7.5):
        start = node_geometry.pointWorld(line, 0)
        line.SetNthControlPointPositionWorld(1, *(start + [0.0, mm, 0.0]))
        assert labelOf(line) == ("", f"L1 {mm:.1f} mm", "")
    taken = measuring.measure(widget.logic, findingAt(widget.logic, 0, 1))
    settle(widget)
    assert labelOf(taken) == ("", f"     {length:.1f} mm", ""), "the finding beside it has the name"
    widget.panel.parameters.lesionSources = []
    settle(widget)
    assert labelOf(line)[0].startswith("L1: 7.5")


def test_slicers_label_is_back_when_the_module_is_left(tracked):
    widget, line, proposed, _ = tracked
    widget.exit()
    for node, name in ((line, "L1: 16.6"), (proposed, "L1?: ")):
        assert labelOf(node)[0].startswith(name) and labelOf(node)[1:] == ("", "")
        assert node.GetAttribute(line_labels.ATTRIBUTE) is None
    start = node_geometry.pointWorld(line, 0)
    line.SetNthControlPointPositionWorld(1, *(start + [0.0, 9.0, 0.0]))
    assert labelOf(line)[0].startswith("L1: 9.0")
    widget.enter()
    settle(widget)
    assert labelOf(line) == ("", "L1 9.0 mm", "")


def test_scenes_have_slicers_label(tracked, scene):
    """A bundle that is saved while the module is shown, and one that somehow has our labels."""
    import SAMv2Slicer

    widget, line, _, _ = tracked
    with tempfile.TemporaryDirectory() as folder:
        assert scene.SaveSceneToSlicerDataBundleDirectory(folder, None)
        files = list(Path(folder).rglob("*"))
        written = "".join(file.read_text(encoding="utf-8") for file in files if file.suffix in (".mrml", ".json"))
        assert written.count("L1") > 2 and "16.6 mm" not in written and line_labels.ATTRIBUTE not in written
    settle(widget)
    assert labelOf(line) == ("", "L1 16.6 mm", "")
    SAMv2Slicer.onSceneLoaded(None, None)
    assert labelOf(line)[0].startswith("L1: 16.6")
    line.SetAttribute(line_labels.ATTRIBUTE, "[")
    line_labels.release()
    assert labelOf(line)[0].startswith("L1: 16.6") and line.GetAttribute(line_labels.ATTRIBUTE) is None


def test_lengths_are_those_of_the_world(tracked, scene):
    widget, line, _, _ = tracked
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.diag([2.0, 2.0, 2.0, 1.0])))
    line.SetAndObserveTransformNodeID(transform.GetID())
    assert labelOf(line) == ("", "L1 33.2 mm", "")
