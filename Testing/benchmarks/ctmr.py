"""CT with MR of one patient, registered by ours and by others: error, honesty, time and memory in one table.

    python -m Testing.benchmarks.ctmr [--model NAME|FILE] [--set val] [--draws 10] [--methods ours,sitk,...]
                                      [--swapped 1] [--report R.json] [--data ../shared/data]

Each MR of ``ctmr/<set>`` is moved by a random rotation of up to 20 degrees per axis about its center and a translation
of up to 60 mm per axis (its header only), whole or cropped to 40 % of its slices anywhere. The truth is its authors'
alignment, which is itself a few millimeters off. The error (TRE) of a draw is the mean distance to the truth over a
lattice of 10 mm of body points inside the MR; a program that gave up counts with the displacement it was given.

``ours`` registers from embeddings and volumes, ``ours (matches)`` from embeddings alone; the others are those of
``SAMv2Core.evaluation.baselines``, each with the MR and with the CT as their fixed image. *Swapped*: every MR against
every other patient's CT, where nothing should be called registered. Time is the registration's alone (ours from cached
embeddings, their own time below the table); memory is the peak of a process that does one method's trials, the
libraries and the volumes included.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import resource
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from scipy.spatial.transform import Rotation

from SAMv2Core.embed import Model
from SAMv2Core.errors import UnreliableResultError
from SAMv2Core.evaluation.baselines import BASELINES, directed, prepare
from SAMv2Core.geometry import transform_points
from SAMv2Core.least_squares import residuals_mm
from SAMv2Core.models import load_model
from SAMv2Core.preprocess import preprocess_report
from SAMv2Core.register import register
from SAMv2Core.resample import crop_to
from SAMv2Core.search import release_index
from SAMv2Core.volume import Volume, read_volume
from Testing.benchmarks.common import find_data

ROTATION_DEG, TRANSLATION_MM = 20.0, 60.0
CROPS = {"whole": 1.0, "40 %": 0.4}
GRID_MM = 10.0
METHODS = ("ours", "ours (matches)", *(f"{name}, {which} fixed" for name in BASELINES for which in ("MR", "CT")))


class Case(NamedTuple):
    """One moved MR and the CT it is registered to; the truth is theirs when both are of one patient."""

    folder: str
    ct: str
    mr: str
    crop: str
    draw: int


class Trial(NamedTuple):
    """One registration; lengths in mm."""

    method: str
    ct: str
    mr: str
    crop: str
    draw: int
    tre_mm: float
    start_mm: float
    status: str
    seconds: float
    embedding_s: float
    facts: Dict[str, Any]


@functools.lru_cache(maxsize=16)
def scan(folder: str, name: str, kind: str) -> Volume:
    return read_volume(Path(folder) / f"{name}_{kind}.nii.gz")


def moved_mr(case: Case) -> Tuple[Volume, np.ndarray]:
    """The MR as the registration gets it, and the matrix that moved it."""
    mr = scan(case.folder, case.mr, "mr")
    rng = np.random.default_rng([case.draw, *case.mr.encode(), *case.crop.encode()])
    angles, shift = rng.uniform(-ROTATION_DEG, ROTATION_DEG, 3), rng.uniform(-TRANSLATION_MM, TRANSLATION_MM, 3)
    n_slices = mr.array.shape[0]
    kept = max(4, round(CROPS[case.crop] * n_slices))
    first = int(rng.integers(0, n_slices - kept + 1))
    width, height = int(mr.array.shape[2]), int(mr.array.shape[1])
    box = {"ijk_min": [0, 0, first], "ijk_max": [width - 1, height - 1, first + kept - 1]}
    part = crop_to(mr, box)
    center = part.grid.to_lps((part.grid.size_ijk - 1)[None] / 2)[0]
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    motion[:3, 3] = center + shift - motion[:3, :3] @ center
    return Volume(part.array, motion @ part.ijk_to_lps, part.source, part.modality), motion


def target_points(mr: Volume) -> np.ndarray:
    """(N, 3) body points of the moved MR, every 10 mm."""
    found = preprocess_report(mr, "mr")
    step = max(1, round(GRID_MM / float(found.grid.spacing_ijk_mm[0])))
    inside = found.body[::step, ::step, ::step]
    k, j, i = np.nonzero(inside)
    return found.grid.to_lps(step * np.stack([i, j, k], axis=-1))


@functools.lru_cache(maxsize=1)
def model_of(name: str) -> Model:
    return load_model(name)


@functools.lru_cache(maxsize=16)
def ct_embedding(model: str, folder: str, name: str) -> Any:
    return model_of(model).embed(scan(folder, name, "ct"), "ct")


def ours(case: Case, mr: Volume, model: str, refine: str) -> Tuple[np.ndarray, str, float, float, Dict[str, Any]]:
    """CT fixed, MR moving: matrix from CT to MR, status, times, facts for the error analysis."""
    ct = scan(case.folder, case.ct, "ct")
    fixed = ct_embedding(model, case.folder, case.ct)
    start = time.perf_counter()
    moving = model_of(model).embed(mr, "mr")
    embedded = time.perf_counter()
    found = register(fixed, moving, fixed_volume=ct, moving_volume=mr, refine=refine)
    seconds = time.perf_counter() - embedded
    release_index(moving)
    report = found.to_report()
    facts = {key: report[key] for key in ("inliers", "consistent", "overlap", "intensity", "reasons")}
    return found.matrix, found.status, seconds, embedded - start, facts


def theirs(case: Case, mr: Volume, method: str) -> Tuple[np.ndarray, str, float]:
    name, which = method.split(", ")
    ct = scan(case.folder, case.ct, "ct")
    prepare(name)
    start = time.perf_counter()
    try:
        matrix, _ = directed(BASELINES[name], ct, mr, fixed_is_smaller=which.startswith("MR"))
        status = "–"
    except UnreliableResultError:
        matrix, status = np.eye(4), "gave up"
    return matrix, status, time.perf_counter() - start


def run_method(job: Tuple[str, str, Sequence[Case]]) -> Tuple[List[Trial], float]:
    """All trials of one method in this process; and its peak memory in GiB."""
    method, model, cases = job
    trials = []
    for case in cases:
        mr, motion = moved_mr(case)
        embedding_s, facts = 0.0, {}
        if method.startswith("ours"):
            refine = "off" if "matches" in method else "auto"
            matrix, status, seconds, embedding_s, facts = ours(case, mr, model, refine)
        else:
            matrix, status, seconds = theirs(case, mr, method)
        tre = start = float("nan")
        if case.ct == case.mr:
            points = target_points(mr)
            truth = transform_points(np.linalg.inv(motion), points)
            tre = float(residuals_mm(np.linalg.inv(matrix), points, truth).mean())
            start = float(np.linalg.norm(points - truth, axis=1).mean())
        place = (case.ct, case.mr, case.crop, case.draw)
        trials.append(Trial(method, *place, tre, start, status, seconds, embedding_s, facts))
        print(f"{method}: {place} {tre:.1f} mm, {status}, {seconds:.1f} s", flush=True)
    return trials, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def summarize(trials: Sequence[Trial], memory: Dict[str, float]) -> List[Dict[str, Any]]:
    """One row per crop and method."""
    rows = []
    for crop in CROPS:
        for method in METHODS:
            own = [t for t in trials if t.method == method and t.crop == crop and t.ct == t.mr]
            if not own:
                continue
            tre = np.array([t.tre_mm for t in own])
            called = [t.tre_mm for t in own if t.status == "registered"]
            swapped = [t.status for t in trials if t.method == method and t.crop == crop and t.ct != t.mr]
            rows.append(
                {
                    "MR": crop,
                    "method": method,
                    "n": len(own),
                    "start_mm": float(np.median([t.start_mm for t in own])),
                    "median_mm": float(np.median(tre)),
                    "p90_mm": float(np.percentile(tre, 90)),
                    "above_20": float((tre > 20).mean()),
                    "registered": len(called) / len(own) if method.startswith("ours") else None,
                    "of_these_15": float((np.array(called) <= 15).mean()) if called else None,
                    "swapped_not_registered": float(np.mean([s != "registered" for s in swapped])) if swapped else None,
                    "seconds": float(np.median([t.seconds for t in own])),
                    "memory_gib": memory[method],
                }
            )
    return rows


def to_markdown(rows: Sequence[Dict[str, Any]]) -> str:
    lines = [
        "| MR | method | n | median TRE | 90 % | > 20 mm | registered | of these ≤ 15 mm | swapped: not registered "
        "| time | memory |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        shares = [row[n] for n in ("above_20", "registered", "of_these_15", "swapped_not_registered")]
        shown = ["–" if share is None else f"{share:.0%}".replace("%", " %") for share in shares]
        lengths = [f"{row['median_mm']:.1f} mm", f"{row['p90_mm']:.1f} mm"]
        costs = [f"{row['seconds']:.1f} s", f"{row['memory_gib']:.1f} GiB"]
        lines.append(f"| {' | '.join([row['MR'], row['method'], str(row['n']), *lengths, *shown, *costs])} |")
    return "\n".join(lines)


def cases_of(folder: Path, draws: int, swapped: int) -> Tuple[List[Case], List[Case]]:
    """Right pairs, and (for ours) pairs of different patients."""
    names = sorted(path.name[: -len("_ct.nii.gz")] for path in folder.glob("*_ct.nii.gz"))
    right = [Case(str(folder), name, name, crop, draw) for name in names for crop in CROPS for draw in range(draws)]
    wrong = [
        Case(str(folder), ct, mr, crop, draw)
        for mr in names for ct in names if ct != mr for crop in CROPS for draw in range(swapped)
    ]  # fmt: skip
    return right, wrong


def main(argv: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lite-ctmr")
    parser.add_argument("--data")
    parser.add_argument("--set", default="val", choices=("train", "val"))
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--swapped", type=int, default=1, help="draws per pair of different patients")
    parser.add_argument("--methods", default=";".join(METHODS), help="of the table, separated by semicolons")
    parser.add_argument("--report", help="JSON with the table and every trial")
    args = parser.parse_args(argv)
    right, wrong = cases_of(find_data(args.data) / "ctmr" / args.set, args.draws, args.swapped)
    trials: List[Trial] = []
    memory: Dict[str, float] = {}
    for method in args.methods.split(";"):
        cases = [*right, *wrong] if method.startswith("ours") else right
        # A process of its own: its peak memory is the method's, and one library cannot disturb another.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            done, memory[method] = pool.apply(run_method, ((method, args.model, cases),))
        trials += done
    rows = summarize(trials, memory)
    print(f"\nModel {args.model}, ctmr/{args.set}, {args.draws} draws\n")
    print(to_markdown(rows))
    embedding = [t.embedding_s for t in trials if t.embedding_s]
    if embedding:
        print(f"\nEmbedding an MR: {np.median(embedding):.1f} s")
    if args.report:
        content = {"model": args.model, "rows": rows, "trials": [t._asdict() for t in trials]}
        Path(args.report).write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
