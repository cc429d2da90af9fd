"""Pairs of views: of one scan (self-supervised), or of two patients joined by a cross-subject map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Tuple

import numpy as np
import torch

from Training.data.index import AIR, STORED_RANGE, to_network
from Training.views.geometry import (
    COARSE_MM,
    CONTEXT_MM,
    DETAIL_MM,
    ViewMap,
    ViewOptions,
    crop_coordinates,
    cut_plane,
    detail_offset,
    draw_map,
    sample_scan,
)
from Training.views.intensity import apply_look, draw_look
from Training.views.scans import Link, Scan, random_body_point

Box = Tuple[Tuple[int, int, int], float, torch.Tensor]
"""(size z, y, x; voxel mm; centre x, y, z mm) of a feature map in view coordinates."""


@dataclass
class Level:
    """One feature map's lattice in a view.

    :param box: where it lies.
    :param points: (d, h, w, 3) mm in the scan.
    :param body: (d, h, w) bool: inside the patient and not cut off.
    """

    box: Box
    points: torch.Tensor
    body: torch.Tensor


@dataclass
class View:
    """Crops of one view, ready for the network, and its two levels."""

    map: ViewMap
    context: torch.Tensor
    detail: torch.Tensor
    first8: Tuple[int, int, int]
    coarse: Level
    fine: Level
    labels: Optional[torch.Tensor]
    cut: Optional[Tuple[float, float]]


@dataclass
class Pair:
    """Two views and what joins their scans.

    :param links: maps between the scans (None: the same scan).
    :param scans: names of the two scans.
    :param known: points known in both scans (two patients), (K, 3) mm each.
    :param labels_agree: ids of labels that both scans bear; None: the same scan.
    """

    views: Tuple[View, View]
    links: Tuple[Optional[Link], Optional[Link]]
    scans: Tuple[str, str] = ("", "")
    known: Optional[Tuple[torch.Tensor, torch.Tensor]] = None
    labels_agree: Optional[torch.Tensor] = None

    def transfer(self, direction: int, points: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """Scan points of view ``direction`` to scan points of the other view, and which of them are trusted."""
        link = self.links[direction]
        if link is None:
            return points, torch.ones(len(points), dtype=torch.bool)
        return link.transfer(points)


def draw_self_pair(scan: Scan, rng: np.random.Generator, generator: torch.Generator, options: ViewOptions) -> Pair:
    """Two views of one scan that share at least one body point in their detail boxes."""
    seed = random_body_point(scan, rng)
    views = _draw_views((scan, scan), (seed, seed), rng, generator, options)
    return Pair(views, (None, None), (scan.name, scan.name))


def draw_cross_pair(
    scans: Tuple[Scan, Scan],
    links: Tuple[Link, Link],
    rng: np.random.Generator,
    generator: torch.Generator,
    options: ViewOptions,
    about_known: float = 0.0,
) -> Optional[Pair]:
    """Views of two patients about the same anatomy, or None when no supported point was drawn.

    :param about_known: probability that they lie about a point known in both, where there is one.
    """
    names = [name for name in scans[0].exact if name in scans[1].exact]
    known = None
    if names:
        both = [torch.tensor(np.array([scan.exact[name] for name in names]), dtype=torch.float32) for scan in scans]
        known = (both[0], both[1])
    ids = [scan.label_ids for scan in scans]
    agree = torch.tensor(sorted(ids[0] & ids[1]), dtype=torch.long)
    seeds = None
    if names and rng.random() < about_known:
        name = names[rng.integers(len(names))]
        seeds = (scans[0].exact[name], scans[1].exact[name])
    for _ in range(0 if seeds else 50):
        seed = random_body_point(scans[0], rng)
        moved, trusted = links[0].transfer(torch.tensor(seed, dtype=torch.float32)[None])
        if bool(trusted[0]):
            seeds = (seed, moved[0].numpy().astype(np.float64))
            break
    if seeds is None:
        return None
    views = _draw_views(scans, seeds, rng, generator, options)
    return Pair(views, links, (scans[0].name, scans[1].name), known, agree)


def _draw_views(scans, seeds, rng, generator, options) -> Tuple[View, View]:
    shift = np.array(options.shift_mm) / 2
    views: List[View] = []
    for scan, seed in zip(scans, seeds):
        view_map = draw_map(rng, seed + rng.uniform(-1, 1, 3) * shift, options)
        jitter = torch.tensor(rng.uniform(-16, 16, 3), dtype=torch.float32)
        u = view_map.to_view(torch.tensor(seed, dtype=torch.float32)[None])[0] + jitter
        views.append(make_view(scan, view_map, u, rng, generator, options))
    return views[0], views[1]


def make_view(
    scan: Scan,
    view_map: ViewMap,
    u_detail: torch.Tensor,
    rng: np.random.Generator,
    generator: torch.Generator,
    options: ViewOptions,
) -> View:
    """Read a scan through a view map, with the detail box about ``u_detail`` (view coordinates)."""
    offset, first8 = detail_offset(u_detail, options)
    draw = draw_look(scan.modality, options.other_contrast, rng)
    cut = cut_plane(rng, options)
    if cut is not None and not cut[0] + 24 < float(u_detail[2]) < cut[1] - 24:
        cut = None
    zero = torch.zeros(3)
    crops = []
    for array, spacing, size, centre in (
        (scan.hu4, CONTEXT_MM, options.context_size, zero),
        (scan.hu, DETAIL_MM, options.detail_size, offset),
    ):
        u = crop_coordinates(size, spacing, centre)
        p = view_map.to_scan(u.view(-1, 3)).view(u.shape) - (spacing - DETAIL_MM) / 2  # 4 mm voxel 0 lies at 1 mm
        hu = apply_look(sample_scan(array, spacing, p, AIR), draw, spacing / DETAIL_MM, generator)
        crops.append(to_network(_keep(hu, u[..., 2], cut, AIR).clamp(*STORED_RANGE)))
    halves = [tuple(n // 2 for n in size) for size in (options.context_size, options.detail_size)]
    coarse = _level(scan, view_map, (halves[0], COARSE_MM, zero), cut)  # type: ignore[arg-type]
    fine = _level(scan, view_map, (halves[1], CONTEXT_MM, offset), cut)  # type: ignore[arg-type]
    labels = None
    if scan.labels is not None:
        labels = sample_scan(scan.labels, DETAIL_MM, fine.points, 0.0, mode="nearest").round().long() * fine.body
    return View(view_map, crops[0], crops[1], first8, coarse, fine, labels, cut)


def _level(scan: Scan, view_map: ViewMap, box: Box, cut: Optional[Tuple[float, float]]) -> Level:
    u = crop_coordinates(*box)
    points = view_map.to_scan(u.view(-1, 3)).view(u.shape)
    body = sample_scan(scan.body4, CONTEXT_MM, points - 1.0, 0.0) > 0.5
    return Level(box, points, _keep(body, u[..., 2], cut, 0))


def _keep(image: torch.Tensor, u_z: torch.Tensor, cut: Optional[Tuple[float, float]], fill: float) -> torch.Tensor:
    """Replace what lies beyond the cut by ``fill``."""
    return image if cut is None else torch.where((u_z >= cut[0]) & (u_z <= cut[1]), image, torch.full_like(image, fill))
