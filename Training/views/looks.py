"""How a scan may look in another acquisition: CT under other settings, MR of another sequence, CT as if it were MR.

AggSAM (paper sec. 3.3) makes intensities unreliable, so that a network learns anatomy: random non-linear curves and
inversion. Here the curves know a little more. Fat, water, bone and air lie at known HU, so a random level for each
gives a CT the contrast of some MR sequence (T1: fat bright, muscle dark, cortical bone black; T2, fat-suppressed and
proton density by other draws), and a view of the same CT in its own contrast is its partner: cross-modality pairs
without a single MR, for every part of the body that the CTs show. Real MR gets monotone curves, inversion of its
signal now and then, and a bias field.

Curves act on the HU scale, for MR too: -1024 is no signal, 3071 the brightest (:class:`Training.views.scans.Scan`).
"""

from __future__ import annotations

import numpy as np

from Training.views.augment import AIR_HU, IntensityDraw, draw_intensity

BRIGHTEST_HU = 3071.0
INVERSION = 0.15
"""Share of MR views with inverted signal."""


def draw_look(modality: str, other_contrast: float, rng: np.random.Generator) -> IntensityDraw:
    """The random choices of a view of a scan.

    :param modality: of the scan, "ct" or "mr".
    :param other_contrast: probability that a CT is shown as MR, and an MR with its signal inverted or warped strongly.
    """
    if modality == "mr":
        return _mr(rng, strong=rng.random() < other_contrast)
    if other_contrast > 0 and rng.random() < other_contrast:
        return _ct_as_mr(rng)
    return draw_intensity(rng)


def _signal(relative: np.ndarray) -> np.ndarray:
    """0..1 to the HU scale."""
    return AIR_HU + np.clip(relative, 0, 1) * (BRIGHTEST_HU - AIR_HU)


def _mr(rng: np.random.Generator, strong: bool) -> IntensityDraw:
    inner = np.sort(rng.uniform(0.03, 1, 6 if strong else 3))
    knots = np.r_[0.0, inner, 1.0]
    spread = 0.15 if strong else 0.06
    values = np.maximum.accumulate(np.r_[0.0, inner + rng.normal(0, spread, len(inner)), 1.0])
    if strong and rng.random() < INVERSION:
        knots, values = np.r_[0.0, 0.04, knots[1:]], np.r_[0.0, 1.0, 1.02 - values[1:]]
        order = np.argsort(knots, kind="stable")
        knots, values = knots[order], values[order]
    return _draw(_signal(knots), _signal(values * rng.uniform(0.75, 1.1)), rng)


def _ct_as_mr(rng: np.random.Generator) -> IntensityDraw:
    fat, muscle = rng.uniform(0.45, 1.0), rng.uniform(0.12, 0.6)
    if rng.random() < 0.35:  # fat suppressed, or no sequence that exists
        fat, muscle = rng.uniform(0.05, 0.6), rng.uniform(0.2, 0.9)
    fluid = np.clip(muscle + rng.normal(-0.05, 0.2), 0.05, 1)
    vessel = np.clip(muscle + rng.normal(0, 0.15), 0.02, 1)  # enhanced in the CT, anything in the MR
    marrow = np.clip(fat * rng.uniform(0.5, 1.0), 0.05, 1)
    cortex = rng.uniform(0.0, 0.15)
    lung = rng.uniform(0.0, 0.12)
    levels = {
        -1024: 0.0, -950: 0.01, -850: lung, -400: (lung + fat) / 2, -130: fat, -80: fat, -10: fluid, 15: fluid,
        45: muscle, 70: muscle, 130: vessel, 220: marrow, 450: marrow, 800: cortex, 3071: cortex,
    }  # fmt: skip
    knots = np.array(list(levels), dtype=float)
    return _draw(knots, _signal(np.array(list(levels.values()))), rng)


def _draw(knots: np.ndarray, values: np.ndarray, rng: np.random.Generator) -> IntensityDraw:
    return IntensityDraw(
        knots,
        values,
        noise_hu=float(rng.uniform(0, 160) * (rng.random() < 0.7)),
        noise_grain=int(rng.choice([1, 1, 2])),
        blur_voxels=float(rng.uniform(0.4, 1.0) if rng.random() < 0.3 else 0.0),
        thickness=int(rng.choice([1, 1, 1, 2, 3])),
        bias=float(rng.uniform(0, 0.3)),
    )
