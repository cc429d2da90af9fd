"""Rings around matches that need a look."""

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

import slicer
import slicer.util
from lesions import PLACES_RAS
from panel_tools import settle
from phantoms import addPair, addPoints
from slice_view import SliceView

from SAMv2SlicerLib.scene import match_list, node_geometry, rings

ORANGE = np.array([230, 158, 0])


@pytest.fixture
def doubtful(widget, scene):
    """(widget, matched list): three points, of which those below 0.99 of confidence are uncertain."""
    template, query = addPair(scene)
    points = addPoints(scene, PLACES_RAS)
    widget.panel.parameters.points = points
    widget.ui.matchButton.click()
    settle(widget)
    matched = match_list.findMatchList(points, query)
    with widget.logic.writing():
        for n, status in enumerate((match_list.UNCERTAIN, match_list.MATCHED, match_list.UNCERTAIN)):
            match_list.setResult(matched, n, match_list.replace(match_list.resultAt(matched, n), status=status))
    return widget, matched


def ringed(matched):
    """World positions of the rings."""
    node = rings.ringsOf(matched)
    return np.zeros((0, 3)) if node is None else node_geometry.pointsWorld(node, range(node.GetNumberOfControlPoints()))


def test_uncertain_points_have_rings_until_they_are_judged(doubtful):
    widget, matched = doubtful
    places = node_geometry.pointsWorld(matched, range(3))
    assert np.allclose(ringed(matched), places[[0, 2]])
    node = rings.ringsOf(matched)
    assert node.GetHideFromEditors() and not node.GetSaveWithScene() and node.GetLocked()
    widget.ui.resultsTable.selectRow(0)
    widget.ui.acceptButton.click()
    assert np.allclose(ringed(matched), places[[2]])
    widget.ui.undoButton.click()
    assert np.allclose(ringed(matched), places[[0, 2]])
    matched.SetNthControlPointPositionWorld(2, 3, 4, 105)  # the user knows better
    assert np.allclose(ringed(matched), places[[0]])
    widget.ui.resultsTable.selectRow(0)
    widget.ui.rejectButton.click()
    assert not len(ringed(matched))
    widget.ui.undoButton.click()
    assert np.allclose(ringed(matched), places[[0]]) and rings.ringsOf(matched) is node


def test_rings_are_shown_like_their_list(doubtful):
    _, matched = doubtful
    display = rings.ringsOf(matched).GetDisplayNode()
    matched.SetDisplayVisibility(False)
    assert not display.GetVisibility()
    matched.SetDisplayVisibility(True)
    matched.GetDisplayNode().SetGlyphScale(5.0)
    assert display.GetVisibility() and display.GetGlyphScale() == pytest.approx(5.0 * rings.SCALE)


def test_rings_leave_nothing_behind(doubtful, scene):
    _, matched = doubtful
    count = scene.GetNumberOfNodes()
    display = matched.GetDisplayNode()
    scene.RemoveNode(matched)  # as a user does it, in the Data module
    assert scene.GetNumberOfNodes() == count - 3  # the list, its rings, their display node
    scene.RemoveNode(display)
    assert not [n for n in slicer.util.getNodesByClass("vtkMRMLMarkupsNode") if n.GetName().endswith("rings")]


def test_rings_are_not_in_the_scene_file(doubtful, scene):
    scene.SetSaveToXMLString(1)
    try:
        scene.Commit()
        text = scene.GetSceneXMLString()
    finally:
        scene.SetSaveToXMLString(0)
    assert " rings" not in text and "F in CT 2023" in text


def test_a_ring_is_seen_around_the_point(doubtful):
    """Rendered: orange beyond the point's own disk, with a gap between both; a matched point has neither."""
    _, matched = doubtful
    query = matched.GetNodeReference(match_list.ROLE_QUERY)
    query.CreateDefaultDisplayNodes()
    matched.GetDisplayNode().SetPointLabelsVisibility(False)
    matched.GetDisplayNode().SetGlyphScale(6.0)
    view = SliceView("RingTest", "Axial", 300)  # a Red one may be left of another test
    view.show(query)
    seen = []
    for n in range(3):
        view.node.JumpSliceByCentering(*node_geometry.pointWorld(matched, n))
        pixels = view.pixels().astype(int)
        y, x = np.indices(pixels.shape[:2]) - 149.5
        isOrange = np.abs(pixels - ORANGE).max(axis=2) < 40
        radius = np.hypot(x, y)[isOrange]
        seen.append(0 if not len(radius) else radius[radius < 40].max())
    assert seen[1] < 1 and min(seen[0], seen[2]) > 9, seen
