"""``samv2 batch``: one command for every row of a table of studies.

The table (.csv) has a column per option of the command, named like it (``template,query,points`` for match,
``baseline,follow_up,lesions`` for track, ``fixed,moving`` for register; several follow-ups are parted by ``;``) and,
if wanted, ``name``. Paths are relative to the table. Every row gets a folder of its name with its result, report and
log, so that a row that fails harms no other, and ``--resume`` runs only what is not done.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, NamedTuple, Sequence

from SAMv2Core.cli import common
from SAMv2Core.errors import InputError, OutputError, UnreliableResultError, UsageError
from SAMv2Core.io import tables as io_tables
from SAMv2Core.io.files import write_text

if TYPE_CHECKING:
    from SAMv2Core.cli.session import Session

RESULTS = {"match": "points.mrk.json", "track": "tracks.csv", "register": "transform.h5"}
NEEDED = {
    "match": ("template", "query", "points"),
    "track": ("baseline", "follow_up", "lesions"),
    "register": ("fixed", "moving"),
}
FILES = {name for names in NEEDED.values() for name in names} | {"follow_up_lesions"}
SEVERAL = ("follow_up", "follow_up_lesions")


class Row(NamedTuple):
    """One line of the table: its name and the arguments of its command."""

    name: str
    arguments: List[str]
    folder: Path


class Outcome(NamedTuple):
    """How a row ended: its exit code and, when that is not 0, the line that says why."""

    name: str
    exit_code: int
    cause: str


def add_subparser(subparsers: Any) -> None:
    """Add ``batch`` to the parser."""
    parser = subparsers.add_parser("batch", help="run a command for every row of a table", description=__doc__)
    parser.add_argument("what", choices=sorted(RESULTS), metavar="match|track|register", help="the command to run")
    parser.add_argument("--table", required=True, metavar="STUDIES.csv", help="a row per run")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for a folder per row and summary.csv")
    parser.add_argument("--resume", action="store_true", help="leave out the rows that an earlier run has done")
    parser.add_argument(
        "--scheduler", metavar="ADDRESS", help="run the rows on a Dask cluster (tcp://host:8786); needs `distributed`"
    )
    common.add_computing_options(parser)
    common.add_reporting_options(parser)
    parser.set_defaults(run=run)


def run(session: Session) -> None:
    """Run the rows, write the summary; unreliable when a row failed."""
    args = session.args
    session.declare([args.table])
    folder = Path(args.output).resolve()  # a worker of a cluster has a working folder of its own
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"The folder {folder} cannot be made: {error.strerror}.", "Choose another place.") from error
    rows = read_table(Path(args.table), args.what, folder, _shared_options(args))
    todo = [row for row in rows if not (args.resume and is_done(row))]
    if len(todo) < len(rows):
        session.say(f"{len(rows) - len(todo)} of {len(rows)} rows are done already")
    outcomes = {row.name: Outcome(row.name, 0, "") for row in rows if row not in todo}
    with session.stage("batch", 0.0, 1.0) as progress:
        runner = run_on_cluster(args.scheduler) if args.scheduler else map
        for number, outcome in enumerate(runner(run_row, todo), 1):
            outcomes[outcome.name] = outcome
            progress(number / len(todo), outcome.name)
            session.say(f"{outcome.name}: {outcome.cause or 'done'}")
    ordered = [outcomes[row.name] for row in rows]
    write_text(folder / "summary.csv", summary(ordered), session.inputs)
    session.results["rows"] = [outcome._asdict() for outcome in ordered]
    failed = [outcome for outcome in ordered if outcome.exit_code]
    if failed:
        raise UnreliableResultError(
            f"{len(failed)} of {len(rows)} rows failed (first one, {failed[0].name}: {failed[0].cause.rstrip('.')}).",
            f"See {folder / 'summary.csv'} and the log of each row; --resume runs only these again.",
        )


def _shared_options(args: Any) -> List[str]:
    """Options of the batch that every row gets."""
    names = ("model", "device", "precision", "max_memory", "threads", "cache")
    given = [(name, getattr(args, name)) for name in names if getattr(args, name) is not None]
    return [part for name, value in given for part in (f"--{name.replace('_', '-')}", str(value))]


def read_table(path: Path, what: str, folder: Path, shared: Sequence[str]) -> List[Row]:
    """The rows of the table as arguments.

    :raises InputError: not readable, no rows, a needed column missing or empty, a name twice.
    """
    table = io_tables.read_table(path)
    if not table.rows:
        raise InputError(f"{path} holds no rows.", f"Give a header ({','.join(NEEDED[what])}) and a row per run.")
    rows: List[Row] = []
    for number, row in enumerate(table.rows, 1):
        filled = {name: value.strip() for name, value in row.cells.items() if value.strip()}
        missing = [name for name in NEEDED[what] if name not in filled]
        if missing:
            raise InputError(f"{path}, row {number}: {', '.join(missing)} is missing.", "Fill in every row.")
        name = re.sub(r"[^\w.-]+", "_", filled.pop("name", f"row_{number:04d}"))
        if name in {other.name for other in rows} or name in (".", ".."):
            raise InputError(f"{path}, row {number}: the name {name!r} cannot be used (again).", "Rename the row.")
        rows.append(Row(name, [what, *_row_options(filled, path.resolve().parent), *shared], folder / name))
        rows[-1].arguments.extend(["--output", str(folder / name / RESULTS[what])])
        rows[-1].arguments.extend(["--report", str(folder / name / "report.json"), "--quiet"])
    return rows


def _row_options(cells: Dict[str, str], base: Path) -> Iterator[str]:
    for column, value in cells.items():
        if column in ("output", "report"):
            raise UsageError(f"The column {column} is not for the table.", "Results go to the folder of --output.")
        yield f"--{column.replace('_', '-')}"
        for part in value.split(";") if column in SEVERAL else [value]:
            part = part.strip()
            yield str(base / part) if column in FILES and part != "-" else part


def is_done(row: Row) -> bool:
    """Whether an earlier run ended well, with the same arguments."""
    try:
        report = json.loads((row.folder / "report.json").read_text(encoding="utf-8"))
        arguments = json.loads((row.folder / "arguments.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return report.get("exit_code") == 0 and arguments == row.arguments


def run_row(row: Row) -> Outcome:
    """Run one row in a process of its own: what it leaks or breaks is gone with it."""
    row.folder.mkdir(exist_ok=True)
    write_text(row.folder / "arguments.json", json.dumps(row.arguments, indent=1) + "\n")
    command = [sys.executable, "-m", "SAMv2Core", *row.arguments]
    found_at = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": found_at},
    )
    write_text(row.folder / "log.txt", done.stdout + done.stderr)
    errors = [line[len("error: ") :] for line in done.stderr.splitlines() if line.startswith("error: ")]
    cause = errors[0] if errors else f"ended with code {done.returncode}"
    return Outcome(row.name, done.returncode, cause if done.returncode else "")


def run_on_cluster(address: str) -> Callable[[Callable[[Row], Outcome], Sequence[Row]], Iterator[Outcome]]:
    """A ``map`` over the workers of a Dask cluster, which must see the same files."""
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise UsageError("--scheduler needs the Python package distributed.", "Install it, or leave it out.") from error

    def mapped(function: Callable[[Row], Outcome], rows: Sequence[Row]) -> Iterator[Outcome]:
        try:
            client = Client(address, timeout=10)
        except OSError as error:
            raise InputError(f"No Dask scheduler answers at {address}.", "Check its address.") from error
        with client:
            for _, outcome in as_completed(client.map(function, list(rows), pure=False), with_results=True):
                yield outcome

    return mapped


def summary(outcomes: Sequence[Outcome]) -> str:
    """A line per row: name, exit code, cause."""
    return io_tables.table_text(("name", "exit_code", "cause"), outcomes)
