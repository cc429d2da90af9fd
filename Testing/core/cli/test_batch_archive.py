"""`samv2 batch track|register` from a folder and from a DICOMweb server, down to the report that is stored there."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest

import SAMv2Core as s
from SAMv2Core.cli import batch
from SAMv2Core.cli.main import main
from SAMv2Core.io.report_reader import read_report
from SAMv2Core.models.checkpoints import save_network
from Testing.samples.batch_rows import Here
from Testing.samples.dicom_archive import LESIONS_LPS, SHIFT_LPS, TRACKING_UIDS, write_archive
from Testing.samples.dicom_series import writeSeries
from Testing.samples.dicomweb_server import serving
from Testing.samples.embedding_samples import small_lite

pytest.importorskip("highdicom")
pytest.importorskip("dicomweb_client")


PATIENT_ID, PATIENT_NAME, BORN = "PID-4711", "Phantom", "19561231"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """An archive, beside it a small random model."""
    folder = tmp_path_factory.mktemp("hospital")
    write_archive(folder / "archive", PATIENT_ID)
    writeSeries(folder / "archive" / "alone", "P2", "20240101", slices=6)
    save_network(small_lite(), folder / "tiny.safetensors", {"name": "tiny"})
    return folder


@pytest.fixture
def samv2(made, tmp_path, monkeypatch):
    """`samv2 batch ...` in this process, one cache for all."""
    monkeypatch.setattr(batch, "_executor", lambda *_: Here())
    monkeypatch.setenv("SAMV2_CACHE_DIR", str(made / "cache"))

    def run(*arguments):
        shared = ["--model", made / "tiny.safetensors", "--output", tmp_path / "out", "--report", tmp_path / "r.json"]
        return main(["batch", *map(str, [*arguments, *shared])])

    return run


def rows(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def check_tracked(report):
    """A report on the new study, by Tracking UID and place; `Study 1` of the lesions' course."""
    found = {lesion.tracking_uid: lesion for lesion in report.lesions}
    assert report.order == 1 and set(found) == set(TRACKING_UIDS.values())
    for label, lps in LESIONS_LPS.items():
        # 2 mm: the body is the same, so what is left is the lattice of the network (3 mm voxels of the phantom).
        np.testing.assert_allclose(found[TRACKING_UIDS[label]].center_lps, np.add(lps, SHIFT_LPS), atol=2.0)


def test_lesions_of_the_prior_report_are_tracked_into_a_report(samv2, made, tmp_path, capsys):
    assert samv2("track", "--archive", made / "archive") == 0, capsys.readouterr().err
    (row,) = rows(tmp_path / "out" / "summary.csv")
    new = pydicom.dcmread(made / "archive" / "new" / "0.dcm", stop_before_pixels=True)
    assert row["name"] == new.StudyInstanceUID
    check_tracked(read_report(tmp_path / "out" / row["folder"] / "lesions.dcm"))
    (skipped,) = rows(tmp_path / "out" / "skipped.csv")
    assert skipped["reason"] == "no earlier study"
    # Again: nothing is left to do.
    assert samv2("track", "--archive", made / "archive", "--resume") == 0
    assert "1 of 1 rows are done already" in capsys.readouterr().out


def test_nobody_is_named_but_in_dicom(samv2, made, tmp_path, capsys):
    for file in (made / "archive").rglob("*.dcm"):
        dataset = pydicom.dcmread(file)
        dataset.PatientBirthDate = BORN
        dataset.save_as(file)
    assert samv2("track", "--archive", made / "archive") == 0
    told = capsys.readouterr()
    files = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    texts = [file.read_bytes() for file in (*files, tmp_path / "r.json") if file.suffix != ".dcm"]
    assert len(texts) > 6
    for text in (*texts, told.out.encode(), told.err.encode()):
        assert not [word for word in (PATIENT_ID, PATIENT_NAME, BORN) if word.encode() in text]
    (report,) = (tmp_path / "out").rglob("*/report.json")
    kept = json.loads(report.read_text())
    assert kept["model"]["sha256"] and kept["versions"]["samv2"]
    new = pydicom.dcmread(made / "archive" / "new" / "0.dcm", stop_before_pixels=True)
    assert kept["inputs"]["follow_up_1"]["series"] == new.SeriesInstanceUID


def test_from_a_server_and_back_to_it(samv2, made, tmp_path, capsys):
    with serving() as server:
        server.add(made / "archive")
        new = pydicom.dcmread(made / "archive" / "new" / "0.dcm", stop_before_pixels=True)
        alone = pydicom.dcmread(made / "archive" / "alone" / "0.dcm", stop_before_pixels=True).StudyInstanceUID
        command = ["track", "--archive", server.url, "--studies", new.StudyInstanceUID, alone]
        assert samv2(*command, "--dry-run") == 0
        assert not (tmp_path / "out").exists() and not any("POST" in path for path in server.requests)
        # The second time as after a worker that was killed between storing and noting.
        for _ in range(2):
            assert samv2(*command, "--stow") == 0, capsys.readouterr().err
        assert sum("POST" in path for path in server.requests) == 2
        stored = [d for d in server.of_modality("SR") if d.StudyInstanceUID == new.StudyInstanceUID]
    assert len(stored) == 1 and stored[0].PatientID == PATIENT_ID
    stored[0].save_as(tmp_path / "stored.dcm")
    check_tracked(read_report(tmp_path / "stored.dcm"))
    (row,) = rows(tmp_path / "out" / "summary.csv")
    report = json.loads((tmp_path / "out" / row["folder"] / "report.json").read_text())
    assert report["stored"] == server.url
    assert rows(tmp_path / "out" / "skipped.csv") == [{"study_uid": alone, "reason": "no earlier study"}]
    assert report["inputs"]["follow_up_1"]["series"] == new.SeriesInstanceUID
    assert report["inputs"]["follow_up_1"]["file"].startswith(f"{server.url}/studies/{new.StudyInstanceUID}/series/")


def test_the_newest_study_is_registered_to_the_prior_as_a_dicom_object(samv2, made, tmp_path, capsys):
    assert samv2("register", "--archive", made / "archive") in (0, 6), capsys.readouterr().err
    (row,) = rows(tmp_path / "out" / "summary.csv")
    written = pydicom.dcmread(tmp_path / "out" / row["folder"] / "registration.dcm")
    assert written.StudyInstanceUID == row["name"] and len(written.RegistrationSequence) == 2
    model = json.loads((tmp_path / "out" / row["folder"] / "report.json").read_text())["model"]
    assert (written.SoftwareVersions, written.DeviceSerialNumber) == (s.__version__, model["sha256"][:16])


@pytest.mark.parametrize(
    "options, code, complaint",
    [
        (["--archive", "http://127.0.0.1:9/dicom-web"], 2, "not searched as a whole"),
        (["--archive", "disk", "--stow"], 2, "--stow needs the address"),
        (["--table", "t.csv", "--rules", "r.json"], 2, "--rules is for --archive"),
        (["--archive", "nowhere"], 3, "no folder and no DICOMDIR"),
        (["--archive", "disk", "--patients", "no.txt"], 3, "no.txt cannot be read"),
    ],
)
def test_options_without_sense_are_refused(samv2, made, tmp_path, monkeypatch, capsys, options, code, complaint):
    (tmp_path / "disk").mkdir()
    writeSeries(tmp_path / "disk" / "alone", "P2", "20240101", slices=6)
    monkeypatch.chdir(tmp_path)
    assert samv2("track", *options) == code
    assert complaint in capsys.readouterr().err
