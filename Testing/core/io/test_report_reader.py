"""Last month's report as this month's baseline: ours and other programs', valid and complete."""

import shutil
import subprocess

import numpy as np
import pytest

pytest.importorskip("highdicom", reason="highdicom is not installed")

import highdicom
import pydicom
from highdicom import sr
from pydicom.sr.codedict import codes

from SAMv2Core.errors import InputError
from SAMv2Core.io.lesions import read_lesions
from SAMv2Core.io.report_reader import is_report, read_report
from SAMv2Core.io.structured_report import PastReading, ReportedLesion, Study, new_tracking_uid, write_report
from Testing.benchmarks.mutations import mutate
from Testing.samples.dicom_series import ORIGIN_LPS, SPACING_MM, writeSeries

ENDS = ((-10.0, 0.0, 104.0), (-10.0, 12.0, 104.0))


@pytest.fixture
def series(tmp_path):
    return tuple(writeSeries(tmp_path / "ct"))


@pytest.fixture
def three_studies(series, tmp_path):
    """(path, UIDs) of the report of a patient's third study: one lesion grew, one vanished, one is new, one merged."""
    uids = [new_tracking_uid() for _ in range(4)]
    before = (PastReading(0, "Baseline", "present", 20.0, 11.0), PastReading(1, "Follow-up 1", "present", 15.0))
    lesions = [
        ReportedLesion("L1", uids[0], (-10.0, 6.0, 104.0), "matched", "accepted", 12.0, ENDS, 8.0, "liver", "present",
                       "target", before),
        ReportedLesion("L2", uids[1], (4.0, 5.0, 106.0), "matched", "", None, None, None, "Lymph nodes", "vanished",
                       "target", (PastReading(0, "Baseline", "present", 21.0, 16.0),)),
        ReportedLesion("N", uids[2], (0.0, 0.0, 100.0), "new", organ="omental cake", state="present", role="new",
                       diameter_mm=7.0),
        ReportedLesion("L3", uids[3], None, "uncertain", organ="chest", state="merged", role="non_target",
                       history=before[:1]),
    ]  # fmt: skip
    path = tmp_path / "third.dcm"
    write_report(str(path), Study(series, "Follow-up 2", 2), lesions, "lite-ct", "0.1.0")
    return path, uids


def test_row_uid_and_history_go_on_without_last_months_scene(three_studies):
    path, uids = three_studies
    report = read_report(path)
    assert (report.order, report.patient_id) == (2, "P1") and is_report(path)
    first, gone, new = report.lesions
    assert [lesion.label for lesion in report.lesions] == ["L1", "L2", "N"]
    assert [lesion.tracking_uid for lesion in report.lesions] == uids[:3]
    assert (first.diameter_mm, first.short_mm, first.organ, first.role) == (12.0, 8.0, "liver", "target")
    np.testing.assert_allclose(first.ends_lps, ENDS)
    np.testing.assert_allclose(first.center_lps, (-10, 6, 104))
    assert gone.diameter_mm is None and gone.is_node and gone.organ == "lymph node"
    np.testing.assert_allclose(gone.center_lps, (4, 5, 106))
    assert (new.role, new.organ) == ("new", "omental cake")
    told = {label: [(r.order, r.state, r.long_mm) for r in past.readings] for label, past in report.past.items()}
    assert told == {
        "L1": [(0, "present", 20.0), (1, "present", 15.0), (2, "present", 12.0)],
        "L2": [(0, "present", 21.0), (2, "vanished", 0.0)],
        "N": [(2, "present", 7.0)],
        "L3": [(0, "present", 20.0), (2, "merged", None)],
    }
    assert report.past["L3"].organ == ""  # a part of the body is no organ
    assert [lesion.label for lesion in read_lesions(path)] == ["L1", "L2", "N"]


def test_highdicom_reads_all_of_it(three_studies):
    """Every group by the library's own reader: sites, measurements, time points."""
    content = sr.srread(str(three_studies[0])).content
    planar = {group.tracking_identifier: group for group in content.get_planar_roi_measurement_groups()}
    assert list(planar) == ["L1", "L2", "N"]
    assert planar["L1"].finding_sites[0].value == codes.SCT.Liver
    assert planar["L2"].finding_sites[0].value == codes.SCT.LymphNode
    axes = (codes.SCT.LongAxis, codes.SCT.ShortAxis)
    lengths = {
        label: [m.value for axis in axes for m in group.get_measurements(name=axis)] for label, group in planar.items()
    }
    assert lengths == {"L1": [12.0, 8.0], "L2": [0.0], "N": [7.0]}
    others = content.get_image_measurement_groups()
    assert [group.tracking_identifier for group in others] == ["L3", "L1", "L1", "L2", "L3"]


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
def test_an_independent_validator_finds_no_error(three_studies):
    """David Clunie's dciodvfy; what it warns of in any report of any program is no error."""
    told = subprocess.run(["dciodvfy", str(three_studies[0])], capture_output=True, text=True, check=False)
    assert "Comprehensive3DSR" in told.stderr
    assert not [line for line in told.stderr.splitlines() if line.startswith("Error")], told.stderr


def written(series, path, groups):
    """A report as another program would write it."""
    evidence = [pydicom.dcmread(file) for file in series]
    observer = sr.ObserverContext(
        observer_type=codes.DCM.Person, observer_identifying_attributes=sr.PersonObserverIdentifyingAttributes("R^D")
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_person_context=observer),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    document = sr.Comprehensive3DSR(
        evidence=evidence, content=content, series_number=1, series_instance_uid=highdicom.UID(),
        sop_instance_uid=highdicom.UID(), instance_number=1, manufacturer="Other",
    )  # fmt: skip
    document.save_as(path)
    return path


def in_image(header, columns_rows, name, value, site=None, unit=codes.UCUM.Centimeter):
    """A line drawn in an image, as OHIF stores one."""
    region = sr.ImageRegion(
        graphic_type=sr.GraphicTypeValues.POLYLINE,
        graphic_data=np.array(columns_rows, dtype=float),
        source_image=sr.SourceImageForRegion.from_source_image(header),
    )
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=highdicom.UID(), identifier="Lesion"),
        referenced_region=region,
        finding_sites=None if site is None else [sr.FindingSite(site)],
        measurements=[sr.Measurement(name=name, value=value, unit=unit)],
    )


def test_another_programs_lines_in_images_become_places(series, tmp_path):
    """SCOORD counts from the corner of the first pixel; 1.2 cm is 12 mm; two lesions of one name get their own."""
    header = pydicom.dcmread(series[1])
    site = sr.CodedConcept("T-28000", "SRT", "Lung")
    groups = [
        in_image(header, [(0.5, 0.5), (6.5, 0.5)], codes.SCT.Length, 1.2, site),
        in_image(header, [(2.5, 1.5), (2.5, 5.5)], codes.SCT.LongAxis, 8.0, unit=codes.UCUM.Millimeter),
    ]
    path = written(series, tmp_path / "other.dcm", groups)
    report = read_report(path, tmp_path / "ct")
    one, two = report.lesions
    assert (one.label, two.label) == ("Lesion (1)", "Lesion (2)") and (one.diameter_mm, two.diameter_mm) == (12.0, 8.0)
    assert one.organ == "Lung" and two.organ == ""
    z = ORIGIN_LPS[2] + SPACING_MM[2]
    np.testing.assert_allclose(one.ends_lps, [(-20, -30, z), (-8, -30, z)])
    np.testing.assert_allclose(two.center_lps, (-16, -24, z))
    assert report.order == 0 and report.frame_of_reference_uid == header.FrameOfReferenceUID
    for scan in (None, tmp_path):  # tmp_path holds the series, too, in a folder of it
        if scan is None:
            with pytest.raises(InputError, match="not in the scan"):
                read_report(path)
        else:
            assert len(read_lesions(path, scan)) == 2


def test_what_is_no_report_of_lesions_is_refused(series, tmp_path):
    assert not is_report(series[0]) and not is_report(tmp_path / "no.dcm")
    with pytest.raises(InputError, match="no DICOM structured report"):
        read_report(series[0])
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=highdicom.UID(), identifier="L"),
        measurements=[sr.Measurement(name=codes.SCT.Length, value=1.0, unit=codes.UCUM.Millimeter)],
    )
    with pytest.raises(InputError, match="no place"):
        read_report(written(series, tmp_path / "numbers.dcm", [group]))


def test_a_damaged_report_is_refused_or_read_and_nothing_else(series, tmp_path):
    """Three hundred seeded mutations; pydicom decodes late, and damaged values raise whatever they raise."""
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=highdicom.UID(), identifier="L"),
        measurements=[sr.Measurement(name=codes.SCT.Length, value=1.0, unit=codes.UCUM.Millimeter)],
    )
    sound = written(series, tmp_path / "sound.dcm", [group])
    refused = 0
    for seed in range(300):
        path = mutate(sound, tmp_path / "damaged", np.random.default_rng(seed))
        try:
            read_report(path) if is_report(path) else None
        except InputError:
            refused += 1
    assert refused > 100
