"""The demo's words never claim more than its numbers."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from SAMv2Core.demo import table
from SAMv2Core.demo.cases import Case, Finding
from SAMv2Core.demo.page import page


def finding(label, status="matched", query=(1.0, 2.0, 3.0), truth=None, kind="", in_view=None):
    match = SimpleNamespace(
        query_lps=None if status == "not_found" else np.array(query),
        similarity=float("nan") if status == "not_found" else 0.9,
        cycle_error_mm=None if status == "not_found" else 2.0,
        fixed_points=10,
        confidence=0.5,
        status=status,
        reason="",
    )
    return Finding(label, np.zeros(3), "bone", match, None if truth is None else np.array(truth), kind, in_view)


def case_of(*findings):
    scan = SimpleNamespace(name="A <b>", seen="never seen in training", volume=SimpleNamespace(source="a.nii"))
    return Case("pair", "A to B & C", scan, scan, findings)


def test_verdict_counts():
    text = table.verdict(
        case_of(
            finding("near", truth=(1.0, 2.0, 7.0), kind="by eye", in_view=True),
            finding("far", truth=(1.0, 2.0, 23.0), kind="by eye", in_view=True),
            finding("missed", "not_found", truth=(0.0, 0.0, 0.0), kind="by eye", in_view=True),
            finding("invented", "uncertain", in_view=False),
            finding("refused", "not_found", in_view=False),
        )
    )
    assert "2 matched, 1 uncertain, 2 not found of 5" in text
    assert "1 of 3 places read by eye" in text  # a missed landmark counts against
    assert "1 of 2 landmarks outside of the scan rightly not found" in text
    assert "true error" not in text


def test_exact_truth_gives_median_and_largest():
    cases = case_of(*(finding(str(n), truth=(1.0, 2.0, 3.0 + n), kind="exact") for n in (1, 2, 6)))
    assert "true error median 2.0 mm, largest 6.0 mm" in table.verdict(cases)


def test_rows_have_columns_only_for_what_is_known():
    plain = table.case_rows(case_of(finding("p")))
    known = table.case_rows(case_of(finding("p", truth=(1, 2, 3), kind="exact", in_view=True)))
    assert len(plain[0]) == 6 and "in this scan" not in plain[0]
    assert known[0][-2:] == ["true error", "in this scan"] and known[1][-2:] == ["0.0 mm", "yes"]


def test_table_is_aligned():
    lines = table.format_rows([["point", "status", "x"], ["a", "matched", "1.0"], ["longer", "-", "10.0"]]).splitlines()
    assert lines[1].startswith("------  -------  ----") and len({len(line) for line in lines}) == 1


def test_report_data_is_valid_json_without_nan():
    data = table.case_data(case_of(finding("gone", "not_found", in_view=False), finding("here")))
    text = json.dumps(data, allow_nan=False)
    assert json.loads(text)["points"][0]["query"] is None
    assert json.loads(text)["points"][0]["similarity"] is None
    assert json.loads(text)["points"][1]["query"] == [1.0, 2.0, 3.0]


def test_page_escapes_names():
    html = page("T", ["lead"], [case_of(finding("x & y"))], [], ["note"])
    assert "A &lt;b&gt;" in html and "x &amp; y" in html and "<b>" not in html
    assert "http" not in html  # nothing is loaded from elsewhere


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (float("nan"), "-"), (1.25, "1.2")])
def test_numbers(value, text):
    assert table.number(value) == text
