"""Where a point lies, in words."""

from __future__ import annotations

import numpy as np

from SAMv2Core.landmarks.landmark import Landmark, Witnesses
from SAMv2Core.landmarks.where import region_of, where


def landmark(name, position, status="matched"):
    place = np.array(position, dtype=float)
    return Landmark(name, place, 0.9, status, "", place, Witnesses(1.0, 0.9, 3.0, 0.2, 9, 0.0))


def test_words_as_seen_from_the_landmark():
    region, near = where((12, 0, -20), [landmark("celiac_origin", (12, 0, 0)), landmark("vertebra_L2", (0, 30, -20))])
    assert region == "abdomen"
    assert [one.text for one in near] == [
        "20 mm below celiac_origin",
        "30 mm before vertebra_L2, 12 mm left",  # LPS: +x is the patient's left, +y is behind
    ]
    assert near[0].distance_mm == 20


def test_only_what_is_matched_counts():
    region, near = where((0, 0, 0), [landmark("carina", (0, 0, 5), "uncertain")])
    assert (region, near) == ("", [])


def test_a_vertebra_that_may_be_one_off_is_named_by_both_names():
    place = np.array([0.0, 30.0, 0.0])
    witnesses = Witnesses(0.8, 0.9, 3.0, 0.2, 9, 0.0, level=0.8, neighbor="vertebra_L3")
    unsure, sure, lost = (
        Landmark("vertebra_L2", None if status == "not_found" else place, 0.8, status, "", place, witnesses)
        for status in ("uncertain", "matched", "not_found")
    )
    assert [one.text for one in where((0, 0, 0), [unsure])[1]] == ["30 mm before vertebra_L2 or vertebra_L3"]
    assert [one.text for one in where((0, 0, 0), [sure])[1]] == ["30 mm before vertebra_L2"]
    assert where((0, 0, 0), [lost]) == ("", [])
    assert [where((0, 0, 0), [one])[0] for one in (unsure, sure)] == ["", "abdomen"]


def test_regions_by_the_longest_beginning():
    found = {name: region_of(name) for name in ("vertebra_T1", "vertebra_T12", "vertebra_L5", "asis_left", "tail")}
    assert found == {
        "vertebra_T1": "neck",
        "vertebra_T12": "abdomen",
        "vertebra_L5": "abdomen",
        "asis_left": "pelvis",
        "tail": "",
    }
