"""The command ``samv2``: parses, runs one subcommand, turns every ending into an exit code.

Exit codes: 0 done; 1 a fault of SAMv2 (please report it); 2 wrong usage; 3 an input or output is at fault; 4 the model;
5 not enough memory; 6 the result is not reliable; 130 interrupted. Errors are one line of cause and one of remedy on
stderr; ``--log-level debug`` adds the traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from typing import Any, Iterator, List, NoReturn, Optional, Sequence

from SAMv2Core import __version__
from SAMv2Core.cli import (
    batch,
    demo,
    doctor,
    embed,
    evaluate,
    landmarks,
    match,
    models,
    prior,
    register,
    serve,
    simulate,
    track,
)
from SAMv2Core.cli.session import Session, print_error
from SAMv2Core.errors import UsageError

COMMANDS = (match, track, register, landmarks, prior, embed, simulate, evaluate, batch, serve, models, doctor, demo)

DESCRIPTION = """\
Find the same anatomical point in another CT or MR scan, and align scans by such points.

SAM is Self-supervised Anatomical eMbedding (arXiv 2311.15111), not Meta's Segment Anything.
Coordinates are millimeters in LPS in every file. Not a medical device: for research only."""

EPILOG = """\
exit codes: 0 done, 1 fault of samv2, 2 wrong usage, 3 input or output, 4 model, 5 memory, 6 result not reliable,
130 interrupted. `samv2 COMMAND --help` tells more; `samv2 demo` shows it on real scans."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints look like every other error of samv2."""

    def error(self, message: str) -> NoReturn:
        remedy = f"`{self.prog} --help` lists the options."
        if "expected one argument" in message:  # argparse takes -21.4,174 for an option
            remedy = f"A value that begins with a minus is written with =, as --point=-21.4,174,-494. {remedy}"
        raise UsageError(f"{message}.", remedy)


def build_parser() -> Parser:
    """The parser with all subcommands; each sets ``run``, a function of a :class:`Session` that returns nothing."""
    parser = Parser(
        prog="samv2", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"samv2 {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for module in COMMANDS:
        module.add_subparser(subparsers)
    return parser


def _interrupt(signal_number: int, frame: Any) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[None]:
    """SIGTERM ends the command like Ctrl-C does: cleanly. A parent's wish to ignore SIGINT (nohup) is respected."""
    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        numbers.append(signal.SIGINT)
    before = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one command.

    :param argv: arguments without the program's name; None for those of the process.
    :returns: the exit code.
    """
    arguments: List[str] = list(sys.argv[1:] if argv is None else argv)
    try:
        with _signals_interrupt():
            return Session(build_parser().parse_args(arguments)).run()
    except UsageError as error:
        print_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("Interrupted; nothing was left half-written.", file=sys.stderr)
        return 130
    except SystemExit as end:  # --help and --version
        return int(end.code or 0)
