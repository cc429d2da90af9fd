"""LongiSeg's exchange file: its keys, its voxels, what is missing and what has vanished."""

import json
import math

import numpy as np
import pytest

from SAMv2Core.errors import InputError
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.longiseg import ScanPair, TrackedPoint, numbers_of, scan_name, write_tracking

EARLIER = Grid((40, 50, 60), np.diag([0.8, 0.8, 3.0, 1.0]))
LATER = Grid((30, 40, 50), np.array([[-2.0, 0, 0, 100], [0, 2, 0, -50], [0, 0, 5, 20], [0, 0, 0, 1]]))


def pair(*points):
    return ScanPair("p1_a", "p1_b", EARLIER, LATER, points)


def point(label, voxel, later, verified=None, **more):
    places = [None if ijk is None else grid.to_lps(np.array([ijk], float))[0]
              for grid, ijk in ((EARLIER, voxel), (LATER, later), (LATER, verified))]  # fmt: skip
    return TrackedPoint(label, *places, **more)


def test_points_are_voxels_of_their_own_scan_that_a_reader_may_cut(tmp_path):
    """The center of voxel k is k + 0.5: cut to a whole number, it is that voxel."""
    path = tmp_path / "trackingTr.json"
    write_tracking(path, "p1", [pair(point("lesion 51", (10, 20, 30), (5, 6, 7), (4, 6, 8)))])
    (found,) = json.loads(path.read_text())["p1"]
    entry = found["51"]
    assert (entry["img_bl"], entry["img_fu"], entry["merged_lesions"]) == ("p1_a", "p1_b", [51])
    assert entry["bl_point"] == [10.5, 20.5, 30.5] and entry["fu_point_prop"] == [5.5, 6.5, 7.5]
    assert [int(value) for value in entry["fu_point"]] == [4, 6, 8]


def test_what_is_missing_vanished_or_merged(tmp_path):
    path = tmp_path / "t.json"
    points = (
        point("lesion 1", (1, 2, 3), (1, 2, 3), is_vanished=True),
        point("lesion 2", (1, 2, 3), None),
        point("lesion 3", (9, 9, 9), (4, 4, 4), (4, 4, 4), partner="lesion 2"),
    )
    write_tracking(path, "p1", [pair(*points)])
    write_tracking(path, "p2", [pair(points[1]), pair(points[1])])  # a second patient in the same file
    content = json.loads(path.read_text())
    gone, lost, merged = (content["p1"][0][key] for key in "123")
    assert gone["merged_lesions"] == [0] and math.isnan(gone["fu_point"]) and gone["fu_point_prop"] == [1.5, 2.5, 3.5]
    assert math.isnan(lost["fu_point_prop"]) and lost["merged_lesions"] == [2]
    assert merged["merged_lesions"] == [2] and merged["fu_point"] == [4.5, 4.5, 4.5]
    assert len(content["p2"]) == 2


def test_numbers_and_names():
    assert numbers_of(["lesion 7", "lesion 3", "lesion 7"]) == {"lesion 7": 7, "lesion 3": 3}
    assert numbers_of(["liver", "node 2"]) == {"liver": 1, "node 2": 2} and numbers_of(["a1", "b1"]) == {
        "a1": 1,
        "b1": 2,
    }
    assert scan_name("/x/p1_20220111_0000.nii.gz") == "p1_20220111" and scan_name("scan.nrrd") == "scan"


def test_another_file_is_never_written_over(tmp_path):
    path = tmp_path / "t.json"
    path.write_text('{"markups": 1}')
    with pytest.raises(InputError, match="no tracking file"):
        write_tracking(path, "p", [])
    assert path.read_text() == '{"markups": 1}'
