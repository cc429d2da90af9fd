"""What is done stays done, whoever is killed; one writes, others read."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from SAMv2Core.batch import journal as journals
from SAMv2Core.batch import results
from SAMv2Core.batch.journal import Journal, Outcome, duration, read_status
from SAMv2Core.batch.results import write_parquet, write_results, write_summary
from SAMv2Core.cli.batch import RESULT_COLUMNS
from SAMv2Core.errors import InputError, OutputError, UsageError

ROOT = Path(__file__).resolve().parents[3]


def test_rows_with_a_result_are_done_and_those_without_are_not(tmp_path):
    with Journal(tmp_path) as journal:
        journal.begin("match", "0", {}, 4, 0)
        for name, code in (("good", 0), ("doubtful", 6), ("missing", 3)):
            journal.add(Outcome(name, f"mark of {name}", code, "why" if code else ""))
    with Journal(tmp_path) as journal:
        assert journal.done() == {"good": "mark of good", "doubtful": "mark of doubtful"}
        journal.begin("match", "0", {}, 4, 2)
        journal.add(Outcome("missing", "mark", 0))
        assert set(journal.done()) == {"good", "doubtful", "missing"}
        assert journal.outcome_of("missing") == Outcome("missing", "mark", 0)


def test_a_killed_writer_leaves_its_rows_and_no_lock(tmp_path):
    program = f"""
import os, signal
from SAMv2Core.batch.journal import Journal, Outcome
journal = Journal({str(tmp_path)!r})
journal.begin("match", "0", {{}}, 3, 0)
for name in "ab":
    journal.add(Outcome(name, "mark", 0))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == -signal.SIGKILL
    status = read_status(tmp_path)
    assert (status.n_ended, status.n_rows, status.is_running) == (2, 3, False)
    with Journal(tmp_path) as journal:
        assert set(journal.done()) == {"a", "b"}


def test_a_second_writer_is_refused_and_readers_are_not(tmp_path):
    with Journal(tmp_path) as journal:
        journal.begin("match", "0", {}, 5, 1)
        journal.add(Outcome("a", "", 0))
        with pytest.raises(OutputError, match="Another samv2 batch"):
            Journal(tmp_path)
        status = read_status(tmp_path)
        assert status.is_running and (status.n_ended, status.n_rows) == (2, 5)
    assert not read_status(tmp_path).is_running


def test_rate_and_time_left_are_those_of_the_last_minutes(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(journals.time, "time", lambda: now[0])
    with Journal(tmp_path) as journal:
        journal.begin("match", "0", {}, 100, 10)
        for n in range(20):  # a row every 30 s, then one every 60 s
            now[0] += 30 if n < 10 else 60
            journal.add(Outcome(str(n), "", 3 if n == 5 else 0, "gone"))
        status = journal.status()
    assert status.rows_per_second == pytest.approx(1 / 60)  # of the last 600 s
    assert status.seconds_left == pytest.approx((100 - 10 - 20) * 60)
    assert (status.n_failed, status.causes) == (1, (("5", "gone"),))
    assert "30 of 100 rows" in str(status) and "1.0 rows/min" in str(status) and "1 h 10 min left" in str(status)
    assert (duration(45), duration(700)) == ("45 s", "12 min")


def test_a_folder_without_a_batch_is_told(tmp_path):
    with pytest.raises(InputError, match="no journal"):
        read_status(tmp_path)


def test_the_tables_follow_the_order_of_the_studies_and_run_in_no_spreadsheet(tmp_path):
    with Journal(tmp_path) as journal:
        journal.begin("match", "0", {}, 3, 0)
        journal.add(Outcome("b", "", 3, "=1+1", "Check it."))
        journal.add(Outcome("a", "", 0, seconds=1.234, results=({"l": -1.5, "label": "x"}, {"l": None, "label": "y"})))
        write_summary(journal, lambda: iter(["a", "b", "not yet"]))
        write_results(journal, lambda: iter(["a", "b", "not yet"]), ["label", "l"])
    with open(tmp_path / "summary.csv", newline="") as stream:
        first, second = csv.DictReader(stream)
    assert (first["name"], first["exit_code"], first["seconds"]) == ("a", "0", "1.23")
    assert first["folder"] == "ca/a"  # SHA-256 of "a" begins ca978112
    assert (second["name"], second["exit_code"], second["cause"]) == ("b", "3", "'=1+1")
    assert (tmp_path / "results.csv").read_text() == "name,label,l\na,x,-1.5\na,y,\n"


def test_parquet_holds_the_same_table_with_numbers_as_numbers(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(results, "_ROWS_OF_A_GROUP", 2)
    found = ({"label": "7", "study": 1, "l": -1.5, "status": "matched"}, {"label": "y", "study": 2, "l": None})
    with Journal(tmp_path) as journal:
        journal.begin("track", "0", {}, 2, 0)
        for name in ("a", "b"):
            journal.add(Outcome(name, "", 0, results=found))
        write_parquet(journal, lambda: iter(["b", "a"]), RESULT_COLUMNS["track"])
        write_results(journal, lambda: iter(["b", "a"]), RESULT_COLUMNS["track"])
    read = parquet.ParquetFile(tmp_path / "results.parquet")
    assert read.num_row_groups == 2 and read.schema_arrow.names == ["name", *RESULT_COLUMNS["track"]]
    first, second, third, _ = read.read().to_pylist()
    assert (first["name"], first["label"], first["study"], first["l"]) == ("b", "7", 1, -1.5)
    assert (second["l"], second["status"], third["name"]) == (None, None, "a")
    with open(tmp_path / "results.csv", newline="") as stream:
        assert [row["l"] for row in csv.DictReader(stream)] == ["-1.5", "", "-1.5", ""]


def test_columns_with_types_are_columns_of_results():
    named = {name for columns in RESULT_COLUMNS.values() for name in columns}
    assert {*results._WHOLE, *results._REAL} <= named


def test_parquet_without_its_package_is_refused_before_the_work(monkeypatch):
    monkeypatch.setattr(results.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pyarrow"):
        results.check_parquet()
