"""Tables and plots of evaluations: every figure in its place, dashes for none, pictures that are pictures."""

from __future__ import annotations

import numpy as np
import pytest

from SAMv2Core.errors import UsageError
from SAMv2Core.evaluation import baselines, dls_metrics, landmarks, plots, registration, tables
from SAMv2Core.evaluation.dls_files import LesionPair
from SAMv2Core.evaluation.landmarks import Trial

PAIRS = [
    LesionPair(
        key=str(n), source=f"{n}_a.nii.gz", target=f"{n}_b.nii.gz", source_center=None, source_spacing=None,
        target_center=(10.0, 10.0, 10.0), target_spacing=(1.0, 1.0, 2.0), target_box=(5.0, 5.0, 5.0, 10.0, 10.0, 10.0),
        target_diameter_px=12.0 + 20 * n, region="lung" if n else "",
    )
    for n in range(3)
]  # fmt: skip
PREDICTED = np.array([(10.0, 13.0, 12.0), (10.0, 10.0, 20.0), (np.nan,) * 3])  # 5 mm, 20 mm, none


def cells(text: str, first: str) -> list:
    (row,) = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in row.strip("|").split("|")]


def dls_results() -> dict:
    outcome = dls_metrics.judge(PAIRS, PREDICTED)
    return {
        **dls_metrics.summarize(outcome),
        "ci95": dls_metrics.intervals(outcome, [pair.key for pair in PAIRS]),
        "by_size": dls_metrics.by_size(outcome),
        "by_region": dls_metrics.by_region(outcome, [pair.region for pair in PAIRS]),
    }


def test_dls_table():
    text = tables.dls_tables(dls_results())
    assert text.startswith("3 lesion pairs, 2 predicted")
    assert cells(text, "dlt CPM@10mm")[1] == "33.33 %"
    assert cells(text, "MED")[1] == "12.50 ± 7.50 mm"
    assert cells(text, "MED Y")[1] == "1.50 ± 1.50 mm"
    assert cells(text, "lung")[1] == "2" and cells(text, ">= 40 mm")[-1] == "–"
    widths = {line.count("|") for line in text.splitlines() if line.startswith("| figure") or line.startswith("| MED")}
    assert len(widths) == 1


def test_landmark_table():
    trial = Trial("net", "nearest", "t", "q", "apex", True, False, 3.0, "matched", 0.9)
    lines = landmarks.summarize([trial, trial._replace(error_mm=None, status="not_found", label="hilum")])
    text = tables.landmark_tables(lines)
    assert "| net | nearest | all | 2 | 3.0 ± 0.0 | 3.0 | 3.0 | 50 % | 1 | 0 | 1 |" in text
    assert "other patient" not in text  # all pairs are: the row would say the same again
    both = landmarks.summarize([trial, trial._replace(same_patient=True)])
    assert "| net | nearest | other patient | 1 |" in tables.landmark_tables(both)
    assert cells(text, "apex")[1] == "3.0 ± 0.0 (n 1)" and cells(text, "hilum")[1] == "– (n 1)"


def test_registration_table():
    run = {
        "pair": "p", "method": "sitk, fixed = smaller", "error": None, "seconds": 2.25, "peak_memory_mib": 310.4,
        "tre_mm": registration.spread(np.array([2.0, 4.0])), "landmarks": {"a": 2.0, "b": 4.0}, "dice": 0.8765,
        "status": None,
    }  # fmt: skip
    nothing = {"tre_mm": None, "landmarks": {}, "dice": None, "seconds": None, "peak_memory_mib": None}
    failed = {**run, **nothing, "method": "ants", "error": "it gave up"}
    text = tables.registration_tables(registration.summarize([run, failed]))
    assert cells(text, "sitk, fixed = smaller")[1:5] == ["1 of 1", "3.0 ± 1.0", "3.0", "4.0"]
    assert cells(text, "sitk, fixed = smaller")[8:11] == ["0.876", "2.2 s", "310 MiB"]
    assert cells(text, "ants")[1:3] == ["0 of 1", "–"] and cells(text, "ants")[-1] == "it gave up"
    assert cells(text, "b")[1:] == ["4.0", "–"]


def test_plots_are_png_files(tmp_path):
    pytest.importorskip("matplotlib")
    plots.check_matplotlib()
    plots.plot_dls(dls_metrics.judge(PAIRS, PREDICTED), tmp_path / "d.png")
    plots.plot_errors({"a": [1.0, 2.0, 90.0], "b": [3.0], "none": []}, tmp_path / "e.png", "mm")
    plots.plot_errors({}, tmp_path / "f.png", "mm")
    for name in "def":
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_no_matplotlib_is_told_before_the_work(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(UsageError, match="pip install matplotlib"):
        plots.check_matplotlib()
    assert baselines.require("numpy", "numpy") is np
