"""Two time points of one scan with lesions that stay, change, vanish, appear, merge and split; the truth is known.

Lesions are planted: soft-edged, slightly lopsided balls whose contrast suits the tissue they lie in. Those of the
baseline are put into the scan, those of the follow-up into the same scan *without* the baseline's, and only that one
is deformed and scanned anew (:mod:`SAMv2Core.simulation.simulate`). So a vanished lesion leaves the patient's own
tissue behind, and a new one comes into it. What is not simulated: texture, infiltration, necrosis, and that real
lesions pull on what is around them. Figures measured on such pairs are figures on simulated data.

Conventions: LPS mm; places and sizes of both time points in the baseline's world, before the deformation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
from scipy import ndimage

from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.lesion import Lesion, lesion_at
from SAMv2Core.io.volume import Volume
from SAMv2Core.simulation.acquisition import intensity_scale
from SAMv2Core.simulation.simulate import FOLLOW_UP, SimulatedFollowUp, SimulationOptions, simulate_follow_up

UNCHANGED, CHANGED, VANISHED, NEW, MERGED, SPLIT = "unchanged", "changed", "vanished", "new", "merged", "split"
KINDS = (UNCHANGED, CHANGED, VANISHED, NEW, MERGED, SPLIT)

NEIGHBORS, LONG = "neighbors", "long"
"""Two lesions that stay apart, one that stays in one piece: unchanged, and easily taken for merged and split."""

COUNTS: Dict[str, int] = {
    UNCHANGED: 5, NEIGHBORS: 2, LONG: 1, CHANGED: 4, VANISHED: 6, NEW: 4, MERGED: 2, SPLIT: 3,
}  # fmt: skip
"""Of one patient; merged ones and neighbors are pairs. In Longitudinal-CT a third of the lesions vanish, 18 % of the
later ones are new."""

EDGE_MM = 2.0
"""A lesion's surface is this soft."""

CHANGE = 0.2
"""RECIST's reading: less is no change of the diameter."""

_SMALLEST_MM, _LARGEST_MM, _MEDIAN_MM, _SPREAD = 4.0, 18.0, 8.0, 0.4  # radii
_APART_MM = 15.0
_TRIES = 4000


@dataclass(frozen=True, eq=False)
class Ball:
    """A lopsided ball: its center, its radii along three axes, and these axes as rows."""

    center_lps: np.ndarray
    radii_mm: np.ndarray
    axes: np.ndarray

    def membership(self, points_lps: np.ndarray) -> np.ndarray:
        """(n,) 0 outside to 1 inside, softly."""
        scaled = np.linalg.norm((points_lps - self.center_lps) @ self.axes.T / self.radii_mm, axis=-1)
        return np.clip((1 - scaled) * float(self.radii_mm.min()) / EDGE_MM + 0.5, 0, 1)


@dataclass(frozen=True, eq=False)
class Fate:
    """What becomes of one lesion, or of two that merge.

    :param kind: one of :data:`COUNTS`.
    :param before: the balls in the baseline, one lesion each; those of a long lesion or one that will split are one.
    :param after: the balls in the follow-up; those of merged lesions are one.
    :param contrast: of the lesion, in the scan's values.
    """

    kind: str
    before: Tuple[Ball, ...]
    after: Tuple[Ball, ...]
    contrast: float


@dataclass(frozen=True, eq=False)
class TrueLesion:
    """A lesion of the baseline and what is true of it in the follow-up.

    :param lps: (3,) its place in the follow-up's world, also of one that has vanished.
    :param growth: factor on the diameter by the lesion itself; NaN when it vanished, merged or split.
    :param partner: label of the lesion that it merges with, or "".
    """

    lesion: Lesion
    kind: str
    lps: np.ndarray
    growth: float
    partner: str = ""


@dataclass(frozen=True, eq=False)
class FatePair:
    """Baseline, follow-up and the truth.

    :param lesions: of the baseline, in order.
    :param new: lesions of the follow-up that the baseline does not have, and their true places in the baseline.
    """

    baseline: Volume
    follow_up: SimulatedFollowUp
    fates: Tuple[Fate, ...]
    lesions: Tuple[TrueLesion, ...]
    new: Tuple[Tuple[Lesion, np.ndarray], ...]


def simulate_fates(
    volume: Volume,
    seed: int = 0,
    options: SimulationOptions = FOLLOW_UP,
    counts: Optional[Dict[str, int]] = None,
) -> FatePair:
    """Plant lesions into both time points of a scan; as many of each kind as fit, up to ``counts``.

    :param volume: CT or MR; the follow-up is simulated with ``options``.
    """
    rng = np.random.default_rng([int(seed), 77])
    fates = draw_fates(volume, COUNTS if counts is None else counts, rng)
    baseline = planted(volume, [(fate.contrast, fate.before) for fate in fates])
    later = planted(volume, [(fate.contrast, fate.after) for fate in fates])
    follow_up = simulate_follow_up(later, options, seed)
    size = follow_up.drawn["scale"]
    lesions: List[TrueLesion] = []
    new: List[Tuple[Lesion, np.ndarray]] = []
    for fate in fates:
        if fate.kind == NEW:
            (ball,) = fate.after
            moved = follow_up.map_points(ball.center_lps[None])[0][0]
            new.append((lesion_at(f"new {len(new) + 1}", moved, size * _diameter((ball,))), ball.center_lps))
            continue
        groups = [(ball,) for ball in fate.before] if fate.kind in (MERGED, NEIGHBORS) else [fate.before]
        kind = UNCHANGED if fate.kind in (NEIGHBORS, LONG) else fate.kind
        labels = [f"lesion {len(lesions) + n + 1}" for n in range(len(groups))]
        for n, balls in enumerate(groups):
            center = np.mean([ball.center_lps for ball in balls], axis=0)
            growth = math.nan
            if kind in (UNCHANGED, CHANGED):
                growth = float(fate.after[0].radii_mm[0] / balls[0].radii_mm[0])
            partner = labels[1 - n] if fate.kind == MERGED else ""
            place = follow_up.map_points(center[None])[0][0]
            lesions.append(TrueLesion(lesion_at(labels[n], center, _diameter(balls)), kind, place, growth, partner))
    return FatePair(baseline, follow_up, tuple(fates), tuple(lesions), tuple(new))


def draw_fates(volume: Volume, counts: Dict[str, int], rng: np.random.Generator) -> List[Fate]:
    """Fates at places inside the body that keep apart from each other."""
    scale = intensity_scale(volume.array, volume.modality)
    array = np.where(np.isfinite(volume.array), volume.array, scale.air).astype(np.float32)
    spacing = volume.grid.spacing_ijk_mm[::-1]
    depth = ndimage.distance_transform_edt(np.pad(_filled(scale.body(array)), 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    smooth = ndimage.uniform_filter(array, np.maximum(np.rint(8 / spacing), 1).astype(int))
    candidates = np.argwhere(depth > 12.0)
    taken: List[Tuple[np.ndarray, float]] = []
    fates: List[Fate] = []
    for kind in [kind for kind, count in counts.items() for _ in range(count)]:
        for _ in range(_TRIES // 20):
            k, j, i = candidates[rng.integers(len(candidates))]
            radius = float(np.clip(np.exp(rng.normal(math.log(_MEDIAN_MM), _SPREAD)), _SMALLEST_MM, _LARGEST_MM))
            center = volume.grid.to_lps(np.array([[i, j, k]], dtype=float))[0]
            contrast = _contrast(float(smooth[k, j, i]), scale.per_hu, volume.modality, rng)
            reach = radius * (2.0 if kind in (UNCHANGED, CHANGED, VANISHED, NEW) else 3.0)
            is_free = all(np.linalg.norm(center - c) > reach + r + _APART_MM for c, r in taken)
            if contrast and depth[k, j, i] > reach and is_free:
                fates.append(Fate(kind, *_balls(kind, center, radius, rng), contrast))
                taken.append((center, reach))
                break
    return fates


def planted(volume: Volume, lesions: Sequence[Tuple[float, Sequence[Ball]]]) -> Volume:
    """The volume with lesions in it: (contrast, balls) each; overlapping balls are one body."""
    array = volume.array.astype(np.float32)
    for contrast, balls in lesions:
        for box, points in _boxes(volume.grid, balls):
            inside = np.max([ball.membership(points) for ball in balls], axis=0)
            array[box] += contrast * inside.reshape(array[box].shape)
    if volume.array.dtype.kind in "iu":
        limits = np.iinfo(volume.array.dtype)
        array = np.clip(np.rint(array), limits.min, limits.max)
    return replace(volume, array=array.astype(volume.array.dtype))


def _boxes(grid: Grid, balls: Sequence[Ball]) -> List[Tuple[Tuple[slice, ...], np.ndarray]]:
    """The box around all balls of a lesion, with the places of its voxels; empty without balls, or outside."""
    if not balls:
        return []
    reach = np.array([ball.radii_mm.max() + EDGE_MM for ball in balls])[:, None]
    margin = reach * np.linalg.norm(grid.lps_to_ijk[:3, :3], axis=1)
    centers = grid.to_ijk(np.array([ball.center_lps for ball in balls]))
    low = np.maximum(np.floor((centers - margin).min(axis=0)), 0).astype(int)
    high = np.minimum(np.ceil((centers + margin).max(axis=0)) + 1, grid.size_ijk).astype(int)
    if np.any(high <= low):
        return []
    k, j, i = np.meshgrid(*(np.arange(a, b) for a, b in zip(low[::-1], high[::-1])), indexing="ij")
    points = grid.to_lps(np.stack([i, j, k], axis=-1).reshape(-1, 3))
    return [(tuple(slice(a, b) for a, b in zip(low[::-1], high[::-1])), points)]


def _balls(
    kind: str, center: np.ndarray, radius: float, rng: np.random.Generator
) -> Tuple[Tuple[Ball, ...], Tuple[Ball, ...]]:
    """The balls of both time points."""
    axes = np.linalg.qr(rng.standard_normal((3, 3)))[0]

    def ball(at: np.ndarray, size: float) -> Ball:
        return Ball(at, size * lopsided, axes)

    lopsided = rng.uniform(0.85, 1.15, 3)
    along = axes[0]
    if kind in (UNCHANGED, CHANGED):
        growth = float(np.exp(rng.uniform(-0.12, 0.12)))
        if kind == CHANGED:
            growth = float(np.exp(rng.uniform(math.log(1.4), math.log(2.0))) ** rng.choice([-1, 1]))
        return (ball(center, radius),), (ball(center, growth * radius),)
    if kind == VANISHED:
        return (ball(center, radius),), ()
    if kind == NEW:
        return (), (ball(center, radius),)
    other = radius * float(rng.uniform(0.7, 1.0))
    apart = radius + other + float(rng.uniform(5.0, 9.0))
    ends = center - along * apart / 2, center + along * apart / 2
    joined = (ball(center - along * radius * 0.8, 1.1 * radius), ball(center + along * other * 0.8, 1.1 * other))
    parted = (ball(ends[0], radius), ball(ends[1], other))
    return {MERGED: (parted, joined), SPLIT: (joined, parted), NEIGHBORS: (parted, parted), LONG: (joined, joined)}[
        kind
    ]


def _diameter(balls: Sequence[Ball]) -> float:
    """Longest diameter of a body of balls, about."""
    if len(balls) == 1:
        return 2 * float(balls[0].radii_mm.max())
    ends = np.linalg.norm(balls[0].center_lps - balls[1].center_lps)
    return float(ends + sum(ball.radii_mm.max() for ball in balls))


def _contrast(mean: float, per_hu: float, modality: Optional[str], rng: np.random.Generator) -> float:
    """Of a lesion in tissue of this mean; 0 where none is planted (bone, air)."""
    if modality == "mr":
        return float(rng.choice([-1, 1]) * rng.uniform(40, 90) * per_hu)
    if mean < -950 or mean > 200:
        return 0.0
    if mean < -500:
        return float(rng.uniform(500, 750))  # a nodule in the lung
    if mean < -30:
        return float(rng.uniform(90, 140))  # a node in fat
    return float(rng.choice([-1, 1]) * rng.uniform(40, 90))


def _filled(mask: np.ndarray) -> np.ndarray:
    """The body with its lungs, slice by slice."""
    return np.array([ndimage.binary_fill_holes(piece) for piece in mask])
