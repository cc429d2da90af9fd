"""Point lists only in the views of the scan that they lie in."""

import re
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

import qt
import slicer
import slicer.util
from lesions import PLACES_RAS
from panel_tools import settle
from phantoms import addPair, addPoints

from SAMv2SlicerLib.scene import layouts, match_list, own_views, rings


def placesOf(node):
    """Layout names of the slice views that a list is shown in, and the number of 3D views."""
    display = node.GetDisplayNode()
    slices = [n for n in slicer.util.getNodesByClass("vtkMRMLSliceNode") if display.IsDisplayableInView(n.GetID())]
    spaces = [n for n in slicer.util.getNodesByClass("vtkMRMLViewNode") if display.IsDisplayableInView(n.GetID())]
    return {node.GetLayoutName() for node in slices}, len(spaces)


@pytest.fixture
def matched(windows, widget, scene):
    """(widget, template, query, points, matched list), side by side."""
    template, query = addPair(scene)
    points = addPoints(scene, PLACES_RAS)
    widget.panel.parameters.points = points
    widget.ui.sideBySideButton.click()
    widget.ui.matchButton.click()
    settle(widget)
    return widget, template, query, points, match_list.findMatchList(points, query)


def test_each_list_is_shown_on_its_own_scan(matched):
    widget, template, query, points, listNode = matched
    assert placesOf(points) == (set(layouts.rowNames("A")), 1)
    assert placesOf(listNode) == (set(layouts.rowNames("B")), 1)
    match_list.setResult(listNode, 0, match_list.PointResult(points.GetNthControlPointID(0), match_list.UNCERTAIN))
    widget.logic.live.noteOwnWrites()
    settle(widget)
    assert placesOf(rings.ringsOf(listNode))[0] == set(layouts.rowNames("B"))
    widget.ui.swapButton.click()  # the points of the former template are no points of the new one
    settle(widget)
    assert placesOf(points)[0] == set(layouts.rowNames("A"))


def test_lists_follow_once_however_many_views_get_another_scan(windows, matched, monkeypatch):
    widget, changes = matched[0], []
    change = widget.panel.ownViews.change
    monkeypatch.setattr(widget.panel.ownViews, "change", lambda: changes.append(1) or change())
    widget.panel.layout.follow(matched[2], matched[1], ())  # swapped: three views each
    assert len(changes) == 2


def test_lists_follow_what_views_show(windows, matched):
    widget, template, query, points, listNode = matched
    composite = windows.sliceWidget("Red").sliceLogic().GetSliceCompositeNode()
    composite.SetBackgroundVolumeID(template.GetID())
    assert placesOf(points)[0] == {*layouts.rowNames("A"), "Red"} and "Red" not in placesOf(listNode)[0]
    composite.SetForegroundVolumeID(query.GetID())  # faded over each other: both belong there
    assert "Red" in placesOf(points)[0] and "Red" in placesOf(listNode)[0]


def test_a_list_whose_scan_nobody_shows_is_in_no_slice_view(windows, widget, scene):
    addPair(scene)
    points = addPoints(scene, PLACES_RAS)
    widget.panel.parameters.points = points
    settle(widget)
    assert placesOf(points)[0] == set()


def test_users_choice_comes_back(windows, widget, scene, tmp_path):
    """When the module is left, and from a scene that was saved while it was shown."""
    import SAMv2Slicer

    template, _ = addPair(scene)
    points, free = addPoints(scene, PLACES_RAS), addPoints(scene, PLACES_RAS, name="free")
    points.GetDisplayNode().AddViewNodeID("vtkMRMLSliceNodeGreen")
    widget.panel.parameters.points = points
    widget.ui.sideBySideButton.click()
    settle(widget)
    assert placesOf(points)[0] == set(layouts.rowNames("A")) and len(placesOf(free)[0]) > 6
    scene.SetURL(str(tmp_path / "scene.mrml"))
    assert scene.Commit()
    widget.exit()
    assert placesOf(points) == ({"Green"}, 0)
    scene.Clear()
    assert scene.Import()
    SAMv2Slicer.onSceneLoaded(None, None)
    assert placesOf(slicer.util.getNode("F")) == ({"Green"}, 0)


def test_a_click_on_another_scan_is_refused_with_a_word(windows, matched, scene):
    """Slicer places nothing where a list is not shown (vtkMRMLMarkupsDisplayableManager::GetWidgetForPlacement)."""
    widget, template, _, points, _ = matched
    selection = scene.GetFirstNodeByClass("vtkMRMLSelectionNode") or scene.AddNewNodeByClass("vtkMRMLSelectionNode")
    interaction = scene.GetFirstNodeByClass("vtkMRMLInteractionNode")
    interaction = interaction or scene.AddNewNodeByClass("vtkMRMLInteractionNode")
    crosshair = scene.AddNewNodeByClass("vtkMRMLCrosshairNode")
    widget.exit()
    widget.enter()
    widget.ui.sideBySideButton.click()
    selection.SetActivePlaceNodeID(points.GetID())
    interaction.SetCurrentInteractionMode(slicer.vtkMRMLInteractionNode.Place)
    for row, isTold in (("B", True), ("A", False), ("B", True)):
        view = windows.sliceWidget(layouts.viewName(row, "Axial")).mrmlSliceNode()
        crosshair.SetCursorPositionXYZ([10.0, 10.0, 0.0], view)
        settle(widget)
        assert (f"click on {template.GetName()}" in widget.ui.statusLabel.text) == isTold
    interaction.SetCurrentInteractionMode(slicer.vtkMRMLInteractionNode.ViewTransform)
    settle(widget)
    assert "click on" not in widget.ui.statusLabel.text


def test_a_scene_is_saved_as_a_slicer_without_the_module_has_to_see_it(windows, matched, scene):
    """Bundled while side by side: no list is confined in the file, and its layout is one that every Slicer has; with
    the module both come back."""
    import SAMv2Slicer

    widget, _, _, points, listNode = matched
    before = windows.layoutLogic().GetLayoutNode().GetViewArrangement()
    assert before == layouts.SIDE_BY_SIDE_ID
    with tempfile.TemporaryDirectory() as folder:
        assert scene.SaveSceneToSlicerDataBundleDirectory(folder, None)
        written = next(Path(folder).rglob("*.mrml")).read_text(encoding="utf-8")
        assert f'currentViewArrangement="{before}"' not in written and own_views.ATTRIBUTE not in written
        assert "SAMv2-A-Axial" not in "".join(re.findall(r"<MarkupsFiducialDisplay.*?>", written, re.DOTALL))
        settle(widget)
        assert windows.layoutLogic().GetLayoutNode().GetViewArrangement() == before
        assert placesOf(points)[0] == set(layouts.rowNames("A"))
        windows.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView)
        scene.Clear()
        scene.SetURL(str(next(Path(folder).rglob("*.mrml"))))
        assert scene.Import()
        SAMv2Slicer.onSceneLoaded(None, None)
    for _ in range(3):
        slicer.app.processEvents()
    settle(widget)
    assert windows.layoutLogic().GetLayoutNode().GetViewArrangement() == before
    assert placesOf(slicer.util.getNode("F"))[0] == set(layouts.rowNames("A"))


def test_while_slicers_save_dialog_is_open_nothing_is_confined(matched, monkeypatch):
    widget, _, _, points, _ = matched

    class qSlicerSaveDataDialogPrivate(qt.QDialog):
        """As Slicer's is called."""

    dialog = qSlicerSaveDataDialogPrivate(None)
    dialogs = [dialog]
    monkeypatch.setattr(qt.QApplication, "activeModalWidget", lambda: dialogs[0] if dialogs else None, raising=False)
    widget.panel.saving._onFocus(None, None)
    widget.panel.refresh()
    assert len(placesOf(points)[0]) > 6
    dialogs.clear()
    widget.panel.saving._onFocus(None, None)
    assert placesOf(points)[0] == set(layouts.rowNames("A"))
    dialog.deleteLater()
