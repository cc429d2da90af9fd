"""Intervals of means: coverage against theory, clusters, what cannot be said."""

from __future__ import annotations

import numpy as np
import pytest

from SAMv2Core.evaluation.bootstrap import mean_intervals


def test_width_is_that_of_the_normal_approximation():
    values = np.random.default_rng(1).normal(5, 2, (400, 1))
    ((low, high),) = mean_intervals(values, n_resamples=4000)
    expected = 2 * 1.96 * values.std() / np.sqrt(400)
    assert high - low == pytest.approx(expected, rel=0.08)
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.03)


def test_lesions_of_one_patient_do_not_count_as_many():
    # 20 patients whose 20 lesions agree completely: the interval is that of 20 values, not of 400.
    patient = np.repeat(np.arange(20), 20)
    values = np.random.default_rng(2).normal(0, 1, 20)[patient][:, None]
    ((low, high),) = mean_intervals(values, patient, n_resamples=4000)
    ((low_single, high_single),) = mean_intervals(values, n_resamples=4000)
    assert (high - low) / (high_single - low_single) == pytest.approx(np.sqrt(20), rel=0.12)


def test_rows_without_a_value_do_not_count():
    values = np.array([[1.0, np.nan], [3.0, np.nan], [2.0, np.nan]])
    first, second = mean_intervals(values)
    assert first[0] >= 1 and first[1] <= 3 and second is None


def test_seed_decides():
    values = np.random.default_rng(3).normal(size=(30, 2))
    assert mean_intervals(values, seed=4) == mean_intervals(values, seed=4)
    assert mean_intervals(values, seed=4) != mean_intervals(values, seed=5)


def test_one_patient_says_nothing_of_others():
    assert mean_intervals(np.ones((5, 2)), ["p"] * 5) == [None, None]
    assert mean_intervals(np.ones((0, 1))) == [None]
