"""One scan written in a thousand ways: the same anatomy must lie at the same place, whatever file says it.

Each way is drawn from a seed: axes permuted and flipped, turned freely, voxels of 0.3 to 10 mm, origins up to five
meters away, all scalar types, slopes and intercepts, units of length, both forms of NIfTI, the spaces of NRRD,
MetaImage, DICOM slices and multi-frame files with their frames in any order. The scan that is read is compared voxel by
voxel: the place of a voxel by the truth, and the value that the file has there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, NamedTuple, Tuple

import numpy as np
from scipy.spatial.transform import Rotation

from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.volume import Volume, read_volume, write_volume
from Testing.files import nrrd

FORMATS = ("nifti", "nifti-forms", "nrrd", "nrrd-text", "mha", "dicom", "dicom-multiframe")
N_PROBES = 40


class Way(NamedTuple):
    """How a scan is written: format and the file's truth."""

    kind: str
    array: np.ndarray
    matrix: np.ndarray


class Deviation(NamedTuple):
    """Largest distance (mm) of a voxel's place and largest difference of its value, and the format."""

    kind: str
    millimeters: float
    value: float


def draw(scan: Volume, seed: int) -> Way:
    """A re-expression of a scan: the same voxels in another order, under another matrix."""
    rng = np.random.default_rng([22, seed])
    kind = FORMATS[seed % len(FORMATS)]
    order = rng.permutation(3)
    flips = rng.random(3) < 0.5
    array = scan.array.transpose(order)
    array = array[tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)]
    spacing = np.exp(rng.uniform(np.log(0.3), np.log(10.0), 3))
    rotation = Rotation.random(random_state=int(rng.integers(1 << 31))).as_matrix()
    if rng.random() < 0.3:
        rotation = np.round(Rotation.from_euler("xyz", rng.integers(0, 4, 3) * 90, degrees=True).as_matrix())
    if not kind.startswith("dicom") and rng.random() < 0.5:
        rotation[:, 2] *= -1  # left-handed
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * spacing
    matrix[:3, 3] = rng.uniform(-5000, 5000, 3) if rng.random() < 0.3 else rng.uniform(-500, 500, 3)
    return Way(kind, np.ascontiguousarray(array), matrix)


def write(way: Way, folder: Path, seed: int) -> Tuple[Path, np.ndarray]:
    """The file, and the values that it shows."""
    rng = np.random.default_rng([23, seed])
    writers: Dict[str, Callable[..., Tuple[Path, np.ndarray]]] = {
        "nifti": _nifti, "nifti-forms": _nifti_forms, "nrrd": _itk, "nrrd-text": _nrrd_text, "mha": _itk,
        "dicom": _dicom, "dicom-multiframe": _multiframe,
    }  # fmt: skip
    return writers[way.kind](way, folder, rng)


def _any_type(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    kind = rng.choice(["i2", "i4", "f4", "f8", "u2", "u1"])
    if kind == "u1":
        return np.clip(np.round((array.astype(float) + 1000) / 16), 0, 255).astype(np.uint8)
    return (array.astype(np.int32) + (2000 if kind == "u2" else 0)).astype(kind)


def _nifti(way: Way, folder: Path, rng: np.random.Generator) -> Tuple[Path, np.ndarray]:
    array = _any_type(way.array, rng)
    path = folder / ("a.nii.gz" if rng.random() < 0.5 else "a.nii")
    write_volume(Volume(array, way.matrix), path)
    return path, array


def _nifti_forms(way: Way, folder: Path, rng: np.random.Generator) -> Tuple[Path, np.ndarray]:
    """One form only, in another unit of length, with slope and intercept."""
    import nibabel

    slope, intercept = float(rng.choice([1, 2, 0.5])), float(rng.choice([0, -1024, 100]))
    unit, scale = [("mm", 1.0), ("meter", 1e-3), ("micron", 1e3)][int(rng.integers(3))]
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ way.matrix
    ras[:3] *= scale
    image = nibabel.Nifti1Image(way.array.transpose().astype(np.int16), None)
    uses_sform = bool(rng.random() < 0.5)
    image.set_sform(ras, 1 if uses_sform else 0)
    image.set_qform(ras, 0 if uses_sform else 1)
    image.header.set_xyzt_units(unit)
    path = folder / "a.nii"
    nibabel.save(image, path)
    raw = bytearray(path.read_bytes())
    raw[112:120] = np.array([slope, intercept], "<f4").tobytes()
    path.write_bytes(bytes(raw))
    return path, way.array * slope + intercept


def _itk(way: Way, folder: Path, rng: np.random.Generator) -> Tuple[Path, np.ndarray]:
    array = _any_type(way.array, rng)
    path = folder / ("a.nrrd" if way.kind == "nrrd" else "a.mha")
    write_volume(Volume(array, way.matrix), path)
    return path, array


def _nrrd_text(way: Way, folder: Path, rng: np.random.Generator) -> Tuple[Path, np.ndarray]:
    """Raw NRRD in any anatomical space."""
    space, signs = [("LPS", (1, 1)), ("RAS", (-1, -1)), ("LAS", (1, -1))][int(rng.integers(3))]
    path = nrrd.write(folder / "a.nrrd", [f"space: {space}"], np.diag([*signs, 1, 1]) @ way.matrix, array=way.array)
    return path, way.array


def _decimal(value: float) -> str:
    """Decimal strings have 16 characters."""
    return f"{value:.9g}"[:16]


def _place(image: Any, way: Way, k: int) -> None:
    axes = way.matrix[:3, :3] / np.linalg.norm(way.matrix[:3, :3], axis=0)
    image.ImagePositionPatient = [_decimal(v) for v in way.matrix[:3, 3] + k * way.matrix[:3, 2]]
    image.ImageOrientationPatient = [_decimal(v) for v in (*axes[:, 0], *axes[:, 1])]
    spacing = np.linalg.norm(way.matrix[:3, :3], axis=0)
    image.PixelSpacing, image.SliceThickness = [_decimal(spacing[1]), _decimal(spacing[0])], _decimal(spacing[2])


def _dicom(way: Way, folder: Path, rng: np.random.Generator) -> Tuple[Path, np.ndarray]:
    from Testing.files import dicom

    intercept = int(rng.choice([-1024, -8192, -2000]))

    def change(image: Any, k: int) -> None:
        _place(image, way, k)
        dicom.set_pixels(image, way.array[k], intercept)
        image.InstanceNumber = int(rng.integers(1, 1000))

    slices = rng.permutation(len(way.array)).tolist()
    return dicom.write_slices(folder / "d", change, slices=slices, array=way.array), way.array


def _multiframe(way: Way, folder: Path, rng: np.random.Generator) -> Tuple[Path, np.ndarray]:
    import pydicom

    from Testing.files import dicom

    axes = way.matrix[:3, :3] / np.linalg.norm(way.matrix[:3, :3], axis=0)
    spacing = np.linalg.norm(way.matrix[:3, :3], axis=0)
    path = dicom.write_multiframe(
        folder / "m.dcm",
        rng.permutation(len(way.array)).tolist(),
        lambda k: way.matrix[:3, 3] + k * way.matrix[:3, 2],
        array=way.array,
    )
    image = pydicom.dcmread(path)
    shared = image.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [_decimal(v) for v in (*axes[:, 0], *axes[:, 1])]
    shared.PixelMeasuresSequence[0].PixelSpacing = [_decimal(spacing[1]), _decimal(spacing[0])]
    image.save_as(path)
    return path, way.array


def deviation(scan: Volume, seed: int, folder: Path) -> Deviation:
    """Write the scan in the way of a seed, read it, compare."""
    way = draw(scan, seed)
    path, values = write(way, folder, seed)
    found = read_volume(path)
    rng = np.random.default_rng([24, seed])
    ijk = rng.integers(0, way.array.shape[::-1], (N_PROBES, 3))
    truth = Grid(way.array.shape, way.matrix)
    places = truth.to_lps(ijk.astype(float))
    there = found.grid.to_ijk(places)
    nearest = np.clip(np.rint(there).astype(int), 0, found.grid.size_ijk - 1)
    away = np.linalg.norm(found.grid.to_lps(nearest.astype(float)) - places, axis=1)
    read, written = found.array[tuple(nearest.T[::-1])], values[tuple(ijk.T[::-1])]
    return Deviation(way.kind, float(away.max()), float(np.abs(read.astype(float) - written.astype(float)).max()))


def small_scan(path: Path) -> Volume:
    """A real scan with every fourth voxel: as much anatomy as the comparison needs."""
    volume = read_volume(path)
    array = volume.array[::4, ::4, ::4]
    return Volume(np.clip(array, -1000, 3000).astype(np.int16), volume.ijk_to_lps @ np.diag([4, 4, 4, 1.0]), path.name)
