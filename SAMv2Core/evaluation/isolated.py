"""One registration in a process of its own, so that its peak memory is its own and its crash is a row in a table.

The parent writes a job (JSON), starts ``python -m SAMv2Core.evaluation.isolated JOB RESULT`` and waits; cancelling
kills the child. Seconds are those of the registration alone: loading packages (13 s for ``itk``), the model and the
volumes is not part of them, and for embeddings they include embedding (told apart in ``details``). Peak memory is that
of the whole process, Python and packages included.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Tuple

import numpy as np

from SAMv2Core.embedding.memory import peak_rss_bytes
from SAMv2Core.errors import SAMv2Error
from SAMv2Core.evaluation import baselines
from SAMv2Core.io.volume import Volume, read_volume
from SAMv2Core.progress import Progress

_POLL_SECONDS = 0.2
_THREAD_VARIABLES = ("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "OMP_NUM_THREADS")


@dataclass(frozen=True, eq=False)
class Run:
    """How a registration in a child process ended.

    :param matrix: (4, 4) LPS fixed to moving, or None when it failed.
    :param error: why, empty when it did not.
    :param seconds: of the registration; None when it failed.
    :param details: what else the method tells.
    """

    matrix: Optional[np.ndarray]
    error: str = ""
    seconds: Optional[float] = None
    peak_memory_mib: Optional[float] = None
    details: Dict[str, Any] = field(default_factory=dict)


def run_isolated(job: Mapping[str, Any], timeout: float = 900.0, progress: Optional[Progress] = None) -> Run:
    """Run a job in a child process.

    :param job: ``method`` (a baseline's name, or ``features``), ``fixed``, ``moving`` (paths), ``initial`` (4x4), and
        what the method needs, see :func:`perform`.
    :param progress: called with (fraction of ``timeout``, text) while waiting; what it raises kills the child and
        passes through.
    """
    with tempfile.TemporaryDirectory(prefix="samv2-") as folder:
        paths = [Path(folder, name) for name in ("job.json", "result.json")]
        paths[0].write_text(json.dumps(job), encoding="utf-8")
        environment = dict(os.environ)
        root = str(Path(__file__).resolve().parents[2])
        if job.get("threads"):
            environment.update(dict.fromkeys(_THREAD_VARIABLES, str(job["threads"])))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
        command = [sys.executable, "-m", __name__, *map(str, paths)]
        with open(Path(folder, "log.txt"), "w+", encoding="utf-8", errors="replace") as log:
            child = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment)
            try:
                timed_out = _wait(child, timeout, progress)
            finally:
                if child.poll() is None:
                    child.kill()
                    child.wait()
            log.seek(0)
            last = [line.strip() for line in log.read().splitlines() if line.strip()][-1:]
        if timed_out:
            return Run(None, f"it took longer than {timeout:g} s")
        if not paths[1].exists():
            return Run(None, f"its process ended with code {child.returncode} ({''.join(last)[:200]})")
        result = json.loads(paths[1].read_text(encoding="utf-8"))
    if result.get("matrix") is not None:
        result["matrix"] = np.array(result["matrix"], dtype=np.float64)
    return Run(**result)


def _wait(child: subprocess.Popen, timeout: float, progress: Optional[Progress]) -> bool:
    """True when the time is up before the child has ended."""
    start = time.monotonic()
    while child.poll() is None:
        elapsed = time.monotonic() - start
        if elapsed > timeout:
            return True
        if progress is not None:
            progress(min(elapsed / timeout, 1.0), f"{elapsed:.0f} s")
        time.sleep(_POLL_SECONDS)
    return False


def perform(job: Mapping[str, Any]) -> Dict[str, Any]:
    """What the child does: the fields of a :class:`Run`."""
    try:
        fixed, moving = read_volume(job["fixed"]), read_volume(job["moving"])
        initial = np.array(job["initial"], dtype=np.float64)
        moving = _started(moving, initial)
        how = _by_features if job["method"] == "features" else _by_baseline
        matrix, seconds, details = how(job, fixed, moving)
        result: Dict[str, Any] = {"matrix": (initial @ matrix).tolist(), "seconds": seconds, "details": details}
    except SAMv2Error as error:
        result = {"matrix": None, "error": f"{error.cause} {error.remedy}".strip()}
    except Exception as error:  # another program's fault is a row of the table, whatever it is
        text = " ".join(str(error).split())
        result = {"matrix": None, "error": f"{type(error).__name__}: {text[:200]}"}
    peak = peak_rss_bytes()
    result["peak_memory_mib"] = None if peak is None else round(peak / 2**20, 1)
    return result


def _started(moving: Volume, initial: np.ndarray) -> Volume:
    """The moving volume where the initial transform puts it: what is found from there comes after it."""
    if np.allclose(initial, np.eye(4)):
        return moving
    return Volume(moving.array, np.linalg.inv(initial) @ moving.ijk_to_lps, moving.source, moving.modality)


def _by_baseline(job: Mapping[str, Any], fixed: Volume, moving: Volume) -> Tuple[np.ndarray, float, Dict[str, Any]]:
    name = job["method"]
    baselines.prepare(name)
    start = time.perf_counter()
    matrix, swapped = baselines.directed(baselines.BASELINES[name], fixed, moving, job["fixed_is_smaller"])
    return matrix, time.perf_counter() - start, {"swapped": swapped}


def _by_features(job: Mapping[str, Any], fixed: Volume, moving: Volume) -> Tuple[np.ndarray, float, Dict[str, Any]]:
    from SAMv2Core.evaluation.chosen import make_extractor
    from SAMv2Core.preprocessing.modality import detect_modality
    from SAMv2Core.registration.register import register

    told = (job["fixed_modality"], job["moving_modality"])
    modalities = [detect_modality(v)[0] if m == "auto" else m for v, m in zip((fixed, moving), told)]
    extractor = make_extractor(job["features"], modalities)
    start = time.perf_counter()
    one, other = (extractor.embed(volume, m) for volume, m in zip((fixed, moving), modalities))
    embedded = time.perf_counter()
    # Intensities decide what the matches propose, as in `samv2 register`, unless the features themselves are compared.
    scans = (fixed, moving) if job.get("intensities") else (None, None)
    found = register(
        one, other, transform=job["transform"], seed=job["seed"], fixed_volume=scans[0], moving_volume=scans[1]
    )
    end = time.perf_counter()
    details = {
        "status": found.status,
        "reasons": list(found.reasons),
        "seconds_embed": embedded - start,
        "seconds_register": end - embedded,
        "model": extractor.name,
        "model_sha256": one.model_sha256,
        "modalities": [one.modality, other.modality],
        "warnings": [*one.warnings, *other.warnings],
    }
    return found.matrix, end - start, details


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(perform(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))))
