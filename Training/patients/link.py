"""Estimates where the points of one training scan lie in another, with the network as it is now.

    python -m Training.patients.link WEIGHTS --data INDEX --out maps.pt

One round of the iteration of :mod:`Training.patients.cross_map`: ordered pairs of training CTs of one group (all of a
small group, random ones of a large one) are matched forth and back on the coarse head; what returns is smoothed into a
map. Landmarks beside the scans (``NAME.landmarks.json``) and label centroids join the matches with a high weight. The
error of the maps at these points *before* they join is logged. WEIGHTS is a weights file, or a checkpoint of a light
run.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import find_objects, map_coordinates

from SAMv2Core.io.files import atomic_path
from SAMv2Core.network.device import resolve_device
from SAMv2Core.network.lite import LiteNet
from Training.data.index import Entry, Index, read_index, to_network
from Training.engine.command import finish
from Training.export import load_trained
from Training.patients.cross_map import LATTICE_MM, CrossMap, fit_cross_map
from Training.views.geometry import COARSE_MM, DETAIL_MM

logger = logging.getLogger(__name__)

N_POINTS = 1000
RETURN_MM = 20.0  # a match that comes back this near agrees with itself; the coarse voxels are 8 mm
KNOWN_WEIGHT = 6.0  # of landmarks and label centroids, beside matches that weigh their cosine
MIN_SURE = 0.75
MIN_LABEL_VOXELS = 30
MAX_PAIRS = 400  # ordered pairs of a group


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


def landmark_path(entry: Entry) -> Path:
    """Where a scan's hand-placed landmarks lie, if it has any."""
    source = Path(entry.source)
    return source.with_name(source.name.split(".")[0] + ".landmarks.json")


def known_points(index: Index, entry: Entry) -> Dict[str, np.ndarray]:
    """Sure landmarks beside the scan and whole labels' centroids, (3,) x, y, z mm from voxel 0, by name."""
    known: Dict[str, np.ndarray] = {}
    path = landmark_path(entry)
    if path.exists():
        for key, landmark in json.loads(path.read_text(encoding="utf-8"))["landmarks"].items():
            if landmark["sure"] >= MIN_SURE:
                known[key] = entry.grid.to_ijk(np.array([landmark["lps"]]))[0] * DETAIL_MM
    if entry.labels is not None:
        labels = np.asarray(index.array(entry.labels))
        for label, box in enumerate(find_objects(labels), start=1):
            if box is None or box[0].start <= 1 or box[0].stop >= labels.shape[0] - 1:
                continue  # cut by the first or last slice: no meaningful centroid
            voxels = np.argwhere(labels[box] == label)
            if len(voxels) > MIN_LABEL_VOXELS:
                known[f"label {label}"] = (voxels.mean(0) + [s.start for s in box])[::-1] * DETAIL_MM
    return known


def nearest(vectors: torch.Tensor, bank: torch.Tensor) -> Tuple[np.ndarray, np.ndarray]:
    """Row of the bank most similar to each vector, and the cosine; in bfloat16, which is three times as fast."""
    found = [(part @ bank.T).max(1) for part in vectors.split(500)]
    return (
        torch.cat([f.indices for f in found]).cpu().numpy(),
        torch.cat([f.values for f in found]).float().cpu().numpy(),
    )


def link(a: Embedded, b: Embedded, rng: np.random.Generator) -> Tuple[Optional[CrossMap], List[float]]:
    """The map from scan A to scan B or None, and its errors (mm) at known points before these joined."""
    rows = rng.permutation(len(a.points))[:N_POINTS]
    there, cosine = nearest(a.vectors[torch.from_numpy(rows)], b.vectors)
    back, _ = nearest(b.vectors[torch.from_numpy(there)], a.vectors)
    returned = np.linalg.norm(a.points[back] - a.points[rows], axis=1) <= RETURN_MM
    source, target = a.points[rows][returned], b.points[there][returned]
    weights = np.clip(cosine[returned], 0.05, 1)
    cross_map = fit_cross_map(source, target, weights, a.lattice_zyx)
    common = [key for key in a.known if key in b.known]
    if cross_map is None or not common:
        return cross_map, []
    known_a, known_b = (np.array([side.known[key] for key in common]) for side in (a, b))
    errors = _errors(cross_map, known_a, known_b)
    weights = np.r_[weights, np.full(len(common), KNOWN_WEIGHT)]
    return fit_cross_map(np.r_[source, known_a], np.r_[target, known_b], weights, a.lattice_zyx), errors


def _errors(cross_map: CrossMap, points_a: np.ndarray, points_b: np.ndarray) -> List[float]:
    """Distance (mm) of mapped points from the truth, where the map is trusted."""
    index = (points_a / LATTICE_MM)[:, ::-1].T
    moved = np.stack([map_coordinates(cross_map.target[..., k], index, order=1, mode="nearest") for k in range(3)], 1)
    trusted = map_coordinates(cross_map.support, index, order=1) >= 1
    return [float(e) for e in np.linalg.norm(moved - points_b, axis=1)[trusted]]


def choose_pairs(index: Index, rng: np.random.Generator) -> List[Tuple[Entry, Entry]]:
    """Pairs of training CTs of one group, both directions of each; :data:`MAX_PAIRS` of a large group, at random."""
    entries = index.select(split="train", modality="ct")
    pairs: Dict[Tuple[str, str], Tuple[Entry, Entry]] = {}
    for group in sorted({entry.group for entry in entries}):
        members = [entry for entry in entries if entry.group == group]
        every = [(a, b) for n, a in enumerate(members) for b in members[n + 1 :]]
        for a, b in [every[i] for i in rng.permutation(len(every))[: MAX_PAIRS // 2]]:
            pairs[a.name, b.name], pairs[b.name, a.name] = (a, b), (b, a)
    return list(pairs.values())


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    return finish(
        lambda: make_links(args.weights, read_index(args.data), args.out, args.seed, args.device), out=args.out
    )


def make_links(weights: Path, index: Index, out: Path, seed: int = 0, device: str = "auto") -> None:
    """Write the maps of all chosen pairs, as :func:`Training.views.scans.load_links` reads them.

    :raises InputError: no CTs in the index. :raises ModelError: weights of another network.
    """
    net = load_trained(weights, "lite").to(resolve_device(device))
    rng = np.random.default_rng(seed)
    embedded: Dict[str, Embedded] = {}
    maps: Dict[str, Dict[str, torch.Tensor]] = {}
    errors: Dict[str, List[float]] = {}
    pairs = choose_pairs(index, rng)
    for n, pair in enumerate(pairs):
        for entry in pair:
            if entry.name not in embedded:
                embedded[entry.name] = embed(net, index, entry)  # type: ignore[arg-type]
        cross_map, found = link(embedded[pair[0].name], embedded[pair[1].name], rng)
        errors.setdefault(pair[0].group, []).extend(found)
        if cross_map is not None:
            target, support = torch.from_numpy(cross_map.target), torch.from_numpy(cross_map.support)
            maps[f"{pair[0].name}|{pair[1].name}"] = {"target": target, "support": support}
        if (n + 1) % 100 == 0:
            logger.info("%d of %d pairs, %d maps", n + 1, len(pairs), len(maps))
    with atomic_path(out) as temporary:
        torch.save(maps, temporary)
    for group, found in errors.items():
        if found:
            logger.info("%s: %d known points, median error %.1f mm", group, len(found), float(np.median(found)))


if __name__ == "__main__":
    sys.exit(main())
