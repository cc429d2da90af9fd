"""The module with a child process: the same results, the window's thread never waits, and what happens when it dies."""

import os
import signal
import time

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

import slicer
from lesions import PLACES_RAS, THIRD_SHIFT_RAS, addSegment, addStudies
from phantoms import addPoints, addVolume, phantom

import SAMv2Core
from SAMv2Core.errors import Cancelled, InputError, ServerError
from SAMv2Core.serve.child_link import ChildLink
from SAMv2SlicerLib.logic import SAMv2SlicerLogic
from SAMv2SlicerLib.match.live_matching import LiveInputs
from SAMv2SlicerLib.scene import match_list, node_geometry
from SAMv2SlicerLib.work import engine, places, waiting
from SAMv2SlicerLib.work.remote_engine import RemoteEngine
from Testing.samples.small_service import SLOW, STUCK, child_command, load

NAMES = ("CT 2021", "CT 2022", "CT 2023")


class LocalEngine(engine.Engine):
    """In this process, with the child's network."""

    def modelFor(self, modalities):
        return "lite-test"

    def loadedModel(self, name, device):
        return load(name, device)


@pytest.fixture(scope="module")
def sharedEngine():
    made = RemoteEngine(lambda: ChildLink(command=child_command()))
    yield made
    made.clear()


@pytest.fixture
def remote(scene, sharedEngine, monkeypatch):
    """A logic whose engine survives it: a child takes a second to start."""
    monkeypatch.setattr(sharedEngine, "clear", lambda: None)
    sharedEngine.usesDiskCache = False
    logic = SAMv2SlicerLogic(sharedEngine)
    yield logic
    logic.cleanup()
    sharedEngine.forgetScans()
    sharedEngine.onEnded = None


@pytest.fixture
def local(scene):
    made = LocalEngine()
    made.usesDiskCache = False
    logic = SAMv2SlicerLogic(made)
    yield logic
    logic.cleanup()


@pytest.fixture
def studies(scene):
    nodes = addStudies(scene)
    for node, name in zip(nodes, NAMES):
        node.SetName(name)
    return nodes


def settle(logic, condition=lambda: False, seconds=120):
    """Let everything end, or a condition come true; as the panel's timer does."""
    end = time.monotonic() + seconds
    while logic.worker.isBusy() and not condition():
        assert time.monotonic() < end
        logic.tick(0.01)
        time.sleep(0.002)


def state(listNode):
    """What a matched list says, to the bit."""
    count = range(listNode.GetNumberOfControlPoints())
    places = [node_geometry.pointWorld(listNode, n).tobytes() for n in node_geometry.definedPointIndices(listNode)]
    return [listNode.GetNthControlPointDescription(n) for n in count], places


def test_several_templates_are_sent_with_a_list_each(remote, local, studies, scene):
    points = addPoints(scene, PLACES_RAS, labels=["a", "b", "c"])
    others = addPoints(scene, PLACES_RAS[:2] + THIRD_SHIFT_RAS, name="G", labels=["a", "b"])
    found = []
    for logic in (local, remote):
        matched = logic.matchPoints(*NAMES[:2], points, further=[(NAMES[2], others)])
        found.append(state(matched))
        assert [match_list.resultAt(matched, n).templates for n in range(3)] == [2, 2, 1]
        scene.RemoveNode(matched)
    assert found[0] == found[1]


def test_every_result_is_that_of_slicer_itself(remote, local, studies, scene):
    baseline, *followUps = studies
    points = addPoints(scene, PLACES_RAS)
    found = []
    for logic in (local, remote):
        matched = logic.matchPoints(*NAMES[:2], points)
        said = state(matched)
        scene.RemoveNode(matched)
        request = LiveInputs(baseline, followUps[0], points)
        place = []
        logic.startPosition(
            request, np.array(PLACES_RAS[0]), lambda computed, place=place: place.append(computed.results)
        )
        settle(logic)
        transform = logic.registerVolumes(*NAMES[:2], apply=False)
        matrix = slicer.util.arrayFromTransformMatrix(transform).tobytes()
        scene.RemoveNode(transform)
        table = logic.trackLesions(baseline, followUps, points)
        cells = [
            [table.GetCellText(r, c) for c in range(table.GetNumberOfColumns())] for r in range(table.GetNumberOfRows())
        ]
        embedding = logic.embed(NAMES[0])
        vectors = (
            embedding.fine.vectors.numpy().tobytes(),
            embedding.body.tobytes(),
            embedding.source,
            embedding.warnings,
        )
        found.append((said, np.array(place[0][0]).tobytes(), matrix, cells, vectors))
        for node in slicer.util.getNodesByClass("vtkMRMLTableNode"):
            scene.RemoveNode(node)
    assert found[0] == found[1]
    assert isinstance(remote.embed(NAMES[0]), SAMv2Core.Embedding)


def test_a_segment_narrows_the_search_there_too(remote, local, studies, scene):
    baseline, query, _ = studies
    points = addPoints(scene, PLACES_RAS)
    node = addSegment(scene, PLACES_RAS[0], (60.0, 50.0, 40.0), name="organ")
    found = []
    for logic in (local, remote):
        matched = logic.matchPoints(baseline, query, points, inside=(node, "organ"))
        found.append(state(matched))
        scene.RemoveNode(matched)
    assert found[0] == found[1]


def test_places_are_found_while_another_scan_is_embedded(remote, studies, scene):
    points = addPoints(scene, PLACES_RAS)
    remote.matchPoints(*NAMES[:2], points, method="nearest")
    slow = remote.startEmbedding(NAMES[2], model=SLOW)
    settle(remote, lambda: "slowly" in slow.text)
    answered = []
    for place in PLACES_RAS:
        inputs = LiveInputs(studies[0], studies[1], points)
        quick = remote.startPosition(inputs, np.array(place), lambda computed: answered.append(computed.results))
        settle(remote, quick.isFinished)
        remote.tick()
    refined = remote.startMatch(*NAMES[:2], points)
    settle(remote, refined.isFinished)
    assert len(answered) == len(PLACES_RAS) and refined.error is None and not slow.isFinished()
    slow.cancel()
    settle(remote)
    assert slow.isCancelled()


def test_nothing_is_copied_for_a_job_and_nothing_is_sent_twice(remote, studies, scene):
    points = addPoints(scene, PLACES_RAS)
    options = engine.Options()
    (item,) = remote.volumeInputs([studies[0]], ["auto"], options)
    assert np.shares_memory(item.volume.array, slicer.util.arrayFromVolume(studies[0]))
    remote.matchPoints(*NAMES[:2], points)
    client, sent = remote.engine._client, []
    send = client.link.send
    client.link.send = lambda prepared: sent.append(len(prepared.data)) or send(prepared)
    try:
        remote.startPosition(LiveInputs(*studies[:2], points), np.array(PLACES_RAS[1]), lambda computed: None)
        settle(remote)
    finally:
        del client.link.send
    assert len(sent) == 1 and sent[0] < 1500, sent


def test_a_killed_process_is_told_in_a_line_and_the_job_can_be_repeated(remote, studies, scene):
    points, ended = addPoints(scene, PLACES_RAS), []
    remote.engine.onEnded = ended.append
    before = scene.GetNumberOfNodes()
    slow = remote.startEmbedding(NAMES[2], model=SLOW)
    waiting = remote.startMatch(*NAMES[:2], points)
    settle(remote, lambda: "slowly" in slow.text)
    os.kill(remote.engine._client.link.pid, signal.SIGKILL)
    settle(remote)
    for job in (slow, waiting):
        assert isinstance(job.error, ServerError) and "\n" not in str(job.error)
    assert len(ended) == 1 and "killed from outside" in ended[0] and scene.GetNumberOfNodes() == before
    assert remote.engine.isUp(), "it is started again before anyone asks"
    matched = remote.matchPoints(*NAMES[:2], points)
    assert matched.GetNumberOfControlPoints() == len(PLACES_RAS)


def test_one_that_died_while_nobody_looked_is_replaced_silently(remote, studies, scene):
    points = addPoints(scene, PLACES_RAS)
    remote.matchPoints(*NAMES[:2], points)
    pid = remote.engine._client.link.pid
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.3)
    assert remote.matchPoints(*NAMES[:2], points).GetNumberOfControlPoints() == len(PLACES_RAS)
    assert remote.engine._client.link.pid != pid


def test_cancelling_works_at_once_even_inside_a_kernel(remote, studies, monkeypatch):
    from SAMv2SlicerLib.work import remote_engine

    monkeypatch.setattr(remote_engine, "STUCK_SECONDS", 0.3)
    stuck = remote.startEmbedding(NAMES[2], model=STUCK)
    settle(remote, lambda: any(call.stage == "embed" for call in remote.engine._client._open.values()))
    pid = remote.engine._client.link.pid
    remote.cancel()
    remote.tick()
    assert isinstance(stuck.error, Cancelled) and not remote.worker.isBusy()
    end = time.monotonic() + 10
    while remote.engine._client.link.pid == pid and time.monotonic() < end:
        remote.tick()
        time.sleep(0.02)
    assert remote.engine._client.link.pid != pid
    assert remote.embed(NAMES[0]).modality == "ct"


def test_a_script_without_a_panel_can_cancel(remote, studies, scene, monkeypatch):
    """Nobody's timer advances the job but whoever waits for it."""
    end = time.monotonic() + 40

    def keepAlive():
        assert time.monotonic() < end, "it waits for ever"

    def cancel(fraction, text):
        if fraction > 0.01:
            raise Cancelled()

    monkeypatch.setattr(waiting, "keepApplicationAlive", keepAlive)
    with pytest.raises(Cancelled):
        remote.embed(NAMES[2], model=SLOW, progress=cancel)
    assert not remote.worker.isBusy()
    assert remote.matchPoints(*NAMES[:2], addPoints(scene, PLACES_RAS)) is not None


def test_a_scan_changed_meanwhile_gives_no_result(remote, studies, scene):
    points = addPoints(scene, PLACES_RAS)
    job = remote.startMatch(*NAMES[:2], points)
    array = slicer.util.arrayFromVolume(studies[1])
    array[:] = array[::-1].copy()
    slicer.util.arrayFromVolumeModified(studies[1])
    settle(remote)
    assert isinstance(job.error, InputError) and match_list.findMatchList(points, studies[1]) is None
    assert remote.matchPoints(*NAMES[:2], points) is not None


def test_a_closed_scene_is_forgotten_there(remote, studies, scene):
    remote.matchPoints(*NAMES[:2], addPoints(scene, PLACES_RAS))
    scene.Clear()
    remote.engine.ask()
    end = time.monotonic() + 20
    while remote.engine.facts() == (None, None) and time.monotonic() < end:
        remote.tick(0.01)
    facts, error = remote.engine.facts()
    assert error is None and facts["kept"]["bytes"] == 0 and facts["device"] == "cpu"


# --- the panel --------------------------------------------------------------------------------------------------------


def test_the_panel_computes_elsewhere_and_says_where(widget, monkeypatch):
    from panel_tools import settle as settlePanel

    ui, section = widget.ui, widget.panel.compute
    assert section._place.kind == places.INSIDE and not widget.logic.engine.isRemote
    monkeypatch.setattr(places, "_child", lambda python, environment: ChildLink(command=child_command()))
    ui.placeComboBox.currentIndex = 0
    assert widget.logic.engine.isRemote and places.chosen().kind == places.INSIDE, "the variable counts more"
    end = time.monotonic() + 30
    while "PyTorch" not in ui.computeInfoLabel.text and time.monotonic() < end:
        slicer.app.processEvents()
    assert "CPU" in ui.computeInfoLabel.text and "CPU" in ui.deviceComboBox.toolTip
    node = addVolume("CT", phantom(), np.diag([2.0, 2.0, 2.0, 1.0]))
    job = widget.logic.startEmbedding(node)
    settlePanel(widget)
    assert job.error is None and widget.logic.store.get(node)
    ui.placeComboBox.currentIndex = 2
    assert "No server" in ui.computeInfoLabel.text and ui.tokenFileEdit.isVisibleTo(ui.tokenFileEdit.parent())
    assert not widget.logic.engine.isRemote and not widget.logic.store.get(node)


def test_what_cannot_be_started_is_told_and_slicer_computes_itself(widget, monkeypatch):
    monkeypatch.setattr(places, "_child", lambda python, environment: ChildLink(python="/no/such/python"))
    widget.ui.placeComboBox.currentIndex = 0
    assert "cannot be started" in widget.ui.computeInfoLabel.text
    assert "inside Slicer" in widget.ui.logTextEdit.plainText and not widget.logic.engine.isRemote


def test_all_work_of_the_engine_can_be_done_elsewhere():
    """Whatever takes options and a progress is work for a job; over there it must come in steps."""
    import inspect

    work = {
        name
        for name, method in inspect.getmembers(engine.Engine, inspect.isfunction)
        if not name.startswith("_") and {"options", "progress"} <= set(inspect.signature(method).parameters)
    }
    assert work >= {"embed", "match", "follow", "register", "track", "landmarks", "colors", "similarityMap"}
    for name in work:
        assert inspect.isgeneratorfunction(getattr(RemoteEngine, name)), name
