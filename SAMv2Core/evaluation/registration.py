"""Registration of pairs by several methods, errors before and after: the form of the paper's table 5 and figure 7.

The error of a landmark is the distance of its transformed position to its partner, in mm (the paper's table counts
voxels of its own lattice). Every method starts from the same place, the pair's initial transform, runs in a process of
its own, and has a row per pair: time, peak memory, errors; a method that fails has the reason there. The other programs
run in both directions, the smaller field of view as their fixed image and the larger one, because that decides
whether they work (see :mod:`SAMv2Core.evaluation.baselines`).

Conventions: matrices map LPS mm of the fixed to the moving scan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np
from scipy import ndimage

from SAMv2Core.errors import Cancelled, SAMv2Error
from SAMv2Core.evaluation.baselines import field_of_view_mm3
from SAMv2Core.evaluation.isolated import Run, run_isolated
from SAMv2Core.evaluation.landmark_points import as_labels
from SAMv2Core.evaluation.pair_table import Pair, Truth, initial_matrix, read_truth
from SAMv2Core.geometry.grid import transform_points
from SAMv2Core.io.volume import Volume, read_volume
from SAMv2Core.progress import Progress, silent

START = "before"
LIMITS_MM = (5.0, 10.0, 20.0)


@dataclass(frozen=True)
class Method:
    """A line of the table.

    :param name: as shown.
    :param job: what :func:`SAMv2Core.evaluation.isolated.run_isolated` needs beside the pair; empty for "before".
    """

    name: str
    job: Mapping[str, Any]


def methods_of(
    features: Sequence[Mapping[str, Any]], names: Sequence[str], baselines: Sequence[str], transform: str, seed: int
) -> List[Method]:
    """The lines of a table: before, each features, and each baseline in both directions.

    A model of ours has two lines: what ``samv2 register`` does with it, and its matches alone, which is how the other
    features are compared.

    :param features: choices of :mod:`SAMv2Core.evaluation.chosen`, with their ``names``.
    """
    lines = [Method(START, {})]
    for choice, name in zip(features, names):
        job = {"method": "features", "features": dict(choice), "transform": transform, "seed": seed}
        if choice["kind"] == "model":
            lines.append(Method(f"{name}, {transform}", {**job, "intensities": True}))
        lines.append(Method(f"{name}, {transform}, matches alone", job))
    for baseline in baselines:
        for side in ("smaller", "larger"):
            job = {"method": baseline, "fixed_is_smaller": side == "smaller"}
            lines.append(Method(f"{baseline}, fixed = {side}", job))
    return lines


def evaluate(
    pairs: Sequence[Pair],
    methods: Sequence[Method],
    names: Optional[Mapping[int, str]] = None,
    timeout: float = 900.0,
    threads: Optional[int] = None,
    progress: Optional[Progress] = None,
) -> Dict[str, List[Dict[str, Any]]]:
    """Run all methods on all pairs.

    :param names: of labels.
    :param progress: called as ``progress(fraction, text)``; may raise ``Cancelled``.
    :returns: ``runs``, one row per pair and method, and ``failures``, pairs that could not be read.
    """
    tell = progress or silent
    runs: List[Dict[str, Any]] = []
    failures: List[Dict[str, Any]] = []
    for number, pair in enumerate(pairs):
        try:
            truth, initial = read_truth(pair, names), initial_matrix(pair)
            smaller = _smaller_side(pair)
        except Cancelled:
            raise
        except SAMv2Error as error:
            failures.append({"pair": pair.key, "reason": f"{error.cause} {error.remedy}".strip()})
            continue
        for line, method in enumerate(methods):
            done = (number + line / len(methods)) / len(pairs)
            waiting = _waiting(tell, done, f"{pair.key}: {method.name}")
            waiting(0.0, "")
            run = run_isolated(_job(pair, method, initial, threads), timeout, waiting) if method.job else Run(initial)
            runs.append(row_of(pair, method, run, truth, smaller))
    tell(1.0, "done")
    return {"runs": runs, "failures": failures}


def _waiting(tell: Progress, done: float, text: str) -> Progress:
    """Progress while a child process works: the bar stands, the text counts seconds."""
    return lambda fraction, seconds: tell(done, ", ".join(part for part in (text, seconds) if part))


def _job(pair: Pair, method: Method, initial: np.ndarray, threads: Optional[int]) -> Dict[str, Any]:
    return {
        **method.job,
        "fixed": str(pair.fixed),
        "moving": str(pair.moving),
        "fixed_modality": pair.fixed_modality,
        "moving_modality": pair.moving_modality,
        "initial": initial.tolist(),
        "threads": threads,
    }


def _smaller_side(pair: Pair) -> str:
    sizes = [field_of_view_mm3(read_volume(path)) for path in (pair.fixed, pair.moving)]
    return "fixed" if sizes[0] <= sizes[1] else "moving"


def row_of(pair: Pair, method: Method, run: Run, truth: Truth, smaller: str) -> Dict[str, Any]:
    """The row of one method on one pair."""
    row: Dict[str, Any] = {
        "pair": pair.key,
        "method": method.name,
        "smaller": smaller,
        "error": run.error or None,
        "seconds": run.seconds,
        "peak_memory_mib": run.peak_memory_mib,
        "matrix": None if run.matrix is None else run.matrix.tolist(),
        "status": run.details.get("status"),
        "details": dict(run.details),
        "tre_mm": None,
        "landmarks": {},
        "dice": None,
    }
    if run.matrix is not None:
        errors = np.linalg.norm(transform_points(run.matrix, truth.fixed_lps) - truth.moving_lps, axis=1)
        row["tre_mm"] = spread(errors)
        row["landmarks"] = dict(zip(truth.names, errors.tolist()))
        if truth.label_maps is not None:
            row["dice"] = mean_dice(*truth.label_maps, run.matrix)
    return row


def spread(errors: np.ndarray) -> Dict[str, float]:
    """Mean, standard deviation, median and maximum, mm."""
    return {
        "n": len(errors), "mean": float(errors.mean()), "std": float(errors.std()),
        "median": float(np.median(errors)), "max": float(errors.max()),
    }  # fmt: skip


def mean_dice(fixed: Volume, moving: Volume, fixed_to_moving: np.ndarray) -> Optional[float]:
    """Mean Dice of the labels that both maps have, 0..1, over the part of the fixed grid that the moving map covers.

    :returns: None when they have no label in common.
    """
    one, other = as_labels(fixed), as_labels(moving)
    labels = np.intersect1d(np.unique(one), np.unique(other))
    labels = labels[labels > 0]
    if not len(labels):
        return None
    zyx = (moving.grid.lps_to_ijk @ fixed_to_moving @ fixed.ijk_to_lps)[[2, 1, 0, 3]][:, [2, 1, 0, 3]]
    warped = ndimage.affine_transform(
        other, zyx[:3, :3], zyx[:3, 3], output_shape=one.shape, order=0, mode="constant", cval=-1
    )
    covered = warped >= 0
    scores = []
    for label in labels:
        mine, theirs = (one == label) & covered, warped == label
        total = np.count_nonzero(mine) + np.count_nonzero(theirs)
        scores.append(2 * np.count_nonzero(mine & theirs) / total if total else 0.0)
    return float(np.mean(scores))


def summarize(runs: Sequence[Mapping[str, Any]]) -> List[Dict[str, Any]]:
    """One line per method: errors over all landmarks of all pairs it finished, shares of *all* pairs, costs."""
    lines = []
    n_pairs = len({run["pair"] for run in runs})
    for name in dict.fromkeys(run["method"] for run in runs):
        own = [run for run in runs if run["method"] == name]
        ended = [run for run in own if run["tre_mm"]]
        errors = np.array([error for run in ended for error in run["landmarks"].values()])
        means = np.array([run["tre_mm"]["mean"] for run in ended])
        labels = sorted({label for run in ended for label in run["landmarks"]})
        lines.append(
            {
                "method": name,
                "pairs": n_pairs,
                "finished": len(ended),
                "tre_mm": spread(errors) if len(errors) else None,
                "pair_median_mm": float(np.median(means)) if len(means) else None,
                "pairs_within": {f"{limit:g}mm": 100 * int((means <= limit).sum()) / n_pairs for limit in LIMITS_MM},
                "landmarks": {label: _mean(run["landmarks"].get(label) for run in ended) for label in labels},
                "dice": _mean(run["dice"] for run in ended),
                "statuses": _counts(run["status"] for run in own),
                "seconds": _mean(run["seconds"] for run in ended),
                "peak_memory_mib": max((run["peak_memory_mib"] or 0 for run in ended), default=0) or None,
                "errors": sorted({run["error"] for run in own if run["error"]}),
            }
        )
    return lines


def _mean(values: Any) -> Optional[float]:
    known = [float(value) for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _counts(names: Any) -> Dict[str, int]:
    listed = [name for name in names if name]
    return {name: listed.count(name) for name in dict.fromkeys(listed)}
