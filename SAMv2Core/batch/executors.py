"""Who runs the rows: processes of this computer, a Dask cluster, or jobs of Slurm, behind one small interface.

Each takes a few rows at a time and gives a ``concurrent.futures.Future`` of their outcomes. What the rows raise is part
of their outcomes; so whatever a future raises means that its worker was lost, and the rows are run once more, each
alone, so that a row that kills its worker is known from those that were beside it.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import multiprocessing
import os
import queue
import shutil
import signal
import threading
import time
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Callable, Deque, Dict, Iterable, Iterator, List, Optional, Protocol, Sequence, Tuple

from SAMv2Core.batch.journal import Outcome
from SAMv2Core.errors import InputError, UsageError

Task = Any  # something that can be sent to another process, with a name and a fingerprint
Run = Callable[[Sequence[Task]], List[Outcome]]

#: A row whose worker was lost is run once more, then given up.
ATTEMPTS = 2

_CONNECT_SECONDS = 10
_RECONNECT_SECONDS = 300
_SLURM_POLL_SECONDS = 5.0
_SLURM_MINUTES = 240


class Executor(Protocol):
    """What runs rows."""

    @property
    def capacity(self) -> int:
        """So many futures at once."""

    @property
    def rows_per_future(self) -> int:
        """So many rows each."""

    def submit(self, run: Run, tasks: Sequence[Task]) -> Future[List[Outcome]]:
        """Run these tasks in a worker."""

    def close(self) -> None:
        """Stop at once; what has not ended is lost."""


def outcomes(executor: Executor, run: Run, tasks: Iterable[Task]) -> Iterator[Outcome]:
    """The outcome of every task, as they come; tasks are taken when there is room for them.

    A task whose worker was lost twice gets exit code 1. Ending early (an exception, Ctrl-C) leaves the rest undone;
    closing the executor is the caller's.
    """
    fresh = iter(tasks)
    again: Deque[Task] = deque()
    under_way: Dict[Future[List[Outcome]], Tuple[Sequence[Task], int]] = {}
    is_all_given = False
    while True:
        while len(under_way) < executor.capacity:
            chunk: Sequence[Task]
            chunk, attempt = (
                ([again.popleft()], 2) if again else (list(itertools.islice(fresh, executor.rows_per_future)), 1)
            )
            if not chunk:
                is_all_given = True
                break
            under_way[executor.submit(run, chunk)] = (chunk, attempt)
        if not under_way and is_all_given and not again:
            return
        ended, _ = concurrent.futures.wait(under_way, return_when=concurrent.futures.FIRST_COMPLETED)
        for future in ended:
            chunk, attempt = under_way.pop(future)
            try:
                found = future.result()
            except (Exception, concurrent.futures.CancelledError) as error:
                if attempt < ATTEMPTS:
                    again.extend(chunk)
                    continue
                found = [_lost(task, error) for task in chunk]
            yield from (outcome._replace(attempts=attempt) for outcome in found)


def _lost(task: Task, error: BaseException) -> Outcome:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return Outcome(
        task.name,
        task.fingerprint,
        1,
        f"Its worker was lost twice ({type(error).__name__}: {reason})",
        "Most often the system has killed it for its memory: use fewer --workers or --max-memory.",
    )


class Processes:
    """Processes of this computer, each a pool of its own: when one is lost, it is known whose it was.

    They are spawned (torch and CUDA do not survive a fork), load a model once, ignore Ctrl-C (this process decides),
    and end when this process is gone.
    """

    rows_per_future = 1

    def __init__(self, n_workers: int = 1) -> None:
        self.capacity = n_workers
        self._before = set(multiprocessing.active_children())
        self._idle: queue.SimpleQueue[ProcessPoolExecutor] = queue.SimpleQueue()
        for _ in range(n_workers):
            self._idle.put(_pool())

    def submit(self, run: Run, tasks: Sequence[Task]) -> Future[List[Outcome]]:
        """Run tasks in an idle process; waits for one."""
        pool = self._idle.get()
        try:
            future = pool.submit(run, tasks)
        except BrokenProcessPool:  # killed while it was idle: no task was lost
            pool = _pool()
            future = pool.submit(run, tasks)
        future.add_done_callback(lambda done: self._idle.put(_pool() if _is_broken(done) else pool))
        return future

    def close(self) -> None:
        """Stop the processes. Rows that are done lose nothing: this is called when none is under way, or all are
        to stop."""
        for child in set(multiprocessing.active_children()) - self._before:
            child.terminate()
        while not self._idle.empty():
            self._idle.get().shutdown(wait=False)


def _is_broken(done: Future[Any]) -> bool:
    return done.cancelled() or isinstance(done.exception(), BrokenProcessPool)


def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent.join()
    os._exit(1)


class Dask:
    """A Dask cluster, whose workers must see the same files; as many rows at once as they have threads (give each
    worker one: rows of one process run one after the other)."""

    rows_per_future = 1

    def __init__(self, address: str) -> None:
        self._address = address
        self._client = self._connect(_CONNECT_SECONDS)

    def _connect(self, seconds: float) -> Any:
        try:
            from distributed import Client
        except ImportError as error:
            raise UsageError(
                "--dask needs the Python package distributed.",
                "Install it: pip install 'samv2[dask]'.",
            ) from error
        end = time.monotonic() + seconds
        while True:
            try:
                return Client(self._address, timeout=_CONNECT_SECONDS, set_as_default=False)
            except (OSError, ValueError) as error:
                if isinstance(error, ValueError) or time.monotonic() > end:
                    raise InputError(
                        f"No Dask scheduler answers at {self._address}.", "Check its address; --resume goes on."
                    ) from error

    @property
    def capacity(self) -> int:
        """Threads of the workers that are there now, at least one: rows wait for the first worker."""
        try:
            return max(1, sum(self._client.nthreads().values()))
        except (OSError, RuntimeError):  # the scheduler is being restarted
            return 1

    def submit(self, run: Run, tasks: Sequence[Task]) -> Future[List[Outcome]]:
        """Hand tasks to the scheduler; after its restart, to the new one."""
        if self._client.status not in ("running", "connecting"):
            self._client = self._connect(_RECONNECT_SECONDS)
        future: Future[List[Outcome]] = Future()
        there = self._client.submit(run, list(tasks), pure=False)

        def hand_on(done: Any) -> None:
            try:
                future.set_result(done.result())
            except BaseException as error:
                future.set_exception(error)

        there.add_done_callback(hand_on)
        # The scheduler forgets what nobody holds.
        future.add_done_callback(lambda _: there.release())
        return future

    def close(self) -> None:
        """Leave the cluster; it drops what this client has asked for."""
        self._client.close(timeout=5)


class Slurm:
    """Jobs of Slurm through submitit, some rows each; partition, account and time come from ``SBATCH_PARTITION`` and
    the other variables that sbatch reads.

    :param folder: for scripts and logs of the jobs; on a file system that all nodes see.
    :param n_jobs: at once.
    :param cluster: ``local`` runs the same jobs as processes here, for tests.
    """

    def __init__(
        self, folder: Path, n_jobs: int, threads: Optional[int] = None, rows_per_job: int = 50, cluster: str = "slurm"
    ) -> None:
        try:
            import submitit
        except ImportError as error:
            raise UsageError(
                "--slurm needs the Python package submitit.",
                "Install it: pip install 'samv2[slurm]'.",
            ) from error
        if cluster == "slurm" and shutil.which("sbatch") is None:
            raise UsageError("--slurm: there is no sbatch here.", "Start the batch on a login node of the cluster.")
        self.capacity = n_jobs
        self.rows_per_future = rows_per_job
        self._executor = submitit.AutoExecutor(folder=str(folder), cluster=cluster)
        self._executor.update_parameters(name="samv2", timeout_min=_SLURM_MINUTES, cpus_per_task=threads or 1)
        self._jobs: Dict[Any, Future[List[Outcome]]] = {}
        self._is_closed = threading.Event()
        self._guard = threading.Lock()
        self._seconds = _SLURM_POLL_SECONDS if cluster == "slurm" else 0.2
        threading.Thread(target=self._watch, daemon=True).start()

    def submit(self, run: Run, tasks: Sequence[Task]) -> Future[List[Outcome]]:
        """One job for these tasks."""
        future: Future[List[Outcome]] = Future()
        job = self._executor.submit(run, list(tasks))
        with self._guard:
            self._jobs[job] = future
        return future

    def _watch(self) -> None:
        while not self._is_closed.wait(self._seconds):
            with self._guard:
                ended = [job for job in self._jobs if job.done()]
            for job in ended:
                with self._guard:
                    future = self._jobs.pop(job)
                try:
                    future.set_result(job.result())
                except Exception as error:  # the job was killed, ran out of time, or its node is gone
                    future.set_exception(error)

    def close(self) -> None:
        """Cancel the jobs that have not ended."""
        self._is_closed.set()
        with self._guard:
            for job in self._jobs:
                job.cancel(check=False)
