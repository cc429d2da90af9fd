"""Panel and views together, on Slicer's own layout and slice logics: what is shown where, before and after loading."""

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

import slicer
import slicer.util
from panel_tools import settle
from phantoms import addPoints, addVolume, phantom
from scene_tools import centerOf

from SAMv2SlicerLib.scene import layouts

FAR_BELOW = -1200.0
"""mm: scans of the lower body often have their origin far from that of the world."""


@pytest.fixture
def far(scene):
    """Two scans, neither of them anywhere near the middle of a view that nobody has fitted."""
    found = []
    for name, s in (("CT 2021", FAR_BELOW), ("CT 2023", FAR_BELOW + 800)):
        matrix = np.diag([2.0, 2.0, 2.0, 1.0])
        matrix[:3, 3] = (-50, 300, s)
        found.append(addVolume(name, phantom(), matrix))
    return found


def viewsOf(windows, names):
    return [windows.sliceWidget(name).sliceLogic() for name in names]


def shows(logic, volume):
    """Whether a view shows a volume, and all of it: its plane cuts it, and its frame is as large."""
    bounds = [0.0] * 6
    volume.GetRASBounds(bounds)
    low, high = np.array(bounds[0::2]), np.array(bounds[1::2])
    node = logic.GetSliceNode()
    toRAS = slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS())
    isCut = np.all((toRAS[:3, 3] > low) & (toRAS[:3, 3] < high))
    extents = np.abs(toRAS[:3, :2].T @ (high - low))  # along the view's own axes
    isWhole = np.all(np.array(node.GetFieldOfView()[:2]) >= extents - 1e-3)
    return logic.GetSliceCompositeNode().GetBackgroundVolumeID() == volume.GetID() and isCut and isWhole


def test_side_by_side_views_show_all_of_both_scans(windows, widget, far):
    widget.ui.sideBySideButton.click()
    slicer.app.processEvents()
    settle(widget)
    for (row, _), volume in zip(layouts.ROWS, far):
        assert all(shows(view, volume) for view in viewsOf(windows, layouts.rowNames(row)))


def test_a_jump_in_the_same_turn_stays(windows, widget, far):
    """The views get their size when events are handled; what was chosen before must not be lost by that."""
    place = np.array([10.0, 340.0, FAR_BELOW + 30])
    widget.panel.parameters.points = addPoints(slicer.mrmlScene, [place])
    widget.ui.sideBySideButton.click()
    settle(widget)
    axial = windows.sliceWidget(layouts.viewName("A", "Axial")).mrmlSliceNode()
    assert np.allclose(centerOf(axial), place, atol=1e-3)


def test_rows_follow_the_selectors(windows, widget, far):
    ui, third = widget.ui, addVolume("CT 2024", phantom(), np.diag([2.0, 2.0, 2.0, 1.0]))
    ui.sideBySideButton.click()
    ui.swapButton.click()
    settle(widget)
    assert all(shows(view, far[1]) for view in viewsOf(windows, layouts.rowNames("A")))
    ui.querySelector.setCurrentNode(third)
    settle(widget)
    assert all(shows(view, third) for view in viewsOf(windows, layouts.rowNames("B")))
    assert all(shows(view, far[1]) for view in viewsOf(windows, layouts.rowNames("A")))


def test_what_the_user_shows_in_a_row_stays(windows, widget, far):
    ui = widget.ui
    ui.sideBySideButton.click()
    settle(widget)
    (view, *_) = viewsOf(windows, layouts.rowNames("B"))
    view.GetSliceCompositeNode().SetLinkedControl(False)
    view.GetSliceCompositeNode().SetBackgroundVolumeID(far[0].GetID())
    ui.methodComboBox.currentIndex = 1
    settle(widget)
    assert view.GetSliceCompositeNode().GetBackgroundVolumeID() == far[0].GetID()


def test_the_buttons_tell_which_layout_is_shown(windows, widget, far):
    ui, node = widget.ui, windows.layoutLogic().GetLayoutNode()
    before = node.GetViewArrangement()
    ui.sideBySideButton.click()
    assert ui.sideBySideButton.checked and not ui.allStudiesButton.checked
    widget.panel.parameters.followUpVolumes = [far[1]]
    ui.allStudiesButton.click()
    settle(widget)
    assert ui.allStudiesButton.checked and not ui.sideBySideButton.checked
    assert windows.sliceViewNames() == (layouts.studyViewName(0), layouts.studyViewName(1))
    ui.allStudiesButton.click()
    assert node.GetViewArrangement() == before and not ui.allStudiesButton.checked
    ui.sideBySideButton.click()
    windows.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)  # the user, in Slicer's own menu
    assert not ui.sideBySideButton.checked


def test_a_scene_saved_side_by_side_opens_with_its_views(windows, widget, far, scene, tmp_path):
    """As after a restart: the application knows our layouts before any button is pressed."""
    import SAMv2Slicer

    widget.ui.sideBySideButton.click()
    settle(widget)
    scene.SetURL(str(tmp_path / "scene.mrml"))
    assert scene.Commit()
    windows.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView)
    scene.Clear()
    SAMv2Slicer.onSlicerStarted()
    assert scene.Import()
    settle(widget)
    assert windows.layoutLogic().GetLayoutNode().GetViewArrangement() == layouts.SIDE_BY_SIDE_ID
    assert len(windows.sliceViewNames()) == 6 and widget.ui.sideBySideButton.checked


@pytest.mark.parametrize(("layoutID", "expected"), [(4711, 2), (layouts.STUDIES_ID + 40, layouts.STUDIES_ID + 40)])
def test_a_layout_that_nobody_knows_leaves_no_empty_window(windows, layoutID, expected):
    """2 is Slicer's conventional layout; 40 studies are more than have a layout from the start."""
    layouts.register()
    node = windows.layoutLogic().GetLayoutNode()
    assert not node.IsLayoutDescription(layoutID)
    node.DisableModifiedEventOn()  # as read from a file
    node.SetViewArrangement(layoutID)
    node.DisableModifiedEventOff()
    layouts.repair()
    assert node.GetViewArrangement() == expected and windows.sliceViewNames()


def test_views_are_made_one_by_one_as_slicer_makes_them(windows, widget, far, scene):
    """All at once would hold the window up for a second; each is what its layout's description says."""

    def made():
        nodes = {node.GetLayoutName(): node for node in slicer.util.getNodesByClass("vtkMRMLSliceNode")}
        return {name: nodes[name] for row, _ in layouts.ROWS for name in layouts.rowNames(row) if name in nodes}

    def said(node):
        color = tuple(round(value, 6) for value in node.GetLayoutColor())
        orientations = node.GetOrientation(), node.GetDefaultOrientation()
        names = node.GetName(), node.GetSingletonTag(), node.GetLayoutLabel()
        return (*names, *orientations, color, node.GetViewGroup())

    widget.ui.sideBySideButton.click()
    assert not made() and widget.ui.sideBySideButton.checked
    while widget.panel.layout.isSettling():
        before = len(made())
        slicer.app.processEvents()
        assert len(made()) <= before + 1
    ours = {name: said(node) for name, node in made().items()}
    assert len(ours) == 6
    windows.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)
    for node in made().values():
        scene.RemoveNode(node)
    windows.setLayout(layouts.SIDE_BY_SIDE_ID)
    assert {name: said(node) for name, node in made().items()} == ours
