"""Lesion tracking on simulated follow-ups, in the form of the paper's Table 3 (arXiv 2311.15111).

    python -m Testing.benchmarks.tracking [--model NAME|FILE] [--data ../shared/data] [--report R.json] [--quick]
                                          [--plot reliability.png] [--cache DIR] [--cases FILE] [--mind]
                                          [--time | --fates]

Scans, lesions and follow-ups: :mod:`Testing.benchmarks.tracking_cases`; all figures are of *simulated* follow-ups.

* Methods: the nearest neighbor, the paper's fixed points, the full tracker, and that with its places refined in the
  scans (:mod:`SAMv2Core.tracking.refinement`; a simulated follow-up has the baseline's own texture, which flatters it);
  and a rival without training (:mod:`SAMv2Core.evaluation.sparse_sampling`; its ECE means nothing).
* Accuracy counts every lesion whose place is in the follow-up, found or not (the best candidate of one not found
  counts). ``CPM@10mm`` as the DLT evaluator has it, error at most min(radius, 10 mm); ``CPM@Radius``, error below the
  radius; ``plain 10 mm`` beside them; MED and its parts along x, y, z are means with standard deviation.
* ``not found`` is the share of lesions reported so: of places outside the follow-up (right), and of places in it (false
  alarms).
* ECE is the expected calibration error of the confidence for "within 10 mm", ten bins, over all findings. Where the
  coefficients were fitted on these scans, :mod:`Testing.benchmarks.calibration` tells the cross-validated one.

``--cases FILE`` keeps the findings of every finished scan and method there: a run that was cut short goes on where it
was, another method or model is added to it. ``--mind`` adds MIND-SSC, a descriptor without training, through the same
search (its statuses and its ECE mean nothing). ``--time --lesions 50`` times a study of 50 lesions in four
follow-ups. ``--fates`` plants lesions that grow, shrink or vanish in one scan and shows what is reported.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from SAMv2Core.embedding.cache import Cache
from SAMv2Core.embedding.load import load_model
from SAMv2Core.evaluation.extractor import Extractor
from SAMv2Core.evaluation.features import MindFeatures
from SAMv2Core.evaluation.methods import POINT_METHODS
from SAMv2Core.evaluation.sparse_sampling import NAME as RIVAL
from SAMv2Core.evaluation.sparse_sampling import SparseSampling, find_places
from SAMv2Core.matching.confidence import Evidence, UncertaintyModel, judge
from SAMv2Core.matching.match import match
from SAMv2Core.matching.search import search_index
from SAMv2Core.tracking.confidence import BEYOND, TrackEvidence, TrackUncertainty
from SAMv2Core.tracking.refinement import refine_findings
from SAMv2Core.tracking.track import Finding, track
from Testing.benchmarks.common import (
    add_publish_option,
    check_publish,
    expected_calibration_error,
    find_data,
    keep,
    reliability_plot,
)
from Testing.benchmarks.tracking_cases import Case, case_of_fates, embedded, scans, simulated_patient

REFINED = "tracker, refined"
TRACKERS = ("tracker", REFINED)
METHODS = ("nearest", "fixed-point", *TRACKERS)
MIND_METHODS = ("nearest",)
RIGHT_MM = 10.0
N_LESIONS = 20
GROUP = 0

Line = Tuple[str, Union[Extractor, SparseSampling], Sequence[str]]


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
    evidence: Optional[Dict[str, Any]] = None  # fields of TrackEvidence or Evidence

    @property
    def error_mm(self) -> float:
        return float(np.linalg.norm(self.offset_mm))

    @property
    def is_right(self) -> bool:
        return self.is_inside and self.error_mm <= RIGHT_MM


def run_method(case: Case, method: str, tracked: List[Finding]) -> List[Trial]:
    """All lesions and follow-ups of one patient by one method.

    :param tracked: the tracker's findings, put there by the first method that needs them.
    """
    lesions = case.patient.lesions
    if method in TRACKERS:
        n_studies = len(case.follow_ups) + 1
        if not tracked:
            tracked += track(case.emb, case.follow_ups, lesions)
        findings = tracked
        if method == REFINED:
            volumes = [follow_up.volume for follow_up in case.patient.follow_ups]
            findings = refine_findings(tracked, lesions, case.patient.baseline, volumes)
        per_study: List[Sequence[Any]] = [findings[study::n_studies] for study in range(1, n_studies)]
    else:
        centers: Any = np.array([lesion.center_lps for lesion in lesions])
        find: Any = find_places if method == RIVAL else functools.partial(match, **POINT_METHODS[method])
        per_study = [find(case.emb, emb, centers) for emb in case.follow_ups]
    return [trial for study, found in enumerate(per_study, 1) for trial in trials_of(case, study, method, found)]


def trials_of(case: Case, study: int, method: str, found: Sequence[Any]) -> List[Trial]:
    """Matches or findings of one follow-up beside the truth."""
    follow_up = case.patient.follow_ups[study - 1]
    rows = []
    for lesion, item, truth, inside in zip(case.patient.lesions, found, follow_up.truth_lps, follow_up.is_inside):
        place = found_at(item)
        x, y, z = (math.inf,) * 3 if place is None else (float(value) for value in place - truth)
        facts = (case.patient.name, follow_up.kind, study, lesion.label, method, lesion.radius_mm, bool(inside))
        evidence = None if item.evidence is None else dataclasses.asdict(item.evidence)
        rows.append(Trial(*facts, (x, y, z), item.status, float(item.confidence), evidence))
    return rows


def found_at(item: Any) -> Optional[np.ndarray]:
    """The place of a match or finding, or its best candidate when it was not found."""
    place = item.lps if isinstance(item, Finding) else item.query_lps
    return item.candidate_lps if place is None else place


class Finished:
    """The findings of finished scans, one line of JSON for each scan and method; in memory without a file.

    :param facts: what must be equal for a line to count: another model's or another number of lesions is no match.
    :param calibration: of the model today; findings are kept longer than the coefficients that judge them.
    """

    def __init__(
        self, path: Optional[Path], facts: Dict[str, Any], calibration: Optional[Mapping[str, Any]] = None
    ) -> None:
        self._path, self._facts, self._calibration = path, facts, calibration or {}
        self._lines: List[Dict[str, Any]] = []
        if path is not None and path.exists():
            for text in path.read_text(encoding="utf-8").splitlines():
                try:
                    self._lines.append(json.loads(text))
                except ValueError:
                    pass  # the line that was being written when the run was cut short

    def get(self, case: str, method: str) -> Optional[List[Trial]]:
        """The trials of a scan by a method, or None."""
        line = self._line(case, method)
        return None if line is None else [judged(Trial(**trial), self._calibration) for trial in line["trials"]]

    def seconds(self, case: str, method: str) -> float:
        """CPU seconds that they took."""
        line = self._line(case, method)
        return 0.0 if line is None else float(line["seconds"])

    def add(self, case: str, method: str, trials: Sequence[Trial], seconds: float) -> None:
        """Keep the trials of a scan by a method."""
        line = {**self._facts, "case": case, "method": method, "seconds": seconds}
        line["trials"] = [trial._asdict() for trial in trials]
        self._lines.append(line)
        if self._path is not None:
            with open(self._path, "a", encoding="utf-8") as stream:
                stream.write("\n" * (not _ends_with_newline(self._path)) + json.dumps(line) + "\n")

    def _line(self, case: str, method: str) -> Optional[Dict[str, Any]]:
        wanted = {**self._facts, "case": case, "method": method}
        return next((line for line in self._lines if all(line.get(k) == v for k, v in wanted.items())), None)


def judged(trial: Trial, calibration: Mapping[str, Any]) -> Trial:
    """The trial with the confidence and the status that these coefficients give it."""
    if trial.evidence is None or trial.method not in (*POINT_METHODS, *TRACKERS):
        return trial
    if trial.method in TRACKERS:
        known = TrackEvidence(**trial.evidence)
        sure, status, _ = TrackUncertainty.from_metadata(calibration).verdict(known, max(-known.depth_mm, 0.0))
        return trial._replace(confidence=sure, status=status)
    if is_beyond(trial):
        return trial
    verdict = judge(Evidence(**trial.evidence), UncertaintyModel.from_metadata(calibration))
    return trial._replace(confidence=verdict.confidence, status=verdict.status)


def is_beyond(trial: Trial) -> bool:
    """Whether the place found lies outside the scan, which decides by itself. A match's evidence tells no depth; such a
    one is known by the little confidence that is left to it."""
    evidence = trial.evidence or {}
    return bool(evidence.get("depth_mm", 0.0) < 0 or (evidence.get("at_edge") and trial.confidence <= BEYOND))


def _ends_with_newline(path: Path) -> bool:
    return not path.exists() or path.read_bytes()[-1:] in (b"", b"\n")


def all_trials(lines: Sequence[Line], paths: Sequence[Path], finished: Finished, n_lesions: int) -> Iterator[Trial]:
    """Every scan by every method of every extractor; what is finished is not done again.

    :param lines: prefix of the rows' names, extractor, methods; the first extractor says where the body is.
    """
    for number, path in enumerate(paths):
        name, patient = path.name.split(".")[0], None
        for prefix, extractor, methods in lines:
            wanted = [method for method in methods if finished.get(name, prefix + method) is None]
            if wanted:
                patient = patient or simulated_patient(lines[0][1], path, number, GROUP, n_lesions)
                case, tracked = embedded(extractor, patient), []  # type: ignore[var-annotated]
                for method in wanted:
                    start = time.process_time()
                    trials = [t._replace(method=prefix + method) for t in run_method(case, method, tracked)]
                    finished.add(name, prefix + method, trials, time.process_time() - start)
            for method in methods:
                yield from finished.get(name, prefix + method) or []


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


def time_study(case: Case, n_studies: int = 4) -> str:
    """Wall and CPU seconds of one tracking, beside plain fixed-point matching of the same points."""
    follow_ups = [case.follow_ups[n % len(case.follow_ups)] for n in range(n_studies)]
    for emb in (case.emb, *follow_ups):
        search_index(emb)
    lesions = case.patient.lesions
    centers: Any = np.array([lesion.center_lps for lesion in lesions])
    spent = []
    for work in (
        lambda: track(case.emb, follow_ups, lesions),
        lambda: [match(case.emb, emb, centers) for emb in follow_ups],
    ):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        spent.append((time.perf_counter() - wall, time.process_time() - cpu))
    (wall, cpu), (plain_wall, plain_cpu) = spent
    return (
        f"{case.patient.name}: {len(lesions)} lesions x {n_studies} follow-ups, all embedded: {wall:.1f} s "
        f"({cpu:.1f} s of CPU); plain fixed-point matching {plain_wall:.1f} s ({plain_cpu:.1f} s): "
        f"ratio of CPU times {cpu / plain_cpu:.2f}"
    )


def show_fates(extractor: Extractor, path: Path) -> None:
    """What is reported of lesions that grew, shrank or vanished."""
    case, fates = case_of_fates(extractor, path)
    trials = run_method(case, "tracker", [])
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
    parser.add_argument("--cases", metavar="FILE", type=Path, help="keep finished scans there and go on from them")
    parser.add_argument("--mind", action="store_true", help="rows of MIND-SSC, a descriptor without training, too")
    parser.add_argument("--quick", action="store_true", help="two scans only")
    parser.add_argument("--lesions", type=int, default=N_LESIONS, help="per scan; default: %(default)s")
    parser.add_argument("--time", action="store_true", help="time one study of the first scan instead")
    parser.add_argument("--fates", action="store_true", help="lesions that grew, shrank or vanished instead")
    add_publish_option(parser)
    options = parser.parse_args(argv)
    check_publish(parser, options)
    model = load_model(options.model)
    extractor = Extractor(model, Cache(options.cache) if options.cache else None)
    paths = scans(find_data(options.data))[: 2 if options.quick else None]
    if options.fates:
        show_fates(extractor, paths[0])
        return
    if options.time:
        print(time_study(embedded(extractor, simulated_patient(extractor, paths[0], 0, GROUP, options.lesions))))
        return
    lines: List[Line] = [("", extractor, METHODS), ("", SparseSampling(), (RIVAL,))]
    if options.mind:
        lines.append(("MIND-SSC, ", MindFeatures(), MIND_METHODS))
    facts = {"sha256": model.info.sha256, "lesions": options.lesions, "group": GROUP}
    finished = Finished(options.cases, facts, model.info.calibration)
    trials = list(all_trials(lines, paths, finished, options.lesions))
    rows = summarize(trials)
    print(f"Model {options.model} ({model.info.sha256})\n\n{to_markdown(rows)}\n")
    seconds = {row["method"]: sum(finished.seconds(p.name.split(".")[0], row["method"]) for p in paths) for row in rows}
    seconds.pop(REFINED, None)  # counts the refinement alone
    for method, total in seconds.items():
        count = sum(trial.method == method for trial in trials)
        print(f"{method}: {1000 * total / count:.0f} ms of CPU per lesion and follow-up")
    if options.plot:
        shown = [method for method in METHODS if method != REFINED]
        curves = {m: [(t.confidence, t.is_right) for t in trials if t.method == m] for m in shown}
        reliability_plot(curves, options.plot, "Simulated follow-ups")
    if options.report:
        report = {"model": options.model, "sha256": model.info.sha256, "rows": rows, "cpu_seconds": seconds}
        Path(options.report).write_text(json.dumps({**report, "trials": [t._asdict() for t in trials]}, indent=1))
    if options.publish:
        keep("tracking", to_markdown(rows), rows, model.info, f"{len(paths)} scans of `ct/val` and `hn/val`")


if __name__ == "__main__":
    main()
