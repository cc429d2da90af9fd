"""What the views draw, and when."""

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

import slicer

from SAMv2Core.errors import InputError
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
