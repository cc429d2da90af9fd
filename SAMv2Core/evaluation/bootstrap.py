"""Confidence intervals of means by resampling, whole patients at a time.

Lesions of one patient share scans, positions and mistakes; drawing lesions one by one would call them independent and
give intervals that are too narrow. So groups (patients) are drawn with replacement, and with them all their lesions
(the cluster bootstrap, percentile intervals). All figures here are means, so a resample is a weighting of group sums:
2000 resamples of 960 lesions take 20 ms.
"""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

import numpy as np

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
