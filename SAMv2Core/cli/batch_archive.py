"""``samv2 batch track|register --archive``: the rows come from an archive, the newest study of a patient against
earlier ones, instead of from a table that somebody has written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List

from SAMv2Core.batch.comparisons import COLUMNS, Skipped, comparisons
from SAMv2Core.batch.results import write_rows
from SAMv2Core.batch.rules import read_rules
from SAMv2Core.cli import common
from SAMv2Core.errors import InputError, UsageError
from SAMv2Core.io import dicomweb
from SAMv2Core.io.archive import Contents, read_contents
from SAMv2Core.io.structured_report import REQUIREMENT, is_available

if TYPE_CHECKING:
    from SAMv2Core.cli.session import Session
    from SAMv2Core.progress import Progress

TABLE, SKIPPED = "studies.csv", "skipped.csv"
_ONLY_WITH_ARCHIVE = ("rules", "patients", "studies", "stow", "priors")
_PLACES = ("baseline", "follow_up", "lesions", "fixed", "moving")
_SAME = "archive"


def add_options(parser: Any, what: str) -> None:
    """Add what an archive needs."""
    group = parser.add_argument_group("studies of an archive (instead of a table)")
    group.add_argument(
        "--rules", metavar="RULES.json", help="which series of a study; default: axial, 0.5 to 5 mm, most images"
    )
    group.add_argument("--patients", metavar="FILE", help="only these: a file with a PatientID on every line")
    group.add_argument(
        "--studies", nargs="+", metavar="UID", help="only these are compared with earlier ones; default: the newest"
    )
    group.add_argument(
        "--stow",
        nargs="?",
        const=_SAME,
        metavar="URL",
        help=f"store the {'report' if what == 'track' else 'registration object'} of every row in a DICOMweb archive; "
        "without an address, in that of --archive",
    )
    if what == "register":
        group.add_argument(
            "--priors", type=common.positive_int, metavar="N", help="earlier studies of each patient; default: 1"
        )


def check(args: Any) -> None:
    """Refuse options that make no sense together.

    :raises UsageError: as said.
    """
    given = [name for name in _ONLY_WITH_ARCHIVE if getattr(args, name, None)]
    if not getattr(args, "archive", None):
        if given:
            raise UsageError(f"--{given[0]} is for --archive.", "Leave it out; a table says it in its columns.")
        return
    is_remote = dicomweb.is_service(args.archive)
    if is_remote and not (args.patients or args.studies):
        raise UsageError("A DICOMweb archive is not searched as a whole.", "Name --patients or --studies.")
    if args.stow == _SAME and not is_remote:
        raise UsageError("--stow needs the address of an archive.", "Write --stow https://host/dicom-web.")
    if args.stow and args.what == "track" and not is_available():
        raise UsageError("--stow needs the package highdicom.", f"pip install '{REQUIREMENT}'")


def write_table(session: Session, folder: Path) -> Path:
    """``studies.csv`` with a row per comparison and ``skipped.csv`` with the patients without one, in ``folder``.

    :returns: the table.
    :raises InputError: the archive cannot be read, or there is nothing to compare.
    """
    args, table = session.args, folder / TABLE
    rules = read_rules(args.rules)
    skipped: List[Skipped] = []
    rows: List[Dict[str, str]] = []
    with session.stage("read archive", 0.0, 0.05) as progress:
        for contents in _contents(args, progress):
            for one in comparisons(contents, args.what, rules, getattr(args, "priors", None) or 1, args.studies):
                if isinstance(one, Skipped):
                    skipped.append(one)
                else:
                    rows.append(_with_outputs(one, args))
    told = {row["name"].partition("_")[0] for row in rows} | {one.study_uid for one in skipped}
    skipped += [
        Skipped(uid, "no series of CT or MR with a PatientID and a date")
        for uid in args.studies or ()
        if uid not in told
    ]
    columns = [*COLUMNS[args.what], "stow"]
    write_rows(folder / SKIPPED, Skipped._fields, skipped)
    session.results["skipped"] = [one._asdict() for one in skipped]
    if not rows:
        reason = f"{skipped[0].study_uid}: {skipped[0].reason}" if skipped else "no series fits"
        raise InputError(f"Nothing in {args.archive} can be compared ({reason}).", "See --rules, and skipped.csv.")
    write_rows(table, columns, ([row.get(column, "") for column in columns] for row in rows))
    session.say(f"{len(rows)} comparisons; {len(skipped)} patients without one")
    return table


def _contents(args: Any, progress: Progress) -> Iterator[Contents]:
    patients = _lines(args.patients) if args.patients else []
    if dicomweb.is_service(args.archive):
        yield from dicomweb.read_service(args.archive.rstrip("/"), patients, args.studies or (), progress)
        return
    found = read_contents(args.archive, None, progress)
    if args.patients:
        known = set(patients)
        found = Contents(
            tuple(one for one in found.series if one.patient_id in known),
            tuple(one for one in found.reports if one.patient_id in known),
        )
    yield found


def _lines(path: str) -> List[str]:
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"The patients {path} cannot be read: {error}.", "Give a text file.") from error
    return [line.strip() for line in lines if line.strip()]


def _with_outputs(row: Dict[str, str], args: Any) -> Dict[str, str]:
    """Paths as they are wherever the table lies; what is to be written and stored."""
    places = {name: ";".join(map(_absolute, row[name].split(";"))) for name in _PLACES if name in row}
    row = {**row, **places}
    if "sr" in row and not is_available():
        del row["sr"]
    if args.stow and ("sr" in row or "sro" in row):
        row["stow"] = args.archive if args.stow == _SAME else args.stow
    return row


def _absolute(place: str) -> str:
    return place if dicomweb.is_service(place) else os.path.abspath(place)
