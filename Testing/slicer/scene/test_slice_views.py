"""What the views draw, and when."""

import time

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

import qt
import slicer

from SAMv2Core.errors import InputError
from SAMv2SlicerLib.scene import slice_views
from SAMv2SlicerLib.work.waiting import waitFor


@pytest.fixture
def told(monkeypatch):
    """What the application was told of the drawing of views, and what else a test writes there."""
    told = []
    monkeypatch.setattr(slicer.app, "pauseRender", lambda: told.append("pause"), raising=False)
    monkeypatch.setattr(slicer.app, "resumeRender", lambda: told.append("resume"), raising=False)
    monkeypatch.setattr(slice_views, "_isPaused", False)
    return told


def _turn(told):
    """Let the event loop run until views are drawn again."""
    count = told.count("resume")
    end = time.monotonic() + 20
    while told.count("resume") == count and time.monotonic() < end:
        slicer.app.processEvents()


def test_nothing_is_drawn_while_a_result_is_written(logic, told):
    """The pause of the application, also when writing fails; scripts without a window have none."""

    def commit(result):
        told.append(result)
        raise InputError("gone", "again")

    job = logic.submitPlain("a job", lambda progress: "result", commit, None, "")
    with pytest.raises(InputError):
        waitFor(logic.worker, job, None)
    _turn(told)
    assert told == ["pause", "result", "resume"]


def test_views_are_drawn_after_what_the_event_loop_brings(told):
    """Slicer asks for part of the drawing through it: what was drawn before would be drawn again."""

    class Widget(qt.QObject):
        def event(self, event):
            told.append("asked")
            return True

    widget = Widget()
    for n in range(2):
        for _ in range(2):
            with slice_views.drawnOnce():
                qt.QApplication.postEvent(widget, qt.QEvent(qt.QEvent.User))
        assert told[4 * n :] == ["pause"], "one pause for all changes of a turn"
        _turn(told)
        assert told[4 * n :] == ["pause", "asked", "asked", "resume"]


def test_what_follows_the_views_does_so_once_before_they_are_drawn(told):
    def follow():
        told.append("followed")

    slice_views.beforeDrawing(follow)
    assert told == ["followed"]
    with slice_views.drawnOnce():
        slice_views.beforeDrawing(follow)
        with slice_views.drawnOnce():
            slice_views.beforeDrawing(follow)
        assert told == ["followed", "pause"], "the inner one ends nothing"
    _turn(told)
    assert told == ["followed", "pause", "followed", "resume"]
    with pytest.raises(ZeroDivisionError), slice_views.drawnOnce():
        slice_views.beforeDrawing(lambda: 1 / 0)
    _turn(told)
    assert told[-1] == "resume" and len(told) == 6, "a view that is never drawn again"
