"""Lesion tracking on simulated follow-ups, in the form of the paper's Table 3 (arXiv 2311.15111).

    python -m Testing.benchmarks.tracking [--model NAME|FILE] [--data ../shared/data] [--report R.json] [--quick]
                                          [--plot reliability.png] [--cache DIR] [--fit | --time | --fates]

Scans, lesions and follow-ups: :mod:`Testing.benchmarks.tracking_cases`; all figures are of *simulated* follow-ups.

* Accuracy counts every lesion whose place is in the follow-up, found or not (the best candidate of one not found
  counts). ``CPM@10mm`` as the DLT evaluator has it, error at most min(radius, 10 mm); ``CPM@Radius``, error below the
  radius; ``plain 10 mm`` beside them; MED and its parts along x, y, z are means with standard deviation.
* ``not found`` is the share of lesions reported so: of places outside the follow-up (right), and of places in it (false
  alarms).
* ECE is the expected calibration error of the confidence for "within 10 mm", ten bins, over all findings.

``--fit`` fits the coefficients of :mod:`SAMv2Core.track_confidence` on one half of the scans and shows the error on the
other half, both ways round, then prints those fitted on all. ``--time --lesions 50`` times a study of 50 lesions in
four follow-ups. ``--fates`` plants lesions that grow, shrink or vanish in one scan and shows what is reported.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from scipy.optimize import minimize

from SAMv2Core.cache import Cache
from SAMv2Core.embed import Model
from SAMv2Core.match import match
from SAMv2Core.models import load_model
from SAMv2Core.search import search_index
from SAMv2Core.track import track
from SAMv2Core.track_confidence import COEFFICIENTS, TrackEvidence, terms
from SAMv2Core.track_study import place_lesions
from Testing.benchmarks.common import find_data
from Testing.benchmarks.tracking_cases import Case, case_of_fates, cases, scans

METHODS = ("nearest", "fixed-point", "tracker")
RIGHT_MM = 10.0
N_BINS = 10
N_LESIONS = 20


class Trial(NamedTuple):
    """One lesion in one follow-up by one method."""

    case: str
    kind: str
    study: int
    label: str
    method: str
    radius_mm: float
    is_inside: bool
    offset_mm: Tuple[float, float, float]  # best place minus truth; infinite when there is none at all
    status: str
    confidence: float

    @property
    def error_mm(self) -> float:
        return float(np.linalg.norm(self.offset_mm))

    @property
    def is_right(self) -> bool:
        return self.is_inside and self.error_mm <= RIGHT_MM


def run_case(case: Case) -> Tuple[List[Trial], Dict[str, float]]:
    """All lesions and follow-ups of one patient by all methods, and the CPU seconds of each method."""
    trials, seconds = [], {}
    centers: Any = np.array([lesion.center_lps for lesion in case.lesions])
    for method in METHODS:
        start = time.process_time()
        if method == "tracker":
            n_studies = len(case.follow_ups) + 1
            findings = track(case.emb, [follow_up.emb for follow_up in case.follow_ups], case.lesions)
            per_study: List[Sequence[Any]] = [findings[study::n_studies] for study in range(1, n_studies)]
        else:
            per_study = [match(case.emb, follow_up.emb, centers, method) for follow_up in case.follow_ups]
        seconds[method] = time.process_time() - start
        for study, found in enumerate(per_study, 1):
            trials += trials_of(case, study, method, found)
    return trials, seconds


def trials_of(case: Case, study: int, method: str, found: Sequence[Any]) -> List[Trial]:
    """Matches or findings of one follow-up beside the truth."""
    follow_up = case.follow_ups[study - 1]
    rows = []
    for lesion, item, truth, inside in zip(case.lesions, found, follow_up.truth_lps, follow_up.is_inside):
        place = item.candidate_lps
        x, y, z = (math.inf,) * 3 if place is None else (float(value) for value in place - truth)
        facts = (case.name, follow_up.kind, study, lesion.label, method, lesion.radius_mm, bool(inside))
        rows.append(Trial(*facts, (x, y, z), item.status, float(item.confidence)))
    return rows


def expected_calibration_error(confidence: np.ndarray, is_right: np.ndarray) -> float:
    """Mean of |share right - mean confidence| over ten bins of confidence, weighted by their sizes."""
    bins = np.minimum((np.asarray(confidence) * N_BINS).astype(int), N_BINS - 1)
    error = 0.0
    for number in np.unique(bins):
        chosen = bins == number
        error += chosen.mean() * abs(np.mean(is_right[chosen]) - np.mean(confidence[chosen]))
    return float(error)


def summarize(trials: Sequence[Trial]) -> List[Dict[str, Any]]:
    """One row per method."""
    rows = []
    for method in dict.fromkeys(trial.method for trial in trials):
        mine = [trial for trial in trials if trial.method == method]
        inside, outside = ([t for t in mine if t.is_inside is flag] for flag in (True, False))
        # A lesion without any candidate is as wrong as can be; an infinite mean would say nothing more.
        offset = np.nan_to_num(np.abs([t.offset_mm for t in inside]), posinf=200.0)
        error, radius = np.linalg.norm(offset, axis=1), np.array([t.radius_mm for t in inside])
        confidence, right = np.array([t.confidence for t in mine]), np.array([t.is_right for t in mine])
        rows.append(
            {
                "method": method,
                "n": len(inside),
                "cpm_10mm": float(np.mean(error <= np.minimum(radius, RIGHT_MM))),
                "cpm_radius": float(np.mean(error < radius)),
                "plain_10mm": float(np.mean(error <= RIGHT_MM)),
                "med_mm": float(error.mean()),
                "med_std_mm": float(error.std()),
                "median_mm": float(np.median(error)),
                "med_xyz_mm": [float(value) for value in offset.mean(axis=0)],
                "n_outside": len(outside),
                "not_found_outside": float(np.mean([t.status == "not_found" for t in outside])) if outside else None,
                "not_found_inside": float(np.mean([t.status == "not_found" for t in inside])),
                "ece": expected_calibration_error(confidence, right),
            }
        )
    return rows


def to_markdown(rows: Sequence[Dict[str, Any]]) -> str:
    """The table, in the form of the paper's Table 3."""

    def percent(value: Optional[float]) -> str:
        return "–" if value is None else f"{100 * value:.1f} %"

    lines = [
        "| method | n | CPM@10mm | CPM@Radius | plain 10 mm | MED | x / y / z | median "
        "| not found, outside | false alarms | ECE |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        shares = " | ".join(percent(r[key]) for key in ("cpm_10mm", "cpm_radius", "plain_10mm"))
        xyz = " / ".join(f"{value:.1f}" for value in r["med_xyz_mm"])
        lost = f"{percent(r['not_found_outside'])} of {r['n_outside']} | {percent(r['not_found_inside'])}"
        lines.append(
            f"| {r['method']} | {r['n']} | {shares} | {r['med_mm']:.1f} ± {r['med_std_mm']:.1f} mm | {xyz} mm "
            f"| {r['median_mm']:.1f} mm | {lost} | {r['ece']:.3f} |"
        )
    return "\n".join(lines)


def plot_reliability(trials: Sequence[Trial], path: str) -> None:
    """Share of right findings against confidence, one line per method; the diagonal is perfect."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, figsize=(5, 6.5), height_ratios=(3, 1), sharex=True)
    above.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for method in METHODS:
        mine = [trial for trial in trials if trial.method == method]
        if not mine:
            continue
        confidence, right = np.array([t.confidence for t in mine]), np.array([t.is_right for t in mine])
        bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
        used = [number for number in range(N_BINS) if np.any(bins == number)]
        centers = [confidence[bins == number].mean() for number in used]
        ece = expected_calibration_error(confidence, right)
        above.plot(centers, [right[bins == n].mean() for n in used], "o-", label=f"{method}, ECE {ece:.3f}")
        below.hist(confidence, bins=N_BINS, range=(0, 1), histtype="step")
    above.set(ylabel="share within 10 mm", title="Simulated follow-ups")
    above.legend()
    below.set(xlabel="confidence", ylabel="findings")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def fit(evidence: Sequence[TrackEvidence], is_right: Sequence[bool]) -> Dict[str, float]:
    """Logistic regression of the coefficients, weakly drawn to zero; none may turn its sign."""
    names = list(COEFFICIENTS)
    x = np.array([[terms(e)[name] for name in names] for e in evidence])
    y = np.array(is_right, dtype=float)
    positive = {"similarity", "fixed_points", "margin"}
    limits = [(None, None) if n == "bias" else (0.0, None) if n in positive else (None, 0.0) for n in names]

    def loss(b: np.ndarray) -> float:
        z = x @ b
        return float(np.sum(np.logaddexp(0, z) - y * z) + 0.05 * np.sum(b[1:] ** 2))

    found = minimize(loss, np.zeros(len(names)), bounds=limits).x
    return {name: round(float(value), 2) for name, value in zip(names, found)}


def probability(coefficients: Dict[str, float], evidence: Sequence[TrackEvidence]) -> np.ndarray:
    """The confidence that other coefficients would give."""
    score = [sum(coefficients[name] * value for name, value in terms(e).items()) for e in evidence]
    return 1 / (1 + np.exp(-np.clip(score, -50, 50)))


def fit_all(found: Sequence[Case]) -> None:
    """Evidence of all cases; cross-validated over two halves of the scans."""
    evidence: List[List[TrackEvidence]] = [[], []]
    right: List[List[bool]] = [[], []]
    for number, case in enumerate(found):
        for follow_up in case.follow_ups:
            placed = place_lesions(case.emb, follow_up.emb, case.lesions, {})
            for item, truth, inside in zip(placed, follow_up.truth_lps, follow_up.is_inside):
                if item is not None and item.evidence is not None and item.lps is not None:
                    evidence[number % 2].append(item.evidence)
                    right[number % 2].append(bool(inside and np.linalg.norm(item.lps - truth) <= RIGHT_MM))
    for half in (0, 1):
        confidence = probability(fit(evidence[1 - half], right[1 - half]), evidence[half])
        ece = expected_calibration_error(confidence, np.array(right[half]))
        print(f"fitted on the other half: ECE {ece:.3f} of {len(confidence)}")
    print(json.dumps(fit(evidence[0] + evidence[1], right[0] + right[1]), indent=2))


def time_study(case: Case, n_studies: int = 4) -> str:
    """Wall and CPU seconds of one tracking, beside plain fixed-point matching of the same points."""
    follow_ups = [case.follow_ups[n % len(case.follow_ups)].emb for n in range(n_studies)]
    for emb in (case.emb, *follow_ups):
        search_index(emb)
    centers: Any = np.array([lesion.center_lps for lesion in case.lesions])
    spent = []
    for work in (
        lambda: [match(case.emb, emb, centers) for emb in follow_ups],
        lambda: track(case.emb, follow_ups, case.lesions),
    ):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        spent.append((time.perf_counter() - wall, time.process_time() - cpu))
    (plain_wall, plain_cpu), (wall, cpu) = spent
    return (
        f"{case.name}: {len(case.lesions)} lesions x {n_studies} follow-ups, all embedded: {wall:.1f} s "
        f"({cpu:.1f} s of CPU); plain fixed-point matching {plain_wall:.1f} s ({plain_cpu:.1f} s): "
        f"ratio of CPU times {cpu / plain_cpu:.2f}"
    )


def show_fates(model: Model, path: Path) -> None:
    """What is reported of lesions that grew, shrank or vanished."""
    case, fates = case_of_fates(model, path)
    findings = track(case.emb, [case.follow_ups[0].emb], case.lesions)[1::2]
    trials = trials_of(case, 1, "tracker", findings)
    for fate in sorted(set(fates)):
        mine = [t for t, kind in zip(trials, fates) if kind == fate and t.is_inside]
        statuses = {status: sum(t.status == status for t in mine) for status in ("matched", "uncertain", "not_found")}
        errors = [t.error_mm for t in mine]
        print(f"{fate}: {len(mine)} lesions, median {np.median(errors):.1f} mm, max {max(errors):.1f} mm, {statuses}")


def main(argv: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lite-ct")
    parser.add_argument("--data")
    parser.add_argument("--report", help="JSON with the table and every trial")
    parser.add_argument("--plot", metavar="PNG", help="reliability plot")
    parser.add_argument("--cache", metavar="DIR", help="keep the embeddings there")
    parser.add_argument("--quick", action="store_true", help="two scans only")
    parser.add_argument("--lesions", type=int, default=N_LESIONS, help="per scan; default: %(default)s")
    parser.add_argument("--fit", action="store_true", help="fit the confidence instead")
    parser.add_argument("--time", action="store_true", help="time one study of the first scan instead")
    parser.add_argument("--fates", action="store_true", help="lesions that grew, shrank or vanished instead")
    options = parser.parse_args(argv)
    model = load_model(options.model)
    cache = Cache(options.cache) if options.cache else None
    found = cases(model, find_data(options.data), 0, cache, options.lesions, 2 if options.quick else 99)
    if options.fates:
        show_fates(model, scans(find_data(options.data))[0])
        return
    if options.time:
        print(time_study(next(iter(found))))
        return
    if options.fit:
        fit_all(list(found))
        return
    trials: List[Trial] = []
    seconds = dict.fromkeys(METHODS, 0.0)
    for case in found:
        more, spent = run_case(case)
        trials += more
        seconds = {method: seconds[method] + spent[method] for method in METHODS}
    rows = summarize(trials)
    print(f"Model {options.model} ({model.info.sha256})\n\n{to_markdown(rows)}\n")
    for method, total in seconds.items():
        print(f"{method}: {1000 * total * len(METHODS) / len(trials):.0f} ms of CPU per lesion and follow-up")
    if options.plot:
        plot_reliability(trials, options.plot)
    if options.report:
        facts = {"model": options.model, "sha256": model.info.sha256, "rows": rows, "cpu_seconds": seconds}
        Path(options.report).write_text(json.dumps({**facts, "trials": [t._asdict() for t in trials]}, indent=1))


if __name__ == "__main__":
    main()
