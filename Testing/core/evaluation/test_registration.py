"""Registration rows: errors by hand, Dice, tables of pairs, and jobs in a process of their own."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest

from SAMv2Core.errors import Cancelled, InputError
from SAMv2Core.evaluation import isolated, registration
from SAMv2Core.evaluation.isolated import Run, run_isolated
from SAMv2Core.evaluation.pair_table import Truth, initial_matrix, read_pairs, read_truth
from SAMv2Core.evaluation.registration import START, Method
from SAMv2Core.io.transforms import write_transform
from SAMv2Core.io.volume import Volume, write_volume
from Testing.samples.embedding_samples import torso

SHIFT = np.array([8.0, -6.0, 10.0])


def shift_matrix(shift) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = shift
    return matrix


@pytest.fixture
def folder(tmp_path):
    """fixed, moving (the same, moved by SHIFT), points and label maps of both, and a table."""
    fixed = torso()
    moving = dataclasses.replace(fixed, ijk_to_lps=shift_matrix(SHIFT) @ fixed.ijk_to_lps)
    labels = np.zeros(fixed.array.shape, np.uint8)
    labels[10:20, 10:20, 10:20] = 1
    for name, volume in (("fixed", fixed), ("moving", moving)):
        write_volume(volume, tmp_path / f"{name}.nii.gz")
        write_volume(Volume(labels, volume.ijk_to_lps), tmp_path / f"{name}_labels.nii.gz")
    points = {"a": np.array([0.0, 0.0, 140.0]), "b": np.array([10.0, -12.0, 150.0])}
    for name, move in (("fixed", 0 * SHIFT), ("moving", SHIFT)):
        rows = [f"{label},{','.join(map(str, point + move))}" for label, point in points.items()]
        (tmp_path / f"{name}.csv").write_text("\n".join(["label,l,p,s", *rows]) + "\n")
    columns = "id,fixed,moving,fixed_keypoints,moving_keypoints"
    table(tmp_path, columns, "p,fixed.nii.gz,moving.nii.gz,fixed.csv,moving.csv")
    return tmp_path


def table(folder, header: str, *rows: str):
    (folder / "pairs.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder / "pairs.csv"


def test_table_and_truth(folder):
    (pair,), unused = read_pairs(folder / "pairs.csv")
    assert pair.key == "p" and pair.fixed == folder / "fixed.nii.gz" and unused == []
    truth = read_truth(pair)
    assert truth.names == ("a", "b")
    np.testing.assert_allclose(truth.moving_lps - truth.fixed_lps, np.tile(SHIFT, (2, 1)))
    np.testing.assert_array_equal(initial_matrix(pair), np.eye(4))


def test_points_without_names_belong_together_by_order(folder):
    for name in ("fixed", "moving"):
        path = folder / f"{name}.csv"
        path.write_text(path.read_text().replace("a,", ",").replace("b,", ","))
    (pair,), _ = read_pairs(folder / "pairs.csv")
    assert read_truth(pair).names == ("point 1", "point 2")
    (folder / "moving.csv").write_text("label,l,p,s\n,1,2,3\n")
    with pytest.raises(InputError, match="2 and 1 keypoints"):
        read_truth(pair)


def test_labels_give_centroids_tops_bottoms_and_dice(folder):
    path = table(
        folder, "fixed,moving,fixed_labels,moving_labels,fixed_mask",
        "fixed.nii.gz,moving.nii.gz,fixed_labels.nii.gz,moving_labels.nii.gz,m.nii.gz",
    )  # fmt: skip
    (pair,), unused = read_pairs(path)
    assert unused == ["fixed_mask"] and pair.key == "1"
    truth = read_truth(pair, {1: "liver"})
    assert truth.names == ("liver", "liver top", "liver bottom")
    row = registration.row_of(pair, Method("m", {}), Run(shift_matrix(SHIFT)), truth, "fixed")
    assert row["tre_mm"]["max"] == pytest.approx(0, abs=1e-9) and row["dice"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("header", "row", "reason"),
    [
        ("fixed,moving", "a.nii,b.nii", "no complete truth"),
        ("fixed,moving,fixed_keypoints", "a.nii,b.nii,a.csv", "no complete truth"),
        ("fixed,fixed_keypoints,moving_keypoints", "a.nii,a.csv,b.csv", "no columns fixed and moving"),
        ("fixed,moving,fixed_keypoints,moving_keypoints", "a.nii,,a.csv,b.csv", "names no moving volume"),
        ("fixed,moving,fixed_keypoints,moving_keypoints,fixed_modality", "a,b,a.csv,b.csv,pet", "no modality 'pet'"),
        ("fixed,moving", ",", "holds no pairs"),
    ],
)
def test_tables_that_do_not_do_are_refused(tmp_path, header, row, reason):
    with pytest.raises(InputError, match=reason):
        read_pairs(table(tmp_path, header, row))


def test_an_id_may_occur_once(folder):
    row = "p,fixed.nii.gz,moving.nii.gz,fixed.csv,moving.csv"
    with pytest.raises(InputError, match="the id p occurs twice"):
        read_pairs(table(folder, "id,fixed,moving,fixed_keypoints,moving_keypoints", row, row))


def test_dice_by_hand():
    one = np.zeros((8, 8, 8), np.uint8)
    other = one.copy()
    one[2:6, 2:6, 2:6], other[2:6, 2:6, 4:8] = 3, 3  # half of each in common
    volumes = [Volume(array, np.diag([2.0, 2.0, 2.0, 1.0])) for array in (one, other)]
    assert registration.mean_dice(*volumes, np.eye(4)) == pytest.approx(0.5)
    assert registration.mean_dice(*volumes, shift_matrix([4.0, 0, 0])) == pytest.approx(1.0)
    assert registration.mean_dice(volumes[0], Volume(np.where(other, 4, 0), np.eye(4)), np.eye(4)) is None


def test_dice_counts_only_what_the_moving_map_shows():
    one = np.zeros((8, 8, 8), np.uint8)
    one[2:6, 2:6, 2:6] = 1
    matrix = np.diag([2.0, 2.0, 2.0, 1.0])
    cropped = matrix.copy()
    cropped[0, 3] = 8.0  # begins with x index 4, in the middle of the label
    found = registration.mean_dice(Volume(one, matrix), Volume(one[:, :, 4:].copy(), cropped), np.eye(4))
    assert found == pytest.approx(1.0)


def test_summary_counts_failures_against_a_method(folder):
    (pair,), _ = read_pairs(folder / "pairs.csv")
    truth = Truth(("a", "b"), np.zeros((2, 3)), np.array([[3.0, 0, 0], [0, 5.0, 0]]))
    ended, failed = Run(np.eye(4), seconds=2.0, peak_memory_mib=100.0), Run(None, "it gave up")
    other = dataclasses.replace(pair, key="q")
    good, bad = (
        registration.row_of(p, Method("m", {}), run, truth, "fixed") for p, run in ((pair, ended), (other, failed))
    )
    (line,) = registration.summarize([good, bad])
    assert (line["finished"], line["pairs"]) == (1, 2)
    assert line["tre_mm"] == {"n": 2, "mean": 4.0, "std": 1.0, "median": 4.0, "max": 5.0}
    assert line["pairs_within"] == {"5mm": 50.0, "10mm": 50.0, "20mm": 50.0}
    assert line["landmarks"] == {"a": 3.0, "b": 5.0}
    assert line["errors"] == ["it gave up"] and line["seconds"] == 2.0 and line["peak_memory_mib"] == 100.0


def test_all_baselines_run_in_both_directions():
    features = [{"kind": "model"}, {"kind": "mind"}]
    methods = registration.methods_of(features, ["samv2", "MIND-SSC"], ["sitk", "ants"], "rigid", 0)
    assert [m.name for m in methods if m.job.get("intensities")] == ["samv2, rigid"]  # as `samv2 register` does it
    assert [m.name for m in methods] == [
        START, "samv2, rigid", "samv2, rigid, matches alone", "MIND-SSC, rigid, matches alone",
        "sitk, fixed = smaller", "sitk, fixed = larger", "ants, fixed = smaller", "ants, fixed = larger",
    ]  # fmt: skip


def job(folder, **changes):
    values = {
        "method": "sitk", "fixed": str(folder / "fixed.nii.gz"), "moving": str(folder / "moving.nii.gz"),
        "initial": np.eye(4).tolist(), "fixed_is_smaller": True, "threads": 1,
    }  # fmt: skip
    return {**values, **changes}


def test_a_job_runs_in_a_process_of_its_own(folder):
    found = run_isolated(job(folder))
    assert found.error == ""
    np.testing.assert_allclose(found.matrix[:3, 3], SHIFT, atol=1.0)
    assert found.seconds > 0 and found.peak_memory_mib > 30
    assert found.details == {"swapped": False}


def test_every_method_starts_from_the_initial_transform(folder):
    start = shift_matrix(SHIFT + 4)
    (folder / "far.nii.gz").write_bytes((folder / "moving.nii.gz").read_bytes())
    found = isolated.perform(job(folder, initial=start.tolist()))
    np.testing.assert_allclose(np.array(found["matrix"])[:3, 3], SHIFT, atol=1.0)
    write_transform(start, folder / "start.tfm")
    path = table(
        folder, "fixed,moving,fixed_keypoints,moving_keypoints,initial_transform",
        "fixed.nii.gz,moving.nii.gz,fixed.csv,moving.csv,start.tfm",
    )  # fmt: skip
    found = registration.evaluate(read_pairs(path)[0], [Method(START, {})])
    assert found["runs"][0]["tre_mm"]["mean"] == pytest.approx(np.linalg.norm([4, 4, 4]))


def test_failures_are_rows(folder):
    assert "no_such.nii.gz does not exist" in run_isolated(job(folder, moving="no_such.nii.gz")).error
    assert "no baseline 'flirt'" in isolated.perform(job(folder, method="flirt"))["error"]
    assert isolated.perform({**job(folder), "fixed_is_smaller": None, "initial": "x"})["matrix"] is None


def test_a_job_that_takes_too_long_is_ended(folder):
    assert "longer than 0.2 s" in run_isolated(job(folder), timeout=0.2).error


def test_cancelling_ends_the_child(folder, monkeypatch):
    children = []
    popen = isolated.subprocess.Popen
    monkeypatch.setattr(isolated.subprocess, "Popen", lambda *a, **k: children.append(popen(*a, **k)) or children[-1])

    def progress(fraction, text):
        raise Cancelled

    with pytest.raises(Cancelled):
        run_isolated(job(folder), progress=progress)
    time.sleep(0.1)
    assert children[0].poll() is not None


def test_a_pair_that_cannot_be_read_does_not_stop_the_others(folder):
    path = table(
        folder, "id,fixed,moving,fixed_keypoints,moving_keypoints", "bad,fixed.nii.gz,none.nii.gz,fixed.csv,moving.csv",
        "good,fixed.nii.gz,moving.nii.gz,fixed.csv,moving.csv",
    )  # fmt: skip
    found = registration.evaluate(read_pairs(path)[0], [Method(START, {})])
    assert [row["pair"] for row in found["runs"]] == ["good"]
    assert found["failures"][0]["pair"] == "bad" and "none.nii.gz" in found["failures"][0]["reason"]
    assert found["runs"][0]["tre_mm"]["mean"] == pytest.approx(np.linalg.norm(SHIFT))
