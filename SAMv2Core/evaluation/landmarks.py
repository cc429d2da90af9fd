"""Landmarks of every template found in every query: the ChestCT protocol of the paper (arXiv 2311.15111, table 2).

All ordered pairs of a template and a query scan; each landmark that both have is matched, its error is the distance to
the query's own. Pairs of one phase (native to native) and across phases (native to enhanced) are told apart, and pairs
of one patient's scans from those of two patients.

A matcher may answer ``not_found``. Two sets of figures are honest together and misleading alone: ``all`` takes the
best candidate of every landmark, so refusing hard ones does not flatter; ``found`` leaves out those refused, and counts
them. Conventions: LPS mm.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from SAMv2Core.errors import Cancelled, InputError, SAMv2Error, UsageError
from SAMv2Core.evaluation.extractor import Extractor, RecentEmbeddings
from SAMv2Core.evaluation.landmark_points import Landmarks, landmarks_beside, scan_stem
from SAMv2Core.evaluation.methods import find_points
from SAMv2Core.io.files import PathLike
from SAMv2Core.io.tables import read_table
from SAMv2Core.io.volume import read_volume
from SAMv2Core.progress import Progress, silent

VOLUME_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")
_NOT_SCANS = re.compile(r"(_labels?|_seg|\.seg)\.[^/]*$")
RELATIONS = ("all", "within phase", "between phases", "same patient", "other patient")


@dataclass(frozen=True)
class Case:
    """One scan with landmarks.

    :param patient: the same for several scans of one patient; by default the scan's own name.
    :param phase: such as ``native``; empty when not told.
    """

    name: str
    path: Path
    landmarks: Landmarks
    patient: str
    phase: str = ""


class Trial(NamedTuple):
    """One landmark searched in one scan. ``error_mm`` is of the best candidate, None when nothing was searched."""

    features: str
    method: str
    template: str
    query: str
    label: str
    within_phase: Optional[bool]
    same_patient: bool
    error_mm: Optional[float]
    status: str
    confidence: float


def find_cases(
    folder: PathLike,
    kind: str,
    names: Optional[Mapping[int, str]] = None,
    phases: Optional[Callable[[str], Tuple[str, str]]] = None,
) -> Tuple[List[Case], List[Dict[str, str]]]:
    """The scans of a folder that have landmarks, and ``{"case", "reason"}`` of those that do not.

    :param kind: ``markups`` or ``labels``.
    :param phases: a scan's name to its (patient, phase).
    :raises InputError: no such folder, or no scan with landmarks in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder.", "Give the folder with the scans and their landmarks.")
    cases, failures = [], []
    for path in sorted(folder.iterdir()):
        if not path.name.endswith(VOLUME_SUFFIXES) or _NOT_SCANS.search(path.name):
            continue
        name = scan_stem(path)
        try:
            landmarks = landmarks_beside(path, kind, names)
            patient, phase = phases(name) if phases else (name, "")
            cases.append(Case(name, path, landmarks, patient, phase))
        except InputError as error:
            failures.append({"case": name, "reason": error.cause})
    if not cases:
        reason = failures[0]["reason"] if failures else "there are no scans"
        raise InputError(f"{folder} holds no scan with landmarks ({reason})", "Check --points-from and the names.")
    return cases, failures


def phases_by_rule(pattern: str) -> Callable[[str], Tuple[str, str]]:
    """Patient and phase from a scan's name by a regular expression with the groups ``patient`` and ``phase``.

    :raises UsageError: no such expression, or without these groups.
    """
    try:
        rule = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"--phases is not a regular expression ({error}).", "Or give a CSV file.") from error
    if not {"patient", "phase"} <= set(rule.groupindex):
        raise UsageError(
            "--phases names no groups (?P<patient>...) and (?P<phase>...).",
            r"Such as (?P<patient>\d+)_(?P<phase>.+)",
        )

    def told(name: str) -> Tuple[str, str]:
        found = rule.search(name)
        if found is None:
            raise InputError(f"The name {name} does not follow the rule of --phases.", "Correct the rule or the name.")
        return found["patient"], found["phase"]

    return told


def phases_by_table(path: PathLike) -> Callable[[str], Tuple[str, str]]:
    """Patient and phase from a CSV file with the columns ``name,patient,phase``.

    :raises InputError: unreadable, or without these columns.
    """
    try:
        table = [row.cells for row in read_table(path, ("name", "patient", "phase")).rows]
        rows = {row["name"].strip(): (row["patient"].strip(), row["phase"].strip()) for row in table}
    except KeyError as error:
        raise InputError(f"{path} is not a table of name,patient,phase ({error}).", "Correct its header.") from error

    def told(name: str) -> Tuple[str, str]:
        if name not in rows:
            raise InputError(f"{path} has no row for {name}.", "Add it.")
        return rows[name]

    return told


def pairs_of(templates: Sequence[Case], queries: Sequence[Case]) -> List[Tuple[Case, Case]]:
    """All ordered pairs with a landmark in common, never a scan with itself."""
    return [
        (template, query)
        for template in templates
        for query in queries
        if template.path.resolve() != query.path.resolve() and set(template.landmarks) & set(query.landmarks)
    ]


def run(
    pairs: Sequence[Tuple[Case, Case]],
    extractor: Extractor,
    methods: Sequence[str],
    modality: str = "auto",
    progress: Optional[Progress] = None,
) -> Tuple[List[Trial], List[Dict[str, str]]]:
    """Match all pairs; ``{"template", "query", "features", "reason"}`` of the pairs that failed.

    :param progress: called as ``progress(fraction, text)``; may raise ``Cancelled``.
    """
    tell = progress or silent
    recent = RecentEmbeddings()
    trials: List[Trial] = []
    failures: List[Dict[str, str]] = []
    for number, (template, query) in enumerate(pairs):
        tell(number / len(pairs), f"{extractor.name}: {template.name} to {query.name}")
        try:
            trials += _run_pair(template, query, extractor, recent, methods, modality)
        except Cancelled:
            raise
        except SAMv2Error as error:
            failures.append(
                {
                    "template": template.name, "query": query.name, "features": extractor.name,
                    "reason": f"{error.cause} {error.remedy}".strip(),
                }
            )  # fmt: skip
    tell(1.0, "done")
    return trials, failures


def _run_pair(
    template: Case,
    query: Case,
    extractor: Extractor,
    recent: RecentEmbeddings,
    methods: Sequence[str],
    modality: str,
) -> List[Trial]:
    def embedded(case: Case) -> Any:
        def make() -> Tuple[Any, int]:
            emb = extractor.embed(read_volume(case.path), modality)
            return emb, emb.nbytes

        return recent.get(str(case.path), make)

    labels = [label for label in template.landmarks if label in query.landmarks]
    points = np.array([template.landmarks[label] for label in labels])
    within = template.phase == query.phase if template.phase and query.phase else None
    trials = []
    one, other = embedded(template), embedded(query)
    for method in methods:
        for label, answer in zip(labels, find_points(one, other, points, method)):
            place = answer.place_lps
            error = None if place is None else float(np.linalg.norm(place - query.landmarks[label]))
            same = template.patient == query.patient
            names = (extractor.name, method, template.name, query.name, label)
            trials.append(Trial(*names, within, same, error, answer.status, answer.confidence))
    return trials


def figures(trials: Sequence[Trial]) -> Dict[str, Any]:
    """Mean, standard deviation, maximum, ... over all landmarks and over those found; lengths in mm."""
    errors = np.array([np.inf if trial.error_mm is None else trial.error_mm for trial in trials])
    is_found = np.array([trial.status != "not_found" for trial in trials], dtype=bool)
    searched = np.isfinite(errors)
    return {
        "n": len(trials),
        "n_searched": int(searched.sum()),
        "all": _spread(errors[searched]),
        "found": _spread(errors[is_found & searched]),
        "statuses": {s: sum(t.status == s for t in trials) for s in ("matched", "uncertain", "not_found")},
        "within_10mm": float(100 * (errors <= 10).mean()) if len(trials) else None,
    }


def _spread(errors: np.ndarray) -> Dict[str, Optional[float]]:
    if not len(errors):
        return dict.fromkeys(("n", "mean_mm", "std_mm", "max_mm", "median_mm"))
    return {
        "n": len(errors),
        "mean_mm": float(errors.mean()),
        "std_mm": float(errors.std()),
        "max_mm": float(errors.max()),
        "median_mm": float(np.median(errors)),
    }


def summarize(trials: Sequence[Trial]) -> List[Dict[str, Any]]:
    """One entry per features and method: figures by relation of the scans, and per landmark."""
    lines = []
    for features, method in dict.fromkeys((trial.features, trial.method) for trial in trials):
        own = [trial for trial in trials if (trial.features, trial.method) == (features, method)]
        chosen = {
            "all": own,
            "within phase": [trial for trial in own if trial.within_phase is True],
            "between phases": [trial for trial in own if trial.within_phase is False],
            "same patient": [trial for trial in own if trial.same_patient],
            "other patient": [trial for trial in own if not trial.same_patient],
        }
        per_landmark = [
            {"label": label, **figures([trial for trial in own if trial.label == label])}
            for label in sorted({trial.label for trial in own})
        ]
        lines.append(
            {
                "features": features,
                "method": method,
                "relations": {name: figures(chosen[name]) for name in RELATIONS if chosen[name]},
                "landmarks": per_landmark,
            }
        )
    return lines
