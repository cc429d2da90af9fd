"""What stands in the way of publishing, and which files are scans."""

import argparse

import pytest

from Testing.benchmarks import common, report


@pytest.mark.parametrize("arguments, dirty", [(["--publish", "--quick"], False), (["--publish"], True)])
def test_publishing_is_refused_before_anything_is_measured(arguments, dirty, monkeypatch, capsys):
    monkeypatch.setattr(report, "is_dirty", lambda: dirty)
    with pytest.raises(SystemExit):
        common.parse_options(arguments, "", "")
    assert "--publish" in capsys.readouterr().err


def test_publishing_is_allowed_on_a_commit(monkeypatch):
    monkeypatch.setattr(report, "is_dirty", lambda: False)
    assert common.parse_options(["--publish"], "", "").publish
    assert not common.parse_options([], "", "").publish
    common.check_publish(argparse.ArgumentParser(), argparse.Namespace(publish=True))


def test_label_maps_are_no_scans(tmp_path):
    for name in ("b.nii.gz", "a.nii.gz", "a_labels.nii.gz", "a.landmarks.json"):
        (tmp_path / name).touch()
    assert [path.name for path in common.scan_paths(tmp_path)] == ["a.nii.gz", "b.nii.gz"]
