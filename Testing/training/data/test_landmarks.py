"""Landmarks beside a scan: read, told by region, and kept in the index."""

import json

import pytest

from SAMv2Core.errors import InputError
from SAMv2Core.io.volume import write_volume
from Testing.samples.synthetic import make_body_volume
from Testing.samples.training_samples import SHAPE, SPACING
from Training.data.index import read_index
from Training.data.landmarks import landmark_file, other_side, read_landmarks, region_of
from Training.prepare import prepare


@pytest.mark.parametrize(
    ("name", "region"),
    [
        ("vertebra_T8", "bones"), ("jugular_notch", "bones"), ("carina", "chest"), ("ivc_right_atrium", "chest"),
        ("left_kidney_top", "abdomen"), ("portal_confluence", "abdomen"), ("iliac_vein_confluence", "abdomen"),
        ("iliac_crest_left", "bones"), ("liver_dome", "domes"), ("liver_inferior_tip", "abdomen"),
        ("costophrenic_right", "domes"), ("brachiocephalic_vein_confluence", "chest"),
    ],
)  # fmt: skip
def test_regions(name, region):
    assert region_of(name) == region


def test_every_landmark_of_the_shared_scans_has_another_side_or_none(shared):
    names = {n for p in (shared / "data/ct").glob("*/*.landmarks.json") for n in read_landmarks(p)}
    assert len(names) > 70
    for name in names:
        assert (other_side(name) is None) == ("left" not in name and "right" not in name)


def write_landmarks(image, entries):
    landmark_file(image).write_text(json.dumps({"landmarks": entries}))


def test_landmarks_go_into_the_index_and_follow_the_file_without_reading_the_scan_again(tmp_path, monkeypatch):
    image = tmp_path / "data" / "a.nii.gz"
    image.parent.mkdir()
    write_volume(make_body_volume(SHAPE, SPACING, seed=0), image)
    write_landmarks(image, {"carina": {"lps": [1, 2, 3], "sure": 0.75, "note": "soft"}})
    monkeypatch.chdir(tmp_path)
    prepare([image.parent.relative_to(tmp_path)], tmp_path / "out")  # a relative source, read from elsewhere later
    monkeypatch.chdir("/")
    assert read_index(tmp_path / "out").entries[0].landmarks == {"carina": [1.0, 2.0, 3.0, 0.75]}
    written = (tmp_path / "out" / read_index(tmp_path / "out").entries[0].image).stat().st_mtime_ns
    write_landmarks(image, {"carina": {"lps": [9, 2, 3], "sure": 1}})
    monkeypatch.chdir(tmp_path)
    prepare([image.parent.relative_to(tmp_path)], tmp_path / "out")
    (entry,) = read_index(tmp_path / "out").entries
    assert entry.landmarks == {"carina": [9.0, 2.0, 3.0, 1.0]}
    assert (tmp_path / "out" / entry.image).stat().st_mtime_ns == written


def test_a_damaged_file_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "a.landmarks.json"
    for text in (
        "{",
        "[]",
        '{"landmarks": {"carina": {"lps": [1, 2]}}}',
        '{"landmarks": {"carina": {"lps": [1, 2, 3]}}}',
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=r"a\.landmarks\.json holds no landmarks"):
            read_landmarks(path)
