"""The safetensors layout: bytes as specified, and nothing that a header says is believed unchecked."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from SAMv2Core.errors import InputError, ModelError, OutputError
from SAMv2Core.io.safetensors import read_metadata, read_safetensors, write_safetensors

TENSORS = {
    "half": np.arange(6, dtype=np.float16).reshape(2, 3),
    "single": np.linspace(-1, 1, 5, dtype=np.float32),
    "double": np.array([[np.pi]]),
    "counter": np.array(20000, dtype=np.int64),
    "empty": np.zeros((0, 4), dtype=np.float32),
    "mask": np.array([1, 0, 255], dtype=np.uint8),
    "flag": np.array([True, False]),
    "größe": np.array([-3], dtype=np.int32),
}
METADATA = {"config": '{"a": [1, 2]}', "title": "Größe"}


def write_raw(path, header, data=b""):
    """A file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@pytest.mark.parametrize("mmap", [False, True])
def test_what_is_written_is_read(tmp_path, mmap):
    path = tmp_path / "Ablage ü" / "t.safetensors"
    path.parent.mkdir()
    write_safetensors(path, TENSORS, METADATA)
    tensors, metadata = read_safetensors(path, mmap=mmap)
    assert metadata == METADATA == read_metadata(path)
    assert set(tensors) == set(TENSORS)
    for name, expected in TENSORS.items():
        assert tensors[name].dtype == expected.dtype
        np.testing.assert_array_equal(tensors[name], expected, strict=True)
        assert tensors[name].flags.writeable and tensors[name].flags.aligned


def test_writing_to_a_mapped_tensor_leaves_the_file_alone(tmp_path):
    path = tmp_path / "t.safetensors"
    write_safetensors(path, TENSORS)
    before = path.read_bytes()
    read_safetensors(path, mmap=True)[0]["single"][:] = 9
    assert path.read_bytes() == before


def test_equal_content_gives_equal_bytes_in_any_order(tmp_path):
    write_safetensors(tmp_path / "a", TENSORS, METADATA)
    write_safetensors(tmp_path / "b", dict(reversed(list(TENSORS.items()))), dict(reversed(list(METADATA.items()))))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_order_of_memory_does_not_matter(tmp_path):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    write_safetensors(tmp_path / "t", {"x": array.T, "big": array.astype(">f4")})
    tensors, _ = read_safetensors(tmp_path / "t")
    np.testing.assert_array_equal(tensors["x"], array.T)
    np.testing.assert_array_equal(tensors["big"], array)


def test_bfloat16_is_read_as_float32(tmp_path):
    values = np.array([1.0, -2.5, 3.140625, 65536.0], dtype=np.float32)  # exact in 8 bits of mantissa
    data = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    path = write_raw(tmp_path / "t", {"x": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}, data)
    found = read_safetensors(path)[0]["x"]
    np.testing.assert_array_equal(found, values.reshape(2, 2), strict=True)


def test_a_tensor_at_an_odd_byte_is_read(tmp_path):
    header = {
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "b": {"dtype": "F32", "shape": [1], "data_offsets": [1, 5]},
    }
    path = write_raw(tmp_path / "t", header, b"\x07" + np.array([1.5], "<f4").tobytes())
    for mmap in (False, True):
        found = read_safetensors(path, mmap=mmap)[0]["b"]
        assert found[0] == 1.5 and found.flags.aligned


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


WRONG_HEADERS = {
    "not JSON": b"{x",
    "not an object": b"[1]",
    "not UTF-8": b'{"\xff": 1}',
    "a name twice": b'{"x": {"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
    b' "x": {"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
    "deeply nested": b"[" * 100_000,
    "no offsets": {"x": {"dtype": "F32", "shape": [2]}},
    "entry is no object": {"x": 3},
    "unknown dtype": {"x": entry("F8_E4M3", (8,))},
    "dtype is a list": {"x": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}},
    "shape does not fit": {"x": entry(shape=(3,))},
    "negative size": {"x": entry(shape=(-1, -2))},
    "size is a bool": {"x": entry(shape=(True, 2))},
    "size is a float": {"x": entry(shape=(2.0,))},
    "product overflows 64 bits": {"x": entry(shape=(2**62, 4), offsets=(0, 0))},
    "beyond the end": {"x": entry(shape=(4,), offsets=(0, 16))},
    "offsets reversed": {"x": entry(offsets=(8, 0))},
    "one offset": {"x": entry(offsets=(8,))},
    "overlap": {"x": entry(), "y": entry(shape=(1,), offsets=(4, 8))},
    "gap": {"x": entry(shape=(1,), offsets=(4, 8))},
    "bytes left over": {"x": entry(shape=(1,), offsets=(0, 4))},
    "metadata is not text": {"__metadata__": {"a": 1}, "x": entry()},
    "metadata is a list": {"__metadata__": [], "x": entry()},
}


@pytest.mark.parametrize("header", WRONG_HEADERS.values(), ids=WRONG_HEADERS)
def test_a_wrong_header_is_refused_by_name(tmp_path, header):
    path = write_raw(tmp_path / "t.safetensors", header, b"\0" * 8)
    for mmap in (False, True):
        with pytest.raises(InputError) as caught:
            read_safetensors(path, mmap=mmap)
        assert "t.safetensors" in caught.value.cause
        assert caught.value.remedy
    with pytest.raises(ModelError):
        read_safetensors(path, error=ModelError)


@pytest.mark.parametrize("content", [b"", b"abc", b"\0" * 8, struct.pack("<Q", 2**60) + b"{}", b"text in a file" * 9])
def test_what_is_no_such_file_is_refused(tmp_path, content):
    path = tmp_path / "t.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"t\.safetensors"):
        read_safetensors(path)


def test_any_cut_is_noticed(tmp_path):
    path = tmp_path / "t"
    write_safetensors(path, TENSORS, METADATA)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError):
            read_safetensors(path)


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ModelError, match=tmp_path.name):
            read_safetensors(path, error=ModelError)


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(TypeError):
        write_safetensors(tmp_path / "t", {"x": np.zeros(2, complex)})
    with pytest.raises(TypeError):
        write_safetensors(tmp_path / "t", {}, {"a": 1})
    with pytest.raises(OutputError):
        write_safetensors(tmp_path / "none" / "t", TENSORS)
    assert not list(tmp_path.iterdir())


def test_the_safetensors_package_reads_ours_and_writes_what_we_read(tmp_path):
    package = pytest.importorskip("safetensors.numpy", reason="the safetensors package is not installed")
    names = [name for name in TENSORS if name != "empty"]  # versions of the package differ about empty tensors
    tensors = {name: TENSORS[name] for name in names}
    write_safetensors(tmp_path / "ours", tensors, METADATA)
    for name, found in package.load_file(str(tmp_path / "ours")).items():
        np.testing.assert_array_equal(found, tensors[name], strict=True)
    package.save_file(tensors, str(tmp_path / "theirs"), METADATA)
    found, metadata = read_safetensors(tmp_path / "theirs")
    assert metadata == METADATA
    for name in names:
        np.testing.assert_array_equal(found[name], tensors[name], strict=True)
