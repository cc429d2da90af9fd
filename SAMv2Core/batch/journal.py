"""What a batch has done, in one SQLite file of its folder: read in seconds where 200,000 folders take minutes.

One process writes (the one that was started by the user; a lock that the system drops with the process keeps a second
one away), any number read meanwhile (WAL mode, on the same computer). A row is written when it has ended, each in a
transaction of its own: whatever is killed, what was done stays done. Kept are names of rows, causes with the paths of
files, and results; no names of patients, no identifiers from DICOM - unless the table or the paths hold them.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from SAMv2Core.errors import InputError, OutputError
from SAMv2Core.io.files import PathLike

FILE = "journal.sqlite"
LOCK = "journal.lock"

#: Exit codes after which a row is not run again: there is a result, be it a doubtful one, and it would be the same.
DONE = (0, 6)

#: The rate is that of the last ten minutes: workers come and go.
_RATE_SECONDS = 600.0

_LAYOUT = """
CREATE TABLE IF NOT EXISTS run(id INTEGER PRIMARY KEY, started REAL, ended REAL, command TEXT, version TEXT,
                               options TEXT, n_rows INTEGER, n_before INTEGER);
CREATE TABLE IF NOT EXISTS row(name TEXT PRIMARY KEY, fingerprint TEXT, run INTEGER, exit_code INTEGER, cause TEXT,
                               remedy TEXT, seconds REAL, attempts INTEGER, finished REAL);
CREATE TABLE IF NOT EXISTS result(name TEXT PRIMARY KEY, content TEXT);
"""


class Outcome(NamedTuple):
    """How a row ended.

    exit_code: of its command. cause, remedy: empty when all is well. seconds: of the command. results: rows of the
    table of all results. attempts: 2 when a worker was lost.
    """

    name: str
    fingerprint: str
    exit_code: int
    cause: str = ""
    remedy: str = ""
    seconds: float = 0.0
    results: Tuple[Dict[str, Any], ...] = ()
    attempts: int = 1


@dataclass(frozen=True)
class Status:
    """How far a batch is: rows of the table, of them ended, failed (no result) and doubtful (exit code 6).

    rows_per_second: None before the first row of this run has ended. seconds_left: at that rate.
    """

    n_rows: int
    n_ended: int
    n_failed: int
    n_doubtful: int
    is_running: bool
    rows_per_second: Optional[float]
    seconds_left: Optional[float]
    causes: Tuple[Tuple[str, str], ...]  # (name, cause) of the last rows that failed

    def __str__(self) -> str:
        parts = [f"{self.n_ended} of {self.n_rows} rows"]
        if self.n_failed or self.n_doubtful:
            parts.append(f"{self.n_failed} failed, {self.n_doubtful} not reliable")
        if self.rows_per_second:
            parts.append(f"{_rate(self.rows_per_second)}")
        if self.is_running and self.seconds_left is not None:
            parts.append(f"{duration(self.seconds_left)} left")
        return "; ".join(parts)


def _rate(rows_per_second: float) -> str:
    return f"{rows_per_second:.1f} rows/s" if rows_per_second >= 1 else f"{60 * rows_per_second:.1f} rows/min"


def duration(seconds: float) -> str:
    """A time for people: 45 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class Journal:
    """The journal, open for writing; a context manager.

    :param folder: of the batch; must exist.
    :raises OutputError: another process writes it, or it cannot be written.
    """

    def __init__(self, folder: PathLike) -> None:
        self.folder = Path(folder)
        self._run = 0
        self._lock: Optional[sqlite3.Connection] = None
        try:
            self._lock = _locked(self.folder / LOCK)
            self._db = sqlite3.connect(self.folder / FILE, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            # A killed process loses nothing, a power cut the last rows at most, which are then run again.
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_LAYOUT)
        except sqlite3.Error as error:
            self._unlock()
            if "locked" in str(error):
                raise OutputError(
                    f"Another samv2 batch writes to {self.folder}.", "Wait for it, or choose another folder."
                ) from error
            raise OutputError(f"{self.folder / FILE} cannot be written: {error}.", "Choose another folder.") from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *ignored: Any) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("UPDATE run SET ended=? WHERE id=?", (time.time(), self._run))
            self._db.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def done(self) -> Dict[str, str]:
        """Name and fingerprint of every row that need not be run again."""
        marks = ",".join("?" * len(DONE))
        return dict(self._db.execute(f"SELECT name, fingerprint FROM row WHERE exit_code IN ({marks})", DONE))

    def begin(self, command: str, version: str, options: Dict[str, Any], n_rows: int, n_before: int) -> None:
        """Note that a run begins.

        :param n_before: rows that are done already.
        """
        values = (time.time(), command, version, json.dumps(options), n_rows, n_before)
        cursor = self._db.execute(
            "INSERT INTO run(started, command, version, options, n_rows, n_before) VALUES (?,?,?,?,?,?)", values
        )
        self._run = int(cursor.lastrowid or 0)

    def add(self, outcome: Outcome) -> None:
        """Note that a row has ended; an earlier ending of it is replaced.

        :raises OutputError: the disk is full, or the like.
        """
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute(
                "INSERT OR REPLACE INTO row VALUES (?,?,?,?,?,?,?,?,?)",
                (*outcome[:2], self._run, *outcome[2:6], outcome.attempts, time.time()),
            )
            content = json.dumps(outcome.results, ensure_ascii=False)
            self._db.execute("INSERT OR REPLACE INTO result VALUES (?,?)", (outcome.name, content))
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise OutputError(f"{self.folder / FILE} cannot be written: {error}.", "Free some space.") from error

    def status(self) -> Status:
        """How far this run is."""
        return _status(self._db, is_running=True)

    def outcome_of(self, name: str) -> Optional[Outcome]:
        """How a row ended, without its results; None: not yet."""
        row = self._db.execute(
            "SELECT name, fingerprint, exit_code, cause, remedy, seconds, attempts FROM row WHERE name=?", (name,)
        ).fetchone()
        return None if row is None else Outcome(*row[:6])._replace(attempts=row[6])

    def results_of(self, name: str) -> List[Dict[str, Any]]:
        """The results of a row."""
        row = self._db.execute("SELECT content FROM result WHERE name=?", (name,)).fetchone()
        return json.loads(row[0]) if row else []


def read_status(folder: PathLike) -> Status:
    """How far the batch in a folder is, whether or not it is running.

    :raises InputError: no batch has begun there.
    """
    folder = Path(folder)
    path = folder / FILE
    if not path.is_file():
        raise InputError(f"{folder} holds no journal of a batch.", "Give the folder of --output.")
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=10)) as db:
            return _status(db, _is_locked(folder / LOCK))
    except sqlite3.Error as error:
        raise InputError(f"{path} cannot be read: {error}.", "Ask on the computer on which the batch runs.") from error


def _status(db: sqlite3.Connection, is_running: bool) -> Status:
    run = db.execute("SELECT id, started, ended, n_rows, n_before FROM run ORDER BY id DESC LIMIT 1").fetchone()
    if run is None:
        return Status(0, 0, 0, 0, is_running, None, None, ())
    number, started, ended, n_rows, n_before = run
    last = time.time() if is_running else (ended or _last_row(db, number) or started)
    since = max(started, last - _RATE_SECONDS)
    count = "SELECT COUNT(*), COALESCE(SUM(finished > ?), 0) FROM row WHERE run=?"
    n_now, n_lately = db.execute(count, (since, number)).fetchone()
    marks = ",".join("?" * len(DONE))
    failed = f"FROM row WHERE run=? AND exit_code NOT IN ({marks})"
    (n_failed,) = db.execute(f"SELECT COUNT(*) {failed}", (number, *DONE)).fetchone()
    (n_doubtful,) = db.execute("SELECT COUNT(*) FROM row WHERE exit_code=6").fetchone()
    causes = db.execute(f"SELECT name, cause {failed} ORDER BY finished DESC LIMIT 5", (number, *DONE)).fetchall()
    rate = n_lately / (last - since) if n_lately and last > since else None
    left = (n_rows - n_before - n_now) / rate if rate else None
    return Status(n_rows, n_before + n_now, n_failed, n_doubtful, is_running, rate, left, tuple(causes))


def _last_row(db: sqlite3.Connection, run: int) -> Optional[float]:
    return db.execute("SELECT MAX(finished) FROM row WHERE run=?", (run,)).fetchone()[0]


def _locked(path: Path) -> sqlite3.Connection:
    """A connection that holds a lock which goes when the process goes, on every system."""
    lock = sqlite3.connect(path, timeout=0.2, isolation_level=None, check_same_thread=False)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error:
        lock.close()
        raise
    return lock


def _is_locked(path: Path) -> bool:
    if not os.path.exists(path):
        return False
    try:
        _locked(path).close()
    except sqlite3.Error:
        return True
    return False
