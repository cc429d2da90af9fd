"""Fit the coefficients of the confidence to a model's matches on the validation torsos.

    python -m Testing.benchmarks.calibration [--model lite-ct] [--points 100]

Three experiments, both methods, a match being right when it lies within 10 mm of the truth:

* landmarks between patients;
* points of a simulated follow-up of each validation scan;
* the same with only a third of the follow-up's slices in view, so that most points have no counterpart.

A logistic regression with a weak prior at the present coefficients (few points must not turn a sign) weighs every
experiment the same. Prints the coefficients as JSON, for ``UncertaintyModel`` or a model's metadata, and how well
confidence and truth agree before and after.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from typing import Dict, List, NamedTuple, Tuple

import numpy as np
from scipy.optimize import minimize

from SAMv2Core.embed import Model
from SAMv2Core.feature import Embedding
from SAMv2Core.geometry import Grid
from SAMv2Core.match import METHODS, match
from SAMv2Core.models import load_model
from SAMv2Core.simulate import FOLLOW_UP, simulate_follow_up
from SAMv2Core.uncertainty import Coefficients, Evidence, UncertaintyModel
from SAMv2Core.volume import read_volume
from Testing.benchmarks.accuracy import load_landmarks
from Testing.benchmarks.common import find_data

RIGHT_MM = 10.0
SIGNS = {"bias": 0, "similarity": 1, "cycle": -1, "margin": 1, "fixed_points": 1}
SIGNS.update({"residual": -1, "agreement": -1, "edge": -1, "fell_back": -1, "departure": -1})
SMALLEST = 0.05  # of a coefficient with a sign: evidence may count little, not nothing
PRIOR_SPREAD = 0.7  # of the coefficients, relative to their present size


class Sample(NamedTuple):
    """One match, and whether it was right."""

    experiment: str
    method: str
    evidence: Evidence
    is_right: bool


def collect(name: str, template: Embedding, query: Embedding, points: np.ndarray, truth: np.ndarray) -> List[Sample]:
    """Matches of one pair by both methods."""
    samples = []
    for method in METHODS:
        for found, expected in zip(match(template, query, points, method), truth):
            if found.evidence is not None and found.candidate_lps is not None:
                is_right = bool(np.linalg.norm(found.candidate_lps - expected) <= RIGHT_MM)
                samples.append(Sample(name, method, found.evidence, is_right))
    return samples


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


def samples_of(model: Model, data_folder: str, n_points: int) -> List[Sample]:
    """All three experiments."""
    paths = sorted((find_data(data_folder) / "ct" / "val").glob("*.landmarks.json"))
    landmarks = {path: load_landmarks(path) for path in paths}
    volumes = {path: read_volume(path.with_name(path.name.replace(".landmarks.json", ".nii.gz"))) for path in paths}
    embeddings = {path: model.embed(volume, "ct") for path, volume in volumes.items()}
    samples: List[Sample] = []
    for a in paths:
        for b in paths:
            common = [label for label in landmarks[a] if label in landmarks[b]]
            if a != b and common:
                ends = [np.array([landmarks[path][label] for label in common]) for path in (a, b)]
                samples += collect("between patients", embeddings[a], embeddings[b], *ends)
    for seed, path in enumerate(paths):
        follow_up = simulate_follow_up(volumes[path], FOLLOW_UP, seed=seed)
        query = model.embed(follow_up.volume, "ct")
        body = np.argwhere(embeddings[path].body)[:, ::-1]
        drawn = body[np.random.default_rng(seed).choice(len(body), n_points, replace=False)]
        points = embeddings[path].fine.grid.to_lps(drawn)
        truth, is_inside = follow_up.map_points(points)
        samples += collect("follow-up", embeddings[path], query, points[is_inside], truth[is_inside])
        samples += collect("out of view", embeddings[path], middle_third(query), points, truth)
    return samples


def fit(samples: List[Sample]) -> UncertaintyModel:
    """One logistic regression for each set of coefficients; the cuts and the hard limits stay as they are."""
    present = UncertaintyModel()
    sets = {
        name: [s for s in samples if present.coefficients(s.evidence) is getattr(present, name)]
        for name in ("nearest", "fixed_point")
    }
    return dataclasses.replace(present, **{name: fit_set(getattr(present, name), s) for name, s in sets.items() if s})


def fit_set(present: Coefficients, samples: List[Sample]) -> Coefficients:
    """Logistic regression of the coefficients that are not zero."""
    names = [name for name in dataclasses.asdict(present) if any(_has(name, s.evidence) for s in samples)]
    ones = Coefficients(**dict.fromkeys(dataclasses.asdict(present), 1.0))
    x = np.array([[ones.terms(sample.evidence)[name] for name in names] for sample in samples])
    y = np.array([sample.is_right for sample in samples])
    groups, members = np.unique([sample.experiment for sample in samples], return_inverse=True)
    weights = (len(samples) / len(groups) / np.bincount(members))[members]
    prior = np.array([getattr(present, name) for name in names])
    spread = PRIOR_SPREAD * np.maximum(np.abs(prior), 0.5)

    def loss(b: np.ndarray) -> float:
        z = x @ b
        return float(np.sum(weights * (np.logaddexp(0, z) - y * z)) + 0.5 * np.sum(((b - prior) / spread) ** 2))

    limits = {0: (None, None), 1: (SMALLEST, None), -1: (None, -SMALLEST)}
    found = minimize(loss, prior, bounds=[limits[SIGNS[name]] for name in names]).x
    return dataclasses.replace(present, **{name: round(float(v), 2) for name, v in zip(names, found)})


def _has(name: str, evidence: Evidence) -> bool:
    """Whether a piece of evidence says something: a coefficient without any cannot be fitted."""
    fields = {"cycle": "cycle_error_mm", "residual": "residual_mm", "agreement": "agreement_mm", "edge": "at_edge"}
    value = getattr(evidence, fields.get(name, name), 1.0)  # the bias is no evidence and always there
    return bool(math.isfinite(value)) and bool(value)


def agreement(samples: List[Sample], model: UncertaintyModel) -> Dict[str, Tuple[int, float, float, float]]:
    """Per experiment and method: matches, share right, share confident enough for "matched", share right of these."""
    rows = {}
    for name in sorted({(s.experiment, s.method) for s in samples}):
        chosen = [s for s in samples if (s.experiment, s.method) == name]
        sure = [s.is_right for s in chosen if model.confidence(s.evidence) >= model.matched_above]
        right = float(np.mean([s.is_right for s in chosen]))
        share = float(np.mean(sure)) if sure else math.nan
        rows[", ".join(name)] = (len(chosen), round(right, 3), round(len(sure) / len(chosen), 3), round(share, 3))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lite-ct")
    parser.add_argument("--data", help="the data folder; default: ../shared/data")
    parser.add_argument("--points", type=int, default=100, help="points per simulated follow-up")
    arguments = parser.parse_args()
    samples = samples_of(load_model(arguments.model), arguments.data, arguments.points)
    fitted = fit(samples)
    for title, model in (("before", UncertaintyModel()), ("after", fitted)):
        brier = np.mean([(model.confidence(s.evidence) - s.is_right) ** 2 for s in samples])
        print(f"{title}: Brier score {brier:.4f}; (n, right, matched, right of the matched)")
        for name, row in agreement(samples, model).items():
            print(f"  {name}: {row}")
    print(json.dumps(dataclasses.asdict(fitted), indent=2))


if __name__ == "__main__":
    main()
