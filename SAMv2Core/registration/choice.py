"""What a chosen pose is, apart from how it is chosen: this module loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict

import numpy as np

#: What agreement of edges counts beside mutual information in nats.
EDGE_WEIGHT = 1.0


@dataclass(frozen=True, eq=False)
class Choice:
    """The pose that was chosen.

    :param matrix: (4, 4) small to large.
    :param information: mutual information in nats; this and the next two where the pose was chosen, before its last
        refinement near bone.
    :param edges: agreement of edges, 0..1.
    :param overlap: share of the small body that both scans show.
    :param runner_up: score of the best pose elsewhere over the chosen one's, 0..1; 0 when all ended in one place.
    :param turned_deg: angle of the rotation.
    :param bone: what information, edges and overlap give near bone alone, at the end.
    :param votes: share of the matches that the pose explains, 0..1.
    :param halves_mm: how far two halves of the small scan, each aligned on its own from the pose, put the body apart.
    """

    matrix: np.ndarray
    information: float
    edges: float
    overlap: float
    runner_up: float
    turned_deg: float
    bone: float
    votes: float
    halves_mm: float

    @property
    def score(self) -> float:
        """What was maximized, without the votes of the matches."""
        return (self.information + EDGE_WEIGHT * self.edges) * self.overlap

    def to_report(self) -> Dict[str, float]:
        """Plain numbers for JSON."""
        names = ("score", "information", "edges", "overlap", "bone", "votes", "halves_mm", "runner_up", "turned_deg")
        return {name: float(getattr(self, name)) for name in names}
