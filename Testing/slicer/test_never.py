"""What must never happen (the list of the project's UX document), beyond what its own tests show elsewhere."""

import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

import qt
import slicer
import slicer.util
from lesions import PLACES_RAS, SHIFT_RAS, addLesionPoints, addLine, addSegment, addStudies
from panel_tools import settle
from scene_tools import sceneState

import SAMv2SlicerLib
from SAMv2SlicerLib.scene import node_geometry, segments

TABS = ("matchButton", "trackButton", "registerButton")


@pytest.fixture
def loaded(widget, scene):
    """(widget, volumes, points, line, segmentation) with everything selected on all tabs."""
    volumes = addStudies(scene)
    for n, volume in enumerate(volumes):
        volume.CreateDefaultDisplayNodes()
        volume.GetDisplayNode().SetAutoWindowLevel(False)
        volume.GetDisplayNode().SetWindowLevelMinMax(-100 - n, 300 + n)
    points, line = addLesionPoints(scene), addLine(scene, PLACES_RAS[0])
    segmentation = addSegment(scene, PLACES_RAS[0] + SHIFT_RAS, (24.0, 20.0, 16.0))
    p = widget.panel.parameters
    p.templateVolume, p.queryVolume, p.points = volumes[0], volumes[1], points
    p.searchSegmentation, p.searchSegment = segmentation, segments.segmentsIn(segmentation)[0][0]
    p.baselineVolume, p.followUpVolumes, p.lesionSources = volumes[0], list(volumes[1:]), [points, line]
    p.fixedVolume, p.movingVolume = volumes[0], volumes[1]
    p.createCropROI = p.createCroppedVolume = p.createResampledVolume = True
    return widget, volumes, points, line, segmentation


def start(widget, tab):
    """Press the action button of a tab."""
    widget.ui.tabWidget.currentIndex = tab
    settle(widget)
    getattr(widget.ui, TABS[tab]).click()


def facts(volumes, markups, segmentation):
    """All of the user's nodes that the module must leave as they are."""
    found = [
        (
            volume.GetName(),
            slicer.util.arrayFromVolume(volume).tobytes(),
            node_geometry.ijkToLPS(volume).tobytes(),
            volume.GetDisplayNode().GetWindowLevelMin(),
            volume.GetDisplayNode().GetWindowLevelMax(),
        )
        for volume in volumes
    ]
    for node in markups:
        count = node.GetNumberOfControlPoints()
        labels = [node.GetNthControlPointLabel(n) for n in range(count)]
        found.append(
            (node.GetName(), labels, node_geometry.pointsWorld(node, range(count)).tobytes(), node.GetLocked())
        )
    return [*found, segmentation.GetSegmentation().GetMTime()]


def test_users_nodes_stay_as_they_are(loaded):
    """Not overwritten, hardened, renamed, moved or shown otherwise by anything that the tabs do."""
    widget, volumes, points, line, segmentation = loaded
    widget.exit()  # while it is shown, it labels lesions' lines
    own = facts(volumes, (points, line), segmentation)
    assert own[len(volumes) + 1][1] == ["RECIST 1-1", "RECIST 1-2"]
    widget.enter()
    before = facts(volumes, (points, line), segmentation)
    for tab in range(3):
        start(widget, tab)
        settle(widget)
    for button in ("checkerboardButton", "usedPointsButton", "fadeButton"):
        getattr(widget.ui, button).click()
    settle(widget)
    assert widget.panel.parameters.outputTransform is not None and widget.ui.findingsTable.rowCount == 4
    assert facts(volumes, (points, line), segmentation) == before
    assert volumes[0].GetParentTransformNode() is None and volumes[2].GetParentTransformNode() is None
    widget.exit()
    while widget.logic.undoStack.undo():
        pass
    assert facts(volumes, (points, line), segmentation) == own and volumes[1].GetParentTransformNode() is None


@pytest.mark.parametrize("tab", range(3))
def test_the_module_is_unloaded_in_the_middle(loaded, scene, tab):
    """Reloaded, or Slicer quits: nothing half-made is left, and nothing comes later."""
    widget, *_ = loaded
    widget.logic.engine.remembers = False
    start(widget, tab)
    assert widget.logic.worker.isBusy()
    before = sceneState(scene)
    widget.cleanup()
    for _ in range(20):
        slicer.app.processEvents()
        time.sleep(0.01)
    assert sceneState(scene) == before


@pytest.mark.parametrize("tab", range(3))
def test_the_scene_is_closed_in_the_middle(loaded, scene, tab):
    widget, *_ = loaded
    start(widget, tab)
    scene.Clear()
    settle(widget)
    left = [scene.GetNthNode(n).GetClassName() for n in range(scene.GetNumberOfNodes())]
    assert not [
        name for name in left if "Volume" in name or "Markups" in name or "Table" in name or "Transform" in name
    ]
    assert widget.panel.parameters.templateVolume is None and widget.ui.findingsTable.rowCount == 0


@pytest.mark.parametrize("tab", range(3))
def test_what_goes_wrong_is_said_in_the_status_line_and_never_in_a_popup(loaded, scene, monkeypatch, tab):
    widget, volumes, *_ = loaded
    for name in ("messageBox", "errorDisplay", "warningDisplay", "infoDisplay", "confirmOkCancelDisplay"):
        monkeypatch.setattr(slicer.util, name, lambda *a, **k: pytest.fail("a popup"))
    widget.logic.engine.remembers = False
    start(widget, tab)
    scene.RemoveNode(volumes[1])
    settle(widget)
    assert "closed while the result was being computed" in widget.ui.statusLabel.text
    assert qt.QApplication.activeModalWidget() is None


def test_no_match_without_its_confidence(loaded):
    """Every point that the module placed says how sure it is; what was not found has no place."""
    widget, volumes, points, _, _ = loaded
    start(widget, 0)
    settle(widget)
    start(widget, 1)
    settle(widget)
    from SAMv2SlicerLib.scene import match_list
    from SAMv2SlicerLib.track import lesion_list

    lists = [*match_list.matchLists(points), *lesion_list.findingsOf(widget.logic.tracker.lesionList())]
    assert len(lists) == 3
    for node in lists:
        defined = node_geometry.definedPointIndices(node)
        for n in range(node.GetNumberOfControlPoints()):
            result = match_list.resultAt(node, n)
            assert (n in defined) == (result.status != match_list.NOT_FOUND) and 0 <= result.confidence <= 1
            assert np.isfinite(result.confidence) and bool(node.GetNthControlPointSelected(n)) != result.needsALook


def test_events_are_let_in_only_where_a_script_waits():
    """In the middle of what the panel does, they would bring clicks and timers that meet it half done. Setting PyTorch
    up, where nothing else can be clicked, shows its lines so."""
    library = Path(SAMv2SlicerLib.__file__).parent
    sources = {str(path.relative_to(library)): path.read_text(encoding="utf-8") for path in library.rglob("*.py")}
    found = {
        name: {path.replace("\\", "/") for path, text in sources.items() if f"{name}(" in text}
        for name in ("processEvents", "keepApplicationAlive", "waitFor")
    }
    assert found == {
        "processEvents": {"work/waiting.py", "setup/install_progress.py"},
        "keepApplicationAlive": {"work/waiting.py"},
        "waitFor": {"work/waiting.py", "logic.py"},
    }
