"""`samv2 batch` over synthetic studies: workers, what a row costs beside computing, killed workers and clients.

    python -m Testing.benchmarks.batch [--rows 200] [--table-rows 200000] [--folder DIR] [--only NAME ...]

Linux only (workers are found in /proc). A small random network computes for a fraction of a second a row, so that the
rest shows. *Beside computing* (one worker) is the time from the first ended row to the last one, less what the reports
of the rows after the first say of reading, embedding, matching and writing. The machine's load is told with each
figure: with more processes than cores the ratio of two workers to one says nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List

from SAMv2Core.batch.journal import FILE
from Testing.samples import batch_studies as batch

CASES = ("one", "two", "worker-killed", "client-killed", "dry-run")


def ended_times(output: Path) -> List[float]:
    """When each row has ended, seconds, sorted."""
    import sqlite3

    with sqlite3.connect(output / FILE) as db:
        return [row[0] for row in db.execute("SELECT finished FROM row ORDER BY finished")]


def beside_computing_ms(output: Path) -> float:
    """Mean per row, all rows but the first; of a batch with one worker."""
    rows = list(output.glob("??/*/report.json"))
    first = min(rows, key=lambda path: path.stat().st_mtime_ns)
    computing = sum(json.loads(path.read_text())["seconds_total"] for path in rows if path != first)
    times = ended_times(output)
    return 1000 * (times[-1] - times[0] - computing) / (len(rows) - 1)


def measure(table: Path, output: Path, n_workers: int, case: str, n_rows: int) -> Dict[str, object]:
    """One batch, disturbed as the case says."""
    start = time.monotonic()
    more, done_before, n_killed = ("--workers", n_workers), {}, 0
    with batch.start(table, output, *more) as client:
        if case != "one" and case != "two":
            batch.wait_for_rows(output, n_rows // 3, 3600)
            if case == "client-killed":
                batch.kill(client.pid)
            else:
                for worker in batch.workers_of(client.pid):
                    batch.kill(worker)
                    n_killed += 1
        client.communicate()
    if case == "client-killed":
        done = batch.done(output)
        done_before = {name: time for name, time in batch.written(output).items() if name in done}
        with batch.start(table, output, *more, "--resume") as client:
            client.communicate()
    seconds = time.monotonic() - start
    after, times = batch.written(output), ended_times(output)
    n_again = sum(row["attempts"] == "2" for row in batch.summary(output))
    between = (times[-1] - times[0]) / (len(times) - 1)
    return {
        "case": case,
        "workers": n_workers,
        "rows": len(batch.summary(output)),
        "rows/min": round(60 / between, 1),
        "seconds": round(seconds, 1),
        "beside computing, ms a row": round(beside_computing_ms(output), 1) if n_workers == 1 else None,
        "workers killed": n_killed,
        "rows run again": n_again,
        "done rows run again": sum(after[name] != time for name, time in done_before.items()),
        "of": len(done_before),
        "load": round(os.getloadavg()[0], 1),
    }


def dry_run(folder: Path, n_rows: int) -> Dict[str, object]:
    """A table whose every row names the same files, so that going through it is what is measured."""
    lines = ["name,template,query,points"]
    lines += [f"study_{n:07d},scan_0.nii.gz,scan_1.nii.gz,points_0.csv" for n in range(n_rows)]
    (folder / "long.csv").write_text("\n".join(lines) + "\n")
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with batch.start(folder / "long.csv", folder / "long", "--dry-run") as client:
        client.communicate()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "case": "dry-run",
        "rows": n_rows,
        "exit code": client.returncode,
        "seconds": round(time.monotonic() - start, 1),
        "CPU seconds": round(cpu, 1),
        "peak of all batches, MiB": round(after.ru_maxrss / 1024),
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--table-rows", type=int, default=200_000)
    parser.add_argument("--folder", type=Path, help="for studies and results; default: a temporary one")
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        table = batch.make_studies(folder, options.rows)
        tables = {}
        for case in options.only:
            if case == "dry-run":
                found = dry_run(folder, options.table_rows)
            else:
                output = folder / case
                found = measure(table, output, 1 if case == "one" else 2, case, options.rows)
                tables[case] = batch.results(output)
                found["same results"] = tables[case] == next(iter(tables.values()))
            print("; ".join(f"{name}: {value}" for name, value in found.items()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
