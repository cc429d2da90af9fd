"""One run of one command: its progress, warnings, timing, report, and how it ends.

Commands are functions of a :class:`Session`. They read, compute and write through it and raise typed errors; the
session prints the two lines, writes the report (also when the command failed) and gives the exit code.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Optional, Sequence, Tuple

from SAMv2Core.cli.dicomweb_files import fetched
from SAMv2Core.cli.progress import Progress, ProgressBar
from SAMv2Core.cli.report import Report, as_json
from SAMv2Core.errors import Cancelled, SAMv2Error, UsageError, as_samv2_error, one_line
from SAMv2Core.io.files import check_output, is_same_file

if TYPE_CHECKING:
    from SAMv2Core.embedding.embedding import Embedding
    from SAMv2Core.embedding.model import Model
    from SAMv2Core.io.volume import Volume

logger = logging.getLogger(__name__)


def print_error(error: SAMv2Error) -> None:
    """One line of cause and one of remedy on stderr."""
    print(f"error: {one_line(error.cause)}", file=sys.stderr)
    if error.remedy:
        print(f"remedy: {one_line(error.remedy)}", file=sys.stderr)


class _Messages(logging.Handler):
    """Log records as lines on stderr, each warning once; warnings are kept for the report."""

    def __init__(self, bar: ProgressBar, shown_level: int) -> None:
        super().__init__(logging.DEBUG)
        self.warnings: List[str] = []
        self._bar = bar
        self.shown_level = shown_level

    def emit(self, record: logging.LogRecord) -> None:
        text = one_line(record.getMessage())
        # Python's own warnings (numpy's, torch's) speak to developers.
        is_ours = record.name.split(".")[0] == __name__.split(".")[0]
        if record.levelno >= logging.WARNING and is_ours:
            if text in self.warnings:
                return
            self.warnings.append(text)
        if record.levelno < self.shown_level or not (is_ours or self.shown_level <= logging.INFO):
            return
        self._bar.clear()
        print(f"{record.levelname.lower()}: {text}", file=sys.stderr)


class Session:
    """The running command.

    :param args: parsed arguments; ``args.run`` is the command, a function of this object.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.is_quiet = bool(args.quiet)
        self.is_debugging = args.log_level == "debug"
        self.exit_code = 0
        self.inputs: Tuple[str, ...] = ()
        self.remote: Any = None
        """The server that computes, where one does (:mod:`SAMv2Core.cli.remote`)."""
        self.bar = ProgressBar(sys.stderr, enabled=not self.is_quiet)
        self._messages = _Messages(self.bar, getattr(logging, args.log_level.upper()))
        options = {name: value for name, value in vars(args).items() if name not in ("run", "command")}
        self.report = Report(args.command, options)
        self.results = self.report.results

    def run(self) -> int:
        """Run the command to its end, whatever that is.

        :returns: the exit code; a report, when one was asked for, is written with every code but 2 and 130.
        """
        with self._logging():
            try:
                with fetched(self.args) as addresses:
                    self.report.addresses = addresses
                    self.args.run(self)
                self._write_report(self.exit_code)
                return self.exit_code
            except Exception as error:  # the one place where every failure gets its exit code
                return self._fail(error)
            finally:
                self.bar.clear()

    def _fail(self, error: Exception) -> int:
        self.bar.clear()
        if self.is_debugging:
            traceback.print_exc()
        ours = as_samv2_error(error)
        print_error(ours)
        if not isinstance(ours, (Cancelled, UsageError)):  # after wrong usage even the report's name is in doubt
            try:
                self._write_report(ours.exit_code, ours)
            except SAMv2Error as second:  # most often the disk that failed the command itself
                if second.cause != ours.cause:
                    print_error(second)
        return ours.exit_code

    def _write_report(self, exit_code: int, error: Optional[SAMv2Error] = None) -> None:
        if self.args.report:
            self.report.warnings = self._messages.warnings
            self.report.write(self.args.report, self.inputs, exit_code, error)

    @contextlib.contextmanager
    def _logging(self) -> Iterator[None]:
        """Log records go to stderr and, when they warn, to the report; as it was before at the end."""
        root = logging.getLogger()
        level = root.level
        root.addHandler(self._messages)
        root.setLevel(min(logging.WARNING, self._messages.shown_level))
        logging.captureWarnings(True)
        try:
            yield
        finally:
            logging.captureWarnings(False)
            root.removeHandler(self._messages)
            root.setLevel(level)

    def declare(self, inputs: Sequence[Optional[str]] = (), outputs: Sequence[Optional[str]] = ()) -> None:
        """Name the files the command will read and write, to refuse now what would fail after the work.

        :raises OutputError: an output that cannot be written or that is an input.
        :raises UsageError: two outputs of one name.
        """
        self.inputs = tuple(path for path in inputs if path)
        named = [path for path in (*outputs, self.args.report) if path]
        for path in named:
            check_output(path, self.inputs)
        for index, path in enumerate(named):
            if any(is_same_file(path, other) for other in named[:index]):
                raise UsageError(f"{path} is named as two outputs.", "Give each output a name of its own.")

    @contextlib.contextmanager
    def stage(self, name: str, low: float, high: float) -> Iterator[Progress]:
        """Time a part of the work; yields its progress callback, which fills the bar from ``low`` to ``high``."""
        logger.info("%s ...", name)
        self.bar.update(low, name)
        with self.report.stage(name):
            yield self.bar.part(low, high, name)

    def add_volume(self, name: str, volume: Volume) -> None:
        """Put an input volume and its geometry into the report; its warnings go to the user."""
        self.report.add_volume(name, volume, modality=volume.modality)
        for text in volume.warnings:
            self.warn(text)

    def add_embedding(self, name: str, emb: Embedding) -> None:
        """Put what was decided about an input into the report; its warnings go to the user."""
        asked, tagged = getattr(self.args, f"modality_{name}"), self.report.inputs[name]["modality"]
        how = "as asked" if asked != "auto" else "as tagged" if tagged else "decided from its values"
        self.report.inputs[name].update(modality=emb.modality, modality_is=how)
        self.say(f"{name}: {emb.modality.upper()} ({how}), {self.report.inputs[name]['file']}")
        for text in emb.warnings:
            self.warn(text)

    def set_model(self, model: Model) -> None:
        """Put the model and its device into the report."""
        self.report.model = {"name": model.info.name, "sha256": model.info.sha256}
        self.report.device = str(model.device)
        for text in model.info.warnings:
            self.warn(text)

    def warn(self, text: str) -> None:
        """A warning on stderr and in the report; repeated ones are dropped."""
        logger.warning("%s", text)

    def say(self, line: str = "") -> None:
        """A line of the result for people on stdout, unless ``--quiet``."""
        if not self.is_quiet:
            self.write_stdout(line)

    def write_json(self, content: Dict[str, Any]) -> None:
        """The result for programs on stdout, whatever ``--quiet`` says: it was asked for with ``--json``."""
        self.write_stdout(json.dumps(as_json(content), indent=2, ensure_ascii=False, allow_nan=False))

    def write_stdout(self, text: str) -> None:
        """Print; a reader that has left (``samv2 ... | head -1``) stops the printing, not the work."""
        self.bar.clear()
        try:
            print(text, flush=True)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
