"""Registering volume nodes: the transform node, where it stands in the scene, undo, and what helps to judge it."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

import slicer
import slicer.util
import vtk
from panel_tools import settle
from phantoms import SHIFT_LPS, addPair
from scene_tools import linear, sceneState

from SAMv2Core.errors import InputError, UnreliableResultError
from SAMv2SlicerLib.register import comparison
from SAMv2SlicerLib.register.register_job import Extras, loadRegistration
from SAMv2SlicerLib.scene import node_geometry

SHIFT_RAS = SHIFT_LPS * [-1, -1, 1]
CORNERS_RAS = np.array([[-30.0, -25, 110], [30, 25, 170], [0, 30, 140]])


def finish(logic):
    while logic.tick(0.05):
        pass


def misalignment(template, query):
    """mm between where the scene shows the same anatomy of both volumes, at some places; 0 when aligned."""
    templateLPS = CORNERS_RAS * [-1, -1, 1]
    queryLPS = templateLPS + SHIFT_LPS
    difference = node_geometry.volumeLPSToWorld(template, templateLPS) - node_geometry.volumeLPSToWorld(query, queryLPS)
    return np.linalg.norm(difference, axis=1).max()


def test_moving_volume_is_aligned(logic, pair, scene):
    assert misalignment(*pair) > 10
    node = logic.registerVolumes(*pair)
    assert misalignment(*pair) < 1.0
    assert pair[1].GetParentTransformNode() is node and pair[0].GetParentTransformNode() is None
    assert node.GetName() == "CT 2023 \N{RIGHTWARDS ARROW} CT 2021"
    facts = loadRegistration(node)
    assert facts["status"] == "registered" and facts["inliers"] > 50 and facts["rotation_deg"] < 1
    assert facts["translation_mm"] == pytest.approx(np.linalg.norm(SHIFT_LPS), abs=1.0)


@pytest.mark.parametrize("parents", ["fixed", "moving", "both"])
def test_volumes_under_linear_transforms(logic, pair, scene, parents):
    """Parents stay where they are; the volumes are aligned where the scene shows them."""
    old = linear(scene, 30, (1, 2, 0), (5, 6, 7))
    if parents in ("fixed", "both"):
        pair[0].SetAndObserveTransformNodeID(linear(scene, -50, (0, 0, 1), (40, 0, 0)).GetID())
    if parents in ("moving", "both"):
        pair[1].SetAndObserveTransformNodeID(old.GetID())
    node = logic.registerVolumes(*pair)
    assert misalignment(*pair) < 1.0
    assert pair[1].GetParentTransformNode() is node
    assert node.GetParentTransformNode() is (old if parents != "fixed" else None)
    again = logic.registerVolumes(*pair, outputTransform=node)
    assert again is node and misalignment(*pair) < 1.0


def test_not_applied_when_not_asked(logic, pair, scene):
    node = logic.registerVolumes(*pair, apply=False)
    assert pair[1].GetParentTransformNode() is None
    pair[1].SetAndObserveTransformNodeID(node.GetID())
    assert misalignment(*pair) < 1.0


def test_undo_gives_the_scene_back(logic, pair, scene):
    old = linear(scene, 30, (1, 2, 0), (5, 6, 7))
    pair[1].SetAndObserveTransformNodeID(old.GetID())
    before = sceneState(scene)
    job = logic.startRegistration(*pair, extras=Extras(cropROI=True))
    finish(logic)
    after = sceneState(scene)
    assert job.error is None and after != before
    assert logic.undoStack.undo()
    assert sceneState(scene) == before
    assert logic.undoStack.redo()
    assert misalignment(*pair) < 1.0 and len(sceneState(scene)) == len(after)
    assert logic.undoStack.undo() and sceneState(scene) == before


def test_undo_of_writing_into_an_existing_transform(logic, pair, scene):
    output = linear(scene, 10, (0, 0, 1), (1, 2, 3))
    before = slicer.util.arrayFromTransformMatrix(output)
    logic.registerVolumes(*pair, outputTransform=output)
    assert not np.allclose(slicer.util.arrayFromTransformMatrix(output), before)
    logic.undoStack.undo()
    assert np.allclose(slicer.util.arrayFromTransformMatrix(output), before)
    assert pair[1].GetParentTransformNode() is None and loadRegistration(output) is None


def test_failed_registration_changes_nothing(logic, pair, scene, monkeypatch):
    real = logic.engine.register

    def failed(*arguments):
        computed = real(*arguments)
        found = computed.results[0]
        object.__setattr__(found, "status", "failed")
        return computed

    monkeypatch.setattr(logic.engine, "register", failed)
    before = sceneState(scene)
    with pytest.raises(UnreliableResultError, match="could not be aligned"):
        logic.registerVolumes(*pair)
    assert sceneState(scene) == before and logic.undoStack.nextUndo() is None


def test_inputs_that_make_no_sense(logic, pair, scene):
    with pytest.raises(InputError, match="same scan"):
        logic.registerVolumes(pair[0], pair[0])
    spline = vtk.vtkThinPlateSplineTransform()
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode")
    node.SetAndObserveTransformToParent(spline)
    pair[1].SetAndObserveTransformNodeID(node.GetID())
    with pytest.raises(InputError, match="CT 2023 is under a non-linear transform"):
        logic.registerVolumes(*pair)
    assert not logic.engine.embedded  # said before the work, not after


@pytest.mark.parametrize("victim", [0, 1])
def test_volume_deleted_while_registering(logic, pair, scene, victim):
    job = logic.startRegistration(*pair)
    scene.RemoveNode(pair[victim])
    before = sceneState(scene)
    finish(logic)
    assert isinstance(job.error, InputError) and sceneState(scene) == before


def test_used_points_lie_on_the_same_anatomy(logic, pair, scene):
    node = logic.registerVolumes(*pair)
    fixed, moving = comparison.addUsedPoints(node, *pair)
    count = fixed.GetNumberOfControlPoints()
    assert count == moving.GetNumberOfControlPoints() > 20
    distance = np.linalg.norm(
        node_geometry.pointsWorld(fixed, range(count)) - node_geometry.pointsWorld(moving, range(count)), axis=1
    )
    assert np.median(distance) < 2.0  # the moving list is under the transform, too


def test_checkerboard_of_aligned_copies_is_the_image(logic, pair, scene):
    for node in pair:
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetAutoWindowLevel(False)
        node.GetDisplayNode().SetWindowLevelMinMax(-200, 300)
    exact = np.eye(4)
    exact[:3, 3] = SHIFT_LPS
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node_geometry.setTransformFromMatrix(transform, exact, *pair)
    apart = comparison.checkerboard(*pair)()
    pair[1].SetAndObserveTransformNodeID(transform.GetID())
    board = comparison.checkerboard(*pair)()
    expected = np.clip((slicer.util.arrayFromVolume(pair[0]) + 200) / 500, 0, 1)
    assert np.abs(board - expected).max() < 1e-3
    assert np.abs(apart - expected).max() > 0.5  # and without the transform it shows the difference


def test_crop_box_holds_what_was_asked(scene, pair):
    node = comparison.addCropROI(*pair, {"ijk_min": [2, 3, 4], "ijk_max": [20, 30, 25]}, "moving")
    center, size = node_geometry.boxFromIJK(pair[1], [2, 3, 4], [20, 30, 25])
    world = [0.0, 0.0, 0.0]
    node.GetCenterWorld(world)
    assert np.allclose(world, center) and np.allclose(sorted(node.GetSize()), sorted(size))


def test_panel_registers_shows_and_undoes(widget, scene):
    template, query = addPair(scene)
    widget.ui.tabWidget.currentIndex = 1
    assert widget.ui.registerButton.text == "Register CT 2023 \N{RIGHTWARDS ARROW} CT 2021"
    assert widget.ui.registrationCardLabel.text == "No registration yet." and not widget.ui.fadeButton.enabled
    widget.ui.registerButton.click()
    assert widget.panel.registerTab.isRunning()
    settle(widget)
    assert misalignment(template, query) < 1.0
    card = widget.ui.registrationCardLabel.text
    assert "registered" in card and "Inliers" in card and "median" in card and "Overlap" in card
    for button in (widget.ui.fadeButton, widget.ui.checkerboardButton, widget.ui.usedPointsButton):
        assert button.enabled
    widget.ui.usedPointsButton.click()
    for _ in range(2):  # the used points, the registration
        widget.ui.undoButton.click()
    settle(widget)
    assert scene.GetNumberOfNodesByClass("vtkMRMLMarkupsFiducialNode") == 0
    assert query.GetParentTransformNode() is None and "Undone" in widget.ui.statusLabel.text
    assert widget.ui.registrationCardLabel.text == "No registration yet."
    widget.ui.redoButton.click()
    settle(widget)
    assert widget.ui.registrationCardLabel.text == card and misalignment(template, query) < 1.0
    assert widget.ui.fadeButton.enabled


BOARD = "Checkerboard of CT 2021 and CT 2023"


@pytest.fixture
def compared(windows, widget, scene):
    """(widget, composite node of a view that shows the template, its ID), with a registration."""
    template, _ = addPair(scene)
    composite = windows.sliceWidget("Red").sliceLogic().GetSliceCompositeNode()
    composite.SetBackgroundVolumeID(template.GetID())
    widget.ui.registerButton.click()
    settle(widget)
    return widget, composite, template.GetID()


def test_checkerboard_and_compare_replace_each_other_and_lead_back(compared, scene):
    widget, composite, before = compared
    ui = widget.ui
    for first, second in ((ui.fadeButton, ui.checkerboardButton), (ui.checkerboardButton, ui.fadeButton)):
        first.click()
        settle(widget)
        second.click()
        settle(widget)
        assert second.checked and not first.checked and second.enabled
        board = scene.GetFirstNodeByName(BOARD)
        isBoard = second is ui.checkerboardButton
        assert (board is not None) == isBoard
        assert composite.GetBackgroundVolumeID() == (board.GetID() if isBoard else before)
        assert bool(composite.GetForegroundVolumeID()) != isBoard
        second.click()
        settle(widget)
        assert composite.GetBackgroundVolumeID() == before and not composite.GetForegroundVolumeID()
        assert scene.GetFirstNodeByName(BOARD) is None


def test_there_is_one_checkerboard_at_most(compared, scene):
    """And it is nothing to undo: it goes when its button is released."""
    widget, composite, before = compared
    done = widget.logic.undoStack.nextUndo()
    for _ in range(3):
        widget.ui.checkerboardButton.click()
        settle(widget)
        assert scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 3
        widget.ui.checkerboardButton.click()
        settle(widget)
    assert scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 2 and widget.logic.undoStack.nextUndo() == done


def test_undo_of_the_registration_leaves_no_comparison(compared, scene):
    widget, composite, before = compared
    widget.ui.checkerboardButton.click()
    settle(widget)
    widget.ui.undoButton.click()
    settle(widget)
    assert composite.GetBackgroundVolumeID() == before and not widget.ui.checkerboardButton.checked


def test_panel_fades_and_gives_the_views_back(widget, scene):
    template, query = addPair(scene)
    composite = scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode", "Red")
    composite.SetBackgroundVolumeID(query.GetID())
    widget.ui.registerButton.click()
    settle(widget)
    widget.ui.fadeButton.checked = True
    widget.ui.fadeSlider.value = 25
    assert composite.GetBackgroundVolumeID() == template.GetID() and composite.GetForegroundVolumeID() == query.GetID()
    assert composite.GetForegroundOpacity() == pytest.approx(0.25)
    widget.exit()
    assert composite.GetBackgroundVolumeID() == query.GetID() and not composite.GetForegroundVolumeID()


def test_views_are_compared_when_they_are_on_the_screen(windows, widget, scene):
    """Of three views one is on the screen, then all; each gets back what it had."""
    template, query = addPair(scene)
    widget.ui.registerButton.click()
    settle(widget)
    composites = {node.GetLayoutName(): node for node in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")}
    for composite in composites.values():
        composite.SetBackgroundVolumeID(query.GetID())
        composite.SetForegroundVolumeID(None)
    windows.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)
    settle(widget)

    def shown():
        pairs = {name: (one.GetBackgroundVolumeID(), one.GetForegroundVolumeID()) for name, one in composites.items()}
        return {name for name, pair in pairs.items() if pair == (template.GetID(), query.GetID())}

    before = [(one.GetBackgroundVolumeID(), one.GetForegroundVolumeID()) for one in composites.values()]
    widget.ui.fadeButton.checked = True
    assert shown() == {"Red"}
    widget.ui.fadeSlider.value = 25
    windows.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView)
    settle(widget)
    assert shown() == {"Red", "Green", "Yellow"}
    assert composites["Green"].GetForegroundOpacity() == pytest.approx(0.25)
    widget.ui.fadeButton.checked = False
    assert [(one.GetBackgroundVolumeID(), one.GetForegroundVolumeID()) for one in composites.values()] == before


def test_result_is_saved_with_the_scene(logic, pair, scene, tmp_path):
    facts = loadRegistration(logic.registerVolumes(*pair))
    path = str(tmp_path / "scene.mrb")
    assert scene.WriteToMRB(path)
    scene.Clear()
    assert scene.ReadFromMRB(path)
    template, query = scene.GetFirstNodeByName("CT 2021"), scene.GetFirstNodeByName("CT 2023")
    node = query.GetParentTransformNode()
    assert loadRegistration(node) == facts and misalignment(template, query) < 1.0
    assert node.GetNodeReference("SAMv2.fixed") is template


def test_damaged_facts_are_no_result():
    node = SimpleNamespace(GetAttribute=lambda name: "{not json")
    assert loadRegistration(node) is None
