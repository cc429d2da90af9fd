"""CT with MR of one patient, registered by ours and by others: error, honesty, time and memory in one table.

    python -m Testing.benchmarks.ctmr [--model NAME|FILE] [--set val] [--draws 10] [--draws-ct-fixed N]
        [--methods "ours;ants, MR fixed;..."] [--crops "40 %"] [--first-draw 0] [--swapped 1] [--table-only]
        [--trials FILE.jsonl] [--cache FOLDER] [--report R.json] [--data FOLDER]

Each MR of ``ctmr/<set>`` is moved by a random rotation of up to 20 degrees per axis about its center and a translation
of up to 60 mm per axis (its header only), whole or cropped to 40 % of its slices anywhere. The error of a draw is

* *at bone*, where points of bone were placed by hand in CT and MR (``NAME.points.json``): the median distance over
  those that the MR shows, if it shows three. The authors' alignment of the pair is judged by the same points.
* *to the authors' alignment* (TRE): the mean distance over a lattice of 10 mm of body points inside the MR. It is no
  truth: at bone it is 3 to 13 mm off itself.

A program that gave up counts with the displacement it was given.

``ours`` registers from embeddings and volumes, ``ours (matches)`` from embeddings alone; the others are those of
``SAMv2Core.evaluation.baselines``, each with the MR and with the CT as their fixed image. *Swapped*: every MR against
every other patient's CT, where nothing should be called registered. Time is the registration's alone, ours from
embeddings that are at hand (``--cache`` keeps them between runs), with CPU seconds beside, since the wall's depend on
what else runs. Memory is the peak of a process that does one method's trials, libraries and volumes included.

With ``--trials`` finished trials are kept in a file and not run again, since the whole takes hours; ours carry the
weights' SHA-256 and a digest of the code that registers, and count for no other. ``--table-only`` runs nothing.
"""

from __future__ import annotations

import argparse
import ast
import functools
import hashlib
import json
import multiprocessing
import resource
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from scipy.spatial.transform import Rotation

import SAMv2Core
from SAMv2Core.embedding.cache import Cache
from SAMv2Core.embedding.load import load_model
from SAMv2Core.embedding.model import Model
from SAMv2Core.errors import UnreliableResultError
from SAMv2Core.evaluation.baselines import BASELINES, directed, prepare
from SAMv2Core.evaluation.tables import number, table
from SAMv2Core.geometry.grid import transform_points
from SAMv2Core.io.resample import crop_to
from SAMv2Core.io.volume import Volume, read_volume
from SAMv2Core.matching.search import release_index
from SAMv2Core.models.catalogue import model_info
from SAMv2Core.preprocessing.preprocess import preprocess_report
from SAMv2Core.registration.least_squares import residuals_mm
from SAMv2Core.registration.register import register
from Testing.benchmarks.common import add_publish_option, check_publish, find_data, keep
from Testing.benchmarks.intervals import interval, median

ROTATION_DEG, TRANSLATION_MM = 20.0, 60.0
CROPS = {"whole": 1.0, "40 %": 0.4}
RIGHT_MM = 10.0  # at bone
MIN_SURE, MIN_POINTS = 0.5, 3  # of the hand-placed points
AUTHORS = "the authors' alignment"
GRID_MM = 10.0
REGISTERING = (
    "registration/register",
    "registration/verdict",
    "registration/poses",
    "registration/tissue",
    "registration/pose_search",
    "registration/pose_refinement",
    "matching/nearest",
    "registration/ransac",
    "registration/least_squares",
    "matching/sampling",
)
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
    tre_mm: Optional[float]
    start_mm: Optional[float]
    status: str
    seconds: float
    embedding_s: float
    memory_gib: float
    facts: Dict[str, Any]
    cpu_s: Optional[float] = None
    version: str = ""  # of ours, see code_version
    bone_mm: Optional[float] = None
    authors_bone_mm: Optional[float] = None

    @property
    def key(self) -> Tuple[Any, ...]:
        return (self.method, self.ct, self.mr, self.crop, self.draw, self.version)


def is_ours(method: str) -> bool:
    return method.startswith("ours")


def code_version(model: str) -> str:
    """What ours depends on: the weights, and the code that registers without its comments and docstrings."""
    digest = hashlib.sha256(model_of(model).info.sha256.encode())
    for name in REGISTERING:
        tree = ast.parse((Path(SAMv2Core.__file__).parent / f"{name}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                node.value.value = None
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:12]


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


def bone_points(folder: str, name: str) -> Optional[Tuple[np.ndarray, np.ndarray]]:
    """(N, 3) points of bone in a pair's CT and (N, 3) the same in its MR as it was given; None: none were placed."""
    path = Path(folder) / f"{name}.points.json"
    if not path.exists():
        return None
    points = [p for p in json.loads(path.read_text(encoding="utf-8"))["points"].values() if p["sure"] >= MIN_SURE]
    return np.array([p["ct_lps"] for p in points]), np.array([p["mr_lps"] for p in points])


def bone_errors(
    points: Optional[Tuple[np.ndarray, np.ndarray]], mr: Volume, motion: np.ndarray, matrix: np.ndarray
) -> Tuple[Optional[float], Optional[float]]:
    """Median distance at the points of bone that a moved MR shows, of a matrix from the CT to it and of the authors'
    alignment; None where it shows too few."""
    if points is None:
        return None, None
    ct, placed = points
    shown = mr.grid.contains(transform_points(motion, placed))
    if shown.sum() < MIN_POINTS:
        return None, None
    ours = residuals_mm(matrix, ct[shown], transform_points(motion, placed[shown]))
    return float(np.median(ours)), float(np.median(np.linalg.norm(ct - placed, axis=1)[shown]))


@functools.lru_cache(maxsize=1)
def model_of(name: str) -> Model:
    return load_model(name)


@functools.lru_cache(maxsize=16)
def ct_embedding(model: str, folder: str, name: str, cache: Optional[str] = None) -> Any:
    return embedding_of(model, scan(folder, name, "ct"), "ct", cache)


def embedding_of(model: str, volume: Volume, modality: str, cache: Optional[str]) -> Any:
    return model_of(model).embed(volume, modality, cache=Cache(cache) if cache else None)


class Clock:
    """Seconds since it was made, the wall's and this process's."""

    def __init__(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def read(self) -> Tuple[float, float]:
        return time.perf_counter() - self._start[0], time.process_time() - self._start[1]


Outcome = Tuple[np.ndarray, str, Tuple[float, float], float, Dict[str, Any]]


def ours(case: Case, mr: Volume, model: str, cache: Optional[str], refine: str) -> Outcome:
    """CT fixed, MR moving: matrix from CT to MR, status, times, time to embed, facts for the error analysis."""
    ct = scan(case.folder, case.ct, "ct")
    fixed = ct_embedding(model, case.folder, case.ct, cache)
    start = time.perf_counter()
    moving = embedding_of(model, mr, "mr", cache)
    embedding_s, clock = time.perf_counter() - start, Clock()
    found = register(fixed, moving, fixed_volume=ct, moving_volume=mr, refine=refine)
    seconds = clock.read()
    release_index(moving)
    report = found.to_report()
    facts = {key: report[key] for key in ("inliers", "consistent", "overlap", "intensity", "reasons")}
    return found.matrix, found.status, seconds, embedding_s, facts


def theirs(case: Case, mr: Volume, method: str) -> Outcome:
    name, which = method.split(", ")
    ct = scan(case.folder, case.ct, "ct")
    prepare(name)
    clock = Clock()
    try:
        matrix, _ = directed(BASELINES[name], ct, mr, fixed_is_smaller=which.startswith("MR"))
        status = "–"
    except UnreliableResultError:
        matrix, status = np.eye(4), "gave up"
    return matrix, status, clock.read(), 0.0, {}


def run_method(
    method: str, model: str, cases: Sequence[Case], path: Optional[str], cache: Optional[str]
) -> List[Trial]:
    """The trials of one method in this process, each appended to the file as soon as it is done."""
    trials, version = [], code_version(model) if is_ours(method) else ""
    for case in cases:
        mr, motion = moved_mr(case)
        if is_ours(method):
            outcome = ours(case, mr, model, cache, "off" if "matches" in method else "auto")
        else:
            outcome = theirs(case, mr, method)
        matrix, status, (seconds, cpu_s), embedding_s, facts = outcome
        tre = start = bone = authors = None
        if case.ct == case.mr:
            bone, authors = bone_errors(bone_points(case.folder, case.ct), mr, motion, matrix)
            points = target_points(mr)
            truth = transform_points(np.linalg.inv(motion), points)
            tre = float(residuals_mm(np.linalg.inv(matrix), points, truth).mean())
            start = float(np.linalg.norm(points - truth, axis=1).mean())
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        place = (case.ct, case.mr, case.crop, case.draw)
        times = (seconds, embedding_s, memory)
        trials.append(Trial(method, *place, tre, start, status, *times, facts, cpu_s, version, bone, authors))
        if path is not None:
            with open(path, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(trials[-1]._asdict()) + "\n")
        shown = "another patient" if tre is None else f"{tre:.1f} mm"
        print(f"{method}: {place} {shown}, {status}, {seconds:.1f} s", flush=True)
    return trials


def finished_trials(path: Optional[str]) -> List[Trial]:
    """Trials of earlier runs; a line that was cut off is not one."""
    if path is None or not Path(path).exists():
        return []
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [Trial(**json.loads(line)) for line in lines if line.endswith("}")]


def summarize(trials: Sequence[Trial]) -> List[Dict[str, Any]]:
    """One row per crop and method."""
    rows = []
    for crop in CROPS:
        for method in METHODS:
            own = [t for t in trials if t.method == method and t.crop == crop and t.ct == t.mr]
            if not own:
                continue
            tre = np.array([t.tre_mm for t in own])
            called = [t.tre_mm for t in own if t.status == "registered"]
            cpu = [t.cpu_s for t in own if t.cpu_s is not None]
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
                    "registered": len(called) / len(own) if is_ours(method) else None,
                    "of_these_15": float((np.array(called) <= 15).mean()) if called else None,
                    "swapped_not_registered": float(np.mean([s != "registered" for s in swapped])) if swapped else None,
                    "seconds": float(np.median([t.seconds for t in own])),
                    "cpu_s": float(np.median(cpu)) if cpu else None,
                    "memory_gib": max(t.memory_gib for t in own),
                }
            )
    return rows


def to_markdown(rows: Sequence[Dict[str, Any]]) -> str:
    header = (
        *("MR", "method", "n", "median TRE", "90 %", "> 20 mm", "registered", "of these ≤ 15 mm"),
        *("swapped: not registered", "time", "CPU time", "memory"),
    )
    shown = [
        [row["MR"], row["method"], str(row["n"]), number(row["median_mm"], " mm"), number(row["p90_mm"], " mm")]
        + [percent(row[name]) for name in ("above_20", "registered", "of_these_15", "swapped_not_registered")]
        + [number(row["seconds"], " s"), number(row["cpu_s"], " s"), number(row["memory_gib"], " GiB")]
        for row in rows
    ]
    return table(header, shown)


def at_bone(trials: Sequence[Trial]) -> List[Dict[str, Any]]:
    """One row per crop and method, and one per crop of the authors' alignment in the draws of ours."""
    rows = []
    for crop in CROPS:
        for method in (*METHODS, AUTHORS):
            of = "ours" if method == AUTHORS else method
            own = [t for t in trials if t.method == of and t.crop == crop and t.bone_mm is not None]
            if not own:
                continue
            errors = np.array([t.authors_bone_mm if method == AUTHORS else t.bone_mm for t in own], dtype=float)
            called = np.array([t.status == "registered" for t in own])
            right = errors <= RIGHT_MM
            row = {"MR": crop, "method": method, "pairs": len({t.mr for t in own}), "n": len(own)}
            found = interval(errors, [t.mr for t in own], median)
            row.update(median_mm=found.value, bounds=found.bounds, shown=found.text())
            row.update(p90_mm=float(np.percentile(errors, 90)), above_20=float((errors > 20).mean()))
            row["registered_of_right"] = float(called[right].mean()) if is_ours(method) and right.any() else None
            row["right_of_registered"] = float(right[called].mean()) if is_ours(method) and called.any() else None
            rows.append(row)
    return rows


def at_bone_to_markdown(rows: Sequence[Dict[str, Any]]) -> str:
    header = (
        *("MR", "method", "pairs", "draws", "median at bone (95 % by patient)", "90 %", "> 20 mm"),
        *("within 10 mm: registered", "registered: within 10 mm"),
    )
    shown = [
        [row["MR"], row["method"], str(row["pairs"]), str(row["n"]), f"{row['shown']} mm", number(row["p90_mm"], " mm")]
        + [percent(row[name]) for name in ("above_20", "registered_of_right", "right_of_registered")]
        for row in rows
    ]
    return table(header, shown)


def percent(share: Optional[float]) -> str:
    return number(None if share is None else 100 * share, " %", 0)


def pairs_to_markdown(trials: Sequence[Trial]) -> str:
    """Median error of each pair: where the images, or the alignment that is taken as truth, set the limit."""
    pairs = sorted({t.mr for t in trials if t.ct == t.mr})
    lines = [f"| MR | method | {' | '.join(pairs)} |", "|" + (2 + len(pairs)) * "---|"]
    for crop in CROPS:
        for method in METHODS:
            tre = [[t.tre_mm for t in trials if (t.method, t.crop, t.ct, t.mr) == (method, crop, p, p)] for p in pairs]
            if any(tre):
                shown = [f"{np.median(values):.1f} mm" if values else "–" for values in tre]
                lines.append(f"| {' | '.join([crop, method, *shown])} |")
    return "\n".join(lines)


def cases_of(folder: Path, draws: Sequence[int], crops: Sequence[str], swapped: int) -> Tuple[List[Case], List[Case]]:
    """Right pairs, and (for ours) pairs of different patients."""
    names = sorted(path.name[: -len("_ct.nii.gz")] for path in folder.glob("*_ct.nii.gz"))
    # Draw by draw, so that a run cut short has seen all pairs.
    right = [Case(str(folder), name, name, crop, draw) for draw in draws for name in names for crop in crops]
    wrong = [
        Case(str(folder), ct, mr, crop, draw)
        for mr in names for ct in names if ct != mr for crop in crops for draw in draws[:swapped]
    ]  # fmt: skip
    return right, wrong


def main(argv: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lite-ctmr")
    parser.add_argument("--data")
    parser.add_argument("--set", default="val", choices=("train", "val"))
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--swapped", type=int, default=1, help="draws per pair of different patients")
    parser.add_argument("--draws-ct-fixed", type=int, help="of the others with the CT fixed (default: as --draws)")
    parser.add_argument("--methods", default=";".join(METHODS), help="of the table, separated by semicolons")
    parser.add_argument("--crops", default=";".join(CROPS))
    parser.add_argument("--first-draw", type=int, default=0, help="settings are tried on other draws than the table's")
    parser.add_argument("--trials", help="JSON lines; trials in it are not run again")
    parser.add_argument("--cache", help="folder where embeddings are kept")
    parser.add_argument("--table-only", action="store_true", help="of what --trials holds")
    parser.add_argument("--report", help="JSON with the table and every trial")
    add_publish_option(parser)
    args = parser.parse_args(argv)
    check_publish(parser, args)
    draws = range(args.first_draw, args.first_draw + args.draws)
    folder = find_data(args.data) / "ctmr" / args.set
    right, wrong = cases_of(folder, draws, args.crops.split(";"), args.swapped)
    known = {trial.key: trial for trial in finished_trials(args.trials)}
    version = code_version(args.model) if any(map(is_ours, args.methods.split(";"))) else ""
    trials: List[Trial] = []
    for method in args.methods.split(";"):
        cases = [*right, *wrong] if is_ours(method) else right
        if method.endswith("CT fixed") and args.draws_ct_fixed is not None:
            cases = [case for case in cases if case.draw < args.first_draw + args.draws_ct_fixed]
        own = version if is_ours(method) else ""
        keys = {case: (method, case.ct, case.mr, case.crop, case.draw, own) for case in cases}
        trials += [known[key] for key in keys.values() if key in known]
        missing = [case for case, key in keys.items() if key not in known]
        if missing and not args.table_only:
            # A process of its own: its peak memory is the method's, and one library cannot disturb another.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                trials += pool.apply(run_method, (method, args.model, missing, args.trials, args.cache))
    rows, bone = summarize(trials), at_bone(trials)
    print(f"\nModel {args.model}, ctmr/{args.set}, {args.draws} draws\n")
    print(f"{at_bone_to_markdown(bone)}\n\n{to_markdown(rows)}\n\n{pairs_to_markdown(trials)}")
    embedding = [t.embedding_s for t in trials if t.embedding_s]
    if embedding and not args.cache:
        print(f"\nEmbedding an MR: {np.median(embedding):.1f} s")
    if args.report:
        content = {"model": args.model, "rows": rows, "at_bone": bone, "trials": [t._asdict() for t in trials]}
        Path(args.report).write_text(json.dumps(content, indent=1))
    if args.publish:
        data = f"`ctmr/{args.set}`, {args.draws} draws per pair and crop"
        info = model_info(args.model)
        keep("ctmr-bone", at_bone_to_markdown(bone), bone, info, f"{data}, of the pairs with points of bone")
        if all(any(trial.method == method for trial in trials) for method in METHODS):  # else others' rows would go
            keep("ctmr", f"{to_markdown(rows)}\n\n{pairs_to_markdown(trials)}", rows, info, data)


if __name__ == "__main__":
    main()
