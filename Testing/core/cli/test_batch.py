"""Rows become the arguments that a user would have typed, run in this process, and leave results for the journal."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest

from SAMv2Core.cli import common
from SAMv2Core.cli.batch import Task, _shared, run_task
from SAMv2Core.cli.main import main
from SAMv2Core.io.volume import write_volume
from SAMv2Core.models.checkpoints import save_network
from Testing.samples.embedding_samples import small_lite, torso


@pytest.fixture
def studies(tmp_path) -> Path:
    """A scan, points and a small random model."""
    write_volume(torso(), tmp_path / "scan.nii.gz")
    (tmp_path / "points.csv").write_text("label,l,p,s\na,0,0,140\nb,10,-12,150\n")
    save_network(small_lite(), tmp_path / "tiny.safetensors", {"name": "tiny"})
    return tmp_path


def task(folder: Path, query: str, name: str = "one") -> Task:
    place = folder / "out" / name
    inputs = ["--template", folder / "scan.nii.gz", "--query", folder / query, "--points", folder / "points.csv"]
    outputs = ["--output", place / "points.mrk.json", "--report", place / "report.json", "--quiet", "--cache", "off"]
    return Task(name, "mark", str(place), ["match", *map(str, [*inputs, *outputs])])


def test_a_row_leaves_files_and_the_rows_of_the_table_of_all_results(studies):
    outcome = run_task(task(studies, "scan.nii.gz"), ["--model", str(studies / "tiny.safetensors")])
    assert (outcome.exit_code, outcome.cause) == (0, "")
    assert [row["label"] for row in outcome.results] == ["a", "b"]
    report = json.loads((studies / "out" / "one" / "report.json").read_text())
    assert [[row[axis] for axis in "lps"] for row in outcome.results] == [row["query"] for row in report["points"]]


def test_tables_only_keeps_of_a_row_what_it_was_told_to_write(studies):
    model = ["--model", str(studies / "tiny.safetensors")]
    outcome = run_task(task(studies, "scan.nii.gz"), model, tables_only=True)
    assert [row["label"] for row in outcome.results] == ["a", "b"] and not (studies / "out" / "one").exists()
    two = task(studies, "scan.nii.gz", "two")
    two.arguments.extend(["--similarity-map", str(studies / "out" / "two" / "map.nii.gz")])
    run_task(two, model, tables_only=True)
    kept = {path.name for path in (studies / "out" / "two").iterdir()}
    assert kept and all(name.startswith("map") for name in kept)
    # One that fails keeps what tells why.
    run_task(task(studies, "no.nii.gz", "three"), model, tables_only=True)
    assert (studies / "out" / "three" / "log.txt").exists() and (studies / "out" / "three" / "report.json").exists()


def test_a_row_that_fails_says_why_and_what_to_do(studies):
    outcome = run_task(task(studies, "no.nii.gz"), ["--model", str(studies / "tiny.safetensors")])
    assert outcome.exit_code == 3 and "no.nii.gz does not exist" in outcome.cause and outcome.remedy
    assert "no.nii.gz does not exist" in (studies / "out" / "one" / "log.txt").read_text()


def test_the_model_is_loaded_once_for_all_rows(studies, monkeypatch):
    loaded = []
    load = common.s.load_model
    monkeypatch.setattr(common.s, "load_model", lambda *a, **k: loaded.append(a) or load(*a, **k), raising=False)
    for name in ("one", "two"):
        assert run_task(task(studies, "scan.nii.gz", name), ["--model", str(studies / "tiny.safetensors")]).results
    assert len(loaded) == 1


def test_what_a_killed_worker_left_is_swept_before_the_row_runs_again(studies):
    left = studies / "out" / "one" / ".points.0a1b2c3d.part.mrk.json"
    left.parent.mkdir(parents=True)
    left.write_text("{")
    run_task(task(studies, "no.nii.gz"))
    assert not left.exists()


def test_paths_reach_workers_of_another_folder_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.safetensors").touch()
    args = Namespace(model="m.safetensors", cache="kept", precision=None, workers=None, slurm=False)
    assert _shared(args, ["model", "cache"]) == [
        "--model", str(tmp_path / "m.safetensors"), "--cache", str(tmp_path / "kept")
    ]  # fmt: skip
    assert _shared(Namespace(model="lite-ct", workers=None), ["model"]) == ["--model", "lite-ct"]


def test_a_dry_run_names_every_row_that_cannot_run_and_writes_nothing(studies, capsys):
    (studies / "broken.nii.gz").write_bytes(b"no volume")
    rows = ["scan.nii.gz", "no.nii.gz", "broken.nii.gz"]
    lines = [f"row{n},scan.nii.gz,{query},points.csv" for n, query in enumerate(rows)]
    (studies / "t.csv").write_text("\n".join(["name,template,query,points", *lines]))
    code = main(["batch", "match", "--table", str(studies / "t.csv"), "--output", str(studies / "out"), "--dry-run"])
    told = capsys.readouterr()
    assert code == 3 and "2 of 3 rows cannot run" in told.err
    assert "row1: " in told.out and "row2: " in told.out and "row0: " not in told.out
    assert not (studies / "out").exists()
