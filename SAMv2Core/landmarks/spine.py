"""Which vertebra is which: the spine read as one chain.

Vertebrae look alike, and organs lie up to a level higher or lower in one patient than in another, so exemplars agree
on a wrong level, and runs of levels slip together: their ends are told rightly (by the first rib, the sacrum), the
middle follows the organs, and one vertebra bears two names while another has none. So all levels are read together. The
spine is a line through the candidates of all levels; along it runs, for each level, the mean similarity of its
exemplars. A hidden Markov model lays the names along the line: in their order, apart as in the exemplars, each where
its exemplars are similar. Names may lie beyond the ends of the scan; what lies beyond the ends of the chain and looks
like a vertebra wants a name. The posterior tells how sure a level is, and what else it might be.

Not in the paper. World LPS mm; the line runs from head to feet.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch

from SAMv2Core.embedding.embedding import Embedding
from SAMv2Core.landmarks.atlas import Atlas
from SAMv2Core.matching.robust import redescending, reweighted
from SAMv2Core.matching.similarity import lattice_vectors

VERTEBRA = re.compile(r"vertebra_([CTLS])(\d+)$")
ABOVE = {"C": 0, "T": 7, "L": 19, "S": 24}  # vertebrae above the first of a part
MIN_LEVELS = 3  # fewer are no chain
DEGREE = 4  # of the line's x and y in z; it lies 2 mm from the vertebrae's centers on average, 6 at most
STRAIGHTEN = 0.01
LINE_CANDIDATES, LINE_REJECT_MM = 8, 8.0
TUBE_MM = 12.0
STEP_MM = 2.0
EVIDENCE = 15.0
"""What a similarity of 1 adds to the logarithm of a chain's likelihood. 6 to 60 name the same levels of the training
patients; with 15 the posterior is worth most (mean log likelihood of being right)."""
GAP_SPREAD = 0.07
"""Of the logarithm of a distance between neighbors, over the exemplars' mean, between patients."""
GAPS = (0.6, 1.5)
NAMED, UNNAMED = 0.1, 0.2
"""Below the similarity of most vertebrae of the scan: where a name gains nothing, and where its lack costs nothing.
With 0.05 to 0.15 and 0.1 to 0.3 the training patients' levels are as right within two in a hundred."""
NEVER = -1e9


@dataclass(frozen=True, eq=False)
class Level:
    """One name on the line.

    :param rows: (M,) of the atlas, with the most similar place near the level for each: ``places_lps`` (M, 3) and
        ``similarity`` (M,).
    :param probability: posterior, 0..1, that it is this vertebra.
    :param neighbor: the name of the level that it else might be.
    """

    rows: np.ndarray
    places_lps: np.ndarray
    similarity: np.ndarray
    probability: float
    neighbor: str


def vertebrae(names: Sequence[str]) -> List[str]:
    """The names of vertebrae among some, each once, from head to feet."""
    return sorted({name for name in names if VERTEBRA.match(name)}, key=_number)


def _number(name: str) -> int:
    """Of a vertebra, counted from the head."""
    part, number = VERTEBRA.match(name).groups()  # type: ignore[union-attr]
    return ABOVE[part] + int(number)


def read_spine(emb: Embedding, atlas: Atlas, places: np.ndarray, similarity: np.ndarray) -> Dict[str, Optional[Level]]:
    """Every vertebra of an atlas in a scan; None for one that lies beyond it.

    :param places: (N, C, 3) LPS mm, candidates of each row of the atlas, with their ``similarity`` (N, C).
    :returns: empty when the atlas knows too few levels, or the scan shows no spine.
    """
    names = vertebrae(atlas.names)
    gaps = _gaps(atlas, names)
    if gaps is None:
        return {}
    rows = np.flatnonzero(np.isin(atlas.names, names))
    level_of = np.array([names.index(atlas.names[row]) for row in rows])
    tube, voxels = _tube(emb, places[rows, :LINE_CANDIDATES], similarity[rows, :LINE_CANDIDATES])
    if not len(tube):
        return {}
    vectors = torch.from_numpy(atlas.vectors[rows].astype(np.float32))
    cosine = (vectors @ lattice_vectors(emb, tube).cpu().T).numpy()
    arc, arc_of_voxel, profile = _along(voxels, float(emb.fine.grid.spacing_ijk_mm.max()), cosine)
    if len(arc) < 2:
        return {}
    mean = np.array([profile[level_of == level].mean(axis=0) for level in range(len(names))])
    chain, posterior = _chain(arc, mean, gaps)
    found: Dict[str, Optional[Level]] = dict.fromkeys(names)
    reach = np.append(gaps, gaps[-1]) / 2
    for level, at in chain.items():
        near = np.abs(arc - arc[at]) < reach[level]
        probable = posterior[:, near].sum(axis=1)
        others = [other for other in (level - 1, level + 1) if 0 <= other < len(names)]
        other = max(others, key=lambda one: probable[one])
        mine = np.flatnonzero(level_of == level)
        inside = np.flatnonzero(np.abs(arc_of_voxel - arc[at]) < reach[level])
        if not len(inside):  # the body has a gap there
            continue
        best = inside[cosine[np.ix_(mine, inside)].argmax(axis=1)]
        probability = float(min(probable[level], 1.0))
        found[names[level]] = Level(rows[mine], voxels[best], cosine[mine, best], probability, names[other])
    return found


def _gaps(atlas: Atlas, names: Sequence[str]) -> Optional[np.ndarray]:
    """(n - 1,) mm, mean distances of neighbors in the exemplars; where none shows both, by what is known nearest."""
    if len(names) < MIN_LEVELS:
        return None
    place = dict(zip(zip(atlas.exemplars, atlas.names), atlas.positions_lps))
    steps = np.maximum(np.diff([_number(name) for name in names]), 1)  # T13 and L1 are one number
    exemplars = sorted(set(atlas.exemplars))
    one_level = {}  # mm from one level to the next, which neighbors in the atlas need not be
    for number, (one, other) in enumerate(zip(names, names[1:])):
        both = [exemplar for exemplar in exemplars if {(exemplar, one), (exemplar, other)} <= set(place)]
        if both:
            gap = np.mean([np.linalg.norm(place[e, one] - place[e, other]) for e in both])
            one_level[number] = gap / steps[number]
    if not one_level:
        return None
    return steps * np.interp(np.arange(len(steps)), list(one_level), list(one_level.values()))


def _tube(emb: Embedding, places: np.ndarray, similarity: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Fine voxels near the line of the spine: (M,) flat indices and (M, 3) LPS mm."""
    there = similarity > -1
    points, trust = places[there], np.clip(similarity[there], 0.05, 1) ** 8
    center, scale = points[:, 2].mean(), max(float(points[:, 2].std()), 1.0)
    reach = points[:, 2].min() - 30, points[:, 2].max() + 30  # mm; polynomials run away

    def design(z: np.ndarray) -> np.ndarray:
        return np.vander((np.clip(z, *reach) - center) / scale, DEGREE + 1)

    def weigh(size: np.ndarray) -> np.ndarray:
        return trust * redescending(size, max(LINE_REJECT_MM, float(np.median(size))))

    # The slope is drawn a little, too: in a single slice it is not known.
    straight = STRAIGHTEN * np.diag([1.0] * (DEGREE - 1) + [1e-4, 0.0]) * len(points)
    middle = np.average(points[:, :2], axis=0, weights=trust)
    size = np.linalg.norm(points[:, :2] - middle, axis=1)
    line, _ = reweighted(design(points[:, 2]), points[:, :2], straight, size, weigh, n_iterations=15, is_share=True)
    flat = np.flatnonzero(emb.body)
    voxels = emb.fine.grid.to_lps(np.stack(np.unravel_index(flat, emb.fine.grid.shape_zyx)[::-1], axis=1))
    near = np.linalg.norm(voxels[:, :2] - design(voxels[:, 2]) @ line, axis=1) < TUBE_MM
    return flat[near], voxels[near]


def _along(voxels: np.ndarray, thick_mm: float, cosine: np.ndarray) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(S,) mm along the line, (M,) mm of each voxel, and (N, S) the best cosine at each step of the line."""
    depth = voxels[:, 2].max() - voxels[:, 2]
    slices, slice_of = np.unique(np.round(depth / thick_mm), return_inverse=True)
    order = np.argsort(slice_of, kind="stable")
    first = np.searchsorted(slice_of[order], np.arange(len(slices)))
    best = np.maximum.reduceat(cosine[:, order], first, axis=1)
    centers = np.add.reduceat(voxels[order], first, axis=0) / np.diff(np.append(first, len(order)))[:, None]
    arc_of_slice = np.append(0, np.cumsum(np.linalg.norm(np.diff(centers, axis=0), axis=1)))
    arc = np.arange(0, arc_of_slice[-1] + 1e-6, STEP_MM)
    profile = np.array([np.interp(arc, arc_of_slice, row) for row in best])
    return arc, arc_of_slice[slice_of], profile


def _chain(arc: np.ndarray, mean: np.ndarray, gaps: np.ndarray) -> Tuple[Dict[int, int], np.ndarray]:
    """The likeliest chain, level to step of the line, and (n, S) the posterior of each level at each step.

    :param mean: (n, S) similarity of each level along the line.
    """
    best = mean.max(axis=0)
    usual = float(np.quantile(best, 0.75))
    evidence = EVIDENCE * (mean - usual + NAMED)
    lack = -EVIDENCE * np.maximum(best - usual + UNNAMED, 0) * STEP_MM / gaps.mean()
    before = np.append(0, np.cumsum(lack))
    reach = 0.6 * np.append(gaps, gaps[-1])[:, None]
    above = np.interp(arc[None] - reach, arc, before[:-1], left=0)
    below = before[-1] - np.interp(arc[None] + reach + STEP_MM, arc, before[:-1], right=before[-1])
    ahead = arc[None, :] - arc[:, None]  # from step to step
    moves = []
    for gap in gaps:
        ratio = np.maximum(ahead, 1e-3) / gap
        cost = -0.5 * (np.log(ratio) / GAP_SPREAD) ** 2
        moves.append(np.where((ratio > GAPS[0]) & (ratio < GAPS[1]), cost, NEVER))
    likeliest = _forward(evidence, above, moves, np.maximum)
    chain: Dict[int, int] = {}
    level, at = np.unravel_index(int((likeliest + below).argmax()), mean.shape)
    while True:
        chain[int(level)] = int(at)
        if level == 0:
            break
        ways = likeliest[level - 1] + moves[level - 1][:, at]
        if ways.max() < above[level, at]:
            break
        level, at = level - 1, ways.argmax()
    forward = _forward(evidence, above, moves, np.logaddexp)
    turned = [move.T for move in moves[::-1]]
    backward = _forward(evidence[::-1], below[::-1], turned, np.logaddexp)[::-1]
    joint = forward + backward - evidence
    return chain, np.exp(joint - np.logaddexp.reduce((forward + below).ravel()))


def _forward(evidence: np.ndarray, start: np.ndarray, moves: Sequence[np.ndarray], merge: np.ufunc) -> np.ndarray:
    """(n, S) the best, or the sum, of all chains that end at a level and a step; they begin anywhere."""
    out = evidence + start
    for level, move in enumerate(moves, 1):
        ways = merge.reduce(out[level - 1][:, None] + move, axis=0)
        out[level] = evidence[level] + merge(ways, start[level])
    return out
