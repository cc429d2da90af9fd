"""Typed errors of SAMv2Core.

Every error names one cause (what was wrong with which input) and one remedy (what the user can do), and carries the
exit code that the command line returns for it. The command line prints the two lines; Slicer shows them in its
status line; neither shows a traceback.
"""

from __future__ import annotations


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
