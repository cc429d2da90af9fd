"""A scripted tour of the panel: every button of the Match tab, on the real scene, with Qt offscreen."""

import threading

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

import qt
import slicer
import slicer.util
import vtk
from panel_tools import cells, settle
from phantoms import SHIFT_LPS, addPair, addPoints, addVolume
from scene_tools import addSliceViews, centerOf

from SAMv2SlicerLib.panel import panel as panel_module
from SAMv2SlicerLib.scene import match_list, node_geometry

PLACES_RAS = np.array([[11.0, 13, 141], [-13, -7, 133], [3, 21, 149]])
SHIFT_RAS = SHIFT_LPS * [-1, -1, 1]


@pytest.fixture
def ready(widget, scene):
    """The panel with two scans and an empty point list selected."""
    template, query = addPair(scene)
    points = addPoints(scene, [])
    widget.panel.parameters.points = points
    return widget, template, query, points


def test_empty_scene_says_what_to_do(widget):
    assert "Load two scans" in widget.ui.statusLabel.text
    assert not widget.ui.matchButton.enabled and "Load two scans" in widget.ui.matchButton.toolTip
    assert not widget.ui.registerButton.enabled


def test_inputs_are_filled_when_scans_arrive(widget, scene):
    template, query = addPair(scene)
    assert widget.ui.templateSelector.currentNode() is template and widget.ui.querySelector.currentNode() is query
    assert widget.ui.fixedSelector.currentNode() is template and widget.ui.movingSelector.currentNode() is query
    assert "No point list" in widget.ui.matchButton.toolTip and not widget.ui.matchButton.enabled


def test_a_placed_point_is_matched_at_once(ready):
    widget, _, query, points = ready
    points.AddControlPointWorld(vtk.vtkVector3d(*PLACES_RAS[0]), "liver")
    settle(widget)
    matched = match_list.findMatchList(points, query)
    assert np.linalg.norm(node_geometry.pointWorld(matched, 0) - (PLACES_RAS[0] + SHIFT_RAS)) < 1.0
    assert cells(widget)[0][0] == "liver" and "matched" in cells(widget)[0][1] and cells(widget)[0][3] == "CT 2023"
    assert matched.GetNthControlPointLocked(0)
    assert widget.ui.statusLabel.text == "1 point matched."


def test_dragging_updates_the_match_and_is_one_undo_step(ready):
    widget, _, query, points = ready
    points.AddControlPointWorld(vtk.vtkVector3d(*PLACES_RAS[0]), "F-1")
    settle(widget)
    for step in np.linspace(0, 1, 9)[1:]:
        points.SetNthControlPointPositionWorld(0, *(PLACES_RAS[0] + step * (PLACES_RAS[1] - PLACES_RAS[0])))
        slicer.app.processEvents()
    settle(widget)
    matched = match_list.findMatchList(points, query)
    assert np.linalg.norm(node_geometry.pointWorld(matched, 0) - (PLACES_RAS[1] + SHIFT_RAS)) < 1.0
    assert matched.GetNumberOfControlPoints() == 1


def test_a_match_is_shown_quickly_and_refined_at_rest(ready):
    """The nearest neighbor first, the chosen method when nothing moves; a move in between starts over."""
    widget, _, query, points = ready
    methods, expected = [], []
    real = widget.logic.engine.match

    def match(template, query, pointsLPS, method, *others, **options):
        methods.append((method, len(pointsLPS)))
        expected.append(options["expect"])
        return real(template, query, pointsLPS, method, *others, **options)

    widget.logic.engine.match = match
    points.AddControlPointWorld(vtk.vtkVector3d(*PLACES_RAS[0]), "p")
    settle(widget)
    assert methods == [("nearest", 1), ("fixed-point", 1)]
    assert expected == [True, None], "the first look is where the whole bodies' matches expect it"
    matched = match_list.findMatchList(points, query)
    assert matched.GetAttribute("SAMv2.method") == "fixed-point"
    points.AddControlPointWorld(vtk.vtkVector3d(*PLACES_RAS[1]), "q")
    points.SetNthControlPointPositionWorld(1, *PLACES_RAS[2])
    settle(widget)
    assert methods[-1] == ("fixed-point", 1) and methods[2][0] == "nearest"
    assert np.linalg.norm(node_geometry.pointWorld(matched, 1) - (PLACES_RAS[2] + SHIFT_RAS)) < 1.0
    methods.clear()
    widget.panel.parameters.method = type(widget.panel.parameters.method).NEAREST
    points.SetNthControlPointPositionWorld(1, *PLACES_RAS[1])
    settle(widget)
    assert methods == [("nearest", 1)] and expected[-1] is None, "who chose the nearest neighbor gets it"


def test_the_panel_is_drawn_anew_after_a_quick_match_and_not_before(ready, monkeypatch):
    """Each drawing of the window holds the match up; but it never waits for long."""
    widget, _, _, points = ready
    panel, refreshed = widget.panel, []
    monkeypatch.setattr(panel, "refresh", lambda results=True: refreshed.append(results))
    monkeypatch.setattr(panel, "visibleJob", lambda: None)
    monkeypatch.setattr(widget.logic.worker, "isBusy", lambda: True)
    panel.refreshSoon()
    panel.onRefreshTimer()
    assert not refreshed and panel.refreshTimer.active
    monkeypatch.setattr(panel_module, "SHOW_LIVE_AFTER_SECONDS", 0.0)
    panel.onRefreshTimer()
    assert refreshed == [True] and not panel.refreshTimer.active


def test_what_stays_the_same_is_not_drawn_again(ready):
    """In Slicer the whole window is drawn with whatever changes in it."""
    panel, window = ready[0].panel, ready[0].parent

    class Counter(qt.QObject):
        count = 0

        def eventFilter(self, watched, event):
            self.count += event.type() == qt.QEvent.UpdateRequest
            return False

    def drawings():
        counter.count = 0
        panel.refresh(results=False)
        for _ in range(5):
            slicer.app.processEvents()
        return counter.count

    counter = Counter()
    window.show()
    settle(ready[0])
    drawings()
    window.installEventFilter(counter)
    assert drawings() == 0
    panel.clearMessage()
    panel._showFraction(0.4)
    assert drawings() > 0
    window.hide()


def test_labels_and_removal_follow_the_template(ready):
    widget, _, query, points = ready
    for place in PLACES_RAS[:2]:
        points.AddControlPointWorld(vtk.vtkVector3d(*place), "x")
    settle(widget)
    points.SetNthControlPointLabel(0, "aorta")
    matched = match_list.findMatchList(points, query)
    assert matched.GetNthControlPointLabel(0) == "aorta"
    points.RemoveNthControlPoint(0)
    assert matched.GetNumberOfControlPoints() == 1 and matched.GetNthControlPointLabel(0) == "x"


def test_a_point_outside_is_not_found_and_can_be_placed_by_hand(ready):
    widget, _, query, points = ready
    points.AddControlPointWorld(vtk.vtkVector3d(400, 0, 0), "far")
    settle(widget)
    matched = match_list.findMatchList(points, query)
    assert matched.GetNthControlPointPositionStatus(0) == slicer.vtkMRMLMarkupsNode.PositionUndefined
    assert "not found" in cells(widget)[0][1] and "1 of 1 points needs a look" in widget.ui.statusLabel.text
    matched.SetNthControlPointPositionWorld(0, 5, 6, 107)
    assert match_list.resultAt(matched, 0).edited and "by hand" in cells(widget)[0][1]
    points.SetNthControlPointPositionWorld(0, 410, 0, 0)
    settle(widget)
    assert np.allclose(node_geometry.pointWorld(matched, 0), (5, 6, 107))


def test_correcting_a_match_is_noticed_kept_and_undoable(ready):
    widget, _, query, points = ready
    points.AddControlPointWorld(vtk.vtkVector3d(*PLACES_RAS[0]), "F-1")
    settle(widget)
    matched = match_list.findMatchList(points, query)
    found = node_geometry.pointWorld(matched, 0)
    for step in range(1, 5):
        matched.SetNthControlPointPositionWorld(0, *(found + np.array([step, 0, 0])))
    assert match_list.resultAt(matched, 0).edited
    assert "kept" in widget.ui.statusLabel.text
    widget.ui.matchButton.click()
    settle(widget)
    assert np.allclose(node_geometry.pointWorld(matched, 0), found + np.array([4, 0, 0]))
    widget.panel.onUndo()  # the match that changed nothing
    widget.panel.onUndo()  # the whole drag
    assert np.allclose(node_geometry.pointWorld(matched, 0), found) and not match_list.resultAt(matched, 0).edited


def test_nothing_is_matched_while_clicking_when_switched_off(ready):
    widget, _, query, points = ready
    widget.ui.matchWhileClickingCheckBox.checked = False
    assert widget.panel.parameters.matchWhileClicking is False
    points.AddControlPointWorld(vtk.vtkVector3d(*PLACES_RAS[0]), "F-1")
    settle(widget)
    assert match_list.findMatchList(points, query) is None
    assert widget.ui.matchButton.enabled and widget.ui.matchButton.text == "Match 1 point"
    widget.ui.matchButton.click()
    settle(widget)
    assert match_list.findMatchList(points, query).GetNumberOfControlPoints() == 1


def test_batch_over_several_queries(ready, scene):
    widget, template, query, points = ready
    third = addVolume("CT 2024", slicer.util.arrayFromVolume(template), np.diag([-2.0, -2, 2, 1]))
    widget.panel.parameters.matchWhileClicking = False
    for place in PLACES_RAS:
        points.AddControlPointWorld(vtk.vtkVector3d(*place), "p")
    settle(widget)

    widget.ui.furtherQueriesSelector.setCheckState(third, qt.Qt.Checked)
    assert widget.panel.parameters.furtherQueryVolumes == [third]
    widget.ui.matchButton.click()
    assert widget.panel.matchTab.isRunning()
    settle(widget)
    assert len(cells(widget)) == 6 and {row[3] for row in cells(widget)} == {"CT 2023", "CT 2024"}
    assert match_list.findMatchList(points, third).GetNumberOfControlPoints() == 3


def test_cancel_of_a_batch(ready, scene, monkeypatch):
    widget, _, query, points = ready
    # The thread waits in its work until the button was looked at; else it may be done before, on a busy computer.
    match, reached, looked = widget.logic.engine.match, threading.Event(), threading.Event()

    def slowMatch(*given, **options):
        reached.set()
        return looked.wait(60) and match(*given, **options)

    monkeypatch.setattr(widget.logic.engine, "match", slowMatch)
    widget.panel.parameters.matchWhileClicking = False
    points.AddControlPointWorld(vtk.vtkVector3d(*PLACES_RAS[0]), "p")
    settle(widget)
    count = scene.GetNumberOfNodes()
    widget.ui.matchButton.click()
    assert widget.ui.matchButton.text == "Cancel" and reached.wait(60)
    widget.ui.matchButton.click()
    assert "Cancelling" in widget.ui.matchButton.text and not widget.ui.matchButton.enabled
    looked.set()
    settle(widget)
    assert widget.ui.statusLabel.text == "Cancelled; nothing was changed." and scene.GetNumberOfNodes() == count
    assert widget.ui.matchButton.text == "Match 1 point" and widget.ui.matchButton.enabled


def test_views_of_both_scans_jump(ready, scene):
    widget, template, query, points = ready
    (red, redComposite), (yellow, yellowComposite) = addSliceViews(scene)
    redComposite.SetBackgroundVolumeID(template.GetID())
    yellowComposite.SetBackgroundVolumeID(query.GetID())
    before = centerOf(red)
    for place in PLACES_RAS[:2]:
        points.AddControlPointWorld(vtk.vtkVector3d(*place), "p")
        settle(widget)
    matched = match_list.findMatchList(points, query)
    assert np.allclose(centerOf(yellow), node_geometry.pointWorld(matched, 1), atol=1e-3)
    assert np.allclose(centerOf(red), before)  # where the user clicks, nothing moves
    widget.ui.resultsTable.selectRow(0)
    assert np.allclose(centerOf(red), PLACES_RAS[0], atol=1e-3)
    assert np.allclose(centerOf(yellow), node_geometry.pointWorld(matched, 0), atol=1e-3)
    widget.ui.jumpViewsCheckBox.checked = False
    widget.ui.resultsTable.selectRow(1)
    assert np.allclose(centerOf(red), PLACES_RAS[0], atol=1e-3)


def test_review_buttons(ready, scene):
    widget, _, query, points = ready
    for place in PLACES_RAS:
        points.AddControlPointWorld(vtk.vtkVector3d(*place), "p")
    settle(widget)
    matched = match_list.findMatchList(points, query)
    assert not widget.ui.acceptButton.enabled
    widget.ui.resultsTable.selectRow(0)
    widget.ui.acceptButton.click()
    assert match_list.resultAt(matched, 0).edited
    widget.ui.resultsTable.selectRow(1)
    widget.ui.rejectButton.click()
    assert matched.GetNthControlPointPositionStatus(1) == slicer.vtkMRMLMarkupsNode.PositionUndefined
    widget.ui.matchButton.click()
    settle(widget)
    assert matched.GetNthControlPointPositionStatus(1) == slicer.vtkMRMLMarkupsNode.PositionUndefined
    widget.ui.resultsTable.selectRow(1)
    widget.ui.releaseButton.click()
    settle(widget)
    assert matched.GetNthControlPointPositionStatus(1) == slicer.vtkMRMLMarkupsNode.PositionDefined
    widget.ui.resultsTable.selectRow(2)
    widget.ui.editButton.click()
    assert not matched.GetNthControlPointLocked(2) and matched.GetNthControlPointLocked(0)


def test_similarity_map_button(ready, scene):
    widget, _, query, points = ready
    points.AddControlPointWorld(vtk.vtkVector3d(*PLACES_RAS[0]), "liver")
    settle(widget)
    widget.ui.resultsTable.selectRow(0)
    widget.ui.similarityMapButton.click()
    settle(widget)
    assert scene.GetFirstNodeByName("Similarity to liver in CT 2023") is not None


def test_follow_cursor(ready, scene):
    widget, template, query, points = ready
    widget.ui.followCursorButton.checked = True
    assert not widget.ui.followCursorButton.checked  # no crosshair node without slice views
    crosshair = scene.AddNewNodeByClass("vtkMRMLCrosshairNode")
    widget.ui.followCursorButton.checked = True
    for place in PLACES_RAS:
        crosshair.SetCursorPositionRAS(place)
    settle(widget)
    glyph = widget.panel.matchTab.follower.glyph()
    assert (
        np.linalg.norm(node_geometry.pointWorld(glyph, 0) - (PLACES_RAS[2] + SHIFT_RAS)) < 4.0
    )  # mm: one feature voxel
    assert glyph.GetHideFromEditors() and not glyph.GetSaveWithScene()
    assert points.GetNumberOfControlPoints() == 0
    for (view, composite), volume in zip(addSliceViews(scene), (template, query)):
        composite.SetBackgroundVolumeID(volume.GetID())
        view.JumpSliceByCentering(*PLACES_RAS[0])
        found = node_geometry.pointWorld(glyph, 0)
        crosshair.SetCursorPositionXYZ([128.0, 128.0, 0.0], view)
        settle(widget)
        hasMoved = np.linalg.norm(node_geometry.pointWorld(glyph, 0) - found) > 10.0
        assert hasMoved == (volume is template)  # over the query it stays
    crosshair.SetCursorPositionRAS(np.array([400.0, 0, 0]))
    settle(widget)
    assert not glyph.GetDisplayVisibility()
    widget.ui.followCursorButton.checked = False
    assert widget.panel.matchTab.follower.glyph() is None


def test_swap(ready):
    widget, template, query, _ = ready
    widget.ui.swapButton.click()
    assert widget.ui.templateSelector.currentNode() is query and widget.ui.querySelector.currentNode() is template


def test_same_volume_twice(ready):
    widget, template, _, _ = ready
    widget.ui.querySelector.setCurrentNode(template)
    assert "same scan" in widget.ui.statusLabel.text


def test_voxels_changed_between(ready):
    widget, template, query, points = ready
    points.AddControlPointWorld(vtk.vtkVector3d(*PLACES_RAS[0]), "p")
    settle(widget)
    slicer.util.arrayFromVolume(query)[:] += 1
    slicer.util.arrayFromVolumeModified(query)
    assert "CT 2023 changed" in widget.ui.statusLabel.text


def test_scene_saved_and_loaded_with_the_panel_open(ready, scene, tmp_path):
    widget, _, query, points = ready
    for place in PLACES_RAS:
        points.AddControlPointWorld(vtk.vtkVector3d(*place), "p")
    settle(widget)
    widget.panel.parameters.lockMatches = False
    match_list.findMatchList(points, query).SetNthControlPointPositionWorld(1, 1, 2, 103)
    rows = cells(widget)
    path = str(tmp_path / "scene.mrb")
    assert scene.WriteToMRB(path)
    scene.Clear()
    assert cells(widget) == [] and "Load two scans" in widget.ui.statusLabel.text
    assert scene.ReadFromMRB(path)
    settle(widget)
    assert widget.ui.templateSelector.currentNode().GetName() == "CT 2021"
    assert widget.panel.parameters.points.GetName() == "F" and not widget.ui.lockMatchesCheckBox.checked
    assert cells(widget) == rows
    points = widget.panel.parameters.points
    points.SetNthControlPointPositionWorld(0, *PLACES_RAS[1])
    settle(widget)
    matched = match_list.findMatchList(points, scene.GetFirstNodeByName("CT 2023"))
    assert np.linalg.norm(node_geometry.pointWorld(matched, 0) - (PLACES_RAS[1] + SHIFT_RAS)) < 1.0


def test_scene_closed_in_the_middle(ready, scene):
    widget, _, _, points = ready
    points.AddControlPointWorld(vtk.vtkVector3d(*PLACES_RAS[0]), "p")
    scene.Clear()
    settle(widget)
    assert scene.GetNumberOfNodesByClass("vtkMRMLMarkupsFiducialNode") == 0
    assert "Load two scans" in widget.ui.statusLabel.text


def test_volume_deleted_while_matching(ready, scene):
    widget, _, query, points = ready
    points.AddControlPointWorld(vtk.vtkVector3d(*PLACES_RAS[0]), "p")
    scene.RemoveNode(query)
    settle(widget)
    assert points.GetNumberOfControlPoints() == 1  # the user's point stays


def test_leaving_and_coming_back(ready):
    widget, _, query, points = ready
    widget.exit()
    points.AddControlPointWorld(vtk.vtkVector3d(*PLACES_RAS[0]), "p")
    settle(widget)
    assert match_list.findMatchList(points, query) is None
    widget.enter()
    points.AddControlPointWorld(vtk.vtkVector3d(*PLACES_RAS[1]), "q")
    settle(widget)
    assert match_list.findMatchList(points, query).GetNthControlPointLabel(0) == "q"
    widget.exit()
    widget.exit()
    assert not widget.panel.Observations and not widget.logic.live.Observations


def test_shortcuts_exist_only_inside_the_module(ready):
    widget, _, _, _ = ready
    assert len(widget.panel.shortcuts._shortcuts) == 10
    widget.exit()
    assert not widget.panel.shortcuts._shortcuts
