"""NRRD headers that say where the voxels are in words that do not say where left is, or not in mm, or not at all."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Sequence

import numpy as np

from Testing.files.scan import SCAN, two_lesions


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


def centimeters_by_axis(folder: Path) -> Path:
    return write(folder / "axes.nrrd", ["spacings: .4 .4 .5", 'units: "cm" "cm" "cm"'], geometry=False)


def damaged_checksum(folder: Path) -> Path:
    """Compressed voxels with one bit turned around that still inflate; NrrdIO stops before the checksum."""
    path = write(folder / "crc.nrrd", ["space: LPS"])
    head, _, body = path.read_bytes().partition(b"\n\n")
    packed = bytearray(gzip.compress(body))
    packed[-14] ^= 4
    path.write_bytes(head.replace(b"encoding: raw", b"encoding: gzip") + b"\n\n" + packed)
    return path


def layers(folder: Path, *, first: int = 0, without: Sequence[str] = (), name: str = "lesions.seg.nrrd") -> Path:
    """Two overlapping segments in two layers, as Slicer saves them.

    :param first: number of the first segment.
    :param without: keys that the file does not have; Slicer 4.10 wrote neither Layer nor LabelValue.
    :param name: ``.seg.nhdr`` for voxels in a file of their own.
    """
    masks = two_lesions()
    pairs = []
    for n, label in enumerate(masks):
        keys = {"ID": f"Segment_{n}", "Name": label, "Layer": n, "LabelValue": 1}
        pairs += [f"Segment{first + n}_{key}:={value}" for key, value in keys.items() if key not in without]
    sizes = " ".join(str(n) for n in SCAN.array.shape[::-1])
    columns = [f"({','.join(repr(float(v)) for v in SCAN.ijk_to_lps[:3, axis])})" for axis in range(4)]
    header = [
        "NRRD0004", "type: unsigned char", "dimension: 4", "space: left-posterior-superior", f"sizes: 2 {sizes}",
        f"space directions: none {' '.join(columns[:3])}", "kinds: list domain domain domain", "encoding: gzip",
        f"space origin: {columns[3]}", *pairs,
    ]  # fmt: skip
    body = gzip.compress(np.stack(list(masks.values()), axis=-1).astype(np.uint8).tobytes())
    if name.endswith(".nhdr"):
        (folder / "voxels.raw.gz").write_bytes(body)
        header, body = [*header, "data file: voxels.raw.gz"], b""
    (folder / name).write_bytes("\n".join([*header, "", ""]).encode("utf-8") + body)
    return folder / name
