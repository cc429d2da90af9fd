"""Inputs that lie on a DICOMweb server, as files here while a command runs; reports stored there afterwards.

Whatever a command reads may be named by its address, ``https://host/dicom-web/studies/UID/series/UID`` (a report: by
that of its instance). It is fetched into a folder that only this user can read and that goes when the command ends.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator

from SAMv2Core.errors import UsageError
from SAMv2Core.io import dicomweb

if TYPE_CHECKING:
    from SAMv2Core.cli.session import Session


@contextlib.contextmanager
def fetched(args: argparse.Namespace) -> Iterator[Dict[str, str]]:
    """Addresses among the options become paths; yields path -> address.

    :raises InputError: a server does not answer, or has nothing there.
    """
    named = {name: value for name, value in vars(args).items() if any(map(_is_address, _listed(value)))}
    if not named:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="samv2-") as folder:
        paths: Dict[str, str] = {}
        for name, value in named.items():
            for address in filter(_is_address, _listed(value)):
                if address not in paths:
                    place = Path(folder, str(len(paths)))
                    place.mkdir()
                    paths[address] = str(dicomweb.fetch(address, place))
            here = [paths.get(one, one) for one in _listed(value)]
            setattr(args, name, here if isinstance(value, list) else here[0])
        yield {path: address for address, path in paths.items()}


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _is_address(value: Any) -> bool:
    return isinstance(value, str) and dicomweb.is_address(value)


def add_stow_option(parser: argparse.ArgumentParser, output: str) -> None:
    """Add ``--stow`` to a command with a DICOM output."""
    parser.add_argument("--stow", metavar="URL", help=f"store the file of --{output} in this DICOMweb archive, too")


def check_stow(args: argparse.Namespace, output: str) -> None:
    """Refuse ``--stow`` without something to store.

    :raises UsageError: as said.
    """
    if args.stow and not getattr(args, output):
        raise UsageError(f"--stow has nothing to store without --{output}.", f"Name a file with --{output}.")


def stow(session: Session, output: str) -> None:
    """Store the DICOM output, when that was asked for.

    :raises OutputError: the archive does not answer, or does not take it.
    """
    service = session.args.stow
    if service:
        dicomweb.store(service, Path(getattr(session.args, output)))
        session.results["stored"] = service
        session.say(f"stored in {service}")
