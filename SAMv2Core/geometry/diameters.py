"""Diameters as radiologists measure them: in one slice of the scan, the longest line and the longest across it.

RECIST 1.1 (Eisenhauer et al., Eur J Cancer 2009, 45:228) takes the longest diameter in the plane of acquisition, and of
lymph nodes the short axis, perpendicular to it in the same slice. The plane is the axial one of the sampled grid, for
only there a line can be seen and checked; slices in between are not made up.

Conventions: LPS mm; ijk = (x, y, z) indices of voxels, whose outlines are their corners, not their centers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple

import numpy as np
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist, squareform

from SAMv2Core.geometry.grid import Grid, canonical_axes


@dataclass(frozen=True, eq=False)
class SliceAxes:
    """Both axes of a lesion in the slice where the long one is longest.

    :param long_lps: (2, 3) ends of the longest line.
    :param short_lps: (2, 3) ends of the longest line across it, in the same slice.
    """

    long_lps: np.ndarray
    short_lps: np.ndarray

    @property
    def long_mm(self) -> float:
        return float(np.linalg.norm(self.long_lps[1] - self.long_lps[0]))

    @property
    def short_mm(self) -> float:
        return float(np.linalg.norm(self.short_lps[1] - self.short_lps[0]))


def slice_axis(grid: Grid) -> int:
    """Which of i, j, k counts the axial slices: the one that runs along the patient."""
    return canonical_axes(grid.ijk_to_lps)[0][2]


def axes_in_slice(ijk: np.ndarray, grid: Grid) -> SliceAxes:
    """Long and short axis of some voxels, in the axial slice where the long one is longest.

    :param ijk: (n, 3) int, n >= 1. The lines are those of each slice's convex hull.
    """
    across = slice_axis(grid)
    in_plane = [axis for axis in range(3) if axis != across]
    basis, steps = _plane(grid, in_plane)
    best: Tuple[float, np.ndarray, int] = (-1.0, np.zeros((1, 2)), 0)
    for number in np.unique(ijk[:, across]):
        pixels = ijk[ijk[:, across] == number][:, in_plane]
        outline = _outline(pixels) @ steps.T
        longest = float(pdist(outline).max())
        if longest > best[0]:
            best = (longest, outline, int(number))
    _, outline, number = best
    origin = grid.to_lps(np.eye(3)[across] * number)
    first, last = np.unravel_index(np.argmax(squareform(pdist(outline))), (len(outline),) * 2)
    long = outline[[first, last]]
    return SliceAxes(origin + long @ basis, origin + _longest_across(outline, long[1] - long[0]) @ basis)


def in_slice(ends_lps: np.ndarray, grid: Grid) -> np.ndarray:
    """A line laid into the axial slice nearest to its middle: what is left of it when looked at along the slices.

    :param ends_lps: (2, 3); a line along the patient, which has no length there, is left as it is.
    """
    ijk = grid.to_ijk(np.asarray(ends_lps, dtype=np.float64))
    across = slice_axis(grid)
    number = np.clip(np.rint(ijk[:, across].mean()), 0, grid.size_ijk[across] - 1)
    first, second = (grid.ijk_to_lps[:3, axis] for axis in range(3) if axis != across)
    normal = np.cross(first, second)
    normal /= np.linalg.norm(normal)
    on_plane = grid.to_lps(np.eye(3)[across] * number)
    flat = ends_lps - np.outer((ends_lps - on_plane) @ normal, normal)
    return flat if np.linalg.norm(flat[1] - flat[0]) > 1e-3 else np.array(ends_lps, dtype=np.float64)


def _plane(grid: Grid, in_plane: list) -> Tuple[np.ndarray, np.ndarray]:
    """((2, 3) perpendicular unit vectors of the slices, (2, 2) mm along them per step of both indices)."""
    vectors = grid.ijk_to_lps[:3, in_plane]
    first = vectors[:, 0] / np.linalg.norm(vectors[:, 0])
    second = vectors[:, 1] - (vectors[:, 1] @ first) * first
    basis = np.stack([first, second / np.linalg.norm(second)])
    return basis, basis @ vectors


def _outline(pixels: np.ndarray) -> np.ndarray:
    """(n, 2) corners of the convex hull of pixels, counterclockwise, in pixels."""
    corners = np.concatenate([pixels + 0.5 * np.array(sign) for sign in ((-1, -1), (-1, 1), (1, -1), (1, 1))])
    try:
        return corners[ConvexHull(corners).vertices]
    except QhullError:  # cannot happen with corners of a pixel, but rounding has its own mind
        low, high = corners.min(axis=0), corners.max(axis=0)
        return np.array([low, (high[0], low[1]), high, (low[0], high[1])])


def _longest_across(outline: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """(2, 2) ends of the longest chord of a convex outline that is perpendicular to a direction.

    How long a chord is changes linearly between two corners, so the longest one ends in a corner.
    """
    along = direction / np.linalg.norm(direction)
    turned = outline @ np.stack([along, [-along[1], along[0]]]).T  # (n, 2): along, across
    following = np.roll(turned, -1, axis=0)
    best = np.zeros((2, 2))
    for place in turned[:, 0]:
        low, high = np.minimum(turned[:, 0], following[:, 0]), np.maximum(turned[:, 0], following[:, 0])
        meets = (low <= place + 1e-9) & (high >= place - 1e-9)
        a, b = turned[meets], following[meets]
        run = b[:, 0] - a[:, 0]
        is_flat = np.abs(run) < 1e-9
        share = np.where(is_flat, 0.0, (place - a[:, 0]) / np.where(is_flat, 1.0, run))
        across = np.concatenate([a[:, 1] + share * (b[:, 1] - a[:, 1]), b[is_flat, 1]])
        if np.ptp(across) > best[1, 1] - best[0, 1]:
            best = np.array([[place, across.min()], [place, across.max()]])
    return best @ np.stack([along, [-along[1], along[0]]])
