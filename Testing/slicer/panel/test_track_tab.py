"""The Track lesions tab with every button, on the real scene, with Qt offscreen."""

import csv

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

import qt
import slicer
from lesions import PLACES_RAS, SHIFT_RAS, addLesionPoints, addStudies
from panel_tools import matrix, settle
from scene_tools import addSliceViews, centerOf

from SAMv2Core.io import structured_report
from SAMv2SlicerLib.panel import dialogs
from SAMv2SlicerLib.scene import match_list, node_geometry
from SAMv2SlicerLib.track import findings, findings_table, studies

TRACK_TAB = 1


@pytest.fixture
def ready(widget, scene):
    """The tab with three studies and three marked lesions selected."""
    volumes = addStudies(scene)
    marks = addLesionPoints(scene)
    widget.ui.tabWidget.currentIndex = TRACK_TAB
    for volume in volumes[1:]:
        widget.ui.followUpsSelector.setCheckState(volume, qt.Qt.Checked)
    widget.ui.lesionSourcesSelector.setCheckState(marks, qt.Qt.Checked)
    return widget, volumes, marks


@pytest.fixture
def tracked(ready):
    widget, volumes, marks = ready
    widget.ui.trackButton.click()
    settle(widget)
    return widget, volumes, marks


def test_the_button_says_what_is_missing(widget, scene):
    widget.ui.tabWidget.currentIndex = TRACK_TAB
    assert "Load two scans" in widget.ui.trackButton.toolTip and not widget.ui.trackButton.enabled
    volumes = addStudies(scene)
    assert widget.ui.baselineSelector.currentNode() is volumes[0]
    assert "No follow-up" in widget.ui.trackButton.toolTip
    widget.ui.followUpsSelector.setCheckState(volumes[1], qt.Qt.Checked)
    assert "No lesion is marked" in widget.ui.statusLabel.text
    widget.ui.lesionSourcesSelector.setCheckState(addLesionPoints(scene), qt.Qt.Checked)
    assert widget.ui.trackButton.enabled and widget.ui.trackButton.text == "Track 3 lesions in 1 study"


def test_track_shows_the_matrix(tracked):
    widget, volumes, _ = tracked
    rows = matrix(widget)
    assert len(rows) == 3 and all("marked" in row[0] for row in rows)
    assert all(row[1].split()[-1] in ("matched", "uncertain") for row in rows)
    headers = [widget.ui.findingsTable.horizontalHeaderItem(c).text() for c in range(3)]
    assert headers == ["CT 2021", "CT 2023", "CT 2024"]
    assert widget.ui.findingsTable.verticalHeaderItem(0).text() == "liver"
    assert widget.ui.plotButton.enabled and widget.ui.exportTableButton.enabled
    assert "findings" in widget.ui.statusLabel.text


def test_a_cell_brings_all_views_to_the_lesion(tracked, scene):
    widget, volumes, _ = tracked
    (red, redComposite), (yellow, yellowComposite) = addSliceViews(scene)
    redComposite.SetBackgroundVolumeID(volumes[0].GetID())
    yellowComposite.SetBackgroundVolumeID(volumes[1].GetID())
    widget.ui.findingsTable.setCurrentCell(1, 2)
    found = findings.findings(widget.logic.tracker.lesionList())
    assert np.allclose(centerOf(red), PLACES_RAS[1], atol=1e-3)
    assert np.allclose(centerOf(yellow), found[1][1].world, atol=1e-3)
    assert "spleen in CT 2024" in widget.ui.findingLabel.text and "Similarity" in widget.ui.findingLabel.text


def test_accept_reject_and_undecided(tracked):
    widget, volumes, _ = tracked
    assert not widget.ui.acceptFindingButton.enabled
    widget.ui.findingsTable.setCurrentCell(0, 0)
    assert not widget.ui.acceptFindingButton.enabled  # nothing to judge in the baseline
    widget.ui.findingsTable.setCurrentCell(0, 1)
    widget.ui.acceptFindingButton.click()
    assert "accepted" in matrix(widget)[0][1] and widget.ui.releaseFindingButton.enabled
    widget.ui.findingsTable.setCurrentCell(1, 1)
    widget.ui.rejectFindingButton.click()
    settle(widget)
    assert "rejected" in matrix(widget)[1][1] and not widget.ui.measureButton.enabled
    assert "Proposed at" in widget.ui.findingLabel.text
    listNode = match_list.findMatchList(widget.logic.tracker.lesionList(), volumes[1])
    assert 1 not in node_geometry.definedPointIndices(listNode)
    widget.ui.releaseFindingButton.click()
    assert np.linalg.norm(node_geometry.pointWorld(listNode, 1) - (PLACES_RAS[1] + SHIFT_RAS)) < 3.0
    widget.panel.onUndo()
    settle(widget)
    assert "rejected" in matrix(widget)[1][1]
    table = findings_table.find(widget.logic.tracker.lesionList(), findings_table.FINDINGS)
    column = table.GetTable().GetColumnByName("decision")
    assert column.GetValue(1) == "accepted" and column.GetValue(4) == "rejected"


def test_dragging_a_finding_corrects_it(tracked):
    widget, volumes, _ = tracked
    widget.ui.findingsTable.setCurrentCell(2, 1)
    widget.ui.editFindingButton.click()
    listNode = match_list.findMatchList(widget.logic.tracker.lesionList(), volumes[1])
    assert not listNode.GetNthControlPointLocked(2) and listNode.GetNthControlPointLocked(0)
    start = node_geometry.pointWorld(listNode, 2)
    for step in (1.0, 2.0, 3.0):
        listNode.SetNthControlPointPositionWorld(2, *(start + [step, 0, 0]))
    settle(widget)
    assert "by hand" in matrix(widget)[2][1] and "Track again" in widget.ui.statusLabel.text
    widget.panel.onUndo()
    assert np.allclose(node_geometry.pointWorld(listNode, 2), start)


def test_measure_draws_a_line(tracked, scene):
    widget, _, _ = tracked
    widget.ui.findingsTable.setCurrentCell(0, 1)
    widget.ui.measureButton.click()
    settle(widget)
    assert scene.GetNumberOfNodesByClass("vtkMRMLMarkupsLineNode") == 1
    assert "10.0 mm" in matrix(widget)[0][1] and "~" not in matrix(widget)[0][1]


def test_keyboard_walks_and_judges(tracked):
    widget, volumes, _ = tracked
    listNode = match_list.findMatchList(widget.logic.tracker.lesionList(), volumes[1])
    with widget.logic.writing():
        for n in (0, 2):
            result = match_list.resultAt(listNode, n)
            match_list.setResult(listNode, n, type(result)(result.templatePoint, "uncertain", proposed=result.proposed))
    settle(widget)
    keys = dict(widget.panel.shortcuts.keys())
    keys["N"]()
    assert widget.ui.findingsTable.currentRow() == 0 and widget.ui.findingsTable.currentColumn() == 1
    keys["Space"]()
    keys["N"]()
    assert widget.ui.findingsTable.currentRow() == 2
    keys["X"]()
    assert "accepted" in matrix(widget)[0][1] and "rejected" in matrix(widget)[2][1]


def test_dates_and_order_of_studies(tracked):
    widget, volumes, _ = tracked
    table = widget.ui.studiesTable
    assert [table.item(n, 2).text() for n in range(3)] == ["CT 2021", "CT 2023", "CT 2024"]
    table.setCurrentCell(2, 0)
    assert widget.ui.earlierButton.enabled and not widget.ui.laterButton.enabled
    widget.ui.earlierButton.click()
    assert [node.GetName() for node in widget.panel.parameters.followUpVolumes] == ["CT 2024", "CT 2023"]
    table.item(1, 1).setText("2024-05-06")
    table.item(2, 1).setText("2023-05-06")  # now all follow-ups have a date, which decides the order
    assert [node.GetName() for node in widget.panel.parameters.followUpVolumes] == ["CT 2023", "CT 2024"]
    assert studies.dateOf(volumes[2]) == "2024-05-06" and not widget.ui.earlierButton.enabled
    table.item(1, 1).setText("soon")
    assert "not a date" in widget.ui.statusLabel.text and studies.dateOf(volumes[1]) == "2023-05-06"


def test_plot_and_table_export(tracked, scene, tmp_path, monkeypatch):
    widget, _, _ = tracked
    widget.ui.plotButton.click()
    assert "needs a window" in widget.ui.statusLabel.text  # as without a main window
    path = tmp_path / "lesions.csv"
    monkeypatch.setattr(dialogs, "saveFile", lambda *arguments: str(path))
    widget.ui.exportTableButton.click()
    with open(path, newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 9
    assert "9 rows" in widget.ui.statusLabel.text
    monkeypatch.setattr(dialogs, "saveFile", lambda *arguments: str(tmp_path / "nowhere" / "lesions.csv"))
    widget.ui.exportTableButton.click()
    assert "nowhere" in widget.ui.statusLabel.text


def test_reports_need_dicom_and_consent(tracked, monkeypatch):
    widget, _, _ = tracked
    widget.ui.exportReportButton.click()
    assert "was not loaded from Slicer's DICOM database" in widget.ui.statusLabel.text
    from SAMv2SlicerLib.track import report_export

    monkeypatch.setattr(report_export, "dicomFiles", lambda volume: ("a.dcm",))
    monkeypatch.setattr(structured_report, "is_available", lambda: False)
    installed = []
    monkeypatch.setattr(slicer.util, "pip_install", installed.append, raising=False)
    widget.ui.exportReportButton.click()  # testing mode: consent is not assumed
    assert not installed and "not started" in widget.ui.statusLabel.text


def test_dicom_reports_of_all_studies(tracked, tmp_path, monkeypatch):
    pytest.importorskip("highdicom", reason="highdicom is not installed")
    import highdicom

    from Testing.samples.dicom_series import writeSeries

    widget, volumes, _ = tracked
    files = {}
    for n, volume in enumerate(volumes):
        folder = tmp_path / f"ct{n}"
        folder.mkdir()
        for k, file in enumerate(writeSeries(folder)):
            files[f"{n}.{k}"] = file
        volume.SetAttribute("DICOM.instanceUIDs", " ".join(key for key in files if key.startswith(f"{n}.")))
    database = type("Database", (), {"fileForInstance": staticmethod(files.get)})
    monkeypatch.setattr(slicer, "dicomDatabase", database, raising=False)
    monkeypatch.setattr(dialogs, "chooseFolder", lambda *arguments: str(tmp_path))
    widget.ui.findingsTable.setCurrentCell(1, 1)
    widget.ui.rejectFindingButton.click()
    widget.ui.findingsTable.setCurrentCell(0, 1)
    widget.ui.measureButton.click()
    widget.ui.exportReportButton.click()
    settle(widget)
    assert "3 DICOM reports" in widget.ui.statusLabel.text
    groups = []
    for n in range(3):
        report = highdicom.sr.srread(str(tmp_path / f"lesions-{n}.dcm"))
        found = report.content.get_planar_roi_measurement_groups()
        groups.append({group.tracking_identifier: group for group in found})
    assert set(groups[0]) == set(groups[2]) == {"liver", "spleen", "node"} and set(groups[1]) == {"liver", "node"}
    assert len({group["liver"].tracking_uid for group in groups}) == 1
    world = findings.findings(widget.logic.tracker.lesionList())[2][1].world
    assert np.allclose(groups[1]["node"].roi.value[0], world * [-1, -1, 1], atol=1e-3)
    assert groups[1]["liver"].roi.value.shape == (2, 3)  # the measured diameter


def test_cancel_leaves_the_scene_as_it_was(ready, scene):
    widget, _, _ = ready
    widget.logic.engine.remembers = False
    count = scene.GetNumberOfNodes()
    widget.ui.trackButton.click()
    assert widget.ui.trackButton.text == "Cancel"
    widget.ui.trackButton.click()
    settle(widget)
    assert scene.GetNumberOfNodes() == count and widget.ui.statusLabel.text == "Cancelled; nothing was changed."


def test_scene_saved_and_loaded_with_the_tab_open(tracked, scene, tmp_path):
    widget, _, _ = tracked
    widget.ui.findingsTable.setCurrentCell(1, 2)
    widget.ui.rejectFindingButton.click()
    rows = matrix(widget)
    path = str(tmp_path / "scene.mrb")
    assert scene.WriteToMRB(path)
    scene.Clear()
    assert matrix(widget) == [] and "Load two scans" in widget.ui.statusLabel.text
    assert scene.ReadFromMRB(path)
    settle(widget)
    assert matrix(widget) == rows
    widget.ui.trackButton.click()
    settle(widget)
    assert matrix(widget)[1][2] == rows[1][2]
    widget.ui.findingsTable.setCurrentCell(0, 1)
    listNode = match_list.findMatchList(widget.logic.tracker.lesionList(), scene.GetFirstNodeByName("CT 2023"))
    listNode.SetNthControlPointPositionWorld(0, 5, 6, 107)  # corrections are noticed in a loaded scene too
    settle(widget)
    assert "by hand" in matrix(widget)[0][1]


def test_scene_closed_and_study_removed_while_tracking(ready, scene):
    widget, volumes, _ = ready
    widget.ui.trackButton.click()
    scene.RemoveNode(volumes[2])
    settle(widget)
    assert "was closed while" in widget.ui.statusLabel.text and matrix(widget) == []
    widget.ui.trackButton.click()
    scene.Clear()
    settle(widget)
    assert scene.GetNumberOfNodesByClass("vtkMRMLMarkupsNode") == 0


def test_a_finding_moved_while_another_module_was_open_is_kept(tracked):
    widget, volumes, _ = tracked
    listNode = match_list.findMatchList(widget.logic.tracker.lesionList(), volumes[1])
    widget.exit()
    listNode.SetNthControlPointPositionWorld(0, 5, 6, 107)
    widget.enter()
    assert match_list.resultAt(listNode, 0).decision == "moved" and not match_list.resultAt(listNode, 1).decision
    widget.ui.trackButton.click()
    settle(widget)
    assert np.allclose(node_geometry.pointWorld(listNode, 0), (5, 6, 107)) and "by hand" in matrix(widget)[0][1]
