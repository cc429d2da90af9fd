"""The last millimeters of a tracked lesion, from the scans themselves at their full resolution.

Embeddings live on a lattice of 4 mm; the voxels know more. A ball of the baseline, the lesion and what surrounds it, is
moved over the neighborhood of the place found and compared by normalized cross-correlation, which ignores brightness
and contrast; from the best place on, it may also turn and stretch a little, for tissue does: a ball that is only moved
follows its rim, not its center. Not in the paper, and optional: where a lesion has changed a lot, its surroundings
decide, and where nothing correlates the place stays as it was. Status and confidence are the tracking's and do not
change.

For scans of one modality: between CT and MR brightness says nothing. Conventions: LPS mm; offsets within a ball are
(x, y, z) along the patient's axes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import List, Optional, Sequence, Tuple

import numpy as np
from scipy import ndimage

from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.lesion import Lesion
from SAMv2Core.io.volume import Volume
from SAMv2Core.tracking.finding import Finding

STEP_MM = 1.0
"""Lattice on which both scans are compared; coarser voxels are interpolated."""

SMOOTHING_STEPS = 1.0
"""Both are smoothed by so much first, against noise."""

SEARCH_MM = 6.0
"""How far a place is moved at most: what a good finding is off (simulated follow-ups: 97 % within)."""

REACH_OF_RADIUS, SMALLEST_REACH_MM, LARGEST_REACH_MM = 1.5, 10.0, 20.0
"""The ball compared reaches beyond the lesion; a small ball of one tissue fits everywhere."""

MIN_CORRELATION = 0.5
"""Below it the two places do not look alike and nothing is moved."""

PENALTY = 0.1
"""Correlation that a place at the end of the search gives up: without structure, stay."""

STRAIN = 0.15
"""Expected departure of the ball's linear map from the identity, per entry."""

N_ITERATIONS = 12


def refine_findings(
    findings: Sequence[Finding], lesions: Sequence[Lesion], baseline: Volume, follow_ups: Sequence[Volume]
) -> List[Finding]:
    """The findings, each place in a follow-up moved to where the scan looks most like the baseline.

    :param findings: of :func:`SAMv2Core.tracking.track.track`; what a person has verified stays where it is.
    :param lesions: those tracked, by label.
    :param baseline: and ``follow_ups``, in the findings' order of studies; of one modality.
    """
    lesion_of = {lesion.label: lesion for lesion in lesions}
    refined = []
    for finding in findings:
        moved = None
        if finding.study > 0 and finding.lps is not None and finding.evidence is not None:
            moved = refined_place(lesion_of[finding.label], baseline, follow_ups[finding.study - 1], finding.lps)
        refined.append(finding if moved is None else replace(finding, lps=moved))
    return refined


def refined_place(lesion: Lesion, baseline: Volume, follow_up: Volume, place_lps: np.ndarray) -> Optional[np.ndarray]:
    """(3,) LPS mm near ``place_lps`` where the follow-up looks most like the lesion's ball in the baseline.

    :returns: None where nothing correlates, or the best place is the end of the search (then it lies elsewhere).
    """
    reach = float(np.clip(REACH_OF_RADIUS * lesion.radius_mm, SMALLEST_REACH_MM, LARGEST_REACH_MM))
    n, search = round(reach / STEP_MM), round(SEARCH_MM / STEP_MM)
    template = sample_cube(baseline, lesion.center_lps, n)
    scene = sample_cube(follow_up, place_lps, n + search)
    steps = np.arange(-n, n + 1)
    ball = np.sum(np.square(np.stack(np.meshgrid(steps, steps, steps, indexing="ij"))), axis=0) <= n**2
    if not np.all(np.isfinite(template[ball])) or not np.all(np.isfinite(scene)):
        return None  # the scan ends here
    template = np.where(ball, template, template[ball].mean())
    start = _best_shift(correlation(template, ball, scene), search)
    if start is None:
        return None
    shift, similarity = fitted_shift(template, ball, scene, start)
    if similarity < MIN_CORRELATION or np.linalg.norm(shift) > SEARCH_MM / STEP_MM:
        return None
    return place_lps + STEP_MM * shift


def correlation(template: np.ndarray, mask: np.ndarray, scene: np.ndarray) -> np.ndarray:
    """Normalized cross-correlation of a masked cube (n, n, n) with every place of a larger one (m, m, m).

    :returns: (m - n + 1,) * 3, -1..1; 0 where either is uniform.
    """
    from scipy.signal import fftconvolve  # half a second, and whoever only cuts out parts needs none of it

    count = mask.sum()
    centered = np.where(mask, template - template[mask].mean(), 0.0)
    scene = scene - scene.mean()  # cancellation below is of the order of the squared mean
    flipped, weights = centered[::-1, ::-1, ::-1], mask[::-1, ::-1, ::-1].astype(np.float64)
    mean = fftconvolve(scene, weights, mode="valid") / count
    square = fftconvolve(scene**2, weights, mode="valid") / count
    spread = np.sqrt(np.maximum(square - mean**2, 0.0))
    own = centered[mask].std()
    product = fftconvolve(scene, flipped, mode="valid") / count
    floor = 1e-3 * max(own, float(spread.max()), 1e-6)
    return np.where((spread > floor) & (own > floor), product / np.maximum(spread * own, 1e-12), 0.0)


def _best_shift(score: np.ndarray, search: int) -> Optional[np.ndarray]:
    """(3,) offset (x, y, z) in steps of the best place, the near ones preferred; None below the least correlation."""
    shifts = np.stack(np.meshgrid(*[np.arange(-search, search + 1)] * 3, indexing="ij"), axis=-1)
    distance = np.linalg.norm(shifts, axis=-1)
    penalized = np.where(distance <= search, score - PENALTY * (distance / search) ** 2, -np.inf)
    best = np.unravel_index(int(np.argmax(penalized)), score.shape)
    return None if score[best] < MIN_CORRELATION else shifts[best][::-1].astype(np.float64)


def fitted_shift(
    template: np.ndarray, mask: np.ndarray, scene: np.ndarray, start: np.ndarray
) -> Tuple[np.ndarray, float]:
    """Where the middle of the template goes when its ball, the middle counting most, is fitted to the scene.

    :returns: (3,) shift (x, y, z) in steps, and the weighted correlation that it ends with; see :func:`fitted_map`.
    """
    n = template.shape[0] // 2
    weights = np.exp(-2.0 * np.sum((np.argwhere(mask) - n) ** 2, axis=1) / n**2)
    shift, _, similarity = fitted_map(template, mask, weights, scene, start)
    return shift, similarity


def fitted_map(
    template: np.ndarray,
    mask: np.ndarray,
    weights: np.ndarray,
    scene: np.ndarray,
    start: np.ndarray,
    strain: float = STRAIN,
) -> Tuple[np.ndarray, np.ndarray, float]:
    """The affine map that fits the masked part of a template to a scene.

    Gauss-Newton on ``scene(middle + shift + (1 + A) p) = gain template(p) + offset``, ``A`` drawn to zero.

    :param weights: (n,) of the masked voxels.
    :param scene: cube with the same middle as the template, larger.
    :param start: (3,) shift (x, y, z) in steps to begin with.
    :param strain: expected size of the entries of A.
    :returns: (3,) shift (x, y, z) in steps, (3, 3) A, and the weighted correlation that they end with.
    """
    n, half = template.shape[0] // 2, scene.shape[0] // 2
    points = np.argwhere(mask)[:, ::-1].astype(np.float64) - n
    values = template[mask]
    spread = max(float(values.std()), 1e-9)
    values, scene = (values - values.mean()) / spread, scene / spread
    slopes = np.gradient(scene)[::-1]  # along x, y, z
    shift, linear = np.array(start, dtype=np.float64), np.zeros((3, 3))
    prior = np.diag([*np.full(3, 1e-3), *np.full(9, 1 / strain**2), 1e-9, 1e-9])
    similarity = 0.0
    for _ in range(N_ITERATIONS):
        at = (half + shift + points + points @ linear.T)[:, ::-1].T
        seen = ndimage.map_coordinates(scene, at, order=1, mode="nearest")
        similarity = _weighted_correlation(seen, values, weights)
        slope = np.stack([ndimage.map_coordinates(part, at, order=1, mode="nearest") for part in slopes], axis=1)
        jacobian = np.column_stack(
            [slope, (slope[:, :, None] * points[:, None, :]).reshape(-1, 9), -values, -np.ones(len(values))]
        )
        unknown = np.concatenate([np.zeros(3), -linear.ravel(), np.zeros(2)])
        weighted = weights[:, None] * jacobian
        gain, offset = _line(seen, values, weights)
        residual = seen - gain * values - offset
        noise = max(float(weights @ residual**2 / weights.sum()), 1e-6)
        step = np.linalg.solve(weighted.T @ jacobian / noise + prior, prior @ unknown - weighted.T @ residual / noise)
        shift, linear = shift + np.clip(step[:3], -1, 1), linear + np.clip(step[3:12].reshape(3, 3), -0.1, 0.1)
        if np.abs(step[:3]).max() < 0.01:
            break
    return shift, linear, similarity


def _line(y: np.ndarray, x: np.ndarray, weights: np.ndarray) -> Tuple[float, float]:
    """Gain and offset of the weighted regression of y on x."""
    mean_x, mean_y = np.average(x, weights=weights), np.average(y, weights=weights)
    covariance = np.average((x - mean_x) * (y - mean_y), weights=weights)
    gain = covariance / max(float(np.average((x - mean_x) ** 2, weights=weights)), 1e-9)
    return float(gain), float(mean_y - gain * mean_x)


def _weighted_correlation(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> float:
    a, b = a - np.average(a, weights=weights), b - np.average(b, weights=weights)
    power = np.average(a**2, weights=weights) * np.average(b**2, weights=weights)
    return float(np.average(a * b, weights=weights) / np.sqrt(max(power, 1e-12)))


def sample_cube(volume: Volume, center_lps: np.ndarray, n: int, step_mm: float = STEP_MM) -> np.ndarray:
    """(2n + 1,) * 3 values (z, y, x) around a place along the patient's axes, smoothed; NaN outside the scan."""
    side = 2 * n + 1
    matrix = np.diag([step_mm, step_mm, step_mm, 1.0])
    matrix[:3, 3] = center_lps - n * step_mm
    ijk_to_ijk = volume.grid.lps_to_ijk @ Grid((side, side, side), matrix).ijk_to_lps
    index = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1)[..., ::-1].reshape(-1, 3)
    ijk = index @ ijk_to_ijk[:3, :3].T + ijk_to_ijk[:3, 3]
    low = np.clip(np.floor(ijk.min(axis=0)).astype(int) - 1, 0, volume.grid.size_ijk - 1)
    high = np.clip(np.ceil(ijk.max(axis=0)).astype(int) + 2, low + 1, volume.grid.size_ijk)
    (i0, j0, k0), (i1, j1, k1) = low, high
    part = volume.array[k0:k1, j0:j1, i0:i1].astype(np.float64)
    values = ndimage.map_coordinates(part, (ijk - low)[:, ::-1].T, order=1, mode="nearest").reshape(side, side, side)
    values = ndimage.gaussian_filter(values, SMOOTHING_STEPS)
    outside = np.any((ijk < -0.5) | (ijk > volume.grid.size_ijk - 0.5), axis=1).reshape(values.shape)
    return np.where(outside, np.nan, values)
