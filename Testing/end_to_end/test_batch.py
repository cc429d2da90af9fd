"""A batch is killed here and there, and ends with the results of one that was left alone."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from Testing.samples import batch_studies as batch

N_ROWS = 14

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the workers in /proc")


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return batch.make_studies(tmp_path_factory.mktemp("studies"), N_ROWS)


@pytest.fixture(scope="module")
def undisturbed(table) -> str:
    """The table of all results of a batch with one worker."""
    output = table.parent / "undisturbed"
    assert batch.start(table, output).wait(300) in (0, 6)
    rows = batch.summary(output)
    assert [row["name"] for row in rows] == [f"study_{n:04d}" for n in range(N_ROWS)]
    assert {row["exit_code"] for row in rows} <= {"0", "6"}  # a random network may find nothing
    assert len(batch.results(output).splitlines()) == 1 + 3 * N_ROWS
    return batch.results(output)


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_its_row_run_again(table, undisturbed, tmp_path):
    with batch.start(table, tmp_path / "out", "--workers", "2") as client:
        batch.wait_for_rows(tmp_path / "out", 3)
        for worker in batch.workers_of(client.pid):
            batch.kill(worker)
        client.communicate(timeout=300)
    assert batch.results(tmp_path / "out") == undisturbed
    assert sum(row["attempts"] == "2" for row in batch.summary(tmp_path / "out")) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_client_that_ends_loses_only_the_rows_under_way(table, undisturbed, tmp_path, end):
    output = tmp_path / "out"
    with batch.start(table, output, "--workers", "2") as client:
        batch.wait_for_rows(output, 3)
        client.send_signal(end)
        _, stderr = client.communicate(timeout=60)
    assert client.returncode == (-end if end == signal.SIGKILL else 130), stderr
    done = batch.done(output)
    before = {name: time for name, time in batch.written(output).items() if name in done}
    assert 3 <= len(before) < N_ROWS
    assert batch.start(table, output, "--resume").wait(300) in (0, 6)
    after = batch.written(output)
    assert {name: after[name] for name in before} == before  # nothing was done twice
    assert batch.results(output) == undisturbed  # nothing was lost
