"""``samv2 evaluate`` from its arguments to its report, with a small random network on scans that were only moved.

Only the first test starts a process: the others call the command's function, which saves loading torch each time.
"""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from SAMv2Core.cli.main import main
from SAMv2Core.io.volume import Volume, write_volume
from Testing.end_to_end.conftest import INSIDE_LPS, SHIFT_LPS, environment, read_json, write_points
from Testing.samples.embedding_samples import torso

SHARES = {"dlt": ("cpm_10mm", "cpm_radius"), "tlt": ("cpm_10mm", "cpm_radius"), "plain": ("cpm_10mm", "in_box")}
NAMES = ("000001_01_01_001-040.nii.gz", "000001_02_01_001-040.nii.gz")
# (x, y, z) as DLS counts: z from the head down. Two lesions of a 2 mm scan of 44 x 36 x 40 voxels.
CENTERS = {"1": (21.5, 17.5, 19.5), "2": (26.5, 11.5, 14.5)}


@pytest.fixture
def evaluate(cache, tmp_path, monkeypatch):
    """``samv2 evaluate`` in this process, in ``tmp_path``; the exit code."""
    for name, value in environment(cache).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: main(["evaluate", *map(str, arguments)])


def lesion_pair(center, template: str, query: str, shift=(0, 0, 0)) -> dict:
    target = np.add(center, shift).tolist()
    return {
        "source": template, "target": query, "source center": list(center), "target center": target,
        "source box": [*np.subtract(center, 4).tolist(), 8, 8, 8],
        "target box": [*np.subtract(target, 4).tolist(), 8, 8, 8],
        "source spacing": [2, 2, 2], "target spacing": [2, 2, 2], "target recist diameter": [8.0, 6.0],
    }  # fmt: skip


@pytest.fixture
def dls(tmp_path):
    """Annotations of two lesions, both ways, on a scan and itself; predictions of three of the four."""
    entries = {}
    for key, center in CENTERS.items():
        entries[f"{key}a"] = lesion_pair(center, *NAMES)
        entries[f"{key}b"] = lesion_pair(center, *NAMES[::-1])
    (tmp_path / "a.json").write_text(json.dumps(entries))
    rows = ["1a,21.5,17.5,22.5", "1b,21.5,17.5,19.5", "2a,26.5,21.5,14.5"]  # 6, 0 and 20 mm off
    (tmp_path / "p.csv").write_text("\n".join(["id,x,y,z", *rows]) + "\n")
    return tmp_path


def test_dls_of_a_file(samv2, dls):
    ended = samv2(
        "evaluate", "dls", "--annotations", "a.json", "--predictions", "p.csv", "--report", "r.json", "--table", "t.md"
    )
    assert ended.code == 0, ended.err
    report = read_json(dls / "r.json")
    assert (report["n"], report["n_predicted"]) == (4, 3)
    # r = 8 mm; the box's diagonal is 13.9 voxels; 6 and 0 mm are hits, 20 mm and none are misses.
    assert (report["dlt"]["cpm_10mm"], report["dlt"]["cpm_radius"]) == (50.0, 50.0)
    assert report["dlt"]["med_std_mm"] == pytest.approx(np.std([6, 0, 20]))
    assert report["dlt"]["med_xyz_mm"] == pytest.approx([0, 20 / 3, 2.0])
    assert report["dlt"]["med_mm"] == pytest.approx(26 / 3)
    assert report["tlt"] == {"cpm_10mm": 50.0, "cpm_radius": 50.0}
    assert (report["plain"]["cpm_10mm"], report["plain"]["in_box"]) == (50.0, 50.0)
    assert {evaluator: set(SHARES[evaluator]) <= set(report["ci95"][evaluator]) for evaluator in SHARES} == {
        "dlt": True, "tlt": True, "plain": True
    }  # fmt: skip
    assert "dlt CPM@10mm" in ended.out and "dlt CPM@10mm" in (dls / "t.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        ("dls --annotations a.json", 2, "--predictions"),
        ("dls --images .", 2, "--images needs --annotations"),
        ("dls --predictions p.csv", 3, "by id only"),
        ("dls --annotations a.json --images .", 3, "none of the 2 scans"),
        ("dls --annotations p.csv --predictions p.csv", 3, "not valid JSON"),
        ("registration --pairs p.csv --baselines sitk,flirt", 2, "flirt"),
        ("registration --pairs p.csv", 3, "no columns fixed and moving"),
        ("landmarks --template . --query . --no-model", 2, "nothing to evaluate"),
        ("landmarks --template . --query . --points-from labels", 3, "no scan with landmarks"),
        ("landmarks --template none --query .", 3, "not a folder"),
    ],
)
def test_what_makes_no_sense_is_refused(evaluate, dls, capsys, arguments, code, reason):
    assert evaluate(*arguments.split()) == code
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("stored", ["inferior", "superior"])
def test_dls_on_scans_of_both_orientations(evaluate, scans, dls, stored):
    anatomy = torso()  # from the feet up
    for name, shift in zip(NAMES, ((0, 0, 0), SHIFT_LPS)):
        matrix, array = anatomy.ijk_to_lps.copy(), anatomy.array
        matrix[:3, 3] += shift
        if stored == "inferior":
            array, matrix[2, 3], matrix[2, 2] = array[::-1].copy(), matrix[2, 3] + 2.0 * 39, -2.0
        write_volume(Volume(array, matrix), dls / name)
    code = evaluate(
        "dls", "--annotations", "a.json", "--images", ".", "--model", scans / "tiny.safetensors",
        "--method", "track", "--save-predictions", "own.json", "--report", "r.json",
    )  # fmt: skip
    assert code == 0
    report = read_json(dls / "r.json")
    (orientation,) = report["orientations"]
    assert orientation == {"inferior": "LPI", "superior": "LPS"}[stored]
    assert report["orientations"][orientation]["order"] == "affine"
    assert report["plain"]["cpm_10mm"] == 100.0 and report["failures"] == []
    assert report["model"]["name"] == "tiny" and sum(report["statuses"].values()) == 4
    assert evaluate("dls", "--predictions", "own.json", "--report", "again.json") == 0
    assert read_json(dls / "again.json")["dlt"]["med_mm"] == pytest.approx(report["dlt"]["med_mm"])


def test_dls_lists_what_it_could_not_try(evaluate, scans, dls):
    write_volume(torso(), dls / NAMES[0])
    entries = json.loads((dls / "a.json").read_text(encoding="utf-8"))
    entries["self"] = lesion_pair(CENTERS["1"], NAMES[0], NAMES[0])
    entries["far"] = lesion_pair((21.5, 17.5, 60.0), NAMES[0], NAMES[0])
    (dls / "a.json").write_text(json.dumps(entries))
    code = evaluate(
        "dls", "--annotations", "a.json", "--images", ".", "--model", scans / "tiny.safetensors",
        "--report", "r.json",
    )  # fmt: skip
    assert code == 0
    reasons = {failure["id"]: failure["reason"] for failure in read_json(dls / "r.json")["failures"]}
    assert set(reasons) == {"1a", "1b", "2a", "2b", "far"}
    assert "is not there" in reasons["1a"] and "lies outside" in reasons["far"]
    assert read_json(dls / "r.json")["n_predicted"] == 1


def test_landmarks(evaluate, scans, tmp_path):
    template = torso()
    matrix = template.ijk_to_lps.copy()
    matrix[:3, 3] += SHIFT_LPS
    moved = {label: tuple(np.add(lps, SHIFT_LPS)) for label, lps in INSIDE_LPS.items()}
    cases = {"7_nc": (template, INSIDE_LPS), "8_ce": (dataclasses.replace(template, ijk_to_lps=matrix), moved)}
    for name, (volume, points) in cases.items():
        write_volume(volume, tmp_path / f"{name}.nii.gz")
        write_points(tmp_path / f"{name}.csv", points)
    code = evaluate(
        "landmarks", "--template", ".", "--query", ".", "--model", scans / "tiny.safetensors",
        "--phases", "(?P<patient>[0-9]+)_(?P<phase>nc|ce)", "--report", "r.json",
    )  # fmt: skip
    assert code == 0
    report = read_json(tmp_path / "r.json")
    assert (report["pairs"], report["n"]) == (2, 12)  # two directions, two landmarks, three methods
    assert [(line["features"], line["method"]) for line in report["lines"]] == [
        ("tiny", "nearest"), ("tiny", "fixed-point"), ("tiny", "default")
    ]  # fmt: skip
    for line in report["lines"]:
        assert set(line["relations"]) == {"all", "between phases", "other patient"}
        assert line["relations"]["all"]["all"]["max_mm"] < 4.0
        assert {entry["label"] for entry in line["landmarks"]} == set(INSIDE_LPS)


def test_registration_beside_a_baseline(evaluate, scans, tmp_path):
    for name, shift in (("fixed", (0, 0, 0)), ("moving", SHIFT_LPS)):
        write_points(tmp_path / f"{name}.csv", {label: np.add(lps, shift) for label, lps in INSIDE_LPS.items()})
    row = f"{scans / 'template.nii.gz'},{scans / 'query.nii.gz'},fixed.csv,moving.csv"
    (tmp_path / "pairs.csv").write_text(f"fixed,moving,fixed_keypoints,moving_keypoints\n{row}\n")
    code = evaluate(
        "registration", "--pairs", "pairs.csv", "--baselines", "sitk",
        "--model", scans / "tiny.safetensors", "--threads", "1", "--report", "r.json", "--table", "t.md",
    )  # fmt: skip
    assert code == 0
    report = read_json(tmp_path / "r.json")
    lines = {line["method"]: line for line in report["lines"]}
    ours = {"samv2 tiny, rigid", "samv2 tiny, rigid, matches alone"}
    assert set(lines) == ours | {"before", "sitk, fixed = smaller", "sitk, fixed = larger"}
    assert lines["before"]["tre_mm"]["mean"] == pytest.approx(np.linalg.norm(SHIFT_LPS))
    assert lines["samv2 tiny, rigid"]["tre_mm"]["mean"] < 2.0
    for name in set(lines) - {"before"}:
        assert lines[name]["finished"] == 1 and lines[name]["seconds"] > 0 and lines[name]["peak_memory_mib"] > 30
    assert "samv2 tiny, rigid" in (tmp_path / "t.md").read_text(encoding="utf-8")


def test_longitudinal_ct_beside_the_sets_own_points(evaluate, scans, tmp_path):
    """A set of one patient in its layout: two lesions, the set's own registration 4 mm and nowhere."""
    folder = tmp_path / "set" / "inputsTr"
    folder.mkdir(parents=True)
    for side, name in (("BL", "template"), ("FU", "query")):
        (folder / f"p_{side}_img_00.nii.gz").write_bytes((scans / f"{name}.nii.gz").read_bytes())
    grid = torso().grid
    voxels = {label: np.rint(grid.to_ijk(np.array([lps]))[0]) + 0.5 for label, lps in INSIDE_LPS.items()}
    centers = {label: " ".join(f"{value:g}" for value in ijk) for label, ijk in voxels.items()}
    own = " ".join(f"{value:g}" for value in voxels["a"] + (2, 0, 0))
    rows = [f"a,{centers['a']},{own},{centers['a']},0,0,UNCHANGED,False", f"b,{centers['b']},,{centers['b']},0,0,,"]
    header = "lesion_id,cog_bl,cog_propagated,cog_fu,img_id_bl,img_id_fu,topology_class,linking_unclear"
    (folder / "p.csv").write_text("\n".join([header, *rows]) + "\n")
    command = ["longitudinal-ct", "--data", "set", "--model", scans / "tiny.safetensors", "--table", "t.md"]
    assert evaluate(*command, "--report", "r.json") == 0
    found = read_json(tmp_path / "r.json")
    assert (found["n"], found["patients"], found["failed_patients"], found["out_of_bounds"]) == (2, 1, 0, 0)
    assert found["p95_mm"] <= 2.0 and found["beyond"] == {"25": 0.0, "50": 0.0, "100": 0.0} and found["seconds"] > 0
    assert found["set"]["n"] == 2 and found["set"]["without_place"] == 1 and found["set"]["median_mm"] is None
    assert [lesion["error_mm"] for lesion in found["lesions"] if lesion["method"] == "set"] == [4.0, None]
    assert "the set's own registration" in (tmp_path / "t.md").read_text(encoding="utf-8")
    assert evaluate("longitudinal-ct", "--data", tmp_path, "--model", "x", "--report", "s.json") != 0
