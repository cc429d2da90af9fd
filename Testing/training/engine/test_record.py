"""Logs and background drawing."""

import threading
import time

import numpy as np
import pytest
import torch

from Training.engine.prefetch import Prefetcher
from Training.engine.record import Record, read_log, series
from Training.engine.statistics import RunningStatistics
from Training.engine.task import Batch


def test_a_log_forgets_what_came_after_the_checkpoint(tmp_path):
    record = Record(tmp_path, 0)
    for step in (1, 2, 3):
        record.figures(step, {"loss": step / 2, "lr": 0.1})
    record.pictures(3, {"views": np.zeros((4, 4, 3), np.uint8)})
    record.close()
    with open(tmp_path / "log.csv", "a") as stream:
        stream.write("4,lo")  # killed while writing
    again = Record(tmp_path, 2)
    again.figures(3, {"loss": 9.0})
    again.close()
    assert series(tmp_path / "log.csv", "loss") == {1: 0.5, 2: 1.0, 3: 9.0}
    assert len(read_log(tmp_path / "log.csv")) == 5
    assert list((tmp_path / "tensorboard").iterdir())


def test_batches_come_in_order_and_waiting_is_counted():
    released = threading.Event()

    def draw(step, group):
        if step == 1:
            released.wait(5)
        return Batch({"at": (step, group)}, 0)

    batches = Prefetcher(draw, [4, 5], 0, 3, workers=3, ahead=2)
    assert [b.content["at"] for b in batches.get(0)] == [(0, 4), (0, 5)]
    before = batches.waited_s
    threading.Timer(0.2, released.set).start()
    assert [b.content["at"] for b in batches.get(1)] == [(1, 4), (1, 5)]
    assert batches.waited_s - before > 0.1
    assert [b.content["at"] for b in batches.get(2)] == [(2, 4), (2, 5)]
    batches.close()


def test_an_error_while_drawing_is_raised_where_the_batch_is_taken():
    def draw(step, group):
        raise OSError("gone")

    batches = Prefetcher(draw, [0], 0, 2, workers=1, ahead=1)
    time.sleep(0.01)
    with pytest.raises(OSError, match="gone"):
        batches.get(0)
    batches.close()


def test_running_statistics_are_the_mean_over_groups_from_one_start():
    net = torch.nn.BatchNorm3d(2)
    inputs = [torch.randn(2, 2, 3, 3, 3, generator=torch.Generator().manual_seed(n)) for n in (0, 1)]
    single = []
    for x in inputs:
        alone = torch.nn.BatchNorm3d(2)
        alone(x)
        single.append(alone.running_mean.clone())
    statistics = RunningStatistics(net, 2, lambda values: values, several=False)
    statistics.begin()
    for x in inputs:
        net(x)
        statistics.after_group()
    statistics.end()
    torch.testing.assert_close(net.running_mean, (single[0] + single[1]) / 2)
