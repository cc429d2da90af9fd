"""Every command from its arguments to its files, with a small random network: geometry and files, not accuracy.

The query is the template at another place in the world, so the true answer is the shift; vectors of equal voxels are
equal whatever the weights.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk

import SAMv2Core as s
from SAMv2Core.io.points import read_points
from Testing.end_to_end.conftest import INSIDE_LPS, SHIFT_LPS, read_json, write_points

# The fine lattice has 4 mm voxels; a match between its voxels is exact up to a fraction of one.
TOLERANCE_MM = 1.5

STATES = {"matched", "uncertain", "not_found"}


@pytest.fixture
def match_arguments(scans):
    return [
        "match", "--template", scans / "template.nii.gz", "--query", scans / "query.nii.gz",
        "--model", scans / "tiny.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", [".mrk.json", ".fcsv", ".csv"])
def test_match_keeps_order_and_labels_in_every_format(samv2, scans, match_arguments, tmp_path, suffix):
    points = {"b": INSIDE_LPS["b"], "outside": (500.0, 0.0, 140.0), "a": INSIDE_LPS["a"], "unplaced": (None,) * 3}
    write_points(tmp_path / "points.csv", points)
    ended = samv2(*match_arguments, "--points", "points.csv", "--output", f"out{suffix}", "--report", "r.json")
    assert ended.code == 0, ended.err
    written = read_points(tmp_path / f"out{suffix}")
    assert written.labels == list(points)
    report = read_json(tmp_path / "r.json")
    assert [entry["label"] for entry in report["points"]] == list(points)
    for point, entry in zip(written, report["points"]):
        assert entry["status"] in STATES and 0 <= entry["confidence"] <= 1
        if point.label in INSIDE_LPS:
            expected = np.add(INSIDE_LPS[point.label], SHIFT_LPS)
            np.testing.assert_allclose(point.position_lps, expected, atol=TOLERANCE_MM)
            np.testing.assert_allclose(entry["query"], point.position_lps, atol=1e-5)
            assert f"status={entry['status']}" in point.description
            assert -1 <= entry["similarity"] <= 1 and entry["cycle_error_mm"] >= 0
        else:
            assert (point.position_lps, entry["query"], entry["status"]) == (None, None, "not_found")
    assert "outside" in ended.err and "unplaced" in ended.err
    assert all(label in ended.out for label in points)


def test_two_templates_give_one_answer(samv2, scans, match_arguments, tmp_path):
    """The second template is the query itself, where the points lie elsewhere; one of them has another point, too."""
    moved = {label: np.add(place, SHIFT_LPS) for label, place in INSIDE_LPS.items()}
    write_points(tmp_path / "first.csv", INSIDE_LPS)
    write_points(tmp_path / "second.csv", {"c": moved["a"] + 4, **moved})
    templates = ("--template", scans / "template.nii.gz", scans / "query.nii.gz", *match_arguments[3:])
    ended = samv2("match", *templates, "--points", "first.csv", "second.csv", "--output", "o.csv", "--report", "r.json")
    assert ended.code == 0, ended.err
    found = {row["label"]: row for row in read_json(tmp_path / "r.json")["points"]}
    assert list(found) == ["a", "b", "c"]
    assert [len(row["exemplars"]) for row in found.values()] == [2, 2, 1]
    for label, place in moved.items():
        for row in found[label]["exemplars"]:
            assert row["query"] is None or np.linalg.norm(np.subtract(row["query"], place)) < 2 * TOLERANCE_MM
    refused = samv2("match", *templates, "--points", "first.csv", "--output", "o2.csv")
    assert refused.code == 2 and "2 templates are given with 1 point lists" in refused.err


def test_match_output_is_what_slicer_calls_undefined(samv2, match_arguments, tmp_path):
    write_points(tmp_path / "points.csv", {"a": INSIDE_LPS["a"], "outside": (500.0, 0.0, 140.0)})
    assert samv2(*match_arguments, "--points", "points.csv", "--output", "out.mrk.json").code == 0
    (markup,) = json.loads((tmp_path / "out.mrk.json").read_text())["markups"]
    assert markup["coordinateSystem"] == "LPS"
    assert [point["positionStatus"] for point in markup["controlPoints"]] == ["defined", "undefined"]


def test_match_report_names_everything(samv2, scans, match_arguments, tmp_path):
    ended = samv2(
        *match_arguments, "--points", scans / "points.csv", "--output", "o.csv", "--method", "nearest",
        "--quality", "best", "--threads", "1", "--report", "r.json",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    report = read_json(tmp_path / "r.json")
    assert report["model"]["name"] == "tiny" and len(report["model"]["sha256"]) == 64
    assert report["device"] == "cpu"
    assert report["inputs"]["query"]["size_ijk"] == [44, 36, 40]
    assert report["inputs"]["query"]["modality"] == "ct"
    assert report["inputs"]["query"]["modality_is"] == "decided from its values"
    assert "template: CT (decided from its values)" in ended.out
    assert {"read", "embed template", "embed query", "match", "write"} <= set(report["seconds"])
    assert report["peak_memory_mib"] > 0
    assert report["options"]["method"] == "nearest"
    assert all(entry["fixed_points"] == 0 for entry in report["points"])
    assert report["versions"]["torch"]


def test_similarity_maps_lie_on_the_query(samv2, scans, match_arguments, tmp_path):
    ended = samv2(
        *match_arguments, "--points", scans / "points.csv", "--output", "o.csv", "--similarity-map", "s.nii.gz"
    )
    assert ended.code == 0, ended.err
    for name, label in (("s.nii.gz", "a"), ("s_2_b.nii.gz", "b")):
        volume = s.read_volume(tmp_path / name)
        k, j, i = np.unravel_index(int(volume.array.argmax()), volume.array.shape)
        peak = volume.grid.to_lps(np.array([i, j, k]))
        expected = np.add(INSIDE_LPS[label], SHIFT_LPS)
        assert np.abs(peak - expected).max() <= 4.0  # one voxel of the map
        assert volume.array.min() >= -1.001 and volume.array.max() <= 1.001


def test_no_point_found_is_6_and_everything_is_written(samv2, match_arguments, tmp_path):
    write_points(tmp_path / "air.csv", {"x": (-42.0, -34.0, 140.0), "far": (900.0, 0.0, 0.0)})
    ended = samv2(*match_arguments, "--points", "air.csv", "--output", "o.mrk.json", "--report", "r.json")
    assert ended.code == 6
    assert [line.split(":")[0] for line in ended.errors] == ["error", "remedy"]
    assert read_points(tmp_path / "o.mrk.json").labels == ["x", "far"]
    report = read_json(tmp_path / "r.json")
    assert {entry["status"] for entry in report["points"]} == {"not_found"}
    assert report["exit_code"] == 6 and report["error"]["cause"]


def test_quiet_prints_nothing(samv2, scans, match_arguments):
    ended = samv2(*match_arguments, "--points", scans / "points.csv", "--output", "o.csv", "--quiet")
    assert (ended.code, ended.out, ended.errors) == (0, "", [])


def test_second_run_uses_the_cache(samv2, scans, match_arguments, tmp_path):
    arguments = [*match_arguments, "--points", scans / "points.csv", "--cache", "c", "--log-level", "info"]
    first = samv2(*arguments, "--output", "1.csv")
    second = samv2(*arguments, "--output", "2.csv")
    assert "cache" not in first.err and second.err.count("found in the cache") == 2
    assert (tmp_path / "1.csv").read_bytes() == (tmp_path / "2.csv").read_bytes()


@pytest.mark.parametrize("suffix", [".h5", ".tfm"])
def test_register_writes_a_resampling_transform(samv2, scans, tmp_path, suffix):
    ended = samv2(
        "register", "--fixed", scans / "template.nii.gz", "--moving", scans / "query.nii.gz",
        "--model", scans / "tiny.safetensors", "--output", f"t{suffix}", "--resampled", "moved.nii.gz",
        "--crop", "crop.nii.gz", "--report", "r.json",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    transform = sitk.ReadTransform(str(tmp_path / f"t{suffix}"))
    for point in INSIDE_LPS.values():
        moved = np.array(transform.TransformPoint(point))
        np.testing.assert_allclose(moved, np.add(point, SHIFT_LPS), atol=TOLERANCE_MM)
    report = read_json(tmp_path / "r.json")
    np.testing.assert_allclose(np.array(report["matrix"])[:3, 3], SHIFT_LPS, atol=2 * TOLERANCE_MM)
    assert report["status"] == "registered" and report["transform"] == "rigid"
    assert {"mean", "median", "p95"} == set(report["residual_mm"])
    assert 0 <= report["overlap"] <= 1 and report["inliers"] <= report["points_sampled"]
    fixed, moved = s.read_volume(scans / "template.nii.gz"), s.read_volume(tmp_path / "moved.nii.gz")
    np.testing.assert_allclose(moved.ijk_to_lps, fixed.ijk_to_lps, atol=1e-4)
    inside = (slice(5, -5),) * 3
    # Soft tissue with organs of +-600 HU: half a voxel off would differ by hundreds.
    assert np.median(np.abs(moved.array[inside].astype(float) - fixed.array[inside])) < 60


def test_embed_writes_a_readable_file(samv2, scans, tmp_path):
    from SAMv2Core.embedding.file import load_embedding

    ended = samv2(
        "embed", "--image", scans / "query.nii.gz", "--model", scans / "tiny.safetensors",
        "--output", "e.safetensors", "--report", "r.json", "--cache", "off",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    emb = load_embedding(tmp_path / "e.safetensors")
    assert emb.model == "tiny" and emb.modality == "ct"
    assert np.abs(emb.fine.vectors.float().norm(dim=0).numpy() - 1).max() < 2e-3  # float16
    assert read_json(tmp_path / "r.json")["heads"]["fine"]["shape_czyx"] == list(emb.fine.vectors.shape)


def test_simulate_files_agree_with_each_other(samv2, scans, tmp_path):
    lesions = tmp_path / "lesions.csv"
    lesions.write_text("label,l,p,s,diameter_mm\nnode,4,-3,141,12\n")
    simulating = ("simulate", "--image", scans / "template.nii.gz", "--output", "sim", "--seed", 7)
    ended = samv2(*simulating, "--lesions", lesions)
    assert ended.code == 0, ended.err
    (lesion,) = read_json(tmp_path / "sim" / "truth.json")["points"]
    field = sitk.ReadImage(str(tmp_path / "sim" / "displacement.nii.gz"))
    index = field.TransformPhysicalPointToIndex(lesion["baseline"])
    # The field is sampled at voxel centers, at most 1 mm from the lesion, and smooth.
    vector = np.subtract(lesion["follow_up"], lesion["baseline"])
    np.testing.assert_allclose(field[index], vector, atol=0.5)
    table = read_points(tmp_path / "sim" / "points.csv")
    assert table.points[0].position_lps == (4.0, -3.0, 141.0) and table.points[0].extra["diameter_mm"] == "12"
    assert s.read_volume(tmp_path / "sim" / "follow_up.nii.gz").array.std() > 100


def test_simulate_makes_the_changes_asked_for(samv2, scans, tmp_path):
    changes = ("--breathing", 8, "--weight", 9, "--slice-thickness", 4, "--kernel", "soft", "--table")
    simulating = ("simulate", "--image", scans / "template.nii.gz", "--output", "sim", *changes)
    ended = samv2(*simulating, "--field-of-view", 1, 1, 0.6)
    assert ended.code == 0, ended.err
    truth = read_json(tmp_path / "sim" / "truth.json")
    assert truth["options"]["breathing_mm"] == 8 and truth["options"]["table"] is True
    assert 0 < abs(truth["drawn"]["weight_mm"]) <= 9 and 0.8 <= truth["drawn"]["blur_mm"] <= 1.5
    before = s.read_volume(scans / "template.nii.gz").grid
    after = s.read_volume(tmp_path / "sim" / "follow_up.nii.gz").grid
    assert after.spacing_ijk_mm[2] == pytest.approx(4.0, abs=1e-3)
    assert after.shape_zyx[0] * 4.0 <= 0.65 * before.shape_zyx[0] * before.spacing_ijk_mm[2]
    assert samv2(*simulating, "--field-of-view", 2, 1, 1).code == 2


def test_simulate_follows_the_labels_of_a_segmentation(samv2, scans, tmp_path):
    baseline = s.read_volume(scans / "template.nii.gz")
    labels = np.zeros(baseline.array.shape, np.uint8)
    labels[20, 18, 22] = labels[25, 15, 20] = 1  # a binary one with two parts
    s.write_volume(s.Volume(labels, baseline.ijk_to_lps), tmp_path / "seg.nii.gz")
    simulating = ("simulate", "--image", scans / "template.nii.gz", "--output", "sim")
    assert samv2(*simulating, "--lesions", "seg.nii.gz").code == 0
    found = [point["baseline"] for point in read_json(tmp_path / "sim" / "truth.json")["points"]]
    np.testing.assert_allclose(found, baseline.grid.to_lps(np.array([[22, 18, 20], [20, 15, 25]])), atol=1e-4)


def test_models_imports_lists_and_verifies(samv2, scans):
    imported = samv2("models", "import", scans / "tiny.safetensors", "--as", "mine", "--json")
    assert imported.code == 0, imported.err
    listed = json.loads(samv2("models", "list", "--json").out)["models"]
    (mine,) = [model for model in listed if model["name"] == "mine"]
    assert mine["state"] == "ready" and {"sam", "sampp", "crosssam"} <= {model["name"] for model in listed}
    assert "mine" in samv2("models", "list").out
    verified = samv2("models", "verify", "mine", "--json")
    assert verified.code == 0 and len(json.loads(verified.out)["result"]["sha256"]) == 64
    assert samv2("models", "info", "sampp").code == 0
    assert samv2("models", "info", "no-such-model").code == 4


def test_doctor_says_what_is_here(samv2, tmp_path):
    ended = samv2("doctor", "--json", "--report", "r.json")
    content = json.loads(ended.out)
    assert ended.code == (0 if content["usable"] else 4), ended.err
    assert content["torch"]["devices"][0] == {**content["torch"]["devices"][0], "name": "cpu", "works": True}
    assert read_json(tmp_path / "r.json")["packages"]["numpy"] == np.__version__
