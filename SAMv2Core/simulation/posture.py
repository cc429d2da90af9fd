"""How a patient lies and breathes the second time: the parts of a simulated follow-up's deformation.

Each function gives either an affine (4, 4) in LPS mm or coefficients (3, cz, cy, cx) in LPS mm of a cubic
B-spline on a control lattice (see ``deformation.py``), which add up.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from SAMv2Core.geometry.grid import Grid
from SAMv2Core.simulation.warp import Deformation

LUNG_HU = (-950.0, -500.0)
MIN_LUNG_SHARE = 0.02  # of the box: skin and bowel edges alone stay below 1 % in torso CTs
BREATHING_UP_MM, BREATHING_DOWN_MM = 80.0, 120.0  # reach of the diaphragm's motion toward apex and pelvis
SPINE_MM, BELLY_MM = 40.0, 140.0  # depth from the back where breathing starts and where it is in full
BELLY_FORWARD = 0.25  # forward motion of the belly per downward motion of the diaphragm


def body_points(body: np.ndarray, grid: Grid) -> np.ndarray:
    """(N, 3) LPS mm of body voxels, thinned to some 64 per axis; the volume's center without a body."""
    step = [max(1, n // 64) for n in body.shape]
    k, j, i = np.nonzero(body[:: step[0], :: step[1], :: step[2]])
    ijk = np.stack([i * step[2], j * step[1], k * step[0]], axis=-1)
    return grid.to_lps(ijk if len(ijk) else (grid.size_ijk[None] - 1) / 2)


def about_center(
    center_lps: np.ndarray, axis: np.ndarray, angle_deg: float, scale: float, shift_mm: np.ndarray
) -> np.ndarray:
    """(4, 4): rotate about an axis through the center, scale about it, then shift."""
    matrix = np.eye(4)
    rotation = Rotation.from_rotvec(np.deg2rad(angle_deg) * axis / np.linalg.norm(axis)).as_matrix()
    matrix[:3, :3] = scale * rotation
    matrix[:3, 3] = center_lps - matrix[:3, :3] @ center_lps + shift_mm
    return matrix


def elastic(controls: Grid, body_lps: np.ndarray, amplitude_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Random smooth displacement whose largest length in the body is ``amplitude_mm``."""
    coefficients = rng.standard_normal((3, *controls.shape_zyx))
    unscaled = Deformation(np.eye(4), controls, coefficients).displacement(body_lps)
    return coefficients * (amplitude_mm / np.linalg.norm(unscaled, axis=1).max())


def diaphragm_level_mm(array: np.ndarray, grid: Grid) -> float:
    """Height (S, mm) of the lungs' lower end in a CT; the volume's upper end when no lung is in it."""
    step = [max(1, n // 64) for n in array.shape]
    thin = array[:: step[0], :: step[1], :: step[2]]
    k, j, i = np.nonzero((thin > LUNG_HU[0]) & (thin < LUNG_HU[1]))
    if len(k) < MIN_LUNG_SHARE * thin.size:
        return float(grid.corners_lps()[:, 2].max())
    ijk = np.stack([i * step[2], j * step[1], k * step[0]], axis=-1)
    return float(np.percentile(grid.to_lps(ijk)[:, 2], 3))


def breathing(controls: Grid, body_lps: np.ndarray, level_mm: float, amplitude_mm: float) -> np.ndarray:
    """Breathing in: the diaphragm down, fading to apex and pelvis, the belly forward, the spine still.

    :param level_mm: height of the diaphragm (S).
    """
    nz, ny, nx = controls.shape_zyx
    k, j, i = np.meshgrid(np.arange(nz), np.arange(ny), np.arange(nx), indexing="ij")
    points = controls.to_lps(np.stack([i, j, k], axis=-1).reshape(-1, 3))
    height = points[:, 2] - level_mm
    reach = np.where(height > 0, BREATHING_UP_MM, BREATHING_DOWN_MM)
    depth = np.percentile(body_lps[:, 1], 98) - points[:, 1]
    t = np.clip((depth - SPINE_MM) / (BELLY_MM - SPINE_MM), 0.0, 1.0)
    amount = amplitude_mm * np.exp(-0.5 * (height / reach) ** 2) * t * t * (3 - 2 * t)
    vectors = np.stack([np.zeros_like(amount), -BELLY_FORWARD * amount, -amount])
    return vectors.reshape(3, nz, ny, nx)


def weight(controls: Grid, body_lps: np.ndarray, amplitude_mm: float) -> np.ndarray:
    """Weight gained: tissue moves away from the spine within its slice, in full at the skin, not at all at the spine.

    :param amplitude_mm: shift of the skin; negative: weight lost.
    """
    nz, ny, nx = controls.shape_zyx
    k, j, i = np.meshgrid(np.arange(nz), np.arange(ny), np.arange(nx), indexing="ij")
    points = controls.to_lps(np.stack([i, j, k], axis=-1).reshape(-1, 3))
    left, right = np.percentile(body_lps[:, 0], (98, 2))
    front, back = np.percentile(body_lps[:, 1], (2, 98))
    spine = np.array([(left + right) / 2, back - SPINE_MM])
    outward = points[:, :2] - spine
    # Half sizes of the body from the spine on, so that 1 is the skin whichever way one goes.
    ahead, behind = max(spine[1] - front, 1.0), max(back - spine[1], 1.0)
    aside = np.full(len(points), max((left - right) / 2, 1.0))
    size = np.column_stack([aside, np.where(outward[:, 1] < 0, ahead, behind)])
    depth = np.linalg.norm(outward / size, axis=1)
    t = np.clip(depth, 0.0, 1.0)
    length = np.maximum(np.linalg.norm(outward, axis=1), 1e-6)
    amount = amplitude_mm * t * t * (3 - 2 * t) / length
    vectors = np.stack([outward[:, 0] * amount, outward[:, 1] * amount, np.zeros_like(amount)])
    return vectors.reshape(3, nz, ny, nx)
