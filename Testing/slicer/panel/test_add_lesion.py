"""Lesions added in the tab: drawn in any study they are a row at once; new ones are looked for in the baseline."""

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

import slicer
import vtk
from lesions import PLACES_RAS, SHIFT_RAS, addStudies
from panel_tools import matrix, settle
from scene_tools import addSliceViews

from SAMv2SlicerLib.scene import match_list
from SAMv2SlicerLib.track import diameters, findings, lesion_list

TRACK_TAB = 1


@pytest.fixture
def ready(widget, scene):
    volumes = addStudies(scene)
    widget.ui.tabWidget.currentIndex = TRACK_TAB
    widget.panel.parameters.baselineVolume = volumes[0]
    widget.panel.parameters.followUpVolumes = list(volumes[1:])
    settle(widget)
    return widget, volumes


def draw(widget, center, length=12.0):
    """Press the button and click both ends, as the views do it."""
    widget.ui.addLesionButton.click()
    line = [n for n in slicer.util.getNodesByClass("vtkMRMLMarkupsLineNode") if not n.GetNumberOfDefinedControlPoints()]
    for sign in (-0.5, 0.5):
        line[0].AddControlPointWorld(vtk.vtkVector3d(*(np.asarray(center) + [0, sign * length, 0])))
    settle(widget)
    return line[0]


def test_a_line_in_the_baseline_is_a_row_at_once_and_is_tracked(ready):
    widget, volumes = ready
    assert widget.ui.addLesionButton.enabled and matrix(widget) == []
    line = draw(widget, PLACES_RAS[0])
    assert line in widget.panel.parameters.lesionSources
    assert widget.ui.findingsTable.verticalHeaderItem(0).text() == line.GetName() and "12.0 mm" in matrix(widget)[0][0]
    draw(widget, PLACES_RAS[1], 10.0)
    assert len(matrix(widget)) == 2 and widget.ui.trackButton.text == "Track 2 lesions in 2 studies"
    uids = [lesion.uid for lesion in lesion_list.lesionsIn(widget.panel.trackTab.lesionList())]
    widget.ui.trackButton.click()
    settle(widget)
    assert [lesion.uid for lesion in lesion_list.lesionsIn(widget.panel.trackTab.lesionList())] == uids
    assert len(matrix(widget)[0]) == 3


def test_a_line_in_a_follow_up_is_a_new_lesion_that_is_looked_for_before(ready, scene):
    widget, volumes = ready
    draw(widget, PLACES_RAS[0])
    widget.ui.trackButton.click()
    settle(widget)
    place = PLACES_RAS[2] + SHIFT_RAS
    (red, composite), _ = addSliceViews(scene)
    composite.SetBackgroundVolumeID(volumes[1].GetID())
    crosshair = scene.AddNewNodeByClass("vtkMRMLCrosshairNode")
    crosshair.SetCursorPositionXYZ([1.0, 1.0, 0.0], red)
    draw(widget, place, 9.0)
    rows = findings.findings(widget.panel.trackTab.lesionList(), list(volumes[1:]))
    row = next(row for row in rows if row[0].label == "New 1")
    assert not row[0].isBaseline and row[0].world is None and row[1].isMeasured and row[2].world is None
    np.testing.assert_allclose(row[1].world, place, atol=0.1)
    assert row[1].result.presence == match_list.NEW and row[1].sizeMm == pytest.approx(9.0)
    # the phantom is the same at both times: what is drawn was there before, and it is said so
    assert row[1].result.reason.startswith("New 1 in CT 2021: ") and "%" in row[1].result.reason
    assert "new" in matrix(widget)[-1][1]
    assert "suggests PD" in widget.ui.sumsLabel.text and "New: New 1." in widget.ui.sumsLabel.toolTip
    assert len(diameters.linesOf(widget.panel.trackTab.lesionList())) >= 1
    widget.ui.trackButton.click()  # a rerun keeps it
    settle(widget)
    assert "New 1" in [lesion.label for lesion in lesion_list.lesionsIn(widget.panel.trackTab.lesionList())]


def test_adding_can_be_undone_and_given_up(ready, scene):
    widget, volumes = ready
    draw(widget, PLACES_RAS[0])
    widget.ui.trackButton.click()
    settle(widget)
    (red, composite), _ = addSliceViews(scene)
    composite.SetBackgroundVolumeID(volumes[2].GetID())
    crosshair = scene.AddNewNodeByClass("vtkMRMLCrosshairNode")
    crosshair.SetCursorPositionXYZ([1.0, 1.0, 0.0], red)
    draw(widget, PLACES_RAS[0], 9.0)
    assert len(matrix(widget)) == 2
    widget.panel.onUndo()
    settle(widget)
    assert len(matrix(widget)) == 1
    widget.ui.addLesionButton.click()
    count = len(slicer.util.getNodesByClass("vtkMRMLMarkupsLineNode"))
    widget.exit()  # the module is left with a line that has no ends
    assert len(slicer.util.getNodesByClass("vtkMRMLMarkupsLineNode")) == count - 1


class Actions:
    """What a reader does, each click counted: buttons, tabs, ends of lines."""

    def __init__(self, widget):
        self.widget, self.count = widget, 0

    def tab(self, index):
        self.count += 1
        self.widget.ui.tabWidget.currentIndex = index
        settle(self.widget)

    def press(self, button):
        self.count += 1
        assert button.enabled, button.text
        button.click()
        settle(self.widget)

    def line(self, center, length):
        """Two clicks in a view, where the tab waits for them."""
        nodes = slicer.util.getNodesByClass("vtkMRMLMarkupsLineNode")
        (node,) = [n for n in nodes if not n.GetNumberOfDefinedControlPoints()]
        for sign in (-0.5, 0.5):
            self.count += 1
            node.AddControlPointWorld(vtk.vtkVector3d(*(np.asarray(center) + [0, sign * length, 0])))
        settle(self.widget)


def ofOnePatient(scene, volumes, dates):
    """Put scans into studies of one patient, as Slicer's DICOM import does."""
    items = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    patient = items.CreateSubjectItem(items.GetSceneItemID(), "P")
    items.SetItemAttribute(patient, "DICOM.PatientID", "P1")
    for volume, date in zip(volumes, dates):
        study = items.CreateStudyItem(patient, date)
        items.SetItemAttribute(study, "DICOM.StudyDate", date)
        item = items.GetItemByDataNode(volume)
        items.SetItemParent(item, study) if item else items.CreateItem(study, volume)


def test_the_way_to_a_confirmed_diameter_is_short(widget, scene):
    """From two loaded studies: at most 7 actions to the first one, at most 4 to each further one."""
    later, first = addStudies(scene)[:2][::-1]
    ofOnePatient(scene, (later, first), ("20240901", "20240301"))
    actions = Actions(widget)
    actions.tab(TRACK_TAB)
    p = widget.panel.parameters
    assert p.baselineVolume is first and list(p.followUpVolumes) == [later]  # by date
    counts = []
    for place, length in zip(PLACES_RAS[:2], (12.0, 10.0)):
        before = actions.count
        actions.press(widget.ui.addLesionButton)
        actions.line(place, length)
        if not counts:
            actions.press(widget.ui.trackButton)
        finding = widget.panel.trackTab.matrix.selected()
        assert finding.volumeID == later.GetID() and not finding.isMeasured
        actions.press(widget.ui.measureButton)
        measured = widget.panel.trackTab.matrix.selected()
        assert measured.isMeasured and abs(measured.sizeMm - length) < 2.0
        counts.append(actions.count - before)
    counts[0] += 1  # the tab
    assert counts == [6, 4], counts
    tab = widget.panel.trackTab
    lesions = lesion_list.lesionsIn(tab.lesionList())
    assert [tab.clock.effortOf(lesion.uid).actions for lesion in lesions] == [5, 4]  # all but the tab
    widget.ui.timesButton.click()
    told = widget.ui.findingLabel.text.splitlines()
    assert [line.split(",")[0] for line in told] == ["L1: 5 actions", "L2: 4 actions", "In all: 9 actions"]


def test_studies_that_learn_their_dates_after_they_were_added_are_preset(widget, scene):
    """As Slicer loads DICOM, with the tab open: the scans are added first, and then their patient and dates."""
    widget.ui.tabWidget.currentIndex = TRACK_TAB
    settle(widget)
    first, later = addStudies(scene)[:2]
    ofOnePatient(scene, (first, later), ("20240301", "20240901"))
    settle(widget)
    p = widget.panel.parameters
    assert p.baselineVolume is first and list(p.followUpVolumes) == [later]


def test_what_the_user_says_of_a_lesion_counts(ready):
    widget, volumes = ready
    draw(widget, PLACES_RAS[0])
    widget.ui.trackButton.click()
    settle(widget)
    assert not widget.ui.stateSelector.enabled or widget.panel.trackTab.review.selected() is not None
    widget.ui.findingsTable.setCurrentCell(0, 1)
    assert widget.ui.stateSelector.enabled and widget.ui.stateSelector.currentIndex == 0
    widget.panel.trackTab.onState(1)
    settle(widget)
    assert "0.0 mm (-100 %), suggests CR" in widget.ui.sumsLabel.text and widget.ui.stateSelector.currentIndex == 1
    widget.panel.onUndo()
    settle(widget)
    assert "suggests CR" not in widget.ui.sumsLabel.text
