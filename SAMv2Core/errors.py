"""Typed errors of SAMv2Core.

Every error names one cause (what was wrong with which input) and one remedy (what the user can do), and carries the
exit code that the command line returns for it. The command line prints the two lines; Slicer shows them in its
status line; neither shows a traceback.
"""

from __future__ import annotations

import errno

ISSUES_URL = "https://github.com/SlicerSAMv2/SlicerSAMv2/issues"


class SAMv2Error(Exception):
    """Base of all errors that SAMv2 raises on purpose.

    :param cause: one line, what was wrong with which input.
    :param remedy: one line, what to do about it.
    """

    exit_code = 1

    def __init__(self, cause: str, remedy: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.cause} {self.remedy}".strip()


class UsageError(SAMv2Error):
    """An option or a combination of options makes no sense."""

    exit_code = 2


class InputError(SAMv2Error):
    """An input cannot be read or makes no sense (volume, points, transform)."""

    exit_code = 3


class OutputError(SAMv2Error):
    """An output cannot be written (folder missing, not writable, disk full, would overwrite an input)."""

    exit_code = 3


class ModelError(SAMv2Error):
    """A model is missing, of another architecture, or not trustworthy (hash, pickle with code)."""

    exit_code = 4


class MemoryLimitError(SAMv2Error):
    """The work does not fit into the memory allowed, even in the smallest pieces."""

    exit_code = 5


class UnreliableResultError(SAMv2Error):
    """A result exists but must not be trusted (registration failed, no point matched)."""

    exit_code = 6


class Cancelled(SAMv2Error):
    """The user stopped the work; raised by a progress callback."""

    exit_code = 130

    def __init__(self, cause: str = "Cancelled.", remedy: str = "Nothing was changed.") -> None:
        super().__init__(cause, remedy)


class ServerError(SAMv2Error):
    """The process or the server that computes is not there, does not accept us, or ended in the middle."""

    exit_code = 4


class InternalError(SAMv2Error):
    """A fault of SAMv2 itself; exit code 1."""


def as_samv2_error(error: BaseException) -> SAMv2Error:
    """The typed error that an exception of Python, torch or the file system means for the user."""
    if isinstance(error, SAMv2Error):
        return error
    text = one_line(str(error))
    # torch's own classes cannot be named here without loading torch.
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or "not enough memory" in text:
        return MemoryLimitError(
            f"Not enough memory ({text[:160] or type(error).__name__}).",
            "Close other programs, use --max-memory, --device cpu, or crop the volume.",
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return OutputError("The disk is full.", "Free some space and try again.")
    if isinstance(error, ModuleNotFoundError):
        return InternalError(f"The Python package {error.name} is missing.", "Install it; `samv2 doctor` tells more.")
    return InternalError(
        f"Unexpected {type(error).__name__}: {text[:300]}",
        f"Please report this at {ISSUES_URL} with the output of the same command with --log-level debug.",
    )


def one_line(text: str) -> str:
    return " ".join(str(text).split())
