"""The engine on a tiny network: resuming, stopping, failing, and two processes against one."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from SAMv2Core.errors import OutputError, UnreliableResultError, UsageError
from Testing.samples.training_samples import TINY, write_phantom_index
from Training.data.index import read_index, write_index
from Training.engine import checkpoint
from Training.engine.checkpoint import read_training, write_checkpoint
from Training.engine.loop import Run
from Training.engine.recipe import load_recipe
from Training.engine.record import series
from Training.tasks.paper import PaperTask
from Training.train import main

SMALLEST = (
    *TINY, "network.narrow=32", "patch.size_zyx=[8, 32, 32]", "patch.margin_zyx=[1, 2, 2]", "run.batch=2",
    "fine.n_positive=20", "fine.n_points=200", "fine.n_negative=20", "run.checkpoint_every=2", "run.log_every=1",
    "run.validate_every=100", "validation.pairs=1", "validation.points=20",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_phantom_index(tmp_path_factory.mktemp("index"), n_train=1)


@pytest.fixture(scope="module")
def six_steps(data, tmp_path_factory):
    """The checkpoint of an uninterrupted run of six steps."""
    return read_training(train(data, tmp_path_factory.mktemp("whole")))


def arguments(data, out, *more, steps=6, changes=()):
    sets = [text for change in (*SMALLEST, *changes) for text in ("--set", change)]
    return ["sam", "--data", str(data), "--out", str(out), "--device", "cpu", "--steps", str(steps), *sets, *more]


def train(data, out, *more, steps=6, changes=()):
    """Train through the command; returns the path of the checkpoint."""
    assert main(arguments(data, out, *more, steps=steps, changes=changes)) == 0
    return out / "last.pt"


def make_run(task_class, data, out, steps=6):
    recipe = load_recipe("sam", [*SMALLEST, f"run.steps={steps}"])
    return Run(task_class(recipe, read_index(data), 0), recipe, out, 0, "cpu", "fp32", resume=False)


def assert_same_bits(found, expected):
    assert found["step"] == expected["step"]
    for name, value in expected["net"].items():
        assert torch.equal(found["net"][name], value), name
    for number, state in expected["optimizer"]["state"].items():
        assert torch.equal(found["optimizer"]["state"][number]["momentum_buffer"], state["momentum_buffer"]), number


def test_sigkill_in_the_middle_then_resume_ends_bit_for_bit_the_same(data, six_steps, tmp_path):
    command = [sys.executable, "-m", "Training.train", *arguments(data, tmp_path, steps=100000)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    last = tmp_path / "last.pt"
    deadline = time.monotonic() + 240
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = read_training(last)["step"]
    assert done >= 2 and done % 2 == 0
    # The killed run was told to go on for long; its first steps do not depend on that.
    whole = six_steps if done <= 6 else read_training(train(data, tmp_path / "whole", steps=done + 2))
    assert_same_bits(read_training(train(data, tmp_path, "--resume", steps=whole["step"])), whole)
    assert sorted(series(tmp_path / "log.csv", "loss_fine")) == list(range(1, whole["step"] + 1))


def test_sigterm_saves_and_the_run_goes_on_later(data, six_steps, tmp_path):
    class Stopped(PaperTask):
        def losses(self, net, batch, step, autocast):
            if step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().losses(net, batch, step, autocast)

    finished = make_run(Stopped, data, tmp_path).train()
    assert finished.stopped and finished.step == 4
    assert read_training(tmp_path / "last.pt")["step"] == 4
    assert_same_bits(read_training(train(data, tmp_path, "--resume")), six_steps)
    assert threading.active_count() < 20  # the drawing threads are gone


def test_not_a_number_ends_the_run_with_the_batch_written_out(data, tmp_path):
    class Broken(PaperTask):
        def losses(self, net, batch, step, autocast):
            losses = super().losses(net, batch, step, autocast)
            return {name: loss * (float("nan") if step == 3 else 1.0) for name, loss in losses.items()}

    with pytest.raises(UnreliableResultError, match=r"step 3 .*ct0.*nan_step_3") as caught:
        make_run(Broken, data, tmp_path).train()
    assert caught.value.exit_code == 6
    assert read_training(tmp_path / "last.pt")["step"] == 2
    stored = read_training(tmp_path / "nan_step_3_process_0.pt")
    (pair, _) = stored["content"]["appearance"]
    assert stored["step"] == 3 and pair[0]["image"].dtype == torch.int16 and pair[0]["name"] == "ct0"


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path):
    path = tmp_path / "last.pt"
    write_checkpoint(path, {"step": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead of the process
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(OutputError, match=r"last.pt cannot be written: the disk is full"):
            write_checkpoint(path, {"step": 2, "net": {"weight": torch.zeros(100_000)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert read_training(path)["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_groups(data, tmp_path):
    one = read_training(train(data, tmp_path / "one", "--accumulate", "2", steps=4))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29517", "-m"]
    command = [*launcher, "Training.train", *arguments(data, tmp_path / "two", steps=4)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    two = read_training(tmp_path / "two" / "last.pt")
    moved = 0.0
    start = read_training(train(data, tmp_path / "start", "--accumulate", "2", steps=1))
    for name, value in one["net"].items():
        if value.is_floating_point():
            # Sums of two gradients in another order: a few units of the last of float32's 24 bits per step.
            torch.testing.assert_close(two["net"][name], value, rtol=1e-4, atol=2e-6, msg=name)
            moved = max(moved, float((value - start["net"][name]).abs().max()))
    assert moved > 1e-3  # the steps did change the weights


def test_another_recipe_or_seed_is_not_resumed(data, six_steps, tmp_path, capsys):
    write_checkpoint(tmp_path / "last.pt", {k: v for k, v in six_steps.items() if k not in ("format", "version")})
    assert main(arguments(data, tmp_path)) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert main(arguments(data, tmp_path, "--resume", "--seed", "1")) == 2
    assert "seed: 0 -> 1" in capsys.readouterr().err
    assert main(arguments(data, tmp_path, "--resume", changes=["optimizer.lr=0.5"])) == 2
    assert "optimizer.lr: 0.02 -> 0.5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "change", "message", "code"),
    [
        ("sampp", "patch.size_zyx=[1, 1, 1]", "too small", 2),
        ("crosssam", "data.mr=0", "no registered CT-MR pair", 3),
        ("aggsam", "run.steps=1", "modality mr", 3),
        ("sam", "parts.semantic=1", "semantic head", 2),
        ("sam", "network.resnet18=missing.pth", "missing.pth does not exist", 4),
        ("sam", "data.groups=[liver]", "groups ('liver',)", 3),
    ],
)
def test_what_cannot_work_says_so(data, tmp_path, capsys, recipe, change, message, code):
    found = main([recipe, *arguments(data, tmp_path, changes=[change])[1:]])
    assert (found, message in capsys.readouterr().err) == (code, True)


def test_bfloat16_trains_with_weights_and_losses_in_float32(data, tmp_path):
    state = read_training(train(data, tmp_path, "--precision", "bf16", steps=2))
    assert all(value.dtype == torch.float32 for value in state["net"].values() if value.is_floating_point())
    plain = read_training(train(data, tmp_path / "plain", steps=2))
    losses = [series(folder / "log.csv", "loss_fine")[1] for folder in (tmp_path, tmp_path / "plain")]
    # Vectors of 8 bits: the loss moves by less than a percent, and it does move.
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.01)
    assert plain["step"] == state["step"] == 2


def damaged(data, folder, what):
    """A copy of the index with one thing wrong."""
    shutil.copytree(data.parent, folder)
    index = read_index(folder)
    entries = list(index.entries)
    if what == "no labels":
        entries = [replace(entry, labels=None, label_names=None) for entry in entries]
    elif what == "cut image":
        path = folder / entries[0].image
        path.write_bytes(path.read_bytes()[:1000])
    elif what == "gone":
        (folder / entries[0].body).unlink()
    elif what == "body of another geometry":
        np.save(folder / entries[0].body, np.ones((5, 5, 5), np.uint8))
    elif what == "labels of another geometry":
        np.save(folder / entries[0].labels, np.ones((5, 5, 5), np.uint8))
    elif what == "classes absent":  # of the only scan for training: every batch lacks all classes
        np.save(folder / entries[0].labels, np.zeros(entries[0].shape_zyx, np.uint8))
    write_index(folder, entries)
    return folder


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no labels", "holds no scans of split train, with labels"),
        ("cut image", "ct0_image.npy cannot be read"),
        ("gone", "ct0_body.npy cannot be read"),
        ("body of another geometry", "ct0_body.npy is not of the shape in the index"),
        ("labels of another geometry", "ct0_labels.npy is not of the shape in the index"),
    ],
)
def test_damaged_data_say_so_before_the_first_step(data, tmp_path, capsys, what, message):
    bad = damaged(data, tmp_path / "bad", what)
    assert main(["sampp", *arguments(bad, tmp_path / "out")[1:]]) == 3
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "last.pt").exists()


def test_a_batch_without_any_class_trains_on(data, tmp_path):
    bad = damaged(data, tmp_path / "bad", "classes absent")
    assert main(["sampp", *arguments(bad, tmp_path / "out", steps=2)[1:]]) == 0
    assert set(series(tmp_path / "out" / "log.csv", "loss_semantic").values()) == {0.0}
    assert all(value > 0 for value in series(tmp_path / "out" / "log.csv", "loss_fine").values())


def test_a_batch_without_any_loss_is_a_step_without_effect_on_the_others(data, tmp_path):
    class SometimesNothing(PaperTask):
        def losses(self, net, batch, step, autocast):
            return {} if step == 1 else super().losses(net, batch, step, autocast)

    assert make_run(SometimesNothing, data, tmp_path, steps=3).train().step == 3
    assert sorted(series(tmp_path / "log.csv", "loss_fine")) == [1, 3]
    assert not series(tmp_path / "log.csv", "loss_nothing")


def test_a_full_disk_ends_the_command_with_its_cause(data, tmp_path, capsys, monkeypatch):
    def full(path, content):
        raise OutputError(f"{path} cannot be written: the disk is full.", "Free some space and try again.")

    monkeypatch.setattr(checkpoint, "write_bytes", full)
    assert main(arguments(data, tmp_path)) == 3
    assert "last.pt cannot be written: the disk is full" in capsys.readouterr().err


def test_errors_of_drawing_reach_the_user(data, tmp_path):
    class Unreadable(PaperTask):
        def draw(self, step, group):
            raise UsageError("gone", "")

    with pytest.raises(UsageError, match="gone"):
        make_run(Unreadable, data, tmp_path).train()
