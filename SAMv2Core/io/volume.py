"""Volumes and their files.

A :class:`Volume` is an array with its full geometry, frozen, so that a result can always be told in the
patient's space. Files are read with SimpleITK, except NIfTI (see :mod:`SAMv2Core.io.nifti`), and a folder is
read as one DICOM series (see :mod:`SAMv2Core.io.dicom`). Conventions: arrays (z, y, x); ijk = (x, y, z); world
LPS, mm.

Damaged or hostile files must not hurt: the size that a header names is compared with the file's length before
memory is reserved, and every failure is an :class:`InputError` that names the file.
"""

from __future__ import annotations

import contextlib
import os
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Dict, Iterator, List, Optional, Tuple

import numpy as np
import SimpleITK as sitk

from SAMv2Core.errors import InputError, OutputError
from SAMv2Core.geometry.grid import ORTHOGONAL_TOLERANCE, Grid, shear_of, without_rounding
from SAMv2Core.io.files import PathLike, atomic_path, suffix_of
from SAMv2Core.io.itk import image_of, matrix_of, quiet_itk
from SAMv2Core.io.nifti import MAX_DEFLATE_RATIO, check_nifti_header, is_nifti, read_nifti, write_nifti

if TYPE_CHECKING:
    from SAMv2Core.io.dicom import DicomTags

# Beyond these a spacing is an error of export (meters, micrometers, zero), not a patient's scan.
MIN_SPACING_MM, MAX_SPACING_MM = 0.01, 100.0

WRITABLE_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")

# bzip2 in NRRD may shrink constant data further than deflate.
_MAX_BZIP2_RATIO = 50 * MAX_DEFLATE_RATIO

# Spaces of NRRD that say where left is. Of any other, or of none, ITK takes the numbers for LPS, Slicer's NRRD reader
# for RAS.
_ANATOMICAL_SPACES = frozenset(
    name + time
    for name in (
        "right-anterior-superior", "ras", "left-anterior-superior", "las", "left-posterior-superior", "lps",
    )
    for time in ("", "-time", "t")
)  # fmt: skip
_MAX_NRRD_HEADER = 1 << 20  # a segmentation of a hundred segments has 50 kB
_MILLIMETERS = frozenset(("mm", "millimeter", "millimeters", "millimetre", "millimetres", ""))

# Formats that have no place for directions and, most of them, none for an origin.
_WITHOUT_ORIENTATION = frozenset((".hdr", ".img", ".img.gz", ".tif", ".tiff", ".lsm", ".vtk", ".gipl", ".mrc", ".rec"))

_METAIMAGE_BYTES = {
    b"MET_SHORT": 2, b"MET_USHORT": 2, b"MET_INT": 4, b"MET_UINT": 4, b"MET_FLOAT": 4, b"MET_DOUBLE": 8,
    b"MET_LONG_LONG": 8, b"MET_ULONG_LONG": 8,
}  # fmt: skip

_NOT_OBLIQUE = 0.9  # the cosine of an axis with the anatomical one that it is named after
_NO_REASON = frozenset(("Reason: No such file or directory", "Reason: Success"))

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


def _detached_size(path: Path) -> int:
    """Bytes of the data files that a text header (.mhd, .nhdr, .hdr) refers to; 0 for other files.

    :raises InputError: the data file is not there.
    """
    if path.suffix.lower() in (".hdr", ".img"):
        return sum(os.path.getsize(other) for other in path.parent.glob(path.stem + ".*") if other != path)
    if path.suffix.lower() not in (".mhd", ".nhdr"):
        return 0
    text = path.read_bytes()[:20000].decode("latin-1")
    found = re.search(r"^\s*(?:ElementDataFile\s*=|data ?file:)\s*(\S.*?)\s*$", text, re.MULTILINE | re.IGNORECASE)
    name = found.group(1) if found else path.name
    if name == "LIST" and found and found.end() < len(text) and not text.endswith("\n"):
        raise InputError(f"{path}: its last line has no end, and ITK reads no slice for it.", "Add a line break.")
    if name.startswith("LIST") or "%" in name:  # one file per slice
        return sum(entry.stat().st_size for entry in os.scandir(path.parent) if entry.is_file())
    if not (path.parent / name).is_file():
        raise InputError(f"{path}: its data file, {name}, is not there.", "Copy both files, under their own names.")
    return os.path.getsize(path.parent / name)


def _nrrd_lines(path: Path) -> Iterator[Tuple[str, str]]:
    """Name and value (with ``=`` before it for a ``key:=value`` pair) of each line of a ``.nrrd`` or ``.nhdr``."""
    if path.suffix.lower() not in (".nrrd", ".nhdr"):
        return
    with open(path, "rb") as stream:
        head = stream.read(_MAX_NRRD_HEADER)
    for line in re.split(rb"\r?\n\r?\n", head, maxsplit=1)[0].decode("utf-8", "replace").splitlines():
        name, colon, value = line.partition(":")
        if colon and not line.startswith("#"):
            yield name.strip(), value


def _nrrd_fields(path: Path) -> Dict[str, str]:
    """Fields of the text header, names in lower case; empty for other files."""
    return {name.lower(): value.strip() for name, value in _nrrd_lines(path) if not value.startswith("=")}


def nrrd_pairs(path: Path) -> Dict[str, str]:
    """``key:=value`` pairs of the text header; empty for other files."""
    return {name: value[1:].strip() for name, value in _nrrd_lines(path) if value.startswith("=")}


def _metaimage_fields(path: Path) -> Dict[bytes, bytes]:
    """Fields of the text header of a ``.mha`` or ``.mhd``; empty for other files."""
    if path.suffix.lower() not in (".mha", ".mhd"):
        return {}
    with open(path, "rb") as stream:
        head = stream.read(20000)
    return dict(re.findall(rb"^(\w+)\s*=\s*(.*?)\s*$", head.partition(b"ElementDataFile")[0], re.MULTILINE))


def _letters_from(matrix: np.ndarray) -> str:
    """Where the axes come from, as MetaImage writes it: RAI for axes that run along left, posterior, superior; "" for
    oblique ones."""
    main = np.argmax(np.abs(matrix[:3, :3]), axis=0)
    if np.any(np.abs(matrix[main, range(3)]) < _NOT_OBLIQUE * np.linalg.norm(matrix[:3, :3], axis=0)):
        return ""
    return "".join("RAI"[row] if matrix[row, axis] > 0 else "LPS"[row] for axis, row in enumerate(main))


def _max_ratio(path: Path) -> float:
    """How many bytes of voxels a byte of the file can hold, by its encoding."""
    encoding = _nrrd_fields(path).get("encoding", "").lower()
    if encoding:
        return {"raw": 1, "bzip2": _MAX_BZIP2_RATIO, "bz2": _MAX_BZIP2_RATIO}.get(encoding, MAX_DEFLATE_RATIO)
    fields = _metaimage_fields(path)
    if fields and fields.get(b"CompressedData", b"False").lower() != b"true":
        return 1
    return MAX_DEFLATE_RATIO


def _understood(path: Path, matrix: np.ndarray) -> Tuple[np.ndarray, List[str]]:
    """The matrix as 3D Slicer shows it, where ITK's reading is not the only one, and what the user should know."""
    fields, metaimage = _nrrd_fields(path), _metaimage_fields(path)
    warnings: List[str] = []
    is_silent = not any(name in fields for name in ("space directions", "space origin"))
    if metaimage:
        is_silent = not {b"TransformMatrix", b"Rotation", b"Orientation", b"Offset", b"Origin", b"Position"} & set(
            metaimage
        )
    elif not fields:
        is_silent = suffix_of(path) in _WITHOUT_ORIENTATION
    space = fields.get("space", "")
    if is_silent:
        warnings.append(f"{path.name} stores no orientation; axes x, y, z are taken as left, posterior, superior.")
    elif fields and space.strip('"').lower() not in _ANATOMICAL_SPACES:
        named = f"the space {space!r}" if space else "a space of no name"
        warnings.append(
            f"{path.name} has {named}, which does not say where left is; its numbers are taken as right, anterior, "
            "superior, as 3D Slicer's NRRD reader does (ITK takes them as left, posterior, superior): check one side."
        )
        matrix = np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix
    told = metaimage.get(b"AnatomicalOrientation", b"").decode("latin-1")
    if re.fullmatch("[RLAPIS]{3}", told) and told != (_letters_from(matrix) or told):
        warnings.append(
            f"{path.name}: its AnatomicalOrientation ({told}) contradicts its TransformMatrix "
            f"({_letters_from(matrix)}); the matrix is used, as in ITK and 3D Slicer."
        )
    quoted = re.findall(r'"([^"]*)"', f"{fields.get('space units', '')} {fields.get('units', '')}")
    units = {unit.strip().lower() for unit in (*quoted, metaimage.get(b"DistanceUnits", b"").decode("latin-1"))}
    if units - _MILLIMETERS:
        spacing = " x ".join(f"{value:g}" for value in np.linalg.norm(matrix[:3, :3], axis=0))
        warnings.append(
            f"{path.name} gives its lengths in {', '.join(sorted(units - _MILLIMETERS))}; ITK and 3D Slicer do not "
            f"convert them, so its voxels count as {spacing} mm: write it in millimeters."
        )
    return matrix, warnings


def _n_bytes(reader: sitk.ImageFileReader) -> int:
    """Of all voxels, as the header has them."""
    bits = re.search(r"(\d+)-bit", sitk.GetPixelIDValueAsString(reader.GetPixelID()))
    n_values = int(np.prod([float(n) for n in reader.GetSize()])) * reader.GetNumberOfComponents()
    return n_values * (int(bits.group(1)) // 8 if bits else 1)


def _check_itk_header(reader: sitk.ImageFileReader, path: Path, has_layers: bool = False) -> None:
    """Refuse what is no scalar volume, or larger than its file can hold, before it is read."""
    size = list(reader.GetSize())
    n_components = reader.GetNumberOfComponents()
    if n_components != 1 and not has_layers:
        raise InputError(
            f"{path} holds colors or vectors, not gray values.", "Choose a volume of one scalar per voxel."
        )
    if len(size) < 3 or (len(size) == 3 and min(size) < 2):
        raise InputError(f"{path} is a 2-D image ({' x '.join(map(str, size))}).", "Choose a 3-D volume.")
    if any(n > 1 for n in size[3:]):
        raise InputError(
            f"{path} has {len(size)} dimensions ({' x '.join(map(str, size))}): it holds several volumes.",
            "Extract one 3-D volume first.",
        )
    n_bytes = os.path.getsize(path) + _detached_size(path)
    if _n_bytes(reader) > n_bytes * _max_ratio(path):
        raise InputError(
            f"{path} is truncated or damaged: its header names {' x '.join(map(str, size))} voxels, "
            f"more than {n_bytes} bytes can hold.",
            "Copy or export it again.",
        )


def _check_compressed(path: Path, n_bytes: int) -> None:
    """Refuse compressed voxels that are damaged: MetaIO leaves memory as it was then, NrrdIO compares no checksum.

    :param n_bytes: of the voxels.
    """
    metaimage, nrrd = _metaimage_fields(path), _nrrd_fields(path)
    if metaimage.get(b"CompressedData", b"").lower() == b"true":
        end, name, bits = rb"^ElementDataFile\s*=\s*(\S.*?)\s*?\n", "LOCAL", zlib.MAX_WBITS
    elif nrrd.get("encoding", "").lower() in ("gzip", "gz") and not {"line skip", "byte skip"} & set(nrrd):
        end, name, bits = rb"\r?\n\r?\n", nrrd.get("data file", nrrd.get("datafile", "LOCAL")), 16 + zlib.MAX_WBITS
    else:
        return
    with open(path, "rb") as stream:
        found = re.search(end, stream.read(_MAX_NRRD_HEADER), re.MULTILINE)
    if found is None:
        return
    name = found.group(1).decode("latin-1") if found.groups() else name
    data = path if name == "LOCAL" else path.parent / name
    if not data.is_file():
        return
    inflater, n_inflated = zlib.decompressobj(bits), 0
    with open(data, "rb") as stream:
        stream.seek(found.end() if data == path else 0)
        while n_inflated < n_bytes or not inflater.eof:
            piece = inflater.unconsumed_tail or stream.read(1 << 18)
            try:
                n_inflated += len(inflater.decompress(piece, 1 << 22))
            except zlib.error as error:
                raise InputError(f"{path} is damaged ({error}).", "Copy or export it again.") from error
            if not piece or inflater.eof:
                break
    if n_inflated < n_bytes or not inflater.eof:
        raise InputError(f"{path} is truncated: {n_inflated} of {n_bytes} bytes are there.", "Copy it again.")


def _check_metaimage_length(path: Path) -> None:
    """Refuse a truncated ``.mha`` before MetaIO does, which would write to stderr whatever it is told."""
    with open(path, "rb") as stream:
        head = stream.read(20000)
    fields = _metaimage_fields(path)
    start = re.search(rb"^ElementDataFile\s*=\s*LOCAL\s*?\n", head, re.MULTILINE)
    if start is None:
        return
    if fields.get(b"CompressedData", b"").lower() == b"true" and b"CompressedDataSize" not in fields:
        raise InputError(
            f"{path} does not say how long its compressed voxels are (CompressedDataSize); ITK reads none then.",
            "Write it again, or without compression.",
        )
    voxels = np.prod([float(n) for n in fields.get(b"DimSize", b"0").split()])
    width = _METAIMAGE_BYTES.get(fields.get(b"ElementType", b""), 1)
    n_bytes = float(fields.get(b"CompressedDataSize", voxels * width))
    if os.path.getsize(path) - start.end() < n_bytes:
        raise InputError(f"{path} is truncated.", "Copy or export it again.")


def _image_in(path: Path, has_layers: bool = False) -> sitk.Image:
    """A file as ITK reads it, checked before its voxels are.

    :param has_layers: several values per voxel are meant (a segmentation with layers).
    """
    reader = _reader_of(path, has_layers)
    _check_compressed(path, _n_bytes(reader))
    with _itk_failures(path), quiet_itk():
        return reader.Execute()


def _reader_of(path: Path, has_layers: bool = False) -> sitk.ImageFileReader:
    """ITK's reader of a file, whose header has been read and checked."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with _itk_failures(path):
        if suffix_of(path) == ".mha":
            _check_metaimage_length(path)
        with quiet_itk():
            reader.ReadImageInformation()
            _check_itk_header(reader, path, has_layers)
    return reader


@contextlib.contextmanager
def _itk_failures(path: Path) -> Iterator[None]:
    """What ITK raises, as an :class:`InputError` that names the file."""
    try:
        yield
    except (RuntimeError, ValueError, MemoryError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        # ITK ends with what went wrong, or with a matrix, or with what the system said last.
        reason = next((line for line in reversed(lines) if re.search("[A-Za-z]{3}", line) and line not in _NO_REASON),
                      "unknown reason")  # fmt: skip
        raise InputError(
            f"{path} cannot be read as a volume ({reason[:160]}).",
            "Check that the file is complete and of a format that its suffix names.",
        ) from error


def _read_itk(path: Path) -> Volume:
    image = _image_in(path)
    if image.GetDimension() == 4:
        image = image[:, :, :, 0]
    matrix, warnings = _understood(path, matrix_of(image))
    return Volume(sitk.GetArrayFromImage(image), matrix, str(path), None, tuple(warnings))


def read_layers(path: PathLike) -> Tuple[List[Volume], Dict[str, str]]:
    """The layers of an NRRD file, one volume each (one for a scalar file), and its ``key:=value`` pairs.

    :raises InputError: unreadable, truncated, geometry without sense.
    """
    path = Path(path)
    image = _image_in(path, has_layers=True)
    matrix, warnings = _understood(path, matrix_of(image))
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
        _reader_of(path)


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
