"""Landmarks from points and label maps, pairs, phases, and figures by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from SAMv2Core.errors import InputError, UsageError
from SAMv2Core.evaluation import landmark_points, landmarks
from SAMv2Core.evaluation.landmarks import Case, Trial
from SAMv2Core.io.volume import Volume, write_volume
from Testing.samples.embedding_samples import torso


def label_map(flip_z: bool = False) -> Volume:
    """Label 1: a box of x 4..7, y 5..6, z 3..10 inside; 2 is cut below; 3 is cut at the side; 4 is a speck."""
    array = np.zeros((20, 16, 18), np.uint8)
    array[3:11, 5:7, 4:8] = 1
    array[10, 5, 4] = 0  # the highest slice is lopsided
    array[0:5, 10:13, 4:8] = 2
    array[8:12, 0:4, 10:16] = 3
    array[15, 12, 12] = 4
    matrix = np.diag([2.0, 3.0, 4.0, 1.0])
    matrix[:3, 3] = (-10.0, 5.0, 100.0)
    if flip_z:
        array = array[::-1].copy()
        matrix[2, 3] += 4.0 * 19
        matrix[2, 2] = -4.0
    return Volume(array, matrix, "labels.nii.gz")


@pytest.mark.parametrize("flip_z", [False, True])
def test_centroids_tops_and_bottoms_by_hand(flip_z):
    found = landmark_points.from_labels(label_map(flip_z), {1: "liver", 2: "kidney"})
    assert set(found) == {"liver", "liver top", "liver bottom", "kidney top"}  # what the edge cuts is left out
    # 64 - 1 voxels; without the missing one the center is (5.5, 5.5, 6.5).
    ijk = (np.array([5.5, 5.5, 6.5]) * 64 - (4, 5, 10)) / 63
    np.testing.assert_allclose(found["liver"], ijk * (2, 3, 4) + (-10, 5, 100))
    top = (np.array([5.5, 5.5, 10]) * 8 - (4, 5, 10)) / 7
    np.testing.assert_allclose(found["liver top"], top * (2, 3, 4) + (-10, 5, 100))
    np.testing.assert_allclose(found["liver bottom"], (5.5 * 2 - 10, 5.5 * 3 + 5, 3 * 4 + 100))
    np.testing.assert_allclose(found["kidney top"][2], 4 * 4 + 100)


def test_fractions_are_no_labels():
    with pytest.raises(InputError, match="fractions"):
        landmark_points.as_labels(Volume(np.full((3, 3, 3), 0.5, np.float32), np.eye(4)))
    with pytest.raises(InputError, match="beyond"):
        landmark_points.as_labels(torso((4, 4, 4)))


def test_label_names_in_both_forms(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"torso": {"1": "spleen"}, "hn": {"brainstem": 1}}))
    assert landmark_points.read_label_names(f"{path}#torso") == {1: "spleen"}
    assert landmark_points.read_label_names(f"{path}#hn") == {1: "brainstem"}
    with pytest.raises(InputError, match="names no labels"):
        landmark_points.read_label_names(str(path))
    with pytest.raises(InputError, match="cannot be read"):
        landmark_points.read_label_names(f"{path}#limbs")


@pytest.fixture
def folder(tmp_path):
    """Scans a (points), b (points), c (none), d (labels)."""
    for name in "abcd":
        write_volume(torso((6, 6, 6)), tmp_path / f"{name}.nii.gz")
    (tmp_path / "a.csv").write_text("label,l,p,s\napex,1,2,3\ncarina,4,5,6\nunplaced,,,\n")
    (tmp_path / "b.csv").write_text("label,l,p,s\napex,1,2,3\n")
    write_volume(label_map(), tmp_path / "d_labels.nii.gz")
    return tmp_path


def test_cases_of_a_folder(folder):
    cases, failures = landmarks.find_cases(folder, "markups")
    assert [case.name for case in cases] == ["a", "b"]
    assert set(cases[0].landmarks) == {"apex", "carina"}
    assert [failure["case"] for failure in failures] == ["c", "d"]
    (case,), _ = landmarks.find_cases(folder, "labels")
    assert case.name == "d" and "label 1" in case.landmarks
    with pytest.raises(InputError, match="no scan with landmarks"):
        landmarks.find_cases(folder / "..", "markups")


def test_two_points_of_one_name_are_refused(folder):
    (folder / "b.csv").write_text("label,l,p,s\napex,1,2,3\napex,1,2,4\n")
    _, failures = landmarks.find_cases(folder, "markups")
    assert "two points named 'apex'" in failures[0]["reason"]


def test_unsure_landmarks_are_left_out(tmp_path):
    path = tmp_path / "a.landmarks.json"
    entries = {"apex": {"lps": [1, 2, 3], "sure": 0.9}, "pole": {"lps": [4, 5, 6], "sure": 0.7}}
    path.write_text(json.dumps({"landmarks": entries}))
    assert list(landmark_points.from_points(path)) == ["apex"]


def case(name: str, *labels: str, phase: str = "") -> Case:
    from pathlib import Path

    return Case(name, Path(f"/scans/{name}.nii.gz"), {label: np.zeros(3) for label in labels}, name[0], phase)


def test_all_ordered_pairs_but_none_with_itself():
    a, b, c = case("a", "x", "y"), case("b", "x"), case("c", "z")
    pairs = landmarks.pairs_of([a, b, c], [a, b, c])
    assert [(one.name, other.name) for one, other in pairs] == [("a", "b"), ("b", "a")]


def test_phases_by_rule_and_by_table(tmp_path):
    told = landmarks.phases_by_rule(r"^(?P<patient>\d+)_(?P<phase>ce|nc)$")
    assert told("12_ce") == ("12", "ce")
    with pytest.raises(InputError, match="does not follow"):
        told("12_ve")
    with pytest.raises(UsageError, match="names no groups"):
        landmarks.phases_by_rule("(.*)")
    table = tmp_path / "p.csv"
    table.write_text("name,patient,phase\nx, 7, ce\n")
    assert landmarks.phases_by_table(table)("x") == ("7", "ce")
    with pytest.raises(InputError, match="no row for y"):
        landmarks.phases_by_table(table)("y")


def trial(error, status="matched", label="apex", within=True, same=False) -> Trial:
    return Trial("net", "nearest", "t", "q", label, within, same, error, status, 0.5)


def test_figures_by_hand():
    found = landmarks.figures([trial(3.0), trial(5.0, "uncertain"), trial(40.0, "not_found"), trial(None, "not_found")])
    assert (found["n"], found["n_searched"]) == (4, 3)
    assert found["all"]["mean_mm"] == pytest.approx(16.0) and found["all"]["max_mm"] == 40.0
    assert found["all"]["std_mm"] == pytest.approx(np.std([3, 5, 40]))
    assert found["found"] == {"n": 2, "mean_mm": 4.0, "std_mm": 1.0, "max_mm": 5.0, "median_mm": 4.0}
    assert found["statuses"] == {"matched": 1, "uncertain": 1, "not_found": 2}
    assert found["within_10mm"] == 50.0  # a landmark that was not searched is a miss


def test_summary_tells_relations_and_landmarks_apart():
    trials = [trial(1.0), trial(2.0, within=False, same=True), trial(9.0, label="carina", within=False)]
    (line,) = landmarks.summarize(trials)
    assert {name: entry["n"] for name, entry in line["relations"].items()} == {
        "all": 3, "within phase": 1, "between phases": 2, "same patient": 1, "other patient": 2
    }  # fmt: skip
    assert {entry["label"]: entry["all"]["mean_mm"] for entry in line["landmarks"]} == {"apex": 1.5, "carina": 9.0}
    (unknown,) = landmarks.summarize([trial(1.0, within=None)])
    assert set(unknown["relations"]) == {"all", "other patient"}
