"""ITK transform files of affine 4x4 matrices.

A matrix here maps a point of the fixed image to the moving image (LPS mm), the convention of resampling:
``SimpleITK.Resample(moving, fixed, transform)`` aligns moving to fixed, and 3D Slicer loads the file as a
transform node that does the same when it is applied to the moving volume.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Iterable

import numpy as np
import SimpleITK as sitk

from SAMv2Core.errors import InputError, OutputError
from SAMv2Core.io.files import PathLike, check_output, suffix_of, write_bytes
from SAMv2Core.io.itk import quiet_itk, transform_of

SUFFIXES = (".h5", ".tfm", ".txt")
_HDF5_NEEDS_BYTES = 1 << 20
_PROBES = ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def check_transform_name(path: PathLike) -> None:
    """:raises OutputError: the suffix is none of ITK's for transforms."""
    suffix = suffix_of(path)
    if suffix not in SUFFIXES:
        raise OutputError(
            f"{path} cannot be written: transforms of type {suffix or 'no suffix'} are not supported.",
            f"Choose a name that ends in {', '.join(SUFFIXES)}.",
        )


def _text_content(matrix: np.ndarray) -> bytes:
    """ITK's text format. Written here, because ITK's writer does not notice a full disk."""
    parameters = [*matrix[:3, :3].ravel(), *matrix[:3, 3]]
    lines = (
        "#Insight Transform File V1.0",
        "#Transform 0",
        "Transform: AffineTransform_double_3_3",
        "Parameters: " + " ".join(repr(float(value)) for value in parameters),
        "FixedParameters: 0 0 0",
        "",
    )
    return "\n".join(lines).encode("ascii")


def _hdf5_content(matrix: np.ndarray, path: PathLike) -> bytes:
    """ITK's HDF5 format, made in the folder for temporary files: on a full disk HDF5 fills stderr."""
    with tempfile.TemporaryDirectory(prefix="samv2-") as folder:
        if shutil.disk_usage(folder).free < _HDF5_NEEDS_BYTES:
            raise OutputError(f"{path} cannot be written: {folder} is on a full disk.", "Free some space there.")
        made = Path(folder, "transform.h5")
        try:
            with quiet_itk():
                sitk.WriteTransform(transform_of(matrix), str(made))
        except RuntimeError as error:
            raise OutputError(f"{path} cannot be written (HDF5).", "Choose a name that ends in .tfm.") from error
        return made.read_bytes()


def write_transform(matrix: np.ndarray, path: PathLike, inputs: Iterable[PathLike] = ()) -> None:
    """Write a matrix as an ITK transform (``.h5``, ``.tfm`` or ``.txt``), atomically.

    Parameters
    ----------
    matrix : (4, 4) array
        LPS mm, fixed to moving, the convention of resampling: Slicer loads the file as a transform that, applied to the
        moving volume, aligns it to the fixed one.
    path : path
    inputs : iterable of paths, optional
        Files that were read; overwriting one is refused.

    Raises
    ------
    OutputError
        Another suffix, or see :func:`SAMv2Core.io.files.check_output`.

    Examples
    --------
    >>> import SAMv2Core as s
    >>> shift = np.eye(4)
    >>> shift[:3, 3] = (1.0, 2.0, 3.0)
    >>> s.write_transform(shift, "shift.tfm")
    >>> bool(np.array_equal(s.read_transform("shift.tfm"), shift))
    True
    """
    check_transform_name(path)
    path = check_output(path, inputs)
    matrix = np.asarray(matrix, dtype=np.float64)
    write_bytes(path, _hdf5_content(matrix, path) if suffix_of(path) == ".h5" else _text_content(matrix), inputs)


def read_transform(path: PathLike) -> np.ndarray:
    """The matrix of a linear ITK transform file.

    Parameters
    ----------
    path : path

    Returns
    -------
    (4, 4) float64 array
        LPS mm, fixed to moving.

    Raises
    ------
    InputError
        Missing, unreadable, not linear.

    Examples
    --------
    See :func:`write_transform`.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist.", "Check the path.")
    try:
        with quiet_itk():
            transform = sitk.ReadTransform(str(path))
            # By its effect on points: independent of the kind of transform, of its center, and of how SimpleITK wraps
            # it (it shows a MatrixOffsetTransformBase as a composite that contains itself).
            is_affine = transform.GetDimension() == 3 and transform.IsLinear()
            moved = [transform.TransformPoint(point) for point in _PROBES] if is_affine else []
    except (RuntimeError, ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read as an ITK transform.", "Check that the file is complete.") from error
    if not is_affine:
        raise InputError(f"{path} is not one 3-D affine transform.", "Choose a rigid, similarity or affine transform.")
    origin, *along = np.array(moved)
    matrix = np.eye(4)
    matrix[:3, :3] = (np.array(along) - origin).T
    matrix[:3, 3] = origin
    if not np.all(np.isfinite(matrix)) or abs(np.linalg.det(matrix[:3, :3])) < 1e-9:
        raise InputError(f"{path} is no transform that can be inverted.", "Check its numbers, or leave it out.")
    return matrix
