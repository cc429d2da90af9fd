"""Training scans in memory, and the maps that carry a point of one scan to another."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, FrozenSet, Optional, Protocol, Tuple

import numpy as np
import torch

from Training.patients.cross_map import LATTICE_MM
from Training.views.geometry import CONTEXT_MM, sample_scan


@dataclass
class Scan:
    """One scan on its 2 mm lattice with LPS axes; int16 in memory.

    :param hu: (z, y, x) at 2 mm.
    :param hu4: (z, y, x) at 4 mm, means of 2x2x2 voxels.
    :param body4: (z, y, x) uint8 at 4 mm.
    :param body_index: (N, 3) x, y, z indices of the body voxels of ``body4``.
    :param labels: (z, y, x) uint8 at 2 mm, or None.
    :param group: first part of the name; labels and cross-subject maps only exist within a group.
    :param weight: probability of being drawn.
    :param modality: "ct", or "mr": then ``hu`` holds what the network sees on the scale of CT
        (:func:`Training.data.index.to_network` gives the preprocessed MR back), -1024 where there is no
        signal.
    :param origin: (3,) LPS mm of voxel 0 of ``hu``, or None.
    :param exact: points that are the same place in every patient, (3,) mm by name
        (:mod:`Training.patients.known_points`).
    :param label_ids: ids that occur in ``labels``.
    """

    name: str
    hu: np.ndarray
    hu4: np.ndarray
    body4: np.ndarray
    body_index: np.ndarray
    labels: Optional[np.ndarray]
    group: str
    weight: float = 0.0
    modality: str = "ct"
    origin: Optional[np.ndarray] = None
    exact: Dict[str, np.ndarray] = field(default_factory=dict)
    label_ids: FrozenSet[int] = frozenset()


class Link(Protocol):
    """Where the points of one scan lie in another."""

    registered: bool

    def transfer(self, points: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """(N, 3) mm of scan A to (N, 3) mm of scan B, and (N,) bool, which of them are trusted."""


@dataclass
class RegisteredLink:
    """Two scans of one patient that are registered to a few mm.

    :param matrix: (4, 4) mm of scan A to mm of scan B.
    :param body4: body mask of scan B at 4 mm; elsewhere nothing is trusted.
    """

    matrix: torch.Tensor
    body4: np.ndarray
    registered: bool = True

    def transfer(self, points: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        moved = points @ self.matrix[:3, :3].T + self.matrix[:3, 3]
        return moved, sample_scan(self.body4, CONTEXT_MM, moved - 1.0, 0.0) > 0.5


@dataclass
class ScanLink:
    """Where the points of one scan lie in another (a :class:`Training.patients.cross_map.CrossMap` in tensors)."""

    target: np.ndarray
    support: np.ndarray
    registered: bool = False

    def transfer(self, points: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """(N, 3) mm of scan A to (N, 3) mm of scan B, and (N,) bool: supported by enough matches."""
        moved = torch.stack(
            [sample_scan(self.target[..., axis], LATTICE_MM, points, -1e4) for axis in range(3)], dim=-1
        )
        # Just outside the lattice its values fade into -1e4, and the support into 0, which is not soon enough.
        last = (torch.tensor(self.support.shape[::-1]) - 1) * LATTICE_MM
        inside = ((points >= 0) & (points <= last)).all(dim=-1)
        return moved, inside & (sample_scan(self.support, LATTICE_MM, points, 0.0) >= 1.0)


def load_links(path: str) -> Dict[Tuple[str, str], ScanLink]:
    """Cross-subject maps written by the iteration step, by (name of A, name of B)."""
    stored = torch.load(path, weights_only=True)
    return {
        tuple(key.split("|")): ScanLink(value["target"].numpy(), value["support"].numpy())
        for key, value in stored.items()
    }


def random_body_point(scan: Scan, rng: np.random.Generator) -> np.ndarray:
    """(3,) x, y, z mm of a body voxel of the scan."""
    return scan.body_index[rng.integers(len(scan.body_index))] * CONTEXT_MM + 1.0
