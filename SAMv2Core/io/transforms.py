"""ITK transform files of affine 4x4 matrices.

A matrix here maps a point of the fixed image to the moving image (LPS mm), the convention of resampling:
``SimpleITK.Resample(moving, fixed, transform)`` aligns moving to fixed, and 3D Slicer loads the file as a
transform node that does the same when it is applied to the moving volume.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Iterable, List, Tuple

import numpy as np
import SimpleITK as sitk

from SAMv2Core.errors import InputError, OutputError
from SAMv2Core.io.files import PathLike, check_output, suffix_of, write_bytes
from SAMv2Core.io.itk import quiet_itk, transform_of

SUFFIXES = (".h5", ".tfm", ".txt")
_HDF5_NEEDS_BYTES = 1 << 20
_SECONDS = 60
_CHILD = """
import json, sys
import SimpleITK as sitk
sitk.ProcessObject.SetGlobalWarningDisplay(False)
transform = sitk.ReadTransform(sys.argv[1])
is_affine = transform.GetDimension() == 3 and transform.IsLinear()
print(json.dumps([transform.TransformPoint(point) for point in json.loads(sys.argv[2])] if is_affine else []))
"""
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


def _moved(path: Path) -> List[Tuple[float, ...]]:
    """Where the probes go; none for a transform that is not affine.

    By its effect on points: independent of the kind of transform, of its center, and of how SimpleITK wraps it (it
    shows a MatrixOffsetTransformBase as a composite that contains itself).
    """
    with quiet_itk():
        transform = sitk.ReadTransform(str(path))
        is_affine = transform.GetDimension() == 3 and transform.IsLinear()
        return [tuple(transform.TransformPoint(point)) for point in _PROBES] if is_affine else []


def _moved_in_child(path: Path) -> List[Tuple[float, ...]]:
    """The same in a process of its own: HDF5 dies of some damaged files, and takes its process with it."""
    command = [sys.executable, "-c", _CHILD, str(path), json.dumps(_PROBES)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise RuntimeError("the reader does not end") from None
    if done.returncode:
        raise RuntimeError(f"the reader ended with {done.returncode}")
    return [tuple(point) for point in json.loads(done.stdout)]


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
    if not path.is_file():
        raise InputError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}.", "Check the path.")
    try:
        moved = _moved_in_child(path) if suffix_of(path) in (".h5", ".hdf5", ".hdf") else _moved(path)
    except KeyError as error:
        raise InputError(f"{path} is of a type that SimpleITK does not know.", "Save it as an affine one.") from error
    except (RuntimeError, ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read as an ITK transform.", "Check that the file is complete.") from error
    if not moved:
        raise InputError(f"{path} is not one 3-D affine transform.", "Choose a rigid, similarity or affine transform.")
    origin, *along = np.array(moved)
    matrix = np.eye(4)
    matrix[:3, :3] = (np.array(along) - origin).T
    matrix[:3, 3] = origin
    if not np.all(np.isfinite(matrix)) or abs(np.linalg.det(matrix[:3, :3])) < 1e-9:
        raise InputError(f"{path} is no transform that can be inverted.", "Check its numbers, or leave it out.")
    return matrix
