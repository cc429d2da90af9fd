"""``samv2 evaluate dls``: lesion tracking on DeepLesion by both published evaluators."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from SAMv2Core.cli import common
from SAMv2Core.errors import UnreliableResultError, UsageError
from SAMv2Core.evaluation import dls_files, dls_metrics
from SAMv2Core.evaluation.chosen import make_extractor
from SAMv2Core.evaluation.dls_files import LesionPair
from SAMv2Core.evaluation.tables import dls_tables

if TYPE_CHECKING:
    from SAMv2Core.cli.session import Session

N_FAILURES_TOLD = 5


def run(session: Session, choices: Sequence[Dict[str, Any]]) -> None:
    """Read or make predictions, judge, write."""
    args = session.args
    if args.images and not args.annotations:
        raise UsageError("--images needs --annotations.", "Give test.json of the DLT repository.")
    session.declare(
        inputs=[args.annotations, args.predictions, args.regions],
        outputs=[args.table, args.plot, args.save_predictions],
    )
    with session.stage("read", 0.0, 0.02):
        annotated = _annotated(session)
    if args.predictions:
        session.report.add_file("predictions", args.predictions)
        pairs, centers = dls_files.read_predictions(args.predictions, annotated)
    else:
        pairs, centers = _predict(session, annotated or [], choices)
    if args.regions:
        pairs = dls_files.with_regions(pairs, dls_files.read_regions(args.regions))
    with session.stage("judge", 0.97, 0.99):
        outcome = dls_metrics.judge(pairs, centers)
        report_figures(session, pairs, centers, outcome)
    with session.stage("write", 0.99, 1.0):
        _write(session, pairs, centers, outcome)
    if not np.isfinite(centers).any():
        raise UnreliableResultError("Not one lesion has a prediction.", "See the failures in the report.")


def _annotated(session: Session) -> Optional[List[LesionPair]]:
    path = session.args.annotations
    if not path:
        return None
    pairs = dls_files.read_annotations(path)
    session.report.add_file("annotations", path, n_pairs=len(pairs))
    return pairs


def _predict(
    session: Session, pairs: List[LesionPair], choices: Sequence[Dict[str, Any]]
) -> Tuple[List[LesionPair], np.ndarray]:
    from SAMv2Core.evaluation.dls_images import find_scans, predict

    args = session.args
    find_scans(Path(args.images), pairs)  # refuses a wrong folder before a model is loaded
    others = [choice for choice in choices if choice["kind"] != "model"]
    if len(others) > 1:
        raise UsageError("--mind and --features are two sets of features.", "Give one of them for each run.")
    with session.stage("load model", 0.02, 0.05):
        extractor = make_extractor(others[0] if others else choices[0])
    if extractor.sha256:
        session.report.model = {"name": extractor.name, "sha256": extractor.sha256}
    session.report.device = extractor.device
    with session.stage("predict", 0.05, 0.97) as progress:
        found = predict(pairs, Path(args.images), extractor, args.method, args.slice_order, progress)
    session.results.update(
        features=extractor.name, method=args.method, orientations=found.orientations, failures=found.failures,
        statuses={name: found.statuses.count(name) for name in ("matched", "uncertain", "not_found")},
        verdicts={
            pair.key: {"status": status, "confidence": float(confidence)}
            for pair, status, confidence in zip(pairs, found.statuses, found.confidences) if status
        },
    )  # fmt: skip
    for code, entry in found.orientations.items():
        votes = entry["votes"]
        session.say(
            f"orientation {code} ({entry['files_surveyed']} files looked at): read by {entry['order']}, decided by "
            f"{entry['decided_by']} (votes: affine {votes['affine']}, slices {votes['slices']})"
        )
    for failure in found.failures[:N_FAILURES_TOLD]:
        session.warn(f"Lesion {failure['id']}: {failure['reason']}")
    if len(found.failures) > N_FAILURES_TOLD:
        session.warn(f"{len(found.failures)} of {len(pairs)} lesions could not be tried; all are in the report.")
    return pairs, found.centers


def report_figures(
    session: Session, pairs: Sequence[LesionPair], centers: np.ndarray, outcome: dls_metrics.Outcome
) -> None:
    """All figures into the report's results."""
    patients = dls_files.patients_of(pairs)
    session.results.update(
        dls_metrics.summarize(outcome),
        ci95=dls_metrics.intervals(outcome, patients, session.args.seed),
        patients=len(set(patients)) if patients else None,
        by_size=dls_metrics.by_size(outcome),
        by_region=dls_metrics.by_region(outcome, [pair.region for pair in pairs]),
        definitions=dls_metrics.DEFINITIONS,
        lesions=[
            {
                "id": pair.key, "source": pair.source, "target": pair.target, "region": pair.region or None,
                "predicted": center.tolist(), "distance_mm": float(distance), "diameter_mm": float(diameter),
            }
            for pair, center, distance, diameter in zip(pairs, centers, outcome.distance_mm, outcome.diameter_mm)
        ],
    )  # fmt: skip
    if patients is None:
        session.warn("Patients cannot be told from the file names: the intervals take lesions as independent.")
    n_without = int(np.isnan(outcome.diameter_mm).sum())
    if n_without:
        session.warn(f"{n_without} lesions have no RECIST diameter: the dlt shares leave them out.")


def _write(session: Session, pairs: Sequence[LesionPair], centers: np.ndarray, outcome: dls_metrics.Outcome) -> None:
    args = session.args
    common.say_table(session, dls_tables(session.results))
    if args.plot:
        from SAMv2Core.evaluation.plots import plot_dls

        plot_dls(outcome, args.plot, session.inputs)
    if args.save_predictions:
        dls_files.write_predictions(args.save_predictions, pairs, centers, session.inputs)
