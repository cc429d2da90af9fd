"""cache.py: entries are found by content, bounded in size, verified, and safe under two processes."""

from __future__ import annotations

import dataclasses
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from SAMv2Core.embedding import cache as cache_module
from SAMv2Core.embedding.cache import Cache, cache_key, default_folder
from SAMv2Core.errors import OutputError
from Testing.core.embedding.test_file import assert_equal
from Testing.samples.embedding_samples import random_embedding, torso

ROOT = Path(__file__).parents[3]
OPTIONS = {"modality": "auto", "precision": "fp32", "model": "ab" * 32, "preprocessing": 1}


def key_of(number: int) -> str:
    return f"{number:064x}"


def test_the_key_changes_with_everything_that_changes_the_result():
    volume = torso()
    other_voxel = volume.array.copy()
    other_voxel[3, 4, 5] += 1
    moved = volume.ijk_to_lps.copy()
    moved[0, 3] += 1e-9
    keys = [
        cache_key(volume, OPTIONS),
        cache_key(dataclasses.replace(volume, array=other_voxel), OPTIONS),
        cache_key(dataclasses.replace(volume, array=volume.array.astype(np.float32)), OPTIONS),
        cache_key(dataclasses.replace(volume, array=volume.array.reshape(36, 40, 44)), OPTIONS),
        cache_key(dataclasses.replace(volume, ijk_to_lps=moved), OPTIONS),
        cache_key(dataclasses.replace(volume, modality="mr"), OPTIONS),
        *(cache_key(volume, {**OPTIONS, name: "other"}) for name in OPTIONS),
    ]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 64 and int(key, 16) >= 0 for key in keys)


def test_the_key_does_not_depend_on_name_layout_or_byte_order():
    volume = torso()
    key = cache_key(volume, OPTIONS)
    for array in (np.asfortranarray(volume.array), volume.array.astype(">i2"), volume.array[::-1][::-1]):
        same = dataclasses.replace(volume, array=array, source="other.nrrd", warnings=("w",))
        assert cache_key(same, OPTIONS) == key


def test_the_key_is_stable_between_versions_of_this_program():
    """A changed key silently throws away every user's cache; if so, change this value on purpose."""
    volume = dataclasses.replace(torso((4, 4, 4)), array=np.arange(64, dtype=np.int16).reshape(4, 4, 4))
    assert cache_key(volume, {"model": "x"}) == ("c9848619bbe10da04e470b56e3025b60fec27ebdfea0db7ce51a6a9104bd9305")


def test_store_and_load(tmp_path):
    store = Cache(tmp_path / "a" / "b")
    emb = random_embedding()
    assert store.load(key_of(1)) is None
    assert store.store(key_of(1), emb) is None
    assert_equal(store.load(key_of(1)), emb, but=("source",))
    assert store.load(key_of(2)) is None
    assert store.size_bytes() == sum(p.stat().st_size for p in (tmp_path / "a" / "b").glob("??/*"))
    assert store.clear() > emb.nbytes
    assert store.size_bytes() == 0
    assert store.load(key_of(1)) is None


def test_clearing_leaves_files_of_others(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"precious")
    (tmp_path / ".part.safetensors").write_bytes(b"precious too")
    Cache(tmp_path).store(key_of(1), random_embedding())
    Cache(tmp_path).clear()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".part.safetensors", "weights.safetensors"]


def test_the_least_recently_used_entry_goes_first(tmp_path):
    emb = random_embedding()
    Cache(tmp_path).store(key_of(0), emb)
    one = Cache(tmp_path).size_bytes()
    store = Cache(tmp_path, max_bytes=int(3.5 * one))
    for n in (1, 2):
        store.store(key_of(n), emb)
    for n in range(3):  # distinct times, whatever the file system's resolution
        os.utime(store.path_of(key_of(n)), (1000 + n, 1000 + n))
    assert store.load(key_of(0)) is not None  # used now: 1 is the oldest
    store.store(key_of(3), emb)
    assert [store.load(key_of(n)) is not None for n in range(4)] == [True, False, True, True]
    assert store.size_bytes() <= store.max_bytes


@pytest.mark.parametrize("seconds", [-(10**9), 10**9], ids=["back", "forth"])
def test_a_clock_that_jumps_loses_nothing_and_keeps_the_bound(tmp_path, seconds):
    """Only which entry goes first may be wrong."""
    emb = random_embedding()
    Cache(tmp_path).store(key_of(0), emb)
    store = Cache(tmp_path, max_bytes=int(3.5 * Cache(tmp_path).size_bytes()))
    for n in range(3):
        store.store(key_of(n), emb)
        os.utime(store.path_of(key_of(n)), (time.time() + seconds,) * 2)
    assert all(store.load(key_of(n)) is not None for n in range(3))
    for n in range(3, 8):
        assert store.store(key_of(n), emb) is None
        assert store.load(key_of(n)) is not None and store.size_bytes() <= store.max_bytes


def test_entries_lie_in_256_folders_and_those_of_before_are_found(tmp_path):
    emb, store = random_embedding(), Cache(tmp_path)
    for key in ("ab" * 32, "cd" * 32):
        store.store(key, emb)
    assert sorted(path.parent.name for path in tmp_path.rglob("*.samv2.safetensors")) == ["ab", "cd"]
    old = store.path_of("ab" * 32)
    flat = old.rename(tmp_path / old.name)  # where it lay before there were folders
    assert_equal(store.load("ab" * 32), emb, but=("source",))
    os.utime(flat, (1000, 1000))
    assert [entry.path for entry in store.entries()] == [flat, store.path_of("cd" * 32)]
    Cache(tmp_path, max_bytes=int(1.5 * flat.stat().st_size)).evict()
    assert not flat.exists() and store.load("cd" * 32) is not None


def test_a_store_rarely_lists_the_cache_and_the_bound_holds(tmp_path, monkeypatch):
    """A small entry in a cache of 100,000 such: a look in 100,000 / 32 stores. In one that is full: room for a 16th."""
    emb = random_embedding()
    looks = []
    entries = Cache.entries
    monkeypatch.setattr(Cache, "entries", lambda self: looks.append(1) or entries(self))
    for n in range(30):  # a new object each time, as the rows of a batch do
        Cache(tmp_path, max_bytes=100_000 * emb.nbytes).store(key_of(n), emb)
    assert len(looks) == 1
    one = entries(Cache(tmp_path))[0].n_bytes
    looks.clear()
    small = Cache(tmp_path, max_bytes=int(24.5 * one))
    for n in range(30, 60):
        Cache(tmp_path, max_bytes=small.max_bytes).store(key_of(n), emb)
        assert sum(entry.n_bytes for entry in entries(small)) <= small.max_bytes
    assert len(entries(small)) >= 22 and store_order(entries(small)) == sorted(store_order(entries(small)))


def store_order(found):
    """Numbers of the keys, the least recently used first."""
    return [int(entry.path.name[:64], 16) for entry in found]


def test_an_embedding_larger_than_the_cache_is_not_stored(tmp_path):
    store = Cache(tmp_path, max_bytes=1000)
    assert "more than the cache may hold" in store.store(key_of(1), random_embedding())
    assert store.entries() == []


@pytest.mark.parametrize("n_left", [0, 5, 300, -40, -1])
def test_a_truncated_entry_is_dropped_with_a_warning(tmp_path, caplog, n_left):
    store = Cache(tmp_path)
    store.store(key_of(1), random_embedding())
    path = store.path_of(key_of(1))
    path.write_bytes(path.read_bytes()[:n_left])
    with caplog.at_level(logging.WARNING):
        assert store.load(key_of(1)) is None
    assert "Dropped an unusable entry" in caplog.text
    assert not path.exists()


def test_a_corrupt_entry_is_dropped_with_a_warning(tmp_path, caplog):
    store = Cache(tmp_path)
    store.store(key_of(1), random_embedding())
    path = store.path_of(key_of(1))
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)
    with caplog.at_level(logging.WARNING):
        assert store.load(key_of(1)) is None
    assert "checksum" in caplog.text
    assert not path.exists()


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    store = Cache(tmp_path / "file" / "cache")
    assert "was not kept in the cache" in store.store(key_of(1), random_embedding())
    assert store.load(key_of(1)) is None
    assert store.entries() == [] and store.clear() == 0


def test_a_full_disk_is_a_warning_and_leaves_nothing(tmp_path, monkeypatch):
    def no_space(*args, **kwargs):
        raise OutputError("x cannot be written: the disk is full.", "Free some space.")

    monkeypatch.setattr("SAMv2Core.embedding.file.write_safetensors", no_space)
    assert "the disk is full" in Cache(tmp_path).store(key_of(1), random_embedding())
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux and root to mount a small file system")
def test_a_really_full_disk(tmp_path):
    """A file system of 64 KiB: the entry does not fit, and no part of it stays."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount")
    try:
        warning = Cache(small).store(key_of(1), random_embedding((24, 24, 24)))
        assert "the disk is full" in warning
        assert not [path for path in small.rglob("*") if path.is_file()]
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_what_a_dead_process_left_is_removed_after_an_hour(tmp_path, monkeypatch):
    """The name comes from a real write that died, so that this test notices when such names change."""
    import SAMv2Core.io.files as files

    def die(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", die)
        patch.setattr(files.Path, "unlink", lambda self, **_: None)
        with pytest.raises(KeyboardInterrupt):
            Cache(tmp_path).store(key_of(1), random_embedding())
    (left,) = tmp_path.glob("??/.*")
    Cache(tmp_path).evict()
    assert left.exists()  # may be in use
    os.utime(left, (time.time() - 7200,) * 2)
    Cache(tmp_path).evict()
    assert not left.exists()


def test_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("SAMV2_CACHE_DIR", str(tmp_path / "x"))
    assert default_folder() == tmp_path / "x"
    monkeypatch.delenv("SAMV2_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache_module.sys, "platform", "linux")
    assert default_folder() == tmp_path / "SAMv2"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == Path.home() / ".cache" / "SAMv2"
    monkeypatch.setattr(cache_module.sys, "platform", "darwin")
    assert default_folder() == Path.home() / "Library" / "Caches" / "SAMv2"
    monkeypatch.setattr(cache_module.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert default_folder() == tmp_path / "local" / "SAMv2" / "Cache"


_WORKER = """
import sys, time
import torch
torch.set_num_threads(1)
from SAMv2Core.embedding.cache import Cache
from Testing.samples.embedding_samples import random_embedding
folder, seed, seconds, max_bytes = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
store = Cache(folder, max_bytes)
embeddings = [random_embedding(seed=n) for n in range(6)]
rng, hits, misses, end = __import__("random").Random(seed), 0, 0, time.time() + seconds
while time.time() < end:
    n = rng.randrange(6)
    if rng.random() < 0.4:
        assert store.store(f"{n:064x}", embeddings[n]) is None
    else:
        found = store.load(f"{n:064x}")
        if found is None:
            misses += 1
        else:
            hits += 1
            assert torch.equal(found.fine.vectors, embeddings[n].fine.vectors), "a mixed or torn entry"
print(hits, misses)
"""


def test_two_processes_write_read_and_evict_at_once(tmp_path):
    """Room for half of the entries, so that each process keeps removing what the other one reads."""
    emb = random_embedding()
    probe = Cache(tmp_path / "probe")
    probe.store(key_of(0), emb)
    bound = int(3.2 * probe.size_bytes())
    folder = tmp_path / "shared"
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _WORKER, str(folder), str(seed), "2.0", str(bound)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in (1, 2)
    ]
    results = [worker.communicate(timeout=120) for worker in workers]
    for worker, (out, err) in zip(workers, results):
        assert worker.returncode == 0, err
        assert "Dropped" not in err and "not kept" not in err, err
        hits, misses = (int(n) for n in out.split())
        assert hits > 0 and misses > 0, "the test did not exercise both"
    Cache(folder, bound).evict()
    assert Cache(folder).size_bytes() <= bound
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files and all(path.name.endswith(".samv2.safetensors") for path in files), "something half-made was left"
