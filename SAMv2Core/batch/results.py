"""What a batch leaves for people and programs: one line per row, and one table of all results."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, List, Sequence

from SAMv2Core.batch.journal import Journal
from SAMv2Core.batch.table import folder_of
from SAMv2Core.io.files import PathLike, atomic_path
from SAMv2Core.io.tables import safe_cell

SUMMARY_COLUMNS = ("name", "exit_code", "cause", "remedy", "seconds", "attempts", "folder")


def write_rows(path: PathLike, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table of any length, row by row, whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([safe_cell(cell) for cell in row] for row in rows)


def write_summary(journal: Journal, names: Callable[[], Iterator[str]]) -> None:
    """``summary.csv``: how every row ended that has, in the order of the table."""

    def rows() -> Iterator[List[Any]]:
        for name in names():
            outcome = journal.outcome_of(name)
            if outcome is not None:
                facts = [outcome.cause, outcome.remedy, round(outcome.seconds, 2), outcome.attempts]
                folder = Path(folder_of(Path(), name)).as_posix()
                yield [name, outcome.exit_code, *facts, folder]

    write_rows(os.path.join(journal.folder, "summary.csv"), SUMMARY_COLUMNS, rows())


def write_results(journal: Journal, names: Callable[[], Iterator[str]], columns: Sequence[str]) -> None:
    """``results.csv``: the results of all rows in one table, in the order of the table; ``name`` comes first."""

    def rows() -> Iterator[List[Any]]:
        for name in names():
            for result in journal.results_of(name):
                yield [name, *(result.get(column) for column in columns)]

    write_rows(os.path.join(journal.folder, "results.csv"), ("name", *columns), rows())
