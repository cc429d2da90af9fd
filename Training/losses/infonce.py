"""InfoNCE between two views with known correspondence (the light recipe's form of paper eq. 1).

Differences from the paper's sampling, and why: positives are interpolated at the exact corresponding position instead
of the nearest voxel (no half-voxel blur at 8 mm), and besides the hardest candidates of the whole scan the denominator
holds thousands of body voxels of both views beyond the ignore radius. Where the correspondence is only estimated (two
patients), the positive is the most similar of the positions around it; where it is known (a landmark of both), of those
within its own uncertainty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F

from Training.views.geometry import inside_box, sample_map
from Training.views.pairs import Level, Pair, View
from Training.views.scans import Link

INVERTED_MM = 1.0  # error of the inverse map from which on a correspondence is left out
NONE = float("-inf")


@dataclass(frozen=True)
class LevelOptions:
    """Sampling of one level.

    :param n_anchors: anchors per direction.
    :param n_negatives: candidates per view.
    :param ignore_mm: candidates nearer than this to the anchor's anatomy are no negatives.
    :param cross_ignore_mm: the same across patients, where the place is only known roughly.
    :param cross_far_mm: the same for negatives of the whole scan: where a map is wrong, the true place is the hardest.
    :param known_ignore_mm: the same of points known in both patients.
    :param search_mm: across patients, the positive may lie this far (per axis) from the estimate.
    :param known_mm: the same of points known in both patients: landmarks repeat to some 4 mm.
    :param registered_mm: the same between two registered scans of one patient.
    :param temperature: of the softmax.
    :param n_far_anchors: anchors per direction that also meet negatives of the other view's whole scan.
    :param n_hard: of these the most similar ones ("hard", paper sec. 3.1). :param n_random: further ones at random
        ("diverse").
    """

    n_anchors: int = 384
    n_negatives: int = 4096
    ignore_mm: float = 16.0
    cross_ignore_mm: float = 32.0
    cross_far_mm: float = 48.0
    known_ignore_mm: float = 16.0
    search_mm: float = 8.0
    known_mm: float = 4.0
    registered_mm: float = 0.0
    temperature: float = 0.08
    n_far_anchors: int = 128
    n_hard: int = 2000
    n_random: int = 500


class Far(NamedTuple):
    """Voxels of a whole scan, without gradient: vectors (M, C) float32 and places (M, 3) mm, on the maps' device."""

    vectors: torch.Tensor
    points: torch.Tensor


def level_loss(
    maps: torch.Tensor,
    levels: Tuple[Level, Level],
    pair: Pair,
    options: LevelOptions,
    generator: torch.Generator,
    far: Tuple[Optional[Far], Optional[Far]] = (None, None),
) -> Optional[Tuple[torch.Tensor, float]]:
    """Mean InfoNCE of both directions and the retrieval rate, or None when the views do not overlap.

    :param maps: (2, C, d, h, w) L2-normalised features of the two views, on any device; the geometry is on the CPU.
    :param far: further candidates for negatives, of the whole scan of each view.
    """
    banks = [_bank(features, level, options.n_negatives, generator) for features, level in zip(maps, levels)]
    losses: List[torch.Tensor] = []
    rates: List[float] = []
    for a, b in ((0, 1), (1, 0)):
        search_mm, beyond, far_mm = _tolerance(pair.links[a], options)
        drawn = _anchors(pair, a, levels, options.n_anchors, generator)
        if drawn is None:
            continue
        index, here, there, u = (part.to(maps.device) for part in drawn)
        anchors = maps[a].reshape(maps.shape[1], -1).T[index]
        positives = _positives(maps[b], anchors, u, levels[b], search_mm)
        negatives = [
            _masked(anchors @ banks[a].vectors.T, here, banks[a].points, options.ignore_mm),
            _masked(anchors @ banks[b].vectors.T, there, banks[b].points, beyond),
        ]
        whole = far[b]
        if whole is not None:
            n = options.n_far_anchors
            negatives.append(hard_and_diverse(anchors[:n], there[:n], whole, far_mm, options, generator))
        loss, rate = _terms(anchors, positives, negatives, options.temperature)
        losses.append(loss)
        rates.append(rate)
    if not losses:
        return None
    return torch.stack(losses).mean(), sum(rates) / len(rates)


def known_loss(
    maps: torch.Tensor,
    levels: Tuple[Level, Level],
    pair: Pair,
    options: LevelOptions,
    generator: torch.Generator,
    far: Tuple[Optional[Far], Optional[Far]] = (None, None),
) -> Optional[Tuple[torch.Tensor, float]]:
    """The same for the points known in both patients that both views show: exact but for ``known_mm``.

    :returns: None where the views show none.
    """
    if pair.known is None:
        return None
    seen = [visible(view, level, points) for view, level, points in zip(pair.views, levels, pair.known)]
    both = seen[0][1] & seen[1][1]
    if not bool(both.any()):
        return None
    banks = [_bank(features, level, options.n_negatives, generator) for features, level in zip(maps, levels)]
    losses, rates = [], []
    for a, b in ((0, 1), (1, 0)):
        here, there = (pair.known[side][both].to(maps.device) for side in (a, b))
        u_here, u_there = (seen[side][0][both].to(maps.device) for side in (a, b))
        anchors = _positives(maps[a], None, u_here, levels[a], 0.0)
        positives = _positives(maps[b], anchors, u_there, levels[b], options.known_mm)
        negatives = [
            _masked(anchors @ banks[a].vectors.T, here, banks[a].points, options.known_ignore_mm),
            _masked(anchors @ banks[b].vectors.T, there, banks[b].points, options.known_ignore_mm),
        ]
        whole = far[b]
        if whole is not None:
            negatives.append(hard_and_diverse(anchors, there, whole, options.known_ignore_mm, options, generator))
        loss, rate = _terms(anchors, positives, negatives, options.temperature)
        losses.append(loss)
        rates.append(rate)
    return torch.stack(losses).mean(), sum(rates) / len(rates)


def search_loss(
    features: torch.Tensor,
    view: View,
    level: Level,
    here: torch.Tensor,
    there: torch.Tensor,
    whole: Far,
    within_mm: float,
    options: LevelOptions,
    generator: torch.Generator,
) -> Optional[Tuple[torch.Tensor, float]]:
    """Points of a view searched in the whole scan of another patient: what matching asks of the coarse head.

    :param features: (C, d, h, w) L2-normalised.
    :param here: (K, 3) mm in the view's scan. :param there: (K, 3) the same places in the other scan.
    :param whole: that scan.
    :param within_mm: the most similar voxel this near to the place is the positive.
    :returns: None where the view shows none of the points.
    """
    u, shown = visible(view, level, here)
    if not bool(shown.any()):
        return None
    anchors = _positives(features, None, u[shown].to(features.device), level, 0.0)
    places = there[shown].to(features.device)
    near = torch.cdist(places, whole.points) <= within_mm
    has = near.any(dim=1)
    if not bool(has.any()):
        return None
    anchors, places, near = anchors[has], places[has], near[has]
    with torch.no_grad():
        best = (anchors @ whole.vectors.T).masked_fill(~near, NONE).argmax(1)
    negatives = [hard_and_diverse(anchors, places, whole, options.known_ignore_mm, options, generator)]
    return _terms(anchors, whole.vectors[best], negatives, options.temperature)


def visible(view: View, level: Level, points: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
    """Scan points (K, 3) in view coordinates, and (K,) bool: inside the level's box and not cut off."""
    u = view.map.to_view(points)
    shown = inside_box(u, *level.box) & ((view.map.to_scan(u) - points).norm(dim=1) < INVERTED_MM)
    if view.cut is not None:
        shown &= (u[:, 2] > view.cut[0]) & (u[:, 2] < view.cut[1])
    return u, shown


def hard_and_diverse(
    anchors: torch.Tensor,
    places: torch.Tensor,
    whole: Far,
    beyond_mm: float,
    options: LevelOptions,
    generator: torch.Generator,
) -> torch.Tensor:
    """(N, K) cosines with a whole scan's voxels at least ``beyond_mm`` from each anchor's place in it.

    The ``n_hard`` most similar ones, and ``n_random`` at random (one of the hard may be drawn again); -inf fills up.

    :param places: (N, 3) mm of the anchors in that scan.
    """
    cosines = _masked(anchors @ whole.vectors.T, places, whole.points, beyond_mm)
    with torch.no_grad():
        n = cosines.shape[1]
        hard = cosines.topk(min(options.n_hard, n), dim=1, sorted=False).indices
        diverse = torch.randint(n, (len(anchors), options.n_random), generator=generator).to(hard.device)
    return cosines.gather(1, torch.cat((hard, diverse), dim=1))


def _terms(
    anchors: torch.Tensor, positives: torch.Tensor, negatives: List[torch.Tensor], temperature: float
) -> Tuple[torch.Tensor, float]:
    """InfoNCE and the share of anchors whose positive beats all negatives; blocks of fewer rows are for the first."""
    full = [
        block if len(block) == len(anchors) else F.pad(block, (0, 0, 0, len(anchors) - len(block)), value=NONE)
        for block in negatives
    ]
    logits = torch.cat(full, dim=1)
    positive = (anchors * positives).sum(1, keepdim=True)
    rate = float((positive[:, 0] > logits.amax(1)).float().mean())
    return info_nce(positive, logits, temperature).mean(), rate


def _tolerance(link: Optional[Link], options: LevelOptions) -> Tuple[float, float, float]:
    """How far the positive may lie from the given place, where negatives begin, and those of the whole scan, mm."""
    if link is None:
        return 0.0, options.ignore_mm, options.ignore_mm
    if link.registered:
        beyond = options.ignore_mm + options.registered_mm
        return options.registered_mm, beyond, beyond
    return options.search_mm, options.cross_ignore_mm, options.cross_far_mm


def info_nce(positive: torch.Tensor, negatives: torch.Tensor, temperature: float) -> torch.Tensor:
    """Paper eq. 1: (N,) -log softmax of the positive among itself and the negatives.

    :param positive: (N, 1) cosine with the positive.
    :param negatives: (N, K) cosines with the negatives; -inf where a candidate is none.
    """
    logits = torch.cat((positive, negatives), dim=1) / temperature
    target = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    return F.cross_entropy(logits, target, reduction="none")


def _bank(features: torch.Tensor, level: Level, n: int, generator: torch.Generator) -> Far:
    """Body voxels of a view, with gradient."""
    index = torch.nonzero(level.body.reshape(-1))[:, 0]
    index = index[torch.randperm(len(index), generator=generator)[:n]]
    vectors = features.reshape(features.shape[0], -1).T[index.to(features.device)]
    return Far(vectors, level.points.reshape(-1, 3)[index].to(features.device))


def _anchors(pair: Pair, a: int, levels: Tuple[Level, Level], n: int, generator: torch.Generator):
    """Body voxels of view ``a`` whose anatomy the other view shows: index, scan points in both, coordinates there."""
    b = 1 - a
    index = torch.nonzero(levels[a].body.reshape(-1))[:, 0]
    index = index[torch.randperm(len(index), generator=generator)[: 3 * n]]
    if len(index) == 0:
        return None
    here = levels[a].points.reshape(-1, 3)[index]
    there, keep = pair.transfer(a, here)
    u, shown = visible(pair.views[b], levels[b], there)
    keep = keep & shown
    if int(keep.sum()) < 16:
        return None
    return index[keep][:n], here[keep][:n], there[keep][:n], u[keep][:n]


def _positives(
    features: torch.Tensor, anchors: Optional[torch.Tensor], u: torch.Tensor, level: Level, search_mm: float
) -> torch.Tensor:
    """Features at the corresponding positions; with ``search_mm`` the most similar of 27 positions around each."""
    _, spacing, centre = level.box
    if search_mm <= 0 or anchors is None:
        return F.normalize(sample_map(features, u, spacing, centre), dim=1)
    steps = torch.tensor([-search_mm, 0.0, search_mm], device=u.device)
    offsets = torch.cartesian_prod(steps, steps, steps)
    around = (u[:, None] + offsets).reshape(-1, 3)
    candidates = F.normalize(sample_map(features, around, spacing, centre), dim=1).view(len(u), len(offsets), -1)
    with torch.no_grad():
        best = (candidates * anchors[:, None]).sum(-1).argmax(1)
    return candidates[torch.arange(len(u), device=best.device), best]


def _masked(cosines: torch.Tensor, points: torch.Tensor, candidates: torch.Tensor, ignore_mm: float) -> torch.Tensor:
    return cosines.masked_fill(torch.cdist(points, candidates) < ignore_mm, float("-inf"))
