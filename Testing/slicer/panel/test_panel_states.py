"""What the panel says and offers around the results: warnings, changed and moved scans, options, footer, reports."""

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

import qt
import slicer
import slicer.util
import vtk
from lesions import PLACES_RAS, SHIFT_RAS
from panel_tools import cells, patientItems, settle
from phantoms import addPair, addPoints

from SAMv2SlicerLib.panel import dialogs, parameters
from SAMv2SlicerLib.scene import match_list, node_geometry

MATCH_TAB, REGISTER_TAB = 0, 2


@pytest.fixture
def matched(widget, scene):
    """(widget, template, query, points) with one matched point."""
    template, query = addPair(scene)
    points = addPoints(scene, [])
    widget.panel.parameters.points = points
    points.AddControlPointWorld(vtk.vtkVector3d(*PLACES_RAS[0]), "liver")
    settle(widget)
    return widget, template, query, points


# --- warnings --------------------------------------------------------------------------------------------------------


def test_another_patient_is_told_until_accepted(matched, scene):
    widget, template, query, _ = matched
    patientItems(scene, {"1234567": [template], "9876543": [query]})
    widget.panel.refresh()
    ui = widget.ui
    assert "PatientID differs (A: 1234" in ui.statusLabel.text and "9876543" not in ui.statusLabel.text
    assert ui.matchButton.enabled and ui.statusActionButton.text == "Continue"
    ui.tabWidget.currentIndex = REGISTER_TAB
    assert "PatientID differs" in ui.statusLabel.text
    ui.tabWidget.currentIndex = MATCH_TAB
    ui.statusActionButton.click()
    assert ui.statusLabel.text == "1 point matched." and ui.statusActionButton.isHidden()
    ui.tabWidget.currentIndex = REGISTER_TAB
    assert "PatientID" not in ui.statusLabel.text
    scene.Clear()
    template, query = addPair(scene)
    patientItems(scene, {"1234567": [template], "9876543": [query]})
    widget.panel.refresh()
    assert "PatientID differs" in ui.statusLabel.text  # a new scene, a new question


def test_what_needs_a_look_is_one_click_away(matched):
    widget, _, _, points = matched
    points.AddControlPointWorld(vtk.vtkVector3d(400, 0, 0), "far")
    settle(widget)
    assert "1 of 2 points needs a look" in widget.ui.statusLabel.text
    widget.ui.statusActionButton.click()
    assert widget.panel.matchTab.table.selectedKey()[1] == points.GetNthControlPointID(1)


def test_changed_voxels_stay_announced_until_embedded_again(matched):
    widget, _, query, points = matched
    slicer.util.arrayFromVolume(query)[:] += 1
    slicer.util.arrayFromVolumeModified(query)
    wanted = "CT 2023 changed; its embedding will be recomputed."
    assert widget.ui.statusLabel.text == wanted and wanted in widget.ui.logTextEdit.plainText
    widget.ui.tabWidget.currentIndex = REGISTER_TAB
    assert widget.ui.statusLabel.text == wanted
    widget.ui.tabWidget.currentIndex = MATCH_TAB
    points.SetNthControlPointPositionWorld(0, *PLACES_RAS[1])
    settle(widget)
    assert widget.ui.statusLabel.text == "1 point matched."


def test_a_scan_moved_after_matching_is_told(matched, scene):
    widget, template, query, points = matched
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    query.SetAndObserveTransformNodeID(transform.GetID())
    widget.panel.refresh()
    assert widget.ui.statusLabel.text == "1 point matched."  # it lies where it lay
    matrix4 = np.eye(4)
    matrix4[0, 3] = 25.0
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix4))
    widget.panel.refresh()
    assert widget.ui.statusLabel.text == "CT 2023 was moved after matching; match again."
    listNode = match_list.findMatchList(points, query)
    listNode.SetAndObserveTransformNodeID(transform.GetID())  # the matches move along
    widget.panel.refresh()
    assert widget.ui.statusLabel.text == "1 point matched."
    listNode.SetAndObserveTransformNodeID(None)
    widget.ui.matchButton.click()
    settle(widget)
    assert widget.ui.statusLabel.text == "1 point matched."
    assert np.linalg.norm(node_geometry.pointWorld(listNode, 0) - (PLACES_RAS[0] + SHIFT_RAS + [25, 0, 0])) < 1.0


def test_the_status_follows_the_model(matched):
    """An embedding of another model does not count as one."""
    widget, template, _, _ = matched
    assert widget.logic.hasEmbedding(template) and widget.logic.hasEmbedding(template, "tiny")
    assert not widget.logic.hasEmbedding(template, "lite-ctmr")


# --- tables ----------------------------------------------------------------------------------------------------------


def test_double_click_accepts(matched):
    widget, _, query, points = matched
    widget.ui.resultsTable.selectRow(0)
    widget.ui.resultsTable.cellDoubleClicked.emit(0, 1)
    assert match_list.resultAt(match_list.findMatchList(points, query), 0).decision == "accepted"
    assert "accepted" in cells(widget)[0][1]


def test_tables_fit_a_narrow_panel(matched):
    widget, _, _, _ = matched
    widget.parent.resize(300, 900)
    slicer.app.processEvents()
    assert widget.parent.minimumSizeHint.width() <= 300
    assert widget.ui.resultsTable.rowHeight(0) < 1.6 * qt.QFontMetrics(widget.ui.resultsTable.font).height()
    for column in range(widget.ui.resultsTable.columnCount):
        assert widget.ui.resultsTable.horizontalHeaderItem(column).toolTip()


def focusOrder(root):
    """The widgets that the tab key stops at, in its order, with their places on the panel."""
    found, widget = [], root.nextInFocusChain()
    while widget is not root and len(found) < 500:
        isStop = widget.focusPolicy.value & qt.Qt.TabFocus.value and widget.isVisibleTo(root) and widget.enabled
        if isStop and widget.objectName and not widget.objectName.startswith("qt_"):
            found.append((widget.objectName, widget.mapTo(root, qt.QPoint(0, 0)), widget.height))
        widget = widget.nextInFocusChain()
    return found


@pytest.mark.parametrize("tab", range(4))
def test_the_tab_key_goes_as_one_reads(matched, tab):
    """From top to bottom, within a row from left to right."""
    widget, _, _, _ = matched
    widget.ui.tabWidget.currentIndex = tab
    widget.parent.resize(420, 1400)
    widget.parent.show()
    slicer.app.processEvents()
    stops = focusOrder(widget.parent)
    names = [name for name, _, _ in stops]
    assert len(names) > 10 and names[0] == "modelComboBox" and "undoButton" in names
    for (name, place, height), (following, there, _) in zip(stops, stops[1:]):
        isBelow = there.y() >= place.y() + 0.5 * height
        isRight = abs(there.y() - place.y()) < height and there.x() > place.x()
        assert isBelow or isRight, (name, following)


# --- options ---------------------------------------------------------------------------------------------------------


def test_defaults_are_those_of_the_library():
    from SAMv2Core.matching.fixed_point import FixedPointOptions

    assert parameters.DEFAULT_STARTS == FixedPointOptions().starts_per_axis


def test_the_threshold_is_the_models_own_until_one_is_chosen(widget):
    from SAMv2Core.models.library import model_info

    box = widget.ui.matchedAboveSpinBox
    for model in ("auto", "lite-ct", "lite-ctmr", "sampp"):
        widget.panel.parameters.model = model
        own = model_info("lite-ct" if model == "auto" else model).calibration.get("matched_above", 0.7)
        assert box.text == f"{own:.2f} (the model's own)" and widget.logic.engine.matchedAbove is None
        assert widget.panel.parameters.matchedAbove == parameters.MODELS_OWN_THRESHOLD
    box.value = 0.6
    assert box.text == "0.60" and widget.logic.engine.matchedAbove == 0.6
    widget.panel.parameters.model = "lite-ct"
    assert box.text == "0.60"
    widget.ui.defaultsButton.click()
    own = model_info("lite-ct").calibration["matched_above"]
    assert box.text == f"{own:.2f} (the model's own)" and widget.logic.engine.matchedAbove is None


def test_advanced_options_reach_the_library_and_come_back(matched, monkeypatch):
    from SAMv2Core.matching import match as matching

    widget, _, _, points = matched
    asked, embedded = [], []
    real = matching.match
    monkeypatch.setattr(matching, "match", lambda *a, **k: asked.append(k) or real(*a, **k))
    from SAMv2Core.embedding.model import Model

    realEmbed = Model.embed
    monkeypatch.setattr(Model, "embed", lambda self, *a, **k: embedded.append(k) or realEmbed(self, *a, **k))
    ui = widget.ui
    ui.startsSpinBox.value = 5
    ui.matchedAboveSpinBox.value = 0.95
    ui.memoryLimitSpinBox.value = 16.5  # more than a process that ran other tests holds already
    assert widget.panel.parameters.startsPerAxis == 5 and widget.panel.parameters.memoryLimitGB == 16.5
    widget.logic.store.clear()
    widget.logic.engine.remembers = False
    ui.matchButton.click()
    settle(widget)
    assert asked[-1]["options"].starts_per_axis == 5 and asked[-1]["uncertainty"].matched_above == 0.95
    assert [item["max_memory_gib"] for item in embedded] == [16.5, 16.5]
    ui.defaultsButton.click()
    assert (ui.startsSpinBox.value, ui.memoryLimitSpinBox.value) == (3, 0.0) and "own" in ui.matchedAboveSpinBox.text
    ui.matchButton.click()
    settle(widget)
    assert asked[-1]["options"] is None and asked[-1]["uncertainty"] is None


# --- log, report, footer ---------------------------------------------------------------------------------------------


def test_the_log_has_the_console_line(matched, monkeypatch):
    widget, template, query, points = matched
    widget.ui.matchButton.click()
    settle(widget)
    line = next(row for row in widget.ui.logTextEdit.plainText.splitlines() if "Console:" in row)
    code = line.split("Console: ")[1]
    monkeypatch.setattr(slicer.util, "getModuleLogic", lambda name: widget.logic, raising=False)
    assert eval(code, {"slicer": slicer}) is match_list.findMatchList(points, query)
    widget.ui.tabWidget.currentIndex = REGISTER_TAB
    widget.ui.registerButton.click()
    settle(widget)
    line = [row for row in widget.ui.logTextEdit.plainText.splitlines() if "Console:" in row][-1]
    assert eval(line.split("Console: ")[1], {"slicer": slicer}).IsA("vtkMRMLLinearTransformNode")


def test_a_bug_report_names_nobody(matched, scene):
    widget, template, query, points = matched
    template.SetName("Doe, Jane 1961")
    points.SetNthControlPointLabel(0, "mass of Jane")
    widget.panel.say("Doe, Jane 1961 changed; mass of Jane lies in /home/jane/scans/doe.nrrd")
    widget.panel.say("PatientID differs (A: 1234, query: 9876).")
    widget.ui.copyLogButton.click()
    text = qt.QApplication.clipboard().text()
    for name in ("Jane", "1961", "CT 2023", "doe.nrrd", "/home", "9876"):
        assert name not in text, name
    for fact in ("SAMv2 ", "Slicer ", "Python ", "PyTorch ", "Model auto, device auto", "changed"):
        assert fact in text
    assert "left out" in widget.ui.statusLabel.text


def test_names_that_are_parts_of_words_stay_words(scene):
    addPoints(scene, [PLACES_RAS[0]], name="F", labels=["1"])
    from SAMv2SlicerLib.panel.footer import withoutNames

    assert withoutNames("Failed after 12 s: F 1").startswith("Failed after 12 s: <")


def test_cache_and_models_in_the_footer(matched, monkeypatch, tmp_path):
    widget, _, _, _ = matched
    ui = widget.ui
    monkeypatch.setenv("SAMV2_MODELS_DIR", str(tmp_path / "models"))
    opened = []
    monkeypatch.setattr(qt.QDesktopServices, "openUrl", lambda url: opened.append(url.toLocalFile()) or True)
    widget.panel.matchTab.logic.engine.usesDiskCache = True
    widget.logic.store.clear()
    widget.logic.engine.remembers = False
    ui.matchButton.click()
    settle(widget)
    ui.storageCollapsibleButton.collapsed = True
    ui.storageCollapsibleButton.collapsed = False
    assert ui.cacheSizeLabel.text.endswith(" GB") and ui.cacheSizeLabel.toolTip == str(tmp_path / "embeddings")
    ui.openCacheButton.click()
    ui.openModelsButton.click()
    assert opened[0] == str(tmp_path / "embeddings") and len(opened) == 2
    assert any((tmp_path / "embeddings").rglob("*.safetensors"))
    ui.clearCacheButton.click()
    assert not any((tmp_path / "embeddings").rglob("*.safetensors")) and "deleted" in ui.statusLabel.text
    assert ui.linksLabel.text.count("<a href=") == 3


def test_a_model_is_imported_from_a_file(widget, monkeypatch, tmp_path):
    from SAMv2Core.models.records import bundled_folder

    monkeypatch.setenv("SAMV2_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setattr(dialogs, "openFile", lambda *arguments: str(tmp_path / "notes.pth"))
    (tmp_path / "notes.pth").write_text("these are no weights")
    widget.ui.importModelButton.click()
    assert "is not a PyTorch checkpoint" in widget.ui.statusLabel.text and widget.panel.parameters.model == "auto"
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes((bundled_folder() / "lite-ct.safetensors").read_bytes())
    monkeypatch.setattr(dialogs, "openFile", lambda *arguments: str(mine))
    widget.ui.importModelButton.click()
    assert widget.panel.parameters.model == "mine" and "mine was imported" in widget.ui.statusLabel.text
    assert widget.ui.modelComboBox.currentText.startswith("mine")
    assert list((tmp_path / "models").glob("mine*"))


def test_rates_outlive_the_session(widget):
    from SAMv2SlicerLib.work import embedding_store
    from SAMv2SlicerLib.work.engine import Engine

    settings = slicer.app.userSettings()
    try:
        widget.logic.engine.voxelsPerSecond["cuda"] = 5e6
        embedding_store.storeRates(widget.logic.engine)
        settings.setValue(embedding_store.RATE_SETTING + "mps", "broken")
        fresh = Engine()
        embedding_store.restoreRates(fresh)
        assert fresh.secondsFor(10_000_000, "cuda") == pytest.approx(2.0) and fresh.secondsFor(1, "mps") is None
    finally:
        for device in embedding_store.DEVICES:
            settings.remove(embedding_store.RATE_SETTING + device)
