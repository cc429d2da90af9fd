"""What the user says of a lesion, and what both scans say: role, organ, lymph node, presence, in matrix and sums."""

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

import slicer.util
from lesions import PLACES_RAS, SHIFT_RAS, addLine, addStudies
from panel_tools import settle, wholeMatrix
from scene_tools import findingAt

from SAMv2SlicerLib.panel.lesion_facts import ROLES
from SAMv2SlicerLib.scene import match_list
from SAMv2SlicerLib.track import findings, findings_table, lesion_list, measuring, report_export

TRACK_TAB = 1


@pytest.fixture
def tracked(widget, scene):
    """Two lesions of 16 and 14 mm in the baseline, of which the first is gone in the first follow-up."""
    volumes = addStudies(scene)
    array = slicer.util.arrayFromVolume(volumes[0])
    z, y, x = np.indices(array.shape)
    ijk = (PLACES_RAS[1] - [-50, -40, 100]) / 2
    array[np.linalg.norm(np.stack([x, y, z], axis=-1) - ijk, axis=-1) < 4] += 160
    slicer.util.arrayFromVolumeModified(volumes[0])
    widget.ui.tabWidget.currentIndex = TRACK_TAB
    p = widget.panel.parameters
    p.baselineVolume, p.followUpVolumes = volumes[0], [volumes[1]]
    p.lesionSources = [addLine(scene, PLACES_RAS[1], 16.0, "L1"), addLine(scene, PLACES_RAS[2], 14.0, "L2")]
    widget.ui.trackButton.click()
    settle(widget)
    return widget, volumes


def test_what_both_scans_say_stands_in_the_matrix(tracked):
    widget, volumes = tracked
    first, second = (row[1].split("\n")[1] for row in wholeMatrix(widget))
    assert "vanished?" in first and first.endswith("%") and second.startswith("unchanged")
    assert findings_table.rowsFor(widget.panel.trackTab.lesionList())[1]["presence"] == "vanished"
    finding = findingAt(widget.logic, 0, 1)
    assert findings.readingOf(finding).state == "present"  # it is no word on the sum
    widget.ui.findingsTable.setCurrentCell(0, 1)
    assert "By both scans: " in widget.ui.findingLabel.text and "surroundings" in widget.ui.findingLabel.text
    widget.panel.onUndo()
    widget.panel.onRedo()
    settle(widget)
    assert "vanished?" in wholeMatrix(widget)[0][1]  # it came after the run, and comes back with it
    widget.ui.findingsTable.setCurrentCell(0, 1)
    widget.panel.trackTab.onState(1)
    settle(widget)
    assert wholeMatrix(widget)[0][1].endswith("Vanished (0 mm)")  # the user's word stands instead
    widget.ui.findingsTable.setCurrentCell(1, 1)
    listNode = match_list.matchLists(widget.logic.tracker.lesionList())[0]
    listNode.SetNthControlPointPositionWorld(1, *(PLACES_RAS[2] + SHIFT_RAS + [4.0, 0, 0]))
    settle(widget)
    assert "unchanged" not in wholeMatrix(widget)[1][1]  # it was said of another place


def test_roles_make_the_sum(tracked):
    widget, volumes = tracked
    ui = widget.ui
    for n in range(2):
        measuring.measure(widget.logic, findingAt(widget.logic, n, 1))
    settle(widget)
    assert "CT 2021: 30.0 mm" in ui.sumsLabel.text
    ui.findingsTable.setCurrentCell(1, 1)
    assert ui.roleSelector.enabled and ui.roleSelector.currentIndex == 0
    ui.roleSelector.activated.emit(ROLES.index("non_target"))
    settle(widget)
    assert "CT 2021: 16.0 mm" in ui.sumsLabel.text and ui.roleSelector.currentIndex == ROLES.index("non_target")
    rows = findings_table.rowsFor(widget.panel.trackTab.lesionList())
    assert [row["role"] for row in rows] == ["target", "target", "non_target", "non_target"]
    ui.trackButton.click()  # a rerun keeps what was said
    settle(widget)
    assert "CT 2021: 16.0 mm" in ui.sumsLabel.text
    widget.panel.onUndo()
    widget.panel.onUndo()
    settle(widget)
    assert "CT 2021: 30.0 mm" in ui.sumsLabel.text


def test_a_lymph_node_counts_by_its_short_axis(tracked):
    widget, volumes = tracked
    ui, listNode = widget.ui, widget.panel.trackTab.lesionList()
    measuring.measure(widget.logic, findingAt(widget.logic, 1, 1))
    ui.findingsTable.setCurrentCell(1, 1)
    ui.nodeCheckBox.click()
    ui.organSelector.currentText = "mediastinum"
    ui.organSelector.lineEdit().editingFinished.emit()
    settle(widget)
    course = findings.coursesOf(findings.findings(listNode))[1]
    assert course.is_node and course.organ == "mediastinum" and course.readings[0].long_mm is None
    assert course.readings[0].short_mm == pytest.approx(14.0) and course.size_mm(0) == pytest.approx(14.0)
    assert "a short axis of a lymph node of 14.0 mm is below the 15 mm" in ui.sumsLabel.toolTip
    told = report_export.reportedIn(listNode, 1)[1]
    assert told.organ == "mediastinum" and told.diameter_mm is None and told.short_mm == pytest.approx(14.0, abs=3)
    assert told.ends is not None and told.history[0].short_mm == pytest.approx(14.0)
    row = findings_table.rowsFor(listNode)[3]
    assert (row["organ"], row["node"]) == ("mediastinum", "yes")
    widget.panel.onUndo()
    assert findings.findings(listNode)[1][0].organ == ""


def test_what_was_rejected_counts_nothing_that_was_said_before(tracked):
    widget, volumes = tracked
    ui = widget.ui
    ui.findingsTable.setCurrentCell(0, 1)
    widget.panel.trackTab.onState(2)  # too small: 5 mm
    settle(widget)
    assert findings.readingOf(findingAt(widget.logic, 0, 1)).state == "too_small"
    ui.findingsTable.setCurrentCell(0, 1)
    ui.rejectFindingButton.click()
    settle(widget)
    finding = findingAt(widget.logic, 0, 1)
    assert findings.readingOf(finding).state == "not_evaluable" and ui.stateSelector.currentIndex == 0
    assert "CT 2023: 0 of 2 sizes known" in ui.sumsLabel.text
    assert "?" not in wholeMatrix(widget)[0][1]  # nor what the scans say at a place that is wrong
    ui.findingsTable.setCurrentCell(0, 1)
    widget.panel.trackTab.onState(1)  # what is said afterwards counts
    assert findings.readingOf(findingAt(widget.logic, 0, 1)).state == "vanished"


@pytest.mark.parametrize("role, shown", [("non_target", "non_target"), ("", "new")])
def test_a_lesion_without_a_place_in_the_baseline_is_new_unless_a_report_says_otherwise(tracked, role, shown):
    widget, volumes = tracked
    ui, listNode = widget.ui, widget.panel.trackTab.lesionList()
    known = {lesion.uid for lesion in lesion_list.lesionsIn(listNode)}
    lesion_list.write(listNode, [], [lesion_list.Lesion("1.2.3", "report:1.2.3", "L9", None, role=role)], known)
    widget.panel.refresh()
    widget.panel.trackTab.matrix.select(("1.2.3", volumes[1].GetID()))
    settle(widget)
    assert ROLES[ui.roleSelector.currentIndex] == shown
    assert ui.roleSelector.enabled == bool(role)
