"""Where the patient is: a mask on the 2 mm lattice that leaves out table, cushions, blankets and background.

The official code thresholds slice by slice; tables and blankets survive there and attract matches. Here thin
structures are separated by an opening, what is large and thick is kept (both legs, both arms), its skin is
grown back, and air inside it (lungs, bowel, sinuses) is filled. The shapes are found at 4 mm, where the
morphology of a torso takes a few tenths of a second, and the outline is refined at 2 mm.

Conventions: arrays (z, y, x) along patient axes, z to superior; values in HU (CT) or any units (MR).
"""

from __future__ import annotations

from typing import Sequence, Tuple

import numpy as np
from scipy import ndimage

#: Between skin (partial volume) and foam of tables and cushions (-950 to -600 HU).
CT_TISSUE_HU = -300.0

_AIR_HU = -1024.0
# Below is padding outside the scanner's circle (-2000, -3024), not air.
_PADDING_HU = -1200.0
_MIN_LUNG_VOXELS = 60  # of a slice at 4 mm: 10 cm2
_LUNG_HU = (-960.0, -400.0)  # mean of a slice of lung, emphysema included
_COARSE_MM = 4.0
_CROSS = ndimage.generate_binary_structure(3, 1)
_CUBE = ndimage.generate_binary_structure(3, 3)

# A part of the body is at least this large and thick (radius of the largest ball in it): a wrist has a radius
# of 20 mm, the rails of a table and infusion lines less than 10 mm.
_MIN_PART_ML = 30.0
_MIN_PART_RADIUS_MM = 12.0
# Parts smaller than this share of the largest one are equipment, not limbs.
_MIN_PART_SHARE = 0.01


def _halved(array: np.ndarray) -> np.ndarray:
    """Mean over blocks of 2 x 2 x 2; the last plane is repeated where a size is odd. float32."""
    padded = np.pad(array, [(0, n % 2) for n in array.shape], mode="edge").astype(np.float32, copy=False)
    total = np.zeros([n // 2 for n in padded.shape], np.float32)
    for z in range(2):
        for y in range(2):
            for x in range(2):
                total += padded[z::2, y::2, x::2]
    return total / 8


def _doubled(mask: np.ndarray, shape: Tuple[int, ...]) -> np.ndarray:
    """Each voxel repeated 2 x 2 x 2, cut to ``shape``."""
    for axis in range(3):
        mask = np.repeat(mask, 2, axis=axis)
    return mask[tuple(slice(n) for n in shape)]


def _closed(mask: np.ndarray, iterations: int) -> np.ndarray:
    """Closing that does not lose what touches the border."""
    padded = np.pad(mask, iterations, mode="edge")
    closed = ndimage.binary_closing(padded, _CROSS, iterations)
    return closed[(slice(iterations, -iterations),) * 3] | mask


def _parts(tissue: np.ndarray) -> np.ndarray:
    """The large and thick connected parts of a coarse mask, without thin structures; may be empty."""
    # A border counts as tissue beyond, so that a truncated body is not eroded from its cut side.
    core = ndimage.binary_dilation(ndimage.binary_erosion(tissue, _CROSS, border_value=1), _CROSS, mask=tissue)
    labels, n_parts = ndimage.label(core)
    if not n_parts:
        return core
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    voxel_ml = _COARSE_MM**3 / 1000
    candidates = np.flatnonzero((sizes * voxel_ml >= _MIN_PART_ML) & (sizes >= _MIN_PART_SHARE * sizes.max()))
    # Bodies cut by the border continue beyond it: pad by repeating the border.
    depth = ndimage.distance_transform_edt(np.pad(core, 1, mode="edge"))[1:-1, 1:-1, 1:-1] * _COARSE_MM
    radii = ndimage.maximum(depth, labels, candidates) if len(candidates) else []
    keep = [label for label, radius in zip(candidates, radii) if radius >= _MIN_PART_RADIUS_MM]
    return np.isin(labels, keep or [int(sizes.argmax())])


def _filled(mask: np.ndarray) -> np.ndarray:
    """Holes filled slice by slice, axially: lungs are closed there even when the volume cuts them in z."""
    filled = np.empty_like(mask)
    for z, plane in enumerate(mask):
        filled[z] = ndimage.binary_fill_holes(plane)
    return filled


def _cut_lungs(solid: np.ndarray, coarse_hu: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Lung that lies open because the field of view cuts the chest, on the coarse lattice.

    Where only the wall of the chest is missing, what is denser than air in the outermost 16 mm closes the lung against
    the air around; where the cut goes through the lung, it ends with the volume.
    """
    around = ((0, 0), (1, 1), (1, 1))
    solid, covered = np.pad(solid, around), np.pad(covered, around)
    coarse_hu = np.pad(coarse_hu, around, constant_values=_AIR_HU)
    rim = covered & ~ndimage.binary_erosion(covered, _CROSS[1:2], iterations=4)
    wall = rim & (coarse_hu > _LUNG_HU[0])
    added = np.zeros_like(solid)
    for z in np.flatnonzero((covered & ~solid).any(axis=(1, 2))):
        for closed in (ndimage.binary_fill_holes(solid[z] | wall[z]), covered[z]):
            labels, n_regions = ndimage.label(closed & ~solid[z])
            for label in range(1, n_regions + 1):
                region = labels == label
                added[z] |= region & _is_lung(region, solid[z], coarse_hu[z], covered[z])
    return added[:, 1:-1, 1:-1]


def _is_lung(region: np.ndarray, solid: np.ndarray, coarse_hu: np.ndarray, covered: np.ndarray) -> bool:
    """A region of one coarse slice: large, of lung's density, and bordered by body on most of its sides.

    Foam of a table has lung's density too, but is bordered by air, or by the edge of the volume all along.
    """
    if np.count_nonzero(region) < _MIN_LUNG_VOXELS:
        return False
    border = ndimage.binary_dilation(region) & ~region
    n_body, n_outside = np.count_nonzero(border & solid), np.count_nonzero(border & ~covered)
    n_air = np.count_nonzero(border) - n_body - n_outside
    is_enclosed = n_air < 0.4 * n_body and n_outside < 0.6 * n_body
    mean_hu = float(coarse_hu[region].mean())
    return bool(is_enclosed and _LUNG_HU[0] < mean_hu < _LUNG_HU[1])


def _outline(tissue: np.ndarray, closing: int) -> np.ndarray:
    """Filled body at 4 mm from tissue at 4 mm."""
    parts = _parts(tissue)
    # Two steps back into thin tissue: skin folds, ears and fingers that the opening took away.
    parts = ndimage.binary_dilation(parts, _CUBE, iterations=2, mask=tissue | parts)
    return _filled(_closed(parts, closing))


def _refined(solid: np.ndarray, fine_tissue: np.ndarray) -> np.ndarray:
    """The filled body at 2 mm: its outline follows the tissue at 2 mm within one coarse voxel."""
    inner = ndimage.binary_erosion(solid, _CROSS, border_value=1)
    outer = ndimage.binary_dilation(solid, _CROSS)
    return _filled(_doubled(inner, fine_tissue.shape) | (_doubled(outer, fine_tissue.shape) & fine_tissue))


def _mr_threshold(coarse: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Local threshold between background and tissue: lower where a receive coil sees little.

    The valley of the histogram between background noise and muscle is searched between 3 and 20 % of the
    bright end. Its bottom is the threshold; its foot on the side of the noise is the threshold where the
    surroundings are dim.
    """
    values = coarse[covered]
    bright = float(np.percentile(values, 99))
    counts, edges = np.histogram(values, bins=50, range=(0, bright or 1.0))
    bottom = 2 + int(np.argmin(counts[2:10]))
    foot = bottom
    while foot > 1 and counts[foot - 1] <= 2 * counts[bottom] + 10:
        foot -= 1
    surroundings = ndimage.gaussian_filter(np.where(covered, coarse, 0), 40.0 / _COARSE_MM, mode="nearest")
    return np.clip(0.3 * surroundings, edges[foot], edges[bottom + 1])


def body_mask(values: np.ndarray, modality: str, covered: np.ndarray) -> np.ndarray:
    """Inside the patient.

    :param values: (D, H, W) float32 on the 2 mm lattice, HU (CT) or any units (MR), axes (z, y, x) along P
        and S.
    :param modality: ``"ct"`` or ``"mr"``.
    :param covered: (D, H, W) bool: inside the original volume.
    :returns: (D, H, W) bool; all False when there is no tissue.
    """
    is_ct = modality == "ct"
    if is_ct:
        covered = covered & (values > _PADDING_HU)
    if not covered.any():
        return np.zeros(values.shape, bool)
    background = _AIR_HU if is_ct else float(values[covered].min())
    values = np.where(covered, values, background)
    coarse = _halved(values)
    coarse_covered = _halved(covered) > 0.5
    if is_ct:
        coarse_tissue, fine_tissue = coarse > CT_TISSUE_HU, values > CT_TISSUE_HU
    else:
        coarse -= background
        threshold = _mr_threshold(coarse, coarse_covered)
        coarse_tissue = coarse > threshold
        fine_tissue = values - background > _doubled(threshold, values.shape)
    if not coarse_tissue.any():
        return np.zeros(values.shape, bool)
    # In MR cortical bone and vessels have no signal: wider gaps are closed.
    solid = _outline(coarse_tissue, closing=2 if is_ct else 3)
    if is_ct:
        solid |= _cut_lungs(solid, coarse, coarse_covered)
    return _refined(solid, fine_tissue) & covered


def body_on_features(body: np.ndarray, stride_zyx: Sequence[int], shape_zyx: Sequence[int]) -> np.ndarray:
    """A mask of the lattice on a feature grid: True where at least half of the voxels that a feature covers
    are.

    :param body: (D, H, W) bool on the lattice.
    :param stride_zyx: lattice voxels per feature voxel; feature k covers s*k ... s*k + s - 1.
    :param shape_zyx: size of the feature grid; features beyond the lattice are False, partly covered ones are
        judged by the part inside.
    :returns: bool of ``shape_zyx``.
    """
    counts = body.astype(np.uint8)
    inside = np.ones((1, 1, 1), np.uint8)
    for axis, (stride, size) in enumerate(zip(stride_zyx, shape_zyx)):
        n_used = min(counts.shape[axis], stride * size)
        starts = np.arange(0, n_used, stride)
        lengths = np.minimum(starts + stride, n_used) - starts
        counts = np.add.reduceat(counts.take(range(n_used), axis), starts, axis, dtype=np.uint16)
        missing = [(0, 0)] * 3
        missing[axis] = (0, size - len(starts))
        counts = np.pad(counts, missing)
        along = [1, 1, 1]
        along[axis] = size
        inside = inside * np.pad(lengths, missing[axis]).reshape(along)
    return (2 * counts.astype(np.int32) >= inside) & (counts > 0)
