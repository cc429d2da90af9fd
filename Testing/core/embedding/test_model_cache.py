"""embed.py with a cache: found by content, told as what was asked for, and never in the way."""

from __future__ import annotations

import dataclasses
from typing import List, Tuple

import numpy as np

from SAMv2Core.embedding.cache import Cache
from SAMv2Core.embedding.model import Model
from Testing.core.embedding.test_file import assert_equal
from Testing.samples.embedding_samples import model_info, small_lite, torso


def counting_model(monkeypatch, **info) -> Tuple[Model, List[int]]:
    net, runs = small_lite(), []
    original = net.forward_in_slabs

    def counted(*args):
        runs.append(1)
        return original(*args)

    monkeypatch.setattr(net, "forward_in_slabs", counted)
    return Model(net, model_info(**info)), runs


def test_the_second_time_the_network_does_not_run(monkeypatch, tmp_path):
    model, runs = counting_model(monkeypatch)
    first = model.embed(torso(), cache=Cache(tmp_path))
    second = model.embed(torso(), cache=Cache(tmp_path))
    assert len(runs) == 1
    assert_equal(first, second)


def test_another_file_of_the_same_voxels_is_found_under_its_own_name(monkeypatch, tmp_path):
    model, runs = counting_model(monkeypatch)
    array = torso().array.astype(np.float32)
    array[0, 0, 0] = np.nan
    volume = dataclasses.replace(torso(), array=array, source="/data/Anna.nii", warnings=("a note of the reader.",))
    first = model.embed(volume, cache=Cache(tmp_path))
    other = dataclasses.replace(volume, source="/data/Berta.nii", warnings=())
    second = model.embed(other, cache=Cache(tmp_path))
    assert len(runs) == 1
    assert second.source == "/data/Berta.nii"
    assert len(first.warnings) == 2 and len(second.warnings) == 1
    assert "Berta.nii" in second.warnings[0] and "Anna" not in second.warnings[0]
    (entry,) = Cache(tmp_path).entries()
    assert b"Anna" not in entry.path.read_bytes()


def test_whatever_changes_the_result_is_computed_anew(monkeypatch, tmp_path):
    model, runs = counting_model(monkeypatch)
    other, other_runs = counting_model(monkeypatch, sha256="77" * 32)
    cache, volume = Cache(tmp_path), torso()
    model.embed(volume, cache=cache)
    brighter = volume.array.copy()
    brighter[20, 18, 22] += 100
    moved = volume.ijk_to_lps.copy()
    moved[2, 3] += 5
    model.embed(dataclasses.replace(volume, array=brighter), cache=cache)
    model.embed(dataclasses.replace(volume, ijk_to_lps=moved), cache=cache)
    model.embed(volume, "mr", cache=cache)
    assert len(runs) == 4
    other.embed(volume, cache=cache)
    assert len(other_runs) == 1
    assert len(cache.entries()) == 5


def test_a_corrupt_entry_is_computed_anew_and_replaced(monkeypatch, tmp_path):
    model, runs = counting_model(monkeypatch)
    first = model.embed(torso(), cache=Cache(tmp_path))
    (entry,) = Cache(tmp_path).entries()
    raw = bytearray(entry.path.read_bytes())
    raw[len(raw) // 2] ^= 0x10
    entry.path.write_bytes(raw)
    assert_equal(model.embed(torso(), cache=Cache(tmp_path)), first)
    assert_equal(model.embed(torso(), cache=Cache(tmp_path)), first)
    assert len(runs) == 2


def test_a_folder_that_cannot_be_written_is_a_warning_in_the_result(tmp_path):
    (tmp_path / "file").write_text("")
    emb = Model(small_lite(), model_info()).embed(torso(), cache=Cache(tmp_path / "file"))
    assert any("not kept in the cache" in warning for warning in emb.warnings)


def test_weights_without_a_hash_are_not_cached(tmp_path):
    """Another model's entries could be found under an empty hash."""
    info = model_info()
    info.sha256 = ""
    Model(small_lite(), info).embed(torso(), cache=Cache(tmp_path))
    assert Cache(tmp_path).entries() == []
