"""Where an annotated DeepLesion voxel lies in the patient, for the NIfTI files that exist in the wild.

DLS counts voxels (x, y, z) on the slices of DeepLesion: x to the patient's left, y to posterior, z to *inferior* (the
slices are numbered from the head down). The data set comes as PNG slices, so everybody made NIfTI files of their own,
and two kinds are around:

``affine``
    the header is right: the patient's axes can be read from the matrix, whatever the order in which the voxels are
    stored. That is what the data set's own script writes (rows, columns, slices, with a matrix that says so and z
    pointing to inferior), and what stays right when another program turns the file to RAS+ or LPS+ (z is then stored
    from the feet up, and slice z of the annotation is slice N - 1 - z of the file).
``slices``
    the voxels are in the annotation's order and the header says something else (an identity matrix of a conversion
    without one): read by its header the patient hangs upside down, or mirrored. The matrix is replaced.

How a folder is told: files whose matrix says left, posterior, inferior in the annotation's order are ``affine`` and
``slices`` alike. For the others, each lesion votes: at its annotated box there must be tissue (above -300 HU), at the
mirrored place often is not. Votes are counted per orientation code over the whole folder, since one conversion made it;
``slices`` needs a clear majority of at least :data:`MIN_VOTES`, else the header is believed. Lesions near the middle
of their scan, which mirroring does not move, abstain. The answer and the votes stand in the report, and
``--slice-order`` overrules them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Iterable, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from SAMv2Core.errors import InputError
from SAMv2Core.geometry.grid import Grid, canonical_axes
from SAMv2Core.io.volume import Volume

ORDERS = ("affine", "slices")

MIN_VOTES = 5
MAJORITY = 0.8
_TISSUE_HU = -300.0
_CLEAR = 0.25  # difference of the shares of tissue that makes a vote
_SPACING_TOLERANCE = 0.02
# DeepLesion's PNG files store HU + 32768; some conversions kept that.
_PNG_OFFSET = 32768


class Votes(NamedTuple):
    """How many lesions speak for each order."""

    affine: int = 0
    slices: int = 0

    def plus(self, other: Votes) -> Votes:
        """Both together."""
        return Votes(self.affine + other.affine, self.slices + other.slices)

    @property
    def order(self) -> str:
        """The order that they elect."""
        total = self.affine + self.slices
        return "slices" if total >= MIN_VOTES and self.slices >= MAJORITY * total else "affine"


def orientation_code(grid: Grid) -> str:
    """Where i, j and k point by the matrix, such as ``"LPI"``."""
    axes, signs = canonical_axes(grid.ijk_to_lps)
    letters = ["", "", ""]
    for names, axis, sign in zip(("LR", "PA", "SI"), axes, signs):
        letters[axis] = names[0 if sign > 0 else 1]
    return "".join(letters)


def is_ambiguous(grid: Grid) -> bool:
    """Whether the two orders give different places for this orientation."""
    return orientation_code(grid) != "LPI"


def annotation_to_ijk(grid: Grid, order: str) -> np.ndarray:
    """(4, 4) from the annotation's (x, y, z) to the file's voxel indices (i, j, k)."""
    matrix = np.eye(4)
    if order == "slices":
        return matrix
    matrix[:3, :3] = 0
    axes, signs = canonical_axes(grid.ijk_to_lps)
    # The annotation's axes point to L, P, I; `signs` are those towards L, P, S.
    for column, (axis, sign) in enumerate(zip(axes, signs * (1, 1, -1))):
        matrix[axis, column] = sign
        matrix[axis, 3] = 0 if sign > 0 else grid.size_ijk[axis] - 1
    return matrix


def upright(volume: Volume, order: str) -> Volume:
    """The volume as it lies in the patient: itself, or with a matrix of the annotation's axes for ``slices``."""
    if order == "affine" or not is_ambiguous(volume.grid):
        return volume
    matrix = np.diag([*volume.grid.spacing_ijk_mm, 1.0])
    matrix[2, 2] *= -1
    matrix[2, 3] = -matrix[2, 2] * (volume.grid.size_ijk[2] - 1)
    return replace(volume, ijk_to_lps=matrix)


def annotation_to_lps(volume: Volume, order: str) -> np.ndarray:
    """(4, 4) from the annotation's (x, y, z) to LPS mm of :func:`upright`."""
    grid = volume.grid
    return upright(volume, order).ijk_to_lps @ annotation_to_ijk(grid, order)


def check_spacing(volume: Volume, spacing_xyz: Optional[Sequence[float]], order: str) -> None:
    """:raises InputError: the file's spacing is not the annotation's, so its voxels are not those annotated."""
    if spacing_xyz is None:
        return
    own = np.linalg.norm(annotation_to_lps(volume, order)[:3, :3], axis=0)
    if np.any(np.abs(own - spacing_xyz) > _SPACING_TOLERANCE * np.array(spacing_xyz)):
        shown = ["x".join(f"{value:.3g}" for value in values) for values in (own, spacing_xyz)]
        raise InputError(
            f"{volume.source} has voxels of {shown[0]} mm, the annotation says {shown[1]} mm.",
            "Use the scans as the annotation counts them: not resampled, not cropped.",
        )


def check_inside(source: str, grid: Grid, center: Sequence[float], order: str) -> None:
    """:raises InputError: an annotated center lies outside the file ``source`` of that lattice."""
    ijk = (annotation_to_ijk(grid, order) @ (*center, 1.0))[:3]
    if np.any(ijk < -0.5) or np.any(ijk > grid.size_ijk - 0.5):
        size = " x ".join(str(n) for n in grid.size_ijk)
        raise InputError(
            f"The lesion at voxel {tuple(center)} lies outside {source} ({size}).", "Check that it is that scan."
        )


def without_png_offset(volume: Volume) -> Volume:
    """HU, where a file kept the offset of the PNG slices."""
    if int(volume.array.min()) < 20000:
        return volume
    array = volume.array.astype(np.int32) - _PNG_OFFSET
    warning = f"{volume.source} holds HU + {_PNG_OFFSET} (as DeepLesion's PNG slices do); it is subtracted."
    return replace(volume, array=array, warnings=(*volume.warnings, warning))


def vote(volume: Volume, boxes: Iterable[Tuple[float, ...]]) -> Votes:
    """The votes of the annotated lesions of one file.

    :param boxes: (x, y, z, w, h, d) in the annotation's voxels.
    """
    total = Votes()
    if not is_ambiguous(volume.grid):
        return total
    for box in boxes:
        shares = {order: _tissue_share(volume, box, order) for order in ORDERS}
        affine, slices = shares["affine"], shares["slices"]
        if affine is not None and slices is not None and abs(affine - slices) >= _CLEAR:
            total = total.plus(Votes(affine=1) if affine > slices else Votes(slices=1))
    return total


def _tissue_share(volume: Volume, box: Tuple[float, ...], order: str) -> Optional[float]:
    """Share of tissue in the middle half of a box; None when it leaves the file."""
    low, size = np.array(box[:3]), np.array(box[3:])
    samples = [np.unique(np.rint(np.linspace(a + n / 4, a + 3 * n / 4, 7))) for a, n in zip(low, size)]
    x, y, z = (axis.ravel() for axis in np.meshgrid(*samples, indexing="ij"))
    ijk = np.rint(annotation_to_ijk(volume.grid, order) @ np.stack([x, y, z, np.ones_like(x)]))[:3].astype(int)
    if np.any(ijk < 0) or np.any(ijk >= volume.grid.size_ijk[:, None]):
        return None
    return float((volume.array[ijk[2], ijk[1], ijk[0]] > _TISSUE_HU).mean())
