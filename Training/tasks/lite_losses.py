"""The light recipe: coarse and fine InfoNCE on two views, semantic head from labels (paper sec. 3.1, 3.2).

What a step draws and what it minimizes; the loop is the engine's (``python -m Training.train lite-ct``, by way of
:mod:`Training.tasks.lite`), and :mod:`Training.bundled` makes the bundled weights with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Dict, List, Optional, Tuple

import numpy as np
import torch
import torch.nn.functional as F

from SAMv2Core.network.lite import CT_WINDOWS, LiteNet
from Training.losses import prototypical_supcon
from Training.losses.infonce import LevelOptions, level_loss
from Training.views.geometry import ViewOptions
from Training.views.pairs import Pair, draw_cross_pair, draw_self_pair
from Training.views.scans import Link, Scan

COARSE = LevelOptions(384, 4096, ignore_mm=16.0, cross_ignore_mm=32.0, search_mm=8.0, temperature=0.08)
FINE = LevelOptions(512, 4096, ignore_mm=8.0, cross_ignore_mm=20.0, search_mm=5.0, temperature=0.08, registered_mm=3.0)
SEMANTIC_TEMPERATURE = 0.1  # the official configuration's; the paper's text says 0.5
SEMANTIC_WEIGHT = 0.3

MR_WINDOWS = ((-50.0, 205.0), (-50.0, 60.0), (30.0, 205.0))
"""MR spans the whole preprocessed scale, tissue by tissue anywhere on it."""


@dataclass(frozen=True)
class LiteRecipe:
    """What differs between the light models.

    :param groups: share of the first views by group of the index.
    :param views: how views are drawn.
    :param windows: intensity windows that the network sees.
    :param cross: share of pairs of two linked scans (patients, or CT and MR of one), where there are links.
    :param modalities: of the scans that take part.
    :param coarse: sampling of the loss at 8 mm. :param fine: at 4 mm.
    """

    groups: Dict[str, float]
    views: ViewOptions = field(default_factory=ViewOptions)
    windows: Tuple[Tuple[float, float], ...] = CT_WINDOWS
    cross: float = 0.5
    modalities: Tuple[str, ...] = ("ct",)
    coarse: LevelOptions = COARSE
    fine: LevelOptions = FINE


# Matching looks at whole scans, so the crops show the whole section of the body and most of a torso's length, and the
# negatives come from all of it. Four times the work of the small crops: for a GPU. What it brought, and what it cost,
# is in the model cards; so for "lite-ct-builds" and "lite-ctmr-wide".
WIDE = LiteRecipe(
    {"ct": 0.65, "hn": 0.25, "ctmr": 0.1},
    ViewOptions(context_size=(88, 72, 104), detail_size=(64, 72, 72)),
    coarse=replace(COARSE, n_anchors=768, n_negatives=12288),
    fine=replace(FINE, n_anchors=768, n_negatives=8192),
)
CTMR = LiteRecipe(
    {"ctmr": 0.8, "ct": 0.14, "hn": 0.06},
    # Limbs are narrow: smaller crops, more steps. Both ends are often cut, as a knee coil does.
    ViewOptions(
        context_size=(40, 48, 48), detail_size=(40, 40, 40), rotation=12.0, scale=(0.94, 1.07),
        shift_mm=(50.0, 50.0, 80.0), other_contrast=0.25,
    ),
    CT_WINDOWS + MR_WINDOWS,
    cross=0.9,
    modalities=("ct", "mr"),
)  # fmt: skip

RECIPES = {
    "lite-ct": LiteRecipe({"ct": 0.6, "hn": 0.25, "ctmr": 0.15}),
    # Builds, postures and contrasts that a dozen torsos do not show; no better so far, see the model card of lite-ct.
    "lite-ct-varied": LiteRecipe(
        {"ct": 0.65, "hn": 0.22, "ctmr": 0.13},
        ViewOptions(rotation=18.0, stretch=0.15, deformation_mm=8.0, bulk_mm=18.0, other_contrast=0.2),
    ),
    "lite-ct-wide": WIDE,
    "lite-ct-builds": replace(
        WIDE,
        views=replace(
            WIDE.views, rotation=18.0, stretch=0.1, deformation_mm=8.0, bulk_mm=12.0, other_build=0.6
        ),
    ),
    "lite-ctmr": CTMR,
    "lite-ctmr-wide": replace(
        CTMR,
        views=replace(
            CTMR.views, context_size=(56, 56, 64), detail_size=(48, 48, 56), rotation=14.0, scale=(0.92, 1.09)
        ),
        coarse=replace(COARSE, n_anchors=512, n_negatives=8192),
        fine=replace(FINE, n_negatives=8192),
    ),
}  # fmt: skip


def forward_losses(
    net: LiteNet, pair: Pair, recipe: LiteRecipe, generator: torch.Generator, detail: bool, bf16: bool
) -> Dict[str, Tuple[torch.Tensor, float]]:
    """Losses of one pair: name -> (loss, retrieval rate). The pair is on the CPU, the network anywhere.

    :param generator: of the CPU.
    :param detail: whether the detail branch takes part.
    """
    views = pair.views
    device = next(net.parameters()).device
    result: Dict[str, Optional[Tuple[torch.Tensor, float]]] = {}
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16)
    with autocast:
        features = net.context(net.windows(_batch([v.context for v in views], device)))
        coarse = net.coarse_head(features)
    coarse = F.normalize(coarse.float(), dim=1)
    result["coarse"] = level_loss(coarse, (views[0].coarse, views[1].coarse), pair, recipe.coarse, generator)
    if detail:
        d, h, w = (n // 4 for n in recipe.views.detail_size)
        boxes = [f[:, z : z + d, y : y + h, x : x + w] for f, (z, y, x) in zip(features, (v.first8 for v in views))]
        with autocast:
            f4 = net.detail.shallow(net.windows(_batch([v.detail for v in views], device)))
            merged = net.detail.merge(f4, net.detail.deep(f4, torch.stack(boxes)))
            fine, semantic = net.fine_head(merged), net.semantic_head(merged)
        fine, semantic = F.normalize(fine.float(), dim=1), F.normalize(semantic.float(), dim=1)
        result["fine"] = level_loss(fine, (views[0].fine, views[1].fine), pair, recipe.fine, generator)
        labelled = [(s, v.labels, v.fine.body) for s, v in zip(semantic, views) if v.labels is not None]
        if labelled:
            result["semantic"] = _semantic_loss(labelled, generator)
    return {name: value for name, value in result.items() if value is not None}


def _batch(crops: List[torch.Tensor], device: torch.device) -> torch.Tensor:
    """(N, 1, d, h, w) of crops (d, h, w)."""
    return torch.stack(crops)[:, None].to(device).contiguous(memory_format=torch.channels_last_3d)


def _semantic_loss(labelled, generator: torch.Generator) -> Optional[Tuple[torch.Tensor, float]]:
    """Prototypical SupCon over the voxels of the labelled views; at most 6,000 body voxels each."""
    features, labels = [], []
    for vectors, label, body in labelled:
        index = torch.nonzero(body.reshape(-1))[:, 0]
        index = index[torch.randperm(len(index), generator=generator)[:6000]]
        features.append(vectors.reshape(vectors.shape[0], -1).T[index.to(vectors.device)])
        labels.append(label.reshape(-1)[index].to(vectors.device))
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
    cross = rng.random() < cross_probability
    builds = None
    if cross or (options.other_build > 0 and rng.random() < options.other_build):
        partners = [s for s in scans if (scan.name, s.name) in links and (s.name, scan.name) in links]
        if partners:
            other = partners[rng.integers(len(partners))]
            both = (links[scan.name, other.name], links[other.name, scan.name])
            pair = draw_cross_pair((scan, other), both, rng, generator, options) if cross else None
            if pair is not None:
                return pair, f"{scan.name} > {other.name}"
            builds = None if cross else both
    return draw_self_pair(scan, rng, generator, options, builds), scan.name


def widen(state: Dict[str, torch.Tensor], net: LiteNet) -> Dict[str, torch.Tensor]:
    """Weights of a network with fewer windows for one with more: what the new windows show counts nothing at first."""
    wide = {}
    for name, value in net.state_dict().items():
        old = state[name]
        if old.shape != value.shape:
            old = torch.cat((old, torch.zeros_like(value[:, old.shape[1] :])), dim=1)
        wide[name] = old
    return wide
