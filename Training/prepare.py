"""Prepares any folder of scans for training: an index and memory-mapped arrays (see :mod:`Training.data.index`).

    python -m Training.prepare SOURCE [SOURCE ...] --out DIR [--layout auto] [--jobs N]

A source is a folder of NIfTI, NRRD or MetaImage files or of DICOM series, or a CSV of CT-MR pairs; the layouts that are
recognised are those of :mod:`Training.data.layouts`. ``DIR/index.jsonl`` lists the scans, ``DIR/arrays`` holds them.

Files that cannot be used are skipped, listed with the reason in ``DIR/skipped.jsonl`` and counted; a label map of
another geometry is skipped, its image kept. Run it again after a change or an interruption: only what is new or changed
is read. Scans that an earlier run prepared from other sources stay in the index.

Exit code 0 when the index holds at least one scan; 2 for wrong usage; 3 when a source or the output is at fault.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, TextIO, Tuple

from SAMv2Core.errors import InputError, MemoryLimitError, OutputError, SAMv2Error
from SAMv2Core.io.files import output_error, write_text
from Training.data.index import INDEX_NAME, Entry, read_index, to_line, write_index
from Training.data.jobs import Job, unique
from Training.data.landmarks import landmark_file, read_landmarks
from Training.data.layouts import LAYOUTS, find_jobs
from Training.data.prepare_scan import Problem, fingerprint, prepare_scan
from Training.engine.command import finish

logger = logging.getLogger(__name__)

JOURNAL = "journal.jsonl"
SKIPPED = "skipped.jsonl"


class Outcome(NamedTuple):
    """Of one job: its entry or None, and what was left out."""

    name: str
    entry: Optional[Entry]
    problems: List[Problem]


def prepare(
    sources: Sequence[Path], out: Path, layout: str = "auto", n_processes: int = 1, progress: Optional[TextIO] = None
) -> List[Problem]:
    """Prepare all scans of the sources; the index is written at the end, from a journal that survives interruption.

    :param progress: where a progress bar goes, or None.
    :returns: what was left out, as in ``skipped.jsonl``.
    :raises InputError: a source holds nothing, or nothing usable is in the index.
    :raises OutputError: the folder cannot be written, the disk is full.
    """
    jobs = unique([job for source in sources for job in find_jobs(source, layout)])
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(out, error) from error
    entries = _known_entries(out)
    todo = [job for job in jobs if not _is_done(job, entries.get(job.name), out)]
    logger.info("%d scans found, %d of them prepared already.", len(jobs), len(jobs) - len(todo))
    before = {problem.source: problem for problem in _read_problems(out)}
    problems: List[Problem] = []
    with open(out / JOURNAL, "a", encoding="utf-8") as journal:
        for outcome in _show(_run(todo, out, n_processes), len(todo), progress):
            entries.pop(outcome.name, None)
            problems += outcome.problems
            if outcome.entry is not None:
                entries[outcome.name] = outcome.entry
                _append(journal, outcome.entry, out)
    # A scan that is not read again keeps what was found wrong with its labels.
    kept = {job.name for job in jobs} - {job.name for job in todo}
    problems += [problem for problem in before.values() if problem.name in kept]
    _finish(out, jobs, entries, problems)
    return problems


def _append(journal: TextIO, entry: Entry, out: Path) -> None:
    try:
        journal.write(to_line(entry) + "\n")
        journal.flush()
    except OSError as error:
        raise output_error(out / JOURNAL, error) from error


def _known_entries(out: Path) -> Dict[str, Entry]:
    """Entries of the index and of the journal of an interrupted run; a torn last line is dropped."""
    entries: Dict[str, Entry] = {}
    if (out / INDEX_NAME).exists():
        entries = {entry.name: entry for entry in read_index(out).entries}
    if (out / JOURNAL).exists():
        for line in (out / JOURNAL).read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = Entry(**json.loads(line))
            except (ValueError, TypeError, InputError):
                continue
            entries[entry.name] = entry
    return entries


def _is_done(job: Job, entry: Optional[Entry], out: Path) -> bool:
    if entry is None or entry.fingerprint != fingerprint(job):
        return False
    paths = (entry.image, entry.body, entry.image_4mm, entry.body_4mm, entry.labels)
    return all((out / path).is_file() for path in paths if path is not None)


def _read_problems(out: Path) -> List[Problem]:
    try:
        lines = (out / SKIPPED).read_text(encoding="utf-8").splitlines()
        return [Problem(**json.loads(line)) for line in lines if line.strip()]
    except (OSError, ValueError, TypeError):
        return []


def _prepare_job(job: Job, out: Path) -> Outcome:
    """Runs in a worker; expected failures become problems, a full disk ends the run."""
    try:
        entry, problems = prepare_scan(job, out)
        return Outcome(job.name, entry, problems)
    except OutputError:
        raise
    except SAMv2Error as error:
        return Outcome(job.name, None, [Problem(job.name, str(job.image), "scan", str(error))])
    except Exception as error:  # one strange file must not end a run of thousands
        logger.debug("unexpected failure", exc_info=True)
        reason = f"unexpected failure, please report it: {type(error).__name__}: {error}"
        return Outcome(job.name, None, [Problem(job.name, str(job.image), "scan", reason)])


def _start_worker() -> None:
    import SimpleITK as sitk
    import torch

    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def _run(jobs: Sequence[Job], out: Path, n_processes: int) -> Iterator[Outcome]:
    if n_processes <= 1 or len(jobs) <= 1:
        yield from (_prepare_job(job, out) for job in jobs)
        return
    # Spawned, not forked: torch and ITK hold threads that a fork would lose.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_processes, mp_context=context, initializer=_start_worker) as pool:
        futures = [pool.submit(_prepare_job, job, out) for job in jobs]
        try:
            yield from (future.result() for future in as_completed(futures))
        except BrokenProcessPool as error:
            raise MemoryLimitError(
                "A worker process was killed, as a rule because memory ran out.",
                "Run the command again with fewer --jobs; what is done is kept.",
            ) from error
        finally:
            for future in futures:
                future.cancel()


def _show(outcomes: Iterator[Outcome], total: int, stream: Optional[TextIO]) -> Iterator[Outcome]:
    """Pass the outcomes on with a progress bar: one line on a terminal, a line per tenth elsewhere."""
    start, shown = time.monotonic(), 0
    for n, outcome in enumerate(outcomes, start=1):
        yield outcome
        if stream is None:
            continue
        left = (time.monotonic() - start) / n * (total - n)
        bar = "#" * (30 * n // total)
        text = f"[{bar:<30}] {n}/{total}, {left:.0f} s left, {outcome.name}"
        if stream.isatty():
            stream.write(f"\r{text:.110}\033[K" + ("\n" if n == total else ""))
        elif 10 * n // total > shown:
            shown = 10 * n // total
            stream.write(text + "\n")
        stream.flush()


def _finish(out: Path, jobs: Sequence[Job], entries: Dict[str, Entry], problems: Sequence[Problem]) -> None:
    """Write index and list of what was skipped; say what there is."""
    for job in jobs:
        # What costs no reading follows the sources at once: split, group, partner, landmarks.
        if job.name in entries:
            partner = job.partner if job.partner in entries else None
            entries[job.name] = dataclasses.replace(
                entries[job.name],
                split=job.split,
                group=job.group,
                partner=partner,
                partner_matrix=job.partner_matrix if partner else None,
                landmarks=_landmarks_of(job),
            )
    write_index(out, (entries[name] for name in sorted(entries)))
    lines = [json.dumps(problem._asdict(), ensure_ascii=False) for problem in problems]
    write_text(out / SKIPPED, "".join(line + "\n" for line in lines))
    (out / JOURNAL).unlink()
    for problem in problems:
        logger.warning("skipped (%s) %s: %s", problem.what, problem.source, problem.reason)
    n_scans = sum(problem.what == "scan" for problem in problems)
    logger.info(
        "%s: %d scans (%d CT, %d MR, %d with labels); skipped: %d scans, %d label files.",
        out / INDEX_NAME,
        len(entries),
        sum(entry.modality == "ct" for entry in entries.values()),
        sum(entry.modality == "mr" for entry in entries.values()),
        sum(entry.labels is not None for entry in entries.values()),
        n_scans,
        len(problems) - n_scans,
    )
    if not entries:
        raise InputError("No scan could be used.", f"The reasons are in {out / SKIPPED}.")


def _landmarks_of(job: Job) -> Optional[Dict[str, Tuple[float, float, float, float]]]:
    path = landmark_file(job.image)
    return read_landmarks(path) if path.is_file() else None


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m Training.prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", type=Path, nargs="+", metavar="SOURCE")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layout", choices=("auto", *LAYOUTS), default="auto")
    parser.add_argument(
        "--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="processes; default %(default)s"
    )
    args = parser.parse_args(argv)
    return finish(lambda: prepare(args.sources, args.out, args.layout, args.jobs, sys.stderr), args.out)


if __name__ == "__main__":
    sys.exit(main())
