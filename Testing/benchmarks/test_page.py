"""README, cards and Benchmarks.md say what the reports say, and nothing is measured by hand."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest

from SAMv2Core.models.catalogue import model_info
from Testing.benchmarks import page, report
from Testing.benchmarks.report import ROOT


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(text: str) -> Any:
    return [found[2] for found in page.MARKED.finditer(text)]


@pytest.mark.parametrize("document", page.DOCUMENTS)
def test_documents_are_as_their_reports(document):
    assert page.fill(text_of(document)) == text_of(document), "python -m Testing.benchmarks.page"


def test_every_report_is_shown_once():
    assert sorted(blocks(text_of("Resources/Benchmarks.md"))) == report.names()


@pytest.mark.parametrize("document", [name for name in page.DOCUMENTS if not name.endswith("Benchmarks.md")])
def test_errors_stand_in_generated_blocks_only(document):
    """An error in mm with a decimal that somebody typed would not change with its report."""
    typed = page.MARKED.sub("", text_of(document))
    assert not re.findall(r"\d+\.\d mm", typed)


@pytest.mark.parametrize("name", report.names())
def test_reports_tell_what_was_measured_with_what(name):
    kept = report.load(name)
    assert kept.command and kept.machine and kept.table
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", kept.date)
    assert re.fullmatch(r"[0-9a-f]{7,40}", kept.commit), "measure on a commit, not on changed files"


@pytest.mark.parametrize("name", [name for name in report.names() if report.load(name).sha256])
def test_reports_of_other_weights_are_told(name):
    """When bundled weights are replaced, their figures are measured anew or the page says that they are older."""
    kept = report.load(name)
    bundled = model_info(kept.model).sha256
    shown = page.section(kept)
    assert (page.OLDER in shown) == (kept.sha256 != bundled)


def test_a_published_report_changes_the_documents(tmp_path, monkeypatch):
    original = report.load("accuracy")
    monkeypatch.setattr(report, "FOLDER", tmp_path)
    for name in ("aside", "aside-ctmr", "landmarks"):
        source = ROOT / "Testing" / "benchmarks" / "reports" / f"{name}.json"
        (tmp_path / source.name).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    rows = [dict(row) for row in original.rows]
    follow_up = next(row for row in rows if (row["experiment"], row["method"]) == ("simulated follow-up", "default"))
    follow_up.update(median_mm=4.25, median_ci95_mm=[3.5, 5.5])
    report.save("accuracy", "| a | b |", rows, "lite-ct", "0" * 64, "five scans")
    assert "4.2 mm (3.5–5.5)" in page.fill(text_of("README.md"))
    kept = json.loads((tmp_path / "accuracy.json").read_text(encoding="utf-8"))
    assert kept["data"] == "five scans" and not kept["transcribed"]


def test_older_weights_are_told_until_their_figures_are_measured_anew(tmp_path, monkeypatch):
    """New weights, new accuracy: the README takes regions from it, since what was kept aside met other weights."""
    before = {name: report.load(name) for name in ("aside", "aside-ctmr", "accuracy", "landmarks")}
    monkeypatch.setattr(report, "FOLDER", tmp_path)
    monkeypatch.setattr(page, "model_info", lambda name: dataclasses.replace(model_info(name), sha256="f" * 64))
    for name, kept in before.items():
        report.save(name, "\n".join(kept.table), kept.rows, kept.model, kept.sha256)
    assert page.OLDER in page.promises()
    common = {"method": "default", "n": 50, "patients": 5, "found": 0.9, "within_10mm": 0.5, "matched": 0.2}
    common["matched_within_10mm"] = 0.75
    rows = [
        {**common, "experiment": experiment, "median_mm": median, "median_ci95_mm": [median - 1, median + 1]}
        for experiment, median in (
            ("simulated follow-up", 1.25), ("another patient's torso, all but domes", 5.25),
            ("another patient's chest", 2.25), ("another patient's abdomen", 3.25), ("between patients, neck", 4.25),
        )
    ]  # fmt: skip
    report.save("accuracy", "| a |", rows, "lite-ct", "f" * 64)
    assert page.OLDER in page.promises()
    report.save("landmarks", "| a |", before["landmarks"].rows, "lite-ct", "f" * 64)
    shown = page.promises()
    assert page.OLDER not in shown and "kept aside |" not in shown.split("CT and T1 MR")[0]
    assert "2.2 mm (1.2–3.2) | 50 % | 10 % | 50 places, validation scans |" in shown
    assert "Of 10 matches between patients that were called *matched*, 75 %" in shown


def test_places_are_left_out_of_the_command():
    argv = ["x/accuracy.py", "--publish", "--data", "/home/me/data", "--model", "lite-ct", "--report=r.json", "--mind"]
    assert report.command(argv) == "python -m Testing.benchmarks.accuracy --model lite-ct --mind"
