"""Volumes and their files.

A :class:`Volume` is an array with its full geometry, frozen, so that a result can always be told in the
patient's space. Files are read with SimpleITK, except NIfTI (see :mod:`SAMv2Core.io.nifti`), and a folder is
read as one DICOM series (see :mod:`SAMv2Core.io.dicom`). Conventions: arrays (z, y, x); ijk = (x, y, z); world
LPS, mm.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Dict, List, Optional, Tuple

import numpy as np
import SimpleITK as sitk

from SAMv2Core.errors import InputError, OutputError
from SAMv2Core.geometry.grid import ORTHOGONAL_TOLERANCE, Grid, shear_of, without_rounding
from SAMv2Core.io.files import PathLike, atomic_path, suffix_of
from SAMv2Core.io.itk import image_of, matrix_of, quiet_itk
from SAMv2Core.io.itk_files import nrrd_pairs, read_image, reader_of, understood
from SAMv2Core.io.nifti import check_nifti_header, is_nifti, read_nifti, write_nifti

if TYPE_CHECKING:
    from SAMv2Core.io.dicom import DicomTags

# Beyond these a spacing is an error of export (meters, micrometers, zero), not a patient's scan.
MIN_SPACING_MM, MAX_SPACING_MM = 0.01, 100.0

WRITABLE_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")

_MODALITY_OF_TAG = {"CT": "ct", "MR": "mr"}


def _storable(dtype: np.dtype) -> np.dtype:
    """The scalar type that ITK and all file formats know: native byte order, no bool, 32 or 64 bit floats."""
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if dtype.kind == "f" and dtype.itemsize not in (4, 8):
        return np.dtype(np.float32 if dtype.itemsize < 4 else np.float64)
    return dtype.newbyteorder("=")


@dataclass(frozen=True, eq=False)
class Volume:
    """A scalar volume in the patient's space.

    :param array: (z, y, x), native scalar type; kept as a read-only view.
    :param ijk_to_lps: (4, 4) float64; maps (i, j, k, 1) = (x, y, z index) to LPS mm. Axes that are
        perpendicular up to rounding are made exactly so; a real shear (gantry tilt) is kept, with a warning.
    :param source: where it came from, for messages.
    :param modality: ``"ct"`` or ``"mr"`` when the file says so (DICOM), else None.
    :param warnings: what the user should know.
    :param dicom: the tags of its series, when it was read from DICOM; never written into a report unasked.
    :raises InputError: not 3-D, a single slice, not scalar numbers, spacing not of this world, degenerate
        axes.
    """

    array: np.ndarray = field(repr=False)
    ijk_to_lps: np.ndarray
    source: str = "the volume"
    modality: Optional[str] = None
    warnings: Tuple[str, ...] = ()
    dicom: Optional[DicomTags] = field(default=None, repr=False)  # identifies the patient: not for logs

    def __post_init__(self) -> None:
        array = np.asarray(self.array)
        matrix = np.array(self.ijk_to_lps, dtype=np.float64)
        self._check(array, matrix)
        matrix = without_rounding(matrix)
        matrix.setflags(write=False)
        array = array.astype(_storable(array.dtype), copy=False).view()
        array.setflags(write=False)
        warnings = tuple(self.warnings)
        shear = shear_of(matrix)
        sheared = f"{self.source}: its axes are not perpendicular (cosine {shear:.3f}); the shear is kept."
        if shear > ORTHOGONAL_TOLERANCE and sheared not in warnings:
            warnings += (sheared,)
        for name, value in (("array", array), ("ijk_to_lps", matrix), ("warnings", warnings)):
            object.__setattr__(self, name, value)

    def _check(self, array: np.ndarray, matrix: np.ndarray) -> None:
        if array.dtype.kind not in "biuf":
            raise InputError(f"{self.source} does not hold real numbers ({array.dtype}).", "Choose a scalar volume.")
        if array.size == 0:
            raise InputError(f"{self.source} is empty (no voxels).", "Export the volume again.")
        if array.ndim != 3:
            raise InputError(f"{self.source} has {array.ndim} dimensions, not 3.", "Choose a 3-D volume.")
        if min(array.shape) < 2:
            size = " x ".join(str(n) for n in array.shape[::-1])
            raise InputError(f"{self.source} is a single slice ({size}), not a volume.", "Choose a 3-D volume.")
        if matrix.shape != (4, 4) or not np.all(np.isfinite(matrix)):
            raise InputError(f"{self.source}: its geometry is not a finite 4x4 matrix.", "Check the file's header.")
        spacing = np.linalg.norm(matrix[:3, :3], axis=0)
        if np.any(spacing < MIN_SPACING_MM) or np.any(spacing > MAX_SPACING_MM):
            shown = " x ".join(f"{value:g}" for value in spacing)
            raise InputError(
                f"{self.source}: a voxel spacing of {shown} mm makes no sense.",
                "Correct the spacing in the file's header (millimeters).",
            )
        if abs(np.linalg.det(matrix[:3, :3] / spacing)) < 0.01:
            raise InputError(f"{self.source}: two of its axes are parallel.", "Correct the file's directions.")

    def __repr__(self) -> str:
        known = f", {self.modality.upper()}" if self.modality else ""
        return f"<Volume {Path(self.source).name}: {self.grid.size_text}, {self.array.dtype}{known}>"

    @property
    def grid(self) -> Grid:
        """Its lattice: size and full geometry."""
        return Grid(self.array.shape, self.ijk_to_lps)


def _read_itk(path: Path) -> Volume:
    image = read_image(path)
    if image.GetDimension() == 4:
        image = image[:, :, :, 0]
    matrix, warnings = understood(path, matrix_of(image))
    return Volume(sitk.GetArrayFromImage(image), matrix, str(path), None, tuple(warnings))


def read_layers(path: PathLike) -> Tuple[List[Volume], Dict[str, str]]:
    """The layers of an NRRD file, one volume each (one for a scalar file), and its ``key:=value`` pairs.

    :raises InputError: unreadable, truncated, geometry without sense.
    """
    path = Path(path)
    image = read_image(path, has_layers=True)
    matrix, warnings = understood(path, matrix_of(image))
    array = sitk.GetArrayFromImage(image)
    layers = [array] if array.ndim == 3 else [array[..., n] for n in range(array.shape[3])]
    return [Volume(layer, matrix, str(path), None, tuple(warnings)) for layer in layers], nrrd_pairs(path)


def is_dicom(path: Path) -> bool:
    """A folder, a zip file, or DICOM by its content or name."""
    from SAMv2Core.io.dicom_header import starts_like_dicom

    return path.is_dir() or suffix_of(path) in (".zip", ".dcm") or starts_like_dicom(path)


def read_volume(path: PathLike, series: Optional[str] = None) -> Volume:
    """Read a volume file, or a folder (or zip file) that holds one DICOM series.

    Parameters
    ----------
    path : path
        NIfTI, NRRD, MetaImage, or whatever else SimpleITK reads; a folder; a zip of DICOM files.
    series : str, optional
        SeriesInstanceUID, when the folder holds several.

    Returns
    -------
    Volume
        Array (z, y, x) in the file's scalar type; 4-D files with one volume are squeezed.

    Raises
    ------
    InputError
        Missing, unreadable, truncated, not one scalar 3-D volume, geometry without sense.

    Examples
    --------
    >>> import SAMv2Core as s
    >>> s.write_volume(volume, "scan.nii.gz")
    >>> s.read_volume("scan.nii.gz")
    <Volume scan.nii.gz: 48 x 48 x 40 voxels of 2 x 2 x 2 mm, int16>
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist.", "Check the path.")
    try:
        if is_dicom(path):
            from SAMv2Core.io.dicom import read_series

            content = read_series(path, series)
            tag = content.tags.modality
            if tag not in _MODALITY_OF_TAG:
                content.warnings.append(f"{path}: its DICOM modality is {tag or 'not given'}, not CT or MR.")
            modality = _MODALITY_OF_TAG.get(tag)
            return Volume(content.array, content.ijk_to_lps, str(path), modality, tuple(content.warnings), content.tags)
        if not os.path.getsize(path):
            raise InputError(f"{path} is an empty file.", "Copy or export it again.")
        if is_nifti(path):
            array, ijk_to_lps, warnings = read_nifti(path)
            return Volume(array, ijk_to_lps, str(path), None, tuple(warnings))
        return _read_itk(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.", "Check its permissions.") from error
    except MemoryError as error:
        raise InputError(f"{path} is too large for the memory of this computer.", "Crop or resample it.") from error


def check_header(path: PathLike) -> None:
    """Read what a file says of its volume, not the volume: whether it is there, one, three-dimensional, and long
    enough. Of a folder or a zip file only whether it holds anything.

    :raises InputError: as :func:`read_volume` would, as far as the header tells.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist.", "Check the path.")
    if path.is_dir():
        if next(os.scandir(path), None) is None:
            raise InputError(f"{path} is an empty folder.", "Check the path.")
    elif not os.path.getsize(path):
        raise InputError(f"{path} is an empty file.", "Copy or export it again.")
    elif is_nifti(path):
        check_nifti_header(path)
    elif not is_dicom(path):
        reader_of(path)


def to_itk(volume: Volume) -> sitk.Image:
    """The volume as a SimpleITK image (a copy); a sheared direction matrix is passed on as it is."""
    return image_of(volume.array, volume.grid)


def write_volume(volume: Volume, path: PathLike, inputs: Tuple[PathLike, ...] = ()) -> None:
    """Write a volume as ``.nii``, ``.nii.gz``, ``.nrrd`` or ``.mha`` (compressed), atomically.

    Parameters
    ----------
    volume : Volume
    path : path
    inputs : tuple of paths, optional
        Files that were read; overwriting one is refused.

    Raises
    ------
    OutputError
        Another suffix, folder missing, not writable, disk full, an input.

    Examples
    --------
    See :func:`read_volume`.
    """
    path = Path(path)
    suffix = suffix_of(path)
    if suffix not in WRITABLE_SUFFIXES:
        raise OutputError(
            f"{path} cannot be written: volumes of type {suffix or 'no suffix'} are not supported.",
            f"Choose a name that ends in {', '.join(WRITABLE_SUFFIXES)}.",
        )
    if suffix in (".nii", ".nii.gz"):
        write_nifti(volume.array, volume.ijk_to_lps, path, inputs)
        return
    with atomic_path(path, inputs) as temporary:
        try:
            with quiet_itk():
                sitk.WriteImage(to_itk(volume), str(temporary), True)
        except RuntimeError as error:
            # ITK does not say why; when the disk is full, it is the only cause that the user can see.
            reason = "the disk may be full" if temporary.exists() else "the file cannot be created"
            raise OutputError(f"{path} cannot be written: {reason}.", "Check free space and permissions.") from error
