"""Fit the confidence of matching and of tracking to a model, and say how far it can be trusted.

    python -m Testing.benchmarks.calibration [--model lite-ct] [--data ../shared/data] [--cache DIR] [--cases FILE]
                                             [--samples FILE] [--plot PNG] [--report R.json] [--write]

Results on the validation scans, right when within 10 mm of the truth:

* *torso* and *neck*: landmarks and centroids between two patients (:mod:`Testing.benchmarks.accuracy`);
* *torso, cut*: the same with the middle third of the query's slices alone in view: most points have no counterpart;
* *follow-up*: places in simulated follow-ups, inside and outside, of :mod:`Testing.benchmarks.tracking`, whose finished
  scans are taken from ``--cases FILE``.

Each set of coefficients (nearest neighbor; fixed points, in one patient and in two; tracker) is a logistic regression
in which every experiment weighs the same, drawn to zero; evidence may not count against its sense. All figures are
cross-validated: each scan's results (and every pair that it is the template of) are judged by coefficients fitted
without it. Those fitted on all scans are printed as JSON, and ``--write`` puts them into the record beside the model's
weights, where every program finds them. The cuts between the statuses follow by rule, see :func:`cuts_of`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from scipy.optimize import minimize

from SAMv2Core.embedding.cache import Cache
from SAMv2Core.embedding.embedding import Embedding
from SAMv2Core.embedding.load import load_model
from SAMv2Core.evaluation.extractor import Extractor
from SAMv2Core.evaluation.methods import POINT_METHODS
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.volume import read_volume
from SAMv2Core.matching.confidence import Coefficients, Evidence, UncertaintyModel
from SAMv2Core.matching.match import match
from SAMv2Core.models.records import write_calibration
from SAMv2Core.tracking import confidence as track_confidence
from SAMv2Core.tracking.confidence import BEYOND, TrackEvidence, TrackUncertainty
from Testing.benchmarks.accuracy import label_centroids, load_landmarks
from Testing.benchmarks.common import (
    add_publish_option,
    check_publish,
    expected_calibration_error,
    find_data,
    keep,
    reliability_plot,
    scan_paths,
)
from Testing.benchmarks.tracking import GROUP, N_LESIONS, Finished, all_trials, is_beyond
from Testing.benchmarks.tracking_cases import scans

RIGHT_MM = 10.0
METHODS = ("nearest", "default")
SETS = ("nearest", "fixed_point", "other_patient", "track")
SIGNS = {"bias": 0, "similarity": 1, "cycle": -1, "margin": 1, "fixed_points": 1, "residual": -1, "agreement": -1}
SIGNS.update({"edge": -1, "fell_back": -1, "departure": -1})
SIGNS.update({"scatter": -1, "field": -1, "chain": -1})
BY_JUDGMENT = ("no_field",)  # never seen in these scans
CURVES = {
    ("follow-up", "tracker"): "tracking, follow-up",
    ("follow-up", "default"): "matching, follow-up",
    ("torso", "default"): "matching, two patients",
    ("neck", "default"): "matching, two patients",
}
N_NECK_TEMPLATES = 3
TUBES = ("label 2", "label 5")  # spinal cord, esophagus: drawn as far as was needed, so their centroid is no place
RIDGE = 2.0  # of a coefficient of evidence scaled to unit spread; 2 to 20 differ by what chance does
MATCHED_RIGHT, N_ENOUGH = 0.8, 20
OUTSIDE_NOT_FOUND, RIGHT_NOT_FOUND = 0.92, 0.04


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """One result: what was known of it, and whether it was right."""

    experiment: str
    method: str
    scans: Tuple[str, ...]  # validation scans that it comes from; the first one is the query
    evidence: Optional[Dict[str, Any]]  # None of a tracked lesion without any place: confidence 0
    is_right: bool
    is_inside: bool = True  # whether the place is in the scan at all
    is_beyond: bool = False  # whether the result lies outside the scan: not found, whatever else is known

    @functools.cached_property
    def set(self) -> str:
        """The set of coefficients that judges it."""
        if self.method == "tracker":
            return "track"
        model = UncertaintyModel()
        judging = model.coefficients(Evidence(**self.evidence))
        return next(name for name in SETS if getattr(model, name) is judging)

    @functools.cached_property
    def terms(self) -> Dict[str, float]:
        """What the coefficients are multiplied with."""
        if self.method == "tracker":
            return track_confidence.terms(TrackEvidence(**self.evidence))
        ones = Coefficients(**dict.fromkeys((field.name for field in dataclasses.fields(Coefficients)), 1.0))
        return ones.terms(Evidence(**self.evidence))


def between(
    experiment: str, names: Tuple[str, str], template: Embedding, query: Embedding, points: Any, truth: Any
) -> Iterator[Sample]:
    """Matches of one pair by both methods."""
    for method in METHODS:
        for found, expected in zip(match(template, query, points, **POINT_METHODS[method]), truth):
            if found.evidence is not None and found.candidate_lps is not None:
                is_inside, is_beyond = query.volume_grid.contains(np.array([expected, found.candidate_lps])) ^ [0, 1]
                is_right = is_inside and np.linalg.norm(found.candidate_lps - expected) <= RIGHT_MM
                evidence = dataclasses.asdict(found.evidence)
                yield Sample(experiment, method, names, evidence, bool(is_right), bool(is_inside), bool(is_beyond))


def between_torsos(extractor: Extractor, data: Path) -> Iterator[Sample]:
    """Landmarks of the validation torsos from every other scan with landmarks."""
    paths = [p for part in ("val", "train") for p in sorted((data / "ct" / part).glob("*.landmarks.json"))]
    landmarks = {path: load_landmarks(path) for path in paths}
    embeddings = {
        path: extractor.embed(read_volume(path.with_name(path.name.replace(".landmarks.json", ".nii.gz"))), "ct")
        for path in paths
    }
    for query in (path for path in paths if path.parent.name == "val"):
        cut = middle_third(embeddings[query])
        for template in paths:
            common = [label for label in landmarks[template] if label in landmarks[query]]
            if template == query or not common:
                continue
            ends = [np.array([landmarks[path][label] for label in common]) for path in (template, query)]
            names = (query.name.split(".")[0], template.name.split(".")[0])
            yield from between("torso", names, embeddings[template], embeddings[query], *ends)
            yield from between("torso, cut", names, embeddings[template], cut, *ends)


def between_necks(extractor: Extractor, data: Path) -> Iterator[Sample]:
    """Organ centroids of validation necks, each neck looked for from three others."""
    paths = scan_paths(data / "hn" / "val")
    embeddings = {path: extractor.embed(read_volume(path), "ct") for path in paths}
    centers = {p: label_centroids(read_volume(p.with_name(p.name.replace(".nii", "_labels.nii")))) for p in paths}
    for found in centers.values():
        for tube in TUBES:
            found.pop(tube, None)
    for number, query in enumerate(paths):
        for template in [*paths, *paths][number + 1 : number + 1 + N_NECK_TEMPLATES]:
            common = [label for label in centers[template] if label in centers[query]]
            if template != query and common:
                ends = [np.array([centers[path][label] for label in common]) for path in (template, query)]
                names = (query.name.split(".")[0], template.name.split(".")[0])
                yield from between("neck", names, embeddings[template], embeddings[query], *ends)


def follow_ups(extractor: Extractor, data: Path, finished: Finished) -> Iterator[Sample]:
    """The tracking benchmark's places; of the slow default matching those of the torsos alone."""
    every, torsos = scans(data), [path for path in scans(data) if path.parent.parent.name == "ct"]
    trials = [*all_trials([("", extractor, ("default",))], torsos, finished, N_LESIONS)]
    trials += all_trials([("", extractor, ("nearest", "tracker"))], every, finished, N_LESIONS)
    for trial in trials:
        if trial.evidence or trial.method == "tracker":
            facts = ("follow-up", trial.method, (trial.case,), trial.evidence)
            yield Sample(*facts, trial.is_right, trial.is_inside, is_beyond(trial))


def middle_third(emb: Embedding) -> Embedding:
    """The embedding as if only the middle third of its slices had been scanned (its context is left as it was)."""
    n = emb.body.shape[0]
    low, high = n // 3, 2 * n // 3
    body = emb.body.copy()
    body[:low], body[high:] = False, False
    matrix = np.array(emb.input_grid.ijk_to_lps)
    matrix[:3, 3] = emb.input_grid.to_lps(np.array([0, 0, 2 * low]))
    grid = Grid((2 * (high - low), *emb.input_grid.shape_zyx[1:]), matrix)
    return dataclasses.replace(emb, body=body, volume_grid=grid)


def fit(samples: Sequence[Sample]) -> Dict[str, float]:
    """One set of coefficients: logistic regression, experiments of equal weight."""
    names = [name for name in samples[0].terms if name not in BY_JUDGMENT]
    x = np.array([[sample.terms[name] for name in names] for sample in samples])
    y = np.array([sample.is_right for sample in samples], dtype=float)
    _, members = np.unique([sample.experiment for sample in samples], return_inverse=True)
    counts = np.bincount(members)
    weights = len(samples) / len(counts) / counts[members]
    spread = np.where(x.std(axis=0) > 1e-6, x.std(axis=0), 1.0)

    def loss(b: np.ndarray) -> Tuple[float, np.ndarray]:
        z = x @ b
        pull = RIDGE * spread**2 * b * (np.array(names) != "bias")
        slope = x.T @ (weights * (1 / (1 + np.exp(-np.clip(z, -50, 50))) - y)) + pull
        return float(weights @ (np.logaddexp(0, z) - y * z) + 0.5 * pull @ b), slope

    limits: Dict[int, Tuple[Optional[float], Optional[float]]] = {0: (None, None), 1: (0.0, None), -1: (None, 0.0)}
    found = minimize(loss, np.zeros(len(names)), jac=True, bounds=[limits[SIGNS[name]] for name in names]).x
    return {name: round(float(value), 3) for name, value in zip(names, found)}


def fit_sets(samples: Sequence[Sample]) -> Dict[str, Dict[str, float]]:
    """All sets of coefficients, each from the results that it judges."""
    used = [(name, [s for s in samples if s.set == name and s.evidence and not s.is_beyond]) for name in SETS]
    return {name: fit(chosen) for name, chosen in used if chosen}


def confidence(sets: Mapping[str, Mapping[str, float]], sample: Sample) -> float:
    """The confidence that a result gets from these coefficients, and from the hard limits."""
    if sample.evidence is None:
        return 0.0
    is_limited = sample.is_beyond or (
        sample.set != "track" and UncertaintyModel().is_beyond_limits(Evidence(**sample.evidence))
    )
    score = sum(sets[sample.set].get(name, 0.0) * value for name, value in sample.terms.items())
    sure = 1 / (1 + math.exp(-max(min(score, 50.0), -50.0)))
    return min(sure, BEYOND) if is_limited else sure


def cross_validated(samples: Sequence[Sample]) -> np.ndarray:
    """(n,) confidence of every result by coefficients that have not seen its query."""
    found = np.zeros(len(samples))
    for scan in dict.fromkeys(sample.scans[0] for sample in samples):
        sets = fit_sets([sample for sample in samples if scan not in sample.scans])
        for n, sample in enumerate(samples):
            if sample.scans[0] == scan:
                found[n] = confidence(sets, sample)
    return found


def cuts_of(samples: Sequence[Sample], sure: np.ndarray, names: Sequence[str]) -> Tuple[float, float]:
    """(matched above, not found below) for the results of some sets of coefficients.

    *Matched* is the smallest cut, from :data:`MATCHED_RIGHT` on, above which that share is right in every experiment
    with enough results. *Not found* lies where :data:`OUTSIDE_NOT_FOUND` of the places outside the scan fall below it,
    but never so high that more than :data:`RIGHT_NOT_FOUND` of the right results would.
    """
    mine = np.array([sample.set in names for sample in samples])
    right = np.array([sample.is_right for sample in samples])
    outside = np.array([not sample.is_inside for sample in samples])
    experiments = np.array([f"{sample.experiment}, {sample.method}" for sample in samples])
    for matched in (percent / 100 for percent in range(round(100 * MATCHED_RIGHT), 96)):
        shares = []
        for experiment in np.unique(experiments[mine]):
            chosen = mine & (experiments == experiment) & (sure >= matched)
            shares += [right[chosen].mean()] if chosen.sum() >= N_ENOUGH else []
        if min(shares, default=1.0) >= MATCHED_RIGHT:
            break
    not_found = min(float(np.quantile(sure[mine & right], RIGHT_NOT_FOUND)), matched - 0.05)
    if np.any(mine & outside):
        not_found = min(not_found, float(np.quantile(sure[mine & outside], OUTSIDE_NOT_FOUND)))
    return matched, round(not_found, 2)


def figures(
    samples: Sequence[Sample], sure: np.ndarray, status_of: Callable[[Sample, float], str]
) -> List[Dict[str, Any]]:
    """One row per experiment and method; both kinds of pairs of patients together, too, for a steadier figure."""
    names = sorted({(sample.experiment, sample.method) for sample in samples})
    parts = [(experiment, method, (experiment,)) for experiment, method in names]
    parts += [("torso and neck", method, ("torso", "neck")) for method in METHODS]
    rows = []
    for title, method, experiments in parts:
        chosen = [n for n, s in enumerate(samples) if s.method == method and s.experiment in experiments]
        if not chosen:
            continue
        right = np.array([samples[n].is_right for n in chosen])
        inside = np.array([samples[n].is_inside for n in chosen])
        status = np.array([status_of(samples[n], sure[n]) for n in chosen])
        matched, lost = status == "matched", status == "not_found"
        rows.append(
            {
                "experiment": title,
                "method": method,
                "n": len(chosen),
                "right": float(right.mean()),
                "ece": expected_calibration_error(sure[chosen], right),
                "brier": float(np.mean((sure[chosen] - right) ** 2)),
                "matched": float(matched.mean()),
                "matched_right": float(right[matched].mean()) if matched.any() else None,
                "not_found_outside": float(lost[~inside].mean()) if not inside.all() else None,
                "not_found_inside": float(lost[inside].mean()),
            }
        )
    return rows


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table."""

    def percent(value: Optional[float]) -> str:
        return "–" if value is None else f"{100 * value:.0f} %"

    lines = [
        "| results | method | n | ≤ 10 mm | ECE | matched | of these ≤ 10 mm | outside: lost | inside: lost |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        shares = [percent(r[key]) for key in ("matched", "matched_right", "not_found_outside", "not_found_inside")]
        head = f"{r['experiment']} | {r['method']} | {r['n']} | {percent(r['right'])} | {r['ece']:.3f}"
        lines.append(f"| {head} | {' | '.join(shares)} |")
    return "\n".join(lines)


def collect(extractor: Extractor, data: Path, finished: Finished, path: Optional[Path]) -> List[Sample]:
    """All results, kept in a file when one is given."""
    if path is not None and path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["sha256"] == extractor.sha256:
            return [Sample(**{**sample, "scans": tuple(sample["scans"])}) for sample in kept["samples"]]
    samples = [*between_torsos(extractor, data), *between_necks(extractor, data)]
    samples += follow_ups(extractor, data, finished)
    if path is not None:
        facts = {"sha256": extractor.sha256, "samples": [dataclasses.asdict(sample) for sample in samples]}
        path.write_text(json.dumps(facts), encoding="utf-8")
    return samples


def calibration_of(samples: Sequence[Sample], sure: np.ndarray) -> Dict[str, Any]:
    """What goes into the model's record: coefficients of all scans, cuts from the cross-validated confidence."""
    sets = fit_sets(samples)
    matched, not_found = cuts_of(samples, sure, SETS[:-1])
    track_matched, track_lost = cuts_of(samples, sure, ("track",))
    track = {"coefficients": sets.pop("track"), "matched_above": track_matched, "not_found_below": track_lost}
    return {**sets, "matched_above": matched, "not_found_below": not_found, "track": track}


def main(argv: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lite-ct")
    parser.add_argument("--data", help="the data folder; default: ../shared/data")
    parser.add_argument("--cache", metavar="DIR", help="keep the embeddings there")
    parser.add_argument("--cases", metavar="FILE", type=Path, help="finished scans of the tracking benchmark")
    parser.add_argument("--samples", metavar="FILE", type=Path, help="keep the results there and take them from there")
    parser.add_argument("--plot", metavar="PNG", help="reliability, cross-validated")
    parser.add_argument("--report", metavar="R.json")
    parser.add_argument("--write", action="store_true", help="put the coefficients into the record of the model")
    add_publish_option(parser)
    options = parser.parse_args(argv)
    check_publish(parser, options)
    model = load_model(options.model)
    extractor = Extractor(model, Cache(options.cache) if options.cache else None)
    finished = Finished(options.cases, {"sha256": model.info.sha256, "lesions": N_LESIONS, "group": GROUP})
    samples = collect(extractor, find_data(options.data), finished, options.samples)
    sure = cross_validated(samples)
    fitted = calibration_of(samples, sure)
    matching, tracking = UncertaintyModel.from_metadata(fitted), TrackUncertainty.from_metadata(fitted)

    def status_of(sample: Sample, confidence: float) -> str:
        cuts = tracking if sample.set == "track" else matching
        return (
            "matched" if confidence >= cuts.matched_above
            else "not_found" if confidence < cuts.not_found_below
            else "uncertain"
        )  # fmt: skip

    rows = figures(samples, sure, status_of)
    print(f"Model {options.model} ({model.info.sha256}), cross-validated by scan\n\n{to_markdown(rows)}\n")
    print(json.dumps(fitted, indent=1))
    if options.plot:
        curves: Dict[str, List[Tuple[float, bool]]] = {}
        for sample, value in zip(samples, sure):
            title = CURVES.get((sample.experiment, sample.method))
            if title:
                curves.setdefault(title, []).append((float(value), sample.is_right))
        reliability_plot(curves, options.plot, "Cross-validated by scan")
    if options.report:
        facts = {"model": options.model, "sha256": model.info.sha256, "rows": rows, "calibration": fitted}
        Path(options.report).write_text(json.dumps(facts, indent=1), encoding="utf-8")
    if options.publish:
        keep("calibration", to_markdown(rows), rows, model.info, "`ct/val`, `hn/val`, cross-validated by scan")
    if options.write:
        assert model.info.path is not None
        write_calibration(model.info.path, fitted)
        print(f"Written beside {model.info.path}")


if __name__ == "__main__":
    main()
