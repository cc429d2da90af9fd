"""Estimates where the points of one training scan lie in another, with the network as it is now.

    python -m Training.patients.link WEIGHTS --data INDEX --out maps.pt [--groups ct hn] [--check]

One round of the iteration of :mod:`Training.patients.cross_map`: ordered pairs of training CTs of one group (all of a
small group, random ones of a large one) are matched forth and back on the coarse head; what returns is smoothed into a
map. Bodies that do not overlap give maps as well, of hundreds of matches that agree with each other and are all wrong;
so a pair keeps its map only where something besides the matches speaks for it:

* Two scans with known points (landmarks, organs) must share three of them. These are anchors of the map, and a match
  counts only as near as it can lie to where the anchors expect it.
* Without known points the matches must be as similar as true ones are (median cosine).

And no map may stretch the body beyond what patients differ by.

``--check`` tells the error of the maps at known points that were left out of them (four-fold). WEIGHTS is a weights
file, or a checkpoint of a light run.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import map_coordinates
from scipy.spatial.distance import cdist, pdist

from SAMv2Core.io.files import atomic_path
from SAMv2Core.matching.body_map import kernel_regression
from SAMv2Core.network.device import resolve_device
from SAMv2Core.network.lite import LiteNet
from Training.data.index import Entry, Index, read_index, to_network
from Training.data.landmarks import DOMES, region_of
from Training.engine.command import finish
from Training.export import load_trained
from Training.patients.cross_map import LATTICE_MM, CrossMap, fit_cross_map
from Training.patients.known_points import known_points, shared
from Training.views.geometry import COARSE_MM, DETAIL_MM

logger = logging.getLogger(__name__)

N_POINTS = 1000
RETURN_MM = 20.0  # a match that comes back this near agrees with itself; the coarse voxels are 8 mm
KNOWN_WEIGHT = 6.0  # of known points, beside matches that weigh their cosine
MAX_PAIRS = 600  # ordered pairs of a group; 23 scans have 506

MIN_SHARED = 3
REACH_MM, REACH_GROWTH = 40.0, 0.25  # how far from where the anchors expect it a match may lie, and per mm from them
FARTHEST_MM = 150.0  # from any anchor: beyond, nothing vouches for a match
ANCHOR_KERNEL_MM = 80.0

MIN_COSINE = 0.75
STRETCH = (0.6, 1.6)

NO_COMMON, TOO_FEW, DISSIMILAR, STRETCHED = "no common anatomy", "too few matches", "dissimilar", "stretched"


class Embedded(NamedTuple):
    """Coarse vectors (N, C) of a scan's body voxels, their places (N, 3) mm, its lattice, and its known points."""

    vectors: torch.Tensor
    points: np.ndarray
    lattice_zyx: Tuple[int, int, int]
    known: Dict[str, np.ndarray]


def embed(net: LiteNet, index: Index, entry: Entry) -> Embedded:
    """The coarse head of one prepared CT, on its body."""
    x = to_network(torch.from_numpy(index.array(entry.image_4mm).astype(np.float32)))[None, None]
    x = F.pad(x, [0, x.shape[4] % 2, 0, x.shape[3] % 2, 0, x.shape[2] % 2], mode="replicate")
    with torch.inference_mode():
        coarse = net.embed_context(x.to(next(net.parameters()).device))[1][0]
    body4 = torch.from_numpy(index.array(entry.body_4mm).astype(np.float32))[None, None]
    body = F.interpolate(body4, size=tuple(coarse.shape[1:]), mode="nearest")[0, 0] > 0.5
    points = torch.nonzero(body).flip(1).numpy() * COARSE_MM + (COARSE_MM - DETAIL_MM) / 2
    lattice = tuple(int(np.ceil(n * DETAIL_MM / LATTICE_MM)) + 1 for n in entry.shape_zyx)
    vectors = coarse[:, body.to(coarse.device)].T.bfloat16()
    return Embedded(vectors, points, lattice, known_points(index, entry))  # type: ignore[arg-type]


def nearest(
    vectors: torch.Tensor, bank: torch.Tensor, allowed: Optional[torch.Tensor] = None
) -> Tuple[np.ndarray, np.ndarray]:
    """Row of the bank most similar to each vector, and the cosine; in bfloat16, which is three times as fast.

    :param allowed: (N, M) bool, which rows may be the answer; a vector that may have none gets cosine -inf.
    """
    rows, cosines = [], []
    for start in range(0, len(vectors), 500):
        part = vectors[start : start + 500] @ bank.T
        if allowed is not None:
            part = part.masked_fill(~allowed[start : start + 500].to(part.device), float("-inf"))
        found = part.max(1)
        rows.append(found.indices)
        cosines.append(found.values)
    return torch.cat(rows).cpu().numpy(), torch.cat(cosines).float().cpu().numpy()


def expected(points: np.ndarray, a: np.ndarray, b: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Roughly where points lie by a few anchors alone, and how far a match may be from there.

    One scale for the whole body, and the anchors' shifts averaged with a wide kernel: three anchors give no more.

    :param points: (N, 3) mm of scan A. :param a: (K, 3) anchors there. :param b: (K, 3) the same places in B.
    :returns: (N, 3) mm of scan B, and (N,) mm; 0 beyond :data:`FARTHEST_MM` of all anchors.
    """
    scale = float(np.clip(np.median(pdist(b)) / max(np.median(pdist(a)), 1.0), 0.75, 1.33)) if len(a) > 1 else 1.0
    weights = np.ones(len(a))
    shift, _ = kernel_regression(a, b - scale * a, weights, points, ANCHOR_KERNEL_MM)
    away = cdist(points, a).min(axis=1)
    return scale * points + shift, np.where(away <= FARTHEST_MM, REACH_MM + REACH_GROWTH * away, 0.0)


def link(a: Embedded, b: Embedded, rng: np.random.Generator, leave_out: Sequence[str] = ()) -> Linked:
    """The map from scan A to scan B, or why there is none.

    :param leave_out: known points that take no part.
    """
    has_known = [bool(side.known) for side in (a, b)]
    names = [name for name in a.known if name in b.known and _is_anchor(name) and name not in leave_out]
    anchors_a, anchors_b = shared(a.known, b.known, names) if names else (np.zeros((0, 3)),) * 2
    if all(has_known) and len(anchors_a) < MIN_SHARED:
        return Linked(None, NO_COMMON)
    rows = rng.permutation(len(a.points))[:N_POINTS]
    allowed = None
    if len(anchors_a) >= MIN_SHARED:
        places, reach = expected(a.points[rows], anchors_a, anchors_b)
        rows, places, reach = rows[reach > 0], places[reach > 0], reach[reach > 0]
        near = torch.cdist(torch.from_numpy(places).float(), torch.from_numpy(b.points).float())
        allowed = near <= torch.from_numpy(reach).float()[:, None]
    there, cosine = nearest(a.vectors[torch.from_numpy(rows)], b.vectors, allowed)
    back, _ = nearest(b.vectors[torch.from_numpy(there)], a.vectors)
    returned = (np.linalg.norm(a.points[back] - a.points[rows], axis=1) <= RETURN_MM) & np.isfinite(cosine)
    if not returned.any():
        return Linked(None, TOO_FEW)
    source, target = a.points[rows][returned], b.points[there][returned]
    weights = np.clip(cosine[returned], 0.05, 1)
    if allowed is None and float(np.median(cosine[returned])) < MIN_COSINE:
        return Linked(None, DISSIMILAR)
    weights = np.r_[weights, np.full(len(anchors_a), KNOWN_WEIGHT)]
    source, target = np.r_[source, anchors_a], np.r_[target, anchors_b]
    cross_map = fit_cross_map(source, target, weights, a.lattice_zyx, n_fixed=len(anchors_a))
    if cross_map is None:
        return Linked(None, TOO_FEW)
    if not (STRETCH[0] <= cross_map.stretch[0] and cross_map.stretch[1] <= STRETCH[1]):
        return Linked(None, STRETCHED)
    return Linked(cross_map, "kept")


class Linked(NamedTuple):
    """:param verdict: ``kept``, or why there is no map."""

    cross_map: Optional[CrossMap]
    verdict: str


def _is_anchor(name: str) -> bool:
    return name.startswith("label ") or region_of(name) != DOMES


def left_out_errors(a: Embedded, b: Embedded, rng: np.random.Generator, n_folds: int = 4) -> List[float]:
    """Errors (mm) of the map at shared known points that took no part in it, where it is trusted."""
    names = [name for name in a.known if name in b.known and _is_anchor(name)]
    order = [names[i] for i in rng.permutation(len(names))]
    errors: List[float] = []
    for fold in range(n_folds):
        asked = order[fold::n_folds]
        cross_map = link(a, b, rng, asked).cross_map if asked else None
        if cross_map is not None:
            errors += map_errors(cross_map, *shared(a.known, b.known, asked))
    return errors


def map_errors(cross_map: CrossMap, points_a: np.ndarray, points_b: np.ndarray) -> List[float]:
    """Distance (mm) of mapped points from the truth, where the map is trusted."""
    index = (points_a / LATTICE_MM)[:, ::-1].T
    moved = np.stack([map_coordinates(cross_map.target[..., k], index, order=1, mode="nearest") for k in range(3)], 1)
    trusted = map_coordinates(cross_map.support, index, order=1) >= 1
    return [float(e) for e in np.linalg.norm(moved - points_b, axis=1)[trusted]]


def choose_pairs(index: Index, group: str, rng: np.random.Generator) -> List[Tuple[Entry, Entry]]:
    """Pairs of training CTs of a group, both directions of each; :data:`MAX_PAIRS` of a large one, at random."""
    members = [entry for entry in index.entries if entry.group == group and _takes_part(entry)]
    every = [(a, b) for n, a in enumerate(members) for b in members[n + 1 :]]
    chosen = [every[i] for i in rng.permutation(len(every))[: MAX_PAIRS // 2]]
    return [pair for a, b in chosen for pair in ((a, b), (b, a))]


def _takes_part(entry: Entry) -> bool:
    return entry.modality == "ct" and entry.split in ("train", None)


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--groups", nargs="+", help="of the index; default all")
    parser.add_argument("--check", action="store_true", help="tell the errors at known points that were left out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    return finish(
        lambda: make_links(
            args.weights, read_index(args.data), args.out, args.seed, args.device, args.groups, args.check
        ),
        out=args.out,
    )


def make_links(
    weights: Path,
    index: Index,
    out: Path,
    seed: int = 0,
    device: str = "auto",
    groups: Optional[Sequence[str]] = None,
    check: bool = False,
) -> None:
    """Write the maps of all chosen pairs, as :func:`Training.views.scans.load_links` reads them.

    :raises InputError: no CTs in the index. :raises ModelError: weights of another network.
    """
    net = load_trained(weights, "lite").to(resolve_device(device))
    maps: Dict[str, Dict[str, torch.Tensor]] = {}
    for group in groups or sorted({e.group for e in index.select(split="train", modality="ct") if _takes_part(e)}):
        maps.update(_group_links(net, index, group, seed, check))  # type: ignore[arg-type]
    with atomic_path(out) as temporary:
        torch.save(maps, temporary)


def _group_links(net: LiteNet, index: Index, group: str, seed: int, check: bool) -> Dict[str, Dict[str, torch.Tensor]]:
    rng = np.random.default_rng(seed)
    embedded: Dict[str, Embedded] = {}
    maps: Dict[str, Dict[str, torch.Tensor]] = {}
    errors: List[float] = []
    verdicts: Counter = Counter()
    pairs = choose_pairs(index, group, rng)
    for n, pair in enumerate(pairs):
        for entry in pair:
            if entry.name not in embedded:
                embedded[entry.name] = embed(net, index, entry)
        sides = embedded[pair[0].name], embedded[pair[1].name]
        cross_map, verdict = link(*sides, rng)
        verdicts[verdict] += 1
        if check:
            errors += left_out_errors(*sides, rng)
        if cross_map is not None:
            target, support = torch.from_numpy(cross_map.target), torch.from_numpy(cross_map.support)
            maps[f"{pair[0].name}|{pair[1].name}"] = {"target": target, "support": support}
        if (n + 1) % 100 == 0:
            logger.info("%s: %d of %d pairs, %d maps", group, n + 1, len(pairs), len(maps))
    logger.info("%s: %s", group, ", ".join(f"{verdict} {n}" for verdict, n in verdicts.most_common()))
    if errors:
        figures = float(np.median(errors)), float(np.mean(errors))
        logger.info("%s: %d left-out known points, median error %.1f mm, mean %.1f mm", group, len(errors), *figures)
    return maps


if __name__ == "__main__":
    sys.exit(main())
