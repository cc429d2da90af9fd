"""The table of a batch becomes the arguments that a user would have typed; done rows are known."""

import json

import pytest

from SAMv2Core.cli.batch import Outcome, is_done, read_table, summary
from SAMv2Core.cli.main import build_parser
from SAMv2Core.errors import InputError, UsageError


def table(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    return tmp_path / "t.csv"


def test_rows_become_arguments_that_the_command_understands(tmp_path):
    lines = ["name,baseline,follow_up,lesions,seed", "Anna B,b.nii,f1.nii; f2.nii,l.csv,3", ",c.nii,d.nii,m.csv,", ""]
    path = table(tmp_path, "\n".join(lines))
    first, second = read_table(path, "track", tmp_path / "out", ["--model", "tiny"])
    args = build_parser().parse_args(first.arguments)
    assert args.follow_up == [str(tmp_path / "f1.nii"), str(tmp_path / "f2.nii")]
    assert (args.baseline, args.seed, args.model) == (str(tmp_path / "b.nii"), 3, "tiny")
    assert args.output == str(tmp_path / "out" / "Anna_B" / "tracks.csv")
    assert second.name == "row_0002" and build_parser().parse_args(second.arguments).seed == 0


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("fixed,moving\n", "no rows"),
        ("fixed,moving\na.nii,\n", "moving is missing"),
        ("name,fixed,moving\nx,a.nii,b.nii\nx,a.nii,c.nii\n", "name 'x'"),
    ],
)
def test_tables_without_sense_are_refused(tmp_path, text, complaint):
    with pytest.raises(InputError, match=complaint):
        read_table(table(tmp_path, text), "register", tmp_path, [])


def test_outputs_are_not_for_the_table(tmp_path):
    with pytest.raises(UsageError, match="output"):
        read_table(table(tmp_path, "fixed,moving,output\na.nii,b.nii,t.h5\n"), "register", tmp_path, [])


def test_a_row_is_done_when_it_ended_well_with_the_same_arguments(tmp_path):
    (row,) = read_table(table(tmp_path, "fixed,moving\na.nii,b.nii\n"), "register", tmp_path, [])
    assert not is_done(row)
    row.folder.mkdir()
    (row.folder / "arguments.json").write_text(json.dumps(row.arguments))
    (row.folder / "report.json").write_text('{"exit_code": 6}')
    assert not is_done(row)
    (row.folder / "report.json").write_text('{"exit_code": 0}')
    assert is_done(row) and not is_done(row._replace(arguments=[*row.arguments, "--seed", "1"]))


def test_the_summary_has_a_line_per_row():
    lines = summary([Outcome("a", 0, ""), Outcome("b", 3, "x, y does not exist.")]).splitlines()
    assert lines == ["name,exit_code,cause", "a,0,", 'b,3,"x, y does not exist."']
