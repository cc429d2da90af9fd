"""Lesions through three studies on the real scene: marks in, findings, tables and plot out, decisions kept."""

import csv

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

import slicer
from lesions import PLACES_RAS, SHIFT_RAS, THIRD_SHIFT_RAS, addLesionPoints, addLine, addSegment, addStudies
from phantoms import addPoints, addVolume, phantom
from scene_tools import columnOf, findingAt

from SAMv2Core.errors import Cancelled, InputError
from SAMv2SlicerLib.scene import match_list, node_geometry
from SAMv2SlicerLib.scene.hierarchy import hierarchyOf
from SAMv2SlicerLib.track import findings, findings_table, lesion_list, lesion_marks, measuring, studies

TOLERANCE_MM = 3.0
"""The same voxels in all studies; tracking votes over several places, each found within a 4 mm feature voxel."""


def finish(logic):
    while logic.tick(0.05):
        pass


@pytest.fixture
def tracked(logic, scene):
    """(logic, volumes, lesion marks, table) after a first run on three lesions in two follow-ups."""
    volumes = addStudies(scene)
    marks = addLesionPoints(scene)
    table = logic.trackLesions(volumes[0], volumes[1:], marks)
    return logic, volumes, marks, table


# --- marks -----------------------------------------------------------------------------------------------------------


def test_marks_of_all_kinds_are_lesions(scene):
    marks = lesion_marks.marksIn(
        [addLesionPoints(scene), addLine(scene, (1, 2, 3), 14.0), addSegment(scene, (10, 20, 30)), None]
    )
    assert [mark.label for mark in marks] == ["liver", "spleen", "node", "RECIST 1", "tumor"]
    line, segment = marks[3], marks[4]
    assert np.allclose(line.centerWorld, (1, 2, 3)) and line.diameterMm == pytest.approx(14.0)
    assert not line.isEstimated and segment.isEstimated
    assert np.allclose(segment.centerWorld, (10, 20, 30), atol=1e-6)
    assert segment.diameterMm == pytest.approx(np.hypot(12, 8), abs=0.1)  # corner to corner of the box in its slice


def test_marks_follow_their_parent_transforms(scene):
    segment, line = addSegment(scene, (10, 20, 30)), addLine(scene, (1, 2, 3))
    parent = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = np.array([[0.0, -1, 0, 5], [1, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]])
    parent.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    for node in (segment, line):
        node.SetAndObserveTransformNodeID(parent.GetID())
    found = lesion_marks.marksIn([segment, line])
    for mark, center in zip(found, ((10, 20, 30), (1, 2, 3))):
        assert np.allclose(mark.centerWorld, matrix[:3, :3] @ center + matrix[:3, 3], atol=1e-5)


def test_a_segment_in_parts_is_several_lesions(scene):
    marks = lesion_marks.marksIn([addSegment(scene, (0, 0, 0), name="met", isCut=True)])
    assert [mark.label for mark in marks] == ["met 1", "met 2"] and len({mark.key for mark in marks}) == 2


def test_equal_labels_become_different(scene):
    marks = lesion_marks.marksIn([addLesionPoints(scene, labels=("x", "x", "y"))])
    assert [item.lesion.label for item in lesion_list.plan(None, marks)] == ["x", "x (2)", "y"]


# --- studies ---------------------------------------------------------------------------------------------------------


def test_dates_are_read_entered_and_never_invented(scene):
    baseline, first, second = addStudies(scene)
    assert studies.dateOf(first) == "" and studies.inTimeOrder([second, first]) == [second, first]
    items = hierarchyOf(scene)
    study = items.CreateStudyItem(items.GetSceneItemID(), "Study")
    items.SetItemAttribute(study, "DICOM.StudyDate", "20240301")
    items.CreateItem(study, second)
    assert studies.dateOf(second) == "2024-03-01"
    studies.setDate(first, "2023-03-02")
    assert studies.inTimeOrder([second, first]) == [first, second] and studies.daysSince(first, second) == 365
    with pytest.raises(InputError, match="not a date"):
        studies.setDate(first, "2023-02-30")
    assert studies.dateOf(first) == "2023-03-02" and studies.dateOf(baseline) == ""


# --- tracking --------------------------------------------------------------------------------------------------------


def test_lesions_are_found_in_every_study(tracked):
    logic, volumes, _, table = tracked
    assert table.IsA("vtkMRMLTableNode") and columnOf(table, "label") == [
        name for name in ("liver", "spleen", "node") for _ in range(3)
    ]
    rows = findings.findings(logic.tracker.lesionList())
    for lesion, place in enumerate(PLACES_RAS):
        for study, shift in ((1, SHIFT_RAS), (2, THIRD_SHIFT_RAS)):
            assert np.linalg.norm(rows[lesion][study].world - (place + shift)) < TOLERANCE_MM
    first = match_list.findMatchList(logic.tracker.lesionList(), volumes[1])
    assert first.GetAttribute("SAMv2.model") == "tiny" and first.GetNumberOfControlPoints() == 3
    assert logic.engine.embedded == [node.GetID() for node in volumes]


def test_the_same_numbers_as_samv2core(tracked):
    from tiny_model import tinyModel

    from SAMv2Core.io.lesion import lesion_at
    from SAMv2Core.tracking.track import track

    logic, volumes, _, table = tracked
    embeddings = [tinyModel().embed(node_geometry.volumeFromNode(node), modality="auto") for node in volumes]
    lesions = [lesion_at(label, place * [-1, -1, 1]) for label, place in zip(("liver", "spleen", "node"), PLACES_RAS)]
    direct = {(f.label, f.study): f for f in track(embeddings[0], embeddings[1:], lesions)}
    for label, row in zip(("liver", "spleen", "node"), findings.findings(logic.tracker.lesionList())):
        for study in (1, 2):
            assert np.allclose(row[study].world * [-1, -1, 1], direct[label, study].lps, atol=1e-3)
            assert row[study].result.confidence == pytest.approx(direct[label, study].confidence, abs=1e-3)


def test_studies_under_transforms(logic, scene):
    baseline, first, _ = addStudies(scene)
    marks = addLesionPoints(scene)
    parent = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = np.array([[0.0, -1, 0, 5], [1, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]])
    parent.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    first.SetAndObserveTransformNodeID(parent.GetID())
    logic.trackLesions(baseline, [first], marks)
    expected = (PLACES_RAS + SHIFT_RAS) @ matrix[:3, :3].T + matrix[:3, 3]
    for lesion in range(3):
        assert np.linalg.norm(findingAt(logic, lesion, 1).world - expected[lesion]) < TOLERANCE_MM


def test_decisions_survive_a_rerun_and_are_told_to_the_tracker(tracked):
    logic, volumes, marks, _ = tracked
    listNode = match_list.findMatchList(logic.tracker.lesionList(), volumes[1])
    proposed = node_geometry.pointWorld(listNode, 1)
    listNode.SetNthControlPointPositionWorld(1, *(proposed + [5.0, 0, 0]))  # dragged: noticed as a correction
    with logic.writing():
        match_list.reject(listNode, 0)
        match_list.accept(listNode, 2)
    told = []
    real = logic.engine.track

    def track(baseline, followUps, lesions, verified, *others):
        told.extend(verified)
        return real(baseline, followUps, lesions, verified, *others)

    logic.engine.track = track
    logic.trackLesions(volumes[0], volumes[1:], marks)
    assert {(item.label, item.followUp, item.lps is None) for item in told} == {
        ("liver", 0, True),
        ("spleen", 0, False),
        ("node", 0, False),
    }
    moved = findingAt(logic, 1, 1)
    assert moved.decision == "moved" and np.allclose(moved.world, proposed + [5.0, 0, 0])
    assert np.allclose(moved.result.proposed, proposed * [-1, -1, 1], atol=1e-2)
    assert findingAt(logic, 0, 1).decision == "rejected" and findingAt(logic, 0, 1).world is None
    assert findingAt(logic, 2, 1).decision == "accepted" and findingAt(logic, 2, 2).decision == ""


def test_decisions_are_saved_with_the_scene(tracked, scene, tmp_path):
    logic, volumes, marks, table = tracked
    listNode = match_list.findMatchList(logic.tracker.lesionList(), volumes[1])
    with logic.writing():
        match_list.reject(listNode, 0)
    listNode.SetNthControlPointPositionWorld(1, 1, 2, 103)
    rows = findings_table.rowsFor(logic.tracker.lesionList())
    uids = [lesion.uid for lesion in lesion_list.lesionsIn(logic.tracker.lesionList())]
    path = str(tmp_path / "scene.mrb")
    assert scene.WriteToMRB(path)
    scene.Clear()
    assert scene.ReadFromMRB(path)
    listNode = lesion_list.findLesionList(scene.GetFirstNodeByName("CT 2021"))
    again = findings_table.rowsFor(listNode)
    assert [row["decision"] for row in again] == [row["decision"] for row in rows]
    assert [row["study"] for row in again] == [row["study"] for row in rows]
    for old, new in zip(rows, again):
        for name in ("l", "p", "s", "similarity", "confidence"):
            assert new[name] == (None if old[name] is None else pytest.approx(old[name], abs=2e-3))
    assert [lesion.uid for lesion in lesion_list.lesionsIn(listNode)] == uids
    table = findings_table.find(listNode, findings_table.FINDINGS)
    assert columnOf(table, "decision") == [row["decision"] for row in rows]
    chart = findings_table.find(listNode, findings_table.CHART)
    assert chart is not None and findings_table.find(listNode, findings_table.SIZES) is not None


def test_tracking_is_one_undo_step(tracked, scene):
    logic, volumes, marks, _ = tracked
    counts = {}

    def count():
        return {
            name: scene.GetNumberOfNodesByClass(name)
            for name in ("vtkMRMLMarkupsNode", "vtkMRMLTableNode", "vtkMRMLPlotChartNode", "vtkMRMLPlotSeriesNode")
        }

    counts["after"] = count()
    rows = findings_table.rowsFor(logic.tracker.lesionList())
    assert logic.undoStack.undo() is not None
    assert count() == {name: (1 if name == "vtkMRMLMarkupsNode" else 0) for name in counts["after"]}  # the marks stay
    assert logic.undoStack.redo() is not None
    assert count() == counts["after"]
    assert findings_table.rowsFor(lesion_list.findLesionList(volumes[0])) == rows


def test_lesions_keep_their_identity_when_marks_change(tracked):
    logic, volumes, marks, _ = tracked
    before = {lesion.label: lesion.uid for lesion in lesion_list.lesionsIn(logic.tracker.lesionList())}
    marks.SetNthControlPointLabel(0, "liver S7")
    marks.SetNthControlPointPositionWorld(1, *(PLACES_RAS[1] + [4, 0, 0]))
    marks.RemoveNthControlPoint(2)
    logic.trackLesions(volumes[0], volumes[1:], marks)
    after = {lesion.label: lesion.uid for lesion in lesion_list.lesionsIn(logic.tracker.lesionList())}
    assert after == {"liver S7": before["liver"], "spleen": before["spleen"]}
    assert all(node.GetNumberOfControlPoints() == 2 for node in lesion_list.findingsOf(logic.tracker.lesionList()))


def test_sizes_come_from_lines_and_are_plotted(logic, scene):
    volumes = addStudies(scene)
    for node, date in zip(volumes, ("2023-01-01", "2023-04-01", "2023-07-01")):
        studies.setDate(node, date)
    line = addLine(scene, PLACES_RAS[0], 12.0)
    logic.trackLesions(volumes[0], volumes[1:], [line, addSegment(scene, PLACES_RAS[1])])
    listNode = logic.tracker.lesionList()
    assert findingAt(logic, 0, 0).sizeMm == pytest.approx(12.0) and findingAt(logic, 0, 0).isMeasured
    drawn = measuring.measure(logic, findingAt(logic, 0, 1))
    assert np.allclose(node_geometry.pointsWorld(drawn, (0, 1)).mean(axis=0), findingAt(logic, 0, 1).world, atol=2.0)
    end = node_geometry.pointWorld(drawn, 0)
    drawn.SetNthControlPointPositionWorld(1, *(end + [0, 17.5, 0]))  # the table follows the line
    assert findingAt(logic, 0, 1).sizeMm == pytest.approx(17.5) and findingAt(logic, 0, 1).isMeasured
    sizes = findings_table.find(listNode, findings_table.SIZES)
    assert columnOf(sizes, "RECIST 1")[:2] == pytest.approx([12.0, 17.5])
    assert columnOf(sizes, "Days since baseline") == [0.0, 90.0, 181.0]
    chart = findings_table.find(listNode, findings_table.CHART)
    assert chart.GetNumberOfPlotSeriesNodes() == 3  # both lesions and their sum
    assert chart.GetNthPlotSeriesNode(0).GetYColumnName() == "RECIST 1"
    assert measuring.measure(logic, findingAt(logic, 0, 1)) is drawn  # one line per lesion and study
    logic.undoStack.undo()
    assert not findingAt(logic, 0, 1).isMeasured
    assert scene.GetNumberOfNodesByClass("vtkMRMLMarkupsLineNode") == 3  # the mark and the two proposals


def test_csv_has_the_columns_of_the_command(tracked, tmp_path):
    from SAMv2Core.cli.track import COLUMNS

    logic, _, _, _ = tracked
    path = tmp_path / "lesions.csv"
    assert findings_table.writeCSV(str(path), logic.tracker.lesionList()) == 9
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0])[:10] == COLUMNS
    assert [row["study"] for row in rows[:3]] == ["0", "1", "2"] and rows[0]["scan"] == "CT 2021"
    assert rows[0]["status"] == "matched" and float(rows[0]["l"]) == pytest.approx(-PLACES_RAS[0][0])


# --- what can go wrong -----------------------------------------------------------------------------------------------


def test_what_cannot_be_tracked_says_why(logic, scene):
    baseline, first, _ = addStudies(scene)
    marks, empty = addLesionPoints(scene), scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "empty")
    for followUps, lesions, message in (
        ([], marks, "No follow-up"),
        ([baseline], marks, "both baseline and follow-up"),
        ([first], empty, "No lesion is marked"),
        ([first], "nobody", "no point list"),
        ([first], first, "no point list"),
        (["nowhere"], marks, "no node named"),
    ):
        with pytest.raises(InputError, match=message):
            logic.trackLesions(baseline, followUps, lesions)
    assert lesion_list.findLesionList(baseline) is None


@pytest.mark.parametrize("victim", [0, 1])
def test_volume_deleted_while_tracking(logic, scene, victim):
    volumes = addStudies(scene)
    job = logic.tracker.start(volumes[0], volumes[1:], [addLesionPoints(scene)])
    count = scene.GetNumberOfNodesByClass("vtkMRMLMarkupsNode")
    scene.RemoveNode(volumes[victim])
    finish(logic)
    assert isinstance(job.error, InputError) and scene.GetNumberOfNodesByClass("vtkMRMLMarkupsNode") == count
    assert scene.GetNumberOfNodesByClass("vtkMRMLTableNode") == 0


def test_cancel_and_scene_close_leave_nothing(logic, scene):
    volumes = addStudies(scene)
    marks = addLesionPoints(scene)
    count = scene.GetNumberOfNodes()

    def progress(fraction, text):
        raise Cancelled()

    with pytest.raises(Cancelled):
        logic.trackLesions(volumes[0], volumes[1:], marks, progress=progress)
    assert scene.GetNumberOfNodes() == count
    logic.tracker.start(volumes[0], volumes[1:], [marks])
    scene.Clear()
    finish(logic)
    assert scene.GetNumberOfNodesByClass("vtkMRMLMarkupsNode") == 0
    assert scene.GetNumberOfNodesByClass("vtkMRMLTableNode") == 0


def test_a_deleted_list_of_findings_is_made_again(tracked, scene):
    logic, volumes, marks, _ = tracked
    scene.RemoveNode(match_list.findMatchList(logic.tracker.lesionList(), volumes[1]))
    logic.trackLesions(volumes[0], volumes[1:], marks)
    assert match_list.findMatchList(logic.tracker.lesionList(), volumes[1]).GetNumberOfControlPoints() == 3


def test_a_corrected_lesion_speaks_for_its_neighbors(logic, scene):
    """Both lesions moved, but what they lay in is still seen at the old place, which so looks like a match. One
    correction must be enough that the other is no longer called matched there."""
    array = phantom((48, 60, 72))
    ijkToRAS = np.array([[2.0, 0, 0, -70], [0, 2, 0, -60], [0, 0, 2, 100], [0, 0, 0, 1]])
    lesions = np.array([[-20.0, 0, 147], [-20.0, 12, 147]])
    baseline = addVolume("baseline", array, ijkToRAS)
    places = np.indices(array.shape)[::-1].reshape(3, -1).T * 2.0 + ijkToRAS[:3, 3]
    near = np.linalg.norm(places - lesions.mean(axis=0), axis=1) < 20
    z, y, x = np.nonzero(near.reshape(array.shape))
    copied = array.copy()
    copied[z, y, x + 12] = array[z, y, x]  # 24 mm to the patient's left, and still at the old place
    followUp = addVolume("follow-up", copied, ijkToRAS)
    marks = addPoints(scene, lesions, labels=["corrected", "other"])

    def other():
        return findings.findings(logic.tracker.lesionList())[1][1]

    logic.trackLesions(baseline, [followUp], marks)
    assert other().status == "matched" and np.linalg.norm(other().world - lesions[1]) < 5
    logic.trackLesions(baseline, [followUp], marks)
    assert other().status == "matched"  # a rerun alone changes nothing
    listNode = match_list.findMatchList(logic.tracker.lesionList(), followUp)
    with logic.writing():
        match_list.setPosition(listNode, 0, lesions[0] + [24.0, 0, 0])
        match_list.markMoved(listNode, 0)
    logic.trackLesions(baseline, [followUp], marks)
    assert other().needsALook or np.linalg.norm(other().world - lesions[1] - [24.0, 0, 0]) < 10
