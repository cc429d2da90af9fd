"""A DICOMweb archive is asked, fetched from and stored in as PS3.18 says; here a small one on the loopback."""

from __future__ import annotations

import pydicom
import pytest

from SAMv2Core.errors import InputError, OutputError, UsageError
from SAMv2Core.io import dicomweb
from SAMv2Core.io.archive import read_contents
from SAMv2Core.io.volume import read_volume
from Testing.samples.dicom_series import writeSeries
from Testing.samples.dicomweb_server import serving

pytest.importorskip("dicomweb_client")


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Two studies of P1, one of P2, in a folder and on a server."""
    for name, patient, date in (("old", "P1", "20220101"), ("new", "P1", "20240101"), ("other", "P2", "20230101")):
        (tmp_path / "disk").mkdir(exist_ok=True)
        writeSeries(tmp_path / "disk" / name, patient, date, slices=6)
    writeSeries(tmp_path / "disk" / "scout", "P1", "20240101", slices=1)
    monkeypatch.setattr(dicomweb, "_ATTEMPTS", 1)
    with serving() as server:
        server.add(tmp_path / "disk")
        yield tmp_path, server


def test_a_server_tells_the_same_as_a_folder(archive):
    folder, server = archive
    (there,) = dicomweb.read_service(server.url, ["P1"])
    here = read_contents(folder / "disk", "P1")
    assert len(there.series) == len(here.series) == 2

    def facts(series):
        return {**vars(series), "files": (), "url": ""}

    by_uid = {series.series_uid: facts(series) for series in here.series}
    assert all(facts(series) == by_uid[series.series_uid] for series in there.series)


def test_a_patient_is_found_by_a_study_and_only_he(archive):
    folder, server = archive
    study = pydicom.dcmread(folder / "disk" / "old" / "0.dcm").StudyInstanceUID
    (found,) = dicomweb.read_service(server.url, study_uids=[study])
    assert {series.patient_id for series in found.series} == {"P1"} and len(found.series) == 2
    with pytest.raises(InputError, match=r"has no study 1\.2\.3"):
        list(dicomweb.read_service(server.url, study_uids=["1.2.3"]))
    assert list(dicomweb.read_service(server.url, [""])) == []


def test_a_series_comes_as_the_files_it_was(archive, tmp_path):
    folder, server = archive
    (found,) = dicomweb.read_service(server.url, ["P2"])
    (tmp_path / "fetched").mkdir()
    there = read_volume(dicomweb.fetch(found.series[0].place, tmp_path / "fetched"))
    here = read_volume(folder / "disk" / "other")
    assert (there.array == here.array).all() and (there.ijk_to_lps == here.ijk_to_lps).all()
    dicomweb.check(found.series[0].place)


def test_what_is_not_there_is_an_error_of_one_line(archive, tmp_path):
    _, server = archive
    gone = f"{server.url}/studies/1.2/series/3.4"
    with pytest.raises(InputError, match="answers 404"):
        dicomweb.fetch(gone, tmp_path)
    with pytest.raises(InputError, match="holds nothing"):
        dicomweb.check(gone)
    with pytest.raises(InputError, match="No DICOMweb server answers"):
        dicomweb.check("http://127.0.0.1:9/dicom-web/studies/1/series/2")
    with pytest.raises(InputError, match="no address"):
        dicomweb.address_of(f"{server.url}/studies/1.2")


def test_a_report_is_stored_or_refused(archive):
    folder, server = archive
    writeSeries(folder / "report", "P1", "20240101", slices=1)
    file = folder / "report" / "0.dcm"
    before = len(server.datasets)
    dicomweb.store(server.url, file)
    assert len(server.datasets) == before + 1 and server.requests[-1] == "POST /dicom-web/studies"
    assert server.datasets[-1].SOPInstanceUID == pydicom.dcmread(file).SOPInstanceUID
    server.refuses = True
    with pytest.raises(OutputError, match="does not take it"):
        dicomweb.store(server.url, file)
    with pytest.raises(OutputError, match="was written, but not stored"):
        dicomweb.store("http://127.0.0.1:9/dicom-web", file)


def test_a_token_goes_to_this_computer_and_beyond_by_https_alone(archive, monkeypatch):
    _, server = archive
    monkeypatch.setenv(dicomweb.TOKEN_VARIABLE, "secret")
    list(dicomweb.read_service(server.url, ["P2"]))
    assert server.headers[-1]["Authorization"] == "Bearer secret"
    with pytest.raises(UsageError, match="in the clear"):
        dicomweb.check("http://archive.example/dicom-web/studies/1/series/2")
