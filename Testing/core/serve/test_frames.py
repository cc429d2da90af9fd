"""Frames: whole or torn in any place they are the same; what is no frame is refused before it takes memory."""

import json
import random
import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from SAMv2Core.serve.frames import DTYPES, MAGIC, PIECE, FrameError, FrameReader, Limits, pack, read_json, to_bytes

RNG = np.random.default_rng(3)
ARRAYS = (
    np.arange(24, dtype=np.int16).reshape(2, 3, 4),
    RNG.normal(size=(5, 6, 7)).astype(np.float32),
    np.array([np.nan, np.inf, -0.0]),
    np.zeros((0, 3)),
    RNG.integers(-1000, 2000, (30, 40, 50), dtype=np.int16),
    np.array([True, False, True]),
)


def same(given, got):
    return len(given) == len(got) and all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in zip(given, got)
    )


@pytest.mark.parametrize("compress", [False, True])
def test_frames_arrive_equal_in_every_bit_however_they_are_torn(compress):
    data = to_bytes({"op": "x", "text": "µ"}, ARRAYS, compress) + to_bytes({"op": "y"})
    random.seed(1)
    for step in (1, 7, len(data)):
        reader, frames, start = FrameReader(), [], 0
        while start < len(data):
            size = step if step > 1 else random.randint(1, 4000)
            frames += reader.feed(data[start : start + size])
            start += size
        assert [frame.header for frame in frames] == [{"op": "x", "text": "µ"}, {"op": "y"}]
        assert same(ARRAYS, frames[0].arrays) and not reader.is_inside


def test_every_type_and_big_endian_and_views_with_strides_travel():
    for name in DTYPES:
        array = np.arange(6).astype(name).reshape(2, 3)
        (frame,) = FrameReader().feed(to_bytes({}, [array]))
        assert same([array], frame.arrays), name
    odd = np.arange(24, dtype=">i4").reshape(4, 6)[::2, ::-1].T
    (frame,) = FrameReader().feed(to_bytes({}, [odd]))
    assert np.array_equal(odd, frame.arrays[0])


def test_a_large_array_is_sent_without_a_copy_of_it():
    array = np.zeros((64, 1024, 1024), np.uint8)
    tracemalloc.start()
    try:
        total = sum(len(piece) for piece in pack({}, [array]))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total > array.nbytes and peak < 4 * PIECE


def _frame(header, rest=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<4sI", MAGIC, len(text)) + text + rest


def blob(**changes):
    return {"blobs": [{"dtype": "<i2", "shape": [2], "how": "raw", **changes}]}


BAD = {
    "not ours": b"GET / HTTP/1.1\r\n\r\n",
    "a header of 4 GB": struct.pack("<4sI", MAGIC, 0xFFFFFFFF),
    "no JSON": _frame(b"{"),
    "no object": _frame(b"[1]"),
    "not UTF-8": _frame(b'{"a": "\xff"}'),
    "NaN": _frame(b'{"a": NaN}'),
    "an endless number": _frame(b'{"a": ' + b"9" * 100_000 + b"}"),
    "a deep nest": _frame(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "objects in an array": _frame(blob(dtype="|O")),
    "a type that is none": _frame(blob(dtype=["<i2"])),
    "a negative length": _frame(blob(shape=[-2])),
    "a length that is a text": _frame(blob(shape=["2"])),
    "a length that is true": _frame(blob(shape=[True])),
    "too many dimensions": _frame(blob(shape=[1] * 40)),
    "100 GB": _frame(blob(shape=[50_000_000_000])),
    "a product that overflows 64 bits": _frame(blob(shape=[1 << 39, 1 << 39, 1 << 39])),
    "no list of arrays": _frame({"blobs": 7}),
    "a list of numbers": _frame({"blobs": [1]}),
    "too many arrays": _frame({"blobs": [{"dtype": "<i2", "shape": [0], "how": "raw"}] * 5000}),
    "another way": _frame(blob(how="pickle")),
    "shared memory, from afar": _frame(blob(how="shared", at="samv2-shared-1-0123456789abcdef")),
    "no zlib": _frame(blob(how="zlib"), struct.pack("<I", 4) + b"abcd"),
    "too long a piece": _frame(blob(how="zlib"), struct.pack("<I", 1 << 30)),
    "less than it claims": _frame(
        blob(how="zlib"), struct.pack("<I", len(zlib.compress(b"a"))) + zlib.compress(b"a") + b"\0\0\0\0"
    ),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_what_is_no_frame_is_refused(data):
    with pytest.raises(FrameError):
        FrameReader().feed(data)


def test_a_small_stream_cannot_unpack_to_much():
    packed = zlib.compress(bytes(200 << 20), 9)
    data = _frame(blob(dtype="|u1", shape=[1000], how="zlib"), struct.pack("<I", len(packed)) + packed)
    tracemalloc.start()
    try:
        with pytest.raises(FrameError):
            FrameReader().feed(data)
        assert tracemalloc.get_traced_memory()[1] < 8 * PIECE
    finally:
        tracemalloc.stop()


def test_claims_take_no_memory_before_something_arrives():
    tracemalloc.start()
    try:
        readers = [FrameReader() for _ in range(20)]
        for reader in readers:
            assert reader.feed(_frame(blob(shape=[3 << 30]), b"xx")) == [] and reader.is_inside  # 6 GB each
        assert tracemalloc.get_traced_memory()[1] < 4 * PIECE
    finally:
        tracemalloc.stop()


def test_room_is_asked_for_before_the_first_byte_of_an_array():
    asked = []
    reader = FrameReader(reserve=asked.append)
    reader.feed(_frame(blob(shape=[1000, 3])))
    assert asked == [6000]
    with pytest.raises(FrameError):
        FrameReader(Limits(bytes=5999)).feed(_frame(blob(shape=[1000, 3])))


def test_a_thousand_damaged_frames_do_no_harm():
    """Bytes changed, dropped, doubled: an error, a frame or a wait for more, nothing else."""
    whole, rng = to_bytes({"op": "put", "args": {"a": [1, {"b": "c"}]}}, ARRAYS, True), random.Random(7)
    outcomes = {"error": 0, "frame": 0, "waits": 0}
    for _ in range(1000):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data)) if rng.random() < 0.5 else rng.randrange(300)
            change = rng.randrange(3)
            if change == 0:
                data[at] ^= 1 << rng.randrange(8)
            elif change == 1:
                del data[at : at + rng.randint(1, 50)]
            else:
                data[at:at] = data[at : at + rng.randint(1, 50)]
        reader = FrameReader()
        try:
            outcomes["frame" if reader.feed(bytes(data)) else "waits"] += 1
        except FrameError:
            outcomes["error"] += 1
    assert sum(outcomes.values()) == 1000 and outcomes["error"] > 400, outcomes


def test_numbers_of_a_header_are_plain():
    assert read_json(b'{"a": 12345678901234567890, "b": 1.5e3}') == {"a": 12345678901234567890, "b": 1500.0}
