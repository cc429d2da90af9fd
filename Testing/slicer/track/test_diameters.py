"""Diameters in follow-ups: both ends are found, their line is a proposal until a person measures with it."""

import math

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

import slicer
import slicer.util
from lesions import PLACES_RAS, SHIFT_RAS, THIRD_SHIFT_RAS, addLine, addStudies
from panel_tools import matrix, settle
from scene_tools import columnOf, findingAt

from SAMv2SlicerLib.scene import match_list, node_geometry
from SAMv2SlicerLib.track import diameters, findings_table, measuring, report_export


def lineAt(logic, row, column):
    """The line over a finding, measured or proposed, or None."""
    finding = findingAt(logic, row, column)
    return diameters.linesOf(logic.tracker.lesionList()).get((finding.uid, finding.volumeID))


@pytest.fixture
def lined(logic, scene):
    """(logic, volumes, line): one diameter of 12 mm tracked through two follow-ups."""
    volumes = addStudies(scene)
    line = addLine(scene, PLACES_RAS[0], 12.0, "R")
    logic.trackLesions(volumes[0], volumes[1:], line)
    return logic, volumes, line


def test_both_ends_are_found_and_proposed(lined):
    logic, volumes, line = lined
    ends = node_geometry.pointsWorld(line, (0, 1))
    for column, shift in ((1, SHIFT_RAS), (2, THIRD_SHIFT_RAS)):
        proposed = lineAt(logic, 0, column)
        assert np.abs(diameters.endsOf(proposed) - ends - shift).max() < 1.5  # a voxel is 2 mm
        assert diameters.isProposal(proposed) and proposed.GetName() == "R?"
        display = proposed.GetDisplayNode()
        assert display.GetGlyphType() != line.GetDisplayNode().GetGlyphType()
        assert np.allclose(display.GetSelectedColor(), match_list.COLOR_UNCERTAIN) and proposed.GetLocked()
        assert proposed.GetDisplayVisibility() and proposed.GetHideFromEditors()


def test_a_diameter_moves_with_a_scan_that_was_turned(logic, scene):
    """Scans under transforms: the ends are where the follow-up's voxels lie in the world."""
    import vtk

    volumes = addStudies(scene)
    turn = vtk.vtkTransform()
    turn.Translate(30, -12, 8)
    turn.RotateWXYZ(25, 0.2, 0.3, 1)
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetMatrixTransformToParent(turn.GetMatrix())
    volumes[1].SetAndObserveTransformNodeID(node.GetID())
    line = addLine(scene, PLACES_RAS[0], 12.0, "R")
    logic.trackLesions(volumes[0], volumes[1:2], line)
    wanted = [turn.TransformPoint(end + SHIFT_RAS) for end in node_geometry.pointsWorld(line, (0, 1))]
    assert np.abs(diameters.endsOf(lineAt(logic, 0, 1)) - wanted).max() < 1.5


def test_a_proposal_is_no_size(lined):
    logic, volumes, _ = lined
    finding = findingAt(logic, 0, 1)
    assert math.isnan(finding.sizeMm) and finding.proposedMm == pytest.approx(12.0, abs=1.5)
    listNode = logic.tracker.lesionList()
    assert np.isnan(columnOf(findings_table.find(listNode, findings_table.SIZES), "R")[1:]).all()
    row = findings_table.rowsFor(listNode)[1]
    assert row["diameter_mm"] is None and row["proposed_mm"] == pytest.approx(finding.proposedMm)
    (reported,) = report_export.reportedIn(listNode, 1)
    assert reported.diameter_mm is None and reported.ends is None


def test_measuring_takes_the_proposal_over_and_undo_gives_it_back(lined):
    logic, _, _ = lined
    ends = diameters.endsOf(lineAt(logic, 0, 1))
    line = measuring.measure(logic, findingAt(logic, 0, 1))
    finding = findingAt(logic, 0, 1)
    assert finding.isMeasured and finding.sizeMm == pytest.approx(12.0, abs=1.5) and math.isnan(finding.proposedMm)
    assert np.allclose(diameters.endsOf(line), ends) and not line.GetLocked() and line.GetName() == "R"
    assert not line.GetHideFromEditors()
    (reported,) = report_export.reportedIn(logic.tracker.lesionList(), 1)
    assert reported.diameter_mm == pytest.approx(finding.sizeMm) and reported.ends is not None
    logic.undoStack.undo()
    assert diameters.isProposal(lineAt(logic, 0, 1)) and not findingAt(logic, 0, 1).isMeasured
    assert np.allclose(diameters.endsOf(lineAt(logic, 0, 1)), ends, atol=1e-3)
    logic.undoStack.redo()
    assert findingAt(logic, 0, 1).isMeasured


def test_dragging_an_end_is_measuring(lined):
    logic, _, _ = lined
    line = lineAt(logic, 0, 1)
    line.SetLocked(False)
    end = node_geometry.pointWorld(line, 0)
    line.SetNthControlPointPositionWorld(1, *(end + [0, 15.0, 0]))
    finding = findingAt(logic, 0, 1)
    assert finding.isMeasured and finding.sizeMm == pytest.approx(15.0) and line.GetName() == "R"
    assert not line.GetHideFromEditors()
    assert np.allclose(line.GetDisplayNode().GetSelectedColor(), slicer.vtkMRMLMarkupsDisplayNode().GetSelectedColor())


def test_a_rerun_renews_proposals_and_keeps_measurements(lined, scene):
    logic, volumes, line = lined
    measured = measuring.measure(logic, findingAt(logic, 0, 1))
    measured.SetNthControlPointPositionWorld(1, *(node_geometry.pointWorld(measured, 0) + [0, 20.0, 0]))
    for n, sign in enumerate((-1, 1)):
        line.SetNthControlPointPositionWorld(n, *(PLACES_RAS[0] + [0, sign * 8.0, 0]))
    logic.trackLesions(volumes[0], volumes[1:], line)
    assert lineAt(logic, 0, 1) is measured and findingAt(logic, 0, 1).sizeMm == pytest.approx(20.0)
    assert findingAt(logic, 0, 2).proposedMm == pytest.approx(16.0, abs=1.5)
    assert scene.GetNumberOfNodesByClass("vtkMRMLMarkupsLineNode") == 3
    while logic.undoStack.undo():
        pass
    assert scene.GetNumberOfNodesByClass("vtkMRMLMarkupsLineNode") == 1  # the user's own


def test_what_is_rejected_or_moved_away_has_no_proposal(lined):
    logic, _, _ = lined
    listNode = match_list.matchLists(logic.tracker.lesionList())[0]
    with logic.writing():
        match_list.reject(listNode, 0)
    assert not lineAt(logic, 0, 1).GetDisplayVisibility() and math.isnan(findingAt(logic, 0, 1).proposedMm)
    with logic.writing():
        match_list.release(listNode, 0)
    assert lineAt(logic, 0, 1).GetDisplayVisibility() and findingAt(logic, 0, 1).proposedMm > 0
    listNode.SetNthControlPointPositionWorld(0, *(PLACES_RAS[0] + SHIFT_RAS + [30, 0, 0]))
    assert not lineAt(logic, 0, 1).GetDisplayVisibility() and math.isnan(findingAt(logic, 0, 1).proposedMm)
    line = measuring.measure(logic, findingAt(logic, 0, 1))  # not with the proposal from elsewhere
    assert np.allclose(diameters.endsOf(line).mean(axis=0), findingAt(logic, 0, 1).world)


def test_lines_of_follow_ups_mark_no_lesions(lined):
    from SAMv2SlicerLib.track import lesion_marks

    logic, _, line = lined
    lines = [line, lineAt(logic, 0, 1), measuring.measure(logic, findingAt(logic, 0, 2))]
    assert [mark.label for mark in lesion_marks.marksIn(lines)] == ["R"]


def test_proposals_survive_the_scene_file(lined, scene, tmp_path):
    logic, _, _ = lined
    ends = diameters.endsOf(lineAt(logic, 0, 1))
    measuring.measure(logic, findingAt(logic, 0, 2))
    scene.SetURL(str(tmp_path / "scene.mrml"))
    for node in slicer.util.getNodesByClass("vtkMRMLStorableNode"):
        if node.GetSaveWithScene() and node.AddDefaultStorageNode(str(tmp_path / node.GetID())):
            node.GetStorageNode().WriteData(node)
    assert scene.Commit()
    scene.Clear()
    scene.SetURL(str(tmp_path / "scene.mrml"))
    scene.Connect()
    logic.tracker.follow(scene.GetFirstNodeByName("CT 2021"))
    assert np.allclose(diameters.endsOf(lineAt(logic, 0, 1)), ends, atol=0.01)
    assert findingAt(logic, 0, 1).proposedMm > 0 and findingAt(logic, 0, 2).isMeasured


def test_the_panel_shows_what_is_proposed(widget, scene):
    volumes = addStudies(scene)
    widget.ui.tabWidget.currentIndex = 1
    parameters = widget.panel.parameters
    parameters.baselineVolume, parameters.followUpVolumes = volumes[0], list(volumes[1:2])
    parameters.lesionSources = [addLine(scene, PLACES_RAS[0], 12.0, "R")]
    widget.ui.trackButton.click()
    settle(widget)
    assert matrix(widget)[0][1].endswith(" mm?") and matrix(widget)[0][0].endswith("12.0 mm")
    widget.ui.findingsTable.setCurrentCell(0, 1)
    assert "proposed from its matched ends" in widget.ui.findingLabel.text
    widget.ui.acceptFindingButton.click()  # the place is right; its size is another question
    settle(widget)
    assert matrix(widget)[0][1].endswith(" mm?")
    widget.ui.measureButton.click()
    settle(widget)
    assert matrix(widget)[0][1].endswith(" mm") and "measured" in widget.ui.findingLabel.text
