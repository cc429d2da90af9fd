"""A worker that is killed loses no row, a row that kills its workers harms no other: with each executor."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from SAMv2Core.batch.executors import Dask, Processes, Slurm, outcomes
from SAMv2Core.errors import InputError, UsageError
from Testing.samples.batch_rows import Task, n_starts, run

ROOT = Path(__file__).resolve().parents[3]
NAMES = ["a", "b", "killer", "c", "unlucky", "d", "e"]


def tasks(folder: Path, names=NAMES):
    return [Task(name, f"mark of {name}", str(folder)) for name in names]


def check_all_ended(found, folder: Path) -> None:
    ended = {outcome.name: outcome for outcome in found}
    assert len(found) == len(ended) and set(ended) == set(NAMES)
    assert {name for name, outcome in ended.items() if outcome.exit_code} == {"killer"}
    assert "lost twice" in ended["killer"].cause and "memory" in ended["killer"].remedy
    assert (ended["unlucky"].attempts, ended["unlucky"].fingerprint) == (2, "mark of unlucky")
    assert n_starts(folder, "unlucky") == 2


def test_processes_lose_no_row_and_blame_no_innocent_one(tmp_path):
    with contextlib.closing(Processes(2)) as executor:
        found = list(outcomes(executor, run, tasks(tmp_path)))
    check_all_ended(found, tmp_path)
    # One pool a worker: whoever was not killed was started once.
    assert {name: n_starts(tmp_path, name) for name in NAMES} == {**dict.fromkeys(NAMES, 1), "killer": 2, "unlucky": 2}


def test_tasks_are_taken_as_there_is_room(tmp_path):
    taken = []
    with contextlib.closing(Processes(1)) as executor:
        stream = outcomes(executor, run, (taken.append(task.name) or task for task in tasks(tmp_path, "abcdef")))
        next(stream)
        assert taken == ["a"]
        workers = {outcome.results[0]["pid"] for outcome in stream}
    assert len(workers) == 1  # what it has loaded serves all rows


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" if Path("/proc").exists() else True


@pytest.mark.skipif(sys.platform == "win32", reason="kills by signals")
def test_workers_end_when_their_client_is_killed(tmp_path):
    program = f"""
        from SAMv2Core.batch.executors import Processes, outcomes
        from Testing.samples.batch_rows import Task, run
        if __name__ == "__main__":
            rows = [Task(name, "", {str(tmp_path)!r}) for name in ("a", "slow")]
            for outcome in outcomes(Processes(1), run, rows):
                print(outcome.results[0]["pid"], flush=True)
    """
    (tmp_path / "client.py").write_text(textwrap.dedent(program))
    command = [sys.executable, str(tmp_path / "client.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}) as client:
        worker = int(client.stdout.readline())
        client.kill()
    end = time.monotonic() + 30
    while is_alive(worker) and time.monotonic() < end:
        time.sleep(0.1)
    assert not is_alive(worker)


@pytest.fixture(scope="module")
def cluster():
    """Real workers, processes of one thread, on the loopback; lost ones are replaced."""
    distributed = pytest.importorskip("distributed")
    # Without a nanny's patience of its own: a killed task is given up after the first loss, the second try is ours.
    import dask

    with dask.config.set(
        {"distributed.scheduler.allowed-failures": 0, "distributed.admin.system-monitor.gil.enabled": False}
    ):
        with distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1", silence_logs=50
        ) as cluster:
            yield cluster


def test_dask_loses_no_row(cluster, tmp_path):
    with contextlib.closing(Dask(cluster.scheduler_address)) as executor:
        cluster.wait_for_workers(2)
        assert executor.capacity == 2
        check_all_ended(list(outcomes(executor, run, tasks(tmp_path))), tmp_path)


def test_a_scheduler_that_is_not_there_is_told(monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("SAMv2Core.batch.executors._CONNECT_SECONDS", 1)
    with pytest.raises(InputError, match=r"No Dask scheduler answers at tcp://127.0.0.1:9"):
        Dask("tcp://127.0.0.1:9")


def test_jobs_of_slurm_lose_no_row(tmp_path, monkeypatch):
    """submitit runs the same jobs as processes; several rows a job, lost ones again alone."""
    submitit = pytest.importorskip("submitit")
    monkeypatch.setattr(submitit.Job, "_results_timeout_s", 1)  # it waits for slow file systems; here is none
    (tmp_path / "rows").mkdir()
    executor = Slurm(tmp_path / "jobs", n_jobs=2, rows_per_job=3, cluster="local")
    with contextlib.closing(executor):
        check_all_ended(list(outcomes(executor, run, tasks(tmp_path / "rows"))), tmp_path / "rows")


def test_slurm_where_there_is_none_is_told(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match="sbatch"):
        Slurm(tmp_path, 1)


def dask_cluster(folder: Path, port: int) -> list:
    """Scheduler and one worker of one thread, as their own commands."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    scheduler = ["scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard", "--no-show"]
    worker = ["worker", f"tcp://127.0.0.1:{port}", "--nthreads", 1, "--no-nanny", "--no-dashboard"]
    worker += ["--local-directory", folder]
    return [
        subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_" + command[0], *map(str, command[1:])],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for command in (scheduler, worker)
    ]


@pytest.mark.slow
def test_a_scheduler_that_is_killed_and_started_again_costs_no_row(tmp_path):
    pytest.importorskip("distributed")
    (tmp_path / "rows").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = [f"nap {n}" for n in range(8)]
    running = dask_cluster(tmp_path, port)
    try:
        with contextlib.closing(Dask(f"tcp://127.0.0.1:{port}")) as executor:
            stream = outcomes(executor, run, tasks(tmp_path / "rows", names))
            found = [next(stream), next(stream)]
            for process in running:
                process.kill()
                process.wait()
            running = dask_cluster(tmp_path, port)
            found += stream
    finally:
        for process in running:
            process.kill()
            process.wait()
    assert sorted(outcome.name for outcome in found) == names
    assert not [outcome for outcome in found if outcome.exit_code]
    assert all(n_starts(tmp_path / "rows", outcome.name) == 1 for outcome in found[:2])
