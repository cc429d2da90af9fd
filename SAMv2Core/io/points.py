"""Points with names, the unit of all matching, and the reading of their coordinates.

Positions are LPS mm. A point without a position stays in its list with ``position_lps`` None, so that order,
labels and number of points survive every round trip. Labels may repeat.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from SAMv2Core.errors import InputError

# Sign of (x, y, z) that turns a file's coordinates into LPS, by what the formats call their system.
_TO_LPS = {"LPS": (1.0, 1.0, 1.0), "1": (1.0, 1.0, 1.0), "RAS": (-1.0, -1.0, 1.0), "0": (-1.0, -1.0, 1.0)}
_DECIMALS = 6  # a nanometer: positions are written without noise digits


@dataclass(frozen=True)
class Point:
    """A named point.

    :param label: as displayed; may repeat or be empty.
    :param position_lps: (l, p, s) mm, or None when it has no position.
    :param description: free text.
    :param extra: further columns of a CSV file, such as ``diameter_mm``, as text.
    """

    label: str
    position_lps: Optional[Tuple[float, float, float]]
    description: str = ""
    extra: Dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PointList:
    """Points in order, with the name of their list."""

    points: Tuple[Point, ...]
    name: str = "F"

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[Point]:
        return iter(self.points)

    @property
    def labels(self) -> List[str]:
        return [point.label for point in self.points]

    @property
    def positions_lps(self) -> np.ndarray:
        """(N, 3) float64 LPS mm; NaN where a point has no position."""
        rows = [point.position_lps or (math.nan,) * 3 for point in self.points]
        return np.array(rows, dtype=np.float64).reshape(-1, 3)


def _number(value: Any, where: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputError(f"{where}: {value!r} is not a number.", "Correct the coordinate.") from None


def position_from(values: Sequence[Any], sign: Sequence[float], where: str) -> Optional[Tuple[float, float, float]]:
    """LPS mm, or None when a coordinate is missing or not finite."""
    if len(values) != 3:
        raise InputError(f"{where}: {len(values)} coordinates instead of 3.", "Correct the file.")
    if any(value is None or str(value).strip() == "" for value in values):
        return None
    x, y, z = (_number(value, where) * factor for value, factor in zip(values, sign))
    # Adding 0.0 turns -0.0, which the change of sign makes of 0, into 0.0.
    return (x + 0.0, y + 0.0, z + 0.0) if all(map(math.isfinite, (x, y, z))) else None


def sign_of_system(system: Any, path: Path) -> Tuple[float, float, float]:
    key = str(system).strip().upper()
    if key not in _TO_LPS:
        raise InputError(f"{path} uses the coordinate system {system!r}.", "Save it in LPS or RAS.")
    return _TO_LPS[key]


def rounded(position: Optional[Sequence[float]]) -> Optional[List[float]]:
    return None if position is None else [round(float(value), _DECIMALS) + 0.0 for value in position]
