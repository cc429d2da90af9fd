"""A simulated second time point of a real scan, with the truth known at every point.

Real pairs of scans have no dense truth. Here one real volume becomes baseline and follow-up: the patient lies
differently (rotation, size), deforms (smooth elastic field, breathing, weight), and is scanned differently (contrast,
kernel, noise, slice thickness, field of view, table). A baseline point x is found in the follow-up at phi(x),
exactly; the follow-up's voxels are the baseline's at phi^-1. Lesions may then grow, shrink or vanish around their
places (:mod:`SAMv2Core.simulation.lesion_growth`), which moves the tissue next to them, and only that, a little off
phi. What is
*not* simulated: sliding organs, filling and emptying, new lesions. Any figure measured on such data is a figure on
simulated data and must be shown as such.

Conventions: LPS mm; volumes (z, y, x); displacement vectors baseline -> follow-up on the baseline's grid.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Dict, Optional, Sequence, Tuple

import numpy as np
from scipy import ndimage

from SAMv2Core.errors import UsageError
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.lesion import Lesion
from SAMv2Core.io.volume import Volume
from SAMv2Core.simulation import acquisition, posture
from SAMv2Core.simulation.lesion_growth import LesionChange, LesionOptions, apply_changes, draw_changes
from SAMv2Core.simulation.warp import Deformation, InverseSampler, control_lattice

MAX_LIPSCHITZ = 0.7  # of the displacement: no local volume shrinks below (1 - 0.7)^3, and inversion is quick
SLAB_VOXELS = 2_000_000  # voxels resampled at a time: bounds the memory for coordinates to some 150 MB


@dataclass(frozen=True)
class SimulationOptions:
    """What changes between the time points; the defaults change nothing. Pairs are ranges, drawn uniformly.

    :param rotation_deg: largest angle, about a random axis through the body's center.
    :param scale: range of the overall size.
    :param translation_mm: largest shift per axis of patient and field of view together, as by another origin.
    :param deformation_mm: largest elastic displacement in the body, reached unless that would fold space.
    :param deformation_scale_mm: distance of the elastic field's control points.
    :param breathing_mm: how far the diaphragm moves down; the spine stays.
    :param weight_mm: largest shift of the skin outward or inward, as by weight gained or lost; the spine stays.
    :param contrast: range of the gain about 50 HU.
    :param gamma: range of the exponent inside the soft tissues.
    :param offset_hu: largest absolute offset of the soft tissues.
    :param clip_hu: window outside of which the follow-up is clipped, or None.
    :param blur_mm: range of a softer kernel's standard deviation.
    :param sharpen: range of a sharper kernel's strength.
    :param noise_hu: standard deviation of the added noise.
    :param noise_grain_voxels: its in-plane correlation length.
    :param slice_thickness_mm: of the follow-up along the volume's third axis; None keeps the baseline's.
    :param field_of_view: fraction of the baseline's box kept along its index axes (x, y, z), anywhere.
    :param table: put a couch under the patient.
    :param interpolation: ``"cubic"`` or ``"linear"``.
    """

    rotation_deg: float = 0.0
    scale: Tuple[float, float] = (1.0, 1.0)
    translation_mm: float = 0.0
    deformation_mm: float = 0.0
    deformation_scale_mm: float = 50.0
    breathing_mm: float = 0.0
    weight_mm: float = 0.0
    contrast: Tuple[float, float] = (1.0, 1.0)
    gamma: Tuple[float, float] = (1.0, 1.0)
    offset_hu: float = 0.0
    clip_hu: Optional[Tuple[float, float]] = None
    blur_mm: Tuple[float, float] = (0.0, 0.0)
    sharpen: Tuple[float, float] = (0.0, 0.0)
    noise_hu: float = 0.0
    noise_grain_voxels: float = 0.0
    slice_thickness_mm: Optional[float] = None
    field_of_view: Tuple[float, float, float] = (1.0, 1.0, 1.0)
    table: bool = False
    interpolation: str = "cubic"

    def __post_init__(self) -> None:
        fov, lengths = self.field_of_view, (self.deformation_mm, self.translation_mm, self.noise_hu, self.weight_mm)
        checks = (
            (0 < self.scale[0] <= self.scale[1], "scale must be a range of positive numbers"),
            (min(self.gamma + self.contrast) > 0, "gamma and contrast must be positive"),
            (self.deformation_scale_mm > 0, "deformation_scale_mm must be positive"),
            (min(lengths) >= 0, "lengths and noise cannot be negative"),
            (0 < min(fov) and max(fov) <= 1, "field_of_view must be within (0, 1]"),
            (self.slice_thickness_mm is None or self.slice_thickness_mm > 0, "slice_thickness_mm must be positive"),
            (self.interpolation in ("cubic", "linear"), "interpolation must be cubic or linear"),
        )
        for valid, rule in checks:
            if not valid:
                raise UsageError(f"The simulation cannot run: {rule}.", "Correct this option.")


#: The follow-up that the project's accuracy figures are measured on: rotation up to 10 degrees, size 0.9 to
#: 1.1, smooth deformation up to 15 mm, noise, another window.
FOLLOW_UP = SimulationOptions(
    rotation_deg=10.0,
    scale=(0.9, 1.1),
    translation_mm=30.0,
    deformation_mm=15.0,
    contrast=(0.8, 1.25),
    gamma=(0.8, 1.25),
    offset_hu=20.0,
    clip_hu=(-1000.0, 1500.0),
    noise_hu=20.0,
    noise_grain_voxels=0.7,
)


@dataclass(frozen=True, eq=False)
class SimulatedFollowUp:
    """A follow-up volume and where every baseline point went.

    :param volume: the follow-up, in the baseline's scalar type.
    :param baseline_grid: geometry of the baseline.
    :param deformation: the map itself, exact at any point.
    :param options: what was asked for.
    :param seed: the seed; the same volume, options and seed give the same follow-up.
    :param drawn: the figures drawn from the options' ranges and what became of them; plain numbers,
        JSON-able.
    :param lesions: what became of each lesion of known diameter.
    """

    volume: Volume
    baseline_grid: Grid
    deformation: Deformation
    options: SimulationOptions
    seed: int
    drawn: Dict[str, float] = field(default_factory=dict)
    lesions: Tuple[LesionChange, ...] = ()

    @cached_property
    def displacement(self) -> np.ndarray:
        """(z, y, x, 3) float32 mm LPS on ``baseline_grid``: baseline point + vector = follow-up point.

        Computed when first asked for: on a CT of full resolution it takes a gigabyte.
        """
        return self.deformation.field_on(self.baseline_grid)

    def map_points(self, points_lps: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """(N, 3) baseline -> (N, 3) follow-up, LPS mm; and (N,) bool, inside the follow-up's volume."""
        moved = self.deformation.map_points(points_lps)
        return moved, self.volume.grid.contains(moved)

    def unmap_points(self, points_lps: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """(N, 3) follow-up -> (N, 3) baseline, LPS mm; and (N,) bool, inside the baseline's volume."""
        sources = self.deformation.unmap_points(points_lps)
        return sources, self.baseline_grid.contains(sources)


def simulate_follow_up(
    volume: Volume,
    options: SimulationOptions = FOLLOW_UP,
    seed: int = 0,
    lesions: Sequence[Lesion] = (),
    lesion_options: Optional[LesionOptions] = None,
) -> SimulatedFollowUp:
    """A second time point of a volume, with the truth: where every point went.

    Parameters
    ----------
    volume : Volume
        The baseline; any geometry, CT or MR.
    options : SimulationOptions
        What changes.
    seed : int
        Of everything random. Each component has its own stream: switching one off leaves the others alone.
    lesions : sequence of Lesion, optional
        Of the baseline; those of known diameter change as ``lesion_options`` says (None: they stay as they are).
    lesion_options : LesionOptions, optional

    Returns
    -------
    SimulatedFollowUp
        ``.volume``, and ``.map_points(points_lps)`` from the baseline to it.

    Raises
    ------
    UsageError
        Options that make no sense.

    Examples
    --------
    >>> import SAMv2Core as s
    >>> follow_up = s.simulate_follow_up(volume, seed=1)
    >>> moved, is_inside = follow_up.map_points(np.array([[0.0, 10.0, 0.0]]))
    >>> moved.shape, is_inside.tolist()
    ((1, 3), [True])
    """
    scale = acquisition.intensity_scale(volume.array, volume.modality)
    baseline = np.where(np.isfinite(volume.array), volume.array, scale.air).astype(np.float32)
    drawn: Dict[str, float] = {}
    deformation = _draw_deformation(baseline, volume.grid, scale, options, seed, drawn)
    target, slices_per_slice = _follow_up_grid(volume.grid, deformation, options, seed)
    fine = acquisition.thin_slices(target, slices_per_slice)
    array = _resample(baseline, volume.grid, deformation, fine, scale.air, options.interpolation)
    # Changes of the anatomy itself belong here: in the follow-up's space, before the scanner sees them.
    fate = lesion_options or LesionOptions()
    changes = _change_lesions(array, fine, deformation, lesions, fate, drawn["scale"], seed)
    array = _scan(array, fine, slices_per_slice, target, scale, options, seed, drawn)
    source = f"simulated follow-up (seed {seed}) of {volume.source}"
    follow_up = Volume(_in_type_of(volume.array, array), target.ijk_to_lps, source, volume.modality)
    return SimulatedFollowUp(follow_up, volume.grid, deformation, options, seed, drawn, changes)


def _stream(seed: int, component: int) -> np.random.Generator:
    return np.random.default_rng([int(seed), component])


def _draw_deformation(
    baseline: np.ndarray,
    grid: Grid,
    scale: acquisition.IntensityScale,
    options: SimulationOptions,
    seed: int,
    drawn: Dict[str, float],
) -> Deformation:
    """Elastic displacement, breathing and weight, limited to what cannot fold, then rotation, size and shift."""
    body_lps = posture.body_points(scale.body(baseline), grid)
    controls = control_lattice(grid, options.deformation_scale_mm)
    coefficients = posture.elastic(controls, body_lps, options.deformation_mm, _stream(seed, 1))
    if options.breathing_mm:
        level_mm = posture.diaphragm_level_mm(baseline, grid)
        coefficients = coefficients + posture.breathing(controls, body_lps, level_mm, options.breathing_mm)
    if options.weight_mm:
        drawn["weight_mm"] = float(_stream(seed, 8).uniform(-1, 1) * options.weight_mm)
        coefficients = coefficients + posture.weight(controls, body_lps, drawn["weight_mm"])
    rng = _stream(seed, 2)
    axis = rng.standard_normal(3)
    angle, size = rng.uniform(0, options.rotation_deg), rng.uniform(*options.scale)
    affine = posture.about_center(body_lps.mean(axis=0), axis, angle, size, _shift(options, seed))
    deformation, kept = Deformation(affine, controls, coefficients).limited(MAX_LIPSCHITZ)
    drawn.update(rotation_deg=float(angle), scale=float(size), deformation_kept=kept)
    drawn["deformation_max_mm"] = float(np.linalg.norm(deformation.displacement(body_lps), axis=1).max())
    drawn["minimum_jacobian"] = deformation.minimum_jacobian()
    return deformation


def _shift(options: SimulationOptions, seed: int) -> np.ndarray:
    return _stream(seed, 3).uniform(-1, 1, 3) * options.translation_mm


def _follow_up_grid(grid: Grid, deformation: Deformation, options: SimulationOptions, seed: int) -> Tuple[Grid, int]:
    """The follow-up's grid (cropped, shifted, other slices) and how many thin slices make one of them."""
    target = acquisition.cropped_grid(grid, options.field_of_view, _stream(seed, 4))
    shifted = target.ijk_to_lps.copy()
    shifted[:3, 3] += _shift(options, seed)
    target, factor = Grid(target.shape_zyx, shifted), 1
    if options.slice_thickness_mm is not None:
        target, factor = acquisition.with_slices(target, options.slice_thickness_mm)
    return acquisition.without_empty_ends(target, grid, deformation.unmap_points), factor


def _resample(
    baseline: np.ndarray, source: Grid, deformation: Deformation, target: Grid, air: float, interpolation: str
) -> np.ndarray:
    """The baseline's values at phi^-1 of the target's voxels, float32; ``air`` where the baseline ends."""
    order = 3 if interpolation == "cubic" else 1
    low, high = float(baseline.min()), float(baseline.max())
    samples = ndimage.spline_filter(baseline, order=3, output=np.float32, mode="mirror") if order == 3 else baseline
    sampler = InverseSampler(deformation, target)
    out = np.empty(target.shape_zyx, dtype=np.float32)
    slab = max(1, SLAB_VOXELS // (target.shape_zyx[1] * target.shape_zyx[2]))
    for first in range(0, target.shape_zyx[0], slab):
        last = min(first + slab, target.shape_zyx[0])
        where = sampler.sources(source, first, last)
        outside = np.zeros(where.shape[1:], dtype=bool)
        for axis, n in enumerate(source.shape_zyx):  # the outermost voxels reach to their faces
            outside |= (where[axis] < -0.5) | (where[axis] > n - 0.5)
        ndimage.map_coordinates(samples, where, out[first:last], order=order, prefilter=False, mode="mirror")
        out[first:last][outside] = air
    return np.clip(out, min(low, air), high, out=out)  # cubic interpolation overshoots at edges


def _change_lesions(
    array: np.ndarray,
    grid: Grid,
    deformation: Deformation,
    lesions: Sequence[Lesion],
    options: LesionOptions,
    size: float,
    seed: int,
) -> Tuple[LesionChange, ...]:
    """Draw what becomes of the lesions and do it to the follow-up, in place."""
    if not lesions:
        return ()
    moved = deformation.map_points(np.array([lesion.center_lps for lesion in lesions]))
    changes = draw_changes(lesions, moved, size, options, _stream(seed, 7))
    before = [lesion.diameter_mm * size for lesion in lesions if lesion.diameter_mm is not None]
    apply_changes(array, grid, changes, before)
    return tuple(changes)


def _scan(
    array: np.ndarray,
    fine: Grid,
    slices_per_slice: int,
    target: Grid,
    scale: acquisition.IntensityScale,
    options: SimulationOptions,
    seed: int,
    drawn: Dict[str, float],
) -> np.ndarray:
    """The other scanner: couch, contrast, slices, kernel, noise, window, in this order."""
    rng = _stream(seed, 5)
    contrast, gamma = rng.uniform(*options.contrast), rng.uniform(*options.gamma)
    offset = rng.uniform(-1, 1) * options.offset_hu
    blur, sharpen = rng.uniform(*options.blur_mm), rng.uniform(*options.sharpen)
    drawn.update(contrast=contrast, gamma=gamma, offset_hu=offset, blur_mm=blur, sharpen=sharpen)
    if options.table:
        array = acquisition.add_table(array, fine, scale)
    if (contrast, gamma, offset) != (1.0, 1.0, 0.0):
        array = acquisition.remap_intensity(array, scale, contrast, gamma, offset)
    if slices_per_slice > 1:
        array = acquisition.average_slices(array, slices_per_slice)
    array = acquisition.apply_kernel(array, target, blur, sharpen)
    if options.noise_hu:
        sigma = options.noise_hu * scale.per_hu
        array = acquisition.add_noise(array, sigma, options.noise_grain_voxels, _stream(seed, 6))
    if options.clip_hu is not None:
        array = np.clip(array, scale.of_hu(options.clip_hu[0]), scale.of_hu(options.clip_hu[1]))
    return np.maximum(array, scale.air)


def _in_type_of(like: np.ndarray, array: np.ndarray) -> np.ndarray:
    """``array`` in the scalar type of ``like``, rounded and clipped to its range."""
    if like.dtype.kind not in "iu":
        return array.astype(like.dtype)
    limits = np.iinfo(like.dtype)
    return np.clip(np.rint(array), limits.min, limits.max).astype(like.dtype)
