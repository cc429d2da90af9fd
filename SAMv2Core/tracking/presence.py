"""Is the lesion still there, and is it still one? What the two scans say at the place that tracking found.

Tracking finds the *place*, whether or not the lesion is still at it. So the baseline's surroundings of the lesion,
without the lesion, are fitted to the follow-up (a small affine map, a gain and an offset); what the map then expects
inside is compared with what is there, once for the lesion as it was, larger or smaller, and once for tissue like
that around it. The same map shows whether two lesions have grown together (no valley is left between them) or one
has come apart.

What this cannot say: a lesion that has the brightness of its surroundings has no evidence of its own, and neither
has one whose surroundings have changed beyond a gain and an offset (contrast phases, collapse, surgery); confidence
is low then. A segmentation of the follow-up says more (:mod:`SAMv2Core.tracking.assignment`) and takes precedence.
Between CT and MR brightness compares nothing, and nothing is said.

Coefficients and cuts are fitted on simulated pairs of training scans by ``Testing/benchmarks/presence.py``.
Conventions: LPS mm; cubes (z, y, x) along the patient's axes around the lesion in the baseline.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from scipy import ndimage

from SAMv2Core.io.lesion import Lesion
from SAMv2Core.io.resample import crop_to
from SAMv2Core.io.volume import Volume
from SAMv2Core.matching.confidence import logistic
from SAMv2Core.tracking.finding import Finding
from SAMv2Core.tracking.refinement import fitted_map, sample_cube

UNCHANGED, CHANGED, VANISHED, MERGED, SPLIT, NEW = "unchanged", "changed", "vanished", "merged", "split", "new"
UNKNOWN = "unknown"
"""Nothing can be said: the place was not found, the scan ends there, or the scans are of two modalities."""

SIZES = tuple(float(size) for size in np.geomspace(0.4, 2.2, 12))
"""Factors on the diameter that are tried."""

NOISE = 10.0
"""Brightness (HU) below which a departure is none, added to what the fit leaves in the surroundings."""

STRAIN = 0.04
"""How much the surroundings may stretch, per entry of the map."""

_SHIFT_MM = 7.0


@dataclass(frozen=True)
class PresenceEvidence:
    """What the scans say of one lesion at one place.

    :param departure: by how much the middle of the lesion differs from what it was, in units of the fit's residual.
    :param likeness: 1 where the middle is as it was, 0 where it is as the surroundings are.
    :param ratio: logarithm of the residual with a lesion of the best size over that without one.
    :param resemblance: correlation of the lesion and its rim, -1..1.
    :param contrast: how far lesion and surroundings were apart, in units of the residual.
    :param growth: best factor on the diameter.
    :param parting: how much deeper the middle lies than both halves, in units of the contrast.
    """

    departure: float
    likeness: float
    ratio: float
    resemblance: float
    contrast: float
    growth: float
    parting: float


@dataclass(frozen=True, eq=False)
class View:
    """A lesion's surroundings in the baseline, and the same places in the follow-up.

    :param before: (n, n, n) the baseline; :param background: the same without the lesion.
    :param after: (n, n, n) the follow-up at the mapped places, brought to the baseline's gain and offset.
    :param distance_mm: from the middle.
    :param residual: of the fit, in the surroundings.
    """

    center_lps: np.ndarray
    radius_mm: float
    step_mm: float
    before: np.ndarray
    background: np.ndarray
    after: np.ndarray
    distance_mm: np.ndarray
    residual: float


def view_of(lesion: Lesion, place_lps: np.ndarray, baseline: Volume, follow_up: Volume) -> Optional[View]:
    """Fit the lesion's surroundings to the follow-up; None where one of the scans ends within the lesion."""
    radius = lesion.radius_mm
    step, reach, n, slack = _extent(radius)
    before = sample_cube(baseline, lesion.center_lps, n, step)
    scene = sample_cube(follow_up, place_lps, n + slack, step)
    offsets = np.arange(-n, n + 1) * step
    z, y, x = np.meshgrid(offsets, offsets, offsets, indexing="ij")
    distance = np.sqrt(x * x + y * y + z * z)
    inner = scene[slack:-slack, slack:-slack, slack:-slack]
    if np.isnan(before[distance <= radius]).any() or np.isnan(inner[distance <= radius]).any():
        return None
    # Beyond what a growing lesion reaches: an edge of its own there would be taken for a stretched patient.
    shell = (distance >= 1.5 * radius + 2) & (distance <= reach) & np.isfinite(before)
    before = np.where(np.isfinite(before), before, np.nanmean(before))
    scene = np.where(np.isfinite(scene), scene, np.nanmean(scene))
    weights = np.exp(-(((distance[shell] - 1.5 * radius) / (0.5 * radius + 8)) ** 2))
    shift, linear, _ = fitted_map(before, shell, weights, scene, np.zeros(3), STRAIN)
    shift *= min(1.0, slack / max(float(np.linalg.norm(shift)), 1e-6))
    points = np.stack([x, y, z], axis=-1).reshape(-1, 3) / step
    at = (n + slack + shift + points + points @ linear.T)[:, ::-1].T
    after = ndimage.map_coordinates(scene, at, order=1, mode="nearest").reshape(before.shape)
    after, residual = _equalized(after, before, shell, weights)
    background = _without(before, distance, radius + 2.0, step)
    return View(lesion.center_lps, radius, step, before, background, after, distance, residual)


def _extent(radius_mm: float) -> Tuple[float, float, int, int]:
    """(step in mm, reach of the surroundings in mm, the same in steps, steps that the map may shift)."""
    step = float(np.clip(radius_mm / 4, 1.2, 3.0))
    reach = 2.2 * radius_mm + 12
    return step, reach, round(reach / step), round(_SHIFT_MM / step) + 1


def part_around(lesion: Lesion, place_lps: np.ndarray, volume: Volume) -> Volume:
    """A copy of what :func:`view_of` looks at of a scan: small, where the scan itself cannot be kept.

    :param place_lps: (3,) LPS mm, the lesion's place in this scan; it may lie outside.
    """
    step, _, n, slack = _extent(lesion.radius_mm)
    half = (n + slack) * step
    corners = place_lps + half * np.array(np.meshgrid(*[(-1.0, 1.0)] * 3)).reshape(3, -1).T
    ijk = volume.grid.to_ijk(corners)
    first = np.clip(np.floor(ijk.min(axis=0)).astype(int) - 2, 0, volume.grid.size_ijk - 1)
    last = np.clip(np.ceil(ijk.max(axis=0)).astype(int) + 2, first, volume.grid.size_ijk - 1)
    box = {"ijk_min": first.tolist(), "ijk_max": last.tolist()}
    part = crop_to(volume, box)
    return replace(part, array=np.array(part.array))


def _equalized(
    after: np.ndarray, before: np.ndarray, shell: np.ndarray, weights: np.ndarray
) -> Tuple[np.ndarray, float]:
    """The follow-up in the baseline's gain and offset, and what is left of their difference in the surroundings."""
    a, b = after[shell], before[shell]
    mean_a, mean_b = np.average(a, weights=weights), np.average(b, weights=weights)
    spread = np.average((b - mean_b) ** 2, weights=weights)
    gain = float(np.average((a - mean_a) * (b - mean_b), weights=weights) / max(spread, 1e-6))
    # Uniform surroundings know no gain: scanners differ by no more than this.
    gain = float(np.clip(gain, 0.6, 1.6)) if spread > NOISE**2 else 1.0
    after = (after - mean_a) / gain + mean_b
    return after, float(np.sqrt(np.average((after[shell] - b) ** 2, weights=weights)))


def _without(cube: np.ndarray, distance: np.ndarray, radius: float, step: float) -> np.ndarray:
    """The lesion filled with its surroundings, mirrored at its surface."""
    n = cube.shape[0] // 2
    source = np.where(distance < radius, 2 * radius - distance, distance)
    rays = np.stack(np.meshgrid(*[np.arange(-n, n + 1)] * 3, indexing="ij")).astype(np.float64)
    rays[:, n, n, n] = (0, 0, 1e-3)
    at = n + rays * (source / np.maximum(distance, 1e-3 * step))
    filled = ndimage.map_coordinates(cube, at, order=1, mode="nearest")
    inside = distance < radius
    return np.where(inside, ndimage.gaussian_filter(filled, 1.0), cube)


def evidence_of(view: View) -> PresenceEvidence:
    """See :class:`PresenceEvidence`."""
    noise = view.residual + NOISE
    core = view.distance_mm <= max(0.5 * view.radius_mm, 1.01 * view.step_mm)
    was, around, now = (float(cube[core].mean()) for cube in (view.before, view.background, view.after))
    contrast = was - around
    likeness = float(np.clip((now - around) / contrast, -1, 2)) if abs(contrast) > NOISE / 2 else 0.5
    near = view.distance_mm <= 1.5 * view.radius_mm + 1
    left = {size: _residual(view, size) for size in SIZES}
    growth = min(left, key=lambda size: left[size])
    return PresenceEvidence(
        departure=abs(now - was) / noise,
        likeness=likeness,
        ratio=math.log((left[growth] + NOISE / 2) / (_residual(view, 0.0) + NOISE / 2)),
        resemblance=float(np.corrcoef(view.before[near], view.after[near])[0, 1]),
        contrast=abs(contrast) / noise,
        growth=growth,
        parting=_parting(view, contrast),
    )


def _residual(view: View, size: float) -> float:
    """Root mean square of what is there minus a lesion of this size, within twice its radius; 0: without one."""
    near = view.distance_mm <= 2.0 * view.radius_mm + 2
    expected = view.background
    if size > 0:
        n = view.before.shape[0] // 2
        index = np.stack(np.meshgrid(*[np.arange(-n, n + 1)] * 3, indexing="ij")).astype(np.float64)
        scaled = ndimage.map_coordinates(view.before, n + index / size, order=1, mode="nearest")
        inside = np.clip((size * view.radius_mm - view.distance_mm) / view.step_mm + 1, 0, 1)
        expected = inside * scaled + (1 - inside) * view.background
    return float(np.sqrt(np.mean((view.after[near] - expected[near]) ** 2)))


_DIRECTIONS = np.array(
    [
        d
        for d in np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], [-1, 0, 1]), axis=-1).reshape(-1, 3).tolist()
        if d > [0, 0, 0]
    ]
)
_DIRECTIONS = _DIRECTIONS / np.linalg.norm(_DIRECTIONS, axis=1, keepdims=True)


def _parting(view: View, contrast: float) -> float:
    """How far the middle has fallen towards the surroundings while both sides of it have not, along any direction."""
    n, best = view.before.shape[0] // 2, 0.0
    scale = math.copysign(max(abs(contrast), NOISE), contrast)
    for direction in _DIRECTIONS:
        for reach in (0.4, 0.55, 0.7):
            for middle in (-0.15, 0.0, 0.15):
                along = np.array([middle - reach, middle, middle + reach]) * view.radius_mm / view.step_mm
                at = n + np.outer(direction[::-1], along)
                dents = []
                for cube in (view.before, view.after):
                    first, deep, second = _valued(cube, at) / scale
                    dents.append(min(first, second) - deep)
                best = max(best, dents[1] - max(dents[0], 0.0))
    return float(best)


def _valued(cube: np.ndarray, at: np.ndarray) -> np.ndarray:
    return ndimage.map_coordinates(cube, at, order=1, mode="nearest")


def valley(view: View, other_lps: np.ndarray) -> Tuple[float, float]:
    """How deep the valley between a lesion and its neighbor was and is, in units of the lesion's contrast.

    :param other_lps: (3,) the neighbor's center in the baseline.
    """
    n = view.before.shape[0] // 2
    core = view.distance_mm <= max(0.5 * view.radius_mm, 1.01 * view.step_mm)
    contrast = float(view.before[core].mean() - view.background[core].mean())
    if abs(contrast) < NOISE / 2:
        return 0.0, 0.0
    line = np.linspace(0, 1, 25)[:, None] * (other_lps - view.center_lps) / view.step_mm
    at = np.clip(n + line[:, ::-1].T, 0, 2 * n)
    was, now = (
        float((min(along[0], along[-1]) - along[4:21].min()) / abs(contrast))
        for along in (np.sign(contrast) * _valued(cube, at) for cube in (view.before, view.after))
    )
    return was, now


# --- from evidence to a state ----------------------------------------------------------------------------------------

STATES = (UNCHANGED, CHANGED, VANISHED, SPLIT)
"""What the evidence of a single lesion decides among; a merger is decided by pairs."""

COEFFICIENTS: Dict[str, Tuple[float, ...]] = {
    "bias": (1.08, -1.18, -1.85, 1.95),
    "departure": (-3.12, -0.05, 2.47, 0.7),
    "likeness": (0.17, 0.23, -0.04, -0.36),
    "ratio": (-0.82, 0.08, 0.07, 0.67),
    "resemblance": (0.8, 0.87, 0.08, -1.76),
    "contrast": (0.63, 0.13, -0.37, -0.39),
    "growth": (-2.56, 2.63, 1.14, -1.21),
    "shrinking": (-0.61, -0.26, 1.5, -0.63),
    "parting": (-0.14, -0.34, -0.4, 0.88),
}
"""Of a multinomial logistic function, by the names of :func:`terms`, one number per state."""

MERGED_COEFFICIENTS: Dict[str, float] = {"bias": 0.2, "filled": 0.35, "left": -1.02}
"""Of the probability that two neighbors have merged, by the names of :func:`merger_terms`."""

NEIGHBORS = 1.6
"""Lesions closer than so many times the sum of their radii may merge."""

_REASONS = {
    UNCHANGED: "", CHANGED: "It looks {:.1f} times as large as before.",
    VANISHED: "What lies there looks like its surroundings.", SPLIT: "Its middle looks like its surroundings.",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Presence:
    """What has become of a lesion, by the scans at its place.

    :param state: ``unchanged``, ``changed``, ``vanished``, ``split``, ``merged``, ``new`` (of a lesion looked for in an
        earlier study: not there before) or ``unknown``.
    :param confidence: 0..1, estimated probability of this state; NaN when unknown.
    :param reason: for people; empty when there is nothing to say.
    :param growth: factor on the diameter that fits best; NaN when unknown.
    :param partner: label of the lesion that it has merged with, or "".
    :param probabilities: of :data:`STATES`, empty when unknown.
    """

    state: str
    confidence: float
    reason: str = ""
    growth: float = math.nan
    partner: str = ""
    probabilities: Tuple[float, ...] = ()
    evidence: Optional[PresenceEvidence] = None


def terms(evidence: PresenceEvidence) -> Dict[str, float]:
    """The evidence as the logistic function takes it."""
    e = evidence
    growth = math.log(e.growth)
    return {
        "bias": 1.0,
        "departure": math.log1p(e.departure),
        "likeness": float(np.clip(e.likeness, -1, 1.5)),
        "ratio": float(np.clip(e.ratio, -1.5, 0.3)),
        "resemblance": e.resemblance,
        "contrast": math.log1p(e.contrast),
        "growth": abs(growth),
        "shrinking": max(-growth, 0.0),
        "parting": math.log1p(e.parting),
    }


def merger_terms(was: float, now: float) -> Dict[str, float]:
    """Valleys as the logistic function takes them; see :func:`valley`."""
    was, now = (float(np.clip(value, -1, 2)) for value in (was, now))
    return {"bias": 1.0, "filled": was - now, "left": now}


def probabilities(evidence: PresenceEvidence) -> Tuple[float, ...]:
    """Of :data:`STATES`."""
    values = terms(evidence)
    score = np.sum([values[name] * np.array(weights) for name, weights in COEFFICIENTS.items()], axis=0)
    share = np.exp(score - score.max())
    return tuple(float(value) for value in share / share.sum())


def presence_of(lesion: Lesion, place_lps: np.ndarray, baseline: Volume, follow_up: Volume) -> Presence:
    """What has become of one lesion at the place where it was found.

    :param place_lps: (3,) LPS mm in the follow-up's world.
    """
    view = view_of(lesion, place_lps, baseline, follow_up)
    return _unknown("The scan ends there.") if view is None else _decided(evidence_of(view))


def presence_before(lesion: Lesion, place_lps: np.ndarray, study: Volume, earlier: Volume) -> Presence:
    """Whether a lesion of one study was there in an earlier one: ``new`` when it was not.

    :param place_lps: (3,) LPS mm, its place in the earlier study.
    """
    found = presence_of(lesion, place_lps, study, earlier)
    return replace(found, state=NEW, reason="It was not there before.") if found.state == VANISHED else found


def presences(
    lesions: Sequence[Lesion], findings: Sequence[Finding], baseline: Volume, follow_up: Volume
) -> Dict[str, Presence]:
    """What has become of all lesions in one study, by label; of those not found, ``unknown``.

    :param findings: of that study.
    """
    return presences_in_parts(lesions, findings, {lesion.label: (baseline, follow_up) for lesion in lesions})


def presences_in_parts(
    lesions: Sequence[Lesion], findings: Sequence[Finding], parts: Mapping[str, Tuple[Volume, Volume]]
) -> Dict[str, Presence]:
    """As :func:`presences`, from what is needed of both scans.

    :param parts: label -> (baseline, follow-up), whole or :func:`part_around` the lesion; for all that were found.
    """
    placed = {finding.label: finding.lps for finding in findings}
    found: Dict[str, Presence] = {}
    views: Dict[str, View] = {}
    for lesion in lesions:
        place = placed.get(lesion.label)
        view = None if place is None else view_of(lesion, place, *parts[lesion.label])
        if view is None:
            found[lesion.label] = _unknown("Its place was not found." if place is None else "The scan ends there.")
        else:
            views[lesion.label] = view
            found[lesion.label] = _decided(evidence_of(view))
    for one, other in _neighbors([lesion for lesion in lesions if lesion.label in views]):
        sure = _merger(views, one, other)
        if sure > 0.5 and sure > max(found[one.label].confidence, found[other.label].confidence, 0.5) - 0.25:
            for a, b in ((one, other), (other, one)):
                reason = f"No valley is left between it and {b.label!r}."
                found[a.label] = replace(found[a.label], state=MERGED, confidence=sure, reason=reason, partner=b.label)
    return found


def _neighbors(lesions: Sequence[Lesion]) -> List[Tuple[Lesion, Lesion]]:
    return [
        (one, other)
        for n, one in enumerate(lesions)
        for other in lesions[n + 1 :]
        if np.linalg.norm(one.center_lps - other.center_lps) < NEIGHBORS * (one.radius_mm + other.radius_mm)
    ]


def _merger(views: Mapping[str, View], one: Lesion, other: Lesion) -> float:
    """Probability that two neighbors have merged: the mean of what both of their views say."""
    sure = []
    for a, b in ((one, other), (other, one)):
        values = merger_terms(*valley(views[a.label], b.center_lps))
        sure.append(logistic(MERGED_COEFFICIENTS[name] * value for name, value in values.items()))
    return sum(sure) / 2


def _decided(evidence: PresenceEvidence) -> Presence:
    share = probabilities(evidence)
    state = STATES[int(np.argmax(share))]
    return Presence(
        state,
        max(share),
        _REASONS[state].format(evidence.growth),
        evidence.growth,
        probabilities=share,
        evidence=evidence,
    )


def _unknown(reason: str) -> Presence:
    return Presence(UNKNOWN, math.nan, reason)
