"""Looking for matches only inside a segment of the query."""

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

import slicer
import slicer.util
import vtk
from lesions import PLACES_RAS, SHIFT_RAS, addSegment
from panel_tools import settle
from phantoms import addPair, addPoints

from SAMv2Core.errors import InputError
from SAMv2SlicerLib.scene import match_list, node_geometry, segments

BOX_MM = np.array([24.0, 20.0, 16.0])


def isInBox(world, center, slackMm=1.0):
    return bool(np.all(np.abs(world - center) <= BOX_MM / 2 + slackMm))


@pytest.fixture
def boxed(logic, scene):
    """(logic, template, query, points, segmentation): the segment "organ" lies around the first point's match."""
    template, query = addPair(scene)
    segmentation = addSegment(scene, PLACES_RAS[0] + SHIFT_RAS, BOX_MM, name="organ")
    return logic, template, query, addPoints(scene, PLACES_RAS), segmentation


@pytest.mark.parametrize("method", ["fixed-point", "nearest"])
def test_matches_lie_in_the_segment(boxed, method):
    logic, template, query, points, segmentation = boxed
    center = PLACES_RAS[0] + SHIFT_RAS
    everywhere = logic.matchPoints(template, query, points, method=method)
    free = node_geometry.pointsWorld(everywhere, range(3))
    assert np.linalg.norm(free - PLACES_RAS - SHIFT_RAS, axis=1).max() < 2.0 and not isInBox(free[1], center)
    matched = logic.matchPoints(template, query, points, method=method, inside=(segmentation, "organ"))
    assert matched is everywhere and matched.GetAttribute("SAMv2.inside") == "organ"
    places = node_geometry.pointsWorld(matched, range(3))
    assert np.linalg.norm(places[0] - free[0]) < 1.0  # it is in the segment anyway
    defined = node_geometry.definedPointIndices(matched)
    assert 0 in defined and all(isInBox(places[n], center) for n in defined)
    for n in (1, 2):  # the segment does not show these places, and that is told
        assert match_list.resultAt(matched, n).status != match_list.MATCHED
    logic.matchPoints(template, query, points, method=method)
    assert matched.GetAttribute("SAMv2.inside") is None
    assert np.allclose(node_geometry.pointsWorld(matched, range(3)), free)


def test_segments_under_transforms_lie_where_they_are_seen(boxed, scene):
    logic, template, query, points, segmentation = boxed
    turn = vtk.vtkTransform()
    turn.Translate(40, -20, 10)
    turn.RotateWXYZ(30, 0, 0, 1)
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetMatrixTransformToParent(turn.GetMatrix())
    grid = np.array([[x, y, z] for x in (-14, 0, 14) for y in (-12, 0, 12) for z in (-9, 0, 9)], dtype=float)
    world = PLACES_RAS[0] + SHIFT_RAS + grid
    wanted = np.all(np.abs(grid) < BOX_MM / 2, axis=1)
    for moved in ((), (query, segmentation)):
        for item in moved:
            item.SetAndObserveTransformNodeID(node.GetID())
        mask = logic.masks.get(segmentation, "", query)
        places = np.array([turn.TransformPoint(p) for p in world]) if moved else world
        assert (mask.contains(node_geometry.worldToVolumeLPS(query, places)) == wanted).all()
    segmentation.SetAndObserveTransformNodeID(None)  # now it lies elsewhere than the scan's voxels that it was drawn on
    mask = logic.masks.get(segmentation, "organ", query)
    assert (mask.contains(node_geometry.worldToVolumeLPS(query, world)) == wanted).all()


def test_what_is_no_segment_of_the_query_says_so(boxed, scene):
    logic, template, query, points, segmentation = boxed
    far = addSegment(scene, [500, 500, 500], BOX_MM, name="elsewhere")
    for inside, message in (
        ((segmentation, "liver"), "no segment liver"),
        ((far, "elsewhere"), "covers nothing of the patient"),
        (("nowhere", ""), "no node named"),
        ((points, ""), "not a segmentation"),
    ):
        with pytest.raises(InputError, match=message):
            logic.matchPoints(template, query, points, inside=inside)
    empty = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "empty")
    empty.GetSegmentation().AddEmptySegment("a", "a")
    with pytest.raises(InputError, match="covers nothing"):
        logic.matchPoints(template, query, points, inside=(empty, "a"))
    assert match_list.findMatchList(points, query) is None


def test_an_edited_segment_is_read_again(boxed):
    logic, template, query, points, segmentation = boxed
    first = logic.masks.get(segmentation, "organ", query)
    assert logic.masks.get(segmentation, "organ", query) is first
    other = addSegment(slicer.mrmlScene, PLACES_RAS[1] + SHIFT_RAS, BOX_MM, name="organ")
    (segmentID, _) = segments.segmentsIn(segmentation)[0]
    segmentation.GetSegmentation().DeepCopy(other.GetSegmentation())
    (segmentID, _) = segments.segmentsIn(segmentation)[0]
    place = node_geometry.worldToVolumeLPS(query, PLACES_RAS[1] + SHIFT_RAS)
    assert logic.masks.get(segmentation, segmentID, query).contains(place)[0] and not first.contains(place)[0]


def test_users_segmentations_are_not_written(boxed):
    logic, template, query, points, segmentation = boxed
    before = segmentation.GetSegmentation().GetMTime(), segmentation.GetMTime()
    logic.matchPoints(template, query, points, inside=(segmentation, ""))
    assert (segmentation.GetSegmentation().GetMTime(), segmentation.GetMTime()) == before


def test_the_panel_offers_the_segments(widget, scene, monkeypatch):
    template, query = addPair(scene)
    points = addPoints(scene, PLACES_RAS)
    segmentation = addSegment(scene, PLACES_RAS[0] + SHIFT_RAS, BOX_MM, name="organ")
    ui, parameters = widget.ui, widget.panel.parameters
    parameters.points = points
    assert not ui.searchSegmentComboBox.enabled and ui.searchSegmentComboBox.currentText == "Everywhere"
    ui.searchSegmentationSelector.setCurrentNode(segmentation)
    assert ui.searchSegmentComboBox.enabled and ui.searchSegmentComboBox.currentText == "Everywhere"
    ui.searchSegmentComboBox.currentIndex = 1
    assert ui.searchSegmentComboBox.currentText == "organ"
    ui.matchButton.click()
    settle(widget)
    matched = match_list.findMatchList(points, query)
    assert matched.GetAttribute("SAMv2.inside") == "organ"
    line = next(row for row in ui.logTextEdit.plainText.splitlines() if "Console:" in row)
    monkeypatch.setattr(slicer.util, "getModuleLogic", lambda name: widget.logic, raising=False)
    assert eval(line.split("Console: ")[1], {"slicer": slicer}) is matched
    points.AddControlPointWorld(vtk.vtkVector3d(*(PLACES_RAS[0] + [4, 0, 0])), "live")  # live matches keep to it, too
    settle(widget)
    index = match_list.indexOfTemplatePoint(matched, points.GetNthControlPointID(3))
    assert isInBox(node_geometry.pointWorld(matched, index), PLACES_RAS[0] + SHIFT_RAS)
    scene.RemoveNode(segmentation)
    settle(widget)
    assert ui.searchSegmentComboBox.currentText == "Everywhere" and widget.panel.matchTab.inputs().inside is None
    ui.matchButton.click()
    settle(widget)
    assert matched.GetAttribute("SAMv2.inside") is None


def test_defaults_search_everywhere_again(widget, scene):
    addPair(scene)
    parameters = widget.panel.parameters
    parameters.searchSegmentation = addSegment(scene, PLACES_RAS[0], BOX_MM, name="organ")
    parameters.searchSegment = segments.segmentsIn(parameters.searchSegmentation)[0][0]
    assert widget.panel.matchTab.inputs().inside is not None
    widget.ui.defaultsButton.click()
    assert widget.panel.matchTab.inputs().inside is None and widget.ui.searchSegmentComboBox.currentIndex == 0
