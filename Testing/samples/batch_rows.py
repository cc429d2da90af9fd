"""Rows of a batch whose work is to behave or not to; workers import them."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import Future
from pathlib import Path
from typing import List, NamedTuple, Sequence

from SAMv2Core.batch.journal import Outcome


class Task(NamedTuple):
    """folder: where each start of the row leaves a file."""

    name: str
    fingerprint: str
    folder: str


def run(tasks: Sequence[Task]) -> List[Outcome]:
    """A row named ``killer...`` kills its process, ``unlucky...`` the first time, ``slow...`` takes a minute and
    ``nap...`` half a second."""
    outcomes = []
    for task in tasks:
        n_before = n_starts(Path(task.folder), task.name)
        Path(task.folder, f"{task.name}.{n_before + 1}").touch()
        if task.name.startswith("killer") or (task.name.startswith("unlucky") and not n_before):
            os.kill(os.getpid(), signal.SIGKILL)
        if task.name.startswith("slow"):
            time.sleep(60)
        if task.name.startswith("nap"):
            time.sleep(0.5)
        outcomes.append(Outcome(task.name, task.fingerprint, 0, results=({"pid": os.getpid()},)))
    return outcomes


def n_starts(folder: Path, name: str) -> int:
    """How often a row has been started."""
    return len(list(folder.glob(f"{name}.*")))


class Here:
    """An executor that runs rows in this process, at once."""

    capacity = rows_per_future = 1

    def submit(self, run, tasks):
        future: Future = Future()
        future.set_result(run(tasks))
        return future

    def close(self):
        pass
