"""The landmark atlas of a model: exemplars of the training patients, and how far their answers can be trusted.

    python -m Training.landmark_atlas --data ../shared/data --model lite-ct \\
        --out Resources/Models/lite-ct.landmarks.safetensors [--cache DIR] [--trials FILE.json]

Exemplars are the scans of ``ct/train`` with landmarks (``NAME.landmarks.json``). The confidence is fitted on the scans
of ``ct/train`` and ``ct/val``, each searched with the exemplars of other patients alone; landmarks that a scan
certainly does not show count as wrong wherever they are found. Scans of one patient bear names that begin alike
(:data:`SAME_PATIENT`). ``--trials`` keeps what was found, with the cross-fitted confidence.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from scipy.optimize import minimize

from SAMv2Core.embedding.cache import Cache
from SAMv2Core.embedding.load import load_model
from SAMv2Core.embedding.model import Model
from SAMv2Core.errors import InputError
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.volume import read_volume
from SAMv2Core.landmarks.atlas import Atlas, exemplar, join, save_atlas
from SAMv2Core.landmarks.find import OUTSIDE_MM, find_landmarks
from SAMv2Core.landmarks.landmark import LEVELS, Coefficients, Landmark, Witnesses
from SAMv2Core.matching.body_map import robust_affine
from Training.data.landmarks import MIN_SURE, landmark_file, read_landmarks
from Training.engine.command import finish

SAME_PATIENT = ("ACRIN-FLT-001",)
RIGHT_MM = 10.0
CERTAINLY_MM = 30.0  # outside the scan by all other patients' proportions
MATCHED_RIGHT, ABSENT_NOT_FOUND = 0.93, 0.96
"""Cuts: of what is called matched this share is right, of what the scan does not show this share is not found. Both a
hundredth above what is promised, since the cuts are chosen on the answers that they are then judged by."""
FEW = 20  # matches below which a share says nothing
PRIOR = 3.0
"""Patients that the mean of all landmarks stands for in a landmark's reliability."""
PULL = 1e-2  # of the logistic fit toward zero


@dataclass(frozen=True)
class Trial:
    """One landmark looked for in one scan by the exemplars of other patients.

    :param limit: number of exemplars, 0 for all.
    :param error_mm: of the best candidate; NaN where the scan certainly does not show the landmark.
    :param nearest: the name of the true landmark nearest to the answer (for levels of vertebrae).
    :param confidence: fitted without this patient.
    """

    scan: str
    patient: str
    split: str
    limit: int
    name: str
    error_mm: float
    nearest: str
    witnesses: Witnesses
    confidence: float = math.nan

    @property
    def is_absent(self) -> bool:
        return math.isnan(self.error_mm)

    @property
    def is_right(self) -> bool:
        return self.error_mm <= RIGHT_MM


def patient_of(scan: str) -> str:
    """The patient of a scan, by its name."""
    return next((start for start in SAME_PATIENT if scan.startswith(start)), scan)


def scans_with_landmarks(data: Path) -> List[Tuple[str, Path]]:
    """(split, image) of the torso CTs that have landmarks.

    :raises InputError: none.
    """
    found = [
        (split, path)
        for split in ("train", "val")
        for path in sorted((data / "ct" / split).glob("*.nii.gz"))
        if landmark_file(path).is_file()
    ]
    if not any(split == "train" for split, _ in found):
        raise InputError(f"{data}/ct/train holds no scan with landmarks.", "Name the data folder (--data).")
    return found


def absent(
    truth: Mapping[str, Sequence[float]], grid: Grid, others: Sequence[Mapping[str, Sequence[float]]]
) -> List[str]:
    """Names that a scan certainly does not show: all other patients' proportions put them well outside.

    :param truth: the scan's own landmarks, LPS mm by name.
    :param others: those of other patients; at least three must know a name.
    """
    beyond: Dict[str, List[float]] = {}
    for other in others:
        shared = sorted(set(truth) & set(other))
        if len(shared) < 5:
            continue
        source, target = (np.array([one[name][:3] for name in shared]) for one in (other, truth))
        matrix = robust_affine(source, target, np.ones(len(shared)))
        for name in set(other) - set(truth):
            beyond.setdefault(name, []).append(grid.beyond_mm(np.append(other[name][:3], 1.0) @ matrix))
    return sorted(name for name, values in beyond.items() if len(values) >= 3 and min(values) > CERTAINLY_MM)


def search_all(
    model: Model, data: Path, cache: Optional[Cache] = None, limits: Sequence[int] = (0,)
) -> Tuple[Atlas, List[Trial]]:
    """The atlas of all training scans, and every scan searched with the exemplars of other patients.

    :param limits: numbers of exemplars to search with, drawn by a fixed seed; 0 for all.
    """
    scans = scans_with_landmarks(data)
    truth = {path.name: read_landmarks(landmark_file(path)) for _, path in scans}
    names = {path: path.name[: -len(".nii.gz")] for _, path in scans}
    parts = []
    for split, path in scans:
        if split == "train":
            emb = model.embed(read_volume(path), "ct", cache=cache)
            own = truth[path.name]
            parts.append(
                exemplar(emb, {n: p[:3] for n, p in own.items()}, names[path], {n: p[3] for n, p in own.items()})
            )
    atlas = join(parts)
    trials = []
    for number, (split, path) in enumerate(scans):
        emb = model.embed(read_volume(path), "ct", cache=cache)
        patient = patient_of(names[path])
        others = sorted({name for name in atlas.exemplars if patient_of(name) != patient})
        own = truth[path.name]
        missing = absent(own, emb.volume_grid, [truth[f"{name}.nii.gz"] for name in others])
        order = np.random.default_rng(number).permutation(others)
        for limit in limits:
            found = find_landmarks(emb, atlas.part(np.isin(atlas.exemplars, order[: limit or None])))
            known = (one for one in found if _is_known(one, own, missing))
            trials += [_trial(one, own, names[path], patient, split, limit) for one in known]
        print(f"{names[path]}: {len(own)} landmarks placed, {len(missing)} certainly not shown", file=sys.stderr)
    return atlas, trials


def _is_known(one: Landmark, own: Mapping[str, Sequence[float]], missing: Sequence[str]) -> bool:
    return one.name in missing or (one.name in own and own[one.name][3] >= MIN_SURE)


def _trial(one: Landmark, own: Mapping[str, Sequence[float]], scan: str, patient: str, split: str, limit: int) -> Trial:
    distance = {name: float(np.linalg.norm(one.candidate_lps - np.array(place[:3]))) for name, place in own.items()}
    nearest = min(distance, key=distance.__getitem__)
    return Trial(scan, patient, split, limit, one.name, distance.get(one.name, math.nan), nearest, one.witnesses)


def fit(trials: Sequence[Trial]) -> Coefficients:
    """Coefficients of the confidence by logistic regression, and cuts that keep what this module promises."""
    parts = [part.name for part in fields(Coefficients)][:-4]  # without the cuts
    unit = replace(Coefficients(), **dict.fromkeys(parts, 1.0))
    x = np.array([[t.witnesses.terms(unit)[part] for part in parts] for t in trials])
    right = np.array([t.is_right for t in trials], dtype=float)
    scale = np.where(x.std(axis=0) > 1e-6, x.std(axis=0), 1.0)

    def loss(beta: np.ndarray) -> float:
        score = x / scale @ beta
        return float(np.mean(np.logaddexp(0, score) - right * score) + PULL * np.square(beta[1:]).sum() / 2)

    beta = minimize(loss, np.zeros(len(parts)), method="BFGS").x / scale
    fitted = replace(Coefficients(), **{part: round(float(value), 4) for part, value in zip(parts, beta)})
    landmarks = _cuts([trial for trial in trials if not trial.name.startswith(LEVELS)], fitted, _share_right)
    levels = _cuts([trial for trial in trials if trial.name.startswith(LEVELS)], fitted, _patients_right)
    return replace(
        fitted,
        matched_above=landmarks[0],
        not_found_below=landmarks[1],
        level_matched_above=levels[0],
        level_not_found_below=levels[1],
    )


def _share_right(trials: Sequence[Trial]) -> float:
    return float(np.mean([trial.is_right for trial in trials]))


def _patients_right(trials: Sequence[Trial]) -> float:
    """A spine is counted wrongly as a whole, so every patient has one vote; one more who is all wrong is thought of."""
    patients = {trial.patient for trial in trials}
    votes = [_share_right([trial for trial in trials if trial.patient == patient]) for patient in patients]
    return sum(votes) / (len(votes) + 1)


def _cuts(
    trials: Sequence[Trial], fitted: Coefficients, share: Callable[[Sequence[Trial]], float]
) -> Tuple[float, float]:
    """The lowest confidences above which matches are right and below which absent landmarks lie as often as wanted."""
    confidence = np.array([confidence_of(trial, fitted) for trial in trials])
    missing = np.array([trial.is_absent for trial in trials], dtype=bool)
    steps = np.linspace(0.05, 0.95, 91)
    above = [(cut, [trials[n] for n in np.flatnonzero(confidence >= cut).tolist()]) for cut in steps]
    enough = [cut for cut, matched in above if len(matched) >= FEW and share(matched) >= MATCHED_RIGHT]
    lost = [cut for cut in steps if not missing.any() or np.mean(confidence[missing] < cut) >= ABSENT_NOT_FOUND]
    high = float(enough[0]) if enough else 0.99
    low = min(float(lost[0]), high) if lost else high
    return round(high, 2), round(low, 2)


def reliabilities(trials: Sequence[Trial]) -> Dict[str, float]:
    """Share of right answers by name, drawn toward the mean of all names where few patients know it."""
    shown = [trial for trial in trials if not trial.is_absent]
    mean = float(np.mean([trial.is_right for trial in shown]))
    right: Dict[str, List[bool]] = {}
    for trial in shown:
        right.setdefault(trial.name, []).append(trial.is_right)
    return {name: round((sum(r) + PRIOR * mean) / (len(r) + PRIOR), 3) for name, r in sorted(right.items())}


def with_reliability(trials: Sequence[Trial], known: Sequence[Trial]) -> List[Trial]:
    """Trials that know each landmark's reliability in ``known``, without what their own patient says of it."""
    told: Dict[str, Dict[str, float]] = {}
    for patient in {trial.patient for trial in trials}:
        told[patient] = reliabilities([trial for trial in known if trial.patient != patient])
    default = Witnesses.reliability
    return [
        replace(t, witnesses=replace(t.witnesses, reliability=told[t.patient].get(t.name, default))) for t in trials
    ]


def confidence_of(trial: Trial, coefficients: Coefficients) -> float:
    """Of a trial by some coefficients; 0 where the rest of the body expects the landmark outside."""
    if trial.witnesses.beyond_mm > OUTSIDE_MM:
        return 0.0
    return 1 / (1 + math.exp(-sum(trial.witnesses.terms(coefficients).values())))


def cross_fitted(trials: Sequence[Trial]) -> List[Tuple[Trial, str]]:
    """Each trial with a confidence and a status from coefficients that did not see its patient."""
    answers = []
    for patient in sorted({t.patient for t in trials}):
        others = [t for t in trials if t.patient != patient]
        c = fit(with_reliability(others, others))
        for trial in with_reliability([t for t in trials if t.patient == patient], others):
            confidence = confidence_of(trial, c)
            answers.append((replace(trial, confidence=confidence), c.status(trial.name, confidence)))
    return answers


def main(argv: Optional[List[str]] = None) -> int:
    """Entry point of the command; the exit codes are those of :func:`Training.engine.command.finish`."""
    parser = argparse.ArgumentParser(
        prog="python -m Training.landmark_atlas",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", required=True, type=Path, help="folder that holds ct/train and ct/val")
    parser.add_argument("--model", default="lite-ct", help="name or weights file")
    parser.add_argument("--out", required=True, type=Path, help="NAME.landmarks.safetensors")
    parser.add_argument("--cache", help="folder where embeddings are kept")
    parser.add_argument("--trials", type=Path, help="JSON with every landmark looked for")
    options = parser.parse_args(argv)

    def work() -> None:
        model = load_model(options.model)
        atlas, trials = search_all(model, options.data, Cache(options.cache) if options.cache else None)
        coefficients = fit(with_reliability(trials, trials))
        atlas = replace(atlas, calibration=asdict(coefficients), reliability=reliabilities(trials))
        save_atlas(atlas, options.out)
        if options.trials:
            rows = [{**asdict(trial), "status": status} for trial, status in cross_fitted(trials)]
            options.trials.write_text(json.dumps(rows, indent=1))
        print(f"{options.out}: {atlas!r}, {options.out.stat().st_size / 2**10:.0f} KiB; {coefficients}")

    return finish(work, options.out)


if __name__ == "__main__":
    raise SystemExit(main())
