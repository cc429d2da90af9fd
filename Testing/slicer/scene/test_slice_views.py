"""What the views draw, and when."""

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

import slicer

from SAMv2Core.errors import InputError
from SAMv2SlicerLib.scene import slice_views
from SAMv2SlicerLib.work.waiting import waitFor


def test_nothing_is_drawn_while_a_result_is_written(logic, monkeypatch):
    """The pause of the application, also when writing fails; scripts without a window have none."""
    told = []
    monkeypatch.setattr(slicer.app, "pauseRender", lambda: told.append("pause"), raising=False)
    monkeypatch.setattr(slicer.app, "resumeRender", lambda: told.append("resume"), raising=False)

    def commit(result):
        told.append(result)
        raise InputError("gone", "again")

    job = logic.submitPlain("a job", lambda progress: "result", commit, None, "")
    with pytest.raises(InputError):
        waitFor(logic.worker, job, None)
    assert told == ["pause", "result", "resume"]


def test_what_follows_the_views_does_so_once_before_they_are_drawn(monkeypatch):
    told = []
    monkeypatch.setattr(slicer.app, "pauseRender", lambda: None, raising=False)
    monkeypatch.setattr(slicer.app, "resumeRender", lambda: told.append("drawn"), raising=False)

    def follow():
        told.append("followed")

    slice_views.beforeDrawing(follow)
    assert told == ["followed"]
    with slice_views.drawnOnce():
        slice_views.beforeDrawing(follow)
        with slice_views.drawnOnce():
            slice_views.beforeDrawing(follow)
        assert told == ["followed", "drawn"], "the inner one ends nothing"
    assert told == ["followed", "drawn", "followed", "drawn"]
    with pytest.raises(ZeroDivisionError), slice_views.drawnOnce():
        slice_views.beforeDrawing(lambda: 1 / 0)
    assert told[-1] == "drawn" and len(told) == 5, "a view that is never drawn again"
