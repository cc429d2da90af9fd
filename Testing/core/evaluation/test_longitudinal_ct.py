"""The public set's layout, made up: frames that differ, half voxels, unclear links, scans that are missing."""

import math

import numpy as np
import pytest

from SAMv2Core.embedding.model import Model
from SAMv2Core.errors import InputError
from SAMv2Core.evaluation.extractor import Extractor
from SAMv2Core.evaluation.longitudinal_ct import OURS, THEIRS, Placement, read_pairs, run, summarize
from SAMv2Core.io.volume import Volume, write_volume
from Testing.samples.embedding_samples import model_info, small_lite, torso

HEADER = (
    "lesion_id,lesion_type,cog_bl,cog_propagated,cog_backpropagated,cog_fu,img_id_bl,img_id_fu,topology_class,"
    "merged_into,volume_bl,linking_unclear"
)
SHIFT_LPS = np.array([20.0, -10.0, 35.0])
PLACES = {"1": (22, 18, 20), "2": (27, 12, 25)}  # voxels of 2 mm


def text(ijk):
    """A center as the set writes it: half a voxel beyond the index."""
    return " ".join(f"{value + 0.5:g}" for value in ijk)


def row(lesion, bl, fu, propagated, fate="UNCHANGED", unclear="False", volume="4188.8"):
    cells = [lesion, "Lung", bl, propagated, "", fu, "0", "0", fate, "", volume, unclear]
    return ",".join(cells)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """p1: the follow-up is the baseline in another frame; p2: the follow-up is missing."""
    folder = tmp_path_factory.mktemp("longitudinal")
    inputs = folder / "inputsTr"
    inputs.mkdir()
    baseline = torso()
    matrix = baseline.ijk_to_lps.copy()
    matrix[:3, 3] += SHIFT_LPS
    for patient in ("p1", "p2"):
        write_volume(baseline, inputs / f"{patient}_BL_img_00.nii.gz")
    write_volume(Volume(baseline.array, matrix, "follow-up"), inputs / "p1_FU_img_00.nii.gz")
    moved = PLACES  # the same voxels, elsewhere in the world
    rows = [
        row("1", text(PLACES["1"]), text(moved["1"]), text(np.add(moved["1"], (3, 0, 0)))),  # 6 mm off
        row("2", text(PLACES["2"]), text(moved["2"]), "", "MERGING"),
        row("3", text(PLACES["2"]), "", text(moved["2"]), "DISAPPEARING"),
        row("4", "", text(moved["2"]), "", "NEWLYAPPEARING"),
        row("5", text(PLACES["1"]), text(moved["2"]), text(moved["1"]), unclear="True"),
    ]
    (inputs / "p1.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    (inputs / "p2.csv").write_text(
        "\n".join([HEADER, row("1", text(PLACES["1"]), text(PLACES["1"]), text(PLACES["1"]))])
    )
    (folder / "notes.csv").write_text("a,b\n1,2\n")
    return folder


def extractor():
    return Extractor(Model(small_lite(), model_info(), "cpu"))


def test_only_lesions_of_both_scans_with_a_clear_link_are_asked(data):
    pairs = {pair.patient: pair for pair in read_pairs(data)}
    assert list(pairs) == ["p1", "p2"] and [row.lesion for row in pairs["p1"].rows] == ["1", "2"]
    np.testing.assert_allclose(pairs["p1"].rows[0].baseline, PLACES["1"])
    assert pairs["p1"].rows[1].propagated is None and pairs["p1"].rows[1].fate == "merging"
    assert pairs["p2"].follow_up is None and pairs["p2"].baseline is not None


def test_errors_are_in_mm_in_the_follow_ups_frame_and_nothing_is_dropped(data):
    placements, failures, seconds = run(read_pairs(data), extractor(), "track")
    assert [failure["patient"] for failure in failures] == ["p2"] and seconds > 0
    ours, theirs = (summarize(placements, method) for method in (OURS, THEIRS))
    assert ours["n"] == theirs["n"] == 3 and ours["patients"] == 2
    errors = [p.error_mm for p in placements if p.method == OURS]
    assert max(errors[:2]) <= 2.0 and math.isinf(errors[2])  # half a voxel of the lattice
    assert ours["failed_patients"] == 1 and ours["without_place"] == 1 and ours["p95_mm"] is None
    assert ours["beyond"]["25"] == pytest.approx(100 / 3) and ours["median_mm"] <= 2.0
    assert next(p.error_mm for p in placements if p.method == THEIRS) == pytest.approx(6.0)
    assert theirs["without_place"] == 2 and theirs["failed_patients"] == 1 and theirs["median_mm"] is None


def test_quantiles_and_intervals_by_patient():
    errors = [1.0, 2.0, 3.0, 30.0, 60.0, 120.0, 4.0, 5.0, 6.0, math.inf]
    placements = [
        Placement(f"p{n // 2}", str(n), "", OURS, error, error < 100, "", None) for n, error in enumerate(errors)
    ]
    found = summarize(placements, OURS)
    assert found["beyond"] == {"25": 40.0, "50": 30.0, "100": 20.0} and found["median_mm"] == 6.0
    assert found["out_of_bounds"] == 1 and found["without_place"] == 1 and found["failed_patients"] == 0
    low, high = found["ci95"]["median_mm"]
    assert low <= found["median_mm"] and (high is None or high >= found["median_mm"])


def test_other_layouts_of_the_set_are_found(tmp_path):
    """Numbered scans in folders of their own, as others have unpacked it."""
    for side in ("BL", "FU"):
        (tmp_path / f"inputsTr{side}").mkdir()
        (tmp_path / f"inputsTr{side}" / "p_01.nii.gz").touch()
        (tmp_path / f"targetsTr{side}").mkdir()
        (tmp_path / f"targetsTr{side}" / "p_01.nii.gz").touch()
    (tmp_path / "meta").mkdir()
    line = row("1", "1 2 3", "1 2 3", "1 2 3").replace(",0,0,", ",1,1,")
    (tmp_path / "meta" / "p.csv").write_text(f"{HEADER}\n{line}\n")
    (pair,) = read_pairs(tmp_path)
    assert pair.baseline.parent.name == "inputsTrBL" and pair.follow_up.parent.name == "inputsTrFU"


def test_what_is_no_such_set_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a folder"):
        read_pairs(tmp_path / "no")
    with pytest.raises(InputError, match="no table"):
        read_pairs(tmp_path)
    (tmp_path / "p.csv").write_text(f"{HEADER}\n{row('1', '1 2', '1 2 3', '')}\n")
    with pytest.raises(InputError, match="no center"):
        read_pairs(tmp_path)
