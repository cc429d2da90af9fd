"""The course of a training as table and picture: parts of a run joined, gaps left empty."""

import csv

import pytest

from Training.learning_curve import main, read_log, thinned

pytest.importorskip("matplotlib", reason="matplotlib is not installed")


def test_parts_of_a_run_are_joined_and_thinned(tmp_path):
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    first.write_text("50,1.0,coarse=4.0,coarse_rate=0.1\n100,2.0,coarse=2.0,coarse_rate=0.3\n150,3.0,coarse=9.0\n")
    second.write_text("150,1.0,coarse=1.0,semantic_rate=nan\n")
    rows = thinned(read_log([first, second]))
    assert [row["step"] for row in rows] == [100, 200]
    assert rows[0]["coarse"] == 3.0 and rows[0]["coarse_rate"] == 0.2 and rows[1]["coarse"] == 1.0
    (tmp_path / "v.csv").write_text("step,what,median_mm\n90,landmarks,12.5\n")
    main([str(first), str(second), "--out", str(tmp_path / "curve"), "--validation", str(tmp_path / "v.csv")])
    with open(tmp_path / "curve.csv", newline="") as stream:
        table = list(csv.DictReader(stream))
    assert table[0]["validation_median_mm"] == "12.5" and table[1]["validation_median_mm"] == ""
    assert table[1]["fine"] == "" and (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
