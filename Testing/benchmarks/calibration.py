"""Fit the confidence of matching and of tracking to a model, and say how far it can be trusted.

    python -m Testing.benchmarks.calibration [--model lite-ct] [--data ../shared/data] [--cache DIR] [--templates 3]
        [--tracking] [--cases FILE] [--samples FILE] [--plot PNG] [--report R.json] [--write] [--publish]

Results, right when within 10 mm of the truth:

* *torso* and *neck*: every landmark of every torso (``ct/train`` and ``ct/val``), looked for from a few other patients'
  scans, and centroids of organs of ``hn/val`` (:mod:`Testing.benchmarks.accuracy`). The train scans were seen in
  training; their landmarks were not, and ``--queries val`` leaves them out;
* *several*: what 2, 3, 4 and 6 of these templates agree on (:mod:`SAMv2Core.matching.exemplars`);
* *follow-up*: random places of the ``ct/val`` scans in a simulated follow-up;
* *..., cut*: the same with the middle third of the query's slices alone in view: most points have no counterpart;
* with ``--tracking``: the tracker's findings of :mod:`Testing.benchmarks.tracking`, whose finished scans are taken from
  ``--cases FILE``; without it the record's coefficients of the tracker stay.

Each set of coefficients (nearest neighbor, fixed points, several templates, tracker) is a logistic regression in which
every experiment weighs the same (with several templates: every result), drawn to zero; evidence may not count against
its sense. All figures are cross-fitted: each patient's results (and every pair that the patient is the template of) are
judged by coefficients fitted without that patient.
Those fitted on all patients are printed as JSON, and ``--write`` puts them into the record beside the model's weights,
where every program finds them. The cuts between the statuses follow by rule, see :func:`cuts_of`; so does how alike
two bodies must be for a map, see :func:`least_likeness`. From cached embeddings it takes some minutes of one core.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
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
from SAMv2Core.matching.body_map import body_maps
from SAMv2Core.matching.confidence import Coefficients, Evidence, UncertaintyModel
from SAMv2Core.matching.exemplars import agree
from SAMv2Core.matching.match import match
from SAMv2Core.models.records import write_calibration
from SAMv2Core.simulation.simulate import FOLLOW_UP, simulate_follow_up
from SAMv2Core.tracking import confidence as track_confidence
from SAMv2Core.tracking.confidence import BEYOND, TrackEvidence, TrackUncertainty
from Testing.benchmarks.accuracy import BOTH, label_centroids, random_body_points, torso_landmarks
from Testing.benchmarks.accuracy_tables import patient_of
from Testing.benchmarks.common import (
    add_publish_option,
    check_publish,
    expected_calibration_error,
    find_data,
    keep,
    reliability_plot,
    scan_paths,
)
from Testing.benchmarks.intervals import interval
from Testing.benchmarks.tracking import GROUP, N_LESIONS, Finished, all_trials, is_beyond
from Testing.benchmarks.tracking_cases import scans

RIGHT_MM = 10.0
METHODS = ("nearest", "default")
SETS = ("nearest", "fixed_point", "several", "track")
OF_ONE = SETS[:2]
SIGNS = {"bias": 0, "similarity": 1, "cycle": -1, "margin": 1, "fixed_points": 1, "residual": -1, "agreement": -1}
SIGNS.update({"edge": -1, "fell_back": -1, "departure": -1, "likeness": 1})
SIGNS.update({"scatter": -1, "field": -1, "chain": -1, "support": 1, "spread": -1})
BY_JUDGMENT = ("no_field",)  # never seen in these scans
CURVES = {
    ("tracking", "tracker"): "tracking, follow-up",
    ("follow-up", "default"): "matching, follow-up",
    ("torso", "default"): "matching, two patients",
    ("neck", "default"): "matching, two patients",
}
N_TEMPLATES = 6  # of each torso and neck
TOGETHER = (2, 3, 4, 6)  # templates whose results are brought together
KEPT = 30  # embeddings in memory, some 0.15 GB each with its index
N_FOLLOW_UP = 40  # places of each simulated follow-up
N_MAPS, COMMON = 30, 5  # pairs of bodies of each kind, landmarks that two torsos share
TUBES = ("label 2", "label 5")  # spinal cord, esophagus: drawn as far as was needed, so their centroid is no place
RIDGE = 2.0  # of a coefficient of evidence scaled to unit spread; 2 to 20 differ by what chance does
MATCHED_RIGHT = {"follow-up": 0.97, "tracking": 0.9}
"""Share of the results called *matched* that is right at least, by experiment; of the others:"""
OTHERS_RIGHT, LEAST_CUT, N_ENOUGH = 0.9, 0.8, 20
OUTSIDE_NOT_FOUND, RIGHT_NOT_FOUND = 0.92, 0.04


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """One result: what was known of it, and whether it was right."""

    experiment: str
    method: str  # one of METHODS, "tracker", or "several": what the results of some templates agree on
    scans: Tuple[str, ...]  # validation scans that it comes from; the first one is the query
    evidence: Optional[Dict[str, Any]]  # None of a tracked lesion without any place: confidence 0
    is_right: bool
    is_inside: bool = True  # whether the place is in the scan at all
    is_beyond: bool = False  # whether the result lies outside the scan: not found, whatever else is known
    label: str = ""  # of the landmark; several templates' results of one label make a consensus
    off_mm: Tuple[float, ...] = ()  # LPS, the result minus the truth

    @functools.cached_property
    def set(self) -> str:
        """The set of coefficients that judges it."""
        if self.method in ("tracker", "several"):
            return "track" if self.method == "tracker" else "several"
        model = UncertaintyModel()
        judging = model.coefficients(Evidence(**self.evidence))
        return next(name for name in SETS if getattr(model, name) is judging)

    @functools.cached_property
    def terms(self) -> Dict[str, float]:
        """What the coefficients are multiplied with."""
        if self.method == "tracker":
            return track_confidence.terms(TrackEvidence(**self.evidence))
        if self.method == "several":
            return dict(self.evidence or {})
        ones = Coefficients(**dict.fromkeys((field.name for field in dataclasses.fields(Coefficients)), 1.0))
        return ones.terms(Evidence(**self.evidence))


def between(
    experiment: str,
    names: Tuple[str, ...],
    template: Embedding,
    query: Embedding,
    points: Any,
    truth: Any,
    labels: Optional[Sequence[str]] = None,
) -> Iterator[Sample]:
    """Matches of one pair by both methods."""
    for method in METHODS:
        found = match(template, query, points, **POINT_METHODS[method])
        for label, one, expected in zip(labels or [""] * len(found), found, truth):
            if one.evidence is not None and one.candidate_lps is not None:
                is_inside, is_beyond = query.volume_grid.contains(np.array([expected, one.candidate_lps])) ^ [0, 1]
                off = one.candidate_lps - expected
                is_right = is_inside and np.linalg.norm(off) <= RIGHT_MM
                facts = (dataclasses.asdict(one.evidence), bool(is_right), bool(is_inside), bool(is_beyond))
                yield Sample(experiment, method, names, *facts, label, tuple(map(float, off)))


def of_torso(extractor: Extractor, data: Path, query: Path, n_templates: int) -> Iterator[Sample]:
    """Landmarks of a torso from some other patients' scans."""
    landmarks = torso_landmarks(data)
    others = [
        path
        for path, found in landmarks.items()
        if patient_of(name_of(path)) != patient_of(name_of(query)) and found.keys() & landmarks[query].keys()
    ]
    drawn = np.random.default_rng(list(landmarks).index(query)).permutation(len(others))[:n_templates]
    seen = embedded(extractor, query)
    for template in (others[n] for n in drawn):
        common = [label for label in landmarks[template] if label in landmarks[query]]
        ends = [np.array([landmarks[path][label] for label in common]) for path in (template, query)]
        names, source = (name_of(query), name_of(template)), embedded(extractor, template)
        yield from between("torso", names, source, seen, *ends, common)
        yield from between("torso, cut", names, source, middle_third(seen), *ends)


def name_of(path: Path) -> str:
    return path.name.split(".")[0]


@functools.lru_cache(maxsize=KEPT)
def embedded(extractor: Extractor, path: Path) -> Embedding:
    """A CT's embedding; ``path`` may be that of its landmarks."""
    return extractor.embed(read_volume(path.with_name(f"{name_of(path)}.nii.gz")), "ct")


def between_necks(extractor: Extractor, data: Path, n_templates: int) -> Iterator[Sample]:
    """Organ centroids of validation necks."""
    paths = scan_paths(data / "hn" / "val")
    embeddings = {path: embedded(extractor, path) for path in paths}
    centers = {p: label_centroids(read_volume(p.with_name(p.name.replace(".nii", "_labels.nii")))) for p in paths}
    for found in centers.values():
        for tube in TUBES:
            found.pop(tube, None)
    for number, query in enumerate(paths):
        for template in [*paths, *paths][number + 1 : number + 1 + n_templates]:
            common = [label for label in centers[template] if label in centers[query]]
            if template != query and common:
                ends = [np.array([centers[path][label] for label in common]) for path in (template, query)]
                names = (name_of(query), name_of(template))
                yield from between("neck", names, *map(embeddings.get, (template, query)), *ends, common)


def follow_ups(extractor: Extractor, data: Path) -> Iterator[Sample]:
    """Random places of the validation torsos in a simulated follow-up, whole and cut."""
    for seed, path in enumerate(scan_paths(data / "ct" / "val")):
        volume, names = read_volume(path), (name_of(path),)
        template = extractor.embed(volume, "ct")
        points = random_body_points(template, N_FOLLOW_UP, seed)
        simulated = simulate_follow_up(volume, FOLLOW_UP, seed=seed)
        truth, _ = simulated.map_points(points)
        query = extractor.embed(simulated.volume, "ct")
        yield from between("follow-up", names, template, query, points, truth)
        yield from between("follow-up, cut", names, template, middle_third(query), points, truth)


def tracked(extractor: Extractor, data: Path, finished: Finished) -> Iterator[Sample]:
    """The tracker's findings in the tracking benchmark."""
    for trial in all_trials([("", extractor, ("tracker",))], scans(data), finished, N_LESIONS):
        facts = ("tracking", trial.method, (trial.case,), trial.evidence)
        yield Sample(*facts, trial.is_right, trial.is_inside, is_beyond(trial))


def map_likeness(extractor: Extractor, data: Path) -> Dict[str, Any]:
    """How alike body maps of strangers (a neck, an abdomen) and of neighbors (two necks, two torsos with at least
    :data:`COMMON` landmarks in common) are; -1 where there is no map anyway."""
    landmarks = torso_landmarks(data)
    necks, torsos = scan_paths(data / "hn" / "val"), list(landmarks)
    upper = {f"vertebra_{level}" for level in ("C7", "T1", "T2", "T3", "T4", "T5", "T6")} | {"carina", "jugular_notch"}
    abdomens = [path for path, found in landmarks.items() if not upper & found.keys()]
    pairs = {
        "strangers": [(neck, abdomen) for neck in necks for abdomen in abdomens],
        "necks": list(itertools.permutations(necks, 2)),
        "torsos": [
            (a, b)
            for a, b in itertools.permutations(torsos, 2)
            if patient_of(name_of(a)) != patient_of(name_of(b))
            and len(landmarks[a].keys() & landmarks[b].keys()) >= COMMON
        ],
    }
    found: Dict[str, Any] = {}
    for kind, all_pairs in pairs.items():
        drawn = sorted(np.random.default_rng(0).permutation(len(all_pairs))[:N_MAPS])
        found[kind] = []
        for pair in (all_pairs[n] for n in drawn):
            maps = body_maps(*(dataclasses.replace(embedded(extractor, path), calibration={}) for path in pair))
            found[kind].append(min(-1.0 if one is None else one.likeness for one in maps))
    return found


def least_likeness(found: Mapping[str, Sequence[float]]) -> float:
    """What a map needs: more than 95 % of the strangers' have, if that leaves 90 % of the neighbors theirs; else -1."""
    cut = math.ceil(100 * float(np.percentile(found["strangers"], 95))) / 100
    kept = np.mean(np.array([*found["necks"], *found["torsos"]]) >= cut)
    return cut if kept >= 0.9 else -1.0


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
    """One set of coefficients: logistic regression, experiments of equal weight (of several templates: results)."""
    names = [name for name in samples[0].terms if name not in BY_JUDGMENT]
    x = np.array([[sample.terms[name] for name in names] for sample in samples])
    y = np.array([sample.is_right for sample in samples], dtype=float)
    # A follow-up, of few results, is another question than two patients; more or fewer templates are one question.
    questions = ["several" if sample.method == "several" else sample.experiment for sample in samples]
    _, members = np.unique(questions, return_inverse=True)
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
        sample.set in OF_ONE and UncertaintyModel().is_beyond_limits(Evidence(**sample.evidence))
    )
    score = sum(sets[sample.set].get(name, 0.0) * value for name, value in sample.terms.items())
    sure = 1 / (1 + math.exp(-max(min(score, 50.0), -50.0)))
    return min(sure, BEYOND) if is_limited else sure


def cross_validated(samples: Sequence[Sample]) -> np.ndarray:
    """(n,) confidence of every result by coefficients that have not seen its query's patient."""
    found = np.zeros(len(samples))
    patients = [tuple(map(patient_of, sample.scans)) for sample in samples]
    for patient in dict.fromkeys(own[0] for own in patients):
        sets = fit_sets([sample for sample, own in zip(samples, patients) if patient not in own])
        for n, (sample, own) in enumerate(zip(samples, patients)):
            if own[0] == patient:
                found[n] = confidence(sets, sample)
    return found


def together(samples: Sequence[Sample], sure: np.ndarray) -> List[Sample]:
    """What some of the templates agree on, for every landmark that at least two of them show.

    :param sure: (n,) confidence of every result, by coefficients that have not seen its patients.
    """
    groups: Dict[Tuple[str, ...], List[int]] = {}
    for n, sample in enumerate(samples):
        if sample.method == "default" and sample.label:
            groups.setdefault((sample.experiment, sample.scans[0], sample.label), []).append(n)
    rng, found = np.random.default_rng(0), []
    for (experiment, query, label), members in groups.items():
        for count in (count for count in TOGETHER if count <= len(members)):
            chosen = sorted(rng.permutation(members)[:count])
            agreed = agree(np.array([samples[n].off_mm for n in chosen]), sure[chosen])
            scans = (query, *(samples[n].scans[1] for n in chosen))
            is_inside = samples[chosen[0]].is_inside
            is_right = is_inside and np.linalg.norm(agreed.place_lps) <= RIGHT_MM
            facts = (agreed.terms(), bool(is_right), is_inside, False, label, tuple(agreed.place_lps))
            found.append(Sample(f"{experiment}, {count} templates", "several", scans, *facts))
    return found


def cuts_of(samples: Sequence[Sample], sure: np.ndarray, names: Sequence[str]) -> Tuple[float, float]:
    """(matched above, not found below) for the results of some sets of coefficients.

    *Matched* is the smallest cut above which the share of :data:`MATCHED_RIGHT` is right in every experiment with
    enough results, what was cut away left aside. *Not found* lies where :data:`OUTSIDE_NOT_FOUND` of the places outside
    the scan fall below it, but never so high that more than :data:`RIGHT_NOT_FOUND` of the right results would.
    """
    mine = np.array([sample.set in names for sample in samples])
    right = np.array([sample.is_right for sample in samples])
    outside = np.array([not sample.is_inside for sample in samples])
    experiments = np.array([f"{sample.experiment}, {sample.method}" for sample in samples])
    for matched in (percent / 100 for percent in range(round(100 * LEAST_CUT), 98)):
        spare = []
        for experiment in np.unique(experiments[mine]):
            chosen = mine & (experiments == experiment) & (sure >= matched)
            wanted = MATCHED_RIGHT.get(experiment.partition(", ")[0], OTHERS_RIGHT)
            spare += [right[chosen].mean() - wanted] if chosen.sum() >= N_ENOUGH and "cut" not in experiment else []
        if min(spare, default=0.0) >= 0:
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
        patients = np.array([patient_of(samples[n].scans[0]) for n in chosen])
        of_matched = interval(right[matched], patients[matched].tolist()) if matched.any() else None
        rows.append(
            {
                "experiment": title,
                "method": method,
                "n": len(chosen),
                "patients": len(set(patients)),
                "right": float(right.mean()),
                "ece": expected_calibration_error(sure[chosen], right),
                "brier": float(np.mean((sure[chosen] - right) ** 2)),
                "matched": float(matched.mean()),
                "matched_right": None if of_matched is None else of_matched.value,
                "matched_right_ci95": None if of_matched is None else of_matched.bounds,
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
        "| results | method | n (patients) | ≤ 10 mm | ECE | matched | of these ≤ 10 mm "
        "| outside: lost | inside: lost |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        shares = [percent(r[key]) for key in ("matched", "matched_right", "not_found_outside", "not_found_inside")]
        if r["matched_right_ci95"]:
            low, high = r["matched_right_ci95"]
            shares[1] += f" ({100 * low:.0f}–{100 * high:.0f})"
        head = (
            f"{r['experiment']} | {r['method']} | {r['n']} ({r['patients']}) | {percent(r['right'])} | {r['ece']:.3f}"
        )
        lines.append(f"| {head} | {' | '.join(shares)} |")
    return "\n".join(lines)


def collect(
    extractor: Extractor, data: Path, options: argparse.Namespace, finished: Finished
) -> Tuple[List[Sample], Dict[str, List[float]]]:
    """All results and the likeness of maps; those that a file holds already are not run again."""
    path, done = options.samples, {}
    if path is not None and path.exists():
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        done = {kept["part"]: kept["found"] for kept in lines if kept["sha256"] == extractor.sha256}

    def part(name: str, compute: Callable[[], Any]) -> Any:
        if name not in done:
            done[name] = compute()
            if path is not None:
                with open(path, "a", encoding="utf-8") as stream:
                    stream.write(json.dumps({"sha256": extractor.sha256, "part": name, "found": done[name]}) + "\n")
        return done[name]

    def results(name: str, work: Iterator[Sample]) -> List[Sample]:
        found = part(name, lambda: [dataclasses.asdict(sample) for sample in work])
        return [Sample(**{**sample, "scans": tuple(sample["scans"])}) for sample in found]

    n = options.templates
    samples = results(f"necks, {n}", between_necks(extractor, data, n)) + results(
        "follow-ups", follow_ups(extractor, data)
    )
    likeness = part("likeness of maps", lambda: map_likeness(extractor, data))
    for query in torso_landmarks(data):
        if query.parent.name in options.queries:
            samples += results(f"{name_of(query)}, {n}", of_torso(extractor, data, query, n))
    if options.tracking:
        samples += results("tracking", tracked(extractor, data, finished))
    return samples, likeness


def same_patient_of(samples: Sequence[Sample]) -> float:
    """How alike the bodies of one patient are at least: a hundredth above the most alike pair of patients, since real
    follow-ups (0.89 to 0.99, three pairs) are less alike than simulated ones; -1 where some of these lie below."""
    voted = [sample for sample in samples if sample.set == "fixed_point" and sample.evidence]
    same, others = (
        [s.evidence["likeness"] for s in voted if s.evidence and ("follow-up" in s.experiment) is kind] or [-1.0]
        for kind in (True, False)
    )
    cut = round(max(others) + 0.01, 3)
    return cut if min(same) > cut else -1.0


def is_capped(sample: Sample, same_patient: float) -> bool:
    """Whether it is a single exemplar's of another patient, which is never called matched."""
    return sample.set in OF_ONE and bool(sample.evidence) and sample.evidence["likeness"] < same_patient  # type: ignore[index]


def calibration_of(samples: Sequence[Sample], sure: np.ndarray) -> Dict[str, Any]:
    """What goes into the model's record: coefficients of all scans, cuts from the cross-validated confidence."""
    sets = fit_sets(samples)
    found: Dict[str, Any] = dict(sets)
    found["same_patient"] = same_patient_of(samples)
    never = np.array([is_capped(sample, found["same_patient"]) for sample in samples])
    found["matched_above"], _ = cuts_of(samples, np.where(never, 0.0, sure), OF_ONE)
    _, found["not_found_below"] = cuts_of(samples, sure, OF_ONE)
    for name in {"several", "track"} & found.keys():
        matched, not_found = cuts_of(samples, sure, (name,))
        cuts = {"matched_above": matched, "not_found_below": not_found}
        found[name] = {**sets[name], **cuts} if name == "several" else {"coefficients": sets[name], **cuts}
    return found


def main(argv: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lite-ct")
    parser.add_argument("--data", help="the data folder; default: ../shared/data")
    parser.add_argument("--cache", metavar="DIR", help="keep the embeddings there")
    parser.add_argument("--cases", metavar="FILE", type=Path, help="finished scans of the tracking benchmark")
    parser.add_argument("--queries", nargs="+", choices=BOTH, default=BOTH, help="whose landmarks are looked for")
    parser.add_argument("--templates", type=int, default=N_TEMPLATES, help="scans that each is looked for from")
    parser.add_argument("--tracking", action="store_true", help="fit the tracker's coefficients too, which takes long")
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
    samples, likeness = collect(extractor, find_data(options.data), options, finished)
    agreed = together(samples, cross_validated(samples))
    samples += agreed
    sure = cross_validated(samples)
    fitted = {**calibration_of(samples, sure), "map_likeness": least_likeness(likeness)}
    if "track" not in fitted and "track" in model.info.calibration:
        fitted["track"] = model.info.calibration["track"]
    matching, tracking = UncertaintyModel.from_metadata(fitted), TrackUncertainty.from_metadata(fitted)

    def status_of(sample: Sample, confidence: float) -> str:
        cuts = {"track": tracking, "several": matching.several}.get(sample.set, matching)
        return (
            "matched" if confidence >= cuts.matched_above and not is_capped(sample, matching.same_patient)
            else "not_found" if confidence < cuts.not_found_below
            else "uncertain"
        )  # fmt: skip

    rows = figures(samples, sure, status_of)
    print(f"Model {options.model} ({model.info.sha256}), cross-fitted by patient\n\n{to_markdown(rows)}\n")
    print(json.dumps(fitted, indent=1))
    if options.plot:
        curves: Dict[str, List[Tuple[float, bool]]] = {}
        for sample, value in zip(samples, sure):
            title = CURVES.get((sample.experiment, sample.method))
            if title:
                curves.setdefault(title, []).append((float(value), sample.is_right))
        reliability_plot(curves, options.plot, "Cross-fitted by patient")
    if options.report:
        facts = {"model": options.model, "sha256": model.info.sha256, "rows": rows, "calibration": fitted}
        Path(options.report).write_text(json.dumps(facts, indent=1), encoding="utf-8")
    if options.publish:
        keep("calibration", to_markdown(rows), rows, model.info, "landmarks of `ct`, `hn/val`, cross-fitted by patient")
    if options.write:
        assert model.info.path is not None
        write_calibration(model.info.path, fitted)
        print(f"Written beside {model.info.path}")


if __name__ == "__main__":
    main()
