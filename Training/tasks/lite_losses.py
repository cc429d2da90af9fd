"""The light recipe: coarse and fine InfoNCE on two views, semantic head from labels (paper sec. 3.1, 3.2).

What a step draws and what it minimizes; the loop is the engine's (``python -m Training.train lite-ct``, by way of
:mod:`Training.tasks.lite`), and :mod:`Training.bundled` makes the bundled weights with it.
"""

from __future__ import annotations

from typing import Callable, Dict, List, Mapping, Optional, Tuple

import numpy as np
import torch
import torch.nn.functional as F

from SAMv2Core.network.lite import LiteNet
from Training.engine.recipe import LiteOptions
from Training.losses.infonce import Far, known_loss, level_loss, search_loss
from Training.losses.supcon import prototypical_supcon
from Training.tasks.whole_scans import WholeScans
from Training.views.geometry import ViewOptions
from Training.views.pairs import Pair, draw_cross_pair, draw_self_pair
from Training.views.scans import Link, Scan

N_LABELLED = 6000  # body voxels of a view that take part in the semantic loss
VOXEL_MM = 7.0  # half the diagonal of a coarse voxel: one of them is this near to any place

Loss = Tuple[torch.Tensor, float]
"""A loss and its retrieval rate."""


def forward_losses(
    net: LiteNet,
    pair: Pair,
    options: LiteOptions,
    generator: torch.Generator,
    detail: bool,
    bf16: bool,
    whole: Optional[WholeScans] = None,
    others: Callable[[str, torch.Generator], List[Tuple[str, torch.Tensor, torch.Tensor]]] = lambda *_: [],
) -> Dict[str, Loss]:
    """Losses of one pair: name -> (loss, retrieval rate). The pair is on the CPU, the network anywhere.

    :param generator: of the CPU.
    :param detail: whether the detail branch takes part.
    :param whole: the training scans as wholes.
    :param others: of a scan, the patients whose scans its points are searched in: name, (K, 3) mm here and there.
    """
    views = pair.views
    device = next(net.parameters()).device
    result: Dict[str, Optional[Loss]] = {}
    weight = options.landmarks.weight
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16)
    with autocast:
        features = net.context(net.windows(_batch([v.context for v in views], device)))
        coarse = net.coarse_head(features)
    coarse = F.normalize(coarse.float(), dim=1)
    levels = (views[0].coarse, views[1].coarse)
    far = _far(whole.coarse if whole else None, pair)
    result["coarse"] = level_loss(coarse, levels, pair, options.coarse, generator, far)
    if weight > 0:
        result["coarse_known"] = _weighed(known_loss(coarse, levels, pair, options.coarse, generator, far), weight)
        result["search"] = _weighed(_search(coarse, pair, options, generator, whole, others), weight)
    if detail:
        d, h, w = (n // 4 for n in options.views.detail_size)
        boxes = [f[:, z : z + d, y : y + h, x : x + w] for f, (z, y, x) in zip(features, (v.first8 for v in views))]
        with autocast:
            f4 = net.detail.shallow(net.windows(_batch([v.detail for v in views], device)))
            merged = net.detail.merge(f4, net.detail.deep(f4, torch.stack(boxes)))
            fine, semantic = net.fine_head(merged), net.semantic_head(merged)
        fine, semantic = F.normalize(fine.float(), dim=1), F.normalize(semantic.float(), dim=1)
        levels = (views[0].fine, views[1].fine)
        far = _far(whole.fine if whole else None, pair)
        result["fine"] = level_loss(fine, levels, pair, options.fine, generator, far)
        if weight > 0:
            result["fine_known"] = _weighed(known_loss(fine, levels, pair, options.fine, generator, far), weight)
        if whole is not None:
            for name, vectors, level in zip(pair.scans, fine, levels):
                whole.keep(name, vectors, level, generator)
        result["semantic"] = _semantic_loss(semantic, pair, options, generator)
    return {name: value for name, value in result.items() if value is not None}


def _far(of: Optional[Callable[[str], Optional[Far]]], pair: Pair) -> Tuple[Optional[Far], Optional[Far]]:
    if of is None:
        return None, None
    first = of(pair.scans[0])
    return first, first if pair.scans[0] == pair.scans[1] else of(pair.scans[1])


def _weighed(found: Optional[Loss], weight: float) -> Optional[Loss]:
    return None if found is None else (weight * found[0], found[1])


def _search(coarse, pair: Pair, options: LiteOptions, generator, whole: Optional[WholeScans], others) -> Optional[Loss]:
    """Mean over the views and the patients that their points are searched in."""
    found: List[Loss] = []
    for name, features, view in zip(pair.scans, coarse, pair.views) if whole is not None else ():
        for other, here, there in others(name, generator):
            scan = whole.coarse(other)  # type: ignore[union-attr]
            if scan is None:
                continue
            one = search_loss(features, view, view.coarse, here, there, scan, VOXEL_MM, options.coarse, generator)
            found += [one] if one is not None else []
    if not found:
        return None
    return torch.stack([loss for loss, _ in found]).mean(), float(np.mean([rate for _, rate in found]))


def _batch(crops: List[torch.Tensor], device: torch.device) -> torch.Tensor:
    """(N, 1, d, h, w) of crops (d, h, w)."""
    return torch.stack(crops)[:, None].to(device).contiguous(memory_format=torch.channels_last_3d)


def _semantic_loss(
    semantic: torch.Tensor, pair: Pair, options: LiteOptions, generator: torch.Generator
) -> Optional[Loss]:
    """Prototypical SupCon over body voxels of the labelled views.

    Of two patients only the labels that both bear take part: where one of them has no contour of an organ, neither
    its voxels nor the background say anything about it.
    """
    features, labels = [], []
    for vectors, view in zip(semantic, pair.views):
        if view.labels is None:
            continue
        index = torch.nonzero(view.fine.body.reshape(-1))[:, 0]
        index = index[torch.randperm(len(index), generator=generator)[:N_LABELLED]]
        label = view.labels.reshape(-1)[index]
        if pair.labels_agree is not None:
            agree = torch.isin(label, pair.labels_agree)
            index, label = index[agree], label[agree]
        features.append(vectors.reshape(vectors.shape[0], -1).T[index.to(vectors.device)])
        labels.append(label.to(vectors.device))
    pooled = torch.cat(labels) if labels else torch.zeros(0)
    if len(torch.unique(pooled[pooled > 0])) < 2:
        return None
    loss = prototypical_supcon(torch.cat(features), pooled, options.semantic_temperature)
    return options.semantic_weight * loss, float("nan")


def draw_pair(
    scans: List[Scan],
    links: Mapping[Tuple[str, str], Link],
    cross_probability: float,
    rng: np.random.Generator,
    generator: torch.Generator,
    options: ViewOptions,
    about_known: float = 0.0,
) -> Tuple[Pair, str]:
    """A pair of views and the name of its first scan; of two patients with the given probability, if linked.

    :param about_known: of these, the share about a point that both are known to have.
    """
    weights = np.array([scan.weight for scan in scans])
    scan = scans[rng.choice(len(scans), p=weights / weights.sum())]
    if rng.random() < cross_probability:
        partners = [s for s in scans if (scan.name, s.name) in links and (s.name, scan.name) in links]
        if partners:
            other = partners[rng.integers(len(partners))]
            both = (links[scan.name, other.name], links[other.name, scan.name])
            pair = draw_cross_pair((scan, other), both, rng, generator, options, about_known)
            if pair is not None:
                return pair, f"{scan.name} > {other.name}"
    return draw_self_pair(scan, rng, generator, options), scan.name


class SharedPoints:
    """For a scan, other patients of its group and the points that are known in both.

    :param n: patients drawn.
    """

    def __init__(self, scans: List[Scan], n: int) -> None:
        self.n = n
        self._scans = {scan.name: scan for scan in scans}
        self._partners = {
            scan.name: [
                other.name
                for other in scans
                if other.name != scan.name and other.group == scan.group and set(scan.exact) & set(other.exact)
            ]
            for scan in scans
        }

    def __call__(self, name: str, generator: torch.Generator) -> List[Tuple[str, torch.Tensor, torch.Tensor]]:
        partners = self._partners.get(name, [])
        chosen = torch.randperm(len(partners), generator=generator)[: self.n].tolist() if partners else []
        found = []
        for other in (partners[n] for n in chosen):
            sides = self._scans[name].exact, self._scans[other].exact
            names = [key for key in sides[0] if key in sides[1]]
            here, there = (torch.tensor(np.array([side[key] for key in names])).float() for side in sides)
            found.append((other, here, there))
        return found


def widen(state: Dict[str, torch.Tensor], net: LiteNet) -> Dict[str, torch.Tensor]:
    """Weights of a network with fewer windows for one with more: what the new windows show counts nothing at first."""
    wide = {}
    for name, value in net.state_dict().items():
        old = state[name]
        if old.shape != value.shape:
            old = torch.cat((old, torch.zeros_like(value[:, old.shape[1] :])), dim=1)
        wide[name] = old
    return wide
