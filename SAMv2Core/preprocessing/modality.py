"""CT or MR? Decided from the file's tag when it has one, else from the values, and said why in plain words.

CT values have a physical scale: air is near -1000 HU, fat near -100, muscle and blood between 0 and 100,
whatever the scanner. MR values have none and are not negative. A CT stored without its rescale (air near 0,
water near 1024) is recognized by the same pattern, shifted. Checked on every volume of the project's data (16
torso, 78 head and neck, 35 limb CT, 35 MR: no error) and on each of those CTs shifted by 1024.

A CT on another scale (cone beam, shifted, divided by 1000) keeps its histogram: a peak of air, a narrow one of soft
tissue (fat and muscle lie within 15 % of the distance to air), little between them (in MR fat and muscle lie far
apart and much lies between); the two peaks then tell the scale. On train and val together it is found for 139 of 141
CT shifted by 300, 137 divided by 1000, 140 made like cone beam (slope 0.8, +150, noise of 60 HU), and for 0 of 61 MR,
as they are, between 0 and 1, or normalized to mean 0. What shows too little for a decision stays MR, and is told when
it has the peaks of a CT all the same (0 of 61 MR), or piles up at both ends of its values as a CT does in a window of
soft tissue; the command line asks, too, when the other scan is a CT. Said to be a CT, a window's fat and soft tissue
tell its scale (see :func:`_window_peaks`).
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Tuple

import numpy as np
from scipy import ndimage

from SAMv2Core.io.volume import Volume

#: What a scan can be.
MODALITIES = ("ct", "mr")

#: What is added to HU in a CT that is stored without its rescale.
CT_OFFSET = 1024.0

_SAMPLES_PER_AXIS = 80

# The histogram of a CT on any scale: share of tissue within a fifth of the distance from air to the peak of soft
# tissue, share of all between air and tissue, share of tissue that is brighter (bone), share of air.
_N_BINS = 200
_MIN_NARROW, _MAX_BETWEEN, _BONE, _MIN_AIR = 0.70, 0.10, (0.005, 0.25), 0.10
_SOFT_TISSUE_HU = 40.0
# A window of soft tissue: share of voxels at its lower end (air), at its upper one (bone), its width in HU; and how far
# from an end, as a part of the width, a value no longer lies at it.
_MIN_BELOW, _MIN_ABOVE, _WINDOW_HU, _AT_END = 0.25, 0.008, (200.0, 800.0), 0.002
_FAT_HU, _MIN_PEAK = -100.0, 0.1
# A slope this close to 1 or a power of ten is that, an offset this close to 0 or 1024 is that: the peak may be fat.
_SLOPE_TOLERANCE, _OFFSET_TOLERANCE_HU = 0.2, 120.0

_NAMES = {"ct": "CT", "mr": "MR"}


def _sample(volume: Volume) -> np.ndarray:
    """(n,) float32 finite values on a coarse sub-lattice; half a million at most."""
    steps = tuple(slice(n // 2 % step, None, step) for n in volume.array.shape for step in [-(-n // _SAMPLES_PER_AXIS)])
    values = volume.array[steps].astype(np.float32).ravel()
    return values[np.isfinite(values)]


def _share(values: np.ndarray, low: float, high: float) -> float:
    return float(np.mean((values >= low) & (values <= high))) if values.size else 0.0


def _looks_like_hu(values: np.ndarray) -> Optional[str]:
    """Why the values look like HU, or None."""
    if not values.size:
        return None
    air, soft = _share(values, -1100, -850), _share(values, -200, 200)
    tissue = values[values > -250]
    if air >= 0.01 and soft >= 0.02 and _share(tissue, -200, 200) >= 0.5:
        return f"{air:.0%} of its voxels are air near -1000 HU and {soft:.0%} soft tissue near 0 HU"
    # A crop inside the body: fat and muscle side by side, and some fat below what an MR would ever hold.
    fat, muscle = _share(values, -150, -40), _share(values, 0, 120)
    if fat >= 0.03 and muscle >= 0.1 and _share(values, -250, 300) >= 0.7:
        return f"{fat:.0%} of its voxels are fat near -100 HU and {muscle:.0%} muscle or blood near 50 HU"
    return None


def _looks_like_offset_hu(values: np.ndarray) -> bool:
    """Air near 0, peaks of fat and muscle around 1024, bone above; strict, because MR is not far."""
    if not values.size or values.min() < -100 or values.max() < 1400:
        return False
    if np.any(values != np.round(values)):
        return False
    hu = values - CT_OFFSET
    tissue = hu[hu > -700]
    fat, muscle, bone = _share(tissue, -150, -40), _share(tissue, 0, 130), _share(tissue, 250, 3100)
    between = _share(tissue, -650, -200)
    has_peaks = _share(hu, -1100, -850) >= 0.01 and fat >= 0.02 and muscle >= 0.15 and bone >= 0.002
    return has_peaks and between <= 0.25 and _share(tissue, -200, 200) >= 0.5


class CtScale(NamedTuple):
    """HU = slope * value + intercept, and why it is thought so (words that follow the volume's name)."""

    slope: float
    intercept: float
    why: str


def ct_scale(volume: Volume, is_ct: bool = True) -> Optional[CtScale]:
    """How the values of a CT that are not HU become so; None when they are HU, or nothing tells.

    :param is_ct: it is known to be a CT; else its scale must be one that no MR has.
    """
    return _scale_of(_sample(volume), is_ct)


def _scale_of(values: np.ndarray, is_ct: bool) -> Optional[CtScale]:
    if _looks_like_hu(values):
        return None
    if _looks_like_offset_hu(values):
        return CtScale(1.0, -CT_OFFSET, "holds CT values without their rescale (air near 0 instead of -1000)")
    peaks = _ct_peaks(values)
    if peaks is None:
        return _window_scale(values) if is_ct else None
    air, tissue = peaks
    slope = (1000.0 + _SOFT_TISSUE_HU) / (tissue - air)
    if not is_ct and not _is_scale_of_ct(slope, air):
        return None
    decade = 10.0 ** round(np.log10(slope))
    slope = decade if abs(slope / decade - 1) < _SLOPE_TOLERANCE else slope
    intercept = -1000.0 - slope * air
    for usual in (0.0, -CT_OFFSET):
        intercept = usual if abs(intercept - usual) < _OFFSET_TOLERANCE_HU else intercept
    if slope == 1 and intercept == 0:
        return None
    return CtScale(
        slope, intercept, f"looks like a CT that is not in HU (air at {air:.4g}, soft tissue at {tissue:.4g})"
    )


def _is_scale_of_ct(slope: float, air: float) -> bool:
    """HU shifted; or with negative air, which MR has only when normalized, at half to twice the contrast of HU, or in
    thousandths and the like."""
    decade = 10.0 ** round(np.log10(slope))
    if abs(slope - 1) < _SLOPE_TOLERANCE:
        return True
    return air < 0 and (0.5 <= slope <= 2 or abs(slope / decade - 1) < _SLOPE_TOLERANCE)


def _ct_peaks(values: np.ndarray) -> Optional[Tuple[float, float]]:
    """(air, soft tissue): the two peaks of a CT's histogram on any scale; None when it has none such."""
    if not values.size:
        return None
    low, high = (float(value) for value in np.percentile(values, [0.2, 99.8]))
    if not high > low:
        return None
    counts, edges = np.histogram(np.clip(values, low, high), _N_BINS, (low, high))
    centers = (edges[1:] + edges[:-1]) / 2
    smooth = ndimage.gaussian_filter1d(counts.astype(float), 2)
    middle = _otsu(counts, centers)
    air = float(centers[int(np.argmax(smooth[: middle + 1]))])
    tissue = float(centers[middle + 1 + int(np.argmax(smooth[middle + 1 :]))])
    distance = tissue - air
    above = values[values > air + 0.5 * distance]
    narrow = _share(above, tissue - 0.2 * distance, tissue + 0.2 * distance)
    between = _share(values, air + 0.25 * distance, air + 0.65 * distance)
    bone = _share(above, tissue + 0.3 * distance, np.inf)
    is_ct = narrow >= _MIN_NARROW and between <= _MAX_BETWEEN and _BONE[0] <= bone <= _BONE[1]
    return (air, tissue) if is_ct and float(np.mean(values < air + 0.25 * distance)) >= _MIN_AIR else None


def _is_window(values: np.ndarray) -> bool:
    """Its values pile up at both ends, as those of a CT do that was cut to a window of soft tissue."""
    if not values.size:
        return False
    low, high = float(values.min()), float(values.max())
    end = _AT_END * (high - low)
    return _share(values, low, low + end) >= _MIN_BELOW and _share(values, high - end, high) >= _MIN_ABOVE


def _window_peaks(values: np.ndarray) -> Optional[Tuple[float, float]]:
    """(fat, soft tissue): the two peaks between the ends of a window; None when there are no two.

    Of 141 CT (train and val) cut to -160 to 240, -200 to 300 or -150 to 250 HU in 8 bits they give the width of the
    window within a fifth for 64, 81 and 81 %.
    """
    low, high = float(values.min()), float(values.max())
    end = 5 * _AT_END * (high - low)
    counts, edges = np.histogram(values[(values > low + end) & (values < high - end)], 100, (low, high))
    centers, smooth = (edges[1:] + edges[:-1]) / 2, ndimage.gaussian_filter1d(counts.astype(float), 2)
    peaks = [
        n for n in range(1, 99) if smooth[n] >= smooth[n - 1] and smooth[n] > smooth[n + 1]
        and smooth[n] >= _MIN_PEAK * smooth.max()
    ]  # fmt: skip
    pairs = [(min(smooth[i], smooth[j]), i, j) for i in peaks for j in peaks if j - i >= 10]
    if not pairs:
        return None
    _, fat, soft = max(pairs)
    return float(centers[fat]), float(centers[soft])


def _window_scale(values: np.ndarray) -> Optional[CtScale]:
    peaks = _window_peaks(values) if _is_window(values) else None
    if peaks is None:
        return None
    slope = (_SOFT_TISSUE_HU - _FAT_HU) / (peaks[1] - peaks[0])
    if not _WINDOW_HU[0] <= slope * float(np.ptp(values)) <= _WINDOW_HU[1]:
        return None
    return CtScale(
        slope,
        _FAT_HU - slope * peaks[0],
        f"looks like a window of a CT that is not in HU (fat at {peaks[0]:.4g}, soft tissue at {peaks[1]:.4g})",
    )


def _otsu(counts: np.ndarray, centers: np.ndarray) -> int:
    """The bin that parts a histogram into the two classes farthest apart (Otsu 1979); the last one is never it."""
    weight, moment = np.cumsum(counts).astype(float), np.cumsum(counts * centers)
    below, rest = weight[:-1], weight[-1] - weight[:-1]
    between = (moment[-1] * below / weight[-1] - moment[:-1]) ** 2 / np.maximum(below * rest, 1e-9)
    return int(np.argmax(between))


def _from_values(volume: Volume) -> Tuple[str, str]:
    values = _sample(volume)
    why = _looks_like_hu(values)
    if why:
        return "ct", why
    if _looks_like_offset_hu(values):
        return "ct", "its values look like a CT without its rescale (air near 0, soft tissue near 1024)"
    scale = _scale_of(values, is_ct=False)
    if scale is not None:
        return "ct", f"it {scale.why}"
    low, high = np.percentile(values, [0.5, 99.5]) if values.size else (0.0, 0.0)
    return (
        "mr",
        f"its values ({low:.4g} to {high:.4g}) do not show both air near -1000 HU and soft tissue near 0 HU",
    )


def _hint_of_ct(values: np.ndarray) -> Optional[str]:
    """What of a CT the values show that are taken for MR, in words that follow the volume's name."""
    is_as_scanned = values.size and values.max() > 255 and not np.any(values != np.round(values))
    if not is_as_scanned and _ct_peaks(values):  # MR as it comes is whole numbers, and more than 256 of them
        return "its values have the peaks of air and soft tissue of a CT"
    scale = _window_scale(values) if _is_window(values) else None
    return f"it {scale.why}" if scale else None


def detect_modality(volume: Volume) -> Tuple[str, str]:
    """``("ct" | "mr", reason in plain words)``; the DICOM tag wins, values decide without one."""
    if volume.modality in _NAMES:
        return volume.modality, f"its DICOM tag says {_NAMES[volume.modality]}"
    return _from_values(volume)


def doubt(volume: Volume, modality: str) -> Optional[str]:
    """A warning when the modality that was chosen or tagged disagrees with the values, else None."""
    found, why = _from_values(volume)
    if modality == "mr" and found == "mr" and volume.modality is None and (hint := _hint_of_ct(_sample(volume))):
        return f"{volume.source} is taken for MR, but {hint}; say ct where its modality is chosen if it is one."
    if modality == "mr" and found == "ct":
        return f"{volume.source} is used as MR, but looks like CT: {why}."
    if modality == "ct" and found == "mr":
        return f"{volume.source} is used as CT, but does not look like HU: {why}."
    return None
