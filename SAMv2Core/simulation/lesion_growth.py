"""Lesions that grow, shrink or vanish between two time points: part of a simulated follow-up.

A growing lesion pushes the tissue around it aside, a shrinking one lets it come closer: along every ray from the
center, the lesion's radius is stretched by the growth and the next few centimeters make up for it. So the center stays
the lesion's center, and tissue farther than :data:`REACH` radii does not move. A vanished lesion is filled with what
surrounds it, mirrored at its surface. Intensities are the scan's own; no texture is invented.

Conventions: LPS mm in the follow-up's world, arrays (z, y, x).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Sequence, Tuple

import numpy as np
from scipy import ndimage

from SAMv2Core.errors import UsageError
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.lesion import Lesion

REACH = 2.0
"""Tissue moves within this many of the larger of both radii."""

RIM_MM = 2.0
"""A lesion's surface is blurred this far out; a vanished one is filled from beyond."""

STABLE = 0.2
"""RECIST's reading: a change of the diameter below 20 % is no change."""


@dataclass(frozen=True)
class LesionOptions:
    """What becomes of lesions; the defaults change nothing.

    :param growth: range of the factor on the diameter, drawn uniformly in its logarithm.
    :param vanish: share of the lesions that disappear.
    """

    growth: Tuple[float, float] = (1.0, 1.0)
    vanish: float = 0.0

    def __post_init__(self) -> None:
        low, high = self.growth
        if not (0.2 <= low <= high <= 3.0):
            raise UsageError(f"A growth of {low:g} to {high:g} cannot be simulated.", "Stay within 0.2 and 3.")
        if not 0 <= self.vanish <= 1:
            raise UsageError(f"A share of {self.vanish:g} cannot vanish.", "Give a number from 0 to 1.")


@dataclass(frozen=True, eq=False)
class LesionChange:
    """What became of one lesion.

    :param label: the lesion's.
    :param center_lps: (3,) LPS mm in the follow-up.
    :param diameter_mm: there; 0 when it has vanished.
    :param growth: factor on the diameter by which the lesion itself changed, apart from the patient's size.
    """

    label: str
    center_lps: np.ndarray
    diameter_mm: float
    growth: float

    @property
    def kind(self) -> str:
        """``vanished``, ``grown``, ``shrunk`` or ``stable``."""
        if self.growth == 0:
            return "vanished"
        return "grown" if self.growth > 1 + STABLE else "shrunk" if self.growth < 1 - STABLE else "stable"


def draw_changes(
    lesions: Sequence[Lesion], moved_lps: np.ndarray, size: float, options: LesionOptions, rng: np.random.Generator
) -> List[LesionChange]:
    """What becomes of each lesion of known diameter; the others are left as they are and out of the list.

    :param moved_lps: (n, 3) the lesions' centers in the follow-up.
    :param size: factor of the patient's overall size.
    """
    changes = []
    for lesion, center in zip(lesions, moved_lps):
        growth = float(np.exp(rng.uniform(*np.log(options.growth))))
        growth = 0.0 if rng.uniform() < options.vanish else growth
        if lesion.diameter_mm is not None:
            changes.append(LesionChange(lesion.label, center, lesion.diameter_mm * size * growth, growth))
    return changes


def apply_changes(array: np.ndarray, grid: Grid, changes: Sequence[LesionChange], before_mm: Sequence[float]) -> None:
    """Grow, shrink or remove lesions in a volume, in place.

    :param array: (z, y, x) float32, the follow-up before any change of lesions.
    :param before_mm: the diameter that each lesion has in it.
    """
    for change, before in zip(changes, before_mm):
        if change.growth != 1.0:
            _change_one(array, grid, change, before / 2)


def _change_one(array: np.ndarray, grid: Grid, change: LesionChange, radius: float) -> None:
    reach = REACH * max(radius, change.diameter_mm / 2) + RIM_MM
    center = grid.to_ijk(change.center_lps)
    margin = reach * np.linalg.norm(grid.lps_to_ijk[:3, :3], axis=1)
    low = np.maximum(np.floor(center - margin), 0).astype(int)
    high = np.minimum(np.ceil(center + margin), grid.size_ijk - 1).astype(int) + 1
    if np.any(high <= low):  # outside the follow-up
        return
    box = tuple(slice(a, b) for a, b in zip(low[::-1], high[::-1]))
    k, j, i = np.meshgrid(*(np.arange(part.start, part.stop) for part in box), indexing="ij")
    relative = grid.to_lps(np.stack([i, j, k], axis=-1).reshape(-1, 3)) - change.center_lps
    relative[np.all(relative == 0, axis=1)] = (1e-3, 0, 0)  # the very center has no ray of its own
    distance = np.linalg.norm(relative, axis=1)
    source = _source_radius(distance, radius, change.diameter_mm / 2, reach)
    at = grid.to_ijk(change.center_lps + relative * (source / distance)[:, None])[:, ::-1].T
    values = ndimage.map_coordinates(array, at, order=1, mode="nearest")
    moved = (distance < reach).reshape(k.shape)
    array[box][moved] = values.reshape(k.shape)[moved]


def _source_radius(distance: np.ndarray, before: float, after: float, reach: float) -> np.ndarray:
    """(n,) where along its ray each voxel's value comes from."""
    if after == 0:  # mirrored at the surface; at the center, from twice the radius
        surface = before + RIM_MM
        return np.where(distance < surface, 2 * surface - distance, distance)
    inside = distance * before / after
    beyond = before + (distance - after) * (reach - before) / (reach - after)
    return np.where(distance < after, inside, np.where(distance < reach, beyond, distance))
