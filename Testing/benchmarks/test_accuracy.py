"""The accuracy benchmark's table of errors by landmark."""

import math

from Testing.benchmarks.accuracy import TORSO, Trial, labels_to_markdown


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
