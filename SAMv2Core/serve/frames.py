"""The unit that travels between a client and what computes for it: a small JSON header and arrays as they are.

==================  =================================================================================
bytes               content
==================  =================================================================================
0 ... 3             ``SAM2``
4 ... 7             n, unsigned 32-bit, little-endian: length of the header
8 ... 7+n           header, UTF-8 JSON object; ``blobs``, if there, lists the arrays that follow
8+n ... end         the arrays of ``blobs`` in their order, without gaps
==================  =================================================================================

A blob is ``{"dtype": "<i2", "shape": [d, h, w], "how": "raw"}``: elements little-endian in C order. With ``"zlib"`` it
is one zlib stream in pieces, each an unsigned 32-bit length and so many bytes, the last one of length 0. With
``"shared"`` nothing follows: ``"at"`` names memory that both processes see (:mod:`SAMv2Core.serve.shared`); only a
client and its own child speak so.

Nobody is trusted: every length is checked before memory is taken, memory grows with what has arrived and not with what
is claimed, JSON is plain (no NaN, no numbers of a thousand digits), and nothing is ever unpickled. This module knows no
sockets: :class:`FrameReader` is fed with bytes as they come, in pieces of any size.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Generator, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

MAGIC = b"SAM2"
_HEAD, _LENGTH = struct.Struct("<4sI"), struct.Struct("<I")
PIECE = 1 << 20
"""Bytes that are handled at once."""

DTYPES = ("|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8")
MAX_DIMENSIONS = 5
_LONGEST_NUMBER = 40

Json = Dict[str, Any]
Open = Callable[[str, int], np.ndarray]
"""Of (name, bytes), gives the shared bytes (n,) uint8."""


class FrameError(ValueError):
    """What arrived is no frame, or one that is not accepted; the connection is of no further use."""


@dataclass(frozen=True)
class Limits:
    """What one frame may have."""

    header_bytes: int = 16 << 20
    blobs: int = 4096
    bytes: int = 8 << 30
    """Of all arrays of a frame together, unpacked."""


@dataclass(frozen=True, eq=False)
class Frame:
    """A header and its arrays."""

    header: Json
    arrays: Tuple[np.ndarray, ...] = field(default=(), repr=False)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)


def pack(
    header: Mapping[str, Any],
    arrays: Sequence[np.ndarray] = (),
    compress: bool = False,
    shared: Mapping[int, str] = {},
) -> Iterator[Any]:
    """The bytes of a frame, in pieces that are sent one after the other; arrays are not copied.

    :param compress: arrays above some kilobytes as zlib streams.
    :param shared: number of an array -> name of the shared memory in which it lies already.
    """
    # Of what is shared only the description is sent, and a description of zeros must not become so many zeros.
    prepared = [a if n in shared else _little_endian(a) for n, a in enumerate(arrays)]
    blobs: List[Json] = []
    for n, array in enumerate(prepared):
        how = "shared" if n in shared else "zlib" if compress and array.nbytes > 4096 else "raw"
        blob = {"dtype": array.dtype.newbyteorder("<").str, "shape": list(array.shape), "how": how}
        blobs.append({**blob, "at": shared[n]} if n in shared else blob)
    text = json.dumps({**header, "blobs": blobs} if blobs else dict(header), allow_nan=False).encode()
    yield _HEAD.pack(MAGIC, len(text)) + text
    for array, blob in zip(prepared, blobs):
        if blob["how"] == "shared":
            continue
        data = array.reshape(-1).view(np.uint8).data if array.size else memoryview(b"")
        if blob["how"] == "raw" and len(data):
            for start in range(0, len(data), PIECE):
                yield data[start : start + PIECE]
        elif blob["how"] == "zlib":
            yield from _deflated(data)


def _little_endian(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)


def _deflated(data: memoryview) -> Iterator[bytes]:
    packer = zlib.compressobj(1)
    for start in range(0, len(data), PIECE):
        piece = packer.compress(data[start : start + PIECE])
        if piece:
            yield _LENGTH.pack(len(piece)) + piece
    piece = packer.flush()
    yield _LENGTH.pack(len(piece)) + piece + _LENGTH.pack(0)


def to_bytes(header: Mapping[str, Any], arrays: Sequence[np.ndarray] = (), compress: bool = False) -> bytes:
    """A small frame as one piece."""
    return b"".join(pack(header, arrays, compress))


_Parser = Generator[int, bytes, Frame]


class FrameReader:
    """Makes frames of bytes that come in pieces.

    :param limits: what is accepted.
    :param reserve: called with the bytes that a frame's arrays will take, before the first is read; may raise.
    :param open_shared: opens shared memory by its name; None where nobody may name any.
    """

    def __init__(
        self,
        limits: Limits = Limits(),
        reserve: Optional[Callable[[int], None]] = None,
        open_shared: Optional[Open] = None,
    ) -> None:
        self._limits, self._reserve, self._open = limits, reserve, open_shared
        self._buffer = bytearray()
        self._begin()

    def _begin(self) -> None:
        self._parser: _Parser = self._parse()
        self._needed = next(self._parser)
        self._is_inside = False

    @property
    def is_inside(self) -> bool:
        """Whether a frame has begun and not ended: a connection that closes now has torn it."""
        return self._is_inside or bool(self._buffer)

    def feed(self, data: Any) -> List[Frame]:
        """The frames that are complete now.

        :raises FrameError: what came is no frame, or not accepted; the reader is of no further use.
        """
        self._buffer += data
        frames: List[Frame] = []
        while len(self._buffer) >= self._needed:
            piece = bytes(self._buffer[: self._needed])
            del self._buffer[: self._needed]
            self._is_inside = True
            try:
                self._needed = self._parser.send(piece)
            except StopIteration as end:
                frames.append(end.value)
                self._begin()
        return frames

    def _parse(self) -> _Parser:
        magic, length = _HEAD.unpack((yield _HEAD.size))
        if magic != MAGIC:
            raise FrameError("This is not the protocol of SAMv2.")
        if length > self._limits.header_bytes:
            raise FrameError(f"A header of {length} bytes is longer than {self._limits.header_bytes}.")
        header = read_json((yield length) if length else b"")
        blobs = header.pop("blobs", [])
        if not isinstance(blobs, list) or len(blobs) > self._limits.blobs:
            raise FrameError("The list of arrays makes no sense or is too long.")
        plans = [_plan(blob) for blob in blobs]
        total = sum(n_bytes for _, _, n_bytes in plans)
        if total > self._limits.bytes:
            raise FrameError(f"Arrays of {total} bytes are more than {self._limits.bytes}.")
        if total and self._reserve is not None:
            self._reserve(total)
        arrays = []
        for blob, (dtype, shape, n_bytes) in zip(blobs, plans):
            how, data = blob.get("how"), None  # type: Any, Any
            if how == "raw":
                data = yield from _raw(n_bytes)
            elif how == "zlib":
                data = yield from _inflated(n_bytes)
            elif how == "shared" and self._open is not None and isinstance(blob.get("at"), str):
                data = self._open(blob["at"], n_bytes)
            else:
                raise FrameError(f"An array cannot come as {str(how)[:20]!r}.")
            arrays.append(np.frombuffer(data, np.dtype(dtype)).reshape(shape))
        return Frame(header, tuple(arrays))


def _raw(n_bytes: int) -> Generator[int, bytes, bytearray]:
    data = bytearray()
    while len(data) < n_bytes:
        data += yield min(PIECE, n_bytes - len(data))
    return data


def _inflated(n_bytes: int) -> Generator[int, bytes, bytearray]:
    unpacker, data = zlib.decompressobj(), bytearray()
    while True:
        (length,) = _LENGTH.unpack((yield _LENGTH.size))
        if not length:
            break
        if length > 2 * PIECE:
            raise FrameError(f"A piece of {length} bytes is too long.")
        piece = yield length
        try:
            while piece:
                data += unpacker.decompress(piece, min(PIECE, n_bytes - len(data) + 1))
                if len(data) > n_bytes:
                    raise FrameError("An array unpacks to more than it claims.")
                piece = unpacker.unconsumed_tail
        except zlib.error:
            raise FrameError("An array cannot be unpacked.") from None
    if len(data) != n_bytes or not unpacker.eof:
        raise FrameError("An array unpacks to less than it claims.")
    return data


def _plan(blob: Any) -> Tuple[str, Tuple[int, ...], int]:
    """(dtype, shape, bytes) of a blob's description, in Python's own integers, which do not overflow."""
    if not isinstance(blob, dict):
        raise FrameError("An array is not described.")
    dtype, shape = blob.get("dtype"), blob.get("shape")
    if dtype not in DTYPES:
        raise FrameError(f"Arrays of type {str(dtype)[:20]!r} are not accepted.")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        raise FrameError("An array has no sensible shape.")
    size = np.dtype(dtype).itemsize
    for n in shape:
        if type(n) is not int or not 0 <= n < 1 << 40:
            raise FrameError("An array has no sensible shape.")
        size *= n
    return dtype, tuple(shape), size


def read_json(data: bytes) -> Json:
    """A plain JSON object.

    :raises FrameError: it is none.
    """

    def integer(text: str) -> int:
        if len(text) > _LONGEST_NUMBER:
            raise FrameError("A header has a number of too many digits.")
        return int(text)

    def refuse(text: str) -> Any:
        raise FrameError(f"A header has the number {text}, which JSON does not know.")

    try:
        found = json.loads(data.decode("utf-8"), parse_int=integer, parse_constant=refuse)
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise error if isinstance(error, FrameError) else FrameError("A header is no JSON.") from None
    if not isinstance(found, dict):
        raise FrameError("A header is no JSON object.")
    return found
