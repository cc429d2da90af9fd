"""What the panel adds besides results: resampled copies, used points, views, tables to copy; and imported scenes."""

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
from panel_tools import cells, matrix, patientItems, settle
from phantoms import addPair, addPoints

from SAMv2SlicerLib.panel import dialogs
from SAMv2SlicerLib.register import hand_over
from SAMv2SlicerLib.scene import layouts, match_list, node_geometry
from SAMv2SlicerLib.track import studies

TRACK_TAB, REGISTER_TAB = 1, 2


# --- registration ----------------------------------------------------------------------------------------------------


def test_a_resampled_copy_lies_on_the_fixed_voxels(widget, scene):
    template, query = addPair(scene)
    widget.ui.tabWidget.currentIndex = REGISTER_TAB
    widget.ui.resampledCheckBox.checked = True
    widget.ui.registerButton.click()
    settle(widget)
    copy = scene.GetFirstNodeByName("CT 2023 on CT 2021")
    values, fixed = slicer.util.arrayFromVolume(copy), slicer.util.arrayFromVolume(template)
    assert values.shape == fixed.shape and values.dtype == slicer.util.arrayFromVolume(query).dtype
    inner = (slice(6, -6),) * 3  # registered to a millimeter, half a voxel
    assert np.corrcoef(values[inner].ravel(), fixed[inner].ravel())[0, 1] > 0.9
    assert "aligned with CT 2021" in widget.ui.statusLabel.text
    widget.ui.undoButton.click()
    assert scene.GetFirstNodeByName("CT 2023 on CT 2021") is None


def test_used_points_far_apart_have_another_color(widget, scene):
    addPair(scene)
    widget.ui.tabWidget.currentIndex = REGISTER_TAB
    widget.ui.registerButton.click()
    settle(widget)
    widget.ui.usedPointsButton.click()
    fixedList, movingList = slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode")
    count = fixedList.GetNumberOfControlPoints()
    apart = [
        np.linalg.norm(node_geometry.pointWorld(fixedList, n) - node_geometry.pointWorld(movingList, n))
        for n in range(count)
    ]
    for n in range(count):
        told = float(fixedList.GetNthControlPointDescription(n).split("=")[1])
        assert told == pytest.approx(apart[n], abs=0.06)
        assert bool(fixedList.GetNthControlPointSelected(n)) == (apart[n] <= 2 * np.median(apart))


class Selector:
    """A node selector or combo box of another module; remembers the order of what was set."""

    def __init__(self, name, seen):
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "seen", seen)

    def setCurrentNode(self, node):
        self.seen[self.name] = node

    def __setattr__(self, name, value):
        self.seen[self.name] = value


def pretend(monkeypatch, modules):
    """A Slicer with these modules; {module: {selector: what was chosen}}."""
    seen = {module: {} for module in modules}

    def widgetOf(name):
        names = next(
            (t.fixed, t.moving, t.start, *([t.kind] if t.kind else [])) for t in hand_over.TARGETS if t.module == name
        )
        selectors = {item: Selector(item, seen[name]) for item in names}
        return type("Widget", (), {"ui": type("Ui", (), selectors)})

    monkeypatch.setattr(slicer.util, "moduleNames", lambda: tuple(modules))
    monkeypatch.setattr(slicer.util, "mainWindow", lambda: object())
    monkeypatch.setattr(slicer.util, "getModuleWidget", widgetOf)
    monkeypatch.setattr(slicer.util, "selectModule", lambda name: seen[name].setdefault("opened", True))
    return seen


@pytest.mark.parametrize("target", hand_over.TARGETS, ids=lambda target: target.module)
def test_another_program_starts_from_the_result(widget, scene, monkeypatch, target):
    template, query = addPair(scene)
    widget.ui.tabWidget.currentIndex = REGISTER_TAB
    widget.ui.registerButton.click()
    settle(widget)
    widget.ui.useAsStartButton.click()
    assert "Neither SlicerElastix nor SlicerANTs" in widget.ui.statusLabel.text
    seen = pretend(monkeypatch, [target.module])[target.module]
    widget.ui.useAsStartButton.click()
    output = widget.panel.parameters.outputTransform
    assert [seen[name] for name in (target.fixed, target.moving, target.start)] == [template, query, output]
    if target.kind:  # "initial transform: a transform node", chosen before that node
        assert seen[target.kind] == 1 and list(seen).index(target.kind) < list(seen).index(target.start)
    assert seen["opened"] and target.title in widget.ui.statusLabel.text


def test_which_program_is_asked_when_there_are_several(widget, scene, monkeypatch):
    addPair(scene)
    widget.ui.tabWidget.currentIndex = REGISTER_TAB
    widget.ui.registerButton.click()
    settle(widget)
    seen = pretend(monkeypatch, ["Elastix", "antsRegistration"])
    asked = []
    answer = None
    monkeypatch.setattr(dialogs, "choose", lambda button, titles: asked.append(list(titles)) or answer)
    widget.ui.useAsStartButton.click()  # the user changes their mind
    assert asked == [["Elastix", "ANTs"]] and not any(seen.values())
    answer = 1
    widget.ui.useAsStartButton.click()
    assert seen["antsRegistration"]["opened"] and not seen["Elastix"]
    monkeypatch.setattr(slicer.util, "getModuleWidget", lambda name: type("W", (), {"ui": type("Ui", (), {})}))
    widget.ui.useAsStartButton.click()  # a version with other selectors
    assert "has another panel than expected" in widget.ui.statusLabel.text


def test_the_menu_gives_the_index_of_what_was_picked(widget):
    import qt

    def pick():
        menu = qt.QApplication.activePopupWidget()
        menu.setActiveAction(menu.actions()[1])
        qt.QApplication.sendEvent(menu, qt.QKeyEvent(qt.QEvent.KeyPress, qt.Qt.Key_Return, qt.Qt.NoModifier))

    widget.parent.show()
    qt.QTimer.singleShot(50, pick)
    assert dialogs.choose(widget.ui.useAsStartButton, ["a", "b"]) == 1
    qt.QTimer.singleShot(50, lambda: qt.QApplication.activePopupWidget().close())
    assert dialogs.choose(widget.ui.useAsStartButton, ["a", "b"]) is None


# --- studies ---------------------------------------------------------------------------------------------------------


def test_all_scans_of_the_patient(widget, scene):
    volumes = addStudies(scene)
    other = addPair(scene)[0]
    patientItems(scene, {"1": volumes, "2": [other]})
    ui = widget.ui
    ui.tabWidget.currentIndex = TRACK_TAB
    widget.panel.refresh()
    assert studies.ofSamePatient(other) == []
    ui.addPatientButton.click()
    assert list(widget.panel.parameters.followUpVolumes) == list(volumes[1:])
    assert "2 scans of this patient" in ui.statusLabel.text


def test_copied_table_and_one_view_per_study(widget, scene):
    volumes = addStudies(scene)
    marks = addLesionPoints(scene)
    ui = widget.ui
    ui.tabWidget.currentIndex = TRACK_TAB
    for volume in volumes[1:]:
        ui.followUpsSelector.setCheckState(volume, qt.Qt.Checked)
    ui.lesionSourcesSelector.setCheckState(marks, qt.Qt.Checked)
    ui.allStudiesButton.click()
    assert not ui.allStudiesButton.checked and "window" in ui.statusLabel.text
    ui.trackButton.click()
    settle(widget)
    ui.copyTableButton.click()
    lines = qt.QApplication.clipboard().text().split("\n")
    assert len(lines) == 10 and lines[0].startswith("label\tstudy\tl\tp\ts\t") and "9 rows" in ui.statusLabel.text
    layout = scene.AddNewNodeByClass("vtkMRMLLayoutNode")
    layout.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    composites = []
    for n in range(3):  # as the layout manager makes them for the description
        sliceNode = scene.AddNewNodeByClass("vtkMRMLSliceNode", layouts.studyViewName(n))
        composite = scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode", layouts.studyViewName(n))
        for node in (sliceNode, composite):
            node.SetLayoutName(layouts.studyViewName(n))
        composites.append((sliceNode, composite))
    ui.findingsTable.setCurrentCell(1, 1)
    ui.allStudiesButton.click()
    assert layout.GetViewArrangement() == layouts.STUDIES_ID + 3
    settle(widget)
    assert [composite.GetBackgroundVolumeID() for _, composite in composites] == [v.GetID() for v in volumes]
    assert layouts.studiesDescription(3).count("vtkMRMLSliceNode") == 3
    row = widget.panel.trackTab.matrix.selectedRow()
    for (sliceNode, _), finding in zip(composites, row):
        center = [sliceNode.GetSliceToRAS().GetElement(k, 3) for k in range(3)]
        assert np.allclose(center, finding.world, atol=1e-3)
    widget.exit()
    assert layout.GetViewArrangement() == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
    assert not ui.allStudiesButton.checked and matrix(widget)


# --- scenes ----------------------------------------------------------------------------------------------------------


def test_importing_a_scene_into_another_mixes_nothing(widget, scene, tmp_path):
    """Add to scene: the imported matches keep their own scans and points, those that were there keep theirs."""
    addPair(scene)
    points = addPoints(scene, [])
    widget.panel.parameters.points = points
    points.AddControlPointWorld(vtk.vtkVector3d(*PLACES_RAS[0]), "liver")
    settle(widget)
    rows = cells(widget)
    path = str(tmp_path / "scene.mrb")
    assert scene.WriteToMRB(path)
    scene.Clear()
    here = addPair(scene)
    mine = addPoints(scene, [PLACES_RAS[1]], name="Mine")
    widget.panel.parameters.points = mine
    widget.panel.parameters.queryVolume, widget.panel.parameters.templateVolume = here[1], here[0]
    widget.ui.matchButton.click()
    settle(widget)
    own = match_list.findMatchList(mine, here[1])
    assert scene.ReadFromMRB(path, False)
    settle(widget)
    assert match_list.findMatchList(mine, here[1]) is own and own.GetNodeReference(match_list.ROLE_TEMPLATE) is here[0]
    imported = next(node for node in slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode") if node.GetName() == "F")
    (listNode,) = match_list.matchLists(imported)
    assert listNode.GetNodeReference(match_list.ROLE_QUERY) not in here
    assert listNode.GetNodeReference(match_list.ROLE_POINTS) is imported
    p = widget.panel.parameters
    pairs = [
        (mine, *here),
        (imported, *(listNode.GetNodeReference(r) for r in (match_list.ROLE_TEMPLATE, match_list.ROLE_QUERY))),
    ]
    assert (p.points, p.templateVolume, p.queryVolume) in pairs
    widget.panel.parameters.points = imported
    assert cells(widget) == rows
