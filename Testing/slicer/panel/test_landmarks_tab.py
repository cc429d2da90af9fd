"""The Landmarks tab: found without a template, grouped by region, judged like all results, gone to in all scans."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

import slicer
from panel_tools import settle
from phantoms import SHIFT_LPS, addPair
from scene_tools import centerOf

from SAMv2Core.landmarks.atlas import exemplar
from SAMv2SlicerLib.match import landmarks
from SAMv2SlicerLib.scene import layouts, match_list, node_geometry

PLACES_LPS = {
    "carina": (-11.0, -13.0, 141.0),
    "liver_dome": (13.0, 7.0, 133.0),
    "spleen_top": (1.0, 9.0, 121.0),
    "vertebra_T12": (-3.0, -21.0, 149.0),
}
SURE = {"bias": 4.0, "agreement": 0.0, "similarity": 0.0, "spread": 0.0, "edge": 0.0, "level_matched_above": 0.9999}


@pytest.fixture
def found(windows, widget, scene, monkeypatch):
    """(widget, template, query), side by side, with the landmarks of the template found by an atlas of its own; the
    vertebra is uncertain, as its level often is."""
    from tiny_model import tinyModel

    template, query = addPair(scene)
    emb = tinyModel().embed(node_geometry.volumeFromNode(template), modality="auto")
    atlas = dataclasses.replace(exemplar(emb, PLACES_LPS, "template", {}), calibration=SURE)
    monkeypatch.setattr("SAMv2Core.landmarks.find.atlas_for", lambda emb: atlas)
    widget.ui.sideBySideButton.click()
    widget.ui.tabWidget.currentIndex = 3
    settle(widget)
    assert widget.panel.parameters.landmarksVolume is template and "Ready to find" in widget.ui.statusLabel.text
    widget.ui.landmarksButton.click()
    settle(widget)
    return widget, template, query


def rowsOf(widget):
    table = widget.ui.landmarksTable
    return [table.item(r, 0).text() for r in range(table.rowCount)]


def select(widget, name):
    widget.ui.landmarksTable.selectRow(rowsOf(widget).index(name))
    settle(widget)


def test_a_table_by_region_and_what_needs_a_look(found):
    widget, _, _ = found
    assert "4 of 4 landmarks were found; 1 needs a look" in widget.ui.statusLabel.text
    assert rowsOf(widget) == ["Chest", "carina", "Abdomen", "vertebra T12", "liver dome", "spleen top"]
    table = widget.ui.landmarksTable
    assert table.columnSpan(0, 0) == 3 and "%" in table.item(1, 2).text() and "matched" in table.item(1, 1).text()
    widget.ui.statusActionButton.click()  # "Show them"
    assert widget.panel.landmarksTab.review.selected()[2].templatePoint == "vertebra_T12"
    assert "Only 1 of the exemplars" in widget.ui.landmarkLabel.text
    widget.ui.regionComboBox.currentIndex = 1
    assert rowsOf(widget) == ["Abdomen", "vertebra T12"]
    table.selectRow(0)  # a heading is no landmark
    assert not widget.ui.acceptLandmarkButton.enabled


def test_a_row_brings_the_views_there_and_judging_is_that_of_matches(windows, found):
    widget, template, _ = found
    select(widget, "liver dome")
    axial = windows.sliceWidget(layouts.viewName("A", "Axial")).mrmlSliceNode()
    place = np.array(PLACES_LPS["liver_dome"]) * [-1, -1, 1]
    assert np.allclose(centerOf(axial), place, atol=4.0)  # answers are centers of 4 mm voxels
    select(widget, "vertebra T12")
    widget.ui.acceptLandmarkButton.click()
    assert "the scan does not show the others" in widget.ui.statusLabel.text
    listNode = landmarks.findLandmarkList(template)
    n = match_list.indexOfTemplatePoint(listNode, "carina")
    listNode.SetNthControlPointPositionWorld(n, 1.0, 2.0, 150.0)  # dragged
    settle(widget)
    assert match_list.resultAt(listNode, n).decision == match_list.MOVED
    select(widget, "spleen top")
    widget.ui.rejectLandmarkButton.click()
    widget.ui.landmarksButton.click()
    settle(widget)
    decisions = [match_list.resultAt(listNode, k).decision for k in range(4)]
    assert decisions == ["moved", "", "rejected", "accepted"]  # alphabetical; found anew, decided still
    assert np.allclose(node_geometry.pointWorld(listNode, n), (1, 2, 150))
    assert rowsOf(widget) == ["Chest", "carina", "Abdomen", "vertebra T12", "liver dome"]


def test_jump_to_goes_there_in_every_scan_that_has_it(windows, found):
    widget, template, query = found
    widget.ui.landmarksVolumeSelector.setCurrentNode(query)
    settle(widget)
    assert rowsOf(widget) == []
    widget.ui.landmarksButton.click()
    settle(widget)
    texts = [widget.ui.jumpToComboBox.itemText(n) for n in range(widget.ui.jumpToComboBox.count)]
    assert texts == ["", "carina", "vertebra T12", "liver dome", "spleen top"]
    widget.ui.jumpToComboBox.currentIndex = 1
    assert widget.ui.statusLabel.text == "carina: 2 scans went there."
    for row, shift in (("A", 0), ("B", 1)):
        axial = windows.sliceWidget(layouts.viewName(row, "Axial")).mrmlSliceNode()
        right = (np.array(PLACES_LPS["carina"]) + shift * np.array(SHIFT_LPS)) * [-1, -1, 1]
        assert np.abs(centerOf(axial) - right).max() <= 4.0


def test_landmarks_tell_where_a_match_lies(found):
    """Of the scan that the match is in; those that are sure, and vertebrae by both names that they may have."""
    widget, template, _ = found
    place = np.array(PLACES_LPS["carina"]) * [-1, -1, 1] + [-10.0, 0.0, 0.0]  # to the patient's left
    said = landmarks.whereIs(template, place)
    assert "10 mm left of carina" in said and said.split(":")[0] in ("Chest", "Abdomen")
    there = np.array(PLACES_LPS["vertebra_T12"]) * [-1, -1, 1]
    assert "T12" not in landmarks.whereIs(template, there)
    node = landmarks.findLandmarkList(template)
    (row,) = [n for n in range(node.GetNumberOfControlPoints()) if "T12" in node.GetNthControlPointLabel(n)]
    unsure = dataclasses.replace(match_list.resultAt(node, row), orElse="vertebra_L1")
    node.SetNthControlPointDescription(row, unsure.toDescription())
    assert "at vertebra T12 or vertebra L1" in landmarks.whereIs(template, there)


def test_undo_scene_and_the_list_of_points(found, scene):
    widget, template, _ = found
    listNode = landmarks.findLandmarkList(template)
    assert widget.panel.parameters.points is None  # nobody's points to be matched
    widget.ui.undoButton.click()
    assert landmarks.findLandmarkList(template) is None and listNode.GetScene() is None
    widget.ui.redoButton.click()
    assert landmarks.findLandmarkList(template).GetNumberOfControlPoints() == 4


def test_a_scan_that_no_view_shows_is_offered(windows, found, scene):
    widget, template, _ = found
    windows.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView)
    settle(widget)
    assert f"no view shows {template.GetName()}" in widget.ui.statusLabel.text
    widget.ui.statusActionButton.click()
    settle(widget)
    assert windows.sliceWidget("Red").sliceLogic().GetSliceCompositeNode().GetBackgroundVolumeID() == template.GetID()
    assert "no view" not in widget.ui.statusLabel.text
