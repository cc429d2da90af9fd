"""Options that several commands share, and how they turn into volumes, models and embeddings.

Kept here so that an option means the same everywhere; each command adds only what is its own.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence

import SAMv2Core as s
from SAMv2Core.errors import UsageError

if TYPE_CHECKING:
    from SAMv2Core.cache import Cache
    from SAMv2Core.cli.session import Session

MODALITIES = ("auto", "ct", "mr")
PRECISIONS = ("auto", "fp32", "fp16", "bf16")
LOG_LEVELS = ("debug", "info", "warning", "error")


def positive_float(text: str) -> float:
    """An argparse type: a positive, finite number."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def positive_int(text: str) -> int:
    """An argparse type: 1, 2, 3, ..."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def add_reporting_options(parser: argparse.ArgumentParser) -> None:
    """What every command has: ``--report``, ``--quiet``, ``--log-level``."""
    group = parser.add_argument_group("reporting")
    group.add_argument(
        "--report", metavar="R.json", help="write versions, inputs, timing, memory, warnings and results as JSON"
    )
    group.add_argument("--quiet", action="store_true", help="no progress and no table; warnings and errors remain")
    group.add_argument("--log-level", choices=LOG_LEVELS, default="warning", help="default: warning")


def add_input(parser: argparse.ArgumentParser, name: str, help_text: str) -> None:
    """A volume to read: ``--<name>``, with its modality and its DICOM series."""
    parser.add_argument(f"--{name}", required=True, metavar="VOLUME", help=help_text)
    parser.add_argument(
        f"--modality-{name}", choices=MODALITIES, default="auto", help="what it is; default: decided from its values"
    )
    parser.add_argument(f"--series-{name}", metavar="UID", help="which DICOM series, when its folder holds several")


def add_series_option(parser: argparse.ArgumentParser) -> None:
    """``--series``, for whichever input folder holds several series."""
    parser.add_argument("--series", metavar="UID", help="the same for whichever input is a folder of several series")


def add_computing_options(parser: argparse.ArgumentParser) -> None:
    """What every command that embeds has."""
    group = parser.add_argument_group("computing")
    group.add_argument(
        "--model", metavar="NAME|FILE", help="default: the bundled model that fits; `samv2 models list` shows all"
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps; default: auto")
    group.add_argument("--precision", choices=PRECISIONS, default="auto", help="number format; default: auto")
    group.add_argument(
        "--max-memory", type=positive_float, metavar="GIB", help="limit on the memory of the whole process"
    )
    group.add_argument("--threads", type=positive_int, metavar="N", help="CPU threads; default: torch's own choice")
    group.add_argument(
        "--cache", metavar="DIR|off", help="where embeddings are kept for the next time; default: the user's cache folder"
    )


def volume_suffix_type(text: str) -> str:
    """An argparse type: the name of a volume to be written."""
    from SAMv2Core.files import suffix_of
    from SAMv2Core.volume import WRITABLE_SUFFIXES

    if suffix_of(text) not in WRITABLE_SUFFIXES:
        raise argparse.ArgumentTypeError(f"{text!r} must end in {', '.join(WRITABLE_SUFFIXES)}")
    return text


def read_input(session: Session, name: str) -> s.Volume:
    """Read the volume of option ``--<name>``; its geometry goes to the report and its warnings to the user."""
    args = session.args
    path = getattr(args, name)
    volume = s.read_volume(path, getattr(args, f"series_{name}", None) or series_for(path, args.series))
    session.add_volume(name, path, volume)
    return volume


def series_for(path: str, uid: Optional[str]) -> Optional[str]:
    """``uid`` where it can mean something: in a folder that holds more than one series."""
    if uid is None or not Path(path).is_dir():
        return None
    return uid


def open_cache(args: argparse.Namespace) -> Optional[Cache]:
    """The embedding cache that ``--cache`` asks for, None for ``off``."""
    from SAMv2Core.cache import Cache

    if args.cache is not None and args.cache.lower() == "off":
        return None
    return Cache(args.cache)


def set_threads(args: argparse.Namespace) -> None:
    """Apply ``--threads`` to torch."""
    if args.threads is not None:
        import torch

        torch.set_num_threads(args.threads)
