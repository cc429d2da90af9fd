"""Many scans in one process, and what stays behind: memory, open files and threads must not grow with their number."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Dict, List

import numpy as np

import SAMv2Core as s
from Testing.samples.embedding_samples import torso

N_SCANS, POINTS_PER_SCAN = 50, 10
WARM_AFTER = 10  # scans, by when every library has what it keeps
MAX_GROWTH_MIB = 40.0
"""Of the resident memory from the tenth scan to the last; one embedding of these scans kept per scan would be 60."""


SLICES = 200  # of 512 x 512 voxels, 100 MiB
_READ = """
import sys
import pydicom, SimpleITK
from SAMv2Core.io.volume import read_volume
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024
before = peak()
array = read_volume(sys.argv[1]).array
print(peak() - before, array.nbytes / 2**20)
"""


def memory_table() -> List[str]:
    """What reading one scan takes at most, by format, each in a process of its own (Linux)."""
    from SAMv2Core.io.volume import Volume, write_volume
    from Testing.files import dicom
    from Testing.files.scan import SCAN

    array = np.random.default_rng(0).integers(-1000, 1000, (SLICES, 512, 512), dtype=np.int16)
    lines = ["| format | voxels | memory at most |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = {"DICOM, a file per slice": dicom.write_slices(folder / "d", slices=range(SLICES), array=array)}
        for suffix in (".nii", ".nii.gz", ".nrrd", ".mha"):
            write_volume(Volume(array, SCAN.ijk_to_lps), folder / f"a{suffix}")
            paths[suffix] = folder / f"a{suffix}"
        for what, path in paths.items():
            done = subprocess.run([sys.executable, "-c", _READ, str(path)], capture_output=True, text=True, check=True)
            taken, size = map(float, done.stdout.split())
            lines.append(f"| {what} | {size:.0f} MiB | {taken:.0f} MiB |")
    return lines


def held() -> Dict[str, float]:
    """What this process holds now: MiB of resident memory, open files, threads (Linux)."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    files = len(os.listdir("/proc/self/fd"))
    return {"MiB": pages * os.sysconf("SC_PAGE_SIZE") / 2**20, "files": files, "threads": threading.active_count()}


def soak(n_scans: int = N_SCANS) -> List[Dict[str, float]]:
    """What is held after each scan has been written, read, embedded, cached and matched with the one before."""
    model, after = s.load_model("lite-ct", "cpu"), []
    with tempfile.TemporaryDirectory() as folder:
        path, cache = Path(folder) / "scan.nii.gz", s.Cache(folder, max_bytes=3 * 2**20)
        before = None
        for number in range(n_scans):
            s.write_volume(torso((48, 48, 48), seed=number), path)
            emb = model.embed(s.read_volume(path), "ct", cache=cache)
            rows = np.random.default_rng(number).permutation(np.flatnonzero(emb.body))[:POINTS_PER_SCAN]
            points = emb.fine.grid.to_lps(np.stack(np.unravel_index(rows, emb.body.shape)[::-1], axis=1))
            assert len(s.match(before or emb, emb, points)) == POINTS_PER_SCAN
            before = emb
            after.append(held())
    return after


def soak_table(n_scans: int = N_SCANS) -> List[str]:
    """Markdown."""
    after = soak(n_scans)
    shown = sorted({min(n, n_scans) for n in (1, WARM_AFTER, n_scans // 2, n_scans)})
    rows = [(n, after[n - 1]) for n in shown]
    return [
        "| scans | matches | resident memory | open files | threads |",
        "|---|---|---|---|---|",
        *(
            f"| {n} | {n * POINTS_PER_SCAN} | {row['MiB']:.0f} MiB | {row['files']:.0f} | {row['threads']:.0f} |"
            for n, row in rows
        ),
    ]
