"""The course of a training as table and picture: parts of a run joined, gaps left empty."""

import csv

import pytest

from SAMv2Core.errors import InputError
from Training.engine.learning_curve import joined, main, thinned

pytest.importorskip("matplotlib", reason="matplotlib is not installed")


def log(path, *rows):
    path.write_text("\n".join(["step,name,value", *rows]) + "\n")
    return path


def test_parts_of_a_training_are_joined_and_thinned(tmp_path):
    first = log(
        tmp_path / "a.csv",
        "0,val_ct_median_mm,60.0", "50,loss_coarse,4.0", "50,pairs_per_s,0.5", "100,loss_coarse,2.0",
        "100,pairs_per_s,1.0", "100,val_ct_median_mm,20.0",
    )  # fmt: skip
    second = log(
        tmp_path / "b.csv",
        "0,val_ct_median_mm,20.5", "50,loss_coarse,1.0", "50,loss_fine,nan", "50,pairs_per_s,1.0",
    )  # fmt: skip
    rows = thinned(joined([first, second]))
    assert [row["step"] for row in rows] == [0, 100, 200]
    assert rows[1]["loss_coarse"] == 3.0 and rows[1]["val_ct_median_mm"] == 20.0 and rows[2]["loss_coarse"] == 1.0
    assert rows[1]["hours"] == round((50 / 0.5 + 50) / 3600, 2)
    main([str(first), str(second), "--out", str(tmp_path / "curve")])
    with open(tmp_path / "curve.csv", newline="") as stream:
        table = list(csv.DictReader(stream))
    assert table[0]["val_ct_median_mm"] == "60.0" and table[2]["val_ct_median_mm"] == ""
    assert "loss_fine" not in rows[2] and (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_an_empty_log_is_an_error(tmp_path):
    with pytest.raises(InputError, match="holds no rows"):
        joined([log(tmp_path / "empty.csv")])
