"""Least squares for point pairs: rigid, similarity, affine; what the points leave open is said and settled.

Points may lie in a plane, on a line or at one place. The least-squares problem then has many solutions; the
one given is the least surprising: no rotation about the line of the points, no stretch where nothing was
measured.

Conventions: points are (N, 3) LPS mm, weights (N,) >= 0; a matrix is (4, 4) and maps source to target.
``kind`` is ``"rigid"``, ``"similarity"`` or ``"affine"``. Everything is float64; rotations are not limited to
any angle.
"""

from __future__ import annotations

from typing import Optional, Tuple

import numpy as np

from SAMv2Core.errors import UsageError
from SAMv2Core.geometry.grid import transform_points

KINDS = ("rigid", "similarity", "affine")
RELATIVE_RANK = 1e-6  # singular values below this share of the largest count as zero
MIN_SOLIDITY = 0.02  # determinant of a tetrahedron over the product of its edges; flatter ones are useless


def residuals_mm(matrix: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(N,) distances in mm of the transformed source points from their targets."""
    return np.linalg.norm(transform_points(matrix, source) - target, axis=1)


def fit(kind: str, source: np.ndarray, target: np.ndarray, weights: Optional[np.ndarray] = None) -> np.ndarray:
    """(4, 4) weighted least squares of the kind asked for.

    :raises UsageError: unknown kind, no points, or arrays that do not fit together.
    """
    source, target, weights = checked_pairs(kind, source, target, weights)
    if kind == "affine":
        return fit_affine(source, target, weights)
    return fit_rigid_batch(source[None], target[None], weights[None], kind == "similarity")[0]


def fit_affine(source: np.ndarray, target: np.ndarray, weights: Optional[np.ndarray] = None) -> np.ndarray:
    """(4, 4) affine. In directions in which the source points do not spread it equals the similarity fit."""
    source, target, weights = checked_pairs("affine", source, target, weights)
    matrix = fit_rigid_batch(source[None], target[None], weights[None], scaled=True)[0]
    share = weights / weights.sum()
    center = share @ source
    centered = np.sqrt(share)[:, None] * (source - center)
    rest = np.sqrt(share)[:, None] * (target - transform_points(matrix, source))
    # The correction to the similarity has minimum norm: zero where the design has no rank.
    correction = (np.linalg.pinv(centered, rcond=RELATIVE_RANK) @ rest).T
    linear = matrix[:3, :3] + correction
    matrix[:3, :3] = linear
    matrix[:3, 3] = share @ target - linear @ center
    return matrix


def checked_pairs(
    kind: str, source: np.ndarray, target: np.ndarray, weights: Optional[np.ndarray]
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Source, target and weights as float64, the weights 1 when None; refused when they make no sense.

    :raises UsageError: unknown kind, no points, or arrays that do not fit together.
    """
    if kind not in KINDS:
        raise UsageError(f"There is no transform {kind!r}.", f"Choose one of {', '.join(KINDS)}.")
    source = np.asarray(source, dtype=np.float64)
    target = np.asarray(target, dtype=np.float64)
    weights = np.ones(len(source)) if weights is None else np.asarray(weights, dtype=np.float64)
    fits = source.ndim == 2 and source.shape[1:] == (3,) and source.shape == target.shape
    if not fits or weights.shape != (len(source),):
        shapes = f"{source.shape}, {target.shape}, {weights.shape}"
        raise UsageError(f"Point pairs of shapes {shapes} do not fit together.", "Give (N, 3) points.")
    if not len(source) or not weights.sum() > 0 or weights.min() < 0:
        raise UsageError("A transform cannot be fitted without points.", "Give points of positive weight.")
    return source, target, weights


def fit_rigid_batch(source: np.ndarray, target: np.ndarray, weights: np.ndarray, scaled: bool) -> np.ndarray:
    """(B, 4, 4) from (B, n, 3), (B, n, 3), (B, n): weighted Kabsch, with Umeyama's scale when ``scaled``.

    Rank-deficient points need care: with one direction of spread, the SVD's other axes are arbitrary and the
    rotation about the line of the points would be random; the smallest rotation is taken instead.
    """
    share = weights / weights.sum(axis=1, keepdims=True)
    center_s = np.einsum("bn,bni->bi", share, source)
    center_t = np.einsum("bn,bni->bi", share, target)
    ds, dt = source - center_s[:, None], target - center_t[:, None]
    covariance = np.einsum("bn,bni,bnj->bij", share, ds, dt)  # source x target
    u, s, vt = np.linalg.svd(covariance)
    flip = np.sign(np.linalg.det(u) * np.linalg.det(vt))
    flip[flip == 0] = 1.0
    v_signed = vt.transpose(0, 2, 1).copy()
    v_signed[:, :, 2] *= flip[:, None]
    rotation = v_signed @ u.transpose(0, 2, 1)
    for index in np.nonzero(s[:, 1] <= RELATIVE_RANK * np.maximum(s[:, 0], 1e-12))[0]:
        rotation[index] = _smallest_rotation(u[index, :, 0], vt[index, 0]) if s[index, 0] > 1e-12 else np.eye(3)
    scale = np.ones(len(source))
    if scaled:
        spread = np.einsum("bn,bni,bni->b", share, ds, ds)
        explained = s[:, 0] + s[:, 1] + flip * s[:, 2]
        scale = np.where(spread > 1e-12, explained / np.maximum(spread, 1e-12), 1.0)
    matrix = np.zeros((len(source), 4, 4))
    matrix[:, :3, :3] = scale[:, None, None] * rotation
    matrix[:, :3, 3] = center_t - np.einsum("bij,bj->bi", matrix[:, :3, :3], center_s)
    matrix[:, 3, 3] = 1.0
    return matrix


def _smallest_rotation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(3, 3) rotation of unit vector a onto b by the smallest angle."""
    axis, cosine = np.cross(a, b), float(a @ b)
    if cosine < -1 + 1e-12:  # opposite: half a turn about any perpendicular axis
        helper = np.eye(3)[np.argmin(np.abs(a))]
        normal = np.cross(a, helper) / np.linalg.norm(np.cross(a, helper))
        return 2 * np.outer(normal, normal) - np.eye(3)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + cross + cross @ cross / (1 + cosine)


def spread_mm(points: np.ndarray, weights: Optional[np.ndarray] = None) -> np.ndarray:
    """(3,) standard deviations along the points' principal axes, largest first, mm."""
    weights = np.ones(len(points)) if weights is None else weights
    if len(points) == 0:
        return np.zeros(3)
    share = weights / weights.sum()
    centered = np.sqrt(share)[:, None] * (points - share @ points)
    values = np.linalg.svd(centered, compute_uv=False)
    return np.pad(values, (0, 3 - len(values)))


def undetermined(kind: str, points: np.ndarray, min_spread_mm: float = 1.0) -> Tuple[str, ...]:
    """What points that spread less than ``min_spread_mm`` along some axes leave open, in words."""
    axes = int(np.sum(spread_mm(points) >= min_spread_mm))
    open_ends = []
    if axes == 0:
        open_ends.append("rotation (all points at one place)")
    elif axes == 1:
        open_ends.append("rotation about the line of the points")
    if kind == "similarity" and axes == 0:
        open_ends.append("scale")
    if kind == "affine" and axes < 3:
        open_ends.append(("all stretch", "stretch across the line", "stretch across the plane")[axes])
    return tuple(open_ends)


def exact_affine_batch(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(M, 4, 4) affines through 4 pairs each; flat tetrahedra are dropped."""
    edges_s, edges_t = source[:, 1:] - source[:, :1], target[:, 1:] - target[:, :1]
    lengths = np.linalg.norm(edges_s, axis=2).prod(axis=1)
    solid = np.abs(np.linalg.det(edges_s)) > MIN_SOLIDITY * lengths
    source, target, edges_s, edges_t = source[solid], target[solid], edges_s[solid], edges_t[solid]
    matrices = np.zeros((len(source), 4, 4))
    if len(source):
        linear = np.linalg.solve(edges_s, edges_t).transpose(0, 2, 1)
        matrices[:, :3, :3] = linear
        matrices[:, :3, 3] = target[:, 0] - np.einsum("bij,bj->bi", linear, source[:, 0])
    matrices[:, 3, 3] = 1.0
    return matrices
