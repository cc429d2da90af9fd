"""``samv2 prior`` as users run it: by geometry in one frame of reference, by matching in others."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

import SAMv2Core as s
from Testing.end_to_end.conftest import INSIDE_LPS, SHIFT_LPS, read_json
from Testing.samples.dicom_series import writeSeries


@pytest.fixture
def archive(scans, tmp_path):
    """A study and, two years and one year before, the same body: elsewhere in the world, and cut at its lower end."""
    volume = s.read_volume(scans / "template.nii.gz")
    volume = s.Volume(np.rint(volume.array), volume.ijk_to_lps)
    files = writeSeries(tmp_path / "study", date="20240301", volume=volume)
    (tmp_path / "archive").mkdir()
    moved = s.read_volume(scans / "query.nii.gz")
    moved = s.Volume(np.rint(moved.array), moved.ijk_to_lps)
    writeSeries(tmp_path / "archive" / "moved", date="20220301", volume=moved)
    matrix = volume.ijk_to_lps.copy()
    matrix[2, 3] += 20 * matrix[2, 2]
    upper = writeSeries(tmp_path / "archive" / "upper", date="20230301", volume=s.Volume(volume.array[20:], matrix))
    frame = pydicom.dcmread(files[0]).FrameOfReferenceUID
    for file in upper:
        dataset = pydicom.dcmread(file)
        dataset.FrameOfReferenceUID = frame
        dataset.save_as(file)
    return volume, matrix[2, 3]


def test_the_latest_study_that_shows_the_point(samv2, scans, archive, tmp_path):
    volume, lower_end = archive
    command = ["prior", "--study", "study", "--archive", "archive", "--model", scans / "tiny.safetensors"]
    point = (INSIDE_LPS["a"][0], INSIDE_LPS["a"][1], lower_end + 10)
    ended = samv2(*command, "--report", "r.json", f"--point={','.join(map(str, point))}")
    assert ended.code == 0, ended.err
    found = read_json(tmp_path / "r.json")
    assert (found["decided_by"], found["study_date"]) == ("geometry", "20230301") and found["position"] == list(point)
    assert found["path"].endswith("upper") and "date: 2023-03-01" in ended.out
    below = (*point[:2], lower_end - 12)  # only the older study shows it
    ended = samv2(*command, "--report", "r.json", f"--point={','.join(map(str, below))}")
    assert ended.code == 0, ended.err
    found = read_json(tmp_path / "r.json")
    assert (found["decided_by"], found["study_date"]) == ("matching", "20220301")
    np.testing.assert_allclose(found["position"], np.add(below, SHIFT_LPS), atol=2.0)
    assert [item["status"] for item in found["tried"]] == ["outside its field of view", found["status"]]


def test_no_study_shows_it(samv2, scans, archive, tmp_path):
    (tmp_path / "empty").mkdir()
    writeSeries(tmp_path / "empty" / "other", patientID="P2", date="20200101", slices=6)
    command = ["prior", "--study", "study", "--archive", "empty", "--model", scans / "tiny.safetensors"]
    ended = samv2(*command, "--point=0,0,140", "--report", "r.json")
    assert ended.code == 6 and "0 earlier series" in ended.err and read_json(tmp_path / "r.json")["tried"] == []
    outside = samv2(*command, "--point=0,0,9000")
    assert outside.code == 3 and "lies outside" in outside.err
