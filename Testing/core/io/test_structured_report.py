"""DICOM reports of lesions, read back with pydicom: needs highdicom, no Slicer."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("highdicom", reason="highdicom is not installed")

import highdicom
import pydicom

from SAMv2Core.errors import InputError
from SAMv2Core.io import structured_report
from SAMv2Core.io.spatial_registration import check_sources
from SAMv2Core.io.structured_report import ReportedLesion, Study, new_tracking_uid, write_report
from SAMv2Core.io.volume import read_volume
from Testing.files import dicom
from Testing.samples.dicom_series import writeSeries

LONG_AXIS = highdicom.sr.CodedConcept("103339001", "SCT", "Long axis")


@pytest.fixture
def series(tmp_path):
    return tuple(writeSeries(tmp_path))


def groups(path):
    """{label: measurement group} of a report, by highdicom's own reader."""
    report = highdicom.sr.srread(str(path))
    found = report.content.get_planar_roi_measurement_groups()
    return report, {group.tracking_identifier: group for group in found}


def test_a_report_holds_places_sizes_and_decisions(series, tmp_path):
    uid = new_tracking_uid()
    ends = ((-10.0, 0.0, 104.0), (-10.0, 12.0, 104.0))
    lesions = [
        ReportedLesion("L1", uid, (-10.0, 6.0, 104.0), "matched", "moved", 12.0, ends),
        ReportedLesion("L2", new_tracking_uid(), (4.0, 5.0, 106.0), "uncertain"),
    ]
    path = tmp_path / "report.dcm"
    write_report(str(path), Study(series, "Follow-up 1", 1), lesions, "lite-ct", "0.1.0")
    report, found = groups(path)
    source = pydicom.dcmread(series[0])
    assert report.PatientID == "P1" and report.StudyInstanceUID == source.StudyInstanceUID
    assert report.CompletionFlag == "COMPLETE" and report.VerificationFlag == "UNVERIFIED"
    referenced = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert len(referenced.ReferencedSOPSequence) == len(series)
    one, two = found["L1"], found["L2"]
    assert one.tracking_uid == uid and two.tracking_uid != uid
    (length,) = one.get_measurements(name=LONG_AXIS)
    assert length.value == pytest.approx(12.0) and length.unit.value == "mm"
    assert np.allclose(one.roi.value, ends) and one.roi.frame_of_reference_uid == source.FrameOfReferenceUID
    assert np.allclose(two.roi.value, [(4.0, 5.0, 106.0)]) and not two.get_measurements(name=LONG_AXIS)
    meanings = {e.name.meaning: e.value.meaning for e in one.get_qualitative_evaluations()}
    assert meanings == {"Proposal by matching": "Matched", "Decision of the reader": "Corrected by hand"}


def test_a_report_written_again_is_the_same_instance_and_any_other_is_not(series, tmp_path):
    lesion = ReportedLesion("L1", new_tracking_uid(), (4.0, 5.0, 106.0), "matched", diameter_mm=9.0)
    study = Study(series, "Baseline", 0)

    def uids(study=study, lesion=lesion, model="lite-ct", version="0.1.0", sha256="ab" * 32):
        write_report(str(tmp_path / "r.dcm"), study, [lesion], model, version, sha256)
        report = pydicom.dcmread(tmp_path / "r.dcm")
        assert report.file_meta.MediaStorageSOPInstanceUID == report.SOPInstanceUID != report.SeriesInstanceUID
        return report.SOPInstanceUID, report.SeriesInstanceUID

    changes = {"position": (4.0, 5.0, 106.5), "decision": "accepted", "diameter_mm": 9.1, "state": "present"}
    others = [uids(lesion=dataclasses.replace(lesion, **{name: value})) for name, value in changes.items()]
    others += [uids(version="0.1.1"), uids(sha256="cd" * 32), uids(study=dataclasses.replace(study, order=1))]
    other = tmp_path / "other"
    other.mkdir()
    others.append(uids(study=dataclasses.replace(study, files=tuple(writeSeries(other)))))  # another scan, equal values
    first = uids()
    assert uids() == first
    assert len({uid for pair in (*others, first) for uid in pair}) == 2 * (len(others) + 1)


def test_what_has_written_a_report_is_named(series, tmp_path):
    lesion = ReportedLesion("L1", new_tracking_uid(), (4.0, 5.0, 106.0), "matched", diameter_mm=9.0)
    write_report(str(tmp_path / "r.dcm"), Study(series, "Baseline", 0), [lesion], "lite-ct", "0.1.0", "ab" * 32)
    report, found = groups(tmp_path / "r.dcm")
    equipment = (report.Manufacturer, report.ManufacturerModelName, report.SoftwareVersions, report.DeviceSerialNumber)
    assert equipment == ("SlicerSAMv2", "SAMv2", "0.1.0", "abababababababab")
    (contributor,) = report.ContributingEquipmentSequence
    assert (contributor.SoftwareVersions, contributor.DeviceSerialNumber) == equipment[2:]
    (context,) = report.content.get_observer_contexts()
    device = context.observer_identifying_attributes
    assert device.uid == contributor.DeviceUID
    assert (device.name, device.manufacturer_name) == ("SAMv2 for 3D Slicer", "SlicerSAMv2")
    assert (device.model_name, device.serial_number) == ("SAMv2 0.1.0", "abababababababab")
    (algorithm,) = (
        {item.ConceptNameCodeSequence[0].CodeMeaning: item.TextValue for item in found["L1"][0].ContentSequence
         if item.ConceptNameCodeSequence[0].CodeMeaning.startswith("Algorithm")},
    )  # fmt: skip
    assert algorithm == {
        "Algorithm Name": "lite-ct",
        "Algorithm Version": "0.1.0",
        "Algorithm Parameters": f"model SHA-256 {'ab' * 32}",
    }


def test_one_tracking_uid_over_all_studies(tmp_path):
    uid, uids = new_tracking_uid(), set()
    for order, date in enumerate(("20240301", "20240901")):
        folder = tmp_path / date
        folder.mkdir()
        study = Study(tuple(writeSeries(folder, date=date)), f"Time {order}", order)
        write_report(str(folder / "r.dcm"), study, [ReportedLesion("L1", uid, (0.0, 0.0, 104.0), "matched")], "m", "1")
        uids.add(groups(folder / "r.dcm")[1]["L1"].tracking_uid)
    assert uids == {uid} and pydicom.uid.UID(uid).is_valid


def test_slicers_own_importer_finds_what_it_reads(series, tmp_path):
    """The calls of Slicer 5.12's DICOMTID1500Plugin; it takes the first finding site of every group."""
    uid, path = new_tracking_uid(), tmp_path / "report.dcm"
    lesion = ReportedLesion("L1", uid, (4.0, 5.0, 106.0), "matched", diameter_mm=9.0)
    write_report(str(path), Study(series, "Baseline", 0), [lesion], "lite-ct", "0.1.0")
    dataset = pydicom.dcmread(path)
    assert dataset.Modality == "SR" and dataset.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert dataset.SOPClassUID == pydicom.uid.Comprehensive3DSRStorage
    report = highdicom.sr.Comprehensive3DSR.from_dataset(dataset, copy=True)
    (group,) = report.content.get_planar_roi_measurement_groups(
        graphic_type=highdicom.sr.GraphicTypeValues3D.POINT, reference_type=pydicom.sr.codedict.codes.DCM.ImageRegion
    )
    assert (group.tracking_identifier, group.tracking_uid) == ("L1", uid)
    assert group.finding_sites[0].value.CodeMeaning.startswith("Body structure")
    assert group.roi.ReferencedFrameOfReferenceUID == pydicom.dcmread(series[0]).FrameOfReferenceUID
    assert np.allclose(group.roi.value[0], (4.0, 5.0, 106.0))


def test_what_cannot_be_reported_is_an_error_and_leaves_no_file(series, tmp_path, monkeypatch):
    path, lesion = tmp_path / "report.dcm", ReportedLesion("L1", new_tracking_uid(), (0.0, 0.0, 104.0), "matched")
    other = tmp_path / "other"
    other.mkdir()
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(b"no DICOM")
    for study, lesions, message in (
        (Study(series, "A", 0), [], "no lesion"),
        (Study((), "A", 0), [lesion], "not loaded from DICOM"),
        (Study((series[0], writeSeries(other)[0]), "A", 0), [lesion], "SeriesInstanceUID"),
        (Study((str(broken),), "A", 0), [lesion], "broken.dcm"),
    ):
        with pytest.raises(InputError, match=message):
            write_report(str(path), study, lesions, "m", "1")
    monkeypatch.setattr(structured_report, "is_available", lambda: False)
    with pytest.raises(InputError, match="highdicom"):
        write_report(str(path), Study(series, "A", 0), [lesion], "m", "1")
    assert not path.exists()


def de_identified(image, k):
    for keyword in ("PatientName", "PatientID", "StudyID", "StudyDate", "StudyTime"):
        if keyword in image:
            delattr(image, keyword)


def test_a_report_of_a_de_identified_series_with_labels_of_any_language(tmp_path):
    files = tuple(str(path) for path in sorted(dicom.write_slices(tmp_path / "ct", de_identified).iterdir()))
    labels = ["肝転移 1", "Läsion ß", "Очаг 2"]
    lesions = [ReportedLesion(label, new_tracking_uid(), (0.0, 1.0, 2.0), "matched") for label in labels]
    write_report(str(tmp_path / "r.dcm"), Study(files, "Baseline", 0), lesions, "lite-ct", "0.1.0")
    report = pydicom.dcmread(tmp_path / "r.dcm")
    assert report.SpecificCharacterSet == "ISO_IR 192"
    found = [
        item.TextValue
        for group in report.ContentSequence[-1].ContentSequence
        for item in group.ContentSequence
        if item.ValueType == "TEXT" and item.ConceptNameCodeSequence[0].CodeValue == "112039"  # tracking identifier
    ]
    assert found == labels
    assert report.PatientName == "" and report.StudyID == ""


def oddly_de_identified(image, k):
    image.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    image.PatientName = "Yamada^Tarou=山田^太郎"
    for keyword, value in (("PatientBirthDate", "1950"), ("StudyDate", "UNKNOWN"), ("StudyTime", "noon")):
        image[keyword] = pydicom.DataElement(keyword, "LO", value)  # what the standard does not allow
    image.PatientSex = "unknown"


def test_what_the_standard_does_not_allow_is_left_empty_in_a_report(tmp_path):
    files = tuple(str(path) for path in sorted(dicom.write_slices(tmp_path / "ct", oddly_de_identified).iterdir()))
    lesions = [ReportedLesion("L1", new_tracking_uid(), (0.0, 1.0, 2.0), "matched")]
    write_report(str(tmp_path / "r.dcm"), Study(files, "Baseline", 0), lesions, "lite-ct", "0.1.0")
    report = pydicom.dcmread(tmp_path / "r.dcm")
    assert str(report.PatientName) == "Yamada^Tarou=山田^太郎" and report.SpecificCharacterSet == "ISO_IR 192"
    assert (report.PatientBirthDate, report.PatientSex, report.StudyDate, report.StudyTime) == ("", "", "", "")


@pytest.mark.parametrize(("modality", "code"), [("CT", "25045-6"), ("MR", "25056-3")])
def test_the_procedure_is_that_of_the_modality(tmp_path, modality, code):
    folder = dicom.write_slices(tmp_path / "scan", lambda image, k: setattr(image, "Modality", modality))
    study = Study(tuple(map(str, folder.iterdir())), "Baseline", 0)
    write_report(str(tmp_path / "r.dcm"), study, [ReportedLesion("L", "1.2", (0.0, 1.0, 2.0), "matched")], "m", "1")
    report = pydicom.dcmread(tmp_path / "r.dcm")
    told = [item.ConceptCodeSequence[0] for item in report.ContentSequence if item.ValueType == "CODE"]
    assert code in [concept.CodeValue for concept in told]


def test_images_that_do_not_say_which_they_are_make_no_report(tmp_path):
    folder = dicom.write_slices(tmp_path / "ct", lambda image, k: delattr(image, "SOPInstanceUID"))
    study = Study(tuple(map(str, folder.iterdir())), "Baseline", 0)
    with pytest.raises(InputError, match="SOPInstanceUID"):
        write_report(str(tmp_path / "r.dcm"), study, [ReportedLesion("L", "1.2", (0.0, 1.0, 2.0), "matched")], "m", "1")


def test_two_scans_of_one_frame_of_reference_are_not_registered_to_each_other(tmp_path):
    fixed, moving = (
        read_volume(dicom.write_slices(tmp_path / name, series=series))
        for name, series in (("a", dicom.SERIES), ("b", dicom.OTHER_SERIES))
    )
    with pytest.raises(InputError, match="one frame of reference"):
        check_sources(fixed, moving)
