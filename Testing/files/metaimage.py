"""MetaImage headers that contradict themselves, and compressed voxels that ITK reads without a look."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Sequence

from Testing.files.scan import N_SLICES, SCAN


def write(path: Path, lines: Sequence[str] = (), data: bytes = SCAN.array.tobytes(), where: str = "LOCAL") -> Path:
    spacing = " ".join(f"{value:g}" for value in SCAN.grid.spacing_ijk_mm)
    origin = " ".join(f"{value:g}" for value in SCAN.ijk_to_lps[:3, 3])
    header = ["NDims = 3", "BinaryData = True", "TransformMatrix = 1 0 0 0 1 0 0 0 1", f"Offset = {origin}", *lines]
    sizes = " ".join(str(n) for n in SCAN.array.shape[::-1])
    header += [f"ElementSpacing = {spacing}", f"DimSize = {sizes}", "ElementType = MET_SHORT"]
    path.write_bytes("\n".join([*header, f"ElementDataFile = {where}", ""]).encode() + data)
    return path


def orientation_against_matrix(folder: Path) -> Path:
    """Letters of another orientation than the matrix; ITK and Slicer follow the matrix."""
    return write(folder / "letters.mha", ["AnatomicalOrientation = LPS"])


def centimeters(folder: Path) -> Path:
    return write(folder / "cm.mha", ["DistanceUnits = cm"])


def damaged_voxels(folder: Path) -> Path:
    """One byte of the compressed voxels is another: ITK leaves memory as it was, and says nothing."""
    packed = bytearray(zlib.compress(SCAN.array.tobytes()))
    packed[len(packed) // 2] ^= 0xFF
    lines = ["CompressedData = True", f"CompressedDataSize = {len(packed)}"]
    return write(folder / "damaged.mha", lines, bytes(packed))


def compressed_of_unknown_size(folder: Path) -> Path:
    return write(folder / "unsized.mha", ["CompressedData = True"], zlib.compress(SCAN.array.tobytes()))


def voxels_missing(folder: Path) -> Path:
    return write(folder / "alone.mhd", data=b"", where="voxels.raw")


def slices_listed(folder: Path, end: bytes = b"") -> Path:
    """A file per slice; without an end of the last line ITK leaves the last slice as it was."""
    for k in range(N_SLICES):
        (folder / f"s{k}.raw").write_bytes(SCAN.array[k].tobytes())
    return write(folder / "list.mhd", data="\n".join(f"s{k}.raw" for k in range(N_SLICES)).encode() + end, where="LIST")


def name_with_a_percent_sign(folder: Path) -> Path:
    """A name that MetaIO takes for a pattern, and prints beyond its memory: the process ends."""
    return write(folder / "percent.mha", data=b"", where="%9999s" + "x" * 40)
