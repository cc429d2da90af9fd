"""Figures with 95 % intervals by patient: whole patients are drawn anew, because points of one patient err together.

The percentile bootstrap over clusters; two sets of weights are compared paired, on the same
points with the same draws.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Hashable, List, NamedTuple, Optional, Sequence

import numpy as np

N_DRAWS = 2000
SEED = 0
MIN_PATIENTS = 3


class Interval(NamedTuple):
    """A figure with its 95 % interval; NaN bounds for fewer than three patients, which say nothing about others."""

    value: float
    low: float
    high: float

    @property
    def bounds(self) -> Optional[List[float]]:
        """[low, high], or None where there is none."""
        return None if np.isnan(self.low) else [self.low, self.high]

    def text(self, digits: int = 1, scale: float = 1.0) -> str:
        value, low, high = (f"{scale * number:.{digits}f}" for number in self)
        return value if np.isnan(self.low) else f"{value} ({low} to {high})"


def median(values: np.ndarray) -> float:
    return float(np.median(values))


def mean(values: np.ndarray) -> float:
    return float(np.mean(values))


def interval(values: Sequence[Any], patients: Sequence[Hashable], statistic: Callable[..., float] = mean) -> Interval:
    """A statistic of values with its interval.

    :param values: (N,), or (N, K) for a statistic of several columns.
    :param patients: (N,) whose value each is.
    """
    array = np.asarray(values, dtype=float)
    rows: Dict[Hashable, np.ndarray] = {p: np.flatnonzero([q == p for q in patients]) for p in dict.fromkeys(patients)}
    names = list(rows)
    value = statistic(array)
    if len(names) < MIN_PATIENTS:
        return Interval(value, float("nan"), float("nan"))
    rng = np.random.default_rng(SEED)
    drawn = [
        statistic(array[np.concatenate([rows[names[n]] for n in rng.integers(len(names), size=len(names))])])
        for _ in range(N_DRAWS)
    ]
    # Some draw itself, not a way between two: an error may be infinite where nothing was found.
    low, high = np.percentile(drawn, (2.5, 97.5), method="nearest")
    return Interval(value, float(low), float(high))


def paired(
    own: Sequence[float], other: Sequence[float], patients: Sequence[Hashable], statistic: Callable[..., float] = mean
) -> Interval:
    """Statistic of ``own`` minus that of ``other``, on the same points: below 0, ``own`` is smaller."""
    both = np.column_stack((np.asarray(own, float), np.asarray(other, float)))
    return interval(both, patients, lambda pair: statistic(pair[:, 0]) - statistic(pair[:, 1]))
