"""A step of the tour: a follow-up is read as radiologists do it, with real DICOM studies, views and reports.

Two studies of a patient come from a DICOM database; lesions are drawn in the first one by clicks in its view, found in
the second one, measured and judged there; the reports go into the database; the scene is closed, and the second study
with its report is the baseline of the next month. Every click and button of the reader is counted.
"""

import os
from contextlib import contextmanager

import driving as d
import numpy as np
import slicer
import slicer.util
from DICOMLib import DICOMUtils

MOST_FIRST, MOST_FURTHER = 7, 4
"""Actions to the first confirmed diameter from two loaded studies, and to each further one."""

DATES = ("20240301", "20240901")
PLACES = ((0.5, 0.45, 0.5, 18.0), (0.5, 0.6, 0.42, 14.0))
"""Shares of the scan (z, y, x), and how long a line is drawn there, mm."""


class Reader:
    """The reader's hands: everything that is done is counted."""

    def __init__(self, tour):
        self.tour, self.actions = tour, 0

    def press(self, button):
        assert button.enabled, f"{button.text} is disabled: {self.tour.ui.statusLabel.text}"
        self.actions += 1
        button.click()
        d.settle(self.tour.widget)

    def tab(self, index):
        self.actions += 1
        self.tour.ui.tabWidget.currentIndex = index
        d.settle(self.tour.widget)

    def line(self, view, ends):
        """Click both ends in a view, which is at their slice."""
        for end in ends:
            self.actions += 1
            d.click(view, d.pixelOf(view, end))
            d.wait(100)
        d.settle(self.tour.widget)


def readFollowUp(tour):
    from SAMv2Core.io import structured_report as sr

    if not sr.is_available():
        return "skipped: highdicom is not installed in this Slicer"
    slicer.mrmlScene.Clear()
    d.settle(tour.widget)
    volumes, truth = _scans()
    with _ownDatabase(tour.folder / "dicom-database") as database:
        studies = _import(tour.folder / "studies", volumes, database)
        baseline, followUp = (_load(uid) for uid in studies)
        uids = _firstMonth(tour, baseline, followUp, volumes[0], truth)
        _report(tour)
        slicer.mrmlScene.Clear()
        d.settle(tour.widget)
        _nextMonth(tour, _load(studies[1]), uids)
    slicer.mrmlScene.Clear()
    d.settle(tour.widget)
    return None


@contextmanager
def _ownDatabase(folder):
    """A DICOM database of this step; the one from before comes back where there was one.

    Not by Slicer's own context: where no database was chosen before, it opens one in the working folder.
    """
    before = slicer.dicomDatabase.databaseDirectory
    DICOMUtils.openTemporaryDatabase(str(folder))
    try:
        yield slicer.dicomDatabase
    finally:
        DICOMUtils.closeTemporaryDatabase(None)
        if os.path.isdir(before):
            DICOMUtils.openDatabase(before)


def _scans():
    """((scan, simulated later scan), truth of LPS places), both upright, as the tests' DICOM writer wants."""
    from tour import _scan

    from SAMv2Core.geometry.grid import Grid
    from SAMv2Core.io.resample import resample_to
    from SAMv2Core.simulation.simulate import simulate_follow_up

    volume, _ = _scan()
    simulated = simulate_follow_up(volume, seed=3)
    upright = []
    for item in (volume, simulated.volume):
        corners = item.grid.corners_lps()
        low, high = corners.min(axis=0), corners.max(axis=0)
        matrix = np.diag([2.0, 2.0, 2.0, 1.0])
        matrix[:3, 3] = low
        shape = tuple(int(n) for n in np.ceil((high - low) / 2.0)[::-1])
        upright.append(resample_to(Grid(shape, matrix), item))
    return upright, simulated.map_points


def _import(folder, volumes, database):
    """Series UIDs of the scans in the database."""
    import pydicom

    from Testing.samples.dicom_series import writeSeries

    folder.mkdir(exist_ok=True)
    uids = []
    for n, (volume, date) in enumerate(zip(volumes, DATES)):
        files = writeSeries(folder / f"{n}", date=date, volume=volume)
        uids.append(str(pydicom.dcmread(files[0], stop_before_pixels=True).SeriesInstanceUID))
        DICOMUtils.importDicom(str(folder / f"{n}"), database)
    return uids


def _load(seriesUID):
    (nodeID,) = DICOMUtils.loadSeriesByUID([seriesUID])
    node = slicer.mrmlScene.GetNodeByID(nodeID)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevel(1400, -300)
    return node


def _firstMonth(tour, baseline, followUp, volume, truth):
    """Draw, track, measure; the lesions' Tracking UIDs."""
    from SAMv2SlicerLib.scene import layouts, node_geometry
    from SAMv2SlicerLib.track import findings, lesion_list

    ui, panel, reader = tour.ui, tour.widget.panel, Reader(tour)
    d.settle(tour.widget)
    reader.tab(1)
    p = tour.parameters
    preset = [node.GetName() for node in (p.baselineVolume, *p.followUpVolumes) if node is not None]
    assert p.baselineVolume is baseline and list(p.followUpVolumes) == [followUp], f"not preset by date: {preset}"
    z, y, x = volume.array.shape
    counts = []
    for fz, fy, fx, length in PLACES:
        before = reader.actions
        middle = node_geometry.flipRASAndLPS(volume.grid.to_lps(np.array([[fx * x, fy * y, fz * z]])))[0]
        reader.press(ui.addLesionButton)
        view = layouts.studyViewName(0)
        d.sliceWidget(view).mrmlSliceNode().JumpSliceByOffsetting(*middle)
        d.wait(200)
        reader.line(view, [middle + [sign * length / 2, 0, 0] for sign in (-1, 1)])
        if not counts:
            reader.press(ui.trackButton)
        chosen = panel.trackTab.matrix.selected()
        assert chosen is not None and chosen.volumeID == followUp.GetID(), "the new finding is not selected"
        reader.press(ui.measureButton)
        counts.append(reader.actions - before + (0 if counts else 1))  # the tab
    tour.report["facts"]["actions_per_lesion"] = counts
    d.waitUntil(lambda: panel.trackTab.matrix.selected().result.looks, 60, "nothing is said of presence")
    rows = findings.findings(panel.trackTab.lesionList())
    errors = []
    for row in rows:
        assert row[1].isMeasured, "a diameter is not confirmed"
        true, _ = truth(node_geometry.flipRASAndLPS(row[0].world)[None])
        errors.append(float(np.linalg.norm(node_geometry.flipRASAndLPS(row[1].world) - true[0])))
    tour.report["facts"]["lesion_errors_mm"] = [round(error, 2) for error in errors]
    for node in slicer.util.getNodesByClass("vtkMRMLMarkupsLineNode"):
        size = f" {node.GetLineLengthWorld():.1f} mm"
        label = node.GetNthControlPointLabel(0)
        assert label.endswith(size) and label.strip() in (node.GetName() + size, size.strip()), label
        assert not node.GetDisplayNode().GetPropertiesLabelVisibility()
    ui.findingsTable.setCurrentCell(0, 1)
    d.settle(tour.widget)
    d.scrollToTop(ui.tabWidget)
    tour.shot("follow-up")
    _scrollToBottom(ui.tabWidget)
    tour.shot("follow-up-buttons")
    assert "suggests" in ui.sumsLabel.text, ui.sumsLabel.text
    assert counts[0] <= MOST_FIRST and all(count <= MOST_FURTHER for count in counts[1:]), counts
    assert max(errors) < 8.0, errors
    _scroll(tour, truth)
    _planes(tour, followUp, truth)
    return [lesion.uid for lesion in lesion_list.lesionsIn(panel.trackTab.lesionList())]


def _scroll(tour, truth):
    """Scrolling the baseline scrolls the follow-up to the same anatomy; the true place lies in its slice."""
    from SAMv2SlicerLib.scene import layouts, node_geometry

    first, second = (d.sliceWidget(layouts.studyViewName(n)).mrmlSliceNode() for n in range(2))
    first.SetSliceOffset(first.GetSliceOffset() + 20.0)
    d.settle(tour.widget)
    place = np.array([first.GetSliceToRAS().GetElement(row, 3) for row in range(3)])
    true, _ = truth(node_geometry.flipRASAndLPS(place)[None])
    off = abs(second.GetSliceOffset() - float(true[0][2]))
    tour.report["facts"]["scrolled_error_mm"] = round(off, 2)
    assert off < 8.0, f"the follow-up's slice is {off:.1f} mm from the same anatomy"
    tour.shot("scrolled")


def _planes(tour, followUp, truth):
    """All three planes of both studies at once, and the place under the cursor in the other one; then axial again."""
    from SAMv2SlicerLib.scene import layouts, node_geometry, slice_views

    ui, view = tour.ui, layouts.studyViewName(0)
    _choosePlane(tour, 3)
    ui.findingsTable.setCurrentCell(0, 1)
    d.settle(tour.widget)
    for n in range(2):
        for name in layouts.studyViews(n, layouts.ALL_PLANES):
            node = d.sliceWidget(name).mrmlSliceNode()
            assert slice_views.cuts(node, slice_views.volumeIn(node)), f"{name} is beside its scan"
    ui.cursorStudiesCheckBox.checked = True
    place = slice_views.middleOf(d.sliceWidget(view).mrmlSliceNode()) + [12.0, 8.0, 0.0]
    d.hover(view, d.pixelOf(view, place))
    d.settle(tour.widget)
    glyph = tour.widget.panel.trackTab.studiesView.cursor.glyphIn(followUp)
    assert glyph is not None and glyph.GetDisplayVisibility(), "the cursor is not shown in the other study"
    true, _ = truth(node_geometry.flipRASAndLPS(place)[None])
    off = float(np.linalg.norm(node_geometry.flipRASAndLPS(node_geometry.pointWorld(glyph, 0)) - true[0]))
    tour.report["facts"]["cursor_error_mm"] = round(off, 2)
    assert off < 8.0, f"the cursor in the other study is {off:.1f} mm from the same anatomy"
    tour.shot("planes")
    ui.cursorStudiesCheckBox.checked = False
    d.leaveView(view)
    _choosePlane(tour, 0)
    assert not tour.widget.panel.layout.isAllPlanes()


def _choosePlane(tour, index):
    tour.ui.planeSelector.currentIndex = index
    tour.ui.planeSelector.activated(index)
    d.settle(tour.widget)


def _scrollToBottom(widget):
    area = widget.parent()
    while not area.inherits("QScrollArea"):
        area = area.parent()
    area.verticalScrollBar().value = area.verticalScrollBar().maximum


def _chosen(index):
    """In place of the menu below a button: the entry with this number."""
    from SAMv2SlicerLib.panel import dialogs

    def choose(button, titles):
        return index

    dialogs.choose, before = choose, dialogs.choose
    return before


def _report(tour):
    """All reports into the database."""
    from SAMv2SlicerLib.panel import dialogs

    before = _chosen(1)
    try:
        tour.ui.exportReportButton.click()
        d.settle(tour.widget)
    finally:
        dialogs.choose = before
    assert "2 DICOM reports are in" in tour.ui.statusLabel.text, tour.ui.statusLabel.text


def _nextMonth(tour, baseline, uids):
    """The second study is the baseline, its report says what is known."""
    from SAMv2SlicerLib.panel import dialogs
    from SAMv2SlicerLib.track import lesion_list, report_import

    ui = tour.ui
    d.settle(tour.widget)
    ui.tabWidget.currentIndex = 1
    tour.parameters.baselineVolume = baseline
    d.settle(tour.widget)
    offered = report_import.reportsOf(baseline)
    assert len(offered) == 2, f"the database offers {offered}"
    before = _chosen(0)
    try:
        ui.readReportButton.click()
        d.settle(tour.widget)
    finally:
        dialogs.choose = before
    assert "knows 2 lesions" in ui.statusLabel.text, ui.statusLabel.text
    listNode = tour.widget.panel.trackTab.lesionList()
    assert sorted(lesion.uid for lesion in lesion_list.lesionsIn(listNode)) == sorted(uids), "another UID"
    assert ui.findingsTable.rowCount == 2 and ui.sumsLabel.text.count(" mm") == 2, ui.sumsLabel.text
    tour.shot("next-month")
    ui.undoButton.click()
    d.settle(tour.widget)
    marks = [node for node in slicer.util.getNodesByClass("vtkMRMLMarkupsNode") if not node.GetHideFromEditors()]
    assert ui.findingsTable.rowCount == 0 and not marks, "undo left something of the report"
    ui.redoButton.click()
    d.settle(tour.widget)
    assert ui.findingsTable.rowCount == 2 and len(tour.parameters.lesionSources) >= 2, "redo brought no rows back"
