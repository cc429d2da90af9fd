"""The table of a batch becomes the arguments that a user would have typed."""

from __future__ import annotations

import pytest

from SAMv2Core.batch.table import COMMANDS, Studies, fingerprint, folder_of
from SAMv2Core.cli.batch import _checker
from SAMv2Core.cli.main import build_parser
from SAMv2Core.errors import InputError, UsageError


def studies(tmp_path, text, what="register"):
    (tmp_path / "t.csv").write_text(text)
    return Studies(tmp_path / "t.csv", COMMANDS[what], tmp_path / "out", _checker())


def test_rows_become_arguments_that_the_command_understands(tmp_path):
    lines = ["name,baseline,follow_up,lesions,seed,markups"]
    lines += ["Anna B,b.nii,f1.nii; f2.nii,l.csv,3,all", ",c.nii,d.nii,m.csv,,", ""]
    opened = studies(tmp_path, "\n".join(lines), "track")
    first, second = opened
    args = build_parser().parse_args([*first.arguments, *first.outputs, "--output", "o.csv"])
    assert args.follow_up == [str(tmp_path / "f1.nii"), str(tmp_path / "f2.nii")]
    assert (args.baseline, args.seed) == (str(tmp_path / "b.nii"), 3)
    assert args.markups == f"{folder_of(tmp_path / 'out', 'Anna_B')}/all"
    assert [path for _, path in first.inputs] == [str(tmp_path / n) for n in ("b.nii", "f1.nii", "f2.nii", "l.csv")]
    assert (opened.n_rows, first.name, second.name) == (2, "Anna_B", "row_0002")


@pytest.mark.parametrize("what", COMMANDS)
def test_the_columns_are_options_of_the_command(what):
    command = COMMANDS[what]
    columns = {*command.needed, *command.volumes, *command.points, *command.outputs, *command.other_files}
    parser = next(a for a in build_parser()._actions if a.dest == "command").choices[what]
    assert columns <= {action.dest for action in parser._actions}


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("fixed,moving\n", "no rows"),
        ("fixed,moving\na.nii,\n", "row 1 .line 2.: moving is missing"),
        ("name,fixed,moving\nx,a.nii,b.nii\nX,a.nii,c.nii\n", "row 2 .*name 'X'"),
        ("fixed,moving,transform\na,b,rigid\nc,d,bent\n", "row 2 .*bent"),
        ("fixed,moving,colour\na,b,red\n", "row 1 .*--colour"),
    ],
)
def test_tables_without_sense_are_refused(tmp_path, text, complaint):
    with pytest.raises(InputError, match=complaint):
        studies(tmp_path, text)


def test_outputs_of_the_batch_itself_are_not_for_the_table(tmp_path):
    with pytest.raises(UsageError, match="output"):
        studies(tmp_path, "fixed,moving,output\na.nii,b.nii,t.h5\n")


def test_a_fingerprint_changes_with_what_changes_the_result(tmp_path):
    (row,) = studies(tmp_path, "fixed,moving\na.nii,b.nii\n")
    (seeded,) = studies(tmp_path, "fixed,moving,seed\na.nii,b.nii,1\n")
    (named,) = studies(tmp_path, "name,fixed,moving\nother,a.nii,b.nii\n")
    assert fingerprint(row, []) == fingerprint(named, [])
    assert len({fingerprint(row, []), fingerprint(seeded, []), fingerprint(row, ["--model", "tiny"])}) == 3


def test_rows_are_spread_over_folders(tmp_path):
    names = [f"row_{n:04d}" for n in range(2000)]
    shards = {folder_of(tmp_path, name).split("/")[-2] for name in names}
    assert 250 <= len(shards) <= 256  # of 256 folders 0.1 are expected to stay empty


def test_a_table_of_a_large_archive_is_read(tmp_path):
    """200,000 rows of five addresses and UIDs have some 170 MB; here fewer and longer ones."""
    rows = [f"{n}{'x' * 100_000},a.nii,b.nii" for n in range(680)]
    opened = studies(tmp_path, "\n".join(["name,fixed,moving", *rows]))
    assert (tmp_path / "t.csv").stat().st_size > 64 << 20 and opened.n_rows == 680
