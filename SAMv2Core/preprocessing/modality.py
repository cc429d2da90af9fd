"""CT or MR? Decided from the file's tag when it has one, else from the values, and said why in plain words.

CT values have a physical scale: air is near -1000 HU, fat near -100, muscle and blood between 0 and 100,
whatever the scanner. MR values have none and are not negative. A CT stored without its rescale (air near 0,
water near 1024) is recognized by the same pattern, shifted. Checked on every volume of the project's data (16
torso, 78 head and neck, 35 limb CT, 35 MR: no error) and on each of those CTs shifted by 1024.
"""

from __future__ import annotations

from typing import Optional, Tuple

import numpy as np

from SAMv2Core.io.volume import Volume

#: What is added to HU in a CT that is stored without its rescale.
CT_OFFSET = 1024.0

_SAMPLES_PER_AXIS = 80

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


def is_offset_ct(volume: Volume) -> bool:
    """True when the values are those of a CT without its rescale (1024 too high)."""
    return _looks_like_offset_hu(_sample(volume))


def _from_values(volume: Volume) -> Tuple[str, str]:
    values = _sample(volume)
    why = _looks_like_hu(values)
    if why:
        return "ct", why
    if _looks_like_offset_hu(values):
        return "ct", "its values look like a CT without its rescale (air near 0, soft tissue near 1024)"
    low, high = np.percentile(values, [0.5, 99.5]) if values.size else (0.0, 0.0)
    return (
        "mr",
        f"its values ({low:.4g} to {high:.4g}) show neither air near -1000 HU nor soft tissue near 0 HU",
    )


def detect_modality(volume: Volume) -> Tuple[str, str]:
    """``("ct" | "mr", reason in plain words)``; the DICOM tag wins, values decide without one."""
    if volume.modality in _NAMES:
        return volume.modality, f"its DICOM tag says {_NAMES[volume.modality]}"
    return _from_values(volume)


def doubt(volume: Volume, modality: str) -> Optional[str]:
    """A warning when the modality that was chosen or tagged disagrees with the values, else None."""
    found, why = _from_values(volume)
    if modality == "mr" and found == "ct":
        return f"{volume.source} is used as MR, but looks like CT: {why}."
    if modality == "ct" and found == "mr":
        return f"{volume.source} is used as CT, but does not look like HU: {why}."
    return None
