"""Follow-ups that are segmented: sizes, new, vanished and merged lesions, in the console and in the panel."""

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

import qt
import slicer
from lesions import PLACES_RAS, SHIFT_RAS, THIRD_SHIFT_RAS, addLesionPoints, addSegment, addStudies
from panel_tools import matrix, settle
from scene_tools import sceneState

from SAMv2Core.errors import InputError
from SAMv2SlicerLib.scene import match_list, node_geometry
from SAMv2SlicerLib.track import findings, findings_table, lesion_list, report_export, studies

TRACK_TAB = 1

NEW_PLACE_RAS = np.array([30.0, -15.0, 120.0])
"""In the baseline's frame: inside the body, 40 mm from the nearest marked lesion."""


def addSegmentation(scene, places, sizesMm=(12.0, 8.0, 6.0), name="S"):
    """A segmentation with a box around each place (world RAS)."""
    node = addSegment(scene, places[0], sizesMm, name=f"{name} 1")
    node.SetName(name)
    for n, place in enumerate(places[1:], 2):
        other = addSegment(scene, place, sizesMm, name=f"{name} {n}")
        image = slicer.vtkOrientedImageData()
        other.GetBinaryLabelmapRepresentation(other.GetSegmentation().GetNthSegmentID(0), image)
        node.AddSegmentFromBinaryLabelmapRepresentation(image, f"{name} {n}", [1.0, 0.0, 0.0])
        scene.RemoveNode(other)
    return node


@pytest.fixture
def segmented(logic, scene):
    """(logic, volumes, marks, segmentation): in CT 2023 two of three lesions are there, and a new one."""
    volumes = addStudies(scene)
    marks = addLesionPoints(scene)
    places = np.vstack([PLACES_RAS[[0, 2]] + [2, 0, 0], NEW_PLACE_RAS]) + SHIFT_RAS
    return logic, volumes, marks, addSegmentation(scene, places)


def rowsOf(logic):
    return {row[0].label: row for row in findings.findings(logic.tracker.lesionList())}


def test_sizes_new_and_vanished_lesions(segmented):
    logic, volumes, marks, segmentation = segmented
    table = logic.trackLesions(volumes[0], volumes[1:], marks, segmentations=[segmentation, None])
    rows = rowsOf(logic)
    assert list(rows) == ["liver", "spleen", "node", "S 3"]
    there, gone, new = rows["liver"][1], rows["spleen"][1], rows["S 3"][1]
    assert there.result.presence == match_list.SEGMENTED and not there.needsALook
    # In a slice the box is 12 x 8 mm; its corners are the voxels' outer ones.
    assert there.sizeMm == pytest.approx(np.hypot(12, 8), abs=0.06) and not there.isMeasured
    assert np.allclose(there.world, PLACES_RAS[0] + [2, 0, 0] + SHIFT_RAS, atol=1e-3)  # the segment's center
    assert gone.result.presence == match_list.VANISHED and gone.needsALook and "vanished" in gone.result.reason
    assert new.result.presence == match_list.NEW and new.needsALook
    assert np.allclose(new.world, NEW_PLACE_RAS + SHIFT_RAS, atol=1e-3)
    assert rows["S 3"][0].status == "" and rows["S 3"][2].status == ""  # not in the baseline, nor in CT 2024
    assert all(row[2].result is None or row[2].result.presence == "" for row in rows.values())
    volumes_ml = table.GetTable().GetColumnByName("volume_ml")
    known = [volumes_ml.GetValue(n) for n in range(volumes_ml.GetNumberOfValues())]
    assert sorted(value > 0 for value in known).count(True) == 3  # of the two that are there, and of the new one
    column = table.GetTable().GetColumnByName("segmented")
    assert [column.GetValue(n) for n in range(column.GetNumberOfValues())].count("new") == 1
    assert table.GetNumberOfRows() == 3 * 3 + 1


def test_identity_decisions_and_undo(segmented, scene):
    logic, volumes, marks, segmentation = segmented
    logic.trackLesions(volumes[0], volumes[1:], marks)
    before = sceneState(scene)
    logic.trackLesions(volumes[0], volumes[1:], marks, segmentations=[segmentation, None])
    uid = rowsOf(logic)["S 3"][1].uid
    logic.trackLesions(volumes[0], volumes[1:], marks, segmentations=[segmentation, None])
    assert rowsOf(logic)["S 3"][1].uid == uid  # the same lesion in a rerun
    logic.undoStack.undo()
    logic.undoStack.undo()
    assert sceneState(scene) == before
    logic.undoStack.redo()
    assert rowsOf(logic)["S 3"][1].uid == uid
    # a rerun on the other study alone does not forget what is new in the first
    logic.trackLesions(volumes[0], volumes[2:], marks)
    assert rowsOf(logic)["S 3"][1].uid == uid
    # what was judged keeps its place; its size and presence follow the segmentation
    listNode = match_list.findMatchList(logic.tracker.lesionList(), volumes[1])
    index = match_list.indexOfTemplatePoint(listNode, rowsOf(logic)["liver"][1].uid)
    with logic.writing():
        listNode.SetNthControlPointPositionWorld(index, *(PLACES_RAS[0] + SHIFT_RAS))
        match_list.markMoved(listNode, index)
    logic.trackLesions(volumes[0], volumes[1:], marks, segmentations=[segmentation, None])
    liver = rowsOf(logic)["liver"][1]
    assert np.allclose(liver.world, PLACES_RAS[0] + SHIFT_RAS) and liver.decision == "moved"
    assert liver.sizeMm == pytest.approx(np.hypot(12, 8), abs=0.1) and liver.result.presence == match_list.SEGMENTED
    # without the segmentation the new lesion goes, unless someone has accepted it
    logic.trackLesions(volumes[0], volumes[1:], marks, segmentations=[None, None])
    assert "S 3" not in rowsOf(logic)
    assert listNode.GetNumberOfControlPoints() == 3


def test_an_accepted_new_lesion_stays(segmented):
    logic, volumes, marks, segmentation = segmented
    logic.trackLesions(volumes[0], volumes[1:2], marks, segmentations=[segmentation])
    new = rowsOf(logic)["S 3"][1]
    with logic.writing():
        match_list.accept(slicer.mrmlScene.GetNodeByID(new.listID), new.index)
    logic.trackLesions(volumes[0], volumes[1:2], marks, segmentations=[None])
    assert rowsOf(logic)["S 3"][1].decision == "accepted"


def test_two_lesions_that_merged(logic, scene):
    volumes = addStudies(scene)
    marks = addLesionPoints(scene)
    marks.SetNthControlPointPositionWorld(1, *(PLACES_RAS[0] + [8.0, 0, 0]))  # two lesions 8 mm apart
    whole = addSegmentation(scene, [PLACES_RAS[0] + [4.0, 0, 0] + SHIFT_RAS], (20.0, 8.0, 6.0))
    logic.trackLesions(volumes[0], volumes[1:2], marks, segmentations=[whole])
    found = {label: row[1].result.presence for label, row in rowsOf(logic).items()}
    assert sorted([found["liver"], found["spleen"]]) == ["merged", "segmented"] and found["node"] == "vanished"


def test_segmentation_and_study_under_a_transform(segmented, scene):
    """Moved together in the world, nothing else changes."""
    logic, volumes, marks, segmentation = segmented
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix4 = np.array([[0.0, -1, 0, 30], [1, 0, 0, -20], [0, 0, 1, 5], [0, 0, 0, 1]])
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix4))
    for node in (volumes[1], segmentation):
        node.SetAndObserveTransformNodeID(transform.GetID())
    logic.trackLesions(volumes[0], volumes[1:2], marks, segmentations=[segmentation])
    new = rowsOf(logic)["S 3"][1]
    expected = matrix4[:3, :3] @ (NEW_PLACE_RAS + SHIFT_RAS) + matrix4[:3, 3]
    assert np.allclose(new.world, expected, atol=1e-3)


def test_what_makes_no_sense_says_so(segmented, scene):
    logic, volumes, marks, segmentation = segmented
    elsewhere = addSegmentation(scene, [(500.0, 0, 0)], name="far")
    before = sceneState(scene)
    for wrong, word in (([segmentation], "1 segmentations"), ([None, volumes[0]], "is not a segmentation")):
        with pytest.raises(InputError) as error:
            logic.trackLesions(volumes[0], volumes[1:], marks, segmentations=wrong)
        assert word in error.value.cause
    with pytest.raises(InputError) as error:
        logic.trackLesions(volumes[0], volumes[1:], marks, segmentations=[elsewhere, None])
    assert "far 1 of far lies outside CT 2023" in error.value.cause
    assert sceneState(scene) == before


def test_vanished_lesions_are_not_reported_as_there(segmented):
    logic, volumes, marks, segmentation = segmented
    logic.trackLesions(volumes[0], volumes[1:2], marks, segmentations=[segmentation])
    listNode = logic.tracker.lesionList()
    reported = {item.label: item for item in report_export.reportedIn(listNode, 1)}
    states = {label: item.state for label, item in reported.items()}
    assert states == {"liver": "present", "spleen": "not_evaluable", "node": "present", "S 3": "present"}
    assert reported["spleen"].diameter_mm is None and reported["spleen"].history[0].order == 0
    assert (reported["S 3"].status, reported["S 3"].role, reported["S 3"].history) == ("new", "new", ())
    assert "S 3" not in [item.label for item in report_export.reportedIn(listNode, 0)]
    matched = match_list.findMatchList(listNode, volumes[1])
    match_list.accept(matched, match_list.indexOfTemplatePoint(matched, reported["spleen"].tracking_uid))
    gone = {item.label: item for item in report_export.reportedIn(listNode, 1)}["spleen"]
    assert (gone.state, gone.ends) == ("vanished", None) and gone.position is not None


def test_in_the_panel(widget, scene, tmp_path):
    volumes = addStudies(scene)
    marks = addLesionPoints(scene)
    places = np.vstack([PLACES_RAS[[0, 2]], NEW_PLACE_RAS]) + THIRD_SHIFT_RAS
    segmentation = addSegmentation(scene, places)
    ui = widget.ui
    ui.tabWidget.currentIndex = TRACK_TAB
    for volume in volumes[1:]:
        ui.followUpsSelector.setCheckState(volume, qt.Qt.Checked)
    ui.lesionSourcesSelector.setCheckState(marks, qt.Qt.Checked)
    assert not ui.segmentationSelector.enabled
    ui.studiesTable.setCurrentCell(0, 0)
    assert not ui.segmentationSelector.enabled  # the baseline's lesions are chosen below
    ui.studiesTable.setCurrentCell(2, 0)
    assert ui.segmentationSelector.enabled
    ui.segmentationSelector.setCurrentNode(segmentation)
    assert studies.segmentationOf(volumes[2]) is segmentation and studies.segmentationOf(volumes[1]) is None
    assert ui.studiesTable.item(2, 4).text() == "S"
    ui.studiesTable.setCurrentCell(1, 0)
    assert ui.segmentationSelector.currentNode() is None
    ui.studiesTable.setCurrentCell(2, 0)
    assert ui.segmentationSelector.currentNode() is segmentation
    ui.trackButton.click()
    settle(widget)
    rows = matrix(widget)
    assert "vanished?" in rows[1][2] and "new" in rows[3][2] and "~14.4 mm" in rows[0][2]
    assert rows[3][0] == rows[3][1] == "\N{EN DASH}"
    assert "need" in ui.statusLabel.text and ui.statusActionButton.text == "Show them"
    ui.findingsTable.setCurrentCell(3, 2)
    assert "Segmented here" in ui.findingLabel.text
    ui.acceptFindingButton.click()
    ui.findingsTable.setCurrentCell(1, 2)
    ui.acceptFindingButton.click()
    rows = matrix(widget)
    assert rows[3][2].startswith("\N{HEAVY CHECK MARK} new") and rows[1][2] == "\N{HEAVY CHECK MARK} vanished"
    path = str(tmp_path / "scene.mrb")
    assert scene.WriteToMRB(path)
    scene.Clear()
    assert scene.ReadFromMRB(path)
    settle(widget)
    assert matrix(widget) == rows and ui.studiesTable.item(2, 4).text() == "S"
    again = lesion_list.lesionsIn(widget.logic.tracker.lesionList())
    assert [lesion.centerWorld is None for lesion in again] == [False, False, False, True]
    chart = findings_table.find(widget.logic.tracker.lesionList(), findings_table.CHART)
    assert chart.GetNumberOfPlotSeriesNodes() == 3  # of the lesions that have a size anywhere
    assert node_geometry.definedPointIndices(widget.logic.tracker.lesionList()) == (0, 1, 2)
