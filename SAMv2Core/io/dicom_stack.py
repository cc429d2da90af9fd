"""From the images of one DICOM volume to an array with its geometry.

The geometry is that of the positions in the files, never of tags such as SliceThickness, and every single image is
compared with the matrix at the end: images that lie off the line of the others in their plane, slices that are missing
or unevenly spaced are resampled to where they belong, with a warning that names them. A tilted gantry, whose slices
move evenly in plane, is kept as a shear.

Conventions: array (z, y, x); ijk = (x, y, z); LPS mm.
"""

from __future__ import annotations

from pathlib import Path
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from scipy import ndimage

from SAMv2Core.errors import InputError
from SAMv2Core.io.dicom_header import Frame
from SAMv2Core.io.dicom_pixels import stored_values
from SAMv2Core.io.dicom_volumes import MAX_MISSING

# How far an image may lie from where the matrix puts it: this part of the slice distance across, of a pixel in plane.
TOLERANCE = 0.1
_MIN_TOLERANCE_MM = 0.02  # positions are decimals of limited length
# Slices that fit an even lattice with holes, when at least this share of the gaps is one step.
_MOSTLY = 0.6
_COVERED = 0.8  # of a gap is covered by the slices at its ends: none is missing there
_MAX_FINER = 4  # an uneven stack is resampled to at most so many times its slices
_MAX_SHIFT = 0.5  # of the field of view: farther in plane is another place, not this volume
_MIN_TILT_DEGREES = 0.1


class _Depths(NamedTuple):
    """Even depths: their distance, and where each lies between the images (number of the lower one plus a weight); None
    where they are those of the images."""

    step: float
    places: Optional[np.ndarray]


def assemble(frames: Sequence[Frame], path: Path, warnings: List[str]) -> Tuple[np.ndarray, np.ndarray]:
    """Array and 4x4 LPS matrix of images that lie one behind the other, in order.

    :raises InputError: fewer than two; an image that cannot be read; one that belongs elsewhere.
    """
    if len(frames) < 2:
        raise InputError(f"{path} holds a single slice position, not a volume.", "Choose a volumetric series.")
    broken = [frame for frame in frames if frame.pixels.fault]
    if broken:
        raise InputError(
            f"{broken[0].path} cannot be read: {broken[0].pixels.fault}"
            + (f" ({len(broken)} of {len(frames)} images of the series)." if len(broken) > 1 else "."),
            _remedy(broken[0]),
        )
    axes, spacing = _common(frames)
    positions = np.array([frame.position for frame in frames])
    depths = positions @ axes[:, 2]
    in_plane = positions @ axes[:, :2]
    slope, start = _line(depths, in_plane)
    even = _even_depths(frames, depths, path, warnings)
    array = values_of(frames)
    shifts = (in_plane - start - depths[:, None] * slope) / spacing  # pixels
    array, start = _in_line(array, shifts, start, spacing, frames, path, warnings)
    if even.places is not None:
        array = _at_places(array, even.places)
    matrix = np.eye(4)
    matrix[:3, :2] = axes[:, :2] * spacing
    matrix[:3, 2] = (axes[:, 2] + axes[:, :2] @ slope) * even.step
    matrix[:3, 3] = axes[:, :2] @ (start + depths[0] * slope) + axes[:, 2] * depths[0]
    tilt = float(np.degrees(np.arctan(np.linalg.norm(slope))))
    if tilt > _MIN_TILT_DEGREES:
        warnings.append(f"{path}: the gantry was tilted by {tilt:.1f} degrees; the sheared geometry is kept.")
    return array, matrix


def _remedy(frame: Frame) -> str:
    if "transfer syntax" in frame.pixels.fault:
        return "Export the series uncompressed (Explicit VR Little Endian)."
    return "Export the series again."


def _common(frames: Sequence[Frame]) -> Tuple[np.ndarray, np.ndarray]:
    """Axes and spacing of all images: their mean, since they differ by rounding only."""
    mean = np.array([frame.axes for frame in frames], float).mean(axis=0)
    u, _, vt = np.linalg.svd(mean)
    return u @ vt, np.array([frame.spacing for frame in frames], float).mean(axis=0)


def _line(depths: np.ndarray, in_plane: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """How the images move in plane per mm of depth (2,), and where they start (2,): medians, so that images out of line
    cannot bend it."""
    slopes = np.diff(in_plane, axis=0) / np.diff(depths)[:, None]
    slope = np.median(slopes, axis=0)
    if np.degrees(np.arctan(np.linalg.norm(slope))) <= _MIN_TILT_DEGREES:
        # Rounding of positions and cosines; a real drift shows over the whole length.
        slope = np.zeros(2)
    return slope, np.median(in_plane - depths[:, None] * slope, axis=0)


def _even_depths(frames: Sequence[Frame], depths: np.ndarray, path: Path, warnings: List[str]) -> _Depths:
    """Even depths for the stack; places None where the images are evenly spaced already."""
    gaps = np.diff(depths)
    mean = float(depths[-1] - depths[0]) / len(gaps)
    if _misses(depths, np.arange(len(depths)), mean) <= TOLERANCE * mean:
        return _Depths(mean, None)
    step = float(np.median(gaps))
    numbers = np.round((depths - depths[0]) / step)
    if numbers[-1] > 0:
        step = float(depths[-1] - depths[0]) / numbers[-1]
        numbers = np.round((depths - depths[0]) / step)
    jumps = np.diff(numbers)
    fits = bool(np.all(jumps >= 1)) and _misses(depths, numbers, step) <= TOLERANCE * step
    thickness = np.array([frame.thickness for frame in frames])
    is_covered = np.maximum(thickness[:-1], thickness[1:]) >= _COVERED * gaps  # thicker slices farther apart
    if fits and np.mean(jumps == 1) >= _MOSTLY and not np.all(is_covered[jumps > 1]):
        return _with_missing(frames, jumps, gaps, step, path, warnings)
    finest = max(float(gaps.min()), float(depths[-1] - depths[0]) / (_MAX_FINER * len(depths)))
    n_even = int(np.ceil((depths[-1] - depths[0]) / finest - 0.05)) + 1
    step = float(depths[-1] - depths[0]) / (n_even - 1)
    warnings.append(
        f"{path}: its slices are unevenly spaced ({gaps.min():.2f} to {gaps.max():.2f} mm); the volume was resampled "
        f"to {step:.2f} mm."
    )
    return _Depths(step, np.interp(depths[0] + step * np.arange(n_even), depths, np.arange(len(depths))))


def _misses(depths: np.ndarray, numbers: np.ndarray, step: float) -> float:
    """Largest distance between the images and the lattice from the first one on."""
    return float(np.abs(depths - depths[0] - numbers * step).max())


def _with_missing(
    frames: Sequence[Frame], jumps: np.ndarray, gaps: np.ndarray, step: float, path: Path, warnings: List[str]
) -> _Depths:
    n_missing = int(np.sum(jumps - 1))
    holes = [int(n) for n in np.flatnonzero(jumps > 1)]
    where = f"between {frames[holes[0]].name} and {frames[holes[0] + 1].name}"
    where += f" and {len(holes) - 1} more places" if len(holes) > 1 else ""
    if jumps.max() - 1 > MAX_MISSING or n_missing > len(frames) / 2:
        raise InputError(
            f"{path}: {n_missing} slices are missing {where} (a gap of {gaps.max():.0f} mm).",
            "Export the series completely.",
        )
    warnings.append(
        f"{path}: {n_missing} slice{'s are' if n_missing > 1 else ' is'} missing {where} (gaps {gaps.min():.2f} to "
        f"{gaps.max():.2f} mm); the volume was interpolated there, to {step:.2f} mm."
    )
    numbers = np.concatenate([[0], np.cumsum(jumps)])
    return _Depths(step, np.interp(np.arange(numbers[-1] + 1), numbers, np.arange(len(frames))))


def _in_line(
    array: np.ndarray,
    shifts: np.ndarray,
    start: np.ndarray,
    spacing: np.ndarray,
    frames: Sequence[Frame],
    path: Path,
    warnings: List[str],
) -> Tuple[np.ndarray, np.ndarray]:
    """Images that lie off the line of the others, resampled in their plane to where they say they are."""
    away = np.abs(shifts * spacing).max(axis=1)
    is_off = away > max(TOLERANCE * float(spacing.min()), _MIN_TOLERANCE_MM)
    if not is_off.any():
        return array, start
    named = [frame.name for frame, off in zip(frames, is_off) if off]
    which = f"{named[0]} to {named[-1]}" if len(named) > 1 else named[0]
    size = np.array(array.shape[:0:-1])  # columns, rows
    if np.any(np.abs(shifts).max(axis=0) > _MAX_SHIFT * size):
        raise InputError(
            f"{path}: {len(named)} of {len(frames)} slices ({which}) lie up to {away.max():.0f} mm beside the others.",
            "Choose a series whose slices lie behind each other, or export these alone.",
        )
    warnings.append(
        f"{path}: {len(named)} of {len(frames)} slices ({which}) lie up to {away.max():.1f} mm beside the others in "
        "their plane; each was resampled to where its header says."
    )
    low = np.ceil(np.maximum(0, -shifts[is_off].min(axis=0)) - 1e-6).astype(int)
    high = np.ceil(np.maximum(0, shifts[is_off].max(axis=0)) - 1e-6).astype(int)
    outside = array.min()
    columns, rows = size + low + high
    wide = np.full((len(array), rows, columns), outside, array.dtype)
    for n, plane in enumerate(array):
        wide[n, low[1] : low[1] + size[1], low[0] : low[0] + size[0]] = plane
        if is_off[n]:
            moved = ndimage.shift(wide[n].astype(np.float32), shifts[n][::-1], order=1, mode="constant", cval=outside)
            wide[n] = np.rint(moved) if array.dtype.kind in "iu" else moved
    return wide, start - low * spacing


def _at_places(array: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The stack at places between its images, linearly interpolated; images themselves where a place is one."""
    lower = np.minimum(places.astype(int), len(array) - 2)
    found = np.empty((len(places), *array.shape[1:]), array.dtype)
    for n, (low, weight) in enumerate(zip(lower, places - lower)):
        if weight < 1e-6 or weight > 1 - 1e-6:
            found[n] = array[low + round(float(weight))]
            continue
        plane = array[low] * np.float32(1 - weight) + array[low + 1] * np.float32(weight)
        found[n] = np.rint(plane) if array.dtype.kind in "iu" else plane
    return found


def values_of(frames: Sequence[Frame]) -> np.ndarray:
    """(n, rows, columns), each image with its own rescale: int16 when all values are whole and fit (one copy of a CT is
    all the memory it takes), int32 or float32 otherwise."""
    columns, rows = frames[0].size
    slopes = [frame.slope or 1.0 for frame in frames]
    is_whole = all(s == int(s) and frame.intercept == int(frame.intercept) for s, frame in zip(slopes, frames))
    array = np.empty((len(frames), rows, columns), np.int16 if is_whole else np.float32)
    for n, (frame, slope, stored) in enumerate(zip(frames, slopes, stored_values(frames))):
        if not is_whole:
            array[n] = stored * slope + frame.intercept
            continue
        ends = np.array([int(stored.min()), int(stored.max())], object) * int(slope) + int(frame.intercept)
        if min(ends) < np.iinfo(array.dtype).min or max(ends) > np.iinfo(array.dtype).max:
            array = array.astype(_type_for(min(ends), max(ends)))
        if slope != 1 or frame.intercept != 0:
            stored = stored.astype(np.int64) * int(slope) + int(frame.intercept)
        array[n] = stored
    return array


def _type_for(low: int, high: int) -> np.dtype:
    fits = np.iinfo(np.int32).min <= low and high <= np.iinfo(np.int32).max
    return np.dtype(np.int32 if fits else np.float32)


def check_values(frames: Sequence[Frame], path: Path, warnings: List[str]) -> None:
    """What is odd about their values.

    MONOCHROME1 says how to display values, not what they are; programs that turn them around disagree.

    :raises InputError: some say how to rescale their values and others do not.
    """
    without = [frame for frame in frames if not frame.is_rescaled]
    if len(without) == len(frames) and frames[0].tags.modality == "CT":
        warnings.append(
            f"{path} does not say how its values become HU (RescaleIntercept, 0028,1052): taken as they are."
        )
    elif without and any((frame.slope, frame.intercept) != (1, 0) for frame in frames):
        raise InputError(
            f"{path}: {len(without)} of {len(frames)} images do not say how their values become those of the others "
            f"(RescaleIntercept, 0028,1052; first one: {without[0].name}).",
            "Export the series again.",
        )
    if any(frame.slope == 0 for frame in frames):
        warnings.append(f"{path} has a RescaleSlope of 0, which would leave no image: taken as 1, as in ITK.")
    if any(frame.photometric == "MONOCHROME1" for frame in frames):
        warnings.append(
            f"{path} is to be shown inverted (MONOCHROME1); its values are used as they are, which ITK and 3D Slicer "
            "turn around."
        )
