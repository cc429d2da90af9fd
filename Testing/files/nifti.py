"""NIfTI headers that contradict themselves or leave something open."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

import numpy as np

from SAMv2Core.io.nifti import write_nifti
from Testing.files.scan import SCAN

# Offsets in the header of NIfTI-1.
DIM, PIXDIM, UNITS, QFORM_CODE, SFORM_CODE, QUATERNION, Q_OFFSET, SROW = 40, 76, 123, 252, 254, 256, 268, 280


def patched(folder: Path, name: str, *changes: tuple) -> Path:
    """The scan with some fields of its header overwritten: (offset, values, type) each."""
    path = folder / name
    write_nifti(SCAN.array, SCAN.ijk_to_lps, path)
    raw = bytearray(path.read_bytes())
    for offset, values, kind in changes:
        content = np.asarray(values, kind).tobytes()
        raw[offset : offset + len(content)] = content
    path.write_bytes(bytes(raw))
    return path


def srow(matrix_ras: np.ndarray) -> tuple:
    return SROW, matrix_ras[:3].ravel(), "<f4"


def codes(qform: int, sform: int) -> tuple:
    return QFORM_CODE, [qform, sform], "<i2"


def ras() -> np.ndarray:
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ SCAN.ijk_to_lps


def sform_of_unit_length(folder: Path) -> Path:
    """The sform's axes are 1 mm long, pixdim says 4 x 4 x 5: ITK and Slicer follow pixdim."""
    matrix = ras()
    matrix[:3, :3] /= np.linalg.norm(matrix[:3, :3], axis=0)
    return patched(folder, "unit.nii", srow(matrix), codes(0, 1))


def forms_apart(folder: Path) -> Path:
    """The sform (aligned, code 2) lies 32 mm away from the qform (scanner): ITK and Slicer follow the qform."""
    matrix = ras()
    matrix[0, 3] += 32
    return patched(folder, "apart.nii", srow(matrix), codes(1, 2))


def zero_sform(folder: Path) -> Path:
    """An sform of zeros that claims to count; the qform is whole."""
    return patched(folder, "zero.nii", srow(np.zeros((4, 4))), codes(1, 1))


def zero_sform_alone(folder: Path) -> Path:
    """An sform of zeros and no qform: no geometry at all."""
    return patched(folder, "nothing.nii", srow(np.zeros((4, 4))), codes(0, 1))


def long_quaternion(folder: Path) -> Path:
    """The unit quaternion (0, 0, 1) a little too long: still the same rotation."""
    return patched(folder, "long.nii", (QUATERNION, [0, 0, 1.003], "<f4"), codes(1, 0))


def empty_fourth_dimension(folder: Path) -> Path:
    """dim = 4, 8, 10, 12, 0: one volume."""
    return patched(folder, "dim4.nii", (DIM, [4, *SCAN.array.shape[::-1], 0], "<i2"))


def no_codes(folder: Path) -> Path:
    """Neither form counts: only voxel sizes are known."""
    return patched(folder, "none.nii", codes(0, 0))


def lost_voxel_size(folder: Path, pixdim: Sequence[float] = (4, 4, 0)) -> Path:
    """pixdim lost its slice distance; ITK and Slicer show 1 mm."""
    return patched(folder, "pixdim.nii", (PIXDIM + 4, pixdim, "<f4"))


def intercept_without_slope(folder: Path) -> Path:
    """Values 100 higher, a slope of 0 and an intercept of -100: ITK adds it, others do not."""
    path = patched(folder, "inter.nii", (112, [0, -100], "<f4"))
    raw = path.read_bytes()
    path.write_bytes(raw[:352] + (SCAN.array + 100).astype("<i2").tobytes())
    return path


def two_files(folder: Path) -> Path:
    """Header and voxels apart: NIfTI, with its orientation, not Analyze."""
    raw = bytearray(patched(folder, "a.nii", (344, list(b"ni1\0"), "u1"), (108, [0], "<f4")).read_bytes())
    (folder / "a.hdr").write_bytes(raw[:348])
    (folder / "a.img").write_bytes(raw[352:])
    return folder / "a.hdr"


def something_behind(folder: Path) -> Path:
    """Bytes behind the end of the compressed file, as some archives leave them."""
    write_nifti(SCAN.array, SCAN.ijk_to_lps, folder / "tail.nii.gz")
    with open(folder / "tail.nii.gz", "ab") as stream:
        stream.write(b"rest")
    return folder / "tail.nii.gz"


def another_name(folder: Path) -> Path:
    return patched(folder, "a.nii").rename(folder / "scan.nrrd")
