"""Tables of :mod:`Testing.benchmarks.accuracy`: by experiment and region, by landmark, and of two sets of weights."""

from __future__ import annotations

import re
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from Testing.benchmarks.intervals import Interval, interval, mean, median, paired
from Training.data.landmarks import BONES, DOMES, region_of

TORSO = "between patients, torso"
ALL_BUT_DOMES = "another patient's torso, all but domes"
TITLES = {BONES: "bones and vertebrae"}
WITHIN_MM = (10.0, 20.0)
LOST_MM = 500.0  # what a point without any candidate counts as in a difference of means

_SCAN_OF = re.compile(r"(, follow-up| mr| ct|_t\d+|_cb\d+|(?<=^ACRIN-FLT-\d{3})-[a-z])$")


class Trial(NamedTuple):
    """One point searched in one scan.

    :param confused: the other side's landmark is nearer; None for a point without sides.
    :param level: no other vertebra is nearer; None for what is no vertebra.
    """

    experiment: str
    method: str
    template: str
    query: str
    label: str
    error_mm: float
    status: str
    confidence: float
    confused: Optional[bool] = None
    level: Optional[bool] = None

    @property
    def patient(self) -> str:
        """Whose scan was searched: errors of one patient are not independent."""
        return patient_of(self.query)

    @property
    def region(self) -> str:
        """Of a torso's landmark; empty elsewhere."""
        return region_of(self.label) if self.experiment.startswith(TORSO) else ""


def patient_of(scan: str) -> str:
    """Whose scan it is: several are of one patient."""
    return _SCAN_OF.sub("", scan)


def by_region(trials: Iterable[Trial]) -> List[Trial]:
    """The torso trials once more by region, and all but the domes together.

    Domes are no points: the highest place of a surface is not the same anatomy in two patients.
    """
    torso = [t for t in trials if t.region]
    together = [t._replace(experiment=ALL_BUT_DOMES) for t in torso if t.region != DOMES]
    regions = [t._replace(experiment=f"another patient's {TITLES.get(t.region, t.region)}") for t in torso]
    return together + sorted(regions, key=lambda t: t.experiment)


def parts(trials: Sequence[Trial]) -> Iterable[Tuple[str, str, List[Trial]]]:
    """Experiment, method and their trials, in the order of a table."""
    for experiment in dict.fromkeys(t.experiment for t in trials):
        own = [t for t in trials if t.experiment == experiment]
        for method in dict.fromkeys(t.method for t in own):
            yield experiment, method, [t for t in own if t.method == method]


def summarize(trials: Iterable[Trial]) -> List[Dict[str, Any]]:
    """One row per experiment and method; ``*_ci95*`` are 95 % intervals by the patient of the query, None for few."""
    rows: List[Dict[str, Any]] = []
    for experiment, method, chosen in parts(list(trials)):
        errors = np.array([t.error_mm for t in chosen])
        patients = [t.patient for t in chosen]
        matched = [t for t in chosen if t.status == "matched"]
        rows.append(
            {
                "experiment": experiment,
                "method": method,
                "n": len(chosen),
                "patients": len(set(patients)),
                "median_mm": float(np.median(errors)),
                "median_ci95_mm": interval(errors, patients, median).bounds,
                "mean_mm": float(errors.mean()),
                "mean_ci95_mm": interval(errors, patients).bounds,
                "p95_mm": float(np.percentile(errors, 95, method="nearest")),
                **{f"within_{limit:.0f}mm": float((errors <= limit).mean()) for limit in WITHIN_MM},
                "within_10mm_ci95": interval(errors <= WITHIN_MM[0], patients).bounds,
                "found": float(np.mean([t.status != "not_found" for t in chosen])),
                "matched": len(matched) / len(chosen),
                "matched_within_10mm": _share([t.error_mm <= WITHIN_MM[0] for t in matched]),
                "left_right_confused": _share([t.confused for t in chosen if t.confused is not None]),
                "right_level": _share([t.level for t in chosen if t.level is not None]),
            }
        )
    return rows


def _share(values: Sequence[Any]) -> Optional[float]:
    return float(np.mean(values)) if len(values) else None


def to_markdown(rows: List[Dict[str, Any]]) -> str:
    """The table for README and model cards; in brackets 95 % intervals by patient."""
    lines = [
        "| experiment | method | n | patients | median (95 % interval) | mean | 95 % | ≤ 10 mm | ≤ 20 mm | found "
        "| matched | of these ≤ 10 mm | left–right | right level |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        lengths = [
            _bracketed(r["median_mm"], r["median_ci95_mm"], " mm"),
            _bracketed(r["mean_mm"], r["mean_ci95_mm"], " mm"),
        ]
        near = _bracketed(100 * r["within_10mm"], r["within_10mm_ci95"], " %", 0, 100)
        shares = ("within_20mm", "found", "matched", "matched_within_10mm", "left_right_confused", "right_level")
        cells = [r["experiment"], r["method"], r["n"], r["patients"], *lengths, f"{r['p95_mm']:.1f} mm", near]
        lines.append(f"| {' | '.join(map(str, [*cells, *(_percent(r[k]) for k in shares)]))} |")
    return "\n".join(lines)


def _bracketed(value: float, bounds: Optional[Sequence[float]], unit: str, digits: int = 1, scale: float = 1.0) -> str:
    inside = "" if bounds is None else f" ({scale * bounds[0]:.{digits}f}–{scale * bounds[1]:.{digits}f})"
    return f"{value:.{digits}f}{unit}{inside}"


def _percent(value: Optional[float]) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


COMPARED: Tuple[Tuple[str, Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], float]], ...] = (
    ("median_mm", lambda errors: errors, median),
    ("mean_mm", lambda errors: errors, mean),
    ("within_10mm", lambda errors: errors <= WITHIN_MM[0], mean),
)


def compare(own: Iterable[Trial], other: Iterable[Trial]) -> List[Dict[str, Any]]:
    """Figures of one set of weights minus those of another, on the points that both were asked for."""
    others = {trial[:5]: trial.error_mm for trial in other}
    both = [trial for trial in own if trial[:5] in others]
    rows: List[Dict[str, Any]] = []
    for experiment, method, chosen in parts(both):
        own_mm, others_mm = [t.error_mm for t in chosen], [others[t[:5]] for t in chosen]
        errors = np.minimum(own_mm, LOST_MM), np.minimum(others_mm, LOST_MM)
        patients = [t.patient for t in chosen]
        row: Dict[str, Any] = {
            "experiment": experiment,
            "method": method,
            "n": len(chosen),
            "patients": len(set(patients)),
        }
        for name, change, statistic in COMPARED:
            row[f"{name}_difference"] = tuple(paired(change(errors[0]), change(errors[1]), patients, statistic))
        rows.append(row)
    return rows


def comparison_to_markdown(rows: List[Dict[str, Any]]) -> str:
    """Below 0 millimeters, or above 0 percent, the first weights are better."""
    lines = [
        "| experiment | method | n | patients | median (95 % interval) | mean | ≤ 10 mm |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        lengths = [Interval(*r[f"{key}_difference"]).text() + " mm" for key in ("median_mm", "mean_mm")]
        near = Interval(*r["within_10mm_difference"]).text(0, 100) + " %"
        facts = " | ".join(str(r[key]) for key in ("experiment", "method", "n", "patients"))
        lines.append(f"| {facts} | {' | '.join([*lengths, near])} |")
    return "\n".join(lines)


def labels_to_markdown(trials: Iterable[Trial]) -> str:
    """What each kind of landmark (both sides as one) adds to the torsos' error by default, the largest share first."""
    errors: Dict[str, List[float]] = {}
    for trial in trials:
        if trial.region and trial.method == "default":
            kind = trial.label.replace("left", "").replace("right", "").replace("__", "_").strip("_")
            errors.setdefault(kind, []).append(trial.error_mm)
    total = sum(sum(values) for values in errors.values())
    lines = ["| landmark | n | median | mean | share of the sum of all errors |", "|---|---|---|---|---|"]
    for label, values in sorted(errors.items(), key=lambda item: -sum(item[1])):
        lengths = f"{np.median(values):.1f} mm | {np.mean(values):.1f} mm"
        lines.append(f"| {label.replace('_', ' ')} | {len(values)} | {lengths} | {100 * sum(values) / total:.0f} % |")
    return "\n".join(lines)
