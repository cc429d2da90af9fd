"""Estimates where the points of one training scan lie in another, with the network as it is now.

    python -m Training.link CHECKPOINT --data FOLDER --out maps.pt [--landmarks ROOT]

One round of the iteration of :mod:`Training.cross_subject`: every ordered pair of torsos, and random pairs of the other
groups, are matched forth and back on the coarse head; what returns is smoothed into a map. With ``--landmarks`` (the
folder that ``Training.prepare`` was given), ``*.landmarks.json`` beside the scans join the matches with a high weight,
and so do label centroids. The error of the maps at the landmarks *before* these join is logged.
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
from scipy.ndimage import map_coordinates

from SAMv2Core.network.lite import LiteNet
from Training.augment import to_network_scale
from Training.cross_subject import LATTICE_MM, CrossMap, fit_cross_map
from Training.views import COARSE_MM, DETAIL_MM

logger = logging.getLogger(__name__)

N_POINTS = 1000
RETURN_MM = 20.0  # a match that comes back this near agrees with itself; the coarse voxels are 8 mm
KNOWN_WEIGHT = 6.0  # of landmarks and label centroids, beside matches that weigh their cosine
MIN_SURE = 0.75
PAIRS = {"ct__train": None, "hn__train": 120, "ctmr__train": 30}
"""Ordered pairs per group; None means all."""


class Embedded(NamedTuple):
    """Coarse vectors (N, C) of a scan's body voxels, their places (N, 3) mm, its lattice, and its known points."""

    vectors: torch.Tensor
    points: np.ndarray
    lattice_zyx: Tuple[int, int, int]
    known: Dict[str, np.ndarray]


def embed(net: LiteNet, path: Path, landmark_root: Optional[Path]) -> Embedded:
    """The coarse head of one prepared scan, on its body."""
    stored = np.load(path)
    hu4 = torch.from_numpy(stored["hu4"].astype(np.float32))
    x = to_network_scale(hu4)[None, None]
    x = F.pad(x, [0, x.shape[4] % 2, 0, x.shape[3] % 2, 0, x.shape[2] % 2], mode="replicate")
    with torch.inference_mode():
        coarse = net.embed_context(x)[1][0]
    body4 = torch.from_numpy(stored["body4"]).float()[None, None]
    body = F.interpolate(body4, size=tuple(coarse.shape[1:]), mode="nearest")[0, 0] > 0.5
    points = torch.nonzero(body).flip(1).numpy() * COARSE_MM + (COARSE_MM - DETAIL_MM) / 2
    lattice = tuple(int(np.ceil(n * DETAIL_MM / LATTICE_MM)) + 1 for n in stored["hu"].shape)
    known = _known_points(stored, path.stem, landmark_root)
    return Embedded(coarse[:, body].T.bfloat16(), points, lattice, known)  # type: ignore[arg-type]


def _known_points(stored, name: str, root: Optional[Path]) -> Dict[str, np.ndarray]:
    """Sure landmarks and whole labels' centroids, mm from voxel 0; names carry the group, as label ids do not."""
    known: Dict[str, np.ndarray] = {}
    path = root / f"{name.replace('__', '/')}.landmarks.json" if root else None
    if path is not None and path.exists():
        for key, entry in json.loads(path.read_text())["landmarks"].items():
            if entry["sure"] >= MIN_SURE:
                known[key] = np.array(entry["lps"]) - stored["origin"]
    if "labels" in stored.files:
        for label in np.unique(stored["labels"])[1:]:
            index = np.argwhere(stored["labels"] == label)
            cut = index[:, 0].min() <= 1 or index[:, 0].max() >= stored["labels"].shape[0] - 2
            if len(index) > 30 and not cut:
                known[f"{name.split('__')[0]} label {label}"] = index.mean(0)[::-1] * DETAIL_MM
    return known


def nearest(vectors: torch.Tensor, bank: torch.Tensor) -> Tuple[np.ndarray, np.ndarray]:
    """Row of the bank most similar to each vector, and the cosine; in bfloat16, which is three times as fast."""
    found = [(part @ bank.T).max(1) for part in vectors.split(500)]
    return (
        torch.cat([f.indices for f in found]).numpy(),
        torch.cat([f.values for f in found]).float().numpy(),
    )


def link(a: Embedded, b: Embedded, rng: np.random.Generator) -> Tuple[Optional[CrossMap], List[float]]:
    """The map from scan A to scan B or None, and its errors (mm) at known points before these joined."""
    rows = rng.permutation(len(a.points))[:N_POINTS]
    there, cosine = nearest(a.vectors[rows], b.vectors)
    back, _ = nearest(b.vectors[there], a.vectors)
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


def choose_pairs(folder: Path, rng: np.random.Generator) -> List[Tuple[Path, Path]]:
    """All ordered pairs of torsos, random ones of the other groups."""
    pairs: List[Tuple[Path, Path]] = []
    for group, n in PAIRS.items():
        paths = sorted(folder.glob(f"{group}*.npz"))
        every = [(a, b) for a in paths for b in paths if a != b]
        pairs += every if n is None else [every[i] for i in rng.permutation(len(every))[:n]]
    return pairs


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--landmarks", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    net = LiteNet()
    net.load_state_dict(torch.load(args.checkpoint, map_location="cpu", weights_only=True)["average"])
    net.eval()
    rng = np.random.default_rng(args.seed)
    embedded: Dict[Path, Embedded] = {}
    maps: Dict[str, Dict[str, torch.Tensor]] = {}
    errors: List[float] = []
    # Both directions, because a pair of views needs both.
    pairs = dict.fromkeys(p for a, b in choose_pairs(args.data, rng) for p in ((a, b), (b, a)))
    for n, (first, second) in enumerate(pairs):
        for path in (first, second):
            if path not in embedded:
                embedded[path] = embed(net, path, args.landmarks)
        cross_map, found = link(embedded[first], embedded[second], rng)
        errors += found
        if cross_map is not None:
            target, support = torch.from_numpy(cross_map.target), torch.from_numpy(cross_map.support)
            maps[f"{first.stem}|{second.stem}"] = {"target": target, "support": support}
        if (n + 1) % 50 == 0:
            logger.info("%d of %d pairs, %d maps", n + 1, len(pairs), len(maps))
    torch.save(maps, args.out)
    if errors:
        logger.info("known points: %d, median error %.1f mm", len(errors), float(np.median(errors)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
