"""The accuracy benchmark's tables: by region, by landmark, and of two sets of weights."""

import functools
import math
from types import SimpleNamespace

import numpy as np
import pytest

from SAMv2Core.evaluation.sparse_sampling import SparseSampling
from Testing.benchmarks import accuracy
from Testing.benchmarks.accuracy import between_torsos, follow_ups, random_body_points, sides_and_levels
from Testing.benchmarks.accuracy_tables import (
    ALL_BUT_DOMES,
    TORSO,
    Trial,
    by_region,
    compare,
    comparison_to_markdown,
    labels_to_markdown,
    patient_of,
    summarize,
    to_markdown,
)
from Testing.samples.embedding_samples import torso


def trial(label, error, experiment=TORSO, method="default"):
    return Trial(experiment, method, "a", "b", label, error, "uncertain", math.nan, None)


def test_sides_are_one_landmark_and_the_worst_comes_first():
    trials = [
        trial("carina", 10.0),
        trial("left_kidney_top", 20.0),
        trial("right_kidney_top", 30.0),
        trial("dome_left", 40.0),
    ]
    others = [trial("carina", 999.0, method="nearest"), trial("label 5", 999.0, experiment="between patients, neck")]
    rows = labels_to_markdown(trials + others).splitlines()[2:]
    assert rows == [
        "| kidney top | 2 | 25.0 mm | 25.0 mm | 50 % |",
        "| dome | 1 | 40.0 mm | 40.0 mm | 40 % |",
        "| carina | 1 | 10.0 mm | 10.0 mm | 10 % |",
    ]


def test_regions_are_told_apart_and_domes_are_no_points():
    labels = {"carina": 4.0, "vertebra_L3": 8.0, "left_kidney_top": 16.0, "liver_dome": 32.0, "ivc_right_atrium": 6.0}
    rows = {row["experiment"]: row for row in summarize(by_region([trial(*item) for item in labels.items()]))}
    medians = {name: row["median_mm"] for name, row in rows.items()}
    assert medians == {
        ALL_BUT_DOMES: 7.0,
        "another patient's abdomen": 16.0,
        "another patient's bones and vertebrae": 8.0,
        "another patient's chest": 5.0,
        "another patient's domes": 32.0,
    }
    assert rows[ALL_BUT_DOMES]["n"] == 4 and rows[ALL_BUT_DOMES]["patients"] == 1


def test_the_table_tells_intervals_where_there_are_patients_enough():
    trials = [
        trial("carina", error)._replace(query=name) for error, name in ((2.0, "a"), (3.0, "b"), (9.0, "c, follow-up"))
    ]
    (row,) = summarize(trials)
    assert row["patients"] == 3 and row["median_ci95_mm"] == [2.0, 9.0]
    assert "| 3 | 3 | 3.0 mm (2.0–9.0) |" in to_markdown([row])


def test_weights_are_compared_on_the_points_that_both_were_asked_for():
    own = [trial("carina", error)._replace(query=query) for query, error in zip("bcd", (4.0, 6.0, 8.0))]
    other = [trial("carina", error)._replace(query=query) for query, error in zip("cbd", (12.0, 7.0, 8.0))]
    (row,) = compare([*own, trial("sma_origin", 8.0)], [*other, trial("umbilicus", 1.0)])
    assert row["n"] == 3 and row["patients"] == 3
    assert row["mean_mm_difference"] == (-3.0, pytest.approx(-6.0), pytest.approx(0.0))  # three times the same patient
    assert row["within_10mm_difference"][0] == pytest.approx(1 / 3)
    assert "-3.0 (-6.0 to 0.0) mm" in comparison_to_markdown([row]).replace("-0.0 mm", "0.0 mm")


def test_a_point_without_any_candidate_leaves_a_difference_that_is_a_number():
    own, other = (
        [trial("carina", error)._replace(query=query) for query, error in zip("bcd", errors)]
        for errors in ((math.inf, 6.0, 8.0), (math.inf, 9.0, 8.0))
    )
    (row,) = compare(own, other)
    assert row["mean_mm_difference"][0] == pytest.approx(-1.0) and np.isfinite(row["mean_mm_difference"]).all()
    (row,) = summarize(own)
    assert row["mean_mm"] == math.inf and row["mean_ci95_mm"][1] == math.inf and not np.isnan(row["mean_ci95_mm"][0])


def test_scans_of_one_patient_are_one_cluster():
    same = ["ACRIN-FLT-001-a", "ACRIN-FLT-001-b", "ACRIN-FLT-001"]
    assert {patient_of(name) for name in same} == {"ACRIN-FLT-001"}
    assert patient_of("CPTAC-PDA-C3L00189, follow-up") == "CPTAC-PDA-C3L00189"
    assert patient_of("STS_010 mr") == "STS_010" and patient_of("elastix-lung_t2") == "elastix-lung"
    assert patient_of("LCTSC-Test-S1-101") == "LCTSC-Test-S1-101"


def test_sides_and_levels_are_told_by_the_nearest_landmark():
    truth = {
        "left_adrenal": np.array([20.0, 0, 0]),
        "right_adrenal": np.array([-20.0, 0, 0]),
        "vertebra_T8": np.array([0.0, 0, 0]),
        "vertebra_T9": np.array([0.0, 0, -22.0]),
    }
    assert sides_and_levels("left_adrenal", np.array([-3.0, 0, 0]), truth) == (True, None)
    assert sides_and_levels("left_adrenal", np.array([3.0, 0, 0]), truth) == (False, None)
    assert sides_and_levels("vertebra_T8", np.array([0.0, 0, -10.0]), truth) == (None, True)
    assert sides_and_levels("vertebra_T8", np.array([0.0, 0, -12.0]), truth) == (None, False)


def test_real_follow_ups_and_torsos_of_the_shared_data_are_asked_for(shared):
    """Nothing is embedded before it is asked for: a model that cannot embed does."""
    asked = follow_ups(None, shared / "data").asked
    assert {(one.template, one.query) for one in asked} >= {
        ("elastix-lung_t1", "elastix-lung_t2"),
        ("ACRIN-FLT-001-c", "ACRIN-FLT-001-a"),
    }
    torsos = between_torsos(None, shared / "data").asked
    assert {one.query for one in torsos} == {
        p.name.split(".")[0] for p in (shared / "data/ct/val").glob("*.landmarks.json")
    }
    assert all(patient_of(one.template) != patient_of(one.query) for one in torsos)


def test_every_point_is_asked_by_every_method_and_scans_are_made_when_needed():
    made = []

    def make(name):
        made.append(name)
        return name

    def found(template, query, points, method, expect=True):
        assert (template, query) == ("a", "b") and len(points) == 2
        place = points[:, 0] + (3.0 if expect else 4.0)
        return [
            SimpleNamespace(candidate_lps=None, query_lps=(x, 0, 0), status="matched", confidence=0.9) for x in place
        ]

    places = {"carina": np.zeros(3), "sma_origin": np.array([50.0, 0, 0])}
    scans = accuracy.Scans({name: functools.partial(make, name) for name in "abc"})
    asked = accuracy.Asked("a", "b", {**places, "umbilicus": np.zeros(3)}, places)
    methods = [variant._replace(find=found) for variant in accuracy.METHODS[:3]]
    trials = accuracy.Experiment(TORSO, scans, [asked]).run(methods)
    assert [(t.method, t.label) for t in trials] == [
        (method, label) for method in ("nearest", "fixed-point", "default") for label in places
    ]
    assert [t.error_mm for t in trials] == [3.0, 3.0, 4.0, 4.0, 3.0, 3.0]
    assert sorted(made) == ["a", "b"]

    others, default = accuracy.against_default(trials)
    differences = compare(others, default)
    assert [(row["method"], row["n"]) for row in differences] == [("nearest", 2), ("fixed-point", 2)]
    assert [row["mean_mm_difference"][0] for row in differences] == [0.0, 1.0]


def test_the_rival_is_asked_for_the_same_points_and_compared_with_the_default():
    volume = torso()
    scans = {name: SparseSampling().embed(volume, "ct") for name in "ab"}
    points = {f"point {n}": point for n, point in enumerate(random_body_points(scans["a"], 4, 0))}
    asked = [accuracy.Asked("a", "b", points, points)]
    trials = accuracy.Experiment("simulated follow-up", scans, asked).run([accuracy.SAMPLED])
    assert [t.method for t in trials] == ["sparse-sampling"] * 4
    assert max(t.error_mm for t in trials) <= 1.0  # half a voxel; the points lie between four
    default = [t._replace(method="default", error_mm=t.error_mm + 4.0) for t in trials]
    (row,) = compare(default, [t._replace(method="default") for t in trials])
    assert row["n"] == 4 and row["mean_mm_difference"][0] == pytest.approx(4.0)
