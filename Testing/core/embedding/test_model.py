"""embed.py: slabs equal the whole, geometry is right in the world, limits hold, cancelling leaves nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from typing import List, Tuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from SAMv2Core.embedding import memory
from SAMv2Core.embedding.cache import Cache
from SAMv2Core.embedding.embedding import with_shell
from SAMv2Core.embedding.model import Model
from SAMv2Core.errors import Cancelled, InputError, MemoryLimitError, ModelError, UsageError
from SAMv2Core.io.volume import Volume
from SAMv2Core.network.build import build_network
from SAMv2Core.network.device import cpu_has_bf16
from SAMv2Core.preprocessing.preprocess import preprocess
from Testing.core.embedding.test_file import assert_equal
from Testing.samples.embedding_samples import model_info, seeded, small_lite, torso

# Of the issue: tiles equal the whole volume. float16 storage alone costs 1e-7.
MIN_COSINE = 0.9999


def small_model(**info) -> Model:
    return Model(small_lite(), model_info(**info))


def thinnest_slabs(monkeypatch) -> None:
    """A budget that is not comfortable for any slab, and allows all: the thinnest is taken."""
    monkeypatch.setattr(memory, "budget", lambda *_: memory.Budget(0, 2**62))


@pytest.mark.parametrize(
    ("name", "shape_zyx"),
    [("lite", (40, 36, 44)), ("lite", (35, 37, 41)), ("sampp", (35, 37, 41)), ("crosssam", (40, 36, 44))],
)
def test_slabs_equal_the_whole_volume(monkeypatch, name, shape_zyx):
    net = seeded(build_network(name))
    volume = torso(shape_zyx)
    x, _ = preprocess(volume, "ct")
    with torch.no_grad():
        whole = net(x)
    thinnest_slabs(monkeypatch)
    texts: List[str] = []
    emb = Model(net, model_info()).embed(volume, "ct", lambda _, text: texts.append(text), precision="fp32")
    assert any("of 5" in text for text in texts), texts  # 8 of 40 (or 35) planes each: there are seams to see
    assert [head.name for head in emb.heads] == [n for n in ("fine", "coarse", "semantic") if n in net.heads]
    for head in emb.heads:
        reference = getattr(whole, head.name)[0]
        assert head.vectors.dtype == torch.float16
        assert head.vectors.is_contiguous()
        assert head.vectors.shape == reference.shape
        cosine = F.cosine_similarity(head.vectors.float(), reference, dim=0)
        assert cosine.min() >= MIN_COSINE, f"{head.name}: {cosine.min()}"
        np.testing.assert_allclose(head.vectors.float().norm(dim=0), 1, atol=2e-3)
        # Random vectors would be nearly orthogonal; and the map is not constant, which would hide a shifted
        # seam.
        assert F.cosine_similarity(reference[:, :-1], reference[:, 1:], dim=0).min() < 0.999


@pytest.mark.skipif(not cpu_has_bf16(), reason="this CPU does not compute bfloat16")
@pytest.mark.parametrize("name", ["lite", "sampp"])
def test_bfloat16_stays_close_and_seamless(monkeypatch, name):
    model = Model(seeded(build_network(name)), model_info())
    volume = torso()
    reference = model.embed(volume, precision="fp32")
    whole = model.embed(volume, precision="bf16")
    thinnest_slabs(monkeypatch)
    slabs = model.embed(volume, precision="bf16")
    for a, b, c in zip(reference.heads, whole.heads, slabs.heads):
        np.testing.assert_allclose(b.vectors.float().norm(dim=0), 1, atol=2e-3)
        assert F.cosine_similarity(b.vectors.float(), c.vectors.float(), dim=0).min() >= MIN_COSINE
        # bfloat16 keeps 8 bits: measured 0.9998 with trained weights (lite-ct)
        assert F.cosine_similarity(a.vectors.float(), b.vectors.float(), dim=0).min() >= 0.999


def test_feature_voxels_sit_at_the_centers_of_what_they_cover():
    emb = small_model().embed(torso())
    for head, stride in ((emb.fine, 2), (emb.coarse, 4), (emb.semantic, 2)):
        k = np.array([[0, 0, 0], [3, 1, 2]])
        np.testing.assert_allclose(head.grid.to_lps(k), emb.input_grid.to_lps(k * stride + (stride - 1) / 2), atol=1e-9)


def test_storage_order_of_the_volume_changes_neither_vectors_nor_places():
    """The same patient stored front to back, right to left, sagittal: an identical embedding in the world."""
    volume = torso((40, 36, 44))
    flipped_k_and_i = np.diag([-1.0, 1.0, -1.0, 1.0])
    flipped_k_and_i[:3, 3] = (43, 0, 39)
    permuted = np.eye(4)[[2, 0, 1, 3]]  # new ijk = old (j, k, i)
    stored = np.ascontiguousarray(volume.array[::-1, :, ::-1].transpose(2, 0, 1))
    other = dataclasses.replace(volume, array=stored, ijk_to_lps=volume.ijk_to_lps @ flipped_k_and_i @ permuted)
    k, j, i = 11, 7, 5  # one voxel of the new array, told through both geometries
    np.testing.assert_allclose(
        other.grid.to_lps(np.array([i, j, k])), volume.grid.to_lps(np.array([43 - k, i, 39 - j])), atol=1e-9
    )
    assert stored[k, j, i] == volume.array[39 - j, i, 43 - k]
    model = small_model()
    a, b = model.embed(volume), model.embed(other)
    np.testing.assert_allclose(a.fine.grid.ijk_to_lps, b.fine.grid.ijk_to_lps, atol=1e-9)
    assert torch.equal(a.fine.vectors, b.fine.vectors)
    assert torch.equal(a.coarse.vectors, b.coarse.vectors)
    np.testing.assert_array_equal(a.body, b.body)


def test_the_embedding_tells_what_it_was_made_from():
    volume = torso()
    emb = small_model().embed(volume)
    assert (emb.modality, emb.model, emb.model_sha256) == ("ct", "lite-test", "5a" * 32)
    assert emb.head_weights == {"fine": 0.5, "coarse": 0.25, "semantic": 0.25}
    assert emb.source == volume.source
    assert emb.volume_grid.shape_zyx == volume.array.shape
    assert emb.body.dtype == bool and emb.body.shape == emb.fine.grid.shape_zyx
    assert 0.2 < emb.body.mean() < 0.8
    assert emb.warnings == ()


def test_vectors_may_enter_a_computation_with_gradients():
    scale = torch.ones(1, requires_grad=True)
    (small_model().embed(torso()).fine.vectors.float() * scale).sum().backward()
    assert scale.grad is not None


def test_a_modality_that_the_model_does_not_know_is_a_warning():
    emb = small_model().embed(torso(), "mr")
    assert any("not trained on MR" in warning for warning in emb.warnings)


def test_progress_is_monotone_and_names_the_volume(monkeypatch):
    thinnest_slabs(monkeypatch)
    told: List[Tuple[float, str]] = []
    small_model().embed(torso(), progress=lambda fraction, text: told.append((fraction, text)))
    fractions = [fraction for fraction, _ in told]
    assert fractions[0] == 0 and fractions[-1] == 1
    assert fractions == sorted(fractions)
    assert all(text.startswith("Embedding torso.nii.gz: ") for _, text in told)
    assert any("slab 3 of 5" in text for _, text in told)


def test_cancelling_at_any_moment_leaves_nothing(monkeypatch, tmp_path):
    thinnest_slabs(monkeypatch)
    model, cache = small_model(), Cache(tmp_path / "cache")
    calls: List[float] = []
    model.embed(torso(), progress=lambda fraction, _: calls.append(fraction))
    for stop_at in range(len(calls)):
        count, stop = iter(range(len(calls) + 2)), Cancelled("stopped by the test")

        def cancel(fraction: float, text: str, stop_at=stop_at, count=count, stop=stop) -> None:
            if next(count) == stop_at:
                raise stop

        with pytest.raises(Cancelled) as caught:
            model.embed(torso(), progress=cancel, cache=cache)
        assert caught.value is stop
        assert cache.entries() == []
    assert model.embed(torso()).fine.vectors.shape[0] == 16  # and the model still works


def test_cancelling_after_storing_keeps_a_whole_entry(tmp_path):
    cache = Cache(tmp_path)

    def cancel(fraction: float, text: str) -> None:
        if fraction == 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        small_model().embed(torso(), progress=cancel, cache=cache)
    assert len(cache.entries()) == 1
    assert small_model().embed(torso(), cache=cache).modality == "ct"


def test_a_limit_that_nothing_fits_names_both_figures():
    with pytest.raises(MemoryLimitError) as caught:
        small_model().embed(torso(), max_memory_gib=0.01)
    assert caught.value.cause.count("GiB") == 2
    assert caught.value.remedy
    assert caught.value.exit_code == 5


def test_when_memory_runs_out_on_the_way_thinner_slabs_are_tried(monkeypatch):
    net, tried, left_behind = small_lite(), [], []
    original = net.forward_in_slabs

    def hungry(x, slab_depth, progress, out_dtype):
        assert all(reference() is None for reference in left_behind), "the failed attempt still holds memory"
        activations = torch.zeros(100)
        left_behind.append(weakref.ref(activations))
        tried.append(slab_depth)
        if slab_depth > 16:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return original(x, slab_depth, progress, out_dtype)

    monkeypatch.setattr(net, "forward_in_slabs", hungry)
    told: List[float] = []
    emb = Model(net, model_info()).embed(torso(), progress=lambda fraction, _: told.append(fraction))
    assert tried == [40, 32, 24, 16]
    assert told == sorted(told)
    assert_equal(emb, small_model().embed(torso()))


@pytest.mark.parametrize(("room", "expected"), [(1.0, False), (3.0, True)])
def test_large_blocks_are_kept_only_where_there_is_room(monkeypatch, room, expected):
    model, used = small_model(), []
    needed = int(room * model._needed_bytes((40, 36, 44), 40))

    @contextlib.contextmanager
    def noticed():
        used.append(True)
        yield

    monkeypatch.setattr(memory, "reuse_large_blocks", noticed)
    monkeypatch.setattr(memory, "budget", lambda *_: memory.Budget(needed, needed))
    model.embed(torso())
    assert bool(used) is expected


def test_when_memory_runs_out_for_every_slab(monkeypatch):
    net = small_lite()

    def starved(*args):
        raise MemoryError

    monkeypatch.setattr(net, "forward_in_slabs", starved)
    with pytest.raises(MemoryLimitError):
        Model(net, model_info()).embed(torso())


def test_other_errors_of_the_network_are_not_taken_for_lack_of_memory(monkeypatch):
    net = small_lite()

    def broken(*args):
        raise RuntimeError("size mismatch")

    monkeypatch.setattr(net, "forward_in_slabs", broken)
    with pytest.raises(RuntimeError, match="size mismatch"):
        Model(net, model_info()).embed(torso())


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "int8"},
        {"precision": "fp16"},
        {"modality": "pet"},
        {"max_memory_gib": 0},
        {"max_memory_gib": -1},
    ],
)
def test_options_that_make_no_sense(options):
    with pytest.raises(UsageError):
        small_model().embed(torso(), **options)


def test_a_volume_of_one_thin_slice():
    thin = Volume(torso().array[:2], np.diag([2.0, 2.0, 0.5, 1.0]), "thin.nrrd")
    with pytest.raises(InputError):
        small_model().embed(thin, "ct")


def test_weights_that_are_not_finite():
    net = small_lite()
    with torch.no_grad():
        net.fine_head.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        Model(net, model_info()).embed(torso())


def test_the_number_of_threads_is_left_alone():
    before = torch.get_num_threads()
    small_model().embed(torso())
    assert torch.get_num_threads() == before


# With a cache: found by content, told as what was asked for, and never in the way


def counting_model(monkeypatch, **info) -> Tuple[Model, List[int]]:
    net, runs = small_lite(), []
    original = net.forward_in_slabs

    def counted(*args):
        runs.append(1)
        return original(*args)

    monkeypatch.setattr(net, "forward_in_slabs", counted)
    return Model(net, model_info(**info)), runs


def as_kept(emb):
    """An embedding as the cache keeps it: nothing of the air around the patient."""
    kept = np.zeros(emb.body.size, dtype=bool)
    kept[with_shell(emb.body)[1]] = True

    def head(one):
        on_body = one is not None and one.grid.shape_zyx == emb.body.shape
        inside = torch.from_numpy(kept.reshape(emb.body.shape))
        return dataclasses.replace(one, vectors=one.vectors * inside) if on_body else one

    return dataclasses.replace(emb, fine=head(emb.fine), coarse=head(emb.coarse), semantic=head(emb.semantic))


def test_the_second_time_the_network_does_not_run(monkeypatch, tmp_path):
    model, runs = counting_model(monkeypatch)
    first = model.embed(torso(), cache=Cache(tmp_path))
    second = model.embed(torso(), cache=Cache(tmp_path))
    assert len(runs) == 1
    assert_equal(as_kept(first), second)


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
    assert_equal(as_kept(model.embed(torso(), cache=Cache(tmp_path))), as_kept(first))
    assert_equal(model.embed(torso(), cache=Cache(tmp_path)), as_kept(first))
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
