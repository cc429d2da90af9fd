"""How the training commands end."""

from __future__ import annotations

import errno

import pytest

from SAMv2Core.errors import InputError, UnreliableResultError
from Training.engine.command import finish


def raising(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("The scan is flat.", "Look at it."), 3, "error: The scan is flat.\nLook at it."),
        (UnreliableResultError("Not finite.", ""), 6, "Not finite."),
        (KeyboardInterrupt(), 130, "Interrupted"),
        (OSError(errno.ENOSPC, "No space left"), 3, "out.pt cannot be written: the disk is full."),
        (PermissionError(errno.EACCES, "denied", "other.csv"), 3, "other.csv cannot be written: permission denied."),
    ],
)
def test_an_error_becomes_two_lines_and_a_code(tmp_path, capsys, error, code, said):
    assert finish(raising(error), tmp_path / "out.pt") == code
    shown = capsys.readouterr().err
    assert said in shown
    assert "Traceback" not in shown


def test_success_is_0_and_a_fault_of_the_program_keeps_its_traceback(capsys):
    assert finish(lambda: None) == 0
    assert capsys.readouterr().err == ""
    with pytest.raises(ZeroDivisionError):
        finish(lambda: 1 / 0)
    with pytest.raises(OSError):  # nothing is written: not an error of the output
        finish(raising(OSError("strange")))
