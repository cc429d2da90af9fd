"""``samv2 batch``: one command for every row of a table of studies.

The table (.csv) has a column per option of the command, named like it (``template,query,points`` for match,
``baseline,follow_up,lesions`` for track, ``fixed,moving`` for register; several follow-ups are parted by ``;``) and,
if wanted, ``name``. Paths are relative to the table. Every row gets a folder with its result, report and log; what is
done stands in a journal, so that a row that fails harms no other, ``--resume`` runs only what is not done, and
``samv2 batch status DIR`` tells how far it is.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import io
import os
import re
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

import SAMv2Core as s
from SAMv2Core.batch import comparisons, results, table
from SAMv2Core.batch.executors import Dask, Executor, Processes, Slurm, outcomes
from SAMv2Core.batch.journal import DONE, Journal, Outcome, read_status
from SAMv2Core.cli import batch_archive, common
from SAMv2Core.errors import InputError, OutputError, SAMv2Error, UnreliableResultError, UsageError
from SAMv2Core.io.dicomweb import is_service
from SAMv2Core.io.files import output_error, write_text

if TYPE_CHECKING:
    from SAMv2Core.cli.session import Session
    from SAMv2Core.progress import Progress

RESULT_COLUMNS = {
    "match": ("label", "l", "p", "s", "similarity", "cycle_error_mm", "confidence", "status", "reason"),
    "track": ("label", "study", "l", "p", "s", "similarity", "cycle_error_mm", "confidence", "status", "diameter_mm"),
    "register": ("status", "transform", "inliers", "points_sampled", "overlap", "matrix"),
}
#: Options of the batch that change what comes out, and those that do not.
_CHANGING = ("model", "precision")
_OTHER = ("device", "max_memory", "threads", "cache", "cache_size")

#: A line on stdout this often, for logs.
_SECONDS_BETWEEN_LINES = 60.0
_SECONDS_BETWEEN_COUNTS = 1.0
_MOST_PROBLEMS_TOLD = 20

#: Names that atomic writing gives to what is not whole yet; a killed worker leaves them.
_UNFINISHED = re.compile(r"^\..*\.[0-9a-f]{8}\.part(\.|$)")

#: One command at a time in a process: it redirects stdout.
_one_at_a_time = threading.Lock()


class Task(NamedTuple):
    """A row as it goes to a worker."""

    name: str
    fingerprint: str
    folder: str
    arguments: List[str]


def add_subparser(subparsers: Any) -> None:
    """Add ``batch`` to the parser."""
    parser = subparsers.add_parser("batch", help="run a command for every row of a table", description=__doc__)
    commands = parser.add_subparsers(metavar="match|track|register|status", dest="what", required=True)
    for name in table.COMMANDS:
        _add_command(commands.add_parser(name, help=f"samv2 {name} for every row", description=__doc__), name)
    status = commands.add_parser("status", help="how far a batch is")
    status.add_argument("folder", metavar="DIR", help="the folder of --output")
    common.add_reporting_options(status)
    status.set_defaults(run=run_status)


def _add_command(parser: argparse.ArgumentParser, what: str) -> None:
    rows = parser.add_mutually_exclusive_group(required=True)
    rows.add_argument("--table", metavar="STUDIES.csv", help="a row per run")
    if what in comparisons.COLUMNS:
        rows.add_argument(
            "--archive",
            metavar="FOLDER|DICOMDIR|URL",
            help="studies in DICOM, on disk or on a DICOMweb server: the newest of every patient against earlier ones"
            + (", by the earlier one's report of lesions" if what == "track" else ""),
        )
        batch_archive.add_options(parser, what)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the journal, tables and results")
    parser.add_argument("--resume", action="store_true", help="leave out the rows that an earlier run has done")
    parser.add_argument("--dry-run", action="store_true", help="read and check the table and every input; run nothing")
    parser.add_argument("--parquet", action="store_true", help="write results.parquet, too; needs pyarrow")
    parser.add_argument(
        "--tables-only",
        action="store_true",
        help="of rows with a result keep what the tables say and the files that columns of --table name; no result, "
        "report and log of each",
    )
    group = parser.add_argument_group("who runs the rows")
    group.add_argument(
        "--workers",
        type=common.positive_int,
        metavar="N",
        help="processes of this computer, or with --slurm jobs at once; default: 1",
    )
    where = group.add_mutually_exclusive_group()
    where.add_argument(
        "--dask", "--scheduler", metavar="URL", help="a Dask cluster (tcp://host:8786); needs `distributed`"
    )
    where.add_argument("--slurm", action="store_true", help="jobs of Slurm; needs `submitit` and a login node")
    common.add_computing_options(parser)
    common.add_reporting_options(parser)
    parser.set_defaults(run=run)


def run(session: Session) -> None:
    """Run the rows, write the tables; unreliable when a row failed."""
    args = session.args
    archive = getattr(args, "archive", None)
    session.declare([args.table, None if archive is None or is_service(archive) else archive])
    batch_archive.check(args)
    if args.dask and args.workers:
        raise UsageError("--workers is not for --dask.", "The workers of the cluster decide; leave it out.")
    if args.parquet:
        results.check_parquet()
    folder = Path(args.output).resolve()  # a worker of a cluster has a working folder of its own
    if args.dry_run:
        with tempfile.TemporaryDirectory(prefix="samv2-") as place:
            dry_run(session, _studies(session, folder, Path(place)))
        return
    studies = None if archive else _studies(session, folder, folder)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"The folder {folder} cannot be made: {error.strerror}.", "Choose another place.") from error
    with Journal(folder) as journal:
        studies = studies or _studies(session, folder, folder)
        _run_rows(session, studies, journal)
        with session.stage("write", 0.99, 1.0):
            results.write_summary(journal, functools.partial(_names, studies))
            results.write_results(journal, functools.partial(_names, studies), RESULT_COLUMNS[args.what])
            if args.parquet:
                results.write_parquet(journal, functools.partial(_names, studies), RESULT_COLUMNS[args.what])
        _conclude(session, studies, journal)


def _studies(session: Session, folder: Path, place: Path) -> table.Studies:
    """The rows of the table; one made from an archive is written to ``place`` first."""
    args = session.args
    path = Path(args.table) if args.table else batch_archive.write_table(session, place)
    return table.Studies(path, table.COMMANDS[args.what], folder, _checker())


def _names(studies: table.Studies) -> Iterator[str]:
    return (row.name for row in studies)


def _run_rows(session: Session, studies: table.Studies, journal: Journal) -> None:
    args = session.args
    changing, other = _shared(args, _CHANGING), _shared(args, _OTHER)
    done = journal.done() if args.resume else {}
    n_before = sum(done.get(row.name) == table.fingerprint(row, changing) for row in studies) if done else 0
    if n_before:
        session.say(f"{n_before} of {studies.n_rows} rows are done already")
    options = {name: getattr(args, name) for name in (*_CHANGING, *_OTHER, "table", "workers", "dask", "slurm")}
    journal.begin(args.what, s.__version__, options, studies.n_rows, n_before)
    if n_before == studies.n_rows:
        return
    tasks = (
        Task(row.name, mark, table.folder_of(journal.folder, row.name), _arguments(row, studies, journal.folder, other))
        for row in studies
        for mark in (table.fingerprint(row, changing),)
        if done.get(row.name) != mark
    )
    run = functools.partial(run_tasks, shared=changing, tables_only=args.tables_only)
    teller = _Teller(session, journal)
    with session.stage("batch", 0.0, 0.99) as progress, contextlib.closing(_executor(args, journal.folder)) as executor:
        for outcome in outcomes(executor, run, tasks):
            journal.add(outcome)
            if outcome.exit_code:
                session.say(f"{outcome.name}: {outcome.cause}")
            teller.tell(progress)


class _Teller:
    """The bar every second, a line every minute: counting the rows of a long journal takes a while, too."""

    def __init__(self, session: Session, journal: Journal) -> None:
        self._session = session
        self._journal = journal
        self._told = self._said = time.monotonic()

    def tell(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._told < _SECONDS_BETWEEN_COUNTS:
            return
        self._told = now
        status = self._journal.status()
        progress(status.n_ended / status.n_rows, str(status))
        if now - self._said >= _SECONDS_BETWEEN_LINES:
            self._said = now
            self._session.say(str(status))


def _executor(args: Any, folder: Path) -> Executor:
    if args.dask:
        return Dask(args.dask)
    if args.slurm:
        return Slurm(folder / "slurm", args.workers or 1, args.threads)
    return Processes(args.workers or 1)


def _shared(args: Any, names: Sequence[str]) -> List[str]:
    """Options of the batch that every row gets; paths as a worker elsewhere finds them."""
    given = [(name, getattr(args, name)) for name in names if getattr(args, name) is not None]
    found = [part for name, value in given for part in (f"--{name.replace('_', '-')}", _absolute(name, str(value)))]
    n_workers = args.workers or 1
    if "threads" in names and args.threads is None and n_workers > 1 and not args.slurm:
        # Each would take all cores for itself.
        if "OMP_NUM_THREADS" not in os.environ:
            found += ["--threads", str(max(1, (os.cpu_count() or 1) // n_workers))]
    return found


def _absolute(name: str, value: str) -> str:
    is_path = (name == "cache" and value != "off") or (name == "model" and os.path.exists(value))
    return os.path.abspath(value) if is_path else value


def _arguments(row: table.Row, studies: table.Studies, folder: Path, shared: Sequence[str]) -> List[str]:
    place = table.folder_of(folder, row.name)
    own = ["--output", os.path.join(place, studies.command.result), "--report", os.path.join(place, "report.json")]
    return [*row.arguments, *row.outputs, *own, "--quiet", *shared]


@functools.lru_cache(maxsize=1)
def _parser() -> argparse.ArgumentParser:
    from SAMv2Core.cli.main import build_parser

    return build_parser()


def _checker() -> Any:
    """What asks the command's parser whether it understands the arguments of a row."""

    def check(arguments: List[str]) -> None:
        suffix = table.COMMANDS[arguments[0]].result
        _parser().parse_args([*arguments, "--output", suffix])

    return check


def run_tasks(tasks: Sequence[Task], shared: Sequence[str], tables_only: bool = False) -> List[Outcome]:
    """Run rows in this process, one after the other. This is what workers do; nothing but their end stops it."""
    return [run_task(task, shared, tables_only) for task in tasks]


def run_task(task: Task, shared: Sequence[str] = (), tables_only: bool = False) -> Outcome:
    """Run the command of one row; its model stays loaded for the next one."""
    from SAMv2Core.cli.session import Session as OneCommand

    start = time.monotonic()
    try:
        os.makedirs(task.folder, exist_ok=True)
        for name in os.listdir(task.folder):
            if _UNFINISHED.match(name):
                os.unlink(os.path.join(task.folder, name))
    except OSError as error:
        failure = output_error(os.path.join(task.folder, "report.json"), error)
        return Outcome(task.name, task.fingerprint, failure.exit_code, failure.cause, failure.remedy)
    log = io.StringIO()
    with _one_at_a_time, common.models_stay_loaded(), contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        session = OneCommand(_parser().parse_args([*task.arguments, *shared]))
        code = session.run()
    text = log.getvalue()
    cause, remedy = _last_line(text, "error: "), _last_line(text, "remedy: ")
    try:
        write_text(os.path.join(task.folder, "log.txt"), text)
    except OutputError as error:
        code, cause, remedy = code or error.exit_code, cause or error.cause, remedy or error.remedy
    if tables_only and code in DONE:
        _sweep(task)
    seconds = time.monotonic() - start
    rows = tuple(_result_rows(task.arguments[0], session.results)) if code in DONE else ()
    return Outcome(task.name, task.fingerprint, code, cause, remedy, seconds, rows)


def _sweep(task: Task) -> None:
    """Remove what every row leaves; what else it was told to write stays."""
    for name in (table.COMMANDS[task.arguments[0]].result, "report.json", "log.txt"):
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(task.folder, name))
    with contextlib.suppress(OSError):  # not empty
        os.rmdir(task.folder)


def _last_line(text: str, prefix: str) -> str:
    found = [line[len(prefix) :] for line in text.splitlines() if line.startswith(prefix)]
    return found[0] if found else ""


def _result_rows(what: str, found: Dict[str, Any]) -> Iterator[Dict[str, Any]]:
    """Rows of ``results.csv`` from a command's report."""
    if what == "register":
        if "status" in found:
            row = {name: found.get(name) for name in RESULT_COLUMNS[what]}
            matrix = found.get("matrix")
            row["matrix"] = None if matrix is None else " ".join(f"{value:.9g}" for line in matrix for value in line)
            yield row
        return
    for item in found.get("points" if what == "match" else "findings", ()):
        lps = item["query" if what == "match" else "lps"] or (None, None, None)
        row = {name: item.get(name) for name in RESULT_COLUMNS[what]}
        yield {**row, **dict(zip("lps", lps))}


def _conclude(session: Session, studies: table.Studies, journal: Journal) -> None:
    """The sums; an error when a row failed."""
    first: Optional[Outcome] = None
    n_bad = 0
    session.results["rows"] = rows = []
    for name in _names(studies):
        outcome = journal.outcome_of(name)
        if outcome is None:
            continue
        if session.args.report:
            rows.append({"name": name, "exit_code": outcome.exit_code, "cause": outcome.cause})
        if outcome.exit_code:
            n_bad += 1
            first = first or outcome
    if first is not None:
        raise UnreliableResultError(
            f"{n_bad} of {studies.n_rows} rows failed (first one, {first.name}: {first.cause.rstrip('.')}).",
            f"See {journal.folder / 'summary.csv'} and the log of each row; --resume runs again what has no result.",
        )


def run_status(session: Session) -> None:
    """How far the batch is, whether or not it is running."""
    status = read_status(session.args.folder)
    session.say(("running: " if status.is_running else "not running: ") + str(status))
    for name, cause in status.causes:
        session.say(f"  {name}: {cause}")
    session.results["status"] = dataclasses.asdict(status)


def dry_run(session: Session, studies: table.Studies) -> None:
    """Look at every input once and tell what is wrong; run nothing, write nothing."""
    from SAMv2Core.batch.check import Inputs

    inputs, n_bad, told = Inputs(studies.command), 0, []
    with session.stage("check", 0.0, 1.0) as progress:
        for number, row in enumerate(studies, 1):
            problem: Optional[SAMv2Error] = inputs.problem_of(row)
            if problem is not None:
                n_bad += 1
                if n_bad <= _MOST_PROBLEMS_TOLD:
                    told.append({"name": row.name, "cause": problem.cause, "remedy": problem.remedy})
                    session.say(f"{row.name}: {problem.cause}")
            if number % 100 == 0:
                progress(number / studies.n_rows, f"{number} of {studies.n_rows} rows")
    session.results.update(n_rows=studies.n_rows, n_files=inputs.n_files, n_bad_rows=n_bad, problems=told)
    session.say(f"{studies.n_rows} rows, {inputs.n_files} files: {n_bad or 'no'} rows cannot run")
    if n_bad:
        raise InputError(
            f"{n_bad} of {studies.n_rows} rows cannot run (first one, {told[0]['name']}: {told[0]['cause']}).",
            "Correct them, or run the batch: they harm no other row.",
        )
