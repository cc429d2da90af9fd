"""Training: pairs per second, waiting for data and memory of every recipe; the cost of the prototypical loss.

    python -m Testing.benchmarks.training [--data INDEX] [--recipes sam sampp ...] [--steps 3] [--threads 1] [--full]
    python -m Testing.benchmarks.training --recipes --figure cost.png           # the loss alone

Each recipe runs a few steps of the full network on phantoms, or on the scans of an index, in a process of its own; with
one pair per step and smaller labelled and registered crops, unless --full (some 20 GiB, better on a GPU). Beside it
stands one bare forward and backward pass of the paper's network over the same patches: the share of a step that the
network itself takes. draw_cpu_s is what drawing costs one core per pair: a GPU that trains R pairs per second needs
R x draw_cpu_s workers so as not to wait. The loss is measured against voxels and against classes in one run, and
reported as ratios, which a busy machine leaves alone; CPU seconds otherwise.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import torch
import torch.nn.functional as F

from Testing.samples.training_samples import write_phantom_index
from Training.data.index import read_index
from Training.engine.loop import Run
from Training.engine.recipe import load_recipe
from Training.engine.record import series
from Training.losses.supcon import prototypical_supcon
from Training.train import make_task

PAPER = ("sam", "sampp", "aggsam", "crosssam")
VOXELS = (8000, 16000, 32000, 64000)
CLASSES = (25, 50, 100, 200, 400)
SMALL = ("run.batch=1", "semantic.size_zyx=[48, 96, 96]", "registered.size_zyx=[48, 96, 96]")


def measure_recipe(name: str, data: str, steps: int, device: str, changes: List[str]) -> Dict[str, float]:
    """Figures of one recipe in this process: the first step warms up and is left out."""
    quiet = ["validation.pairs=1", "validation.points=10", "validation.pictures=false", "run.checkpoint_every=1000000"]
    recipe = load_recipe(
        name, [f"run.steps={steps + 1}", "run.log_every=1", "run.validate_every=1000000", *quiet, *changes]
    )
    task = make_task(recipe, read_index(data), 0)
    draw_s = drawing_s(task)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        run = Run(task, recipe, out, 0, device, "auto", resume=False)
        run._validate = lambda record: None  # type: ignore[method-assign]
        began = time.process_time()
        run.train()
        cpu_s = (time.process_time() - began) / (steps + 1)
        log = out / "log.csv"
        rows = {key: list(series(log, key).values())[1:] for key in ("pairs_per_s", "wait_share", "memory_gib")}
    figures = {
        "pairs_per_s": len(rows["pairs_per_s"]) / sum(1 / value for value in rows["pairs_per_s"]),
        "pairs_per_cpu_s": recipe.run.batch / cpu_s,
        "wait_share": sum(rows["wait_share"]) / len(rows["wait_share"]),
        "memory_gib": max(rows["memory_gib"]),
        "draw_cpu_s": draw_s / recipe.run.batch,
    }
    if recipe.task == "paper" and run.fabric.device.type == "cpu":
        figures["network_share"] = bare_network_s(recipe, run) / cpu_s
    return {key: round(value, 4) for key, value in figures.items()}


def drawing_s(task: Any, n_groups: int = 6) -> float:
    """CPU seconds of drawing one group: what one core of those that feed a GPU has to do for a step."""
    task.draw(0, 0)
    began = time.process_time()
    for step in range(1, n_groups + 1):
        task.draw(step, 0)
    return (time.process_time() - began) / n_groups


def bare_network_s(recipe: Any, run: Any) -> float:
    """CPU seconds of forward and backward of all heads over what a step sees on average, without anything else."""
    shares = recipe.parts.shares
    total = 0.0
    sizes = {
        "appearance": (2 * recipe.run.batch, recipe.patch.size_zyx),
        "semantic": (recipe.semantic.n_scans, recipe.semantic.size_zyx),
        "registered": (2, recipe.registered.size_zyx),
    }
    used = [name for name, share in shares.items() if share > 0]
    for name in used:
        n, size = sizes[name]
        x = torch.randn(1, 1, *size)
        began = time.process_time()
        out = run.net(x)
        sum(head.sum() for head in out if head is not None).backward()
        total += (time.process_time() - began) * n
    return total / (1 if recipe.parts.schedule == "together" else len(used))


def loss_cost() -> Dict[str, Dict[str, float]]:
    """CPU time of forward and backward of the loss, relative to the smallest, against voxels and classes."""

    def once(n_voxels: int, n_classes: int) -> Callable[[], None]:
        generator = torch.Generator().manual_seed(0)
        features = F.normalize(torch.randn(n_voxels, 128, generator=generator), dim=1).requires_grad_()
        labels = torch.arange(n_voxels) % (n_classes + 1)
        return lambda: prototypical_supcon(features, labels, 0.5).backward()

    by_voxels = {str(n): cpu_seconds(once(n, 52)) for n in VOXELS}
    by_classes = {str(k): cpu_seconds(once(64000, k)) for k in CLASSES}
    return {
        "voxels (52 classes)": relative(by_voxels),
        "classes (64,000 voxels)": relative(by_classes),
        "exponents": {
            "voxels": exponent(by_voxels),
            "classes": exponent(by_classes),
        },
    }


def draw_figure(cost: Dict[str, Dict[str, float]], path: str) -> None:
    """The loss's cost against voxels and classes, with the line through the origin and the smallest size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for axis, name in zip(axes, ("voxels (52 classes)", "classes (64,000 voxels)")):
        sizes = [float(key) for key in cost[name]]
        axis.plot(sizes, list(cost[name].values()), "o-", label="measured")
        axis.plot(sizes, [size / sizes[0] for size in sizes], "--", color="gray", label="linear")
        axis.set(xlabel=name, ylabel="CPU time, smallest = 1", xlim=(0, None), ylim=(0, None))
        axis.legend()
    figure.savefig(path, dpi=100)


def cpu_seconds(call: Callable[[], None], repeats: int = 5) -> float:
    """The smallest of several measurements, after one to warm up."""
    call()
    found = []
    for _ in range(repeats):
        began = time.process_time()
        call()
        found.append(time.process_time() - began)
    return min(found)


def relative(seconds: Dict[str, float]) -> Dict[str, float]:
    first = next(iter(seconds.values()))
    return {key: round(value / first, 2) for key, value in seconds.items()}


def exponent(seconds: Dict[str, float]) -> float:
    """Slope of log time over log size: 1 is linear, 2 quadratic."""
    size = torch.tensor([float(key) for key in seconds], dtype=torch.float64).log()
    value = torch.tensor(list(seconds.values()), dtype=torch.float64).log()
    size, value = size - size.mean(), value - value.mean()
    return round(float((size * value).sum() / (size * size).sum()), 2)


def table(rows: Dict[str, Dict[str, float]]) -> str:
    columns = ("pairs_per_s", "pairs_per_cpu_s", "wait_share", "memory_gib", "network_share", "draw_cpu_s")
    lines = ["| recipe | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in rows.items():
        lines.append(f"| `{name}` | " + " | ".join(f"{row[c]:.3g}" if c in row else "–" for c in columns) + " |")
    return "\n".join(lines)


def cost_table(cost: Dict[str, Dict[str, float]]) -> str:
    """The loss's relative cost, and the exponents of the power law through it."""
    lines = []
    for name, kind in (("voxels (52 classes)", "voxels"), ("classes (64,000 voxels)", "classes")):
        row = cost[name]
        lines += [f"| {name} | " + " | ".join(row) + " | exponent |", "|---" * (len(row) + 2) + "|"]
        values = " | ".join(f"{value:.2f}" for value in row.values())
        lines += [f"| CPU time, smallest = 1 | {values} | {cost['exponents'][kind]} |", ""]
    return "\n".join(lines)


def main(argv: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="index of prepared scans; default: phantoms")
    parser.add_argument("--recipes", nargs="*", default=list(PAPER))
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], help="change a key of the recipes")
    parser.add_argument("--full", action="store_true", help="batches and crops of the recipes' own size")
    parser.add_argument("--figure", help="draw the loss's cost into this file")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    if options.one:
        print(json.dumps(measure_recipe(options.one, options.data, options.steps, options.device, options.set)))
        return
    logging.basicConfig(level=logging.WARNING)
    rows: Dict[str, Dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or str(write_phantom_index(Path(folder), pairs=True))
        for name in options.recipes:
            command = [sys.executable, "-m", "Testing.benchmarks.training", "--one", name, "--data", data]
            command += ["--steps", str(options.steps), "--device", options.device, "--threads", str(options.threads)]
            changes = [*(() if options.full else SMALL), *options.set]
            command += [text for change in changes for text in ("--set", change)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            rows[name] = json.loads(done.stdout.splitlines()[-1])
    if rows:
        print(table(rows), end="\n\n")
    cost = loss_cost()
    print(cost_table(cost))
    if options.figure:
        draw_figure(cost, options.figure)
    print(json.dumps({"loss": cost, "threads": options.threads, "load": os.getloadavg()[0]}, indent=1))


if __name__ == "__main__":
    main()
