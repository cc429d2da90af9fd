"""embedding_file.py: nothing is lost on the way to disk and back; nothing damaged passes for an embedding."""

from __future__ import annotations

import dataclasses
import json
import struct

import numpy as np
import pytest
import torch

from SAMv2Core.embedding.embedding import Embedding, with_shell
from SAMv2Core.embedding.file import load_embedding, save_embedding, tensors_sha256
from SAMv2Core.errors import InputError, OutputError
from SAMv2Core.io.safetensors import read_safetensors, write_safetensors
from SAMv2Core.matching.similarity import joint_vectors
from Testing.samples.embedding_samples import random_embedding


def assert_equal(a: Embedding, b: Embedding, but: tuple = ()) -> None:
    """Every field equal to the last bit, except those named."""
    assert [h.name for h in a.heads] == [h.name for h in b.heads]
    for one, other in zip(a.heads, b.heads):
        assert one.vectors.dtype == other.vectors.dtype
        assert torch.equal(one.vectors, other.vectors)
        assert one.grid.shape_zyx == other.grid.shape_zyx
        np.testing.assert_array_equal(one.grid.ijk_to_lps, other.grid.ijk_to_lps)
    np.testing.assert_array_equal(a.body, b.body)
    assert a.body.dtype == b.body.dtype == bool
    for name in ("input_grid", "volume_grid"):
        assert getattr(a, name).shape_zyx == getattr(b, name).shape_zyx
        np.testing.assert_array_equal(getattr(a, name).ijk_to_lps, getattr(b, name).ijk_to_lps)
    for name in ("modality", "model", "model_sha256", "head_weights", "calibration", "warnings", "source"):
        if name not in but:
            assert getattr(a, name) == getattr(b, name), name


@pytest.mark.parametrize("semantic", [True, False])
def test_round_trip_is_exact(tmp_path, semantic):
    emb = dataclasses.replace(random_embedding(semantic=semantic), calibration={"matched_above": 0.8})
    save_embedding(emb, tmp_path / "ü e.safetensors")
    found = load_embedding(tmp_path / "ü e.safetensors")
    assert_equal(found, emb, but=("source",))
    assert found.source == "ct.nii.gz"  # the folder may name the patient


def test_vectors_in_any_memory_layout_and_float32(tmp_path):
    emb = random_embedding()
    transposed = emb.fine.vectors.float().permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    assert not transposed.is_contiguous()
    emb = dataclasses.replace(emb, fine=dataclasses.replace(emb.fine, vectors=transposed))
    save_embedding(emb, tmp_path / "e.safetensors")
    assert_equal(load_embedding(tmp_path / "e.safetensors"), emb, but=("source",))


def test_loaded_vectors_can_be_written_to(tmp_path):
    save_embedding(random_embedding(), tmp_path / "e.safetensors")
    vectors = load_embedding(tmp_path / "e.safetensors").fine.vectors
    vectors.zero_()
    assert not vectors.any()


def test_the_bytes_are_as_documented(tmp_path):
    """A reader made from the module's docstring alone."""
    emb = random_embedding()
    save_embedding(emb, tmp_path / "e.safetensors", extra={"note": "x"})
    raw = (tmp_path / "e.safetensors").read_bytes()
    (n,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + n])
    metadata = header.pop("__metadata__")
    assert set(header) == {"fine", "coarse", "semantic", "body"}
    first, last = header["fine"]["data_offsets"]
    assert header["fine"]["dtype"] == "F16"
    fine = np.frombuffer(raw[8 + n + first : 8 + n + last], "<f2").reshape(header["fine"]["shape"])
    np.testing.assert_array_equal(fine, emb.fine.vectors.numpy())
    first, last = header["body"]["data_offsets"]
    assert header["body"]["dtype"] == "U8"
    np.testing.assert_array_equal(
        np.frombuffer(raw[8 + n + first : 8 + n + last], np.uint8).reshape(emb.body.shape), emb.body
    )
    grids = json.loads(metadata["grids"])
    assert set(grids) == {"fine", "coarse", "semantic", "input", "volume"}
    assert grids["input"]["shape_zyx"] == list(emb.input_grid.shape_zyx)
    np.testing.assert_array_equal(grids["input"]["ijk_to_lps"], emb.input_grid.ijk_to_lps)
    assert max(h["data_offsets"][1] for h in header.values()) == len(raw) - 8 - n
    assert metadata["note"] == "x"
    assert metadata["format"] == "samv2-embedding"
    assert "Müller" not in raw.decode("latin-1")


def test_the_safetensors_package_reads_it(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    emb = random_embedding()
    save_embedding(emb, tmp_path / "e.safetensors")
    tensors = safetensors.load_file(str(tmp_path / "e.safetensors"))
    np.testing.assert_array_equal(tensors["coarse"], emb.coarse.vectors.numpy())


def flip_a_bit(raw: bytearray) -> None:
    raw[-100] ^= 4


def truncate(raw: bytearray) -> None:
    del raw[-50:]


def cut_in_the_header(raw: bytearray) -> None:
    del raw[200:]


def append(raw: bytearray) -> None:
    raw += b"tail"


def claim_a_huge_header(raw: bytearray) -> None:
    raw[:8] = struct.pack("<Q", 2**60)


def other_grid(raw: bytearray) -> None:
    raw[:] = raw.replace(b"[6, 8, 10]", b"[6, 8, 11]")


def newer_version(raw: bytearray) -> None:
    raw[:] = raw.replace(b'"format_version":"1"', b'"format_version":"3"')
    raw[:] = raw.replace(b'"format_version": "1"', b'"format_version": "3"')


def empty(raw: bytearray) -> None:
    raw.clear()


@pytest.mark.parametrize(
    "damage",
    [flip_a_bit, truncate, cut_in_the_header, append, claim_a_huge_header, other_grid, newer_version, empty],
)
def test_damaged_files_are_refused_by_name(tmp_path, damage):
    path = tmp_path / "e.safetensors"
    save_embedding(random_embedding(), path)
    raw = bytearray(path.read_bytes())
    before = bytes(raw)
    damage(raw)
    assert bytes(raw) != before
    path.write_bytes(raw)
    with pytest.raises(InputError) as caught:
        load_embedding(path)
    assert "e.safetensors" in caught.value.cause
    assert caught.value.remedy


def test_without_verification_only_the_layout_is_checked(tmp_path):
    path = tmp_path / "e.safetensors"
    save_embedding(random_embedding(), path)
    raw = bytearray(path.read_bytes())
    flip_a_bit(raw)
    path.write_bytes(raw)
    assert load_embedding(path, verify=False).modality == "ct"


def test_a_missing_file_and_one_of_another_kind(tmp_path):
    from SAMv2Core.io.safetensors import write_safetensors

    with pytest.raises(InputError):
        load_embedding(tmp_path / "none.safetensors")
    write_safetensors(tmp_path / "weights.safetensors", {"w": np.zeros(3, np.float32)}, {"architecture": "lite"})
    with pytest.raises(InputError, match="not an embedding"):
        load_embedding(tmp_path / "weights.safetensors")


def test_a_folder_that_is_missing(tmp_path):
    with pytest.raises(OutputError):
        save_embedding(random_embedding(), tmp_path / "none" / "e.safetensors")
    assert not list(tmp_path.iterdir())


def test_the_air_around_the_patient_is_left_out_and_reads_back_as_zero(tmp_path):
    emb = random_embedding()
    body = np.zeros_like(emb.body)
    body[2:4, 3:5, 4:6] = True
    emb = dataclasses.replace(emb, body=body)
    save_embedding(emb, tmp_path / "whole.safetensors")
    save_embedding(emb, tmp_path / "body.safetensors", body_only=True)
    found = load_embedding(tmp_path / "body.safetensors")
    inside, kept = with_shell(body)
    assert len(inside) == 8 and len(kept) == 64  # 2 x 2 x 2 voxels, and one more on every side
    for one, other in zip(found.heads, emb.heads):
        expected = other.vectors.clone()
        if other.grid.shape_zyx == body.shape:
            air = np.setdiff1d(np.arange(body.size), kept)
            expected.reshape(len(expected), -1)[:, torch.from_numpy(air)] = 0
        assert torch.equal(one.vectors, expected), one.name
    np.testing.assert_array_equal(found.body, body)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("body", "whole")]
    assert sizes[0] < sizes[1]
    points = emb.fine.grid.to_lps(np.random.default_rng(0).uniform([4, 3, 2], [5, 4, 3], (20, 3)))
    assert torch.allclose(joint_vectors(found, points), joint_vectors(emb, points), atol=1e-6)


def test_voxels_that_do_not_fit_are_refused(tmp_path):
    emb = random_embedding()
    save_embedding(emb, tmp_path / "e.safetensors", body_only=True)
    tensors, metadata = read_safetensors(tmp_path / "e.safetensors")
    tensors["voxels"] = tensors["voxels"] + emb.body.size
    metadata["tensors_sha256"] = tensors_sha256(tensors)
    write_safetensors(tmp_path / "e.safetensors", tensors, metadata)
    with pytest.raises(InputError, match=r"damaged.*voxels"):
        load_embedding(tmp_path / "e.safetensors")
