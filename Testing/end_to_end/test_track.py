"""``samv2 track`` as users run it; a small random network: geometry and files, not accuracy."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

import SAMv2Core as s
from SAMv2Core.cli.track import COLUMNS
from SAMv2Core.io.points import read_points
from Testing.end_to_end.conftest import INSIDE_LPS, SHIFT_LPS, read_json
from Testing.samples.nninteractive_server import serving

TOLERANCE_MM = 2.0  # half a voxel of the fine lattice


@pytest.fixture
def tracking(scans, tmp_path):
    (tmp_path / "lesions.csv").write_text("label,l,p,s,diameter_mm\na,0,0,140,12\nb,10,-12,150,\nfar,900,0,0,9\n")
    return [
        "track", "--baseline", scans / "template.nii.gz", "--lesions", tmp_path / "lesions.csv",
        "--model", scans / "tiny.safetensors", "--output", "out.csv",
    ]  # fmt: skip


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0]) == COLUMNS
    return {(row["label"], int(row["study"])): row for row in rows}


def test_track_writes_a_row_per_lesion_and_study(samv2, scans, tracking, tmp_path):
    query, template = scans / "query.nii.gz", scans / "template.nii.gz"
    ended = samv2(*tracking, "--follow-up", query, template, "--markups", "marks", "--report", "r.json")
    assert ended.code == 0, ended.err
    rows = rows_of(tmp_path / "out.csv")
    assert list(rows) == [(label, study) for label in ("a", "b", "far") for study in range(3)]
    for label, lps in INSIDE_LPS.items():
        for study, shift in ((0, (0, 0, 0)), (1, SHIFT_LPS), (2, (0, 0, 0))):
            row = rows[label, study]
            found = [float(row[axis]) for axis in "lps"]
            np.testing.assert_allclose(found, np.add(lps, shift), atol=TOLERANCE_MM)
            assert row["status"] in ("matched", "uncertain") and 0 < float(row["confidence"]) <= 1
    assert rows["a", 0]["diameter_mm"] == "12.0" and rows["b", 0]["diameter_mm"] == rows["a", 1]["diameter_mm"] == ""
    assert (rows["far", 1]["status"], rows["far", 1]["l"]) == ("not_found", "")
    marks = read_points(tmp_path / "marks" / "study_1.mrk.json")
    assert marks.labels == ["a", "b", "far"] and marks.points[2].position_lps is None
    assert "status=" in marks.points[0].description
    report = read_json(tmp_path / "r.json")
    assert len(report["findings"]) == 9 and report["inputs"]["follow_up_2"]["modality"] == "ct"
    assert report["inputs"]["lesions"]["n_lesions"] == 3 and report["seconds"]["track"] > 0
    assert "follow-up 1:" in ended.out


def test_refined_places_are_those_of_the_voxels(samv2, scans, tracking, tmp_path):
    ended = samv2(*tracking, "--follow-up", scans / "query.nii.gz", "--refine", "--report", "r.json")
    assert ended.code == 0, ended.err
    refined = read_json(tmp_path / "r.json")["refined"]
    assert refined["moved"] == 2 and 0 < refined["median_mm"] <= TOLERANCE_MM
    rows = rows_of(tmp_path / "out.csv")
    for label, lps in INSIDE_LPS.items():
        found = [float(rows[label, 1][axis]) for axis in "lps"]
        np.testing.assert_allclose(found, np.add(lps, SHIFT_LPS), atol=0.3)  # the scan was only moved


def test_a_segmented_follow_up_names_what_is_new_and_what_is_gone(samv2, scans, tracking, tmp_path):
    volume = s.read_volume(scans / "query.nii.gz")
    labels = np.zeros(volume.array.shape, np.uint8)
    for number, lps in ((1, INSIDE_LPS["a"]), (2, (-20.0, 0.0, 120.0))):  # b has vanished, one is new
        i, j, k = np.rint(volume.grid.to_ijk(np.add(lps, SHIFT_LPS))).astype(int)
        labels[k - 1 : k + 2, j - 1 : j + 2, i - 1 : i + 2] = number
    s.write_volume(s.Volume(labels, volume.ijk_to_lps), tmp_path / "seg.nii.gz")
    segmented = [*tracking, "--follow-up", scans / "query.nii.gz", "--report", "r.json", "--follow-up-lesions"]
    (tmp_path / "read.csv").write_text("label,study,diameter_mm,state\nb,0,10,\n")  # measured by a reader
    ended = samv2(*segmented, "seg.nii.gz", "--recist", "recist.csv", "--readings", "read.csv",
                  "--presence", "presence.csv", "--longiseg", "tracking.json", "--patient", "p1")  # fmt: skip
    assert ended.code == 0, ended.err
    (found,) = read_json(tmp_path / "r.json")["assignments"]
    assert list(found["assigned"]) == ["a"] and found["vanished"] == ["b"] and len(found["new"]) == 1
    row = rows_of(tmp_path / "out.csv")["a", 1]
    assert float(row["diameter_mm"]) == pytest.approx(72**0.5, abs=0.01)  # 3 x 3 voxels of 2 mm
    recist = read_json(tmp_path / "r.json")["recist"]
    assert [lesion["readings"][1]["counts_mm"] for lesion in recist["lesions"][:3]] == [
        pytest.approx(72**0.5, abs=0.01), 0.0, None
    ]  # fmt: skip
    point = recist["time_points"][1]
    assert (point["missing"], point["new"], point["overall"]) == (["far"], ["new 1.1"], "PD")
    with open(tmp_path / "recist.csv", newline="") as stream:
        shown = {row["lesion"]: row for row in csv.DictReader(stream)}
    assert shown["b"]["follow-up 1"] == "0.0" and shown["rule"]["follow-up 1"] == "New: new 1.1."
    assert "suggested category PD: New: new 1.1." in ended.out and "far: a lesion of 9.0 mm" in ended.err
    with open(tmp_path / "presence.csv", newline="") as stream:
        said = {row["label"]: row for row in csv.DictReader(stream)}
    assert list(said) == ["a", "b", "far", "new 1.1"] and said["far"]["presence"] == "unknown"
    assert said["a"]["presence"] == "unchanged" and 0 < float(said["a"]["confidence"]) <= 1  # the scan was only moved
    (exchanged,) = json.loads((tmp_path / "tracking.json").read_text())["p1"]
    assert [exchanged[n]["merged_lesions"] for n in "123"] == [[1], [0], [3]]
    assert [int(value) for value in exchanged["1"]["fu_point"]] == list(np.rint(volume.grid.to_ijk(
        np.add(INSIDE_LPS["a"], SHIFT_LPS))).astype(int))  # fmt: skip
    wrong = samv2(*segmented, "seg.nii.gz", "seg.nii.gz")
    assert wrong.code == 2 and "2 segmentations are given for 1 follow-ups" in wrong.err


def test_a_report_is_next_months_baseline(samv2, scans, tracking, tmp_path):
    """DICOM in, DICOM out, three studies: a row keeps its label, its Tracking UID and its history."""
    pytest.importorskip("highdicom", reason="highdicom is not installed")
    import pydicom

    from SAMv2Core.io.report_reader import read_report
    from Testing.samples.dicom_series import writeSeries

    for name, scan in (("second", "query"), ("third", "template")):
        volume = s.read_volume(scans / f"{scan}.nii.gz")
        writeSeries(tmp_path / name, volume=s.Volume(np.rint(volume.array), volume.ijk_to_lps))
    (tmp_path / "read.csv").write_text(
        "label,study,diameter_mm,short_mm,state,organ\na,1,9,6,,liver\nb,0,11,,,\nb,1,,,vanished,\nn,1,7,,,lung\nfar,1,,,vanished,\n"
    )
    first = samv2(*tracking, "--follow-up", tmp_path / "second", "--readings", "read.csv", "--sr", "second.dcm")
    assert first.code == 0, first.err
    written = read_report(tmp_path / "second.dcm")
    assert [lesion.label for lesion in written.lesions] == ["a", "b"] and written.order == 1
    uid = written.lesions[0].tracking_uid
    # The lesions have no UIDs of their own, one is new; a row that runs again still writes the same instance.
    again = samv2(*tracking, "--follow-up", tmp_path / "second", "--readings", "read.csv", "--sr", "again.dcm")
    assert again.code == 0, again.err
    assert len({str(pydicom.dcmread(tmp_path / name).SOPInstanceUID) for name in ("second.dcm", "again.dcm")}) == 1
    (tmp_path / "read.csv").write_text(
        "label,study,diameter_mm,state\na,1,4.5,\nb,1,,vanished\nn,1,8,\nfar,1,,vanished\n"
    )
    arguments = [*tracking, "--follow-up", tmp_path / "third", "--report", "r.json", "--recist", "recist.csv"]
    arguments[arguments.index("--baseline") + 1] = tmp_path / "second"
    arguments[arguments.index("--lesions") + 1] = "second.dcm"
    second = samv2(*arguments, "--readings", "read.csv", "--sr", "third.dcm")
    assert second.code == 0, second.err
    report = read_report(tmp_path / "third.dcm")
    assert report.order == 2 and report.lesions[0].tracking_uid == uid
    told = {label: [(r.order, r.state, r.long_mm) for r in past.readings] for label, past in report.past.items()}
    assert told["a"] == [(0, "present", 12.0), (1, "present", 9.0), (2, "present", 4.5)]
    assert told["b"] == [(0, "present", 11.0), (1, "vanished", 0.0), (2, "vanished", 0.0)]
    assert told["n"] == [(1, "present", 7.0), (2, "present", 8.0)]
    points = read_json(tmp_path / "r.json")["recist"]["time_points"]
    assert [point["sum_mm"] for point in points] == [32.0, 9.0, 4.5] and points[2]["nadir_mm"] == 9.0
    assert points[2]["overall"] == "PD" and points[2]["new"] == ["n"]
    other = samv2(*tracking, "--follow-up", scans / "query.nii.gz", "--sr", "x.dcm")
    assert other.code == 3 and "is no DICOM folder" in other.err and not (tmp_path / "x.dcm").exists()


def test_a_servers_masks_become_sizes_and_sums(samv2, scans, tracking, tmp_path):
    """Point out, mask back: both axes and the volume of a ball of 8 mm radius, in table, sums and report."""
    pytest.importorskip("nnInteractive.inference.remote", reason="nninteractive-client is not installed")
    follow_up = s.read_volume(scans / "query.nii.gz")
    place = np.add(INSIDE_LPS["a"], SHIFT_LPS)
    z, y, x = np.indices(follow_up.array.shape)
    lps = follow_up.grid.to_lps(np.stack([x, y, z], axis=-1).reshape(-1, 3))
    array = np.array(follow_up.array)
    array[(np.linalg.norm(lps - place, axis=1) <= 8.0).reshape(array.shape)] = 2000
    s.write_volume(s.Volume(array, follow_up.ijk_to_lps, modality="ct"), tmp_path / "ball.nii.gz")
    options = ("--recist", "recist.csv", "--report", "r.json")
    with serving(1500) as (address, asked):
        ended = samv2(*tracking, "--follow-up", tmp_path / "ball.nii.gz", "--segment-with", address, *options)
    assert ended.code == 0, ended.err
    assert "follow-up 1: 1 of 2 places segmented" in ended.out and asked.count("/add_point_interaction") == 2
    row = rows_of(tmp_path / "out.csv")["a", 1]
    assert float(row["diameter_mm"]) == pytest.approx(16.0, abs=4.0)  # 2 mm voxels at both ends
    report = read_json(tmp_path / "r.json")
    finding = next(item for item in report["findings"] if (item["label"], item["study"]) == ("a", 1))
    assert finding["state"] == "present" and finding["short_mm"] == pytest.approx(16.0, abs=4.0)
    assert finding["volume_ml"] == pytest.approx(4 / 3 * np.pi * 0.8**3, rel=0.1)
    lesion = next(item for item in report["recist"]["lesions"] if item["label"] == "a")
    assert lesion["readings"][1]["counts_mm"] == pytest.approx(float(row["diameter_mm"]), abs=0.01)
    assert (tmp_path / "recist.csv").exists()
    gone = samv2(*tracking, "--follow-up", tmp_path / "ball.nii.gz", "--segment-with", address)
    assert gone.code == 3 and "cannot be used" in gone.err  # nobody answers there any more


def test_wrong_inputs_end_with_3_and_nothing_written(samv2, scans, tracking, tmp_path):
    (tmp_path / "twice.csv").write_text("label,l,p,s\nx,0,0,140\nx,1,0,140\n")
    arguments = list(tracking)
    arguments[arguments.index("--lesions") + 1] = "twice.csv"
    ended = samv2(*arguments, "--follow-up", scans / "query.nii.gz")
    assert ended.code == 3 and [line.split(":")[0] for line in ended.errors] == ["error", "remedy"]
    assert "same label" in ended.err and not (tmp_path / "out.csv").exists()


def test_batch_runs_every_row_and_resumes_what_failed(samv2, scans, tmp_path):
    table = tmp_path / "studies.csv"
    points, scan = scans / "points.csv", scans / "template.nii.gz"
    good, bad = f"good,{scan},{scans / 'query.nii.gz'},{points}", f"bad,{scan},no.nii,{points}"
    table.write_text(f"name,template,query,points\n{good}\n{bad}\n")
    command = ["batch", "match", "--table", table, "--output", "out", "--model", scans / "tiny.safetensors"]
    ended = samv2(*command)
    assert ended.code == 6 and "1 of 2 rows failed" in ended.err and "no.nii does not exist" in ended.err
    with open(tmp_path / "out" / "summary.csv", newline="") as stream:
        good_row, bad_row = csv.DictReader(stream)
    assert (good_row["name"], good_row["exit_code"]) == ("good", "0")
    assert (bad_row["name"], bad_row["exit_code"]) == ("bad", "3") and bad_row["remedy"]
    results = tmp_path / "out" / good_row["folder"]
    assert read_points(results / "points.mrk.json").labels == list(INSIDE_LPS)
    with open(tmp_path / "out" / "results.csv", newline="") as stream:
        assert [row["label"] for row in csv.DictReader(stream)] == list(INSIDE_LPS)
    written = (results / "report.json").stat().st_mtime_ns
    again = samv2(*command, "--resume")
    assert again.code == 6 and "1 of 2 rows are done already" in again.out
    assert (results / "report.json").stat().st_mtime_ns == written
    told = samv2("batch", "status", "out")
    assert told.code == 0 and "not running: 2 of 2 rows; 1 failed" in told.out and "bad: " in told.out
