"""Metal in a simulated CT: two implants, and the streaks that they throw over their slices.

Line integrals through the metal alone are measured as a beam of two energies would (beam hardening) and with the noise
of too few photons; what such a measurement differs by is reconstructed by filtered backprojection and added to the
scan. Simple physics, of the right kind and size: dark bands between the implants, noise along them.

Arrays are (z, y, x); lengths in mm; attenuation per cm; water has 0.2 per cm.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Tuple

import numpy as np
from scipy import ndimage

from SAMv2Core.errors import InputError
from SAMv2Core.io.volume import Volume

RADIUS_MM, HALF_LENGTH_MM, MIN_APART_MM = 8.0, 30.0, 60.0
METAL_HU = 3000.0
PIXEL_MM, N_ANGLES = 3.0, 180
WATER_PER_CM, PATIENT = 0.2, 4.0  # the patient's own line integral: 20 cm of water
METAL_PER_CM = (0.5, 4.0)  # at the two energies
NOISE = 0.002  # of an unattenuated line integral


def project(slices: np.ndarray, pixel_cm: float, n_angles: int = N_ANGLES) -> np.ndarray:
    """Parallel line integrals of square slices (z, n, n); (angles, z, n)."""
    return np.stack([_turned(slices, angle).sum(1) * pixel_cm for angle in _angles(n_angles)])


def reconstruct(sinogram: np.ndarray, pixel_cm: float) -> np.ndarray:
    """Filtered backprojection of :func:`project`'s line integrals; (z, n, n), per cm."""
    n_angles, n_slices, n = sinogram.shape
    ramp = np.abs(np.fft.rfftfreq(2 * n, pixel_cm))
    filtered = np.fft.irfft(np.fft.rfft(sinogram, 2 * n) * ramp, 2 * n)[..., :n]
    out = np.zeros((n_slices, n, n))
    for angle, lines in zip(_angles(n_angles), filtered):
        out += _turned(np.repeat(lines[:, None], n, axis=1), -angle)
    return out * np.pi / n_angles


def measured(metal_cm: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What line integrals of this much metal are measured as: hardened, and noisier the more is absorbed."""
    low, high = METAL_PER_CM
    hardened = -np.log(0.5 * np.exp(-low * metal_cm) + 0.5 * np.exp(-high * metal_cm))
    sigma = NOISE * (np.exp((PATIENT + hardened) / 2) - np.exp(PATIENT / 2))
    return hardened + sigma * rng.standard_normal(metal_cm.shape)


def streaks(metal: np.ndarray, pixel_mm: float, rng: np.random.Generator) -> np.ndarray:
    """What metal (z, n, n), shares of 1, adds to the HU around it."""
    metal_cm = project(metal, pixel_mm / 10)
    wrong = measured(metal_cm, rng) - np.mean(METAL_PER_CM) * metal_cm
    return reconstruct(wrong, pixel_mm / 10) / WATER_PER_CM * 1000


def with_implants(ct: Volume, places: np.ndarray, seed: int) -> Tuple[Volume, np.ndarray]:
    """Two rods across the same slices (the third index axis).

    :param places: (z, y, x) bool, where a rod may be centered.
    :returns: the scan, and (2, 3) LPS mm of the rods' centers.
    :raises InputError: no slice has two places far enough apart.
    """
    rng = np.random.default_rng(seed)
    grid, array = ct.grid, ct.array.astype(np.float32)
    dx, dy, dz = grid.spacing_ijk_mm
    half = round(HALF_LENGTH_MM / dz)
    for k in rng.permutation(np.arange(half, max(half, len(array) - half))):
        here = np.argwhere(places[k])
        if not len(here):
            continue
        first = here[rng.integers(len(here))]
        others = here[np.linalg.norm((here - first) * (dy, dx), axis=1) >= MIN_APART_MM]
        if len(others):
            second = others[rng.integers(len(others))]
            break
    else:
        raise InputError(f"{ct.source} has no two places for implants.", "Take a CT of a trunk.")
    rods = np.array([first, second])
    j, i = np.ogrid[: array.shape[1], : array.shape[2]]
    away_mm = np.min([np.hypot((j - y) * dy, (i - x) * dx) for y, x in rods], axis=0)
    first_slice, last_slice = int(k) - half, int(k) + half + 1
    effect = _on_pixels(away_mm <= RADIUS_MM, (dy, dx), last_slice - first_slice, rng)
    slab = np.maximum(array[first_slice:last_slice] + effect, -1024.0)
    slab[:, away_mm <= RADIUS_MM] = METAL_HU
    array[first_slice:last_slice] = slab
    limits = np.iinfo(ct.array.dtype) if ct.array.dtype.kind in "iu" else None
    array = array if limits is None else np.clip(np.rint(array), limits.min, limits.max)
    centers = grid.to_lps(np.array([[x, y, k] for y, x in rods], dtype=float))
    return replace(ct, array=array.astype(ct.array.dtype)), centers


def _on_pixels(
    metal: np.ndarray, spacing_yx: Tuple[float, float], n_slices: int, rng: np.random.Generator
) -> np.ndarray:
    """The streaks of a (y, x) cross section in ``n_slices`` slices, computed on a coarser square lattice."""
    small = np.clip(ndimage.zoom(metal.astype(np.float32), np.array(spacing_yx) / PIXEL_MM, order=1), 0, 1)
    side = int(np.ceil(np.hypot(*small.shape)))
    before = [(side - n) // 2 for n in small.shape]
    square = np.pad(small, [(b, side - n - b) for b, n in zip(before, small.shape)])
    made = streaks(np.repeat(square[None], n_slices, axis=0), PIXEL_MM, rng)
    made = made[:, before[0] : before[0] + small.shape[0], before[1] : before[1] + small.shape[1]]
    factors = (1.0, metal.shape[0] / small.shape[0], metal.shape[1] / small.shape[1])
    return np.asarray(ndimage.zoom(made, factors, order=1), dtype=np.float32)


def _angles(n: int) -> np.ndarray:
    return np.arange(n) * 180.0 / n


def _turned(slices: np.ndarray, degrees: float) -> np.ndarray:
    return np.asarray(ndimage.rotate(slices, degrees, axes=(2, 1), reshape=False, order=1))
