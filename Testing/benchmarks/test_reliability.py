"""A part of the reliability page: every kind right, some ways to write a scan, some damaged files of each format."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from Testing.files.scan import SCAN

pytest.importorskip("pydicom")
pytest.importorskip("nibabel")
from Testing.benchmarks import mutations, reexpressions, reliability, soak


@pytest.mark.parametrize("kind", reliability.KINDS, ids=lambda kind: kind.name)
def test_every_kind_of_troublesome_file(tmp_path, kind):
    is_right, what = reliability.judge(kind, tmp_path)
    assert is_right, what


@settings(max_examples=42, deadline=None, derandomize=True)
@given(st.integers(0, 1 << 30))
def test_a_scan_lies_where_it_lies_however_it_is_written(seed):
    with TemporaryDirectory() as folder:
        found = reexpressions.deviation(SCAN, seed, Path(folder))
    # A NIfTI quaternion keeps three of its four numbers, in float32: up to 5e-4 rad over the phantom's 120 mm.
    assert found.millimeters < 0.1 and found.value == 0, (found.kind, seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(mutations.formats()))
def test_damaged_files_are_values_or_typed_errors(name):
    found = mutations.run_format(name, 20)
    assert found.failures == []
    assert found.read + found.refused == 20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_nothing_grows_with_the_number_of_scans():
    after = soak.soak(12)
    assert after[-1]["files"] == after[5]["files"] and after[-1]["threads"] == after[5]["threads"]
    # Six kept embeddings of these scans would be 36 MiB.
    assert after[-1]["MiB"] - after[5]["MiB"] < 20


def test_the_dependencies_are_named_with_their_licences():
    rows = [line.split(" | ") for line in reliability.dependencies_table()[2:]]
    assert {"| torch", "| numpy", "| scipy", "| simpleitk", "| pydicom"} <= {row[0] for row in rows}
    assert all(len(row) == 3 and row[2] != "- |" for row in rows)
