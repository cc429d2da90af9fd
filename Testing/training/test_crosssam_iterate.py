"""The CrossSAM rounds: end to end with a stand-in for the registration, restartable, converging, failing clearly."""

from __future__ import annotations

from dataclasses import replace

import pytest

from Testing.samples.training_pairs import known
from Training import crosssam_iterate
from Training.crosssam import round_training
from Training.crosssam.adareg import moved_by
from Training.crosssam.displaced import TRUTH
from Training.data.index import moved_to, read_index, write_index


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Registration that halves its error every round and notes what it was asked; weights are a text file."""
    asked = []

    def register(index, pair, model, options, out, previous=None):
        asked.append((pair[0].name, str(model), options.margin_mm))
        far = 20.0 if previous is None else 2.0
        result = next(r for r in known(index, offset_mm=far) if r.first == pair[0].name)
        change = None if previous is None else moved_by(index, pair[1], previous.to_second, result.to_second)
        return replace(result, change_mm=change)

    monkeypatch.setattr(crosssam_iterate, "register_pair", register)
    monkeypatch.setattr(crosssam_iterate, "load_model", lambda path: path)
    monkeypatch.setattr(round_training, "find_model", lambda path: path)
    return asked


def command(displaced, out, *more):
    train = "cp {data} {model}"
    return ["--data", str(displaced.folder), "--truth", str(displaced.folder / TRUTH), "--out", str(out), "--model",
            "start", "--train-command", train, *more]  # fmt: skip


def test_rounds_end_to_end(displaced, tmp_path, fake):
    out = tmp_path / "run"
    assert crosssam_iterate.main(command(displaced, out, "--margin-mm", "40")) == 0
    # Two pairs, three registrations: the start, CrossSAM_0, CrossSAM_1; the margin shrinks.
    models = [model.split("/")[-2:] for _, model, _ in fake]
    assert models == [["start"]] * 2 + [["round_0", "model.safetensors"]] * 2 + [["round_1", "model.safetensors"]] * 2
    assert [margin for *_, margin in fake] == [40, 40, 20, 20, 10, 10]
    table = (out / "table.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table[1:]] == ["initial", "start", "CrossSAM_0", "CrossSAM_1"]
    assert "20.0 (20.0) mm" in (out / "table.md").read_text(encoding="utf-8")
    final = read_index(out / "round_2")
    assert len(final.pairs(split=None, registered=True)) == 2
    # Done: nothing is asked again.
    fake.clear()
    assert crosssam_iterate.main(command(displaced, out, "--margin-mm", "40")) == 0
    assert fake == []


def test_pairs_of_one_split_alone(displaced, tmp_path, fake):
    split = {"p0": "train", "p1": "val"}
    moved = [replace(e, split=split[e.name[:2]], **moved_to(e, displaced.folder, tmp_path)) for e in displaced.entries]
    write_index(tmp_path, moved)
    (tmp_path / TRUTH).write_text((displaced.folder / TRUTH).read_text())
    arguments = command(displaced, tmp_path / "out", "--data", str(tmp_path), "--rounds", "0", "--split", "val")
    assert crosssam_iterate.main(arguments) == 0
    assert [name for name, *_ in fake] == ["p1_ct"]
    table = (tmp_path / "out" / "table.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in table[1:]] == [["initial", "1"], ["start", "1"]]


def test_rounds_stop_when_converged(displaced, tmp_path, fake):
    assert crosssam_iterate.main(command(displaced, tmp_path, "--rounds", "5", "--converged-mm", "1")) == 0
    # 20 mm, then 2 mm (changed by 18), then 2 mm again (changed by nothing).
    assert sorted(path.name for path in tmp_path.glob("round_*")) == ["round_0", "round_1", "round_2"]


def test_an_interrupted_round_goes_on_pair_by_pair(displaced, tmp_path, fake, monkeypatch):
    real = crosssam_iterate.register_pair

    def stop_at_fourth(*args):
        if len(fake) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(crosssam_iterate, "register_pair", stop_at_fourth)
    assert crosssam_iterate.main(command(displaced, tmp_path)) == 130
    with open(tmp_path / "round_1/pairs.jsonl", "a") as stream:
        stream.write('{"first": "torn')
    monkeypatch.setattr(crosssam_iterate, "register_pair", real)
    fake.clear()
    assert crosssam_iterate.main(command(displaced, tmp_path)) == 0
    assert len(fake) == 3  # one left of round 1, two of round 2
    for n in range(3):
        assert len((tmp_path / f"round_{n}/pairs.jsonl").read_text().splitlines()) == 2


def test_failures_of_the_rounds_are_named(aligned, displaced, tmp_path, fake, monkeypatch, capsys):
    (tmp_path / "aligned").mkdir()
    write_index(tmp_path / "aligned", aligned.entries)
    base = ["--out", str(tmp_path / "x"), "--model", "start"]
    assert crosssam_iterate.main(["--data", str(tmp_path / "aligned"), *base]) == 3
    assert "registered already" in capsys.readouterr().err
    assert crosssam_iterate.main(["--data", str(tmp_path / "gone"), *base]) == 3
    broken = [word.replace("cp {data} {model}", "false") for word in command(displaced, tmp_path / "y")]
    assert crosssam_iterate.main(broken) == 4
    assert "failed with exit code 1" in capsys.readouterr().err
    nothing = [word.replace("cp {data} {model}", "true") for word in command(displaced, tmp_path / "z")]
    assert crosssam_iterate.main(nothing) == 4
    assert "left neither" in capsys.readouterr().err
    # Another plan in the same folder.
    assert crosssam_iterate.main([*nothing, "--recipe", "lite-ctmr"]) == 2
    assert "started with another recipe" in capsys.readouterr().err
    failed = replace(known(displaced)[0], status="failed", weight=0.0)

    def fail(index, pair, *rest):
        return replace(failed, first=pair[0].name, second=pair[1].name)

    monkeypatch.setattr(crosssam_iterate, "register_pair", fail)
    assert crosssam_iterate.main(command(displaced, tmp_path / "w")) == 3
    assert "No pair could be registered" in capsys.readouterr().err
