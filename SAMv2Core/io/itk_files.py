"""Files that ITK reads (NRRD, MetaImage, Analyze, TIFF and others), and what their headers say beside it.

Damaged or hostile files must not hurt: the size that a header names is compared with the file's length before memory is
reserved, compressed voxels are inflated once to see that they are whole (MetaIO leaves memory as it was when they are
not, NrrdIO stops before the checksum), and every failure is an :class:`InputError` that names the file.
"""

from __future__ import annotations

import contextlib
import os
import re
import zlib
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

import numpy as np
import SimpleITK as sitk

from SAMv2Core.errors import InputError
from SAMv2Core.io.files import suffix_of
from SAMv2Core.io.itk import quiet_itk
from SAMv2Core.io.nifti import MAX_DEFLATE_RATIO

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
# A list, or a name with the number of the slice, first, last (and step). MetaIO prints any other % beyond its memory.
_FILE_PER_SLICE = re.compile(
    r"LIST( \d)?|[^%\x00-\x1f\x7f-\xff]*%0?\d?d[^%\x00-\x1f\x7f-\xff]* \d+ \d+( \d+)?", re.ASCII
)
_NO_REASON = frozenset(("Reason: No such file or directory", "Reason: Success"))


def _detached_size(path: Path, head: Optional[bytes] = None) -> int:
    """Bytes of the data files that a text header (.mhd, .nhdr, .hdr) refers to; 0 for other files.

    :param head: its beginning, where it is to be looked at whatever the suffix.
    :raises InputError: the data file is not there.
    """
    if path.suffix.lower() in (".hdr", ".img"):
        return sum(os.path.getsize(other) for other in path.parent.glob(path.stem + ".*") if other != path)
    if head is None and path.suffix.lower() not in (".mhd", ".nhdr"):
        return 0
    text = (path.read_bytes()[:20000] if head is None else head).decode("latin-1")
    found = re.search(r"^\s*(?:ElementDataFile\s*=|data ?file:)\s*(\S.*?)\s*$", text, re.MULTILINE | re.IGNORECASE)
    name = found.group(1) if found else path.name
    if name == "LIST" and found and found.end() < len(text) and not text.endswith("\n"):
        raise InputError(f"{path}: its last line has no end, and ITK reads no slice for it.", "Add a line break.")
    if _FILE_PER_SLICE.fullmatch(name):
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


def understood(path: Path, matrix: np.ndarray) -> Tuple[np.ndarray, List[str]]:
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
    """Refuse a truncated ``.mha``, or one whose voxels lie nowhere, before MetaIO reads it: it writes to stderr
    whatever it is told, and ends the process at a name that is none."""
    with open(path, "rb") as stream:
        head = stream.read(20000)
    fields = _metaimage_fields(path)
    start = re.search(rb"^ElementDataFile\s*=\s*LOCAL\s*?\n", head, re.MULTILINE)
    if start is None:
        _detached_size(path, head)
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


def read_image(path: Path, has_layers: bool = False) -> sitk.Image:
    """A file as ITK reads it, checked before its voxels are.

    :param has_layers: several values per voxel are meant (a segmentation with layers).
    """
    reader = reader_of(path, has_layers)
    _check_compressed(path, _n_bytes(reader))
    with _itk_failures(path), quiet_itk():
        return reader.Execute()


def reader_of(path: Path, has_layers: bool = False) -> sitk.ImageFileReader:
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
