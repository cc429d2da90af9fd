"""Intervals of medians, and what stands in the way of publishing."""

import argparse

import numpy as np
import pytest

from Testing.benchmarks import common, report


def test_interval_of_a_median_is_that_of_drawn_patients():
    """Against drawing the patients one by one (another generator: 1 mm is a third of the spread between patients)."""
    rng = np.random.default_rng(0)
    patients = np.repeat(list("abcdefg"), 20)
    errors = rng.normal(np.repeat(rng.normal(10, 3, 7), 20), 1)
    low, high = common.median_interval(errors.tolist(), patients.tolist())
    by_patient = [errors[patients == name] for name in "abcdefg"]
    drawn = [np.median(np.concatenate([by_patient[n] for n in rng.integers(7, size=7)])) for _ in range(2000)]
    assert [low, high] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=1.0)
    assert low < np.median(errors) < high


def test_points_of_one_patient_do_not_narrow_the_interval():
    """The same seven errors, each told ten times: no more is known."""
    errors, patients = [1.0, 2, 3, 5, 8, 13, 21], list("abcdefg")
    once = common.median_interval(errors, patients)
    assert common.median_interval(errors * 10, patients * 10) == once


def test_two_patients_say_nothing_about_others():
    assert common.median_interval([1.0, 2.0, 3.0], ["a", "a", "b"]) is None


def test_what_was_not_found_is_infinitely_far_off():
    low, high = common.median_interval([1.0, 2.0, np.inf, np.inf, np.inf], list("abcde"))
    assert low <= 2.0 and high == np.inf


@pytest.mark.parametrize("arguments, dirty", [(["--publish", "--quick"], False), (["--publish"], True)])
def test_publishing_is_refused_before_anything_is_measured(arguments, dirty, monkeypatch, capsys):
    monkeypatch.setattr(report, "is_dirty", lambda: dirty)
    with pytest.raises(SystemExit):
        common.parse_options(arguments, "", "")
    assert "--publish" in capsys.readouterr().err


def test_publishing_is_allowed_on_a_commit(monkeypatch):
    monkeypatch.setattr(report, "is_dirty", lambda: False)
    assert common.parse_options(["--publish"], "", "").publish
    assert not common.parse_options([], "", "").publish
    common.check_publish(argparse.ArgumentParser(), argparse.Namespace(publish=True))


def test_label_maps_are_no_scans(tmp_path):
    for name in ("b.nii.gz", "a.nii.gz", "a_labels.nii.gz", "a.landmarks.json"):
        (tmp_path / name).touch()
    assert [path.name for path in common.scan_paths(tmp_path)] == ["a.nii.gz", "b.nii.gz"]
