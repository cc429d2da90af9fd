"""The training loop: one for all recipes, on one device or many.

A step consists of ``accumulate`` groups in each of the processes; gradients are averaged over all of them. What a step
draws depends on the seed and the step's number alone, so a run that was killed and resumed ends where an uninterrupted
one ends: bit for bit on one CPU device.
"""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import torch

from SAMv2Core.embedding.memory import peak_rss_bytes
from SAMv2Core.errors import UnreliableResultError
from Training.engine.checkpoint import check_same_run, last_checkpoint, read_training, write_checkpoint
from Training.engine.half_precision import avoid_wrong_gradients
from Training.engine.prefetch import Prefetcher
from Training.engine.processes import any_process, group_numbers, make_fabric
from Training.engine.recipe import Recipe, as_mapping
from Training.engine.record import Record
from Training.engine.schedule import MovingAverage, learning_rate, make_optimizer
from Training.engine.statistics import RunningStatistics
from Training.engine.task import NOTHING, Batch, Objective, Task

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finished:
    """How a run ended.

    :param step: steps done.
    :param stopped: by SIGTERM, before its last step.
    :param figures: of the last validation.
    """

    step: int
    stopped: bool
    figures: Dict[str, float]


class Run:
    """A run of a recipe; :meth:`train` does all.

    :param resume: continue from ``OUT/last.pt``.
    """

    def __init__(
        self, task: Task, recipe: Recipe, out: Path, seed: int, device: str, precision: str, resume: bool
    ) -> None:
        self.task = task
        self.recipe = recipe
        self.out = out
        self.seed = seed
        self.fabric = make_fabric(device, precision)
        torch.manual_seed(seed)
        self.net = task.build_network().train()
        avoid_wrong_gradients(self.net)
        optimizer = make_optimizer(self.net, recipe.optimizer)
        self.module, self.optimizer = self.fabric.setup(Objective(self.net, task), optimizer)
        self.average = MovingAverage(self.net, recipe.optimizer.average)
        self.groups = group_numbers(self.fabric, recipe.run.accumulate)
        self.groups_per_step = recipe.run.accumulate * self.fabric.world_size
        self.statistics = RunningStatistics(
            self.net, recipe.run.accumulate, self._mean_over_processes, self.fabric.world_size > 1
        )
        self.step = 0
        self.figures: Dict[str, float] = {}
        self._stop = False
        if resume:
            self._load()

    def train(self) -> Finished:
        """Train to the recipe's last step, or until SIGTERM."""
        run = self.recipe.run
        main = self.fabric.is_global_zero
        record = Record(self.out, self.step) if main else None
        previous = signal.signal(signal.SIGTERM, self._on_sigterm)
        batches = Prefetcher(self.task.draw, self.groups, self.step, run.steps, run.workers, run.ahead)
        meter = _Meter()
        try:
            if self.step == 0:
                self._validate(record)
            while self.step < run.steps and not self._stopping():
                self.task.before_step(self.step, self._averaged)
                waited = batches.waited_s
                drawn = batches.get(self.step)
                meter.add(self._do_step(drawn), batches.waited_s - waited)
                self.step += 1
                if self.step % run.log_every == 0 and record is not None:
                    record.figures(self.step, meter.row(self._pairs_per_step(), self.optimizer.param_groups[0]["lr"]))
                if self.step % run.validate_every == 0 or self.step == run.steps:
                    self._validate(record)
                    meter.forget_time()
                if self.step % run.checkpoint_every == 0:
                    self._save()
            self._save()
        finally:
            batches.close()
            signal.signal(signal.SIGTERM, previous)
            if record is not None:
                record.close()
        return Finished(self.step, self.step < run.steps, self.figures)

    def _do_step(self, batches: List[Batch]) -> Dict[str, float]:
        """Forward, backward, update; the mean losses of this process."""
        options = self.recipe.optimizer
        rate = learning_rate(self.step, self.recipe.run.steps, options)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        totals: Dict[str, float] = {}
        self.statistics.begin()
        for number, drawn in enumerate(batches):
            batch = drawn.to(self.fabric.device)
            is_last = number == len(batches) - 1
            with self.fabric.no_backward_sync(self.module, enabled=not is_last and self.fabric.world_size > 1):
                losses = self.module(batch, self.step, self.fabric.autocast)
                values = self._checked(losses, drawn)
                self.fabric.backward(sum(losses.values()) / len(batches))
            self.statistics.after_group()
            for name, value in values.items():
                totals[name] = totals.get(name, 0.0) + value / len(batches)
        self.statistics.end()
        if options.clip is not None:
            self.fabric.clip_gradients(self.module, self.optimizer, max_norm=options.clip, error_if_nonfinite=False)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.net, self.step)
        return totals

    def _checked(self, losses: Dict[str, torch.Tensor], batch: Batch) -> Dict[str, float]:
        """The losses as numbers; a batch that gives NaN or infinity is written out and ends the run."""
        if NOTHING in losses:
            return {}
        values = dict(zip(losses, torch.stack([loss.detach().float() for loss in losses.values()]).tolist()))
        if all(math.isfinite(value) for value in values.values()):
            return values
        path = self.out / f"nan_step_{self.step}_process_{self.fabric.global_rank}.pt"
        write_checkpoint(path, {"step": self.step, "losses": values, **batch.plain()})
        raise UnreliableResultError(
            f"The loss is not finite at step {self.step} ({values}; scans: {batch.about}); the batch is in {path}.",
            "Look at these scans, or lower optimizer.lr; the last checkpoint is untouched.",
        )

    def _validate(self, record: Optional[Record]) -> None:
        if record is not None:
            with self._averaged() as net:
                report = self.task.validate(net, self.fabric.device, self.recipe.validation.pictures)
            self.figures = report.figures
            record.figures(self.step, {f"val_{name}": value for name, value in report.figures.items()})
            record.pictures(self.step, report.pictures)
            shown = ", ".join(f"{name} {value:.3g}" for name, value in report.figures.items())
            logger.info("step %d: %s", self.step, shown or "no held-out scans to validate on")
        self.fabric.barrier()

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[torch.nn.Module]:
        """The network in evaluation mode with the average of its weights, where one is kept; afterwards as before."""
        own = None
        if self.average.state:
            own = {name: value.clone() for name, value in self.net.state_dict().items()}
            self.net.load_state_dict(self.average.state)
        self.net.eval()
        try:
            yield self.net
        finally:
            self.net.train()
            if own is not None:
                self.net.load_state_dict(own)

    def _save(self) -> None:
        if self.fabric.is_global_zero:
            state = {
                "net": self.net.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.fabric.strategy.precision.state_dict(),
                "average": self.average.state,
                "step": self.step,
                "seed": self.seed,
                "groups_per_step": self.groups_per_step,
                "recipe": as_mapping(self.recipe),
            }
            write_checkpoint(last_checkpoint(self.out), state)
            if self.recipe.run.keep:
                write_checkpoint(self.out / f"step_{self.step:07d}.pt", state)
        self.fabric.barrier()

    def _load(self) -> None:
        state = read_training(last_checkpoint(self.out))
        check_same_run(state, as_mapping(self.recipe), self.seed, self.groups_per_step)
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["scaler"])
        self.average.state = {name: value.to(self.fabric.device) for name, value in state["average"].items()}
        self.step = state["step"]
        logger.info("resumed at step %d", self.step)

    def _mean_over_processes(self, values: torch.Tensor) -> torch.Tensor:
        reduced: Any = self.fabric.all_reduce(values, reduce_op="mean") if self.fabric.world_size > 1 else values
        return reduced

    def _pairs_per_step(self) -> int:
        return self.recipe.run.batch * self.groups_per_step

    def _on_sigterm(self, *_: Any) -> None:
        self._stop = True

    def _stopping(self) -> bool:
        return any_process(self.fabric, self._stop)


class _Meter:
    """Sums losses and times between two rows of the log."""

    def __init__(self) -> None:
        self._sums: Dict[str, List[float]] = {}
        self.forget_time()

    def forget_time(self) -> None:
        """Start the clock anew (after something that is not training)."""
        self._began, self._waited, self._steps = time.perf_counter(), 0.0, 0

    def add(self, losses: Dict[str, float], waited_s: float) -> None:
        self._steps += 1
        self._waited += waited_s
        for name, value in losses.items():
            self._sums.setdefault(name, []).append(value)

    def row(self, pairs_per_step: int, rate: float) -> Dict[str, float]:
        """Mean losses, pairs per second, share of the time spent waiting, memory; and start anew."""
        seconds = max(time.perf_counter() - self._began, 1e-9)
        values = {f"loss_{name}": sum(found) / len(found) for name, found in self._sums.items()}
        values.update(
            lr=rate,
            pairs_per_s=self._steps * pairs_per_step / seconds,
            wait_share=self._waited / seconds,
            memory_gib=_memory_gib(),
        )
        logger.info("%s", ", ".join(f"{name} {value:.3g}" for name, value in values.items()))
        self._sums = {}
        self.forget_time()
        return values


def _memory_gib() -> float:
    """Peak memory of this process: of the GPU where there is one, else resident."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**30
    return (peak_rss_bytes() or 0) / 2**30
