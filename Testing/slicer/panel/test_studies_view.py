"""All studies side by side: named by date, scrolled together from any of them, in any plane, CT with one window."""

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

from lesions import PLACES_RAS, SHIFT_RAS, THIRD_SHIFT_RAS, addLine, addStudies
from panel_tools import settle
from scene_tools import centerOf, findingAt

from SAMv2SlicerLib.scene import layouts
from SAMv2SlicerLib.track import studies

TRACK_TAB = 1
SHIFTS = (np.zeros(3), SHIFT_RAS, THIRD_SHIFT_RAS)
FINE_MM = 3.0
"""Of a quick match: fine voxels are 4 mm."""


@pytest.fixture
def beside(windows, widget, scene):
    """(widget, volumes, slice nodes) of three tracked studies, side by side."""
    volumes = addStudies(scene)
    for volume, date in zip(volumes, ("2023-01-01", "2023-04-01", "")):
        volume.CreateDefaultDisplayNodes()
        volume.GetDisplayNode().SetAutoWindowLevel(False)
        studies.setDate(volume, date)
    widget.ui.tabWidget.currentIndex = TRACK_TAB
    p = widget.panel.parameters
    p.baselineVolume, p.followUpVolumes = volumes[0], list(volumes[1:])
    p.lesionSources = [addLine(scene, PLACES_RAS[0], 12.0, "L1")]
    widget.ui.trackButton.click()
    settle(widget)
    assert widget.ui.allStudiesButton.checked
    nodes = [windows.sliceWidget(layouts.studyViewName(n)).mrmlSliceNode() for n in range(3)]
    return widget, volumes, nodes


def test_views_are_named_by_date(beside):
    _, _, nodes = beside
    assert [node.GetLayoutLabel() for node in nodes[:2]] == ["2023-01-01", "2023-04-01"]


@pytest.mark.parametrize("leader", [0, 2])
def test_whichever_is_scrolled_the_others_go_to_the_same_anatomy(beside, leader):
    widget, volumes, nodes = beside
    for place in PLACES_RAS[1:]:
        nodes[leader].JumpSliceByCentering(*(place + SHIFTS[leader]))
        settle(widget)
        for node, shift in zip(nodes, SHIFTS):
            assert centerOf(node)[2] == pytest.approx(place[2] + shift[2], abs=FINE_MM)
    assert centerOf(nodes[leader])[2] == pytest.approx((PLACES_RAS[2] + SHIFTS[leader])[2], abs=1e-6)  # no way back
    widget.ui.scrollStudiesCheckBox.checked = False
    before = [centerOf(node) for node in nodes]
    nodes[0].JumpSliceByOffsetting(*PLACES_RAS[0])
    settle(widget)
    assert np.allclose(centerOf(nodes[1]), before[1]) and np.allclose(centerOf(nodes[2]), before[2])


def test_a_cell_centers_every_study_on_its_own_finding(beside):
    """The module's own movements are no scrolling: each study stays at what tracking found in it."""
    widget, volumes, nodes = beside
    widget.ui.findingsTable.setCurrentCell(0, 1)
    settle(widget)
    for n, node in enumerate(nodes):
        np.testing.assert_allclose(centerOf(node), findingAt(widget.logic, 0, n).world, atol=1e-3)


def test_another_plane_and_back(beside):
    widget, volumes, nodes = beside
    widget.ui.findingsTable.setCurrentCell(0, 1)
    for index, name in ((2, "Coronal"), (1, "Sagittal"), (0, "Axial")):
        assert layouts.ORIENTATIONS[index] == name
        widget.ui.planeSelector.currentIndex = index
        widget.ui.planeSelector.activated.emit(index)
        settle(widget)
        for n, node in enumerate(nodes):
            normal = np.abs([node.GetSliceToRAS().GetElement(row, 2) for row in range(3)])
            assert int(np.argmax(normal)) == {"Axial": 2, "Sagittal": 0, "Coronal": 1}[name]
            np.testing.assert_allclose(centerOf(node), findingAt(widget.logic, 0, n).world, atol=1e-3)


def test_ct_has_one_window_while_it_is_compared(beside):
    widget, volumes, _ = beside
    displays = [volume.GetDisplayNode() for volume in volumes]
    displays[1].SetWindowLevel(1400, -300)
    assert all((display.GetWindow(), display.GetLevel()) == (1400, -300) for display in displays)
    widget.ui.allStudiesButton.click()
    settle(widget)
    displays[1].SetWindowLevel(400, 40)
    assert displays[0].GetWindow() == 1400
