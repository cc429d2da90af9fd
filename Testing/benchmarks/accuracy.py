"""Accuracy of a model on the validation scans, as one Markdown table.

    python -m Testing.benchmarks.accuracy [--model NAME|FILE] [--data ../shared/data] [--report R.json] [--quick]
        [--heads fine=1,coarse=2,semantic=0] [--ablation] [--mind] [--oracle] [--labels]

Rows, each for the nearest neighbor, the paper's fixed points, and what `match` does by default (fixed points, and the
whole body's matches say where to expect the point):

* *between patients, torso*: hand-placed landmarks (``sure`` of at least 0.75) of the ``ct/val`` scans, found from every
  other scan with landmarks (``ct/val`` and ``ct/train``; the train scans were seen in training, the queries were not);
* *between patients, neck*: centroids of organ contours of ``hn/val``, all ordered pairs;
* *simulated follow-up*: random body points of the ``ct/val`` scans, ``simulate.FOLLOW_UP``, truth known;
* *MR in CT of one patient* (models of both): random body points of the MR of each ``ctmr/val`` pair; the truth is the
  pairs' own alignment, good to a few millimeters.

``--ablation`` (50 points a follow-up) gives the rows of the paper's Table 3: appearance alone, with the semantic head,
with fixed points, all.

``--oracle`` tells what limits the matches between patients: the nearest neighbor among the places within some distance
of the truth. What is left at a small distance is what the embeddings cannot tell apart nearby; what a large one adds
is what they confuse with places far off. A guess within 12 mm would have a median of 9.5 mm.

``--labels`` tells which landmarks of torsos the error of the default comes from.

``found`` is the share of points with a status other than ``not_found``; errors count *all* points (the best candidate
of a point that was not found is counted too), so that refusing hard points does not flatter. A left-right confusion is
a match nearer to the mirrored landmark than to the true one (landmarks named left/right only).
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Union

import numpy as np

from SAMv2Core.embedding.embedding import Embedding
from SAMv2Core.embedding.load import load_model
from SAMv2Core.embedding.model import Model
from SAMv2Core.evaluation.features import MindFeatures
from SAMv2Core.io.volume import Volume, read_volume
from SAMv2Core.matching.match import match, similarity_map
from SAMv2Core.simulation.simulate import FOLLOW_UP, SimulatedFollowUp, SimulationOptions, simulate_follow_up
from Testing.benchmarks.common import find_data, median_interval, parse_options, publish, scan_paths


class Variant(NamedTuple):
    """A row of the table: how points are matched.

    :param options: of :func:`SAMv2Core.matching.match.match`.
    :param heads: weights of the heads' cosines, None for the model's own.
    """

    name: str
    options: Mapping[str, Any]
    heads: Optional[Mapping[str, float]] = None


METHODS = (
    Variant("nearest", {"method": "nearest"}),
    Variant("fixed-point", {"method": "fixed-point", "expect": False}),
    Variant("default", {"method": "fixed-point"}),
)
APPEARANCE = {"fine": 1.0, "coarse": 2.0, "semantic": 0.0}
WITH_SEMANTIC = {"fine": 1.0, "coarse": 2.0, "semantic": 1.5}  # a third of the sum, as in the paper
ABLATION = (
    Variant("appearance", {"method": "nearest"}, APPEARANCE),
    Variant("+ semantic", {"method": "nearest"}, WITH_SEMANTIC),
    Variant("appearance + fixed points", {"method": "fixed-point", "expect": False}, APPEARANCE),
    Variant("+ semantic + fixed points (SAM++)", {"method": "fixed-point", "expect": False}, WITH_SEMANTIC),
    Variant("appearance + fixed points + expectation (default)", {"method": "fixed-point"}, APPEARANCE),
    Variant("all", {"method": "fixed-point"}, WITH_SEMANTIC),
)
Features = Union[Model, MindFeatures]

TORSO = "between patients, torso"
ALL_BUT_DOMES = "another patient's torso, all but domes"
MIN_SURE = 0.75
N_SIMULATED_POINTS, N_QUICK_POINTS = 200, 50  # of each scan
N_MR_POINTS = 100
ORACLE_MM = (12.0, 24.0, 48.0)


class Trial(NamedTuple):
    """One point searched in one scan."""

    experiment: str
    method: str
    template: str
    query: str
    label: str
    error_mm: float
    status: str
    confidence: float
    confused: Optional[bool]

    @property
    def patient(self) -> str:
        """Whose scan was searched: errors of one patient are not independent."""
        return self.query.split(",")[0]


# Beginnings of names, by region; what is left of a torso's landmarks lies in the abdomen. Domes are no points: the
# highest place of a surface is not the same anatomy in two patients.
REGIONS = {
    "domes": ("dome", "liver_dome", "costophrenic"),
    "bones and vertebrae": (
        "vertebra", "jugular", "sternal", "xiphoid", "clavicle", "coracoid", "humeral", "scapula", "iliac_crest",
        "asis", "femoral", "lesser_trochanter", "sacral", "coccyx", "pubic",
    ),
    "chest": (
        "apex", "carina", "left_bronchus", "right_upper_bronchus", "aortic_arch", "brachiocephalic", "left_subclavian",
        "aortic_valve", "pulmonary", "left_atrium", "svc", "ivc", "azygos", "cardiac", "esophagus",
    ),
}  # fmt: skip


def region_of(label: str) -> str:
    """Chest, abdomen, bones and vertebrae, or domes."""
    return next((region for region, starts in REGIONS.items() if label.startswith(starts)), "abdomen")


def by_region(trials: Iterable[Trial]) -> List[Trial]:
    """The default's torso trials once more, by region, and all but the domes together."""
    torso = [t for t in trials if t.experiment == TORSO and t.method == "default"]
    together = [t._replace(experiment=ALL_BUT_DOMES) for t in torso if region_of(t.label) != "domes"]
    regions = [t._replace(experiment=f"another patient's {region_of(t.label)}") for t in torso]
    return together + sorted(regions, key=lambda t: t.experiment)


def load_landmarks(path: Path) -> Dict[str, np.ndarray]:
    """Sure landmarks of a ``*.landmarks.json``: name -> LPS mm."""
    entries = json.loads(path.read_text())["landmarks"]
    return {name: np.array(e["lps"], dtype=float) for name, e in entries.items() if e["sure"] >= MIN_SURE}


def label_centroids(volume: Volume) -> Dict[str, np.ndarray]:
    """Centroids (LPS mm) of the labels that do not touch the first or last slice."""
    result = {}
    for label in np.unique(volume.array):
        index = np.argwhere(volume.array == label)
        cut = index[:, 0].min() == 0 or index[:, 0].max() == volume.array.shape[0] - 1
        if label and len(index) > 20 and not cut:
            result[f"label {label}"] = volume.grid.to_lps(index.mean(0)[::-1])
    return result


def mirrored(label: str) -> Optional[str]:
    """The name of the landmark on the other side, or None for one in the midline."""
    for side, other in (("left", "right"), ("right", "left")):
        if side in label:
            return label.replace(side, other)
    return None


class Asked(NamedTuple):
    """The points of one ordered pair of scans, LPS mm by label, and where they truly lie."""

    template: str
    query: str
    points: Mapping[str, np.ndarray]
    truth: Mapping[str, np.ndarray]


class Experiment(NamedTuple):
    """Scans, embedded, and what is looked for in them."""

    name: str
    embeddings: Mapping[str, Embedding]
    asked: List[Asked]

    def run(self, variants: Sequence[Variant]) -> List[Trial]:
        """Every point by every variant, one after the other: a search index lives as long as its embedding."""
        return [trial for variant in variants for trial in self._run(variant)]

    def _run(self, variant: Variant) -> Iterator[Trial]:
        embeddings = {name: reweighed(embedding, variant.heads) for name, embedding in self.embeddings.items()}
        for asked in self.asked:
            labels = [label for label in asked.points if label in asked.truth]
            if not labels:
                continue
            points = np.array([asked.points[label] for label in labels])
            found = match(embeddings[asked.template], embeddings[asked.query], points, **variant.options)
            for label, result in zip(labels, found):
                place = result.candidate_lps if result.query_lps is None else result.query_lps
                place = np.full(3, np.inf) if place is None else np.asarray(place)
                error = float(np.linalg.norm(place - asked.truth[label]))
                other = asked.truth.get(mirrored(label) or "")
                confused = None if other is None else bool(np.linalg.norm(place - other) < error)
                facts = (self.name, variant.name, asked.template, asked.query, label)
                yield Trial(*facts, error, result.status, result.confidence, confused)


def near_the_truth(experiment: Experiment) -> Iterator[Trial]:
    """Every point by nearest neighbors that an oracle confines to :data:`ORACLE_MM` around the truth."""
    for asked in experiment.asked:
        template, query = (experiment.embeddings[name] for name in (asked.template, asked.query))
        for label in (label for label in asked.points if label in asked.truth):
            similarity, grid = similarity_map(template, query, asked.points[label].tolist())
            places = np.argwhere(similarity > -1)  # -1 marks what lies outside the body
            off_mm = np.linalg.norm(grid.to_lps(places[:, ::-1]) - asked.truth[label], axis=1)
            found = similarity[tuple(places.T)]
            for limit in ORACLE_MM:
                near = off_mm <= limit
                error = float(off_mm[near][found[near].argmax()]) if near.any() else limit
                facts = (experiment.name, f"nearest, within {limit:.0f} mm", asked.template, asked.query, label)
                yield Trial(*facts, error, "uncertain", math.nan, None)


def reweighed(embedding: Embedding, heads: Optional[Mapping[str, float]]) -> Embedding:
    """The embedding with other weights of its heads, scaled to sum to 1; those it lacks are left out."""
    if heads is None:
        return embedding
    present = {head.name: heads.get(head.name, 0.0) for head in embedding.heads}
    total = sum(present.values())
    return dataclasses.replace(embedding, head_weights={name: weight / total for name, weight in present.items()})


def between_torsos(model: Features, data: Path) -> Experiment:
    """Hand-placed landmarks of the validation torsos from every other scan."""
    paths = [p for part in ("val", "train") for p in sorted((data / "ct" / part).glob("*.landmarks.json"))]
    landmarks = {p.name.split(".")[0]: load_landmarks(p) for p in paths}
    embeddings = {
        p.name.split(".")[0]: model.embed(read_volume(p.with_name(p.name.replace(".landmarks.json", ".nii.gz"))), "ct")
        for p in paths
    }
    queries = [p.name.split(".")[0] for p in paths if p.parent.name == "val"]
    asked = [Asked(t, q, landmarks[t], landmarks[q]) for q in queries for t in landmarks if t != q]
    return Experiment(TORSO, embeddings, asked)


def between_necks(model: Features, data: Path) -> Experiment:
    """Organ centroids, all ordered pairs of validation necks."""
    paths = {p.name.split(".")[0]: p for p in scan_paths(data / "hn" / "val")}
    embeddings = {name: model.embed(read_volume(path), "ct") for name, path in paths.items()}
    centroids = {
        name: label_centroids(read_volume(path.with_name(path.name.replace(".nii.gz", "_labels.nii.gz"))))
        for name, path in paths.items()
    }
    asked = [Asked(t, q, centroids[t], centroids[q]) for t in paths for q in paths if t != q]
    return Experiment("between patients, neck", embeddings, asked)


class Baseline(NamedTuple):
    """A scan, embedded once, and the points asked for (N, 3), LPS mm."""

    name: str
    seed: int
    volume: Volume
    embedding: Embedding
    points: np.ndarray

    @property
    def follow_up(self) -> str:
        return f"{self.name}, follow-up"

    def asked(self, simulated: SimulatedFollowUp) -> Asked:
        """The points that a follow-up shows."""
        moved, inside = simulated.map_points(self.points)
        labels = {f"point {n}": n for n in np.flatnonzero(inside)}
        points, truth = ({label: places[n] for label, n in labels.items()} for places in (self.points, moved))
        return Asked(self.name, self.follow_up, points, truth)


def validation_torsos(model: Features, data: Path, n_points: int) -> List[Baseline]:
    """The ``ct/val`` scans and random points of their bodies."""
    found = []
    for seed, path in enumerate(scan_paths(data / "ct" / "val")):
        volume = read_volume(path)
        embedding = model.embed(volume, "ct")
        points = random_body_points(embedding, n_points, seed)
        found.append(Baseline(path.name.split(".")[0], seed, volume, embedding, points))
    return found


def simulated_follow_ups(
    model: Features,
    baselines: Sequence[Baseline],
    options: SimulationOptions = FOLLOW_UP,
    name: str = "simulated follow-up",
) -> Experiment:
    """The baselines' points in a simulated follow-up of each."""
    embeddings: Dict[str, Embedding] = {}
    asked: List[Asked] = []
    for baseline in baselines:
        simulated = simulate_follow_up(baseline.volume, options, seed=baseline.seed)
        asked.append(baseline.asked(simulated))
        embeddings[baseline.name] = baseline.embedding
        embeddings[baseline.follow_up] = model.embed(simulated.volume, "ct")
    return Experiment(name, embeddings, asked)


def mr_in_ct(model: Features, data: Path) -> Experiment:
    """Random body points of each validation MR in the CT of the same patient, as their authors aligned them."""
    embeddings: Dict[str, Embedding] = {}
    asked: List[Asked] = []
    for seed, path in enumerate(sorted((data / "ctmr" / "val").glob("*_mr.nii.gz"))):
        name = path.name[: -len("_mr.nii.gz")]
        mr = model.embed(read_volume(path), "mr")
        ct = model.embed(read_volume(path.with_name(f"{name}_ct.nii.gz")), "ct")
        embeddings.update({f"{name} mr": mr, f"{name} ct": ct})
        points = random_body_points(mr, N_MR_POINTS, seed)
        points = points[mr.volume_grid.contains(points) & ct.volume_grid.contains(points)]
        places = {f"point {n}": point for n, point in enumerate(points)}
        asked.append(Asked(f"{name} mr", f"{name} ct", places, places))
    return Experiment("MR in CT of one patient", embeddings, asked)


def random_body_points(embedding: Embedding, n: int, seed: int) -> np.ndarray:
    """(n, 3) LPS mm of voxels of the body, drawn without replacement."""
    body = np.argwhere(embedding.body)
    drawn = body[np.random.default_rng(seed).choice(len(body), n, replace=False)]
    return embedding.fine.grid.to_lps(drawn[:, ::-1])


def summarize(trials: Iterable[Trial]) -> List[Dict[str, object]]:
    """One row per experiment and method."""
    trials = list(trials)
    rows = []
    for experiment in dict.fromkeys(t.experiment for t in trials):
        for method in dict.fromkeys(t.method for t in trials if t.experiment == experiment):
            chosen = [t for t in trials if t.experiment == experiment and t.method == method]
            errors = np.array([t.error_mm for t in chosen])
            sided = [t.confused for t in chosen if t.confused is not None]
            matched = np.array([t.error_mm for t in chosen if t.status == "matched"])
            rows.append(
                {
                    "experiment": experiment,
                    "method": method,
                    "n": len(chosen),
                    "patients": len({t.patient for t in chosen}),
                    "median_mm": float(np.median(errors)),
                    "median_ci95_mm": median_interval(errors.tolist(), [t.patient for t in chosen]),
                    "mean_mm": float(errors.mean()),
                    "p95_mm": float(np.percentile(errors, 95)),
                    "within_10mm": float((errors <= 10).mean()),
                    "within_20mm": float((errors <= 20).mean()),
                    "found": float(np.mean([t.status != "not_found" for t in chosen])),
                    "matched": len(matched) / len(chosen),
                    "matched_within_10mm": float((matched <= 10).mean()) if len(matched) else None,
                    "left_right_confused": float(np.mean(sided)) if sided else None,
                }
            )
    return rows


def to_markdown(rows: List[Dict[str, object]]) -> str:
    """The table for README and model cards."""

    def percent(value: object) -> str:
        return "–" if value is None else f"{100 * float(value):.0f} %"  # type: ignore[arg-type]

    lines = [
        "| experiment | method | n | patients | median (95 % interval) | mean | 95 % | ≤ 10 mm | ≤ 20 mm | found "
        "| matched | of these ≤ 10 mm | left–right |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        bounds = r["median_ci95_mm"]
        interval = "" if bounds is None else f" ({bounds[0]:.1f}–{bounds[1]:.1f})"  # type: ignore[index]
        median = f"{r['median_mm']:.1f} mm{interval}"
        lengths = " | ".join([median, *(f"{r[key]:.1f} mm" for key in ("mean_mm", "p95_mm"))])
        shares = ("within_10mm", "within_20mm", "found", "matched", "matched_within_10mm", "left_right_confused")
        shown = " | ".join(percent(r[key]) for key in shares)
        lines.append(f"| {r['experiment']} | {r['method']} | {r['n']} | {r['patients']} | {lengths} | {shown} |")
    return "\n".join(lines)


def labels_to_markdown(trials: Iterable[Trial]) -> str:
    """What each kind of landmark (both sides as one) adds to the torsos' error by default, the largest share first."""
    errors: Dict[str, List[float]] = {}
    for trial in trials:
        if trial.experiment == TORSO and trial.method == "default":
            kind = trial.label.replace("left", "").replace("right", "").replace("__", "_").strip("_")
            errors.setdefault(kind, []).append(trial.error_mm)
    total = sum(sum(values) for values in errors.values())
    lines = ["| landmark | n | median | mean | share of the sum of all errors |", "|---|---|---|---|---|"]
    for label, values in sorted(errors.items(), key=lambda item: -sum(item[1])):
        lengths = f"{np.median(values):.1f} mm | {np.mean(values):.1f} mm"
        lines.append(f"| {label.replace('_', ' ')} | {len(values)} | {lengths} | {100 * sum(values) / total:.0f} % |")
    return "\n".join(lines)


def parse_heads(text: Optional[str]) -> Optional[Dict[str, float]]:
    """``fine=1,coarse=2,semantic=0`` as a mapping."""
    return {n: float(v) for n, v in (part.split("=") for part in text.split(","))} if text else None


def experiments(
    features: Features, data: Path, quick: bool, with_mr: bool, n_points: int = N_SIMULATED_POINTS
) -> Iterator[Experiment]:
    """All experiments with these features, one at a time: their embeddings take memory."""
    yield between_torsos(features, data)
    yield simulated_follow_ups(features, validation_torsos(features, data, n_points))
    if not quick:
        yield between_necks(features, data)
    if with_mr:
        yield mr_in_ct(features, data)


def main(argv: Optional[List[str]] = None) -> None:
    args = parse_options(argv, __doc__, "torso and simulated follow-up with 50 points only", accuracy=True)
    data = find_data(args.data)
    model = load_model(args.model)
    heads = parse_heads(args.heads)
    variants = ABLATION if args.ablation else tuple(variant._replace(heads=heads) for variant in METHODS)
    both = "mr" in model.info.modalities
    n_points = N_QUICK_POINTS if args.quick or args.ablation else N_SIMULATED_POINTS
    if args.oracle:
        trials = [t for build in (between_torsos, between_necks) for t in near_the_truth(build(model, data))]
    else:
        trials = [t for e in experiments(model, data, args.quick, both, n_points) for t in e.run(variants)]
    if args.mind:
        for experiment in experiments(MindFeatures(), data, args.quick, both, n_points):
            trials += [t._replace(method=f"MIND-SSC, {t.method}") for t in experiment.run(METHODS)]
        trials.sort(key=lambda trial: trial.experiment)  # stable: the rows of an experiment stand together
    rows = summarize([*trials, *by_region(trials)])
    table = to_markdown(rows)
    if args.labels:
        table += f"\n\n{labels_to_markdown(trials)}"
    name = "accuracy-ablation" if args.ablation else "accuracy-oracle" if args.oracle else "accuracy"
    publish(args, model, name, table, rows, trials, f"{len(scan_paths(data / 'ct/val'))} scans of `ct/val`, `hn/val`")


if __name__ == "__main__":
    main()
