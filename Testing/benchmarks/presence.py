"""Whether a tracked lesion is still there, on simulated pairs with vanishing, new, merging and splitting lesions.

    python -m Testing.benchmarks.presence [--data ../shared/data] [--model NAME|FILE] [--cache DIR] [--fit] [--publish]

Twelve scans, seven of ``ct/train`` and the five of ``ct/val``; into each, lesions are planted that stay, change,
vanish, appear, merge or split (:mod:`SAMv2Core.simulation.lesion_fates`), the follow-up is simulated, the lesions are
tracked, and what both scans say at the place found is compared with the truth. ``--fit`` prints coefficients fitted on
the seven training scans; the table is of the five others.

* *score* is the one of the field (arXiv 2602.09933): 0.5 for the share of the persisting lesions found to be there (at
  most 10 mm off, and not called vanished), 0.25 for that of the vanished ones called so, 0.25 for that of the new ones.
* A *new* lesion is marked in the follow-up, tracked back into the baseline and asked for there.
* *with segmentations*: the same by the lesions of the follow-up as a perfect segmentation would have them
  (:mod:`SAMv2Core.tracking.assignment`).
* ECE is of the confidence of the state that was said. Intervals are by patient.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
from scipy.optimize import minimize

from SAMv2Core.embedding.cache import Cache
from SAMv2Core.embedding.load import load_model
from SAMv2Core.evaluation.extractor import Extractor
from SAMv2Core.io.lesion import Lesion, lesion_at
from SAMv2Core.io.volume import read_volume
from SAMv2Core.simulation.lesion_fates import FatePair, simulate_fates
from SAMv2Core.tracking import presence
from SAMv2Core.tracking.assignment import assign
from SAMv2Core.tracking.finding import Finding
from SAMv2Core.tracking.track import track
from Testing.benchmarks.common import add_publish_option, check_publish, expected_calibration_error, find_data, keep
from Testing.benchmarks.intervals import interval

TRAIN = (
    "LIDC-IDRI-0001", "CORT-liver", "TCGA-OV-09-2043", "ACRIN-FLT-001-b", "4D-Lung-113", "CPTAC-PDA-C3L00189",
    "TCGA-LIHC-BC-A10X",
)  # fmt: skip
RIGHT_MM = 10.0
PERSISTING = "persisting"
WEIGHTS = {PERSISTING: 0.5, "vanished": 0.25, "new": 0.25}
PENALTY = 0.05


@dataclass(frozen=True)
class Trial:
    """One lesion: what is true, what was said.

    :param kind: one of :data:`SAMv2Core.simulation.lesion_fates.KINDS`.
    :param segmented: what a segmentation of the follow-up says: present, vanished, merged, split or new.
    :param valleys: before and after, of every neighbor, and whether it is the one that it merges with.
    """

    case: str
    is_training: bool
    kind: str
    error_mm: float
    state: str
    confidence: float
    segmented: str
    evidence: Optional[presence.PresenceEvidence]
    valleys: Tuple[Tuple[float, float, bool], ...] = ()


def trials_of(
    case: str, is_training: bool, pair: FatePair, found: Sequence[Finding], back: Sequence[Finding]
) -> List[Trial]:
    """All lesions of a pair.

    :param found: of the baseline's lesions in the follow-up, :param back: of the new ones in the baseline.
    """
    baseline, follow_up = pair.baseline, pair.follow_up.volume
    lesions = [one.lesion for one in pair.lesions]
    placed = [f if f.lps is not None else _at_candidate(f) for f in found]
    said = presence.presences(lesions, placed, baseline, follow_up)
    segmented = by_segmentation(pair, placed)
    trials = []
    for one, finding in zip(pair.lesions, placed):
        error = math.inf if finding.lps is None else float(np.linalg.norm(finding.lps - one.lps))
        mine = said[one.lesion.label]
        facts = (
            case,
            is_training,
            one.kind,
            error,
            mine.state,
            mine.confidence,
            segmented[one.lesion.label],
            mine.evidence,
        )
        trials.append(Trial(*facts, _valleys(pair, one.lesion, one.partner, finding)))
    for (lesion, truth), finding in zip(pair.new, back):
        finding = finding if finding.lps is not None else _at_candidate(finding)
        mine = presence.Presence(presence.UNKNOWN, math.nan)
        error = math.inf
        if finding.lps is not None:
            error = float(np.linalg.norm(finding.lps - truth))
            mine = presence.presence_before(lesion, finding.lps, follow_up, baseline)
        trials.append(
            Trial(case, is_training, "new", error, mine.state, mine.confidence, segmented[lesion.label], mine.evidence)
        )
    return trials


def _at_candidate(finding: Finding) -> Finding:
    return replace(finding, lps=finding.candidate_lps)


def _valleys(pair: FatePair, lesion: Lesion, partner: str, finding: Finding) -> Tuple[Tuple[float, float, bool], ...]:
    if finding.lps is None:
        return ()
    view = presence.view_of(lesion, finding.lps, pair.baseline, pair.follow_up.volume)
    others = [one.lesion for one in pair.lesions if one.lesion.label != lesion.label]
    near = [
        other
        for other in others
        if np.linalg.norm(other.center_lps - lesion.center_lps)
        < presence.NEIGHBORS * (other.radius_mm + lesion.radius_mm)
    ]
    if view is None:
        return ()
    return tuple((*presence.valley(view, other.center_lps), other.label == partner) for other in near)


def by_segmentation(pair: FatePair, findings: Sequence[Finding]) -> Dict[str, str]:
    """What a perfect segmentation of the follow-up says of every lesion, by label."""
    size = pair.follow_up.drawn["scale"]
    parts, owners = [], []
    for fate in pair.fates:
        bodies = [fate.after] if fate.kind in ("merged", "long") else [(ball,) for ball in fate.after]
        for balls in bodies:
            center = np.mean([ball.center_lps for ball in balls], axis=0)
            reach = max(float(np.linalg.norm(ball.center_lps - center) + ball.radii_mm.max()) for ball in balls)
            place = pair.follow_up.map_points(center[None])[0][0]
            parts.append(lesion_at(f"part {len(parts)}", place.tolist(), 2 * size * reach))
            owners.append(fate.kind)
    lesions = [one.lesion for one in pair.lesions]
    found = assign(findings, 1, parts, {lesion.label: lesion for lesion in lesions})
    said = dict.fromkeys(found.parts, "present")
    said.update(dict.fromkeys(found.vanished, "vanished"))
    said.update(dict.fromkeys([*found.merged, *found.merged.values()], "merged"))
    said.update(dict.fromkeys(found.split, "split"))
    new = {part.label for part in found.new}
    true_new = [part for part, kind in zip(parts, owners) if kind == "new"]
    said.update(
        {lesion.label: "new" if part.label in new else "present" for (lesion, _), part in zip(pair.new, true_new)}
    )
    return {**dict.fromkeys([lesion.label for lesion in lesions], presence.UNKNOWN), **said}


def group_of(kind: str) -> str:
    return kind if kind in ("vanished", "new") else PERSISTING


def is_right(trial: Trial, said: str) -> bool:
    """Whether a lesion was found to be there, gone or new, as it is."""
    group = group_of(trial.kind)
    if group == PERSISTING:
        return trial.error_mm <= RIGHT_MM and said not in ("vanished", "new", presence.UNKNOWN)
    return said == group


def score(trials: Sequence[Trial], said: Sequence[str]) -> float:
    """0.5, 0.25 and 0.25 for persisting, vanished and new lesions; those of which there are none do not count."""
    total = weight = 0.0
    for group, part in WEIGHTS.items():
        hits = [is_right(trial, word) for trial, word in zip(trials, said) if group_of(trial.kind) == group]
        if hits:
            total, weight = total + part * float(np.mean(hits)), weight + part
    return total / weight if weight else math.nan


def summarize(trials: Sequence[Trial]) -> List[Dict[str, Any]]:
    """One row by the scans, one by a segmentation."""
    rows = []
    patients = [trial.case for trial in trials]
    for name, said in (("scans", [t.state for t in trials]), ("segmentations", [t.segmented for t in trials])):
        numbers = np.arange(len(trials))

        def of_draw(chosen: np.ndarray, said: Sequence[str] = said) -> float:
            return score([trials[int(n)] for n in chosen], [said[int(n)] for n in chosen])

        found = interval(numbers, patients, of_draw)
        row: Dict[str, Any] = {"by": name, "n": len(trials), "score": found.value, "score_ci95": found.bounds}
        for group in WEIGHTS:
            mine = [(is_right(t, s), t.case) for t, s in zip(trials, said) if group_of(t.kind) == group]
            share = interval([float(right) for right, _ in mine], [case for _, case in mine])
            row[group] = {"n": len(mine), "share": share.value, "ci95": share.bounds}
        for kind in ("unchanged", "changed", "merged", "split"):
            words = [s for t, s in zip(trials, said) if t.kind == kind]
            row[kind] = {"n": len(words), "share": float(np.mean([word == kind for word in words])) if words else None}
        if name == "scans":
            known = [t for t in trials if t.state != presence.UNKNOWN]
            row["unknown"] = len(trials) - len(known)
            row["ece"] = expected_calibration_error([t.confidence for t in known], [t.state == t.kind for t in known])
        rows.append(row)
    return rows


def to_markdown(rows: Sequence[Dict[str, Any]]) -> str:
    def percent(part: Dict[str, Any]) -> str:
        if part["share"] is None:
            return "–"
        bounds = part.get("ci95")
        of = f" ({100 * bounds[0]:.0f}–{100 * bounds[1]:.0f})" if bounds else ""
        return f"{100 * part['share']:.0f} %{of} of {part['n']}"

    lines = [
        "| by | n | score | there | vanished | new | called changed | called merged | called split | ECE |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        bounds = row["score_ci95"]
        total = f"{row['score']:.2f}" + (f" ({bounds[0]:.2f}–{bounds[1]:.2f})" if bounds else "")
        shares = [percent(row[group]) for group in (*WEIGHTS, "changed", "merged", "split")]
        if row["by"] == "segmentations":
            shares[3] = "–"
        ece = f"{row['ece']:.3f}" if "ece" in row else "–"
        lines.append(f"| {row['by']} | {row['n']} | {total} | {' | '.join(shares)} | {ece} |")
    return "\n".join(lines)


# --- fitting ---------------------------------------------------------------------------------------------------------


def fit(trials: Sequence[Trial]) -> Tuple[Dict[str, Tuple[float, ...]], Dict[str, float]]:
    """Coefficients of the states and of mergers, by a little penalized maximum likelihood."""
    known = [t for t in trials if t.evidence is not None and t.kind != "merged"]
    columns = [presence.terms(t.evidence) for t in known if t.evidence is not None]
    names = list(columns[0])
    x = np.array([[row[name] for name in names] for row in columns])
    wanted = [presence.STATES.index("vanished" if t.kind == "new" else t.kind) for t in known]
    y = np.eye(len(presence.STATES))[wanted]

    def loss(b: np.ndarray) -> Tuple[float, np.ndarray]:
        weights = b.reshape(x.shape[1], y.shape[1])
        z = x @ weights
        z = z - z.max(axis=1, keepdims=True)
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        slope = x.T @ (p - y) / len(x)
        slope[1:] += 2 * PENALTY * weights[1:] / weights[1:].size
        return float(-np.log((p * y).sum(axis=1)).mean() + PENALTY * (weights[1:] ** 2).mean()), slope.ravel()

    best = minimize(loss, np.zeros(x.shape[1] * y.shape[1]), jac=True, method="L-BFGS-B").x.reshape(x.shape[1], -1)
    states = {name: tuple(round(float(value), 2) for value in row) for name, row in zip(names, best)}
    pairs = [(presence.merger_terms(was, now), merged) for t in trials for was, now, merged in t.valleys]
    a = np.array([list(values.values()) for values, _ in pairs])
    truth = np.array([merged for _, merged in pairs], dtype=float)

    def merger_loss(b: np.ndarray) -> float:
        z = a @ b
        return float(np.mean(np.logaddexp(0, z) - truth * z) + PENALTY * (b[1:] ** 2).mean())

    merged = minimize(merger_loss, np.zeros(a.shape[1]), method="L-BFGS-B").x
    return states, {name: round(float(value), 2) for name, value in zip(pairs[0][0], merged)}


def collect(extractor: Extractor, data: Path) -> List[Trial]:
    """Simulate, track and look at all twelve scans."""
    paths = [data / "ct" / "train" / f"{name}.nii.gz" for name in TRAIN]
    paths += [path for path in sorted((data / "ct" / "val").glob("*.nii.gz")) if "_labels" not in path.name]
    trials: List[Trial] = []
    for number, path in enumerate(paths):
        name = path.name.split(".")[0]
        pair = simulate_fates(read_volume(path), seed=number)
        embs = [extractor.embed(volume, "ct") for volume in (pair.baseline, pair.follow_up.volume)]
        found = track(embs[0], [embs[1]], [one.lesion for one in pair.lesions])[1::2]
        back = track(embs[1], [embs[0]], [lesion for lesion, _ in pair.new])[1::2] if pair.new else []
        trials += trials_of(name, name in TRAIN, pair, found, back)
        print(f"{name}: {len(pair.lesions)} lesions, {len(pair.new)} new", flush=True)
    return trials


def main(argv: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lite-ct")
    parser.add_argument("--data")
    parser.add_argument("--cache", metavar="DIR", help="keep the embeddings there")
    parser.add_argument("--fit", action="store_true", help="print coefficients fitted on the training scans")
    add_publish_option(parser)
    options = parser.parse_args(argv)
    check_publish(parser, options)
    model = load_model(options.model)
    extractor = Extractor(model, Cache(options.cache) if options.cache else None)
    trials = collect(extractor, find_data(options.data))
    if options.fit:
        states, merged = fit([trial for trial in trials if trial.is_training])
        print("COEFFICIENTS =", states, "\nMERGED_COEFFICIENTS =", merged)
        presence.COEFFICIENTS.clear()
        presence.COEFFICIENTS.update(states)
    for is_training, title in ((True, "training scans"), (False, "validation scans")):
        rows = summarize([trial for trial in trials if trial.is_training is is_training])
        print(f"\n{title}\n{to_markdown(rows)}")
    if options.publish:
        keep("presence", to_markdown(rows), rows, model.info, "5 scans of `ct/val`, coefficients from 7 of `ct/train`")


if __name__ == "__main__":
    main()
