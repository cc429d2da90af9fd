"""NRRD headers that say where the voxels are in words that do not say where left is, or not in mm, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

import numpy as np

from Testing.files.scan import SCAN


def write(
    path: Path,
    lines: Sequence[str],
    matrix: np.ndarray = SCAN.ijk_to_lps,
    geometry: bool = True,
    array: np.ndarray = SCAN.array,
) -> Path:
    """The scan as a raw NRRD with the given lines in its header."""
    sizes = " ".join(str(n) for n in array.shape[::-1])
    header = ["NRRD0005", "type: short", "dimension: 3", f"sizes: {sizes}", "endian: little", "encoding: raw", *lines]
    if geometry:
        columns = (f"({','.join(repr(float(v)) for v in matrix[:3, axis])})" for axis in range(4))
        *directions, origin = columns
        header += [f"space directions: {' '.join(directions)}", f"space origin: {origin}"]
    path.write_bytes("\n".join([*header, "", ""]).encode("ascii") + array.astype("<i2").tobytes())
    return path


def in_space(folder: Path, line: str) -> Path:
    """Numbers in RAS under a space that is not anatomical."""
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ SCAN.ijk_to_lps
    return write(folder / "space.nrrd", [line], ras)


def spacings_only(folder: Path) -> Path:
    return write(folder / "spacings.nrrd", ["spacings: 4 4 5"], geometry=False)


def centimeters(folder: Path) -> Path:
    """Lengths in cm, which neither ITK nor Slicer converts."""
    matrix = SCAN.ijk_to_lps.copy()
    matrix[:3] /= 10
    return write(folder / "cm.nrrd", ["space: LPS", 'space units: "cm" "cm" "cm"'], matrix)
