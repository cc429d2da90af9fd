"""Trains the light network: coarse and fine InfoNCE on two views, semantic head from labels (paper sec. 3.1, 3.2).

    python -m Training.lite --data FOLDER --out FOLDER --steps 8000 [--links maps.pt]
    python -m Training.lite --recipe lite-ctmr --start CT/last.pt --data FOLDER --out FOLDER --steps 3000

Reads prepared scans (see :mod:`Training.scans`), resumes from ``OUT/last.pt`` when it exists, saves on SIGTERM. The
learning rate is constant after the warm-up and falls linearly over the last quarter of ``--steps``; an exponential
average of the weights is kept beside them and is what gets exported.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import signal
import time
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Tuple

import numpy as np
import torch
import torch.nn.functional as F

from SAMv2Core.network.lite import CT_WINDOWS, LiteConfig, LiteNet
from Training.contrast import LevelOptions, level_loss
from Training.losses import prototypical_supcon
from Training.pairs import Pair, draw_cross_pair, draw_self_pair
from Training.scans import Link, Scan, load_links, load_scans, registered_links
from Training.views import ViewOptions

COARSE = LevelOptions(384, 4096, ignore_mm=16.0, cross_ignore_mm=32.0, search_mm=8.0, temperature=0.08)
FINE = LevelOptions(512, 4096, ignore_mm=8.0, cross_ignore_mm=20.0, search_mm=5.0, temperature=0.08, registered_mm=3.0)
SEMANTIC_TEMPERATURE = 0.1  # the official configuration's; the paper's text says 0.5
SEMANTIC_WEIGHT = 0.3

MR_WINDOWS = ((-50.0, 205.0), (-50.0, 60.0), (30.0, 205.0))
"""MR spans the whole preprocessed scale, tissue by tissue anywhere on it."""


@dataclass(frozen=True)
class LiteRecipe:
    """What differs between the light models.

    :param groups: share of the first views drawn from the scans whose names begin so.
    :param views: how views are drawn.
    :param windows: intensity windows that the network sees.
    :param cross: share of pairs of two linked scans (patients, or CT and MR of one), where there are links.
    """

    groups: Dict[str, float]
    views: ViewOptions = field(default_factory=ViewOptions)
    windows: Tuple[Tuple[float, float], ...] = CT_WINDOWS
    cross: float = 0.5


RECIPES = {
    "lite-ct": LiteRecipe({"ct__train": 0.6, "hn__train": 0.25, "ctmr__train": 0.15}),
    "lite-ctmr": LiteRecipe(
        {"ctmr__train": 0.8, "ct__train": 0.14, "hn__train": 0.06},
        # Limbs are narrow: smaller crops, more steps. Both ends are often cut, as a knee coil does.
        ViewOptions(
            context_size=(40, 48, 48), detail_size=(40, 40, 40), rotation=12.0, scale=(0.94, 1.07),
            shift_mm=(50.0, 50.0, 80.0), other_contrast=0.25,
        ),
        CT_WINDOWS + MR_WINDOWS,
        cross=0.9,
    ),
}  # fmt: skip


def forward_losses(
    net: LiteNet, pair: Pair, options: ViewOptions, generator: torch.Generator, detail: bool, bf16: bool
) -> Dict[str, Tuple[torch.Tensor, float]]:
    """Losses of one pair: name -> (loss, retrieval rate)."""
    views = pair.views
    result: Dict[str, Optional[Tuple[torch.Tensor, float]]] = {}
    x4 = torch.stack([v.context for v in views])[:, None].contiguous(memory_format=torch.channels_last_3d)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        features = net.context(net.windows(x4))
        coarse = net.coarse_head(features)
    coarse = F.normalize(coarse.float(), dim=1)
    result["coarse"] = level_loss(coarse, (views[0].coarse, views[1].coarse), pair, COARSE, generator)
    if detail:
        d, h, w = (n // 4 for n in options.detail_size)
        boxes = [f[:, z : z + d, y : y + h, x : x + w] for f, (z, y, x) in zip(features, (v.first8 for v in views))]
        x2 = torch.stack([v.detail for v in views])[:, None].contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            f4 = net.detail.shallow(net.windows(x2))
            merged = net.detail.merge(f4, net.detail.deep(f4, torch.stack(boxes)))
            fine, semantic = net.fine_head(merged), net.semantic_head(merged)
        fine, semantic = F.normalize(fine.float(), dim=1), F.normalize(semantic.float(), dim=1)
        result["fine"] = level_loss(fine, (views[0].fine, views[1].fine), pair, FINE, generator)
        labelled = [(s, v.labels, v.fine.body) for s, v in zip(semantic, views) if v.labels is not None]
        if labelled:
            result["semantic"] = _semantic_loss(labelled, generator)
    return {name: value for name, value in result.items() if value is not None}


def _semantic_loss(labelled, generator: torch.Generator) -> Optional[Tuple[torch.Tensor, float]]:
    """Prototypical SupCon over the voxels of the labelled views; at most 6,000 body voxels each."""
    features, labels = [], []
    for vectors, label, body in labelled:
        index = torch.nonzero(body.reshape(-1))[:, 0]
        index = index[torch.randperm(len(index), generator=generator)[:6000]]
        features.append(vectors.reshape(vectors.shape[0], -1).T[index])
        labels.append(label.reshape(-1)[index])
    pooled = torch.cat(labels)
    if len(torch.unique(pooled[pooled > 0])) < 2:
        return None
    return SEMANTIC_WEIGHT * prototypical_supcon(torch.cat(features), pooled, SEMANTIC_TEMPERATURE), float("nan")


def draw_pair(
    scans: List[Scan],
    links: Dict[Tuple[str, str], Link],
    cross_probability: float,
    rng: np.random.Generator,
    generator: torch.Generator,
    options: ViewOptions,
) -> Tuple[Pair, str]:
    """A pair of views and the name of its first scan; of two patients with the given probability, if linked."""
    weights = np.array([scan.weight for scan in scans])
    scan = scans[rng.choice(len(scans), p=weights / weights.sum())]
    if rng.random() < cross_probability:
        partners = [s for s in scans if (scan.name, s.name) in links and (s.name, scan.name) in links]
        if partners:
            other = partners[rng.integers(len(partners))]
            both = (links[scan.name, other.name], links[other.name, scan.name])
            pair = draw_cross_pair((scan, other), both, rng, generator, options)
            if pair is not None:
                return pair, f"{scan.name} > {other.name}"
    return draw_self_pair(scan, rng, generator, options), scan.name


def widen(state: Dict[str, torch.Tensor], net: LiteNet) -> Dict[str, torch.Tensor]:
    """Weights of a network with fewer windows for one with more: what the new windows show counts nothing at first."""
    wide = {}
    for name, value in net.state_dict().items():
        old = state[name]
        if old.shape != value.shape:
            old = torch.cat((old, torch.zeros_like(value[:, old.shape[1] :])), dim=1)
        wide[name] = old
    return wide


def learning_rate(step: int, total: int, peak: float, warmup: int = 200, decay: float = 0.25) -> float:
    """Warm-up, constant, linear decay over the last part: a run can be extended from before the decay."""
    if step < warmup:
        return peak * (step + 1) / warmup
    start = total * (1 - decay)
    return peak if step < start else peak * max(0.02, (total - step) / (total - start))


def update_average(average: Dict[str, torch.Tensor], net: LiteNet, step: int) -> None:
    """Exponential moving average of weights and batch-norm statistics."""
    rate = 1 - min(0.998, (step + 1) / (step + 10))
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if value.dtype.is_floating_point:
                average[name].lerp_(value, rate)
            else:
                average[name].copy_(value)


def main(argv: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="lite-ct")
    parser.add_argument("--start", help="checkpoint of another run whose averaged weights begin this one")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--links", help="cross-subject maps")
    parser.add_argument("--cross", type=float, help="share of pairs of two linked scans (default: the recipe's)")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--context-only", type=int, default=1200, help="steps before the detail branch joins")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-bf16", action="store_true")
    args = parser.parse_args(argv)
    os.makedirs(args.out, exist_ok=True)
    recipe = RECIPES[args.recipe]
    options = recipe.views
    scans = load_scans(args.data, recipe.groups)
    links: Dict[Tuple[str, str], Link] = dict(load_links(args.links)) if args.links else {}
    links.update(registered_links(scans))
    torch.manual_seed(args.seed)
    net = LiteNet(LiteConfig(windows=recipe.windows)).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    if args.start:
        net.load_state_dict(widen(torch.load(args.start, weights_only=True)["average"], net))
    matrices = [p for p in net.parameters() if p.ndim > 1]
    vectors = [p for p in net.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.02}, {"params": vectors, "weight_decay": 0.0}]
    )
    average = {name: value.detach().clone() for name, value in net.state_dict().items()}
    step, last = 0, os.path.join(args.out, "last.pt")
    if os.path.exists(last):
        state = torch.load(last, weights_only=True)
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        average, step = state["average"], state["step"]

    def checkpoint() -> None:
        state = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "average": average, "step": step}
        torch.save(state, last + ".tmp")
        os.replace(last + ".tmp", last)

    stop: List[int] = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    sums: Dict[str, List[float]] = {}
    began = saved = time.time()
    net.train()
    with open(os.path.join(args.out, "log.csv"), "a", newline="") as log:
        writer = csv.writer(log)
        while step < args.steps and not stop:
            # A step depends on its number alone, so a resumed run draws what an uninterrupted one would.
            rng = np.random.default_rng([args.seed, step])
            generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
            start = time.time()
            with torch.no_grad():
                cross = recipe.cross if args.cross is None else args.cross
                pair, name = draw_pair(scans, links, cross, rng, generator, options)
            drawn = time.time()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, args.steps, args.lr)
            losses = forward_losses(net, pair, options, generator, step >= args.context_only, not args.no_bf16)
            if losses:
                loss = torch.stack([value for value, _ in losses.values()]).sum()
                if not math.isfinite(loss.item()):
                    raise FloatingPointError(f"The loss is {loss.item()} at step {step} ({name}).")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
                optimizer.step()
                update_average(average, net, step)
            kind = "x_" if " > " in name else ""
            for key, (value, rate) in losses.items():
                sums.setdefault(kind + key, []).append(value.item())
                sums.setdefault(kind + key + "_rate", []).append(rate)
            sums.setdefault("data_s", []).append(drawn - start)
            sums.setdefault("step_s", []).append(time.time() - start)
            step += 1
            if step % 50 == 0:
                row = {key: round(float(np.mean(values)), 3) for key, values in sums.items()}
                print(step, round(time.time() - began), row, flush=True)
                writer.writerow([step, round(time.time() - began, 1), *[f"{k}={v}" for k, v in row.items()]])
                log.flush()
                sums = {}
            if time.time() - saved > 240:
                checkpoint()
                saved = time.time()
    checkpoint()
    print("saved at step", step, flush=True)


if __name__ == "__main__":
    main()
