"""Accuracy of a model on the validation scans, as one Markdown table.

    python -m Testing.benchmarks.accuracy [--model NAME|FILE] [--data ../shared/data] [--report R.json] [--quick]
        [--heads fine=1,coarse=2,semantic=0] [--mind]

Rows, each for the nearest neighbor, the paper's fixed points, and what `match` does by default (fixed points, and the
whole body's matches say where to expect the point):

* *between patients, torso*: hand-placed landmarks (``sure`` of at least 0.75) of the ``ct/val`` scans, found from every
  other scan with landmarks (``ct/val`` and ``ct/train``; the train scans were seen in training, the queries were not);
* *between patients, neck*: centroids of organ contours of ``hn/val``, all ordered pairs;
* *simulated follow-up*: random body points of the ``ct/val`` scans, ``simulate.FOLLOW_UP``, truth known.

``found`` is the share of points with a status other than ``not_found``; errors count *all* points (the best candidate
of a point that was not found is counted too), so that refusing hard points does not flatter. A left-right confusion is
a match nearer to the mirrored landmark than to the true one (landmarks named left/right only).
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Dict, Iterable, List, NamedTuple, Optional, Union

import numpy as np

from SAMv2Core.embed import Model
from SAMv2Core.evaluation.mind import MindFeatures
from SAMv2Core.feature import Embedding
from SAMv2Core.match import match
from SAMv2Core.models import load_model
from SAMv2Core.simulate import FOLLOW_UP, simulate_follow_up
from SAMv2Core.volume import Volume, read_volume
from Testing.benchmarks.common import find_data, parse_options, publish

METHODS: Dict[str, Dict[str, object]] = {
    "nearest": {"method": "nearest"},
    "fixed-point": {"method": "fixed-point", "expect": False},
    "default": {"method": "fixed-point"},
}
Features = Union[Model, MindFeatures]

MIN_SURE = 0.75
N_SIMULATED_POINTS = 200


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


def run_pair(
    experiment: str,
    templates: Dict[str, Embedding],
    queries: Dict[str, Embedding],
    pair: tuple,
    points: Dict[str, np.ndarray],
    truth: Dict[str, np.ndarray],
) -> List[Trial]:
    """All common points of one ordered pair, by both methods."""
    template, query = pair
    labels = [label for label in points if label in truth]
    if not labels:
        return []
    trials = []
    for method, options in METHODS.items():
        asked = np.array([points[n] for n in labels])
        found = match(templates[template], queries[query], asked, **options)  # type: ignore[arg-type]
        for label, result in zip(labels, found):
            place = result.query_lps if result.query_lps is not None else result.candidate_lps
            place = np.full(3, np.inf) if place is None else np.asarray(place)
            error = float(np.linalg.norm(place - truth[label]))
            other = truth.get(mirrored(label) or "")
            confused = None if other is None else bool(np.linalg.norm(place - other) < error)
            trials.append(
                Trial(experiment, method, template, query, label, error, result.status, result.confidence, confused)
            )
    return trials


def between_torsos(model: Features, data: Path) -> List[Trial]:
    """Hand-placed landmarks of the validation torsos from every other scan."""
    paths = sorted((data / "ct" / "val").glob("*.landmarks.json")) + sorted(
        (data / "ct/train").glob("*.landmarks.json")
    )
    landmarks = {p.name.split(".")[0]: load_landmarks(p) for p in paths}
    embeddings = {
        p.name.split(".")[0]: model.embed(read_volume(p.with_name(p.name.replace(".landmarks.json", ".nii.gz"))), "ct")
        for p in paths
    }
    queries = [p.name.split(".")[0] for p in paths if p.parent.name == "val"]
    pairs = [(t, q) for q in queries for t in landmarks if t != q]
    experiment = "between patients, torso"
    return [
        trial
        for pair in pairs
        for trial in run_pair(experiment, embeddings, embeddings, pair, landmarks[pair[0]], landmarks[pair[1]])
    ]


def between_necks(model: Features, data: Path) -> List[Trial]:
    """Organ centroids, all ordered pairs of validation necks."""
    paths = [p for p in sorted((data / "hn" / "val").glob("*.nii.gz")) if "_labels" not in p.name]
    names = [p.name.split(".")[0] for p in paths]
    embeddings = {n: model.embed(read_volume(p), "ct") for n, p in zip(names, paths)}
    centroids = {
        n: label_centroids(read_volume(p.with_name(p.name.replace(".nii.gz", "_labels.nii.gz"))))
        for n, p in zip(names, paths)
    }
    pairs = [(t, q) for t in names for q in names if t != q]
    experiment = "between patients, neck"
    return [
        trial
        for pair in pairs
        for trial in run_pair(experiment, embeddings, embeddings, pair, centroids[pair[0]], centroids[pair[1]])
    ]


def simulated_follow_ups(model: Features, data: Path, n_points: int = N_SIMULATED_POINTS) -> List[Trial]:
    """Random body points of each validation torso in its simulated follow-up."""
    trials: List[Trial] = []
    for seed, path in enumerate(p for p in sorted((data / "ct" / "val").glob("*.nii.gz"))):
        baseline = read_volume(path)
        follow_up = simulate_follow_up(baseline, FOLLOW_UP, seed=seed)
        name = path.name.split(".")[0]
        template, query = model.embed(baseline, "ct"), model.embed(follow_up.volume, "ct")
        body = np.argwhere(template.body)
        drawn = body[np.random.default_rng(seed).choice(len(body), n_points, replace=False)]
        points = template.fine.grid.to_lps(drawn[:, ::-1])
        moved, inside = follow_up.map_points(points)
        labels = [f"point {n}" for n in np.flatnonzero(inside)]
        trials += run_pair(
            "simulated follow-up",
            {name: template},
            {"follow-up": query},
            (name, "follow-up"),
            dict(zip(labels, points[inside])),
            dict(zip(labels, moved[inside])),
        )
    return trials


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
                    "median_mm": float(np.median(errors)),
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
        "| experiment | method | n | median | mean | 95 % | ≤ 10 mm | ≤ 20 mm | found | matched "
        "| of these ≤ 10 mm | left–right |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        lengths = " | ".join(f"{r[key]:.1f} mm" for key in ("median_mm", "mean_mm", "p95_mm"))
        shares = ("within_10mm", "within_20mm", "found", "matched", "matched_within_10mm", "left_right_confused")
        shown = " | ".join(percent(r[key]) for key in shares)
        lines.append(f"| {r['experiment']} | {r['method']} | {r['n']} | {lengths} | {shown} |")
    return "\n".join(lines)


def with_heads(model: Model, text: Optional[str]) -> Model:
    """The model with other weights of its heads, ``fine=1,coarse=2,semantic=0``; as it is without a text."""
    if not text:
        return model
    weights = {name: float(value) for name, value in (part.split("=") for part in text.split(","))}
    return Model(model.net, dataclasses.replace(model.info, head_weights=weights), model.device)


def all_trials(features: Features, data: Path, quick: bool) -> List[Trial]:
    """All experiments with these features."""
    trials = between_torsos(features, data)
    trials += simulated_follow_ups(features, data, 50 if quick else N_SIMULATED_POINTS)
    return trials if quick else trials + between_necks(features, data)


def main(argv: Optional[List[str]] = None) -> None:
    args = parse_options(argv, __doc__, "torso and simulated follow-up with 50 points only", mind=True)
    data = find_data(args.data)
    model = with_heads(load_model(args.model), args.heads)
    trials = all_trials(model, data, args.quick)
    if args.mind:
        trials += [t._replace(method=f"MIND-SSC, {t.method}") for t in all_trials(MindFeatures(), data, args.quick)]
        trials.sort(key=lambda trial: trial.experiment)  # stable: the rows of an experiment stand together
    rows = summarize(trials)
    publish(args, model, to_markdown(rows), rows, trials)


if __name__ == "__main__":
    main()
