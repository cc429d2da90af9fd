"""Volumes that make no sense, as files: one function each, a folder in, the path out."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from SAMv2Core.io.nifti import write_nifti
from Testing.samples.embedding_samples import torso

GRID = np.diag([2.0, 2.0, 2.0, 1.0])


def missing(folder: Path) -> Path:
    return folder / "missing.nii.gz"


def text(folder: Path) -> Path:
    path = folder / "text.nii.gz"
    path.write_text("This is not a scan.\n" * 100)
    return path


def truncated(folder: Path) -> Path:
    path = folder / "truncated.nii.gz"
    write_nifti(torso().array, GRID, path)
    path.write_bytes(path.read_bytes()[:-5000])
    return path


def empty(folder: Path) -> Path:
    path = folder / "empty.nii.gz"
    path.touch()
    return path


def empty_gzip(folder: Path) -> Path:
    path = folder / "nothing.nii.gz"
    path.write_bytes(gzip.compress(b""))
    return path


def flat_picture(folder: Path) -> Path:
    path = folder / "slice.png"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((20, 30), np.uint8)), str(path))
    return path


def flat_nifti(folder: Path) -> Path:
    path = folder / "slice.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((20, 30), np.int16)), str(path))
    return path


def four_dimensions(folder: Path) -> Path:
    path = folder / "series.nii.gz"
    sitk.WriteImage(sitk.JoinSeries([sitk.GetImageFromArray(torso().array)] * 2), str(path))
    return path


def vectors(folder: Path) -> Path:
    path = folder / "field.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.float32), isVector=True), str(path))
    return path


def constant(folder: Path) -> Path:
    path = folder / "constant.nii.gz"
    write_nifti(np.full((40, 40, 40), 7, np.int16), GRID, path)
    return path


def all_nan(folder: Path) -> Path:
    path = folder / "nan.nii.gz"
    write_nifti(np.full((40, 40, 40), np.nan, np.float32), GRID, path)
    return path


def zero_spacing(folder: Path) -> Path:
    path = folder / "zero.mha"
    sitk.WriteImage(sitk.GetImageFromArray(torso().array), str(path))
    path.write_bytes(path.read_bytes().replace(b"ElementSpacing = 1 1 1", b"ElementSpacing = 1 1 0"))
    return path


def absurd_spacing(folder: Path) -> Path:
    path = folder / "meters.nrrd"
    image = sitk.GetImageFromArray(torso().array)
    image.SetSpacing((2000.0, 2000.0, 2000.0))
    sitk.WriteImage(image, str(path))
    return path


def two_series(folder: Path) -> Path:
    """A folder of two DICOM series of four slices each."""
    path = folder / "dicom"
    path.mkdir()
    for series in ("1.2.826.1", "1.2.826.2"):
        for index in range(4):
            write_slice(path / f"{series}.{index}.dcm", series, index)
    return path


def write_slice(path: Path, series: str, index: int) -> None:
    image = sitk.GetImageFromArray(torso().array[None, 20 + index])
    image.SetOrigin((0.0, 0.0, 2.0 * index))
    image.SetSpacing((2.0, 2.0, 2.0))
    tags = {
        "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
        "0008|0018": f"{series}.{index + 1}",
        "0008|0060": "CT",
        "0020|000d": "1.2.826.9",
        "0020|000e": series,
        "0020|0013": str(index + 1),
        "0020|0032": f"0\\0\\{2 * index}",
        "0020|0037": "1\\0\\0\\0\\1\\0",
    }
    for key, value in tags.items():
        image.SetMetaData(key, value)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(path))
    writer.Execute(image)
