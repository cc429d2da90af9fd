"""Writing a DICOM file with pydicom 2 (3D Slicer 5.8, Python 3.9) and later ones, which name the options otherwise."""

from __future__ import annotations

from typing import IO, Any, Union

from SAMv2Core.io.files import PathLike


def write_dataset(dataset: Any, target: Union[PathLike, IO[bytes]]) -> None:
    """Write a ``pydicom.Dataset`` as a whole DICOM file, explicit VR little endian, with preamble and meta information.

    :param dataset: with ``file_meta`` and its transfer syntax.
    """
    import pydicom

    if int(pydicom.__version__.split(".")[0]) < 3:
        dataset.is_little_endian, dataset.is_implicit_VR = True, False
        pydicom.dcmwrite(target, dataset, write_like_original=False)
    else:
        pydicom.dcmwrite(target, dataset, enforce_file_format=True)
