"""Where a point lies, in words."""

from __future__ import annotations

import numpy as np

from SAMv2Core.landmarks.find import Landmark, Witnesses
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


def test_regions_by_the_longest_beginning():
    found = {name: region_of(name) for name in ("vertebra_T1", "vertebra_T12", "vertebra_L5", "asis_left", "tail")}
    assert found == {
        "vertebra_T1": "neck",
        "vertebra_T12": "abdomen",
        "vertebra_L5": "abdomen",
        "asis_left": "pelvis",
        "tail": "",
    }
