"""Error between patients at known points, measured while a light network trains (the learning curve's figure).

Templates are the held-out scans and the training scans with hand-placed landmarks, queries the held-out scans of the
same group; points are sure landmarks and centroids of whole labels. The coarse head's nearest neighbor on its 8 mm
lattice counts: a few seconds instead of minutes, and what training changes most. The figures of a finished model come
from ``Testing/benchmarks/accuracy.py``.
"""

from __future__ import annotations

from typing import Dict, List

import numpy as np

from SAMv2Core.network.lite import LiteNet
from Training.index import Entry, Index
from Training.link import Embedded, embed, landmark_path, nearest


class KnownPoints:
    """The scans of an index whose known points can be compared; nothing is read before :meth:`errors`."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self.by_group: Dict[str, List[Entry]] = {}
        for entry in index.entries:
            held_out = entry.split == "val" and (entry.labels is not None or landmark_path(entry).exists())
            if entry.modality == "ct" and (held_out or landmark_path(entry).exists()):
                self.by_group.setdefault(entry.group, []).append(entry)

    def errors(self, net: LiteNet) -> Dict[str, np.ndarray]:
        """(N,) mm per group, all ordered pairs; groups without a pair are left out."""
        found = {group: self._group_errors(net, group) for group in self.by_group}
        return {group: errors for group, errors in found.items() if len(errors)}

    def _group_errors(self, net: LiteNet, group: str) -> np.ndarray:
        embedded = {entry.name: embed(net, self.index, entry) for entry in self.by_group[group]}
        errors: List[float] = []
        for query in (entry.name for entry in self.by_group[group] if entry.split == "val"):
            for template in embedded:
                if template != query:
                    errors += _pair_errors(embedded[template], embedded[query])
        return np.array(errors)


def _pair_errors(a: Embedded, b: Embedded) -> List[float]:
    names = [name for name in a.known if name in b.known]
    if not names:
        return []
    asked, truth = (np.array([side.known[name] for name in names]) for side in (a, b))
    rows = np.linalg.norm(a.points[None] - asked[:, None], axis=2).argmin(axis=1)
    found, _ = nearest(a.vectors[rows], b.vectors)
    return [float(error) for error in np.linalg.norm(b.points[found] - truth, axis=1)]
