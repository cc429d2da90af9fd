"""Faults from outside: killed processes, two writers, folders with odd names; and what is never told of a patient."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import SAMv2Core as s
from SAMv2Core.io.points import read_points
from Testing.end_to_end.conftest import INSIDE_LPS, SHIFT_LPS, environment, read_json
from Testing.files.dicom import write_slices

WRITER = """
import sys, numpy as np, SAMv2Core as s
value, path = int(sys.argv[1]), sys.argv[2]
volume = s.Volume(np.full((60, 200, 200), value, np.int16), np.eye(4))
print("ready", flush=True)
for _ in range(int(sys.argv[3])):
    s.write_volume(volume, path)
"""

IDENTIFIERS = {
    "PatientName": "Mustermann^Erika",
    "PatientID": "PAT-4711-0815",
    "PatientBirthDate": "19640812",
    "OtherPatientIDs": "OTHER-9931",
    "AccessionNumber": "ACC-77123",
    "ReferringPhysicianName": "Sauerbruch^F",
    "InstitutionName": "Hospital at the Lake",
    "PatientAddress": "12 Lake Road",
}


def writer(value, path, times):
    arguments = [sys.executable, "-c", WRITER, str(value), str(path), str(times)]
    return subprocess.Popen(arguments, env=environment(Path(path).parent), stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_killed_writer_leaves_the_file_of_before(tmp_path):
    path = tmp_path / "out.nii.gz"
    writer(1, path, 1).communicate(timeout=60)
    for wait in (0.02, 0.1, 0.3):
        process = writer(2, path, 1000)
        assert process.stdout.readline() == "ready\n"
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        array = s.read_volume(path).array
        assert array.shape == (60, 200, 200) and array.min() == array.max()  # the old one or the new one, whole


def test_two_writers_of_one_output_leave_a_whole_file_of_one(tmp_path):
    path = tmp_path / "out.nii.gz"
    both = [writer(value, path, 3) for value in (1, 2)]
    assert [process.communicate(timeout=60)[0] for process in both] == ["ready\n"] * 2
    assert [process.returncode for process in both] == [0, 0]
    array = s.read_volume(path).array
    assert array.min() == array.max() and array.max() in (1, 2)
    assert [entry.name for entry in tmp_path.glob("*.nii.gz")] == ["out.nii.gz"]


@pytest.mark.parametrize("name", ["Müller  Ärzte 肺结节 🫁", "x" * 200], ids=["letters", "long"])
def test_folders_of_any_name(samv2, scans, tmp_path, name):
    folder = tmp_path / name
    try:
        folder.mkdir()
        (folder / ("y" * (250 - len(name.encode())) if name.startswith("x") else name)).mkdir()
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    (deep,) = folder.iterdir()  # of the x: a path of more than 450 characters
    names = ("template.nii.gz", "query.nii.gz", "points.csv", "tiny.safetensors")
    for own in names:
        (deep / own).write_bytes((scans / own).read_bytes())
    files = dict(zip(("--template", "--query", "--points", "--model"), (deep / own for own in names)))
    options = [part for option in files.items() for part in option]
    ended = samv2("match", *options, "--output", deep / "out.mrk.json", "--report", deep / "r.json")
    assert ended.code == 0, ended.err
    for point in read_points(deep / "out.mrk.json"):
        np.testing.assert_allclose(point.position_lps, np.add(INSIDE_LPS[point.label], SHIFT_LPS), atol=1.5)
    assert Path(read_json(deep / "r.json")["inputs"]["points"]["file"]).name == "points.csv"


def test_nothing_tells_who_the_patient_is(samv2, scans, tmp_path):
    """Reports, logs at their most talkative, tables, cache and errors of DICOM that names its patient everywhere."""
    folder = tmp_path / "study"
    as_dicom(scans / "template.nii.gz", folder)
    assert b"Mustermann" in (folder / "IM0002.dcm").read_bytes()
    cache = tmp_path / "cache"
    options = ("--points", scans / "points.csv", "--model", scans / "tiny.safetensors", "--cache", cache)
    match = ("match", "--template", folder, "--query", scans / "query.nii.gz", *options, "--log-level", "debug")
    done = samv2(*match, "--output", "o.csv", "--report", "r.json")
    assert done.code == 0, done.err
    (folder / "IM0001.dcm").write_bytes((folder / "IM0001.dcm").read_bytes()[:-900])
    refused = samv2(*match, "--series-template", "1.2.3", "--output", "p.csv")
    assert refused.code == 3
    told = [done.out, done.err, refused.out, refused.err]
    told += [path.read_bytes().decode("latin-1") for path in (tmp_path / "o.csv", tmp_path / "r.json")]
    kept = [path for path in cache.rglob("*") if path.is_file()]
    assert kept
    told += [f"{path} {path.read_bytes().decode('latin-1')}" for path in kept]
    for text in told:
        for value in IDENTIFIERS.values():
            for part in value.split("^"):
                assert part not in text or len(part) < 2, f"{part!r} is told"


def as_dicom(source, folder):
    """A CT series in which every tag that may name a person does."""
    volume = s.read_volume(source)
    matrix = volume.ijk_to_lps

    def place_and_name(image, k):
        image.ImagePositionPatient = [f"{value:.6f}" for value in matrix[:3, 3] + k * matrix[:3, 2]]
        image.PixelSpacing, image.SliceThickness = [matrix[1, 1], matrix[0, 0]], matrix[2, 2]
        for keyword, value in IDENTIFIERS.items():
            setattr(image, keyword, value)

    assert np.all(np.diag(matrix)[:3] > 0) and np.count_nonzero(matrix[:3, :3]) == 3  # along L, P, S
    write_slices(folder, place_and_name, slices=range(len(volume.array)), array=np.round(volume.array))
