"""What every user meets in the first minute: results that can be seen, selections that stay, keys that do one thing."""

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

import qt
import slicer
import slicer.util
import vtk
from lesions import PLACES_RAS, addLesionPoints, addStudies
from panel_tools import settle
from phantoms import addPair, addPoints

from SAMv2SlicerLib.scene import layouts, match_list, node_geometry


def positionsOf(listNode):
    return [tuple(node_geometry.pointWorld(listNode, n)) for n in range(listNode.GetNumberOfControlPoints())]


# --- results that can be seen ----------------------------------------------------------------------------------------


def test_a_match_that_no_view_shows_is_told_and_offered(windows, widget, scene):
    template, query = addPair(scene)
    points = addPoints(scene, PLACES_RAS)
    widget.panel.parameters.points = points
    windows.sliceWidget("Red").sliceLogic().GetSliceCompositeNode().SetBackgroundVolumeID(template.GetID())
    widget.ui.matchButton.click()
    settle(widget)
    ui = widget.ui
    assert f"no view shows {query.GetName()}" in ui.statusLabel.text
    assert not ui.statusActionButton.isHidden() and ui.statusActionButton.text == "Show side by side"
    ui.statusActionButton.click()
    settle(widget)
    assert widget.panel.layout.isSideBySide() and "no view" not in ui.statusLabel.text
    matched = match_list.findMatchList(points, query)
    axial = windows.sliceWidget(layouts.viewName("B", "Axial")).mrmlSliceNode()
    last = node_geometry.pointWorld(matched, matched.GetNumberOfControlPoints() - 1)
    assert axial.GetSliceToRAS().GetElement(2, 3) == pytest.approx(last[2], abs=1e-3)


def test_without_a_window_nothing_is_missing_from_it(widget, scene):
    addPair(scene)
    widget.panel.parameters.points = addPoints(scene, PLACES_RAS)
    widget.ui.matchButton.click()
    settle(widget)
    assert "no view" not in widget.ui.statusLabel.text


def test_a_list_made_in_the_panel_is_not_black(widget, scene):
    addPair(scene)
    node = widget.ui.pointsWidget.addNode()
    assert np.allclose(node.GetDisplayNode().GetSelectedColor(), match_list.COLOR_POINTS, atol=0.01)
    assert widget.panel.parameters.points is node


# --- loading scenes --------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(widget, scene, tmp_path):
    """(widget, path) of a scene with matches, follow-ups and lesion marks, all selected in the panel."""
    volumes = addStudies(scene)
    points, marks = addPoints(scene, PLACES_RAS), addLesionPoints(scene)
    p = widget.panel.parameters
    p.points, p.followUpVolumes, p.lesionSources = points, volumes[1:], [marks]
    p.furtherQueryVolumes = [volumes[2]]
    widget.ui.matchButton.click()
    settle(widget)
    for node in [*volumes, *slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode")]:
        node.AddDefaultStorageNode()
        extension = "nrrd" if node.IsA("vtkMRMLVolumeNode") else "mrk.json"
        node.GetStorageNode().SetFileName(str(tmp_path / f"{node.GetID()}.{extension}"))
        assert node.GetStorageNode().WriteData(node)
    scene.SetURL(str(tmp_path / "scene.mrml"))
    assert scene.Commit()
    return widget, str(tmp_path / "scene.mrml")


def selectionOf(widget):
    p, ui = widget.panel.parameters, widget.ui
    return {
        "template": p.templateVolume.GetName(),
        "query": p.queryVolume.GetName(),
        "points": p.points and p.points.GetName(),
        "shown": ui.pointsWidget.currentNode() and ui.pointsWidget.currentNode().GetName(),
        "follow-ups": [node.GetName() for node in p.followUpVolumes],
        "checked": [node.GetName() for node in ui.followUpsSelector.checkedNodes()],
        "marks": [node.GetName() for node in ui.lesionSourcesSelector.checkedNodes()],
        "further": [node.GetName() for node in ui.furtherQueriesSelector.checkedNodes()],
    }


@pytest.mark.parametrize("isShown", [True, False])
def test_a_loaded_scene_keeps_what_was_selected(saved, scene, isShown):
    widget, path = saved
    before = selectionOf(widget)
    if not isShown:  # another module is shown while the scene is loaded
        widget.exit()
        widget.parent.isEntered = False
    scene.Clear()
    scene.SetURL(path)
    assert scene.Import()
    for _ in range(3):
        slicer.app.processEvents()
    if not isShown:
        widget.parent.isEntered = True
        widget.enter()
    settle(widget)
    assert selectionOf(widget) == before


def test_importing_a_scene_matches_nothing_unasked(saved, scene):
    """Points of the imported scene are where they belong, and results that were corrected by hand are no one's to
    overwrite."""
    widget, path = saved
    scene.Clear()
    template, query = addPair(scene)
    widget.panel.parameters.points = addPoints(scene, PLACES_RAS[:1], name="own")
    widget.ui.matchButton.click()
    settle(widget)
    started = []
    start = widget.logic.startMatch
    widget.logic.startMatch = lambda *args, **options: started.append(args) or start(*args, **options)
    scene.SetURL(path)
    assert scene.Import()
    for _ in range(3):
        slicer.app.processEvents()
    settle(widget)
    assert not started
    widget.panel.parameters.points.AddControlPointWorld(vtk.vtkVector3d(*(PLACES_RAS[0] + [2, 0, 0])), "mine")
    settle(widget)
    assert started  # and matching while clicking goes on


def test_no_selector_is_set_before_a_loaded_scene_has_settled(saved, scene, monkeypatch):
    """Slicer's list of points would then believe that it shows the node, and show none for good."""
    widget, path = saved
    calls = []
    points = widget.ui.pointsWidget
    setNode = points.setCurrentNode
    monkeypatch.setattr(points, "setCurrentNode", lambda node: calls.append(node) or setNode(node), raising=False)
    scene.Clear()
    scene.SetURL(path)
    assert scene.Import()
    assert widget.panel.isImporting()
    calls.clear()
    scene.GetSingletonNode("SAMv2Slicer", "vtkMRMLScriptedModuleNode").Modified()
    assert not calls
    for _ in range(3):
        slicer.app.processEvents()
    settle(widget)
    assert calls[-1] is widget.panel.parameters.points is points.currentNode()


def test_an_import_within_a_longer_batch_ends_with_it(saved, scene):
    """Other modules load scenes in batches of their own; the panel comes back to life afterwards."""
    widget, path = saved
    before = selectionOf(widget)
    scene.Clear()
    scene.SetURL(path)
    scene.StartState(slicer.vtkMRMLScene.BatchProcessState)
    assert scene.Import()
    for _ in range(3):
        slicer.app.processEvents()
    assert widget.panel.isImporting()
    scene.EndState(slicer.vtkMRMLScene.BatchProcessState)
    while widget.panel.isImporting():
        slicer.app.processEvents()
    settle(widget)
    assert selectionOf(widget) == before


# --- keys ------------------------------------------------------------------------------------------------------------


def shortcut(widget, keys):
    return next(item for text, item in widget.panel.shortcuts._shortcuts if text == keys)


@pytest.mark.parametrize(
    ("name", "isOwn"),
    [
        ("matchWhileClickingCheckBox", False),
        ("sideBySideButton", False),
        ("methodComboBox", False),
        ("studiesTable", False),
        ("resultsTable", True),
        ("findingsTable", True),
    ],
)
def test_space_presses_what_has_the_focus(widget, name, isOwn):
    """A shortcut takes its key away from the focused widget, so it must be off there."""
    widget.panel.shortcuts.onFocus(None, getattr(widget.ui, name))
    assert shortcut(widget, "Space").enabled == isOwn and shortcut(widget, "N").enabled


def test_no_key_is_taken_where_text_is_typed(widget):
    widget.panel.shortcuts.onFocus(None, widget.ui.startsSpinBox)
    assert not any(item.enabled for _, item in widget.panel.shortcuts._shortcuts)
    widget.panel.shortcuts.onFocus(widget.ui.startsSpinBox, None)
    assert all(item.enabled for _, item in widget.panel.shortcuts._shortcuts)


def test_keys_hold_in_all_windows_and_leave_slicer_its_own(widget):
    """F, B, V, R, G, T and S are the slice views' own (vtkMRMLSliceIntersectionWidget)."""
    used = {keys for keys, _ in widget.panel.shortcuts.keys()}
    assert not used & set("FBVRGTS") and "Shift+F" in used
    assert all(item.context == qt.Qt.ApplicationShortcut for _, item in widget.panel.shortcuts._shortcuts)


# --- what is offered -------------------------------------------------------------------------------------------------


def test_scans_are_no_follow_ups_of_themselves(widget, scene):
    baseline, first, second = addStudies(scene)
    made = slicer.util.addVolumeFromArray(np.zeros((4, 4, 4), np.int16), np.eye(4), "map")
    made.SetAttribute(node_geometry.ATTRIBUTE_MADE, "1")
    p = widget.panel.parameters
    p.baselineVolume = p.templateVolume = baseline
    p.queryVolume = first
    widget.ui.tabWidget.currentIndex = 1
    settle(widget)
    assert [node.GetName() for node in widget.ui.followUpsSelector.offered()] == [first.GetName(), second.GetName()]
    assert [node.GetName() for node in widget.ui.furtherQueriesSelector.offered()] == [second.GetName()]
    assert not widget.ui.followUpsSelector.property("noneEnabled")


def test_a_message_is_logged_once(widget, scene):
    """Dragging a match says the same with every movement of the mouse."""
    for _ in range(50):
        widget.panel.say("The match of F-1 was placed by hand and is kept.")
    assert widget.ui.logTextEdit.plainText.count("placed by hand") == 1


def test_a_scan_that_is_moved_is_noticed_at_once(widget, scene):
    template, query = addPair(scene)
    widget.panel.parameters.points = addPoints(scene, PLACES_RAS)
    widget.ui.matchButton.click()
    settle(widget)
    transform = vtk.vtkTransform()
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    query.SetAndObserveTransformNodeID(node.GetID())
    settle(widget)
    assert "moved" not in widget.ui.statusLabel.text
    transform.Translate(5, 0, 0)
    node.SetMatrixTransformToParent(transform.GetMatrix())
    settle(widget)
    assert f"{query.GetName()} was moved" in widget.ui.statusLabel.text


def test_the_template_never_becomes_its_own_query(widget, scene):
    template, query = addPair(scene)
    settle(widget)
    assert widget.panel.parameters.queryVolume is query
    scene.RemoveNode(query)
    settle(widget)
    widget.ui.querySelector.setCurrentNode(template)  # what Slicer's selector does when its node goes
    settle(widget)
    assert widget.panel.parameters.queryVolume is not template


# --- what is said ----------------------------------------------------------------------------------------------------


def test_nothing_moves_when_a_computation_begins(widget, scene):
    """The progress bar has its place, and a message of two lines has, too."""
    ui = widget.ui
    assert not ui.progressBar.isHidden() and ui.progressBar.maximumHeight <= 8
    assert ui.statusLabel.minimumHeight >= 2 * ui.statusLabel.fontMetrics().height()


def test_long_names_do_not_widen_the_panel(widget, scene):
    template, query = addPair(scene)
    before = widget.parent.minimumSizeHint.width()
    for node in (template, query):
        node.SetName("CT of the chest, abdomen and pelvis with contrast in the portal venous phase, 1 mm, soft kernel")
    widget.panel.parameters.points = addPoints(scene, PLACES_RAS)
    settle(widget)
    assert widget.parent.minimumSizeHint.width() <= before + 5


def test_the_tab_that_is_shown_decides_the_height(widget, scene):
    tabs, heights = widget.ui.tabWidget, []
    for n in range(3):
        tabs.currentIndex = n
        pages = [tabs.widget(k) for k in range(3)]
        heights.append([page.sizePolicy.verticalPolicy() == qt.QSizePolicy.Ignored for page in pages])
    assert heights == [[False, True, True], [True, False, True], [True, True, False]]


def test_accepting_goes_on_to_the_next_that_needs_a_look(widget, scene):
    _, query = addPair(scene)
    points = addPoints(scene, PLACES_RAS)
    widget.panel.parameters.points = points
    widget.ui.matchButton.click()
    settle(widget)
    listNode = match_list.findMatchList(points, query)
    for n in (0, 2):
        facts = match_list.PointResult(points.GetNthControlPointID(n), match_list.UNCERTAIN)
        match_list.setResult(listNode, n, facts)
    widget.panel.refresh()
    widget.ui.resultsTable.selectRow(0)
    widget.ui.acceptButton.click()
    assert widget.panel.matchTab.review.selected()[1] == 2
    widget.ui.rejectButton.click()
    assert not match_list.needingALook(listNode)


def test_remedies_name_the_buttons_of_the_panel(widget):
    from SAMv2Core.errors import ModelError

    error = ModelError("The download failed.", "Get the file another way and use `samv2 models import FILE --as NAME`.")
    widget.panel.showError(error)
    assert "Import" in widget.ui.statusLabel.text and "samv2 models" not in widget.ui.statusLabel.text


def test_nothing_to_crop_is_told(widget, scene, monkeypatch):
    from SAMv2SlicerLib.panel import register_tab

    addPair(scene)
    load = register_tab.loadRegistration
    monkeypatch.setattr(register_tab, "loadRegistration", lambda node: load(node) and {**load(node), "crop": None})
    widget.panel.parameters.createCropROI = True
    widget.ui.tabWidget.currentIndex = 2
    widget.ui.registerButton.click()
    settle(widget)
    assert "nothing to crop" in widget.ui.statusLabel.text


def test_follow_cursor_tells_when_nobody_sees_it(windows, widget, scene):
    addPair(scene)
    scene.AddNewNodeByClass("vtkMRMLCrosshairNode")
    widget.panel.parameters.points = addPoints(scene, PLACES_RAS)
    widget.ui.followCursorButton.checked = True
    assert "no view shows" in widget.ui.statusLabel.text and widget.ui.followCursorButton.checked


def test_the_cursor_is_unlabelled_and_stays_when_the_mouse_leaves(windows, widget, scene):
    template, query = addPair(scene)
    crosshair = scene.AddNewNodeByClass("vtkMRMLCrosshairNode")
    widget.panel.parameters.points = addPoints(scene, PLACES_RAS)
    widget.ui.sideBySideButton.click()
    settle(widget)
    widget.ui.followCursorButton.checked = True
    view = windows.sliceWidget(layouts.viewName("A", "Axial")).mrmlSliceNode()
    crosshair.SetCursorPositionXYZ([10.0, 10.0, 0.0], view)
    crosshair.SetCursorPositionRAS(PLACES_RAS[0])
    settle(widget)
    glyph = widget.panel.matchTab.follower.glyph()
    assert glyph.GetDisplayVisibility() and not glyph.GetDisplayNode().GetPointLabelsVisibility()
    crosshair.SetCursorPositionInvalid()
    settle(widget)
    assert glyph.GetDisplayVisibility()
