"""What users do while something runs: nothing escapes, nothing is left behind, nothing of theirs is lost."""

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

import slicer
import slicer.util
import vtk
from lesions import PLACES_RAS, SHIFT_RAS, addLesionPoints, addLine, addSegment, addStudies
from panel_tools import cells, close, settle
from phantoms import addPair, addPoints
from scene_tools import sceneState

from SAMv2Core.errors import Cancelled, InputError
from SAMv2SlicerLib.match import similarity_map
from SAMv2SlicerLib.scene import match_list, node_geometry


def finish(logic):
    while logic.tick(0.05):
        pass


def started(logic, scene, kind):
    """A function that starts a job of a kind on a fresh pair of scans."""
    volumes = addStudies(scene)
    points = addLesionPoints(scene)

    def lesionLine():
        return scene.GetFirstNodeByClass("vtkMRMLMarkupsLineNode") or addLine(scene, PLACES_RAS[0])

    def organ():
        found = scene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
        return found or addSegment(scene, PLACES_RAS[0] + SHIFT_RAS, (24.0, 20.0, 16.0))

    if kind == "lines":
        lesionLine()
    if kind == "inside":
        organ()
    return {
        "embed": lambda: logic.startEmbedding(volumes[0]),
        "match": lambda: logic.startMatch(volumes[0], volumes[1], points),
        "register": lambda: logic.startRegistration(volumes[0], volumes[1]),
        "segmented": lambda: logic.tracker.start(
            volumes[0], volumes[1:2], [points], segmentations=[addSegment(scene, PLACES_RAS[0] + SHIFT_RAS)]
        ),
        "track": lambda: logic.tracker.start(volumes[0], volumes[1:2], [points]),
        "similarity": lambda: similarity_map.startSimilarityMap(
            logic, volumes[0], volumes[1], points, points.GetNthControlPointID(0)
        ),
        "colors": lambda: similarity_map.startColors(logic, volumes[0]),
        "lines": lambda: logic.tracker.start(volumes[0], volumes[1:2], [lesionLine()]),
        "inside": lambda: logic.startMatch(volumes[0], volumes[1], points, inside=(organ(), "")),
    }[kind]


KINDS = ("embed", "match", "inside", "track", "lines", "register", "similarity", "colors")


def stepping(logic, action):
    """Make the job that runs next call ``action(n, job)`` at its nth progress report; the list of reports."""
    reports = []
    real = logic.worker.submit

    def submit(name, work, *others):
        if reports:  # a job that follows the first: what is written by then is the first one's result
            return real(name, work, *others)

        def stepped(progress):
            def report(fraction, text=""):
                reports.append(fraction)
                action(len(reports) - 1, job)
                progress(fraction, text)

            return work(report)

        job = real(name, stepped, *others)
        return job

    logic.worker.submit = submit
    return reports


@pytest.mark.parametrize("kind", KINDS)
def test_cancel_at_any_step_changes_nothing(logic, scene, kind):
    start = started(logic, scene, kind)
    before, wanted = sceneState(scene), []
    reports = stepping(logic, lambda n, job: job.cancel() if n in wanted else None)

    def once(step=None):
        logic.store.clear()  # so that every run has the steps of a first one
        reports.clear()
        wanted[:] = [] if step is None else [step]
        job = start()
        finish(logic)
        return job

    for _ in range(2):  # in the second run the embeddings are remembered by the test's engine, as in all further ones
        assert once().error is None
    while logic.undoStack.undo():
        pass
    count, ready = len(reports), sceneState(scene)
    for step in sorted({0, count // 4, count // 2, 3 * count // 4, count - 1}):
        assert isinstance(once(step).error, Cancelled), step
        assert sceneState(scene) == ready
    if kind not in ("similarity", "colors"):
        assert ready == before


@pytest.mark.parametrize("kind", KINDS)
def test_scene_closed_in_the_middle(logic, scene, kind):
    start = started(logic, scene, kind)
    job = start()
    scene.Clear()
    finish(logic)
    assert job.isHandled and isinstance(job.error, Cancelled)
    left = [scene.GetNthNode(n).GetClassName() for n in range(scene.GetNumberOfNodes())]
    assert not [name for name in left if "Volume" in name or "Markups" in name or "Table" in name]
    assert logic.store.nbytes() == 0


@pytest.mark.parametrize("kind", ["match", "inside", "track", "lines", "segmented", "register", "similarity", "colors"])
def test_volume_deleted_in_the_middle(logic, scene, kind):
    start = started(logic, scene, kind)
    job = start()
    scene.RemoveNode(scene.GetFirstNodeByName("CT 2021"))
    before = sceneState(scene)
    finish(logic)
    assert isinstance(job.error, InputError) or kind == "similarity"  # a map needs the query only
    if job.error is not None:
        assert sceneState(scene) == before
    assert scene.GetFirstNodeByName("L").GetNumberOfControlPoints() == 3


def test_a_segmentation_removed_while_tracking(logic, scene):
    """It was read when the run began: the findings are written all the same."""
    job = started(logic, scene, "segmented")()
    scene.RemoveNode(scene.GetFirstNodeByClass("vtkMRMLSegmentationNode"))
    finish(logic)
    assert job.error is None
    presences = [
        match_list.resultAt(match_list.matchLists(logic.tracker.lesionList())[0], n).presence for n in range(3)
    ]
    assert presences == ["segmented", "vanished", "vanished"]


def test_everything_renamed_while_matching(logic, scene):
    template, query = addPair(scene)
    points = addPoints(scene, PLACES_RAS)
    job = logic.startMatch(template, query, points)
    template.SetName("a")
    query.SetName("b")
    points.SetName("c")
    points.SetNthControlPointLabel(1, "renamed")
    finish(logic)
    assert job.error is None and job.value.GetNodeReference(match_list.ROLE_QUERY) is query
    assert [job.value.GetNthControlPointLabel(n) for n in range(3)] == ["F-1", "renamed", "F-3"]


def test_points_removed_and_moved_while_matching(logic, scene):
    template, query = addPair(scene)
    points = addPoints(scene, PLACES_RAS)
    job = logic.startMatch(template, query, points)
    points.RemoveNthControlPoint(0)
    points.SetNthControlPointPositionWorld(1, *(PLACES_RAS[2] + [10, 0, 0]))
    finish(logic)
    assert [job.value.GetNthControlPointLabel(n) for n in range(job.value.GetNumberOfControlPoints())] == ["F-2"]
    assert points.GetNumberOfControlPoints() == 2  # the user's points are untouched
    other = logic.startMatch(template, query, points)
    scene.RemoveNode(points)
    before = sceneState(scene)
    finish(logic)
    assert isinstance(other.error, InputError) and sceneState(scene) == before


def test_undo_of_things_that_are_gone(logic, scene):
    template, query = addPair(scene)
    points = addPoints(scene, PLACES_RAS)
    logic.matchPoints(template, query, points)
    logic.registerVolumes(template, query)
    logic.trackLesions(template, [query], points)
    for node in (query, points):
        scene.RemoveNode(node)
    while logic.undoStack.undo():
        pass
    while logic.undoStack.redo():
        pass
    assert scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 1


def test_two_instances_of_the_module(widget, scene):
    """As Slicer makes them: one in the module panel, one from a script; both follow the same scene."""
    import qt
    from tiny_model import TinyEngine

    import SAMv2Slicer

    template, query = addPair(scene)
    points = addPoints(scene, [])
    widget.panel.parameters.points = points
    parent = slicer.qMRMLWidget()
    qt.QVBoxLayout(parent)
    parent.setMRMLScene(scene)
    parent.isEntered = True
    second = SAMv2Slicer.SAMv2SlicerWidget(parent)
    second.setup()
    second.enter()
    assert isinstance(second.logic.engine, TinyEngine)
    try:
        points.AddControlPointWorld(vtk.vtkVector3d(*PLACES_RAS[0]), "p")
        for instance in (widget, second, widget):
            settle(instance)
        lists = match_list.matchLists(points)
        assert len(lists) == 1 and lists[0].GetNumberOfControlPoints() == 1
        result = match_list.resultAt(lists[0], 0)
        assert not result.decision  # what one instance wrote is no correction to the other
        assert np.linalg.norm(node_geometry.pointWorld(lists[0], 0) - (PLACES_RAS[0] + SHIFT_RAS)) < 1.0
        lists[0].SetNthControlPointPositionWorld(0, 5, 6, 107)
        assert match_list.resultAt(lists[0], 0).decision == "moved"
        for instance in (widget, second):
            settle(instance)
            assert "by hand" in cells(instance)[0][1]
    finally:
        close(second)
    points.AddControlPointWorld(vtk.vtkVector3d(*PLACES_RAS[1]), "q")
    settle(widget)
    assert lists[0].GetNumberOfControlPoints() == 2


def test_voxels_changed_while_tracking(logic, scene):
    volumes = addStudies(scene)
    logic.engine.remembers = False
    job = logic.tracker.start(volumes[0], volumes[1:2], [addLesionPoints(scene)])
    slicer.util.arrayFromVolume(volumes[1])[:] += 1
    slicer.util.arrayFromVolumeModified(volumes[1])
    before = sceneState(scene)
    finish(logic)
    assert isinstance(job.error, InputError) and "changed" in job.error.cause and sceneState(scene) == before
