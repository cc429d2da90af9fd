"""A dry run knows of a file what its header tells, and looks at a shared one once."""

from __future__ import annotations

import gzip

import pytest

from SAMv2Core.batch.check import Inputs
from SAMv2Core.batch.table import COMMANDS, Row
from SAMv2Core.io.volume import write_volume
from Testing.samples.embedding_samples import torso


def row(*inputs) -> Row:
    return Row("one", "", [], [(column, str(path)) for column, path in inputs], [])


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nrrd", "scan.mha"])
def test_good_files_are_good_and_shared_ones_are_looked_at_once(tmp_path, name):
    write_volume(torso(), tmp_path / name)
    (tmp_path / "points.csv").write_text("label,l,p,s\na,0,0,140\n")
    inputs = Inputs(COMMANDS["match"])
    for _ in range(3):
        found = row(("template", tmp_path / name), ("query", tmp_path / name), ("points", tmp_path / "points.csv"))
        assert inputs.problem_of(found) is None
    assert inputs.n_files == 2


def test_what_the_header_tells_is_told(tmp_path):
    write_volume(torso(), tmp_path / "whole.nii.gz")
    raw = gzip.decompress((tmp_path / "whole.nii.gz").read_bytes())
    (tmp_path / "short.nii").write_bytes(raw[:1000])
    (tmp_path / "text.nrrd").write_text("no volume")
    (tmp_path / "empty.nii").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "points.csv").write_text("label,l,p,s\na,1,,3\n")
    inputs = Inputs(COMMANDS["match"])
    for column, name, told in (
        ("query", "short.nii", "truncated"),
        ("query", "text.nrrd", "cannot be read"),
        ("query", "empty.nii", "empty file"),
        ("query", "folder", "empty folder"),
        ("query", "no.nii", "does not exist"),
        ("points", "points.csv", "only some of its coordinates"),
    ):
        problem = inputs.problem_of(row(("template", tmp_path / "whole.nii.gz"), (column, tmp_path / name)))
        assert problem is not None and told in problem.cause and name in problem.cause and problem.remedy
