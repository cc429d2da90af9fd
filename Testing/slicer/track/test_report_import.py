"""A report of this month is next month's baseline in the panel: rows, Tracking UIDs, roles and history go on."""

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")
pytest.importorskip("highdicom", reason="highdicom is not installed")

import threading

import ctk
import pydicom
import slicer
import vtk
from lesions import PLACES_RAS, SHIFT_RAS, addLine, addStudies
from panel_tools import settle, wholeMatrix
from scene_tools import findingAt, sceneState

from SAMv2Core.errors import InputError
from SAMv2Core.io.report_reader import read_report
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.panel import dialogs
from SAMv2SlicerLib.scene import node_geometry
from SAMv2SlicerLib.track import findings, lesion_list, measuring, past, report_export, report_import
from SAMv2SlicerLib.track.placing import listMarks
from SAMv2SlicerLib.work.waiting import waitFor
from SAMv2SlicerLib.work.worker import Job
from Testing.samples.dicom_series import writeSeries

TRACK_TAB = 1
DATES = ("20240301", "20240601", "20240901")


class Database:
    """What the module asks Slicer's DICOM database; reports are in it when they were added."""

    isOpen = True

    def __init__(self, folder):
        self.files, self.reports, self._folder = {}, [], folder
        for n, date in enumerate(DATES):
            for k, file in enumerate(writeSeries(folder / f"ct{n}", date=date)):
                self.files[f"{n}.{k}"] = file

    def fileForInstance(self, uid):
        return self.files.get(uid, "")

    def fileValue(self, file, tag):
        if tag == "0008,0016":
            return str(pydicom.dcmread(file, specific_tags=["SOPClassUID"]).SOPClassUID)
        return "study"

    def patientForStudy(self, study):
        return "patient"

    def studiesForPatient(self, patient):
        return [patient]

    def seriesForStudy(self, study):
        return ["scans", *range(len(self.reports))]

    def fieldForStudy(self, field, study):
        return "20240601"

    def fieldForSeries(self, field, series):
        return "CT" if series == "scans" else "SR"

    def descriptionForSeries(self, series):
        return "SAMv2 lesions"

    def filesForSeries(self, series):
        return [self.reports[series]]


@pytest.fixture
def database(tmp_path, monkeypatch):
    found = Database(tmp_path)
    monkeypatch.setattr(slicer, "dicomDatabase", found, raising=False)

    class Indexer:
        """Files are taken in when it is asked the next time whether it still is at work."""

        backgroundImportEnabled = False

        def __init__(self):
            self.waiting = []

        def addFile(self, database, path, isCopied):
            assert isCopied  # the file itself is in a folder that goes
            assert self.backgroundImportEnabled, "the window waits for it"
            self.waiting.append(path)

        @property
        def importing(self):
            assert threading.current_thread() is threading.main_thread()
            if not self.waiting:
                return False
            copy = tmp_path / f"in database {len(found.reports)}.dcm"
            copy.write_bytes(open(self.waiting.pop(0), "rb").read())
            found.reports.append(str(copy))
            return True

    monkeypatch.setattr(ctk, "ctkDICOMIndexer", Indexer, raising=False)
    return found


def load(widget, scene, first, second):
    """Two of the three studies, as the panel has them after loading; the first is the baseline."""
    volumes = addStudies(scene)
    for n, volume in enumerate(volumes):
        volume.SetAttribute("DICOM.instanceUIDs", " ".join(f"{n}.{k}" for k in range(3)))
        if n not in (first, second):
            scene.RemoveNode(volume)
    widget.ui.tabWidget.currentIndex = TRACK_TAB
    widget.panel.parameters.baselineVolume = volumes[first]
    widget.panel.parameters.followUpVolumes = [volumes[second]]
    settle(widget)
    return volumes[first], volumes[second]


@pytest.fixture
def firstMonth(widget, scene, database, monkeypatch):
    """(widget, UIDs): a target of 16 mm, measured 16 mm; one that vanished; a node of 14 mm; reported, scene closed."""
    load(widget, scene, 0, 1)
    p, ui = widget.panel.parameters, widget.ui
    sizes = ((0, 16.0), (1, 12.0), (2, 14.0))
    p.lesionSources = [addLine(scene, PLACES_RAS[n], mm, f"L{n + 1}") for n, mm in sizes]
    ui.trackButton.click()
    settle(widget)
    measured = measuring.measure(widget.logic, findingAt(widget.logic, 0, 1))
    ends = node_geometry.pointsWorld(measured, (0, 1))
    along = (ends[1] - ends[0]) / np.linalg.norm(ends[1] - ends[0])
    measured.SetNthControlPointPositionWorld(1, *(ends[0] + 16.0 * along))
    measuring.measure(widget.logic, findingAt(widget.logic, 2, 1))
    ui.findingsTable.setCurrentCell(1, 1)
    widget.panel.trackTab.onState(1)
    ui.findingsTable.setCurrentCell(2, 1)
    ui.nodeCheckBox.click()
    ui.organSelector.currentText = "lymph node"
    ui.organSelector.lineEdit().editingFinished.emit()
    monkeypatch.setattr(dialogs, "choose", lambda button, titles: 1)
    ui.exportReportButton.click()
    assert ui.trackButton.text == "Cancel" and not ui.exportReportButton.enabled and not ui.readReportButton.enabled
    settle(widget)
    assert "2 DICOM reports are in Slicer's DICOM database" in ui.statusLabel.text
    uids = [lesion.uid for lesion in lesion_list.lesionsIn(widget.panel.trackTab.lesionList())]
    scene.Clear()
    settle(widget)
    return widget, uids


def test_a_report_in_the_database_goes_on_next_month(firstMonth, scene, database, monkeypatch, tmp_path):
    widget, uids = firstMonth
    ui, _ = widget.ui, load(widget, scene, 1, 2)
    offered = []
    monkeypatch.setattr(dialogs, "choose", lambda button, titles: offered.append(titles) or 0)
    ui.readReportButton.click()
    settle(widget)
    assert offered[0][0].startswith("20240601 SAMv2 lesions") and "file" in offered[0][-1]
    assert "knows 3 lesions" in ui.statusLabel.text
    listNode = widget.panel.trackTab.lesionList()
    lesions = lesion_list.lesionsIn(listNode)
    assert sorted(lesion.uid for lesion in lesions) == sorted(uids)
    assert {lesion.label: (lesion.organ, lesion.isNode, lesion.role) for lesion in lesions} == {
        "L1": ("", False, "target"), "L2": ("", False, "target"), "L3": ("lymph node", True, "target"),
    }  # fmt: skip
    first = next(lesion for lesion in lesions if lesion.label == "L1")
    assert first.diameterMm == pytest.approx(16.0, abs=0.01)
    assert np.linalg.norm(first.centerWorld - (PLACES_RAS[0] + SHIFT_RAS)) < 4.0
    # sums: 16 + 12 + 14 mm, then 16 + 0 + what was measured of the node
    assert ui.sumsLabel.text.startswith("Sum of diameters: Baseline: 42.0 mm; CT 2023: ")
    ui.trackButton.click()
    settle(widget)
    rows = findings.findings(listNode)
    courses = {course.label: course for course in findings.coursesOf(rows, past.pastOf(listNode))}
    states = [reading.state for reading in courses["L2"].readings]
    assert states == ["present", "vanished", "not_evaluable"]  # that its place was found makes it no lesion
    assert [row[0].split("\n")[1:] for row in wholeMatrix(widget)] == [[], ["Vanished (0 mm)"], []]
    for n, row in enumerate(rows):
        if row[0].label != "L2":
            measuring.measure(widget.logic, findingAt(widget.logic, n, 1))
    settle(widget)
    assert "2 of 3 sizes known" in ui.sumsLabel.text
    report_export.startExport(widget.logic, listNode, str(tmp_path))
    settle(widget)
    last = read_report(tmp_path / "lesions-1.dcm")
    assert last.order == 2
    assert [reading.order for reading in last.past["L1"].readings] == [0, 1, 2]
    assert [reading.time_point for reading in last.past["L1"].readings] == ["Baseline", "Follow-up 1", "Follow-up 2"]
    assert last.past["L1"].readings[0].long_mm == 16.0 and last.past["L2"].readings[1].state == "vanished"
    assert sorted(one.uid for one in last.past.values()) == sorted(uids)


def test_a_scene_keeps_what_the_report_said(reportRead, scene, monkeypatch, tmp_path):
    widget = reportRead
    told, path = widget.ui.sumsLabel.text, str(tmp_path / "scene.mrb")
    widget.ui.readReportButton.click()  # twice is once
    settle(widget)
    assert len(lesion_list.lesionsIn(widget.panel.trackTab.lesionList())) == 3 and widget.ui.sumsLabel.text == told
    assert scene.WriteToMRB(path)
    scene.Clear()
    assert scene.ReadFromMRB(path)
    settle(widget)
    assert widget.ui.sumsLabel.text == told and told


def test_one_step_takes_a_report_back_and_brings_it_again(firstMonth, scene, database, monkeypatch):
    """Marks, rows, roles and history together; a mark of the user's own from before stays."""
    widget, uids = firstMonth
    baseline, _ = load(widget, scene, 1, 2)
    ui, p, tab = widget.ui, widget.panel.parameters, widget.panel.trackTab
    own = addLine(scene, PLACES_RAS[0] + SHIFT_RAS + [6.0, 0, 0], 9.0, "own")
    p.lesionSources = [own]
    listMarks(widget.logic, baseline, [own])
    settle(widget)
    monkeypatch.setattr(dialogs, "choose", lambda button, titles: 0)

    def state():
        listNode = tab.lesionList()
        lesions = sorted(
            (lesion.uid, lesion.label, lesion.organ, lesion.role, lesion.isNode, f"{lesion.sizeMm:.2f}")
            for lesion in lesion_list.lesionsIn(listNode)
        )
        known = past.pastOf(listNode)
        return (
            [(kind, "" if kind.endswith("DisplayNode") else name, parent) for kind, name, parent in sceneState(scene)],
            [node.GetName() for node in tab.sources()],
            lesions,
            (known.order, sorted(known.lesions)),
            ui.sumsLabel.text,
            ui.findingsTable.rowCount,
        )

    before = state()
    ui.readReportButton.click()
    settle(widget)
    imported = state()
    assert {row[0] for row in imported[2]} > set(uids) and len(imported[1]) == 4
    for _ in range(2):
        assert widget.logic.undoStack.nextUndo() == texts.actionReadReport()
        ui.undoButton.click()
        settle(widget)
        assert state() == before
        ui.redoButton.click()
        settle(widget)
        assert state() == imported


@pytest.fixture
def steps(monkeypatch):
    """Names of nodes that came and went in the scene, in a list per turn of the event loop (step of a job)."""
    turns, scene = [[]], slicer.mrmlScene
    step = Job.step

    def counted(job):
        turns.append([])
        step(job)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def note(caller, event, node):
        if node.IsA("vtkMRMLMarkupsNode"):
            turns[-1].append(node.GetName())

    monkeypatch.setattr(Job, "step", counted)
    tags = [scene.AddObserver(event, note) for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent)]
    yield turns
    for tag in tags:
        scene.RemoveObserver(tag)


def test_a_turn_makes_or_removes_one_node(firstMonth, scene, database, monkeypatch, steps):
    """Each takes Slicer about 40 ms: reading, undo and redo leave the window its turns, without meeting each other."""
    widget, _ = firstMonth
    load(widget, scene, 1, 2)
    ui = widget.ui
    monkeypatch.setattr(dialogs, "choose", lambda button, titles: 0)
    for button in (ui.readReportButton, ui.undoButton, ui.redoButton):
        del steps[:-1]
        button.click()
        if button is not ui.readReportButton:
            assert not ui.undoButton.enabled and not ui.redoButton.enabled
            assert widget.logic.undoStack.undo() is None and widget.logic.undoStack.redo() is None
        settle(widget)
        counts = [len(names) for names in steps]
        assert max(counts) == 1 and sum(counts) == 4, steps  # three marks and the list
    assert ui.statusLabel.text.startswith("Done again") and ui.undoButton.enabled


def marksIn(scene):
    """Names of all marks; a list that is made again is called "..._1"."""
    return sorted(node.GetName().split("_")[0] for node in slicer.util.getNodesByClass("vtkMRMLMarkupsNode"))


@pytest.mark.parametrize("steps_before", range(1, 5))
@pytest.mark.parametrize("end", ["cancel", "closed", "scan gone"])
def test_half_a_report_is_never_left(firstMonth, scene, database, monkeypatch, steps, end, steps_before):
    """Stopped after each of its steps before the list is written: three marks, and they are chosen."""
    widget, _ = firstMonth
    baseline, _ = load(widget, scene, 1, 2)
    ui, before = widget.ui, marksIn(scene)
    monkeypatch.setattr(dialogs, "choose", lambda button, titles: 0)
    seen = []

    def stop(job):
        made = len(marksIn(scene)) - len(before)
        chosen = len(widget.panel.trackTab.sources())
        if seen or made + bool(chosen) < steps_before:
            return
        seen.append((made, chosen))
        if end == "cancel":
            job.cancel()
        elif end == "closed":
            scene.Clear()
        else:
            scene.RemoveNode(baseline)

    step = Job.step
    monkeypatch.setattr(Job, "step", lambda job: (step(job), stop(job)))
    ui.readReportButton.click()
    settle(widget)
    assert seen == [(min(steps_before, 3), 0 if steps_before < 4 else 3)]
    assert marksIn(scene) == before and widget.panel.trackTab.sources() == []
    assert widget.logic.undoStack.nextUndo() is None and ui.findingsTable.rowCount == 0
    if end == "cancel":
        assert ui.statusLabel.text == "Cancelled; nothing was changed."
        ui.readReportButton.click()
        settle(widget)
        assert ui.findingsTable.rowCount == 3


@pytest.fixture
def reportRead(firstMonth, scene, database, monkeypatch):
    """The module's widget in the next month, when the report has been taken into the scene."""
    widget, _ = firstMonth
    load(widget, scene, 1, 2)
    monkeypatch.setattr(dialogs, "choose", lambda button, titles: 0)
    widget.ui.readReportButton.click()
    settle(widget)
    return widget


def _beginOnly(widget, way):
    """Undo the import, or redo it afterwards, and stop on the way."""
    widget.ui.undoButton.click()
    if way == "redo":
        settle(widget)
        widget.ui.redoButton.click()
    assert widget.logic.undoStack.isMoving()


@pytest.mark.parametrize("way", ["undo", "redo"])
def test_nothing_is_tracked_in_the_middle_of_an_undo(reportRead, scene, way):
    """The button does not begin anything, and the scene becomes what was asked for."""
    widget, ui = reportRead, reportRead.ui
    imported = marksIn(scene)
    _beginOnly(widget, way)
    if way == "undo":
        assert widget.panel.trackTab.lesionList() is None, "what is done next would find what goes"
    ui.trackButton.click()
    assert widget.panel.trackTab.job is None
    settle(widget)
    assert widget.panel.trackTab.lesionList() is None and marksIn(scene) == []
    ui.redoButton.click()
    settle(widget)
    assert marksIn(scene) == imported and ui.findingsTable.rowCount == 3


@pytest.mark.parametrize("way", ["undo", "redo"])
def test_a_scene_that_closes_takes_an_undo_with_it(reportRead, scene, way):
    widget, ui = reportRead, reportRead.ui
    _beginOnly(widget, way)
    scene.Clear()
    settle(widget)
    assert not widget.logic.undoStack.isMoving() and marksIn(scene) == []
    load(widget, scene, 1, 2)
    ui.readReportButton.click()
    settle(widget)
    assert ui.findingsTable.rowCount == 3 and ui.undoButton.enabled


@pytest.mark.parametrize("way", ["undo", "redo"])
def test_what_is_half_undone_is_finished_before_another_engine_computes(reportRead, scene, way):
    widget, ui = reportRead, reportRead.ui
    imported = marksIn(scene)
    _beginOnly(widget, way)
    widget.panel.useEngine(widget.logic.engine)
    settle(widget)
    assert marksIn(scene) == (imported if way == "redo" else [])
    assert ui.undoButton.enabled == (way == "redo") and ui.redoButton.enabled == (way == "undo")


def test_a_redo_that_is_cancelled_can_be_done_again(reportRead, scene):
    widget, ui = reportRead, reportRead.ui
    imported = marksIn(scene)
    ui.undoButton.click()
    settle(widget)
    ui.redoButton.click()
    widget.panel.cancel()
    settle(widget)
    assert marksIn(scene) == [] and ui.redoButton.enabled and not ui.undoButton.enabled
    ui.redoButton.click()
    settle(widget)
    assert marksIn(scene) == imported and ui.findingsTable.rowCount == 3


def test_files_are_read_beside_the_window(firstMonth, scene, database, monkeypatch, tmp_path):
    """Reports are written and read by the worker's thread; a cancelled one leaves neither file nor row."""
    widget, _ = firstMonth
    load(widget, scene, 1, 2)
    threads, ui, isLet = [], widget.ui, threading.Event()

    def noted(name, module):
        before = getattr(module, name)

        def call(*args, **options):
            threads.append((name, threading.current_thread() is threading.main_thread()))
            assert isLet.wait(60), "the window waits for it"
            return before(*args, **options)

        monkeypatch.setattr(module, name, call)

    for name, module in (
        ("read_report", report_import),
        ("make_report", report_export),
        ("save_report", report_export),
    ):
        noted(name, module)
    monkeypatch.setattr(dialogs, "choose", lambda button, titles: 0)
    monkeypatch.setattr(dialogs, "chooseFolder", lambda *arguments: str(tmp_path / "out"))
    (tmp_path / "out").mkdir()

    def press(button, isCancelled):
        isLet.clear()
        button.click()
        if isCancelled:
            ui.trackButton.click()
        isLet.set()
        settle(widget)
        if isCancelled:
            assert ui.statusLabel.text == "Cancelled; nothing was changed."

    for isCancelled in (True, False):
        press(ui.readReportButton, isCancelled)
        assert bool(ui.findingsTable.rowCount) != isCancelled, ui.statusLabel.text
    for isCancelled in (True, False):
        press(ui.exportReportButton, isCancelled)
        assert bool(list((tmp_path / "out").iterdir())) != isCancelled, ui.statusLabel.text
    assert {name for name, _ in threads} == {"read_report", "make_report", "save_report"}
    assert not any(isMain for _, isMain in threads)


def test_a_scan_without_its_files_is_told_and_nothing_is_written(reportRead, database, monkeypatch, tmp_path):
    widget = reportRead
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(dialogs, "chooseFolder", lambda *arguments: str(tmp_path / "out"))
    open(database.files["1.1"], "wb").close()
    widget.ui.exportReportButton.click()
    settle(widget)
    assert "not readable DICOM" in widget.ui.statusLabel.text and not list((tmp_path / "out").iterdir())
    assert widget.ui.exportReportButton.enabled


def test_what_is_no_report_of_this_scan_is_refused(firstMonth, scene, database, monkeypatch, tmp_path):
    widget, _ = firstMonth
    count = len(slicer.util.getNodesByClass("vtkMRMLMarkupsNode"))
    (baseline, _), path = load(widget, scene, 0, 1), database.reports[1]
    with pytest.raises(InputError, match="another scan"):
        waitFor(widget.logic.worker, report_import.startImport(widget.logic, baseline, path), None)
    monkeypatch.setattr(dialogs, "choose", lambda button, titles: len(titles) - 1)
    monkeypatch.setattr(dialogs, "openFile", lambda *arguments: database.files["0.0"])
    widget.ui.readReportButton.click()
    settle(widget)
    assert "no DICOM structured report" in widget.ui.statusLabel.text
    monkeypatch.setattr(dialogs, "openFile", lambda *arguments: "")
    widget.ui.readReportButton.click()  # the user changed their mind
    settle(widget)
    assert len(slicer.util.getNodesByClass("vtkMRMLMarkupsNode")) == count


def test_damage_in_a_scene_is_no_past(scene):
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    for text in ("", "[", "{}", '{"order": 1, "lesions": [{"uid": "1"}]}'):
        node.SetAttribute(past.ATTRIBUTE, text)
        assert past.pastOf(node).lesions == {}
