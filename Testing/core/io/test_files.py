"""Outputs are whole or absent; inputs are never replaced."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from SAMv2Core.errors import OutputError
from SAMv2Core.io import files


def leftovers(folder):
    return [path.name for path in folder.iterdir() if ".part" in path.name]


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a.nii.gz", ".nii.gz"),
        ("A.NII.GZ", ".nii.gz"),
        ("x.y.mrk.json", ".mrk.json"),
        ("r.json", ".json"),
        ("a", ""),
    ],
)
def test_compound_suffixes(name, suffix):
    assert files.suffix_of(name) == suffix


def test_content_is_written_and_replaced(tmp_path):
    path = tmp_path / "naïve folder ü" / "ausgabe 1.txt"
    path.parent.mkdir()
    files.write_text(path, "one\n")
    files.write_text(path, "two €\n")
    assert path.read_bytes() == "two €\n".encode()
    assert leftovers(path.parent) == []


def test_temporary_name_keeps_the_suffix(tmp_path):
    with files.atomic_path(tmp_path / "v.nii.gz") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.endswith(".nii.gz")
        temporary.write_bytes(b"x")
        assert not (tmp_path / "v.nii.gz").exists()
    assert (tmp_path / "v.nii.gz").read_bytes() == b"x"


def test_long_names_fit(tmp_path):
    path = tmp_path / ("n" * 240 + ".json")
    files.write_json(path, {})
    assert path.exists()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "result.csv"
    path.write_text("old")
    with pytest.raises(error), files.atomic_path(path) as temporary:
        temporary.write_text("half of the n")
        raise error
    assert path.read_text() == "old"
    assert leftovers(tmp_path) == []


def test_a_full_disk_is_told(tmp_path):
    path = tmp_path / "result.csv"
    with pytest.raises(OutputError, match="disk is full") as caught, files.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.exit_code == 3
    assert str(path) in caught.value.cause
    assert not path.exists()
    assert leftovers(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_the_real_error_of_a_full_device_is_understood(tmp_path):
    with pytest.raises(OutputError, match="disk is full"), files.atomic_path(tmp_path / "x.bin"):
        with open("/dev/full", "wb", buffering=0) as stream:
            stream.write(b"x")


def test_missing_folder_and_folder_as_name(tmp_path):
    with pytest.raises(OutputError, match="does not exist"):
        files.write_text(tmp_path / "no" / "x.csv", "")
    with pytest.raises(OutputError, match="is a folder"):
        files.write_text(tmp_path, "")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        files.write_text(tmp_path / "file" / "x.csv", "")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="permission"):
            files.write_text(tmp_path / "x.csv", "")
    finally:
        tmp_path.chmod(0o700)


def test_permission_errors_are_told(tmp_path):
    with pytest.raises(OutputError, match="permission denied"), files.atomic_path(tmp_path / "x.csv"):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_inputs_are_refused_under_any_name(tmp_path):
    source = tmp_path / "scan.nii.gz"
    source.write_bytes(b"voxels")
    (tmp_path / "sub").mkdir()
    link = tmp_path / "link.nii.gz"
    link.symlink_to(source)
    for name in (source, tmp_path / "sub" / ".." / "scan.nii.gz", link):
        with pytest.raises(OutputError, match="also an input"):
            files.write_bytes(name, b"", inputs=[source])
    assert source.read_bytes() == b"voxels"


def test_a_folder_that_is_an_input_is_not_written_into(tmp_path):
    series = tmp_path / "series"
    series.mkdir()
    with pytest.raises(OutputError, match="input folder"):
        files.check_output(series / "out.nii.gz", [series])
    files.check_output(tmp_path / "out.nii.gz", [series])


def test_a_link_is_written_through(tmp_path):
    target, link = tmp_path / "target.txt", tmp_path / "link.txt"
    target.write_text("old")
    link.symlink_to(target)
    files.write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_json_is_strict(tmp_path):
    files.write_json(tmp_path / "a.json", {"ü": [1.5, None]})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"ü": [1.5, None]}
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "b.json", {"x": float("nan")})
    assert not (tmp_path / "b.json").exists()


def test_an_output_that_another_process_takes_away_is_not_forbidden(tmp_path, monkeypatch):
    """The cache's entries are evicted by others at any time: between two questions about a file it may be gone."""
    path = tmp_path / "entry"
    asked = Path.exists

    def taken_away(self, **more):
        was_there = asked(self, **more)
        if self == path:
            path.unlink(missing_ok=True)
        return was_there

    path.touch()
    monkeypatch.setattr(Path, "exists", taken_away)
    assert files.check_output(path) == path
