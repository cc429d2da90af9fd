"""Intervals by patient: as wide as patients differ, whatever the number of points of each."""

import numpy as np
import pytest

from Testing.benchmarks.intervals import Interval, interval, mean, median, paired


def cohort(n_patients, n_points, seed=0):
    """Points that err alike within a patient: patients spread by 5 mm, points by 1 mm."""
    rng = np.random.default_rng(seed)
    patients = np.repeat([f"p{n}" for n in range(n_patients)], n_points)
    return 20 + np.repeat(rng.normal(0, 5, n_patients), n_points) + rng.normal(0, 1, len(patients)), patients


def test_many_points_of_few_patients_do_not_narrow_it():
    few, many = (interval(*cohort(12, n), mean) for n in (4, 400))
    assert many.low < many.value < many.high
    # The standard error of a mean of 12 patients that spread by 5 mm is 1.4 mm: 95 % are some 5.4 mm wide.
    assert 3.5 < few.high - few.low < 7.5 and 3.5 < many.high - many.low < 7.5


def test_a_single_patient_has_no_interval():
    found = interval([1.0, 2.0, 9.0], ["a"] * 3, median)
    assert found.value == 2.0 and np.isnan(found.low) and np.isnan(found.high)
    assert found.text() == "2.0" and Interval(0.5, 0.25, 1.0).text(0, 100) == "50 (25 to 100)"


def test_paired_points_show_a_small_gain_that_single_intervals_hide():
    errors, patients = cohort(8, 50)
    better = errors - 1.0 + np.random.default_rng(1).normal(0, 0.5, len(errors))
    difference = paired(better, errors, patients, mean)
    assert difference.value == pytest.approx(-1.0, abs=0.1) and difference.high < -0.8
    own, other = interval(better, patients), interval(errors, patients)
    assert own.high > other.low  # alone they overlap


def test_the_same_data_give_the_same_interval():
    assert interval(*cohort(5, 10), median) == interval(*cohort(5, 10), median)


def test_what_was_not_found_is_infinitely_far_off():
    found = interval([1.0, 2.0, np.inf, np.inf, np.inf], list("abcde"), median)
    assert found.value == np.inf and found.low <= 2.0 and found.high == np.inf
