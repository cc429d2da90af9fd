"""The CT-MR benchmarks: what is kept between runs, what is counted, the simulated contrasts."""

import json

import numpy as np
import pytest

from SAMv2Core.embedding.load import load_model
from SAMv2Core.geometry.grid import Grid, transform_points
from SAMv2Core.io.resample import crop_to
from SAMv2Core.io.volume import Volume, read_volume
from SAMv2Core.registration.deformable import Deformation
from SAMv2Core.registration.tissue import tissue_image
from Testing.benchmarks import ctmr, ctmr_deformable, ctmr_matching
from Testing.benchmarks.calibration import between
from Testing.benchmarks.ctmr import Case, Trial
from Testing.samples.limb_phantom import limb


def trial(method="ours", tre=4.0, status="registered", draw=0, mr="a", version="1"):
    return Trial(
        method, "a", mr, "whole", draw, tre if mr == "a" else None, 50.0, status, 2.0, 1.0, 1.5, {}, 1.9, version
    )


def test_the_table_counts_errors_calls_and_other_patients():
    trials = [trial(tre=tre, draw=n) for n, tre in enumerate((2.0, 4.0, 16.0))]
    trials += [trial(tre=30.0, status="uncertain", draw=3)]
    trials += [trial(mr="b", status=status) for status in ("registered", "uncertain", "failed", "failed")]
    (row,) = ctmr.summarize(trials)
    assert row["n"] == 4 and row["median_mm"] == 10.0 and row["above_20"] == 0.25
    assert row["registered"] == 0.75 and row["of_these_15"] == pytest.approx(2 / 3)
    assert row["swapped_not_registered"] == 0.75
    assert "| whole | ours | 4 | 10.0 mm |" in ctmr.to_markdown([row])
    assert "| whole | ours | 10.0 mm |" in ctmr.pairs_to_markdown(trials)


def test_errors_at_bone_are_those_of_points_that_the_mr_shows():
    mr = Volume(np.zeros((20, 30, 30), np.int16), np.diag([2.0, 2.0, 4.0, 1.0]))
    motion = np.eye(4)
    motion[:3, 3] = (100.0, 0.0, -30.0)
    moved = Volume(mr.array, motion @ mr.ijk_to_lps)
    placed = np.array([[10.0, 20.0, 30.0], [40.0, 20.0, 50.0], [30.0, 50.0, 10.0], [10.0, 20.0, 200.0]])
    ct = placed + [0.0, 4.0, 3.0]  # so the authors' alignment, the identity, is 5 mm off
    ct[3] += 500.0  # beyond the MR: counts for nobody
    off = np.eye(4)
    off[:3, 3] = motion[:3, 3] - [0.0, 4.0, 3.0] + [7.0, 0.0, 0.0]
    assert ctmr.bone_errors((ct, placed), moved, motion, off) == pytest.approx((7.0, 5.0))
    assert ctmr.bone_errors((ct[1:], placed[1:]), moved, motion, off) == (None, None)  # only two are shown
    assert ctmr.bone_errors(None, moved, motion, off) == (None, None)


def test_the_table_at_bone_counts_what_is_right_by_the_points():
    own = [
        trial(draw=n, status=status)._replace(mr=mr, bone_mm=bone, authors_bone_mm=6.0)
        for n, (mr, bone, status) in enumerate(
            [("a", 2.0, "registered"), ("b", 4.0, "uncertain"), ("c", 30.0, "registered"), ("c", 8.0, "registered")]
        )
    ]
    ours, authors = ctmr.at_bone([*own, trial(draw=9)])
    assert (ours["n"], ours["pairs"], ours["median_mm"], ours["above_20"]) == (4, 3, 6.0, 0.25)
    assert ours["registered_of_right"] == pytest.approx(2 / 3) and ours["right_of_registered"] == pytest.approx(2 / 3)
    assert ours["bounds"][0] < 6.0 < ours["bounds"][1]
    assert (authors["method"], authors["median_mm"], authors["registered_of_right"]) == (ctmr.AUTHORS, 6.0, None)
    assert "| whole | ours | 3 | 4 | 6.0 (" in ctmr.at_bone_to_markdown([ours, authors])


def test_finished_trials_are_read_and_a_cut_line_is_left_out(tmp_path):
    path = tmp_path / "trials.jsonl"
    lines = [json.dumps(one._asdict()) for one in (trial(), trial("ants, MR fixed", version=""))]
    path.write_text("\n".join([*lines, lines[0][:40]]))
    found = ctmr.finished_trials(str(path))
    assert [one.key for one in found] == [trial().key, trial("ants, MR fixed", version="").key]
    assert ctmr.finished_trials(str(tmp_path / "none")) == []


def test_only_trials_of_this_code_and_these_weights_are_taken(tmp_path, monkeypatch, capsys):
    for name in ("a_ct", "a_mr"):
        (tmp_path / "ctmr" / "val").mkdir(parents=True, exist_ok=True)
        (tmp_path / "ctmr" / "val" / f"{name}.nii.gz").touch()
    path = tmp_path / "trials.jsonl"
    path.write_text(
        "".join(json.dumps(trial(tre=tre, version=v)._asdict()) + "\n" for tre, v in ((9.0, "old"), (3.0, "new")))
    )
    monkeypatch.setattr(ctmr, "code_version", lambda model: "new")
    ctmr.main(["--data", str(tmp_path), "--trials", str(path), "--table-only", "--methods", "ours"])
    assert "| whole | ours | 1 | 3.0 mm |" in capsys.readouterr().out


def test_the_version_changes_with_code_but_not_with_comments(tmp_path, monkeypatch):
    class Weights:
        class info:
            sha256 = "ab"

    monkeypatch.setattr(ctmr, "model_of", lambda name: Weights)
    monkeypatch.setattr(ctmr, "REGISTERING", ("part",))
    monkeypatch.setattr(ctmr.SAMv2Core, "__file__", str(tmp_path / "__init__.py"))
    versions = []
    for text in ('"""One."""\nx = 1\n', '"""Two."""\nx = 1  # more\n', '"""One."""\nx = 2\n'):
        (tmp_path / "part.py").write_text(text)
        versions.append(ctmr.code_version("any"))
    assert versions[0] == versions[1] != versions[2]


def test_an_mr_is_moved_by_its_header_alone(monkeypatch):
    monkeypatch.setattr(ctmr, "scan", lambda *_: limb("mr"))
    moved, motion = ctmr.moved_mr(Case("", "a", "a", "40 %", 3))
    again, _ = ctmr.moved_mr(Case("", "a", "a", "40 %", 3))
    n = limb("mr").array.shape[0]
    assert moved.array.shape[0] == round(0.4 * n) and np.array_equal(moved.ijk_to_lps, again.ijk_to_lps)
    assert np.linalg.norm(motion - np.eye(4)) > 1
    back = np.linalg.inv(motion) @ moved.ijk_to_lps
    first = np.rint(limb("mr").grid.to_ijk(back[:3, 3][None])[0]).astype(int)[2]
    assert np.array_equal(moved.array, limb("mr").array[first : first + len(moved.array)])


def test_simulated_contrasts_look_otherwise_and_lie_where_they_say():
    t1 = limb("mr")
    other, motion = ctmr_matching.other_contrast(t1, "fat-suppressed", 0)
    points = ctmr_matching.some_of(ctmr_matching.body_points(t1, "mr"), 400, 0)
    ijk = np.rint(other.grid.to_ijk(transform_points(motion, points))).astype(int)
    kept = np.all((ijk >= 0) & (ijk < other.grid.size_ijk), axis=1)
    seen = other.array[tuple(ijk[kept].T[::-1])]
    signal = t1.array[tuple(np.rint(t1.grid.to_ijk(points[kept])).astype(int).T[::-1])]
    assert kept.sum() > 200
    # The phantom's fat has a T1 signal of 980 and is dark here, its muscles of 380 and 430 are not.
    assert np.median(seen[signal > 800]) < 0.5 * np.median(seen[(signal > 300) & (signal < 500)])


def test_a_ct_as_mr_lies_where_it_says_and_shows_bone_dark():
    ct = limb("ct")
    shown, motion = ctmr_matching.torso_as_mr(ct, 0)
    points = ctmr_matching.body_points(ct, "ct")
    ijk = np.rint(shown.grid.to_ijk(transform_points(motion, points))).astype(int)
    kept = np.all((ijk >= 0) & (ijk < shown.grid.size_ijk), axis=1)
    signal = shown.array[tuple(ijk[kept].T[::-1])]
    hu = ct.array[tuple(np.rint(ct.grid.to_ijk(points[kept])).astype(int).T[::-1])]
    assert shown.modality == "mr" and (hu > 900).sum() > 20
    # Compact bone is darker than every soft tissue in all curves, which differ in how bright fat and muscle are.
    assert np.median(signal[hu > 900]) < 0.5 * np.median(signal[(hu > -150) & (hu < 150)])


def test_matching_between_contrasts_of_a_real_knee(shared):
    """T1 against a simulated fat-suppressed scan; by chance 24 places of this body would be some 60 mm off."""
    whole = read_volume(shared / "data/ctmr/val/STS_010_mr.nii.gz")
    size = [int(n) for n in whole.grid.size_ijk]
    t1 = crop_to(whole, {"ijk_min": [0, 0, size[2] - size[2] // 3], "ijk_max": [n - 1 for n in size]})
    other, motion = ctmr_matching.other_contrast(t1, "fat-suppressed", 0)
    model = load_model("lite-ctmr")
    points = ctmr_matching.some_of(ctmr_matching.body_points(t1, "mr"), 24, 0)
    points = points[other.grid.contains(transform_points(motion, points))]
    embeddings = model.embed(t1, "mr"), model.embed(other, "mr")
    truth = transform_points(motion, points)
    found = list(between("fat-suppressed", ("knee", "knee"), *embeddings, points, truth))
    (row, _) = ctmr_matching.contrast_rows(found)
    assert (row["method"], row["n"]) == ("nearest", len(points)) and row["median_mm"] < 10


def test_agreement_is_highest_where_both_scans_show_the_same():
    fixed, moving = tissue_image(limb("mr", (-50.0, 60.0), half_width_mm=70.0)), tissue_image(limb("ct"))
    points = ctmr_deformable.lattice_points(fixed)
    right = ctmr_deformable.agreement(fixed, moving, points)
    wrong = ctmr_deformable.agreement(fixed, moving, points + [12.0, 0.0, 0.0])
    assert right["dice"] > 0.95 > wrong["dice"] + 0.03 and right["information"] > wrong["information"] + 0.1


def test_points_go_through_field_and_matrix_as_in_itk():
    rng = np.random.default_rng(0)
    turned = np.eye(4)
    turned[:2, :2], turned[:3, 3] = [[0.0, -1.0], [1.0, 0.0]], (5.0, -3.0, 20.0)
    grid = Grid((6, 7, 8), np.diag([2.0, 2.0, 2.0, 1.0]))
    deformation = Deformation(turned, rng.normal(0, 1, (6, 7, 8, 3)).astype(np.float32), grid, 0.0)
    points = rng.uniform(1, 9, (20, 3))
    np.testing.assert_allclose(
        ctmr_deformable.displaced(deformation, points), deformation.map_points(points), atol=1e-4
    )
