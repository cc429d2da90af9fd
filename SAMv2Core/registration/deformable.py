"""Deformation on top of a rigid registration: ConvexAdam, and its result as an ITK transform.

ConvexAdam (Siebert, Hansen and Heinrich 2021; package ``convexadam``, optional) compares MIND-SSC, which suits CT with
MR. It runs on the CPU in float32, on a 2 mm lattice around what both bodies share; outside, the deformation fades to
nothing, so that only the rigid part remains where one scan shows nothing.

Conventions: LPS mm, arrays (z, y, x). A fixed point x goes to matrix(x + u(x)) in the moving image.
"""

from __future__ import annotations

import importlib
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Iterable, Optional, Tuple

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from SAMv2Core.errors import OutputError, UnreliableResultError, UsageError
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.files import PathLike, write_bytes
from SAMv2Core.io.itk import image_of, quiet_itk, resampled, transform_of
from SAMv2Core.io.volume import Volume
from SAMv2Core.preprocessing.preprocess import MR_PERCENTILES, Prepared, prepare
from SAMv2Core.progress import Progress, silent

MARGIN_MM = 16.0
FADE_MM = 8.0
MIN_SHARED_ML = 30.0
MIN_SIDE = 48  # voxels; ConvexAdam's coarsest lattice needs some
CT_WINDOW_HU = (-300.0, 400.0)
#: Of ConvexAdam: half as far as its default searches, since the rigid part is known, and stiffer.
OPTIONS = {
    "mind_r": 1,
    "mind_d": 2,
    "lambda_weight": 2.0,
    "grid_sp": 5,
    "disp_hw": 2,
    "selected_smooth": 3,
    "selected_niter": 80,
}
PREPARING = 0.3
"""Share of the time before the first of its iterations (measured: 0.2 to 0.35)."""
TYPICAL_CALLS = 2500  # of torch before the first iteration
REPORT_SECONDS = 0.1


@dataclass(frozen=True, eq=False)
class Deformation:
    """A displacement field that precedes a matrix.

    :param matrix: (4, 4) fixed to moving.
    :param vectors: (D, H, W, 3) float32, u(x) in LPS mm on ``grid``; 0 outside.
    :param grid: lattice in the fixed image.
    :param folded: share of the voxels where the field folds space (Jacobian not positive).
    """

    matrix: np.ndarray
    vectors: np.ndarray
    grid: Grid
    folded: float

    def to_report(self) -> Dict[str, float]:
        """Plain numbers for JSON, lengths in mm."""
        size = np.linalg.norm(self.vectors, axis=-1)
        moved = size[size > 0]
        median = float(np.median(moved)) if moved.size else 0.0
        return {"median_mm": median, "max_mm": float(size.max(initial=0.0)), "folded": self.folded}

    def to_itk(self) -> sitk.CompositeTransform:
        """The matrix after the displacement field, as ITK's resampling wants it: fixed to moving."""
        image = image_of(self.vectors.astype(np.float64), self.grid)
        # The transform that was added last is applied first.
        return sitk.CompositeTransform([transform_of(self.matrix), sitk.DisplacementFieldTransform(image)])

    def map_points(self, points_lps: np.ndarray) -> np.ndarray:
        """(N, 3) points of the fixed image to the moving image."""
        transform = self.to_itk()
        return np.array([transform.TransformPoint(point) for point in np.asarray(points_lps, float).tolist()])


def deform(fixed: Volume, moving: Volume, matrix: np.ndarray, progress: Optional[Progress] = None) -> Deformation:
    """What deforms the fixed body to the moving one, after a rigid (or affine) registration.

    :param matrix: (4, 4) fixed to moving, right within some 15 mm.
    :param progress: called with (fraction, text) ten times a second; may raise ``Cancelled``.
    :raises UsageError: ``convexadam`` is not installed.
    :raises UnreliableResultError: the bodies hardly overlap.
    """
    convex_adam = load_convex_adam()
    ours, theirs = _scaled(fixed), _scaled(moving)
    shown = _shown(theirs.covered.astype(np.float32), theirs.grid, ours.grid, matrix) > 0.5
    body = ours.body & (_shown(theirs.body.astype(np.float32), theirs.grid, ours.grid, matrix) > 0.5)
    voxel_ml = abs(np.linalg.det(ours.grid.ijk_to_lps[:3, :3])) / 1000
    if body.sum() * voxel_ml < MIN_SHARED_ML:
        raise UnreliableResultError(
            "The bodies hardly overlap after the rigid registration: nothing can be deformed.",
            "Check the registration without --deformable.",
        )
    box, grid = _box(body, ours.grid)
    fixed_values, shown, body = ours.values[box], shown[box], body[box]
    moving_values = _shown(theirs.values, theirs.grid, grid, matrix)
    # Where one scan shows nothing, neither does: a border of the field of view is no anatomy.
    both = shown & ours.covered[box]
    ours_shown, theirs_shown = (np.where(both, a, 0.0).astype(np.float32) for a in (fixed_values, moving_values))
    voxels = _run(convex_adam, ours_shown, theirs_shown, progress or silent)
    axes = grid.ijk_to_lps[:3, :3]
    vectors = (voxels[..., ::-1] @ axes.T) * _fading(body & both, grid)[..., None]
    return Deformation(matrix, vectors.astype(np.float32), grid, _folded(vectors, grid))


def write_deformation(deformation: Deformation, path: PathLike, inputs: Iterable[PathLike] = ()) -> None:
    """Write matrix and field as one composite ITK transform (``.h5``), atomically; Slicer and SimpleITK read it.

    :raises OutputError: see :func:`SAMv2Core.io.files.check_output`.
    """
    with tempfile.TemporaryDirectory(prefix="samv2-") as folder:
        if shutil.disk_usage(folder).free < 4 * deformation.vectors.nbytes:
            raise OutputError(f"{path} cannot be written: {folder} is on a full disk.", "Free some space there.")
        made = Path(folder, "deformation.h5")
        try:
            with quiet_itk():
                sitk.WriteTransform(deformation.to_itk(), str(made))
        except RuntimeError as error:
            raise OutputError(f"{path} cannot be written (HDF5).", "Check free space and permissions.") from error
        write_bytes(path, made.read_bytes(), inputs)


def load_convex_adam() -> Any:
    """ConvexAdam's function.

    :raises UsageError: ``convexadam`` is not installed.
    """
    try:
        return importlib.import_module("convexAdam.convex_adam_MIND").convex_adam_pt
    except ImportError as error:
        raise UsageError(
            f"The Python package convexadam is not installed or does not load ({error}).", "pip install convexadam"
        ) from error


def _scaled(volume: Volume) -> Prepared:
    """The volume on the 2 mm lattice with values in 0..1; 0 outside."""
    found = prepare(volume)
    inside = found.values[found.covered]
    low, high = CT_WINDOW_HU if found.modality == "ct" else np.percentile(inside, MR_PERCENTILES)
    scaled = np.clip((found.values - low) / max(high - low, 1e-6), 0, 1)
    return replace(found, values=np.where(found.covered, scaled, 0).astype(np.float32))


def _shown(values: np.ndarray, source: Grid, target: Grid, matrix: np.ndarray) -> np.ndarray:
    """Values of the moving lattice on a lattice of the fixed image."""
    to_source = transform_of(source.lps_to_ijk @ matrix @ target.ijk_to_lps)
    return resampled(values, to_source, target.shape_zyx, 0.0)


def _box(body: np.ndarray, grid: Grid) -> Tuple[Tuple[slice, ...], Grid]:
    """The voxels around the shared body with a margin, as slices and as a lattice of its own."""
    margin = round(MARGIN_MM / float(grid.spacing_ijk_mm[0]))
    slices = []
    for axis, n in enumerate(body.shape):
        used = np.flatnonzero(body.any(axis=tuple(a for a in range(3) if a != axis)))
        slices.append(slice(max(0, int(used[0]) - margin), min(n, int(used[-1]) + 1 + margin)))
    matrix = grid.ijk_to_lps.copy()
    matrix[:3, 3] = grid.to_lps(np.array([[part.start for part in slices[::-1]]], float))[0]
    shape = tuple(part.stop - part.start for part in slices)
    return tuple(slices), Grid((shape[0], shape[1], shape[2]), matrix)


def _run(convex_adam: Any, fixed: np.ndarray, moving: np.ndarray, progress: Progress) -> np.ndarray:
    """(D, H, W, 3) displacement in voxels along (z, y, x); small images are padded."""
    import torch

    pad = [(0, max(0, MIN_SIDE - n)) for n in fixed.shape]
    images = [torch.from_numpy(np.pad(image, pad, mode="edge")) for image in (fixed, moving)]
    before = torch.random.get_rng_state()
    torch.manual_seed(0)
    try:
        with _watched(progress):
            found = convex_adam(*images, dtype=torch.float32, device=torch.device("cpu"), **OPTIONS)
    finally:
        torch.random.set_rng_state(before)
    return np.asarray(found)[tuple(slice(n) for n in fixed.shape)]


def _watched(progress: Progress) -> Any:
    """A context in which every call of torch may report, for the package itself reports nothing.

    None of its calls takes more than a second, so it stops soon when the progress raises ``Cancelled``.
    """
    import torch.overrides

    class Watched(torch.overrides.TorchFunctionMode):
        calls, iterations, last = 0, 0, 0.0

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.calls += 1
            self.iterations += getattr(func, "__name__", "") == "backward"
            if time.monotonic() - self.last > REPORT_SECONDS:
                self.last = time.monotonic()
                prepared = PREPARING if self.iterations else PREPARING * self.calls / (self.calls + TYPICAL_CALLS)
                done = self.iterations / float(OPTIONS["selected_niter"])
                progress(min(1.0, prepared + (1 - PREPARING) * done), "")
            return func(*args, **(kwargs or {}))

    return Watched()


def _fading(body: np.ndarray, grid: Grid) -> np.ndarray:
    """1 in the shared body, falling to 0 within FADE_MM around it."""
    distance = ndimage.distance_transform_edt(~body, sampling=grid.spacing_ijk_mm[::-1])
    return np.clip(1 - distance / FADE_MM, 0, 1)


def _folded(vectors: np.ndarray, grid: Grid) -> float:
    """Share of voxels whose Jacobian of x + u(x) is not positive."""
    gradient = np.stack(np.gradient(vectors, axis=(2, 1, 0)), axis=-1)  # (D, H, W, 3 components, 3 of ijk)
    jacobian = np.eye(3) + gradient @ np.linalg.inv(grid.ijk_to_lps[:3, :3])
    return float((np.linalg.det(jacobian) <= 0).mean())
