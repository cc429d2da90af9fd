"""Segmented lesions of a follow-up and tracks find each other; what is left over is new or gone."""

import numpy as np
import pytest

from SAMv2Core.errors import InputError
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.lesion import lesion_at
from SAMv2Core.io.volume import Volume
from SAMv2Core.tracking.assignment import assign, parts_of, with_parts
from SAMv2Core.tracking.track import Finding


def finding(label, lps, status="matched", study=1):
    lps = None if lps is None else np.array(lps, dtype=float)
    return Finding(label, study, lps, 0.9, 1.0, 0.9, status, "")


def test_each_part_goes_to_one_track_the_rest_is_new_or_gone():
    findings = [
        finding("a", (0, 0, 0), study=0),
        finding("a", (2, 0, 0)),
        finding("b", (20, 0, 0)),
        finding("gone", (0, 80, 0)),
        finding("outside", None, "not_found"),
    ]
    # 1 is nearer to b than to a, but b has a better one: the sum decides
    parts = [lesion_at("1", (9, 0, 0), 8.0), lesion_at("2", (21, 0, 0), 8.0), lesion_at("3", (0, 0, 90), 12.0)]
    found = assign(findings, 1, parts)
    assert {label: part.label for label, part in found.parts.items()} == {"a": "1", "b": "2"}
    assert [part.label for part in found.new] == ["3"]
    assert found.vanished == ("gone",) and found.merged == {}


def test_findings_take_center_and_diameter_of_their_part():
    findings = [finding("a", (2, 0, 0)), finding("gone", (0, 80, 0)), finding("a", (2, 0, 0), study=2)]
    updated = with_parts(findings, assign(findings, 1, [lesion_at("1", (0, 0, 0), 8.0)]))
    np.testing.assert_array_equal(updated[0].lps, [0, 0, 0])
    assert updated[0].diameter_mm == 8.0 and updated[0].reason == ""
    assert "vanished" in updated[1].reason and updated[1].diameter_mm is None and updated[1].status == "matched"
    assert updated[2] is findings[2]


def test_two_tracks_on_one_part_have_merged():
    findings = [finding("a", (0, 0, 0)), finding("b", (12, 0, 0))]
    found = assign(findings, 1, [lesion_at("1", (5, 0, 0), 22.0)])
    assert list(found.parts) == ["a"] and found.merged == {"b": "a"} and found.vanished == ()
    assert "merged" in with_parts(findings, found)[1].reason


def test_nothing_found_everything_new_and_the_other_way_round():
    part = lesion_at("1", (0, 0, 0), 8.0)
    assert assign([finding("a", None, "not_found")], 1, [part]).new == (part,)
    assert assign([finding("a", (300, 0, 0))], 1, [part]).vanished == ("a",)


def test_a_segmentation_of_another_scan_is_refused():
    array = np.zeros((20, 20, 20), np.uint8)
    array[5:8, 5:8, 5:8] = 1
    matrix = np.diag([2.0, 2.0, 2.0, 1.0])
    segmentation = Volume(array, matrix, "seg.nii.gz")
    assert len(parts_of(segmentation, Grid((40, 40, 40), np.eye(4)))) == 1  # other voxels, same place in the world
    elsewhere = np.eye(4)
    elsewhere[:3, 3] = 300
    with pytest.raises(InputError, match="does not fit the scan"):
        parts_of(segmentation, Grid((40, 40, 40), elsewhere))
