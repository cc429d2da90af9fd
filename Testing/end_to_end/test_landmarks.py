"""``samv2 landmarks`` and ``samv2 where`` as users run them; a small random network: files, no accuracy."""

from __future__ import annotations

import numpy as np
import pytest

from SAMv2Core.io.points import read_points
from Testing.end_to_end.conftest import INSIDE_LPS, SHIFT_LPS, read_json

TOLERANCE_MM = 4.0  # places are the centers of the fine lattice, 4 mm apart in each direction


@pytest.fixture
def arguments(scans, atlas):
    return ["--image", scans / "query.nii.gz", "--model", scans / "tiny.safetensors", "--atlas", atlas]


def test_landmarks_are_written_with_report(samv2, arguments, tmp_path):
    ended = samv2("landmarks", *arguments, "--output", "found.mrk.json", "--report", "r.json")
    assert ended.code == 0, ended.err
    found = read_points(tmp_path / "found.mrk.json")
    assert found.labels == sorted(INSIDE_LPS)
    for point in found:
        np.testing.assert_allclose(point.position_lps, np.add(INSIDE_LPS[point.label], SHIFT_LPS), atol=TOLERANCE_MM)
        assert point.description.startswith("status=matched; confidence=0.")
    rows = read_json(tmp_path / "r.json")["landmarks"]
    assert [row["label"] for row in rows] == found.labels and rows[0]["exemplars"] == 1
    assert "landmark" in ended.out


def test_one_landmark_by_name(samv2, arguments, tmp_path):
    ended = samv2("landmarks", *arguments, "--only", "b", "--output", "b.csv")
    assert ended.code == 0, ended.err
    assert read_points(tmp_path / "b.csv").labels == ["b"]
    ended = samv2("landmarks", *arguments, "--only", "tail", "--output", "t.csv")
    assert ended.code == 2 and "'tail'" in ended.err and not (tmp_path / "t.csv").exists()


def test_a_model_without_atlas_is_refused(samv2, scans, tmp_path):
    image = ("--image", scans / "query.nii.gz", "--model", scans / "tiny.safetensors")
    ended = samv2("landmarks", *image, "--output", "x.csv")
    assert ended.code == 4 and "no atlas of landmarks" in ended.err


def test_own_landmarks_are_taught_and_found(samv2, scans, tmp_path):
    common = ("--model", scans / "tiny.safetensors", "--atlas", "mine.safetensors")
    taught = ("landmarks", "--image", scans / "template.nii.gz", *common, "--teach", scans / "points.csv")
    assert samv2(*taught).code == 0
    again = samv2(*taught)
    assert again.code == 3 and "same name" in again.err
    ended = samv2("landmarks", "--image", scans / "query.nii.gz", *common, "--output", "o.csv", "--report", "r.json")
    assert ended.code in (0, 6), ended.err  # one exemplar of a random network need not convince
    rows = read_json(tmp_path / "r.json")["landmarks"]
    assert [row["label"] for row in rows] == sorted(INSIDE_LPS)
    assert samv2(*taught, "--output", "o.csv").code == 2


def test_where(samv2, arguments, tmp_path):
    place = np.add(INSIDE_LPS["a"], SHIFT_LPS) + (0, 0, -20)
    ended = samv2("where", *arguments, "--point=" + ",".join(map(str, place)), "--report", "r.json")
    assert ended.code == 0, ended.err
    near = {row["label"]: row for row in read_json(tmp_path / "r.json")["near"]}
    assert near["a"]["distance_mm"] == pytest.approx(20, abs=TOLERANCE_MM * np.sqrt(3))
    assert "below a" in near["a"]["text"] and near["a"]["text"] in ended.out


@pytest.mark.parametrize(("point", "code"), [("1,2", 2), ("a,b,c", 2), ("0,0,9000", 3)])
def test_points_that_make_no_sense(samv2, arguments, point, code):
    assert samv2("where", *arguments, f"--point={point}").code == code
