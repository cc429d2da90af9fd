"""Three evaluators of lesion tracking on DLS, side by side, because two of them share their names.

Papers quote "CPM@10mm" and "CPM@Radius" for DLS from evaluators that measure different things; the same predictions
(the DLT repository's own, 960 pairs) give 78.85 / 86.88 by the first rule and 86.67 @10 mm by the third:

``dlt``
    the evaluator of the DLT repository. r = long RECIST diameter (**pixels** in the file, whatever its README says)
    / 2 x the target's x spacing; *cpm_radius* = d < r, *cpm_10mm* = d <= min(r, 10 mm): stricter than 10 mm for every
    lesion of r < 10 mm, which is almost half of them. MED = mean Euclidean distance in mm, with its standard deviation.
``tlt``
    the rule of the TLT repository. Its "lesion size" is the *diagonal* of the 3-D box, sqrt(w^2 + h^2 + d^2), in
    voxels of the original scan; *cpm_radius* = d < diagonal, *cpm_10mm* = d < min(10, diagonal). That code measures
    d in voxels of a grid of its own preprocessing; here d is in mm. Far more lenient than ``dlt``.
``plain``
    *cpm_10mm* = d <= 10 mm for every lesion; *in_box* = the predicted point lies in the target's 3-D box, lower bound
    included, upper bound excluded (the evaluation script of the UAE repository calls this CPM@Radius).

A lesion without a prediction is a miss in every share and does not enter the distances. d = (predicted - true center)
x target spacing, per axis; positions are voxels (x, y, z) of the target as the annotation counts them.

Intervals are of means by resampling whole patients: lesions of one patient share scans, positions and mistakes; drawn
one by one they would pass for independent and give intervals that are too narrow (the cluster bootstrap, percentile
intervals). A resample is a weighting of group sums: 2000 resamples of 960 lesions take 20 ms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from SAMv2Core.evaluation.dls_files import LesionPair

LIMIT_MM = 10.0
_MIN_RADIUS_MM = 1e-3
#: Upper ends of the classes of the long RECIST diameter, mm.
SIZE_CLASSES_MM = (10.0, 20.0, 40.0, np.inf)

SHARES = (
    ("dlt", "cpm_10mm"), ("dlt", "cpm_radius"), ("tlt", "cpm_10mm"), ("tlt", "cpm_radius"), ("plain", "cpm_10mm"),
    ("plain", "in_box"),
)  # fmt: skip

#: What each figure means, for reports.
DEFINITIONS = {
    "dlt.cpm_radius": "d < r, r = long RECIST diameter (pixels) / 2 x target x spacing",
    "dlt.cpm_10mm": "d <= min(r, 10 mm)",
    "tlt.cpm_radius": "d < diagonal of the 3-D box, sqrt(w^2 + h^2 + d^2) in voxels; d in mm",
    "tlt.cpm_10mm": "d < min(10, that diagonal)",
    "plain.cpm_10mm": "d <= 10 mm",
    "plain.in_box": "predicted point in the 3-D box, lower bound included, upper excluded",
    "d": "(predicted - true center) x target spacing; a lesion without prediction is a miss and has no d",
    "std": "of the whole set (divided by n)",
}


@dataclass(frozen=True, eq=False)
class Outcome:
    """What each evaluator says of each lesion.

    :param offset_mm: (N, 3) predicted minus true center, mm along x, y, z; NaN without a prediction.
    :param diameter_mm: (N,) long RECIST diameter; NaN when the file has none.
    :param hits: (evaluator, figure) to (N,) float: 1 hit, 0 miss, NaN where the rule lacks its ingredient.
    """

    offset_mm: np.ndarray
    diameter_mm: np.ndarray
    hits: Dict[tuple, np.ndarray]

    @property
    def distance_mm(self) -> np.ndarray:
        """(N,) Euclidean; NaN without a prediction."""
        return np.linalg.norm(self.offset_mm, axis=1)

    def chosen(self, rows: np.ndarray) -> Outcome:
        """The outcome of some lesions."""
        hits = {name: values[rows] for name, values in self.hits.items()}
        return Outcome(self.offset_mm[rows], self.diameter_mm[rows], hits)


def judge(pairs: Sequence[LesionPair], predicted: np.ndarray) -> Outcome:
    """Apply all evaluators.

    :param predicted: (N, 3) predicted centers in voxels of the targets; NaN rows are missing predictions.
    """
    predicted = np.asarray(predicted, dtype=np.float64).reshape(-1, 3)
    spacing = np.array([pair.target_spacing for pair in pairs]).reshape(-1, 3)
    center = np.array([pair.target_center for pair in pairs]).reshape(-1, 3)
    box = np.array([pair.target_box or (np.nan,) * 6 for pair in pairs]).reshape(-1, 6)
    pixels = np.array([np.nan if pair.target_diameter_px is None else pair.target_diameter_px for pair in pairs])
    offset = (predicted - center) * spacing
    distance = np.linalg.norm(offset, axis=1)
    radius = pixels / 2 * spacing[:, 0]
    diagonal = np.linalg.norm(box[:, 3:], axis=1)
    inside = np.all((predicted >= box[:, :3]) & (predicted < box[:, :3] + box[:, 3:]), axis=1)
    everywhere = np.zeros(len(pairs))
    # Comparisons with NaN, a missing prediction, are False: a miss.
    hits = {
        ("dlt", "cpm_10mm"): _where(distance <= np.minimum(radius, LIMIT_MM), radius),
        ("dlt", "cpm_radius"): _where(distance / np.maximum(_MIN_RADIUS_MM, radius) < 1, radius),
        ("tlt", "cpm_10mm"): _where(distance < np.minimum(LIMIT_MM, diagonal), diagonal),
        ("tlt", "cpm_radius"): _where(distance < diagonal, diagonal),
        ("plain", "cpm_10mm"): _where(distance <= LIMIT_MM, everywhere),
        ("plain", "in_box"): _where(inside, diagonal),
    }
    return Outcome(offset, 2 * radius, hits)


def _where(hit: np.ndarray, needs: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(needs), hit.astype(float), np.nan)


def summarize(outcome: Outcome) -> Dict[str, Any]:
    """The figures of some lesions: percentages 0..100, lengths in mm; None where nothing can be said."""
    n = len(outcome.diameter_mm)
    found: Dict[str, Any] = {"n": n, "n_predicted": int(np.isfinite(outcome.distance_mm).sum())}
    for (evaluator, figure), hits in outcome.hits.items():
        found.setdefault(evaluator, {})[figure] = _mean(100 * hits)
    absolute = np.abs(outcome.offset_mm)
    found["dlt"].update(
        med_mm=_mean(outcome.distance_mm),
        med_std_mm=_std(outcome.distance_mm),
        med_xyz_mm=[_mean(column) for column in absolute.T],
        med_xyz_std_mm=[_std(column) for column in absolute.T],
    )
    finite = outcome.distance_mm[np.isfinite(outcome.distance_mm)]
    found["plain"].update(median_mm=_mean(np.median(finite, keepdims=True)) if len(finite) else None)
    return found


def intervals(outcome: Outcome, patients: Optional[Sequence[str]], seed: int = 0) -> Dict[str, Any]:
    """95 % intervals under the keys of :func:`summarize`; whole patients are resampled.

    :param patients: of each lesion; None when they are not known, then single lesions are resampled.
    """
    columns = [*(100 * hits for hits in outcome.hits.values()), outcome.distance_mm, *np.abs(outcome.offset_mm).T]
    found = mean_intervals(np.stack(columns, axis=1), patients, seed)
    as_lists = [None if interval is None else list(interval) for interval in found]
    ci: Dict[str, Any] = {"resampled": "patients" if patients is not None else "lesions"}
    for (evaluator, figure), interval in zip(outcome.hits, as_lists):
        ci.setdefault(evaluator, {})[figure] = interval
    n = len(outcome.hits)
    ci["dlt"].update(med_mm=as_lists[n], med_xyz_mm=as_lists[n + 1 :])
    return ci


def by_size(outcome: Outcome) -> List[Dict[str, Any]]:
    """The figures per class of the long RECIST diameter."""
    rows, low = [], 0.0
    for high in SIZE_CLASSES_MM:
        chosen = (outcome.diameter_mm >= low) & (outcome.diameter_mm < high)
        if chosen.any():
            name = f"< {high:g} mm" if low == 0 else f"{low:g}-{high:g} mm" if np.isfinite(high) else f">= {low:g} mm"
            rows.append({"diameter": name, **summarize(outcome.chosen(chosen))})
        low = high
    return rows


def by_region(outcome: Outcome, regions: Sequence[str]) -> List[Dict[str, Any]]:
    """The figures per region of the body, in alphabetical order; empty when no region is known."""
    names = np.array(regions)
    return [{"region": str(name), **summarize(outcome.chosen(names == name))} for name in sorted(set(regions) - {""})]


def _mean(values: np.ndarray) -> Optional[float]:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


def _std(values: np.ndarray) -> Optional[float]:
    """Over the whole set (divided by n), as both repositories do."""
    finite = values[np.isfinite(values)]
    return float(finite.std()) if len(finite) else None


N_RESAMPLES = 2000
LEVEL = 0.95

Interval = Optional[Tuple[float, float]]


def mean_intervals(
    values: np.ndarray,
    groups: Optional[Sequence[str]] = None,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
    level: float = LEVEL,
) -> List[Interval]:
    """Percentile intervals of the column means.

    :param values: (N, K); NaN where a row does not count for a column.
    :param groups: (N,) names of what is drawn together; None draws single rows.
    :param seed: the same seed gives the same intervals.
    :returns: (low, high) per column; None for a column without a value, and for a single group, which says nothing
        about others.
    """
    values = np.asarray(values, dtype=np.float64)
    names = np.arange(len(values)) if groups is None else np.asarray(groups)
    _, group = np.unique(names, return_inverse=True)
    n_groups = int(group.max()) + 1 if len(group) else 0
    if n_groups < 2:
        return [None] * values.shape[1]
    present = np.isfinite(values)
    sums, counts = np.zeros((n_groups, values.shape[1])), np.zeros((n_groups, values.shape[1]))
    np.add.at(sums, group, np.where(present, values, 0.0))
    np.add.at(counts, group, present)
    drawn = np.random.default_rng(seed).multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n_resamples)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (drawn @ sums) / (drawn @ counts)
    tail = 100 * (1 - level) / 2
    intervals: List[Interval] = []
    for column in means.T:
        column = column[np.isfinite(column)]
        bounds = np.percentile(column, [tail, 100 - tail]) if len(column) else None
        intervals.append(None if bounds is None else (float(bounds[0]), float(bounds[1])))
    return intervals
