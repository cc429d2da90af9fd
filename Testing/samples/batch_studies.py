"""A table of synthetic studies with a small random network, and `samv2 batch` over it, disturbed from outside."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Set

import numpy as np

from SAMv2Core.batch.journal import Journal, read_status
from SAMv2Core.batch.table import folder_of
from SAMv2Core.errors import InputError
from SAMv2Core.io.volume import write_volume
from SAMv2Core.models.checkpoints import save_network
from Testing.samples.embedding_samples import small_lite, torso

ROOT = Path(__file__).resolve().parents[2]


def make_studies(folder: Path, n_rows: int, n_scans: int = 8, seed: int = 0) -> Path:
    """``studies.csv``: rows of two scans out of a few and three points of their own; and ``tiny.safetensors``."""
    rng = np.random.default_rng(seed)
    for n in range(n_scans):
        write_volume(torso(seed=n), folder / f"scan_{n}.nii.gz")
    save_network(small_lite(), folder / "tiny.safetensors", {"name": "tiny"})
    lines = ["name,template,query,points"]
    for n in range(n_rows):
        points = rng.uniform((-20, -15, 120), (20, 15, 160), (3, 3))
        rows = [f"{label},{','.join(f'{value:.1f}' for value in lps)}" for label, lps in zip("abc", points)]
        (folder / f"points_{n}.csv").write_text("\n".join(["label,l,p,s", *rows]) + "\n")
        template, query = rng.integers(n_scans, size=2)
        lines.append(f"study_{n:04d},scan_{template}.nii.gz,scan_{query}.nii.gz,points_{n}.csv")
    (folder / "studies.csv").write_text("\n".join(lines) + "\n")
    return folder / "studies.csv"


def start(table: Path, output: Path, *more: Any) -> subprocess.Popen[str]:
    """`samv2 batch match` over the studies, nothing kept between rows but the model."""
    command = [sys.executable, "-m", "SAMv2Core", "batch", "match", "--table", table, "--output", output]
    command += ["--model", table.parent / "tiny.safetensors", "--cache", "off", *more]
    return subprocess.Popen(
        list(map(str, command)),
        cwd=table.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has them ignore Ctrl-C, and samv2 heeds what it inherits.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_for_rows(output: Path, n_rows: int, seconds: float = 200) -> int:
    """Wait until so many rows have ended; returns how many have."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            n_ended = read_status(output).n_ended
        except InputError:  # not yet begun
            n_ended = 0
        if n_ended >= n_rows:
            return n_ended
        time.sleep(0.02)
    raise TimeoutError(f"{n_rows} rows have not ended in {seconds} s")


def workers_of(pid: int) -> List[int]:
    """Processes that a batch on Linux has spawned for rows."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def kill(pid: int) -> None:
    """As the system does when memory is short."""
    os.kill(pid, signal.SIGKILL)


def written(output: Path) -> Dict[str, int]:
    """When the report of each row was written (ns): once, unless the row was run again."""
    reports = output.glob("[0-9a-f][0-9a-f]/*/report.json")
    return {path.parent.name: path.stat().st_mtime_ns for path in reports}


def summary(output: Path) -> List[Dict[str, str]]:
    """The lines of ``summary.csv``."""
    with open(output / "summary.csv", newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def results(output: Path) -> str:
    """``results.csv`` as text: equal for equal results."""
    return (output / "results.csv").read_text(encoding="utf-8")


def report_of(output: Path, name: str) -> Path:
    """The report of a row."""
    return Path(folder_of(output, name)) / "report.json"


def done(output: Path) -> Set[str]:
    """Rows that the journal knows as done."""
    with Journal(output) as journal:
        return set(journal.done())
