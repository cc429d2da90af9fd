"""One run of one command: its progress, warnings, timing, report, and how it ends.

Commands are functions of a :class:`Session`. They read, compute and write through it and raise typed errors; the
session prints the two lines, writes the report (also when the command failed) and gives the exit code.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import sys
import traceback
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence

from SAMv2Core.cli.progress import Progress, ProgressBar
from SAMv2Core.errors import MemoryLimitError, OutputError, SAMv2Error, UsageError
from SAMv2Core.files import check_output, is_same_file

ISSUES_URL = "https://github.com/SlicerSAMv2/SlicerSAMv2/issues"

logger = logging.getLogger(__name__)


class InternalError(SAMv2Error):
    """A fault of SAMv2 itself; exit code 1."""


def print_error(error: SAMv2Error) -> None:
    """One line of cause and one of remedy on stderr."""
    print(f"error: {_one_line(error.cause)}", file=sys.stderr)
    if error.remedy:
        print(f"remedy: {_one_line(error.remedy)}", file=sys.stderr)


def _one_line(text: str) -> str:
    return " ".join(str(text).split())


def as_samv2_error(error: BaseException) -> SAMv2Error:
    """The typed error that an exception of Python, torch or the file system means for the user."""
    if isinstance(error, SAMv2Error):
        return error
    text = _one_line(str(error))
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


class _Messages(logging.Handler):
    """Log records as lines on stderr, each warning once; warnings are kept for the report."""

    def __init__(self, bar: ProgressBar, shown_level: int) -> None:
        super().__init__(logging.DEBUG)
        self.warnings: List[str] = []
        self._bar = bar
        self._shown_level = shown_level

    def emit(self, record: logging.LogRecord) -> None:
        text = _one_line(record.getMessage())
        # Python's own warnings (numpy's, torch's) speak to developers.
        is_ours = record.name.split(".")[0] == __name__.split(".")[0]
        if record.levelno >= logging.WARNING and is_ours:
            if text in self.warnings:
                return
            self.warnings.append(text)
        if record.levelno < self._shown_level or not (is_ours or self._shown_level <= logging.INFO):
            return
        self._bar.clear()
        print(f"{record.levelname.lower()}: {text}", file=sys.stderr)


class Session:
    """The running command.

    :param args: parsed arguments; ``args.run`` is the command.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.is_quiet = bool(getattr(args, "quiet", False))
        self.bar = ProgressBar(sys.stderr, enabled=not self.is_quiet)
        self.results: Dict[str, Any] = {}
        level = getattr(logging, str(getattr(args, "log_level", "warning")).upper())
        self._messages = _Messages(self.bar, level)

    @property
    def warnings(self) -> List[str]:
        """What the user was warned of so far."""
        return self._messages.warnings

    def warn(self, text: str) -> None:
        """A warning on stderr and in the report; repeated ones are dropped."""
        logger.warning("%s", text)
