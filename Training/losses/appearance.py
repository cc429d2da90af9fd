"""The appearance losses of the paper's recipes: eq. 1 with the official sampling of positives and negatives.

A batch is a list of *pairs*: two views of one scan, or one view each of two registered scans. A view is given as a
:class:`ViewLevel`, the voxels of one feature map as a list: vectors, and their places in millimeters in a frame that
both views of a pair share. Nothing here knows of patches or networks, so small cases can be computed by hand.

An anchor x of one view, its positive x+ in the other, and negatives N give (arXiv 2311.15111, eq. 1)

    -log exp(x . x+ / T) / (exp(x . x+ / T) + sum over N of exp(x . n / T)),

averaged over the anchors of both directions. What differs between the heads is where x+ and N come from, see
:func:`fine_appearance_loss` and :func:`coarse_appearance_loss`. Where the official code masks unwanted negatives by
setting their similarity to 0, or fails on a patch too small or a single pair, they are left out here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import List, NamedTuple, Optional, Sequence, Tuple, Union

import torch

from Training.losses.infonce import NONE, info_nce


@dataclass(frozen=True)
class ViewLevel:
    """One feature map of one view, its voxels as a list.

    :param vectors: (N, C) L2-normalized, with gradient.
    :param points: (N, 3) x, y, z mm in the frame that both views of the pair share.
    :param valid: (N,) bool: the voxel may be anchor, positive or negative; None means all.
    :param outside: (N,) bool: valid, but the other scan's field of view does not show it; only used for the
        negatives N_fov of CrossSAM (eq. 8). None means none.
    """

    vectors: torch.Tensor
    points: torch.Tensor
    valid: Optional[torch.Tensor] = None
    outside: Optional[torch.Tensor] = None

    def usable(self) -> torch.Tensor:
        """(M,) indices of the valid voxels."""
        if self.valid is None:
            return torch.arange(len(self.vectors), device=self.vectors.device)
        return torch.nonzero(self.valid)[:, 0]


LevelPair = Tuple[ViewLevel, ViewLevel]


@dataclass(frozen=True)
class FineSampling:
    """Sampling of the fine head (paper sec. 4.3; numbers the paper leaves open are the official code's).

    :param positive_mm: voxels of the two views this near to each other show the same place.
    :param ignore_mm: voxels nearer than this to the anchor's place are no negatives.
    :param n_points: voxels drawn of each view's overlap, among which positive pairs are sought.
    :param n_positive: anchors kept per direction (N_pos).
    :param n_hard: most similar candidates among which the negatives are drawn ("hard").
    :param n_negative: negatives drawn of these ("diverse", N_neg).
    :param n_outside: further negatives from beyond the other scan's field of view (N_fov, eq. 8).
    :param temperature: T.
    """

    positive_mm: float = 2.0
    ignore_mm: float = 20.0
    n_points: int = 2000
    n_positive: int = 100
    n_hard: int = 2000
    n_negative: int = 500
    n_outside: int = 0
    temperature: float = 0.5


@dataclass(frozen=True)
class CoarseSampling:
    """Sampling of the coarse head; its cells are large, hence the generous distances.

    :param positive_mm: largest distance of a cell and its counterpart.
    :param positive_dz_mm: the same along z, for anchors of the first and of the second view.
    :param ignore_mm: cells nearer than this to the anchor's place are no negatives.
    :param n_hard: most similar candidates among which the negatives are drawn.
    :param n_negative: negatives drawn of these.
    :param n_global: further negatives, drawn from the other pairs of the batch.
    :param temperature: T.
    """

    positive_mm: float = 25.0
    positive_dz_mm: Tuple[float, float] = (8.0, 6.0)
    ignore_mm: float = 5.0
    n_hard: int = 250
    n_negative: int = 200
    n_global: int = 1000
    temperature: float = 0.5


def fine_appearance_loss(
    pairs: Sequence[LevelPair],
    ranking: Optional[Sequence[Tuple[torch.Tensor, torch.Tensor]]] = None,
    sampling: FineSampling = FineSampling(),
    generator: Optional[torch.Generator] = None,
) -> torch.Tensor:
    """Eq. 1 on the fine head (and eq. 8 with ``n_outside``), mean over the pairs.

    Per pair: up to ``n_points`` voxels are drawn of each view inside the box that both show. Those with one of the
    other view within ``positive_mm`` are anchors, the nearest is their positive; if none is that near, the limit
    becomes the smallest distance found plus 0.5 mm. Negatives are the ``n_hard`` most similar voxels of both views at
    least ``ignore_mm`` away, ``n_negative`` of them at random. Without overlap, ``n_positive`` voxels of the first
    view are their own positives and repel the most similar of their own view.

    :param pairs: views of the fine map.
    :param ranking: for each pair the coarse vectors at the voxels of both fine maps, (N, C') each; they take part in
        ranking the hard negatives, not in the loss. None ranks by the fine vectors alone.
    :param generator: of the random choices, on the CPU.
    :return: scalar, 0 (with gradient) for an empty batch.
    """
    terms = []
    for n, pair in enumerate(pairs):
        coarse = None if ranking is None else ranking[n]
        terms.append(_fine_pair(pair, coarse, sampling, generator))
    return torch.stack(terms).mean() if terms else torch.zeros((), requires_grad=True)


def coarse_appearance_loss(
    pairs: Sequence[LevelPair],
    sampling: CoarseSampling = CoarseSampling(),
    generator: Optional[torch.Generator] = None,
) -> torch.Tensor:
    """Eq. 1 on the coarse head with global negatives, mean over the pairs.

    Every valid cell with a counterpart in reach is an anchor and the nearest counterpart its positive. Negatives are
    drawn from the hardest cells of both views as in the fine loss, and ``n_global`` at random from the other pairs of
    the batch, which are other patients or places; a single pair has none and needs none. Without any counterpart the
    cells of the first view are their own positives.

    :param pairs: views of the coarse map.
    :param generator: of the random choices, on the CPU.
    :return: scalar, 0 (with gradient) for an empty batch.
    """
    terms = []
    for n, pair in enumerate(pairs):
        others = [view for m, other in enumerate(pairs) if m != n for view in other]
        terms.append(_coarse_pair(pair, _draw_vectors(others, sampling.n_global, generator), sampling, generator))
    return torch.stack(terms).mean() if terms else torch.zeros((), requires_grad=True)


def _fine_pair(
    pair: LevelPair,
    ranking: Optional[Tuple[torch.Tensor, torch.Tensor]],
    sampling: FineSampling,
    generator: Optional[torch.Generator],
) -> torch.Tensor:
    coarse = (None, None) if ranking is None else ranking
    bank = _bank(pair, coarse)
    beyond = _outside(pair, sampling.n_outside, generator)
    drawn = [_draw_in_overlap(pair, a, sampling, generator) for a in (0, 1)]
    terms: List[torch.Tensor] = []
    for a, b in ((0, 1), (1, 0)):
        rows, columns = _nearest_pairs(pair[a].points[drawn[a]], pair[b].points[drawn[b]], sampling)
        chosen = _shuffled(len(rows), generator)[: sampling.n_positive].to(rows.device)
        index, positive = drawn[a][rows[chosen]], drawn[b][columns[chosen]]
        anchors = _anchors(pair[a], index, pair[b].vectors[positive], coarse[a])
        negatives = _hard_and_diverse(anchors, bank, sampling, generator)
        terms.append(_terms(anchors, bank, negatives, beyond, sampling))
    if any(len(term) for term in terms):
        return torch.cat(terms).mean()
    return _without_overlap(pair[0], coarse[0], sampling, generator)


def _coarse_pair(
    pair: LevelPair, others: Optional[_Bank], sampling: CoarseSampling, generator: Optional[torch.Generator]
) -> torch.Tensor:
    bank = _bank(pair, (None, None))
    terms: List[torch.Tensor] = []
    for a, b in ((0, 1), (1, 0)):
        here, there = pair[a].usable(), pair[b].usable()
        rows, columns = _counterparts(pair[a].points[here], pair[b].points[there], sampling, a)
        anchors = _anchors(pair[a], here[rows], pair[b].vectors[there[columns]], None)
        negatives = _hard_and_diverse(anchors, bank, sampling, generator)
        terms.append(_terms(anchors, bank, negatives, others, sampling))
    if any(len(term) for term in terms):
        return torch.cat(terms).mean()
    return _without_overlap(pair[0], None, sampling, generator)


def _without_overlap(
    view: ViewLevel,
    coarse: Optional[torch.Tensor],
    sampling: Union[FineSampling, CoarseSampling],
    generator: Optional[torch.Generator],
) -> torch.Tensor:
    """Voxels of one view as their own positives (cosine 1) against the most similar of the same view."""
    own = view.usable()
    limit = sampling.n_positive if isinstance(sampling, FineSampling) else len(own)
    own = own[_shuffled(len(own), generator)[:limit].to(own.device)]
    anchors = _anchors(view, own, view.vectors[own], coarse)
    bank = _bank((view,), (coarse,))
    negatives = _hard_and_diverse(anchors, bank, replace(sampling, n_hard=sampling.n_negative), generator)
    terms = _terms(anchors, bank, negatives, None, sampling)
    return terms.mean() if len(terms) else view.vectors.sum() * 0.0


class _Bank(NamedTuple):
    """Candidates for negatives: vectors (M, C), places (M, 3) or None (elsewhere), ranking vectors (M, C') or None."""

    vectors: torch.Tensor
    points: Optional[torch.Tensor]
    ranking: Optional[torch.Tensor] = None


class _Anchors(NamedTuple):
    """Anchors (A, C), their places (A, 3), positives (A, C) and ranking vectors (A, C') or None."""

    vectors: torch.Tensor
    points: torch.Tensor
    positives: torch.Tensor
    ranking: Optional[torch.Tensor]


def _anchors(
    view: ViewLevel, index: torch.Tensor, positives: torch.Tensor, ranking: Optional[torch.Tensor]
) -> _Anchors:
    return _Anchors(view.vectors[index], view.points[index], positives, None if ranking is None else ranking[index])


def _bank(views: Sequence[ViewLevel], ranking: Sequence[Optional[torch.Tensor]]) -> _Bank:
    """All valid voxels of the views."""
    index = [view.usable() for view in views]
    ranks = [rank[rows] for rank, rows in zip(ranking, index) if rank is not None]
    return _Bank(
        torch.cat([view.vectors[rows] for view, rows in zip(views, index)]),
        torch.cat([view.points[rows] for view, rows in zip(views, index)]),
        torch.cat(ranks) if ranks else None,
    )


@torch.no_grad()
def _hard_and_diverse(
    anchors: _Anchors,
    bank: _Bank,
    sampling: Union[FineSampling, CoarseSampling],
    generator: Optional[torch.Generator],
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Rows of the bank (A, K) drawn for each anchor from its most similar ones far enough, and (A, K) bool: real."""
    rank = anchors.vectors @ bank.vectors.T
    if anchors.ranking is not None and bank.ranking is not None:
        rank = rank + anchors.ranking @ bank.ranking.T
    assert bank.points is not None
    rank = rank.masked_fill(_distances(anchors.points, bank.points) < sampling.ignore_mm, NONE)
    values, index = rank.topk(min(sampling.n_hard, rank.shape[1]), dim=1)
    lot = torch.rand(values.shape, generator=generator).to(values.device)
    order = lot.masked_fill(values == NONE, 2.0).argsort(dim=1)[:, : sampling.n_negative]
    return index.gather(1, order), values.gather(1, order) > NONE


def _terms(
    anchors: _Anchors,
    bank: _Bank,
    negatives: Tuple[torch.Tensor, torch.Tensor],
    extra: Optional[_Bank],
    sampling: Union[FineSampling, CoarseSampling],
) -> torch.Tensor:
    """(A,) the term of eq. 1 of each anchor; ``extra`` are further negatives common to all."""
    index, real = negatives
    positive = (anchors.vectors * anchors.positives).sum(1, keepdim=True)
    found = [torch.einsum("ac,akc->ak", anchors.vectors, bank.vectors[index]).masked_fill(~real, NONE)]
    if extra is not None:
        cosines = anchors.vectors @ extra.vectors.T
        if extra.points is not None:
            near = _distances(anchors.points, extra.points) < sampling.ignore_mm
            cosines = cosines.masked_fill(near, NONE)
        found.append(cosines)
    return info_nce(positive, torch.cat(found, dim=1), sampling.temperature)


def _draw_in_overlap(
    pair: LevelPair, a: int, sampling: FineSampling, generator: Optional[torch.Generator]
) -> torch.Tensor:
    """Up to ``n_points`` valid voxels of view ``a`` in the box common to both views' valid voxels.

    The box is widened by the positive distance: that far outside a voxel may still have a counterpart.
    """
    usable = [view.usable() for view in pair]
    if not all(len(rows) for rows in usable):
        return usable[a][:0]
    points = [view.points[rows] for view, rows in zip(pair, usable)]
    low = torch.maximum(points[0].amin(0), points[1].amin(0)) - sampling.positive_mm
    high = torch.minimum(points[0].amax(0), points[1].amax(0)) + sampling.positive_mm
    inside = torch.nonzero(((points[a] >= low) & (points[a] <= high)).all(dim=1))[:, 0]
    inside = inside[_shuffled(len(inside), generator)[: sampling.n_points].to(inside.device)]
    return usable[a][inside]


def _nearest_pairs(a: torch.Tensor, b: torch.Tensor, sampling: FineSampling) -> Tuple[torch.Tensor, torch.Tensor]:
    """Rows of ``a`` that have a point of ``b`` near enough, and the nearest rows of ``b``."""
    if not len(a) or not len(b):
        empty = torch.zeros(0, dtype=torch.long, device=a.device)
        return empty, empty
    nearest, column = _distances(a, b).min(dim=1)
    smallest = float(nearest.min())
    limit = sampling.positive_mm
    if smallest > limit:
        limit = min(smallest + 0.5, sampling.ignore_mm)
    row = torch.nonzero(nearest <= limit)[:, 0]
    return row, column[row]


def _counterparts(
    a: torch.Tensor, b: torch.Tensor, sampling: CoarseSampling, direction: int
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Rows of ``a`` with a cell of ``b`` in reach, and the nearest such rows of ``b``."""
    if not len(a) or not len(b):
        empty = torch.zeros(0, dtype=torch.long, device=a.device)
        return empty, empty
    distance = _distances(a, b)
    apart = (a[:, None, 2] - b[None, :, 2]).abs()
    reach = (distance <= sampling.positive_mm) & (apart < sampling.positive_dz_mm[direction])
    nearest, column = distance.masked_fill(~reach, float("inf")).min(dim=1)
    row = torch.nonzero(torch.isfinite(nearest))[:, 0]
    return row, column[row]


def _outside(pair: LevelPair, n: int, generator: Optional[torch.Generator]) -> Optional[_Bank]:
    """``n`` voxels beyond the other scan's field of view, of both views together."""
    if n == 0:
        return None
    masks = [(view, torch.nonzero(view.outside)[:, 0]) for view in pair if view.outside is not None]
    if not masks:
        return None
    vectors = torch.cat([view.vectors[rows] for view, rows in masks])
    points = torch.cat([view.points[rows] for view, rows in masks])
    chosen = _shuffled(len(vectors), generator)[:n].to(vectors.device)
    return _Bank(vectors[chosen], points[chosen])


def _draw_vectors(views: Sequence[ViewLevel], n: int, generator: Optional[torch.Generator]) -> Optional[_Bank]:
    """``n`` valid voxels of other pairs, whose places have nothing to do with this one's."""
    if n == 0 or not views:
        return None
    vectors = torch.cat([view.vectors[view.usable()] for view in views])
    return _Bank(vectors[_shuffled(len(vectors), generator)[:n].to(vectors.device)], None)


def _distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(len(a), len(b)) mm; not by the expanded square, which loses tenths of a millimeter far from the origin."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _shuffled(n: int, generator: Optional[torch.Generator]) -> torch.Tensor:
    return torch.randperm(n, generator=generator)
