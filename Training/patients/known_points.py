"""Points that are known in a training scan: hand-placed landmarks, and centroids of whole organs where there are none.

Points are (x, y, z) mm from the centre of voxel 0 of the scan's 2 mm lattice.
"""

from __future__ import annotations

from typing import Dict, Iterable

import numpy as np
from scipy.ndimage import find_objects

from Training.data.index import Entry, Index
from Training.data.landmarks import DOMES, MIN_SURE, region_of
from Training.views.geometry import DETAIL_MM

MIN_LABEL_VOXELS = 30
PATHOLOGY = ("tumour", "cyst", "kidney_cyst_left", "kidney_cyst_right")
"""Labels that lie elsewhere in every patient."""
LONG = ("spinal_cord", "esophagus", "aorta", "inferior_vena_cava", "bone", "small_bowel", "colon", "vertebrae")
"""Labels whose centroid depends on how much of them was contoured."""


def known_points(index: Index, entry: Entry) -> Dict[str, np.ndarray]:
    """(3,) by name: sure landmarks, domes included; without any, the centroids of whole labels (``label NAME``)."""
    if entry.landmarks:
        sure = {name: value for name, value in entry.landmarks.items() if value[3] >= MIN_SURE}
        return {name: entry.grid.to_ijk(np.array([value[:3]]))[0] * DETAIL_MM for name, value in sure.items()}
    return {} if entry.labels is None else whole_centroids(np.asarray(index.array(entry.labels)), entry)


def whole_centroids(labels: np.ndarray, entry: Entry) -> Dict[str, np.ndarray]:
    """Centroids of the labels (z, y, x) that no face of the volume cuts off; tumours and cysts are left out."""
    found: Dict[str, np.ndarray] = {}
    for label, box in enumerate(find_objects(labels), start=1):
        name = (entry.label_names or {}).get(str(label), str(label))
        if box is None or name in PATHOLOGY:
            continue
        if any(part.start <= 1 or part.stop >= n - 1 for part, n in zip(box, labels.shape)):
            continue
        voxels = np.argwhere(labels[box] == label)
        if len(voxels) > MIN_LABEL_VOXELS:
            found[f"label {name}"] = (voxels.mean(0) + [part.start for part in box])[::-1] * DETAIL_MM
    return found


def exact(known: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
    """Those that are the same place in every patient to some millimeters: no domes, no centroids of long organs."""
    return {
        name: point
        for name, point in known.items()
        if (name.startswith("label ") and name[len("label ") :] not in LONG)
        or (not name.startswith("label ") and region_of(name) != DOMES)
    }


def shared(a: Dict[str, np.ndarray], b: Dict[str, np.ndarray], names: Iterable[str] = ()) -> tuple:
    """The points that two scans have in common: (K, 3) of each, in the order of ``names`` or of the first."""
    common = [name for name in (names or a) if name in a and name in b]
    return tuple(np.array([side[name] for name in common]).reshape(-1, 3) for side in (a, b))
