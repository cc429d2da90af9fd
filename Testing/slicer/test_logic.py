"""The module's logic on the real scene, with a seeded network: nodes in, nodes out, and what happens in between."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

import slicer
import slicer.util
import vtk
from phantoms import SHIFT_LPS, addPoints, addVolume, phantom

from SAMv2Core.errors import Cancelled, InputError
from SAMv2SlicerLib.match import similarity_map
from SAMv2SlicerLib.scene import match_list, node_geometry
from Testing.benchmarks import soak

TOLERANCE_MM = 1.0
"""The query holds the same samples: what remains is sub-voxel estimation between 4 mm feature voxels."""

PLACES_RAS = np.array([[11.0, 13, 141], [-13, -7, 133], [3, 21, 149]])
"""Centers of feature voxels of the template: there a random network's vector is found again without interpolation."""
SHIFT_RAS = SHIFT_LPS * [-1, -1, 1]


def finish(logic):
    while logic.tick(0.05):
        pass


def matchedPositions(node):
    return node_geometry.pointsWorld(node, range(node.GetNumberOfControlPoints()))


def test_points_are_found_where_they_are(logic, pair, scene):
    points = addPoints(scene, PLACES_RAS, labels=["liver", "spleen", "T12"])
    matched = logic.matchPoints(*pair, points)
    assert [matched.GetNthControlPointLabel(n) for n in range(3)] == ["liver", "spleen", "T12"]
    distances = np.linalg.norm(matchedPositions(matched) - (PLACES_RAS + SHIFT_RAS), axis=1)
    assert distances.max() < TOLERANCE_MM
    assert match_list.resultAt(matched, 0).status == "matched"
    assert matched.GetNodeReference(match_list.ROLE_QUERY) is pair[1]
    assert matched.GetAttribute("SAMv2.model") == "tiny"


def test_the_same_numbers_as_samv2core(logic, pair, scene):
    """The scene adds nothing: Core called directly with LPS points gives the same positions."""
    from tiny_model import tinyModel

    import SAMv2Core

    points = addPoints(scene, PLACES_RAS)
    matched = logic.matchPoints(*pair, points)
    embeddings = [tinyModel().embed(node_geometry.volumeFromNode(node), modality="auto") for node in pair]
    direct = SAMv2Core.match(*embeddings, PLACES_RAS * [-1, -1, 1])
    for n, match in enumerate(direct):
        assert np.allclose(node_geometry.pointWorld(matched, n), match.query_lps * [-1, -1, 1], atol=1e-6)
        assert match_list.resultAt(matched, n).similarity == pytest.approx(match.similarity, abs=1e-3)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_nothing_stays_behind_of_many_matches(logic, pair, scene):
    """Two dozen lists of three points, matched and deleted: nodes, files, threads and memory are as after ten."""
    held = []
    for _ in range(24):
        points = addPoints(scene, PLACES_RAS)
        for node in (logic.matchPoints(*pair, points), points):
            scene.RemoveNode(node.GetDisplayNode())  # the application does so, the scene alone does not
            scene.RemoveNode(node)
        held.append({**soak.held(), "nodes": scene.GetNumberOfNodes()})
    # Not fewer nodes, either; files and threads of the tenth match may still be on their way out.
    assert held[-1]["nodes"] == held[9]["nodes"]
    assert all(held[-1][name] <= held[9][name] for name in ("files", "threads"))
    assert held[-1]["MiB"] - held[9]["MiB"] < 10  # one embedding of these phantoms kept per match would be 50


def test_names_and_ids_are_accepted(logic, pair, scene):
    addPoints(scene, PLACES_RAS[:1])
    matched = logic.matchPoints("CT 2021", pair[1].GetID(), "F")
    assert matched.GetNumberOfControlPoints() == 1


@pytest.mark.parametrize("side", [0, 1])
def test_volumes_under_transforms(logic, pair, scene, side):
    """Moving a volume with a transform moves its side of the match, exactly, and costs no new embedding."""
    points = addPoints(scene, PLACES_RAS)
    before = matchedPositions(logic.matchPoints(*pair, points))
    transform = vtk.vtkTransform()
    transform.Translate(30, -20, 10)
    transform.RotateWXYZ(50, 1, 2, 3)
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetMatrixTransformToParent(transform.GetMatrix())
    pair[side].SetAndObserveTransformNodeID(node.GetID())
    moved = np.array([transform.TransformPoint(*point) for point in (PLACES_RAS if side == 0 else before)])
    if side == 0:
        for n, position in enumerate(moved):
            points.SetNthControlPointPositionWorld(n, *position)
    after = matchedPositions(logic.matchPoints(*pair, points))
    assert np.allclose(after, before if side == 0 else moved, atol=1e-3)
    assert len(logic.engine.embedded) == 2


def test_points_outside_the_template_are_not_found_and_say_why(logic, pair, scene):
    points = addPoints(scene, [PLACES_RAS[0], (500, 0, 0)])
    matched = logic.matchPoints(*pair, points)
    result = match_list.resultAt(matched, 1)
    assert matched.GetNthControlPointPositionStatus(1) == slicer.vtkMRMLMarkupsNode.PositionUndefined
    assert result.status == "not_found" and "outside" in result.reason
    assert matched.GetNthControlPointPositionStatus(0) == slicer.vtkMRMLMarkupsNode.PositionDefined


def test_embeddings_are_computed_once_until_the_volume_changes(logic, pair, scene):
    points = addPoints(scene, PLACES_RAS)
    stale = []
    logic.onStale = lambda node: stale.append(node.GetName())
    logic.matchPoints(*pair, points)
    logic.matchPoints(*pair, points)
    pair[0].SetName("renamed")
    pair[0].CreateDefaultDisplayNodes()
    logic.matchPoints(*pair, points)
    assert logic.engine.embedded == [pair[0].GetID(), pair[1].GetID()] and not stale
    slicer.util.arrayFromVolume(pair[0])[:2] = 0
    slicer.util.arrayFromVolumeModified(pair[0])
    assert stale == ["renamed"]
    logic.matchPoints(*pair, points)
    pair[1].SetSpacing(2.1, 2, 2)
    logic.matchPoints(*pair, points)
    assert logic.engine.embedded[2:] == [pair[0].GetID(), pair[1].GetID()]


def test_memory_is_released_with_volume_and_scene(logic, pair, scene):
    logic.embed(pair[0])
    logic.embed(pair[1])
    held = logic.store.nbytes()
    assert held > 0
    scene.RemoveNode(pair[0])
    assert logic.store.nbytes() < held
    scene.Clear()
    assert logic.store.nbytes() == 0 and not logic.store.Observations


def test_inputs_that_make_no_sense(logic, pair, scene):
    points = addPoints(scene, PLACES_RAS)
    with pytest.raises(InputError, match="same scan"):
        logic.matchPoints(pair[0], pair[0], points)
    with pytest.raises(InputError, match="no node named nowhere"):
        logic.matchPoints("nowhere", pair[1], points)
    with pytest.raises(InputError, match="no placed points"):
        logic.matchPoints(*pair, addPoints(scene, [], name="empty"))
    with pytest.raises(InputError, match="not a scalar volume"):
        logic.matchPoints(points, pair[1], points)
    with pytest.raises(InputError, match="not a point list"):
        logic.matchPoints(*pair, pair[0])


def test_cancel_changes_nothing(logic, pair, scene):
    logic.engine.remembers = False
    points = addPoints(scene, PLACES_RAS)
    count = scene.GetNumberOfNodes()

    def stop(fraction, text):
        if fraction > 0.2:
            raise Cancelled()

    with pytest.raises(Cancelled):
        logic.matchPoints(*pair, points, progress=stop)
    assert scene.GetNumberOfNodes() == count and logic.undoStack.nextUndo() is None
    assert logic.matchPoints(*pair, points).GetNumberOfControlPoints() == 3  # and works afterwards


def test_cancelling_a_started_match(logic, pair, scene):
    points = addPoints(scene, PLACES_RAS)
    count = scene.GetNumberOfNodes()
    job = logic.startMatch(*pair, points)
    logic.cancel()
    finish(logic)
    assert job.isCancelled() and scene.GetNumberOfNodes() == count


@pytest.mark.parametrize("victim", ["template", "query", "points"])
def test_nodes_deleted_while_matching(logic, pair, scene, victim):
    points = addPoints(scene, PLACES_RAS)
    job = logic.startMatch(*pair, points)
    scene.RemoveNode({"template": pair[0], "query": pair[1], "points": points}[victim])
    count = scene.GetNumberOfNodes()
    finish(logic)
    assert isinstance(job.error, InputError) and scene.GetNumberOfNodes() == count


def test_volume_changed_while_matching(logic, pair, scene):
    points = addPoints(scene, PLACES_RAS)
    job = logic.startMatch(*pair, points)
    slicer.util.arrayFromVolume(pair[1])[:] = -1000
    slicer.util.arrayFromVolumeModified(pair[1])
    finish(logic)
    assert isinstance(job.error, InputError) and "changed" in job.error.cause
    assert match_list.findMatchList(points, pair[1]) is None


def test_point_moved_or_deleted_while_matching(logic, pair, scene):
    """Only what was really matched is written: no match of a place that the point has left."""
    points = addPoints(scene, PLACES_RAS)
    job = logic.startMatch(*pair, points)
    points.SetNthControlPointPositionWorld(0, 0, 0, 120)
    points.RemoveNthControlPoint(1)
    finish(logic)
    assert [job.value.GetNthControlPointLabel(n) for n in range(job.value.GetNumberOfControlPoints())] == ["F-3"]


def test_nodes_renamed_while_matching(logic, pair, scene):
    points = addPoints(scene, PLACES_RAS)
    job = logic.startMatch(*pair, points)
    for node in (*pair, points):
        node.SetName("x")
    finish(logic)
    assert job.error is None and job.value.GetNumberOfControlPoints() == 3


def test_scene_closed_while_matching(logic, pair, scene):
    points = addPoints(scene, PLACES_RAS)
    job = logic.startMatch(*pair, points)
    scene.Clear()
    finish(logic)
    job.wait(10)
    logic.tick()
    assert job.isHandled and scene.GetNumberOfNodesByClass("vtkMRMLMarkupsFiducialNode") == 0
    template, query = addVolume("CT 2021", phantom(), np.diag([2.0, 2, 2, 1])), addVolume("B", phantom(), np.eye(4) * 2)
    assert not logic.hasEmbedding(template) and not logic.hasEmbedding(query)  # node IDs are reused


def test_edited_matches_survive_a_rerun(logic, pair, scene):
    points = addPoints(scene, PLACES_RAS)
    matched = logic.matchPoints(*pair, points)
    with logic.writing():
        matched.SetNthControlPointPositionWorld(1, 1, 2, 3)
        match_list.markMoved(matched, 1)
    logic.matchPoints(*pair, points)
    assert np.allclose(node_geometry.pointWorld(matched, 1), (1, 2, 3))
    assert match_list.resultAt(matched, 1).edited and not match_list.resultAt(matched, 0).edited


def test_undo_and_redo_of_a_match(logic, pair, scene):
    points = addPoints(scene, PLACES_RAS)
    before = scene.GetNumberOfNodes()
    positions = matchedPositions(logic.matchPoints(*pair, points))
    assert logic.undoStack.undo()
    assert match_list.findMatchList(points, pair[1]) is None and scene.GetNumberOfNodes() == before
    assert logic.undoStack.redo()
    assert np.allclose(matchedPositions(match_list.findMatchList(points, pair[1])), positions)
    scene.RemoveNode(pair[1])
    assert logic.undoStack.undo()  # its nodes are gone: nothing happens, nothing comes back


def test_similarity_map_peaks_at_the_match(logic, pair, scene):
    points = addPoints(scene, PLACES_RAS[:1])
    job = similarity_map.startSimilarityMap(logic, *pair, points, points.GetNthControlPointID(0))
    finish(logic)
    node = job.value
    array = slicer.util.arrayFromVolume(node)
    k, j, i = np.unravel_index(array.argmax(), array.shape)
    ijkToRAS = node_geometry.LPS_FROM_RAS @ node_geometry.ijkToLPS(node)
    peak = (ijkToRAS @ [i, j, k, 1])[:3]
    assert np.linalg.norm(peak - (PLACES_RAS[0] + SHIFT_RAS)) < 0.1  # mm: the same feature voxel
    assert array.max() > 0.9


def test_two_logics_do_not_disturb_each_other(logic, pair, scene):
    from tiny_model import TinyEngine

    from SAMv2SlicerLib.logic import SAMv2SlicerLogic

    other = SAMv2SlicerLogic(TinyEngine())
    points, more = addPoints(scene, PLACES_RAS[:1]), addPoints(scene, PLACES_RAS[1:], name="G")
    jobs = [logic.startMatch(*pair, points), other.startMatch(*pair, more)]
    finish(logic)
    finish(other)
    assert [job.value.GetNumberOfControlPoints() for job in jobs] == [1, 2]
    other.cleanup()
    assert logic.matchPoints(*pair, points).GetNumberOfControlPoints() == 1


def test_scene_saved_and_loaded_keeps_links_and_results(logic, pair, scene, tmp_path):
    points = addPoints(scene, [*PLACES_RAS, (500, 0, 0)])
    matched = logic.matchPoints(*pair, points)
    with logic.writing():
        match_list.markMoved(matched, 1)
    positions, facts = matchedPositions(matched)[:3], [match_list.resultAt(matched, n) for n in range(4)]
    path = str(tmp_path / "scene.mrb")
    assert scene.WriteToMRB(path)
    scene.Clear()
    assert scene.ReadFromMRB(path)
    points, query = scene.GetFirstNodeByName("F"), scene.GetFirstNodeByName("CT 2023")
    again = match_list.findMatchList(points, query)
    assert np.allclose(matchedPositions(again)[:3], positions, atol=1e-3)
    assert again.GetNthControlPointPositionStatus(3) == slicer.vtkMRMLMarkupsNode.PositionUndefined
    assert [match_list.resultAt(again, n) == fact for n, fact in enumerate(facts[:3])] == [True] * 3
    assert match_list.resultAt(again, 3).status == "not_found"
    assert again.GetNodeReference(match_list.ROLE_TEMPLATE).GetName() == "CT 2021"
    assert not logic.hasEmbedding(query)
    logic.matchPoints("CT 2021", query, points)
    assert again.GetNumberOfControlPoints() == 4  # the same list was found and updated
