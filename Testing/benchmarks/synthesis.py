"""Contrast from labels: what synthetic views do to a light network, in two trainings that differ in nothing else.

    python -m Testing.benchmarks.synthesis --data INDEX --out DIR [--model lite-ct] [--steps 300] [--share 0.4]

The context branch of MODEL trains on twice, on the CTs of the index and from the same draws: with real views, 20 % of
them as if they were MR (:mod:`Training.views.looks`), and with SHARE of these views replaced by images made from labels
and clusters of tissue (:mod:`Training.views.synthesis`). No MR is shown. Then the coarse head's nearest neighbor on its
8 mm lattice answers for the ``val`` scans: known points of one CT in another (by group), and body points of an MR in
the CT of its patient. A training that was cut short goes on with the same command.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Dict, List, Optional

import numpy as np
import torch

from SAMv2Core.models.catalogue import find_model
from SAMv2Core.network.lite import LiteNet
from Training.data.index import Index, read_index
from Training.engine.checkpoint import last_checkpoint
from Training.engine.loop import Run
from Training.engine.recipe import Recipe, load_recipe
from Training.engine.task import Batch, Report
from Training.export import load_trained
from Training.tasks.landmark_error import MR_IN_CT, KnownPoints
from Training.tasks.lite import CpuBatch, LiteTask
from Training.views.augment import AIR_HU, to_network_scale
from Training.views.geometry import CONTEXT_MM, DETAIL_MM, crop_coordinates, sample_scan
from Training.views.pairs import View
from Training.views.scans import Scan
from Training.views.synthesis import LOW, anatomy_labels, synthesize

AS_MR = 0.2
WITHIN_MM = 16.0  # two voxels of the coarse lattice
_STREAM = 23  # other random numbers than those of the draws, which must stay the same

Figures = Dict[str, np.ndarray]
"""(N,) errors in mm by the name of the column."""


class SyntheticViews(LiteTask):
    """The light recipe's task with a share of its views' contexts synthesized."""

    def __init__(self, recipe: Recipe, index: Index, seed: int, share: float) -> None:
        super().__init__(recipe, index, seed, "fp32")
        self.plan = dataclasses.replace(self.plan, views=dataclasses.replace(self.plan.views, other_contrast=AS_MR))
        self.share = share
        self._by_name = {scan.name: scan for scan in self.scans}
        self._anatomies: Dict[str, np.ndarray] = {}

    def validate(self, net: torch.nn.Module, device: torch.device, pictures: bool) -> Report:
        """Nothing: the table says it."""
        return Report({})

    def draw(self, step: int, group: int) -> Batch:
        batch = super().draw(step, group)
        assert isinstance(batch, CpuBatch)
        rng = np.random.default_rng([self.seed, _STREAM, step, group])
        scan = self._by_name[batch.about]
        for view in batch.content["pair"].views:
            if rng.random() < self.share:
                generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
                view.context = synthetic_context(scan, self._anatomy(scan), view, generator)
        return batch

    def _anatomy(self, scan: Scan) -> np.ndarray:
        """(z, y, x) label map of a scan at 4 mm; made once."""
        if scan.name not in self._anatomies:
            labels = None
            if scan.labels is not None:
                depth, height, width = scan.hu4.shape
                labels = scan.labels[::2, ::2, ::2][:depth, :height, :width]
            self._anatomies[scan.name] = anatomy_labels(scan.hu4, scan.body4 > 0, labels, scan.modality)
        return self._anatomies[scan.name]


def synthetic_context(scan: Scan, anatomy: np.ndarray, view: View, generator: torch.Generator) -> torch.Tensor:
    """An image of the same anatomy for a view's context crop, on the preprocessed scale.

    :param anatomy: (z, y, x) label map of the scan at 4 mm.
    """
    u = crop_coordinates(tuple(view.context.shape), CONTEXT_MM, torch.zeros(3))  # type: ignore[arg-type]
    p = view.map.to_scan(u.view(-1, 3)).view(u.shape) - (CONTEXT_MM - DETAIL_MM) / 2
    labels = sample_scan(anatomy, CONTEXT_MM, p, 0.0, mode="nearest").round().long()
    body = sample_scan(scan.body4, CONTEXT_MM, p, 0.0) > 0.5
    real = to_network_scale(sample_scan(scan.hu4, CONTEXT_MM, p, AIR_HU))
    image = synthesize(labels, body, generator, spacing_mm=CONTEXT_MM, real=real)
    if view.cut is None:
        return image
    shown = (u[..., 2] >= view.cut[0]) & (u[..., 2] <= view.cut[1])
    return torch.where(shown, image, torch.full_like(image, LOW))


def trained(index: Index, out: Path, model: str, steps: int, share: float, seed: int) -> LiteNet:
    """The network after its steps, the average of its last weights; finished trainings are read."""
    changes = [
        f"run.steps={steps}", f"run.validate_every={steps}", "run.checkpoint_every=50",
        f"lite.context_only={steps}", "lite.cross=0",
        f"network.start={find_model(model)}", f"optimizer.warmup_steps={max(1, steps // 10)}", "optimizer.average=0.98",
    ]  # fmt: skip
    recipe = load_recipe("lite-ct", changes)
    out.mkdir(parents=True, exist_ok=True)
    task = SyntheticViews(recipe, index, seed, share)
    Run(task, recipe, out, seed, "cpu", "fp32", resume=last_checkpoint(out).exists()).train()
    return load_trained(last_checkpoint(out), "lite")  # type: ignore[return-value]


def figures_of(net: LiteNet, index: Index) -> Figures:
    """Errors at known points of CTs, by group, and of MR in CT, all between scans of ``val``."""
    held_out = Index(index.folder, tuple(entry for entry in index.entries if entry.split == "val"))
    return {**KnownPoints(held_out).errors(net), **KnownPoints(held_out, ("ct", "mr")).errors(net)}


def table(rows: Dict[str, Figures]) -> str:
    """Median (mean) error of each column, and the share of MR in CT that is near."""
    columns = list(next(iter(rows.values())))
    heads = [f"{name}, {len(errors):,} points" for name, errors in next(iter(rows.values())).items()]
    lines = [f"| | {' | '.join(heads)} | ≤ {WITHIN_MM:.0f} mm |", "|---" * (len(columns) + 2) + "|"]
    for name, figures in rows.items():
        cells = [f"{np.median(figures[c]):.1f} ({np.mean(figures[c]):.1f}) mm" for c in columns]
        lines.append(f"| {name} | {' | '.join(cells)} | {100 * np.mean(figures[MR_IN_CT] <= WITHIN_MM):.0f} % |")
    return "\n".join(lines)


def main(argv: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="index of prepared scans, with CT-MR pairs in val")
    parser.add_argument("--out", required=True, type=Path, help="folder of the two trainings")
    parser.add_argument("--model", default="lite-ct", help="name or file of the light network to start from")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--share", type=float, default=0.4, help="of synthetic views")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    index = read_index(args.data)
    start = load_trained(find_model(args.model), "lite")
    rows = {"start": figures_of(start, index)}  # type: ignore[arg-type]
    for name, share in (
        (f"{args.steps} steps, real views ({AS_MR:.0%} as if MR)", 0.0),
        (f"{args.steps} steps, {args.share:.0%} synthetic", args.share),
    ):
        net = trained(index, args.out / f"share_{share:g}", args.model, args.steps, share, args.seed)
        rows[name.replace("%", " %")] = figures_of(net, index)
    print(table(rows))


if __name__ == "__main__":
    main()
