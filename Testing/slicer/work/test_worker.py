"""The worker thread and the undo stack: no Slicer needed by either, but they are the module's."""

import threading
import time

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

from SAMv2Core.errors import Cancelled
from SAMv2SlicerLib.scene.undo import MAXIMUM_ACTIONS, Action, UndoStack
from SAMv2SlicerLib.work.worker import Worker


@pytest.fixture
def worker():
    worker = Worker()
    yield worker
    worker.shutdown()


def finish(worker):
    while worker.isBusy():
        worker.dispatch(0.05)


def test_work_runs_elsewhere_and_handlers_run_here(worker):
    threads = {}

    def work(progress):
        threads["work"] = threading.current_thread()
        progress(0.5, "half")
        return 21

    def commit(result):
        threads["commit"] = threading.current_thread()
        return 2 * result

    ended = []
    job = worker.submit("job", work, commit, ended.append)
    finish(worker)
    assert job.value == 42 and job.error is None and ended == [job]
    assert threads["commit"] is threading.current_thread() is not threads["work"]
    assert (job.fraction, job.text) == (1.0, "half")


def test_handlers_wait_for_dispatch(worker):
    committed = []
    job = worker.submit("job", lambda progress: 1, committed.append)
    assert job.wait(5)
    assert not committed and worker.isBusy()
    worker.dispatch()
    assert committed == [1] and not worker.isBusy()


def test_the_thread_gets_its_time_beside_work_that_others_do(worker):
    """In Slicer's event loop a thread has Python's lock only while the main thread waits."""

    def steps(progress):
        while not done:
            yield

    done = []
    worker.submitSteps("elsewhere", steps)
    assert not worker.isThreadBusy()
    job = worker.submit("here", lambda progress: time.sleep(0.05) or done.append(1))
    assert worker.isThreadBusy()
    worker.dispatch(60.0)
    assert job.isHandled and not worker.isBusy()


@pytest.mark.parametrize("isSlow", [False, True])
def test_after_a_long_commit_the_window_has_its_turn(worker, isSlow):
    calls = []

    def commit(result):
        calls.append("commit")
        time.sleep(0.05 if isSlow else 0.0)

    job = worker.submit("job", lambda progress: 1, commit, lambda job: calls.append("end"))
    assert job.wait(60)
    worker.dispatch(breakSeconds=0.04 if isSlow else 60.0)
    assert calls == ["commit"] + ["end"] * (not isSlow) and worker.isBusy() == isSlow != job.isHandled
    worker.dispatch(breakSeconds=0.0)
    assert calls == ["commit", "end"] and not worker.isBusy() and job.isHandled


def test_errors_arrive_and_nothing_is_committed(worker):
    def work(progress):
        raise ValueError("broken")

    committed, ended = [], []
    job = worker.submit("job", work, committed.append, ended.append)
    finish(worker)
    assert isinstance(job.error, ValueError) and not committed and ended == [job]


def test_an_error_of_commit_is_the_jobs_error(worker):
    def commit(result):
        raise RuntimeError("node is gone")

    job = worker.submit("job", lambda progress: 1, commit)
    finish(worker)
    assert isinstance(job.error, RuntimeError)
    assert worker.submit("next", lambda progress: 2) and finish(worker) is None  # the worker lives on


def test_cancel_stops_at_the_next_report(worker):
    started = threading.Event()

    def work(progress):
        started.set()
        for n in range(10000):
            progress(n / 10000, "")
            time.sleep(0.001)
        return "done"

    committed = []
    job = worker.submit("job", work, committed.append)
    waiting = worker.submit("waiting", lambda progress: "ran", committed.append)
    assert started.wait(5)
    worker.cancelAll()
    assert job.isCancelling()
    finish(worker)
    assert job.isCancelled() and waiting.isCancelled() and not committed
    assert isinstance(job.error, Cancelled)


def test_abandoned_jobs_never_call_back(worker):
    release = threading.Event()
    committed, ended = [], []
    job = worker.submit("job", lambda progress: release.wait(5), committed.append, ended.append)
    worker.abandonAll()
    assert job.isHandled and not worker.isBusy()
    release.set()
    job.wait(5)
    worker.dispatch()
    assert not committed and not ended


def test_shutdown_ends_the_thread(worker):
    job = worker.submit("job", lambda progress: threading.current_thread())
    finish(worker)
    worker.shutdown()
    job.value.join(5)
    assert not job.value.is_alive()


def test_undo_and_redo():
    values, changes = [], []
    stack = UndoStack(lambda: changes.append(1))

    def do(value):
        values.append(value)
        stack.push(Action(f"add {value}", values.pop, lambda: values.append(value)))

    do(1)
    do(2)
    assert stack.undo() == "add 2" and values == [1] and stack.nextRedo() == "add 2"
    assert stack.redo() == "add 2" and values == [1, 2]
    stack.undo()
    do(3)
    assert stack.nextRedo() is None and values == [1, 3]
    assert stack.undo() == "add 3" and stack.undo() == "add 1" and stack.undo() is None
    assert values == [] and changes


def test_an_undo_on_its_way_is_finished_before_anything_else_is_done():
    """And its end, which comes when it is asked for its next step, ends no other."""
    marks, ends, stack = ["a", "b", "c"], [], UndoStack()

    def steps(change):
        for name in "abc":
            change(name)
            yield

    def inTurns(name, steps, onEnd):
        next(steps)
        ends.append(onEnd)

    def imported():
        return Action("import", lambda: steps(marks.remove), lambda: steps(marks.append))

    stack.push(imported())
    assert stack.undo(inTurns) == "import" and marks == ["b", "c"] and stack.isMoving()
    stack.push(Action("judge", lambda: None, lambda: None))
    assert not stack.isMoving() and marks == []
    assert stack.nextUndo() == "judge" and stack.nextRedo() is None
    marks += "abc"
    stack.push(imported())
    stack.undo(inTurns)
    ends[0](True)
    assert stack.isMoving() and marks == ["b", "c"]
    ends[1](True)
    assert not stack.isMoving() and stack.nextRedo() == "import"


def test_a_drag_is_one_action():
    state = {"x": 0}
    stack = UndoStack()

    def move(to, key):
        before = state["x"]
        state["x"] = to
        stack.push(Action("move", lambda: state.update(x=before), lambda: state.update(x=to), key))

    for x in (1, 2, 3):
        move(x, "drag")
    stack.closeKey()
    move(9, "drag")
    stack.undo()
    assert state["x"] == 3
    stack.undo()
    assert state["x"] == 0
    stack.redo()
    assert state["x"] == 3


def test_the_stack_is_bounded():
    stack = UndoStack()
    for n in range(MAXIMUM_ACTIONS + 20):
        stack.push(Action(str(n), lambda: None, lambda: None))
    count = 0
    while stack.undo():
        count += 1
    assert count == MAXIMUM_ACTIONS


def test_shutdown_waits_for_what_can_be_stopped():
    """Python that ends under a computing thread takes the process down; modules loaded anew must not meet old jobs."""
    worker, ended = Worker(), threading.Event()

    def work(progress):
        try:
            while True:
                time.sleep(0.02)
                progress(0.5, "")
        finally:
            ended.set()

    worker.submit("long", work)
    time.sleep(0.1)
    assert worker.shutdown(30.0) and ended.is_set()
    release = threading.Event()
    worker.submit("deaf", lambda progress: release.wait(30))
    time.sleep(0.1)
    assert not worker.shutdown(0.1)
    release.set()
