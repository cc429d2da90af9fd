"""Tensors in a file without code: a reader and writer of the safetensors layout with numpy alone.

The layout (huggingface.co/docs/safetensors): 8 bytes, little-endian length n of the header; n bytes of JSON,
one key per tensor, ``{"dtype", "shape", "data_offsets": [first, last + 1]}`` counted from byte 8 + n, and
``"__metadata__"``, text to text; then the elements, C order, little-endian, without gaps. Everything the
header claims is checked against the size of the file before anything is allocated, so a damaged or hostile
file is refused with one line and costs nothing.
"""

from __future__ import annotations

import json
import math
import os
import sys
from typing import Any, Dict, List, Mapping, Optional, Tuple, Type

import numpy as np

from SAMv2Core.errors import InputError, SAMv2Error
from SAMv2Core.io.files import PathLike, atomic_path

DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
"""Name in the file to numpy's; bfloat16 (``BF16``) besides is read, as float32."""

_NAMES = {np.dtype(code): name for name, code in DTYPES.items()}
_ITEM_SIZES = {**{name: np.dtype(code).itemsize for name, code in DTYPES.items()}, "BF16": 2}
_MAX_HEADER = 100_000_000  # bytes; the limit of the reference implementation


class _Malformed(Exception):
    """Why a header is refused; becomes the caller's error."""


def read_safetensors(
    path: PathLike, *, mmap: bool = False, error: Type[SAMv2Error] = InputError
) -> Tuple[Dict[str, np.ndarray], Dict[str, str]]:
    """All tensors of a file by name, and its metadata.

    :param mmap: map the file instead of reading it: nothing is loaded before it is used, and writing to an
        array does not reach the file. The file must stay as it is for as long as an array lives.
    :param error: type of the errors raised.
    :returns: writeable arrays, bfloat16 converted to float32; metadata, text to text.
    :raises InputError: (or ``error``) missing, not of this layout, damaged, or of a dtype not known here.
    """
    try:
        with open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            entries, metadata, start = _read_header(stream, size)
            data = np.asarray(np.memmap(stream, np.uint8, "c"))[start:] if mmap else np.fromfile(stream, np.uint8)
        if len(data) != size - start:
            raise _Malformed("it changed while it was read")
    except FileNotFoundError as problem:
        raise error(f"There is no file {path}.", "Check the name.") from problem
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror or problem}.", "Check the file.") from problem
    except _Malformed as problem:
        raise error(f"{path} is damaged or not a safetensors file: {problem}.", "Get or make the file again.") from None
    return {name: _tensor(data, entry) for name, entry in entries.items()}, metadata


def read_metadata(path: PathLike, error: Type[SAMv2Error] = InputError) -> Dict[str, str]:
    """The metadata alone; reads nothing but the header. Errors as in :func:`read_safetensors`."""
    return read_safetensors(path, mmap=True, error=error)[1]


def write_safetensors(
    path: PathLike, tensors: Mapping[str, np.ndarray], metadata: Optional[Mapping[str, str]] = None
) -> None:
    """Write tensors and metadata atomically: the file is whole or absent. Equal content gives equal bytes.

    :raises OutputError: the file cannot be written.
    :raises TypeError: an array of a dtype that the layout does not have, or metadata that is not text.
    """
    # Wide elements first keeps every tensor aligned to its element size; the reference implementation does
    # the same.
    arrays = {name: _little_endian(array) for name, array in tensors.items()}
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    if not all(isinstance(text, str) for pair in (metadata or {}).items() for text in pair):
        raise TypeError("metadata must be text to text")
    header: Dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for name in names:
        array = arrays[name]
        end = offset + array.nbytes
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            stream.write(arrays[name].reshape(-1).view(np.uint8).data)
        stream.flush()
        os.fsync(stream.fileno())


def _little_endian(array: np.ndarray) -> np.ndarray:
    array = np.asarray(array)
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)
    if array.dtype not in _NAMES:
        raise TypeError(f"safetensors has no {array.dtype}")
    return array


def _read_header(stream: Any, file_size: int) -> Tuple[Dict[str, Dict[str, Any]], Dict[str, str], int]:
    """Checked entries, metadata and the position of the first element; leaves the stream there."""
    length = int.from_bytes(stream.read(8), "little")
    if file_size < 8 or length > min(_MAX_HEADER, file_size - 8):
        raise _Malformed(f"its header is said to have {length} bytes, the file has {file_size}")
    text = stream.read(length)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as problem:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise _Malformed("its header is not JSON") from problem
    if not isinstance(header, dict):
        raise _Malformed("its header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _Malformed("its metadata is not text")
    spans = sorted(_check_entry(name, entry) for name, entry in header.items())
    expected = 0
    for first, last, name in spans:
        if first != expected:
            raise _Malformed(f"{name} starts at byte {first} instead of {expected} (a gap or an overlap)")
        expected = last
    if expected != file_size - 8 - length:
        raise _Malformed(f"its tensors take {expected} bytes, {file_size - 8 - length} are there")
    return header, metadata, 8 + length


def _unique_keys(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _check_entry(name: str, entry: Any) -> Tuple[int, int, str]:
    """First byte, last byte + 1 and name of a tensor whose dtype, shape and offsets agree."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise _Malformed(f"{name} lacks dtype, shape or data_offsets")
    shape, offsets, item_size = entry["shape"], entry["data_offsets"], _ITEM_SIZES.get(str(entry["dtype"]))
    if item_size is None:
        raise _Malformed(f"{name} has the unknown dtype {str(entry['dtype'])[:20]}")
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(type(n) is int and n >= 0 for n in numbers):
            raise _Malformed(f"{name} has a shape or offsets that are not whole numbers")
    if len(shape) > 32 or len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * item_size:
        raise _Malformed(f"{name} has offsets that do not fit its shape")
    return offsets[0], offsets[1], name


def _tensor(data: np.ndarray, entry: Dict[str, Any]) -> np.ndarray:
    """A view of the file's bytes, or a copy where the elements are not aligned or need converting."""
    first, last = entry["data_offsets"]
    raw = data[first:last]
    if entry["dtype"] == "BF16":  # the upper half of a float32
        wide = raw.view("<u2").astype("<u4") << 16
        return wide.view("<f4").reshape(entry["shape"])
    array = raw.view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
    if sys.byteorder == "big":
        array = array.astype(array.dtype.newbyteorder("="))
    return np.require(array, requirements=["A"])
