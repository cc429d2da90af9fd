"""What a batch leaves for people and programs: one line per row, and one table of all results, in CSV and, when asked
for, in Parquet (package pyarrow), whose columns have types and which larger tables are kept in."""

from __future__ import annotations

import csv
import importlib.util
import itertools
import os
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, List, Sequence

from SAMv2Core.batch.journal import Journal
from SAMv2Core.batch.table import folder_of
from SAMv2Core.errors import UsageError
from SAMv2Core.io.files import PathLike, atomic_path
from SAMv2Core.io.tables import safe_cell

#: Columns of results that are no texts.
_WHOLE = ("study", "inliers", "points_sampled")
_REAL = ("l", "p", "s", "similarity", "cycle_error_mm", "confidence", "diameter_mm", "overlap")
_ROWS_OF_A_GROUP = 10_000

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
    write_rows(os.path.join(journal.folder, "results.csv"), ("name", *columns), _results(journal, names, columns))


def _results(journal: Journal, names: Callable[[], Iterator[str]], columns: Sequence[str]) -> Iterator[List[Any]]:
    for name in names():
        for result in journal.results_of(name):
            yield [name, *(result.get(column) for column in columns)]


def check_parquet() -> None:
    """Refuse now what :func:`write_parquet` would refuse after the work.

    :raises UsageError: pyarrow is not installed.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise UsageError("--parquet needs the Python package pyarrow.", "Install it: pip install 'samv2[parquet]'.")


def write_parquet(journal: Journal, names: Callable[[], Iterator[str]], columns: Sequence[str]) -> None:
    """``results.parquet``: the same table, numbers as numbers; some thousand rows at a time are held in memory.

    :raises UsageError: pyarrow is not installed.
    """
    check_parquet()
    import pyarrow
    from pyarrow import parquet

    kinds = {**dict.fromkeys(_WHOLE, pyarrow.int64()), **dict.fromkeys(_REAL, pyarrow.float64())}
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in ("name", *columns)])
    rows = _results(journal, names, columns)
    with atomic_path(os.path.join(journal.folder, "results.parquet")) as temporary:
        with parquet.ParquetWriter(temporary, schema) as writer:
            while True:
                group = list(itertools.islice(rows, _ROWS_OF_A_GROUP))
                if not group:
                    return
                cells = [dict(zip(schema.names, row)) for row in group]
                writer.write_table(pyarrow.Table.from_pylist(cells, schema=schema))
