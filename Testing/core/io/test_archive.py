"""Which earlier series a patient has, and what part of space they show."""

import shutil

import numpy as np
import pydicom
import pytest

from SAMv2Core.errors import InputError
from SAMv2Core.io.archive import earlier_series, read_archive, study_of
from Testing.samples.dicom_series import ORIGIN_LPS, writeSeries

INSIDE = np.array([-14.0, -24.0, 110.0])  # of the first series: 8 x 8 x 6 voxels of 2 x 2 x 4 mm


def change(files, **tags):
    for file in files:
        dataset = pydicom.dcmread(file)
        for name, value in tags.items():
            setattr(dataset, name, value)
        dataset.save_as(file)


@pytest.fixture
def archive(tmp_path):
    """The study of March 2024 in its own folder, and an archive of what came before and after, of two patients."""
    kept = {"study": writeSeries(tmp_path / "study", date="20240301", slices=6)}
    (tmp_path / "archive").mkdir()
    for name, patient, date in (
        ("old", "P1", "20220101"), ("last", "P1", "20230601"), ("later", "P1", "20250101"), ("other", "P2", "20231201"),
        ("scout", "P1", "20240101"),
    ):  # fmt: skip
        slices = 1 if name == "scout" else 6
        kept[name] = writeSeries(tmp_path / "archive" / name, patientID=patient, date=date, slices=slices)
    (tmp_path / "archive" / "notes.txt").write_text("no DICOM")
    return tmp_path, kept


def test_only_earlier_studies_of_the_patient_the_latest_first(archive):
    folder, _ = archive
    study = study_of(folder / "study")
    found = earlier_series(study, folder / "archive")
    assert [series.folder.name for series in found] == ["last", "old"] and len(found[0].files) == 6
    assert len(read_archive(folder / "archive")) == 4 and len(read_archive(folder / "archive", "P2")) == 1


def test_another_birth_date_is_another_patient(archive):
    folder, kept = archive
    change(kept["study"], PatientBirthDate="19500101")
    change(kept["last"], PatientBirthDate="19610101")
    found = earlier_series(study_of(folder / "study"), folder / "archive")
    assert [series.folder.name for series in found] == ["old"]


def test_of_one_study_the_same_modality_comes_first(archive):
    folder, kept = archive
    uid = pydicom.dcmread(kept["last"][0]).StudyInstanceUID
    more = writeSeries(folder / "archive" / "mr", date="20230601", slices=8)
    change(more, Modality="MR", StudyInstanceUID=uid)
    found = earlier_series(study_of(folder / "study"), folder / "archive")
    assert [series.folder.name for series in found] == ["last", "mr", "old"]


def test_a_series_shows_what_lies_between_its_images(archive):
    folder, _ = archive
    study = study_of(folder / "study")
    x, y, z = ORIGIN_LPS
    assert study.shows(INSIDE) and study.shows(np.array([x - 0.9, y - 0.9, z - 1.9]))
    for outside in ((x - 1.1, y, z), (x, y + 15.1, z), (x, y, z - 2.1), (x, y, z + 22.1)):
        assert not study.shows(np.array(outside))


def test_a_dicomdir_lists_the_same(archive):
    folder, kept = archive
    from pydicom.fileset import FileSet

    media = FileSet()
    for name in ("old", "last", "other"):
        for file in kept[name]:
            media.add(file)
    media.write(folder / "cd")
    shutil.rmtree(folder / "archive")
    found = earlier_series(study_of(folder / "study"), folder / "cd" / "DICOMDIR")
    assert [series.date for series in found] == ["20230601", "20220101"] and len(found[0].files) == 6


def test_what_is_no_archive_and_no_study_is_refused(archive, tmp_path):
    folder, kept = archive
    for path, message in ((folder / "no", "no folder"), (folder / "empty", "no DICOM files")):
        (folder / "empty").mkdir(exist_ok=True)
        with pytest.raises(InputError, match=message):
            read_archive(path)
    with pytest.raises(InputError, match="no DICOM series"):
        study_of(folder / "archive" / "scout")
    change(kept["study"], PatientID="")
    with pytest.raises(InputError, match="PatientID"):
        study_of(folder / "study")
