"""Deformable refinement of a rigid transform between a CT and an MR, as a displacement field of the index.

Two engines, both by the author of DEEDS, which the paper used after AdaReg (sec. 3.3): ``convexadam``
(:mod:`SAMv2Core.registration.deformable`) and ``deeds`` (the program ``deedsBCV``, when it is found on PATH; it is no
part of this project). For ``deeds`` the MR is resampled to the lattice of the CT by the rigid transform and both are
cropped to what both show.

A field (d, h, w, 3) holds LPS mm at every ``FIELD_STEP``-th voxel of the first scan's lattice: a point p of the first
scan lies at ``matrix p + field(p)`` in the second.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Callable, NamedTuple, Tuple

import numpy as np
from scipy import ndimage

from SAMv2Core.errors import InputError, UsageError
from SAMv2Core.geometry.grid import Grid, transform_points
from SAMv2Core.io.nifti import write_nifti
from SAMv2Core.io.resample import resample_to
from SAMv2Core.io.volume import Volume
from SAMv2Core.registration.deformable import deform
from Training.data.index import FIELD_STEP

METHODS = ("none", "convexadam", "deeds")
MIN_VOXELS = 24
DEEDS = "deedsBCV"
DEEDS_OPTIONS = ("-G", "5x4x3", "-L", "5x4x3", "-Q", "2x2x1")
DEEDS_GRID = 3
DEEDS_TIMEOUT_S = 1800

Region = Tuple[slice, slice, slice]


class _Aligned(NamedTuple):
    """Both images (z, y, x) float32 on the first scan's lattice, cut to the region that both show."""

    fixed: np.ndarray
    moving: np.ndarray
    region: Region


def check_method(method: str) -> None:
    """Refuse a refinement that cannot run here, before hours are spent.

    :raises UsageError: unknown, or its package or program is not installed.
    """
    if method not in METHODS:
        raise UsageError(f"There is no deformable refinement {method!r}.", f"Choose one of {', '.join(METHODS)}.")
    if method == "deeds" and shutil.which(DEEDS) is None:
        raise UsageError(f"The program {DEEDS} is not on PATH.", "Install it, or use convexadam.")
    if method == "convexadam":
        try:
            importlib.import_module("convexAdam")
        except ImportError as error:
            raise UsageError("The package convexadam is not installed.", "pip install convexadam") from error


def field_lattice(grid: Grid) -> Grid:
    """Where the points of a field lie: every ``FIELD_STEP``-th voxel of a scan's lattice, the last one covered."""
    step = np.diag([FIELD_STEP, FIELD_STEP, FIELD_STEP, 1.0])
    shape = tuple(-(-(n - 1) // FIELD_STEP) + 1 for n in grid.shape_zyx)
    return Grid(shape, grid.ijk_to_lps @ step)  # type: ignore[arg-type]


def bend(
    volumes: Tuple[Volume, Volume], bodies: Tuple[np.ndarray, np.ndarray], matrix: np.ndarray, method: str
) -> np.ndarray:
    """The displacement field that refines a rigid transform.

    :param volumes: first and second scan, any modalities, on 2 mm lattices.
    :param bodies: their body masks.
    :param matrix: (4, 4) LPS, first to second.
    :returns: (d, h, w, 3) float32 mm on :func:`field_lattice` of the first scan; zero beyond what both show.
    :raises UsageError: see :func:`check_method`.
    :raises InputError: the scans hardly overlap, or the program failed.
    """
    check_method(method)
    lattice = field_lattice(volumes[0].grid)
    if method == "convexadam":
        with contextlib.redirect_stdout(io.StringIO()):
            found = deform(*volumes, matrix)
        before = _sampled(found.vectors, found.grid, lattice)
    else:
        before = _sampled_deeds(_aligned(volumes, bodies, matrix), volumes[0].grid, lattice)
    # The engines move the point before the matrix, the index after it.
    return (before @ matrix[:3, :3].T).astype(np.float32)


def _sampled(vectors: np.ndarray, grid: Grid, lattice: Grid) -> np.ndarray:
    """A vector field (D, H, W, 3) on the points of another lattice of the same frame; 0 outside."""
    to_source = (grid.lps_to_ijk @ lattice.ijk_to_lps)[[2, 1, 0, 3]][:, [2, 1, 0, 3]]
    parts = [
        ndimage.affine_transform(
            vectors[..., axis], to_source[:3, :3], to_source[:3, 3], output_shape=lattice.shape_zyx, order=1
        )
        for axis in range(3)
    ]
    return np.stack(parts, axis=-1)


def _sampled_deeds(pair: _Aligned, grid: Grid, lattice: Grid) -> np.ndarray:
    """(d, h, w, 3) LPS mm, before the matrix."""
    whole = np.zeros((*grid.shape_zyx, 3), np.float32)
    whole[pair.region] = _deeds(pair)
    # Smoothed at the seam: beyond the region nothing is known, and a jump there would be a fold.
    whole = ndimage.gaussian_filter(whole, (*(FIELD_STEP / 2,) * 3, 0))
    return _sampled(whole[..., ::-1] @ grid.ijk_to_lps[:3, :3].T, grid, lattice)


def _aligned(volumes: Tuple[Volume, Volume], bodies: Tuple[np.ndarray, np.ndarray], matrix: np.ndarray) -> _Aligned:
    first, second = volumes
    body = Volume(np.asarray(bodies[1], np.uint8), second.ijk_to_lps)
    moved_body = resample_to(first.grid, body, matrix).array > 0
    if not moved_body.any():
        raise InputError("The bodies do not overlap.", "Check the rigid transform.")
    box = ndimage.find_objects(moved_body.astype(np.uint8))[0]
    margin = FIELD_STEP
    region: Region = tuple(  # type: ignore[assignment]
        slice(max(0, s.start - margin), min(n, s.stop + margin)) for s, n in zip(box, moved_body.shape)
    )
    if min(s.stop - s.start for s in region) < MIN_VOXELS:
        raise InputError("The scans overlap by less than 5 cm.", "A deformable refinement needs more.")
    moving = resample_to(first.grid, Volume(second.array.astype(np.float32), second.ijk_to_lps), matrix)
    inside = (np.asarray(bodies[0]) > 0) & moved_body
    images = []
    for image in (first.array, moving.array):
        part = np.array(image[region], np.float32)
        part[~inside[region]] = part.min()  # borders of one field of view are no borders of the other's anatomy
        images.append(part)
    return _Aligned(images[0], images[1], region)


def _deeds(pair: _Aligned) -> np.ndarray:
    """(z, y, x, 3) displacement in voxels, components (z, y, x), by the external program."""
    with tempfile.TemporaryDirectory(prefix="samv2-deeds-") as name:
        folder = Path(name)
        for kind, image in (("fixed", pair.fixed), ("moving", pair.moving)):
            write_nifti(image, np.diag([2.0, 2.0, 2.0, 1.0]), folder / f"{kind}.nii.gz")
        command = [
            DEEDS,
            "-F",
            str(folder / "fixed.nii.gz"),
            "-M",
            str(folder / "moving.nii.gz"),
            "-O",
            str(folder / "out"),
        ]
        try:
            done = subprocess.run([*command, *DEEDS_OPTIONS], capture_output=True, timeout=DEEDS_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InputError(f"{DEEDS} failed ({error}).", "Use convexadam.") from error
        path = folder / "out_displacements.dat"
        if done.returncode != 0 or not path.exists():
            said = (done.stderr or done.stdout)[-200:].decode(errors="replace").strip()
            raise InputError(f"{DEEDS} failed ({said or done.returncode}).", "Use convexadam.")
        return read_deeds(np.fromfile(path, np.float32), pair.fixed.shape)


def read_deeds(values: np.ndarray, shape_zyx: Tuple[int, ...]) -> np.ndarray:
    """The displacements that deedsBCV writes, on every voxel: (z, y, x, 3) voxels, components (z, y, x).

    The file holds three blocks of float32 on a lattice of ``n // DEEDS_GRID`` points per axis, x fastest; the blocks
    are the displacements along y, x and z, and point k lies at voxel k * n / (n // DEEDS_GRID).

    :raises InputError: not as many values as that makes.
    """
    small = tuple(n // DEEDS_GRID for n in shape_zyx)
    if len(values) != 3 * int(np.prod(small)):
        raise InputError(f"{DEEDS} wrote {len(values)} values, not {3 * int(np.prod(small))}.", "Use convexadam.")
    along_y, along_x, along_z = values.reshape(3, *small)
    axes = [np.minimum(np.arange(n) * few / n, few - 1) for n, few in zip(shape_zyx, small)]
    places = np.stack(np.meshgrid(*axes, indexing="ij"))
    full = [ndimage.map_coordinates(part, places, order=1) for part in (along_z, along_y, along_x)]
    return np.stack(full, axis=-1)


def inverted(field: Callable[[np.ndarray], np.ndarray], matrix: np.ndarray, points_lps: np.ndarray) -> np.ndarray:
    """The field of the way back: at points q of the second scan, what is added to ``inv(matrix) q``.

    :param field: (N, 3) points of the first scan to (N, 3) mm.
    :param points_lps: (..., 3) of the second scan.
    :returns: (..., 3) mm. Fixed-point iteration; exact to a fraction of a voxel where the field does not fold.
    """
    flat = points_lps.reshape(-1, 3)
    inverse = np.linalg.inv(matrix)
    rigid = transform_points(inverse, flat)
    p = rigid
    for _ in range(10):
        p = rigid - field(p) @ inverse[:3, :3].T
    return (p - rigid).reshape(points_lps.shape)
