"""The accuracy benchmark's table of errors by landmark."""

import math

from Testing.benchmarks.accuracy import (
    ALL_BUT_DOMES,
    TORSO,
    Trial,
    by_region,
    labels_to_markdown,
    summarize,
    to_markdown,
)


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
