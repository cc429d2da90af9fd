"""A light run resumed where the whole scans are embedded anew ends as one that was never stopped."""

from __future__ import annotations

import shutil

import torch

from Testing.samples.training_samples import SMALL_LITE
from Training import train
from Training.engine.checkpoint import last_checkpoint, read_training

MORE = ("lite.refresh=2", "run.checkpoint_every=2", "run.keep=true", "run.log_every=2", "validation.pairs=1")


def run(index, out):
    sets = [word for change in (*SMALL_LITE, *MORE) for word in ("--set", change)]
    arguments = [
        "lite-ct",
        "--data",
        str(index.folder),
        "--out",
        str(out),
        "--steps",
        "4",
        "--device",
        "cpu",
        "--resume",
    ]
    assert train.main([*arguments, *sets]) == 0
    return read_training(last_checkpoint(out))


def test_resumed_at_a_renewal_it_is_the_same_run(light_phantoms, tmp_path):
    whole = run(light_phantoms, tmp_path / "whole")
    (tmp_path / "parts").mkdir()
    shutil.copy(tmp_path / "whole" / "step_0000002.pt", tmp_path / "parts" / "last.pt")
    resumed = run(light_phantoms, tmp_path / "parts")
    assert resumed["step"] == whole["step"] == 4
    for kind in ("net", "average"):
        assert all(torch.equal(value, whole[kind][name]) for name, value in resumed[kind].items())
    before = read_training(tmp_path / "whole" / "step_0000002.pt")["net"]
    assert any(not torch.equal(value, whole["net"][name]) for name, value in before.items())
