"""All studies side by side: named by date, scrolled and pointed at together, any plane or all, CT with one window."""

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

import slicer
import slicer.util
from lesions import PLACES_RAS, SHIFT_RAS, THIRD_SHIFT_RAS, addLine, addStudies
from panel_tools import settle
from scene_tools import centerOf, findingAt

from SAMv2SlicerLib.scene import layouts, node_geometry, own_views
from SAMv2SlicerLib.track import studies

TRACK_TAB, ALL = 1, 3
SHIFTS = (np.zeros(3), SHIFT_RAS, THIRD_SHIFT_RAS)
FINE_MM = 3.0
"""Of a quick match: fine voxels are 4 mm."""


@pytest.fixture
def beside(windows, widget, scene):
    """(widget, volumes, slice nodes) of three tracked studies, side by side."""
    volumes = addStudies(scene)
    for volume, date in zip(volumes, ("2023-01-01", "2023-04-01", "")):
        volume.CreateDefaultDisplayNodes()
        volume.GetDisplayNode().SetAutoWindowLevel(False)
        studies.setDate(volume, date)
    widget.ui.tabWidget.currentIndex = TRACK_TAB
    p = widget.panel.parameters
    p.baselineVolume, p.followUpVolumes = volumes[0], list(volumes[1:])
    p.lesionSources = [addLine(scene, PLACES_RAS[0], 12.0, "L1")]
    widget.ui.trackButton.click()
    settle(widget)
    assert widget.ui.allStudiesButton.checked
    nodes = [windows.sliceWidget(layouts.studyViewName(n)).mrmlSliceNode() for n in range(3)]
    return widget, volumes, nodes


def test_views_are_named_by_date(beside):
    _, _, nodes = beside
    assert [node.GetLayoutLabel() for node in nodes[:2]] == ["2023-01-01", "2023-04-01"]


@pytest.mark.parametrize("leader", [0, 2])
def test_whichever_is_scrolled_the_others_go_to_the_same_anatomy(beside, leader):
    widget, volumes, nodes = beside
    for place in PLACES_RAS[1:]:
        nodes[leader].JumpSliceByCentering(*(place + SHIFTS[leader]))
        settle(widget)
        for node, shift in zip(nodes, SHIFTS):
            assert centerOf(node)[2] == pytest.approx(place[2] + shift[2], abs=FINE_MM)
    assert centerOf(nodes[leader])[2] == pytest.approx((PLACES_RAS[2] + SHIFTS[leader])[2], abs=1e-6)  # no way back
    widget.ui.scrollStudiesCheckBox.checked = False
    before = [centerOf(node) for node in nodes]
    nodes[0].JumpSliceByOffsetting(*PLACES_RAS[0])
    settle(widget)
    assert np.allclose(centerOf(nodes[1]), before[1]) and np.allclose(centerOf(nodes[2]), before[2])


def test_a_cell_centers_every_study_on_its_own_finding(beside):
    """The module's own movements are no scrolling: each study stays at what tracking found in it."""
    widget, volumes, nodes = beside
    widget.ui.findingsTable.setCurrentCell(0, 1)
    settle(widget)
    for n, node in enumerate(nodes):
        np.testing.assert_allclose(centerOf(node), findingAt(widget.logic, 0, n).world, atol=1e-3)


def test_another_plane_and_back(beside):
    widget, volumes, nodes = beside
    widget.ui.findingsTable.setCurrentCell(0, 1)
    for index, name in ((2, "Coronal"), (1, "Sagittal"), (0, "Axial")):
        assert layouts.ORIENTATIONS[index] == name
        choosePlane(widget, index)
        for n, node in enumerate(nodes):
            normal = np.abs([node.GetSliceToRAS().GetElement(row, 2) for row in range(3)])
            assert int(np.argmax(normal)) == {"Axial": 2, "Sagittal": 0, "Coronal": 1}[name]
            np.testing.assert_allclose(centerOf(node), findingAt(widget.logic, 0, n).world, atol=1e-3)


def choosePlane(widget, index):
    widget.ui.planeSelector.currentIndex = index
    widget.ui.planeSelector.activated.emit(index)
    settle(widget)


def planesOf(windows, study):
    """{orientation: slice node} of a study's views, where all planes are shown."""
    names = layouts.studyViews(study, layouts.ALL_PLANES)
    return {plane: windows.sliceWidget(name).mrmlSliceNode() for name, plane in names.items()}


def test_all_planes_at_once_and_back(windows, beside, scene):
    """Three views per study, all at the lesion; scrolling one plane moves this plane of the others and no other."""
    widget, volumes, _ = beside
    choosePlane(widget, ALL)
    assert windows.layoutLogic().GetLayoutNode().GetViewArrangement() == layouts.PLANES_ID + 3
    widget.ui.findingsTable.setCurrentCell(0, 1)
    settle(widget)
    views = [planesOf(windows, n) for n in range(3)]
    for n, planes in enumerate(views):
        for plane, node in planes.items():
            normal = np.abs([node.GetSliceToRAS().GetElement(row, 2) for row in range(3)])
            assert int(np.argmax(normal)) == {"Axial": 2, "Sagittal": 0, "Coronal": 1}[plane]
            np.testing.assert_allclose(centerOf(node), findingAt(widget.logic, 0, n).world, atol=1e-3)
    assert [planes["Coronal"].GetLayoutLabel() for planes in views[:2]] == ["2023-01-01", "2023-04-01"]
    before = [centerOf(planes["Axial"]) for planes in views]
    place = PLACES_RAS[1]
    views[0]["Sagittal"].JumpSliceByCentering(*place)
    settle(widget)
    for planes, shift, was in zip(views, SHIFTS, before):
        assert centerOf(planes["Sagittal"])[0] == pytest.approx(place[0] + shift[0], abs=FINE_MM)
        assert np.allclose(centerOf(planes["Axial"]), was)
    choosePlane(widget, 0)
    assert windows.layoutLogic().GetLayoutNode().GetViewArrangement() == layouts.STUDIES_ID + 3
    assert widget.panel.layout.areShowing(volumes)


def test_a_scene_brings_all_planes_back(windows, beside, scene, tmp_path):
    import SAMv2Slicer

    widget, _, _ = beside
    choosePlane(widget, ALL)
    scene.SetURL(str(tmp_path / "scene.mrml"))
    assert scene.Commit()
    windows.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView)
    scene.Clear()
    widget.ui.planeSelector.currentIndex = 0
    widget.panel.layout.orientation = "Axial"
    SAMv2Slicer.onSlicerStarted()
    assert scene.Import()
    settle(widget)
    assert widget.panel.layout.isAllPlanes() and widget.ui.planeSelector.currentIndex == ALL


def point(scene, node, world):
    """Move the cursor over a place in a view, as its displayable manager would."""
    crosshair = scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    toXY = np.linalg.inv(slicer.util.arrayFromVTKMatrix(node.GetXYToRAS()))
    crosshair.SetCursorPositionXYZ((toXY @ [*world, 1.0])[:3], node)
    crosshair.SetCursorPositionRAS(list(world))


def test_the_cursor_over_one_study_is_shown_in_the_others(beside, scene):
    widget, volumes, nodes = beside
    group = widget.panel.trackTab.studiesView.cursor
    scene.AddNewNodeByClass("vtkMRMLCrosshairNode")
    point(scene, nodes[0], PLACES_RAS[1])
    settle(widget)
    assert not any(group.glyphIn(volume) for volume in volumes)  # off until it is wanted
    widget.panel.currentTab().toggleFollow()
    assert widget.ui.cursorStudiesCheckBox.checked and group.isFollowing()
    for leader, place in ((0, PLACES_RAS[1]), (2, PLACES_RAS[2])):
        was = centerOf(nodes[leader])
        point(scene, nodes[leader], place + SHIFTS[leader])
        settle(widget)
        assert np.allclose(centerOf(nodes[leader]), was)  # the view under the cursor stays
        for n, (volume, node, shift) in enumerate(zip(volumes, nodes, SHIFTS)):
            glyph = group.glyphIn(volume)
            isShown = glyph is not None and bool(glyph.GetDisplayVisibility())
            assert isShown == (n != leader)
            if n != leader:
                found = node_geometry.pointWorld(glyph, 0)
                assert np.linalg.norm(found - (place + shift)) < 2 * FINE_MM
                assert centerOf(node)[2] == pytest.approx(found[2], abs=1e-3)
                assert own_views.scanOf(glyph) is volume
    widget.panel.currentTab().toggleFollow()
    assert not group.isFollowing() and not any(group.glyphIn(volume) for volume in volumes)


def test_a_cursor_that_cannot_be_shown_says_why(windows, widget, scene):
    volumes = addStudies(scene)
    widget.ui.tabWidget.currentIndex = TRACK_TAB
    widget.panel.parameters.baselineVolume, widget.panel.parameters.followUpVolumes = volumes[0], [volumes[1]]
    settle(widget)
    widget.ui.cursorStudiesCheckBox.checked = True
    assert "once they are tracked" in widget.ui.statusLabel.text


def test_ct_has_one_window_while_it_is_compared(beside):
    widget, volumes, _ = beside
    displays = [volume.GetDisplayNode() for volume in volumes]
    displays[1].SetWindowLevel(1400, -300)
    assert all((display.GetWindow(), display.GetLevel()) == (1400, -300) for display in displays)
    widget.ui.allStudiesButton.click()
    settle(widget)
    displays[1].SetWindowLevel(400, 40)
    assert displays[0].GetWindow() == 1400
