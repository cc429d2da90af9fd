"""What counts as known in a scan: sure landmarks, or centroids of organs that are whole; nothing of a tumor."""

from types import SimpleNamespace

import numpy as np
import pytest

from SAMv2Core.geometry.grid import Grid
from Training.patients.known_points import exact, known_points, shared, whole_centroids

NAMES = {"1": "liver", "2": "tumour", "3": "spinal_cord", "4": "spleen", "5": "stomach"}


def labels():
    array = np.zeros((30, 40, 50), np.uint8)
    array[10:14, 10:16, 20:26] = 1
    array[15:19, 20:24, 20:24] = 2
    array[5:25, 30:34, 30:34] = 3
    array[10:15, 10:15, 0:6] = 4  # cut at the side
    array[24:30, 10:15, 30:36] = 5  # cut at the top
    return array


def entry(**more):
    grid = Grid((30, 40, 50), np.diag([2.0, 2.0, 2.0, 1.0]) + np.array([[0, 0, 0, -10.0]] * 3 + [[0] * 4]))
    facts = {"landmarks": None, "labels": None, "label_names": NAMES, "grid": grid}
    return SimpleNamespace(**{**facts, **more})


def test_cut_labels_and_tumors_have_no_centroid():
    found = whole_centroids(labels(), entry())
    assert sorted(found) == ["label liver", "label spinal_cord"]
    assert found["label liver"].tolist() == pytest.approx([2 * 22.5, 2 * 12.5, 2 * 11.5])


def test_landmarks_come_before_labels_and_must_be_sure():
    landmarks = {"carina": [0.0, 4.0, 8.0, 0.75], "dome_left": [0.0, 0.0, 0.0, 1.0], "umbilicus": [0.0, 0.0, 0.0, 0.5]}
    known = known_points(None, entry(landmarks=landmarks, labels="never read"))
    assert sorted(known) == ["carina", "dome_left"]
    assert known["carina"].tolist() == pytest.approx([10.0, 14.0, 18.0])  # mm from voxel 0, which lies at -10


def test_domes_and_long_organs_are_not_exact():
    point = np.zeros(3)
    known = dict.fromkeys(("carina", "dome_left", "costophrenic_right", "label brainstem", "label spinal_cord"), point)
    assert sorted(exact(known)) == ["carina", "label brainstem"]


def test_shared_points_stand_in_the_same_order():
    a = {"x": np.array([1.0, 0, 0]), "y": np.array([2.0, 0, 0])}
    b = {"y": np.array([4.0, 0, 0]), "z": np.zeros(3), "x": np.array([3.0, 0, 0])}
    assert [side[:, 0].tolist() for side in shared(a, b)] == [[1.0, 2.0], [3.0, 4.0]]
    assert [side.shape for side in shared(a, {})] == [(0, 3), (0, 3)]
