"""The watcher of Resources/Examples/orthanc: a study arrives, its prior's lesions are followed, a report comes back.

Twice: against a stand-in that speaks the same requests, and against a real Orthanc where Debian has installed one.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import numpy as np
import pydicom
import pytest

from SAMv2Core.cli import batch
from SAMv2Core.cli.main import main
from SAMv2Core.io import dicomweb
from SAMv2Core.io.report_reader import read_report
from SAMv2Core.models.checkpoints import save_network
from Testing.samples.batch_rows import Here
from Testing.samples.dicom_archive import LESIONS_LPS, SHIFT_LPS, TRACKING_UIDS, write_archive
from Testing.samples.dicomweb_server import serving
from Testing.samples.embedding_samples import small_lite

pytest.importorskip("highdicom")
pytest.importorskip("dicomweb_client")

EXAMPLE = Path(__file__).resolve().parents[2] / "Resources" / "Examples" / "orthanc"


def watcher_class():
    spec = importlib.util.spec_from_file_location("watcher", EXAMPLE / "watcher.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Watcher


def settings():
    """The example's own, which has comments."""
    lines = (EXAMPLE / "orthanc.json").read_text().splitlines()
    return json.loads("\n".join(line for line in lines if not re.match(r"\s*//", line)))


@contextlib.contextmanager
def orthanc(folder: Path):
    """The example's Orthanc at a free port, its database in ``folder``; yields (address, upload)."""
    config = settings()
    (plugin,) = config["Plugins"]
    if shutil.which("Orthanc") is None or not Path(plugin).exists():
        pytest.skip("needs Orthanc with DICOMweb: apt-get install orthanc orthanc-dicomweb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        config["HttpPort"] = free.getsockname()[1]
    (folder / "orthanc.json").write_text(json.dumps({**config, "StableAge": 1}))
    address = f"http://127.0.0.1:{config['HttpPort']}"
    with open(folder / "log.txt", "w") as log:
        process = subprocess.Popen(["Orthanc", "orthanc.json"], cwd=folder, stdout=log, stderr=log)
    try:
        wait_for(lambda: ask(f"{address}/system"))
        yield address, lambda files: [ask(f"{address}/instances", file.read_bytes()) for file in files]
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def stand_in(folder: Path):
    with serving() as server:
        yield server.url[: -len("/dicom-web")], lambda files: server.add(files[0].parent)


def ask(address, data=None):
    with urllib.request.urlopen(urllib.request.Request(address, data=data), timeout=20) as answer:
        return json.load(answer)


def wait_for(what, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            found = what()
            if found:
                return found
        time.sleep(0.1)
    raise TimeoutError(f"nothing came in {seconds} s")


@pytest.mark.parametrize("archive", [stand_in, orthanc])
def test_a_study_arrives_and_a_report_comes_back(archive, tmp_path, monkeypatch):
    write_archive(tmp_path / "a")
    save_network(small_lite(), tmp_path / "tiny.safetensors", {"name": "tiny"})
    monkeypatch.setattr(batch, "_executor", lambda *_: Here())
    monkeypatch.chdir(tmp_path)
    # The prior's report lies beside its images, as one upload.
    shutil.move(tmp_path / "a" / "prior.dcm", tmp_path / "a" / "prior" / "report.dcm")
    prior, new = (pydicom.dcmread(tmp_path / "a" / name / "0.dcm").StudyInstanceUID for name in ("prior", "new"))
    with archive(tmp_path) as (address, upload):
        options = ["--model", "tiny.safetensors", "--cache", "off"]
        watcher = watcher_class()(address, tmp_path / "work", options, run=main)
        upload(sorted((tmp_path / "a" / "prior").glob("*.dcm")))
        assert wait_for(watcher.look) == [prior]
        assert not (tmp_path / "work" / prior / "summary.csv").exists()  # there is nothing before it
        upload(sorted((tmp_path / "a" / "new").glob("*.dcm")))
        assert wait_for(watcher.look) == [new]
        (contents,) = dicomweb.read_service(f"{address}/dicom-web", study_uids=[new])
        (place,) = (report.place for report in contents.reports if report.study_uid == new)
        report = read_report(dicomweb.fetch(place, tmp_path))
        # The report itself arrives, and nothing more is done; not by a watcher that was started anew, either.
        time.sleep(0.0 if archive is stand_in else 3.0)
        (tmp_path / "work" / "last-change").unlink()
        assert new not in watcher_class()(address, tmp_path / "work", options, run=main).look()
    for lesion in report.lesions:
        (label,) = (name for name, uid in TRACKING_UIDS.items() if uid == lesion.tracking_uid)
        # Half a voxel of the phantom and the network's lattice.
        np.testing.assert_allclose(lesion.center_lps, np.add(LESIONS_LPS[label], SHIFT_LPS), atol=2.0)
    assert len(report.lesions) == len(LESIONS_LPS) and report.order == 1


def test_the_example_is_reached_from_this_computer_alone():
    config = settings()
    assert config["RemoteAccessAllowed"] is False and config["DicomServerEnabled"] is False
