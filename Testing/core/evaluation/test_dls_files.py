"""Annotations, results and tables of DLS: what is read, joined and refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from SAMv2Core.errors import InputError
from SAMv2Core.evaluation.dls_files import (
    patients_of,
    read_annotations,
    read_predictions,
    read_regions,
    with_regions,
    write_predictions,
)

# The form of the DLT repository: annotations are rounded, results are not, and have no ids.
ENTRY = {
    "source": "000007_01_01_001-040.nii.gz",
    "target": "000007_02_01_001-040.nii.gz",
    "source box": [10, 20, 3, 5, 6, 4],
    "target box": [30, 40, 5, 7, 8, 3],
    "source center": [12.3, 22.5, 5.0],
    "target center": [33.4, 44.1, 6.0],
    "predict target center": [1.0, 1.0, 1.0],
    "source spacing": [0.7, 0.7, 5.0],
    "target spacing": [0.8, 0.8, 1.0],
    "target recist diameter": [8.2, 12.5],
    "source recist diameter": [20.0, 7.0],
}
OTHER = {**ENTRY, "source center": [200.0, 100.0, 5.0], "target center": [210.0, 110.0, 6.0], "lesion type": 5}
EXACT = {
    **ENTRY,
    "source center": [12.3214, 22.4876, 5.0],
    "target center": [33.4321, 44.0987, 6.0],
    "predict target center": [35.0, 44.0, 7.0],
}


@pytest.fixture
def annotations(tmp_path):
    path = tmp_path / "test.json"
    path.write_text(json.dumps({"0001": ENTRY, "0002": OTHER}))
    return path


def test_annotations_keep_order_ids_and_pixels(annotations):
    first, second = read_annotations(annotations)
    assert (first.key, second.key) == ("0001", "0002")
    assert first.target_center == (33.4, 44.1, 6.0) and first.target_box == (30, 40, 5, 7, 8, 3)
    assert first.target_diameter_px == 12.5  # the long axis, wherever it stands
    assert first.source_diameter_mm == pytest.approx(20.0 * 0.7)
    assert (first.region, second.region) == ("", "lung")
    assert patients_of([first, second]) == ["000007", "000007"]


def test_the_affine_initialization_of_an_annotation_is_not_a_prediction(annotations):
    annotated = read_annotations(annotations)
    csv = annotations.with_name("p.csv")
    csv.write_text("id,x,y,z\n0002,1,2,3\n")
    pairs, predicted = read_predictions(csv, annotated)
    assert [pair.key for pair in pairs] == ["0001", "0002"]
    assert np.isnan(predicted[0]).all()
    np.testing.assert_array_equal(predicted[1], [1, 2, 3])


def test_results_carry_their_own_truth(tmp_path):
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"results": [EXACT, {**OTHER, "predict target center": None}]}))
    pairs, predicted = read_predictions(path)
    assert pairs[0].target_center == (33.4321, 44.0987, 6.0)
    np.testing.assert_array_equal(predicted[0], [35, 44, 7])
    assert np.isnan(predicted[1]).all()


def test_results_are_joined_to_annotations_by_place_and_the_rest_is_missing(tmp_path, annotations):
    path = tmp_path / "r.json"
    path.write_text(json.dumps([EXACT]))  # a list alone is accepted too
    pairs, predicted = read_predictions(path, read_annotations(annotations))
    assert [pair.key for pair in pairs] == ["0001", "0002"]
    assert pairs[0].target_center == (33.4321, 44.0987, 6.0)  # the truth with more digits
    assert np.isfinite(predicted[0]).all() and np.isnan(predicted[1]).all()


def test_results_of_other_lesions_are_refused(tmp_path, annotations):
    path = tmp_path / "r.json"
    path.write_text(json.dumps([EXACT, EXACT]))
    with pytest.raises(InputError, match="not annotated"):
        read_predictions(path, read_annotations(annotations))


@pytest.mark.parametrize("name", ["p.csv", "p.json"])
def test_predictions_survive_a_round_trip(tmp_path, annotations, name):
    annotated = read_annotations(annotations)
    predicted = np.array([(1.25, 2.5, 3.0), (np.nan,) * 3])
    write_predictions(tmp_path / name, annotated, predicted)
    pairs, again = read_predictions(tmp_path / name, annotated)
    np.testing.assert_array_equal(again, predicted)
    assert [pair.key for pair in pairs] == ["0001", "0002"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("id,x,y,z\n9,1,2,3\n", "no annotated lesion"),
        ("id,x,y,z\n0001,1,2,3\n0001,1,2,3\n", "occurs twice"),
        ("id,x,y,z\n0001,1,here,3\n", "not a number"),
        ("id,x,y\n0001,1,2\n", "no column z"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path, annotations, text, reason):
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=reason):
        read_predictions(path, read_annotations(annotations))


def test_a_table_alone_has_no_truth(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("id,x,y,z\n")
    with pytest.raises(InputError, match="by id only"):
        read_predictions(path)


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", '{"results": []}', '{"1": {"source": "a"}}', '{"1": 3}',
        json.dumps({"1": {**ENTRY, "target spacing": [1, 2]}}),
    ],
)  # fmt: skip
def test_files_that_are_no_annotations_are_refused(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"a\.json"):
        read_annotations(path)


def test_regions_come_from_a_table(tmp_path, annotations):
    path = tmp_path / "regions.csv"
    path.write_text("ID, Region\n0001, liver\n")
    pairs = with_regions(read_annotations(annotations), read_regions(path))
    assert [pair.region for pair in pairs] == ["liver", "lung"]
