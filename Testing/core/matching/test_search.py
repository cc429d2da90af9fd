"""The search returns what a full comparison returns, in balls too, and keeps nothing alive."""

import dataclasses
import gc
import threading
import weakref

import numpy as np
import pytest
import torch

from SAMv2Core.embedding.embedding import Embedding, FeatureMap
from SAMv2Core.errors import Cancelled, InputError, ModelError
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.matching import search as search_module
from SAMv2Core.matching.search import Expectation, build_index, release_index, search, search_index, search_near
from SAMv2Core.matching.similarity import joint_vectors
from Testing.samples.synthetic_embeddings import AnatomyField, lattice, synthetic_embedding


def white_noise(seed=0, channels=24, shape=(14, 13, 12)):
    """Vectors without any structure."""
    grid = Grid((28, 26, 24), np.diag([2.0, 2.0, 2.0, 1.0])).strided((2, 2, 2), shape)
    vectors = torch.randn((channels, *shape), generator=torch.Generator().manual_seed(seed))
    head = FeatureMap("fine", torch.nn.functional.normalize(vectors, dim=0).half(), grid)
    coarse = FeatureMap("coarse", head.vectors, grid)
    body = np.random.default_rng(seed).uniform(size=shape) < 0.7
    return Embedding(head, coarse, None, body, grid, grid, "ct", "noise", "0")


def smooth(seed=0):
    return synthetic_embedding(AnatomyField(seed), lattice((200, 160, 160)), noise=0.3, seed=seed)


def brute_force(index, vectors, away=None, radius_mm=0.0):
    similarity = vectors @ index.vectors(np.arange(index.n_body)).T
    if away is not None:
        points = index.points_lps(np.arange(index.n_body))
        near = np.linalg.norm(points[None] - away[:, None], axis=2) <= radius_mm
        similarity[torch.from_numpy(near)] = -2
    return similarity.max(dim=1)


@pytest.mark.parametrize("emb", [white_noise(), smooth()], ids=["noise", "smooth"])
@pytest.mark.parametrize("n_points", [1, 5, 300])
@pytest.mark.parametrize("radius_mm", [None, 20.0])
def test_equals_a_full_comparison(emb, n_points, radius_mm):
    index = build_index(emb)
    rng = np.random.default_rng(1)
    vectors = torch.nn.functional.normalize(
        torch.from_numpy(rng.standard_normal((n_points, index.rows.shape[1]))), dim=1
    )
    vectors = vectors.float()
    vectors[::2] = joint_vectors(emb, index.points_lps(rng.integers(0, index.n_body, len(vectors[::2]))) + 1.0)
    away = None if radius_mm is None else index.points_lps(rng.integers(0, index.n_body, n_points))
    rows, similarity = search(index, vectors, away, radius_mm or 0.0)
    expected, expected_rows = brute_force(index, vectors, away, radius_mm or 0.0)
    np.testing.assert_allclose(similarity, expected, atol=1e-5)
    assert np.mean(rows == expected_rows.numpy()) > 0.99  # ties within float32 rounding may differ


def test_only_body_voxels_are_found_and_shell_voxels_are_kept_for_refinement():
    emb = white_noise()
    index = build_index(emb)
    assert index.n_body == emb.body.sum()
    assert np.all(emb.body.ravel()[index.voxels[: index.n_body]])
    outside = np.argwhere(~emb.body)[0][::-1]
    assert index.rows_at(outside) == -1
    row = index.rows_at(outside, body_only=False)
    assert row >= index.n_body and np.array_equal(index.ijk(row), outside)
    assert index.rows_at(np.array([-1, 0, 0]), body_only=False) == -1


def test_rows_and_voxels_name_each_other():
    index = build_index(white_noise())
    rows = np.arange(index.n_body)
    np.testing.assert_array_equal(index.rows_at(index.ijk(rows)), rows)
    np.testing.assert_allclose(index.grid.to_ijk(index.points_lps(rows)), index.ijk(rows), atol=1e-9)


def test_a_ball_is_the_body_within_a_radius():
    index = build_index(smooth())
    center = index.points_lps(np.array([index.n_body // 2]))[0] + 1.3
    points = index.points_lps(np.arange(index.n_body))
    ball = index.ball(center, 25.0)
    np.testing.assert_array_equal(ball.rows, np.flatnonzero(np.linalg.norm(points - center, axis=1) <= 25.0))
    np.testing.assert_array_equal(ball.points_lps, points[ball.rows])
    assert len(index.ball(center + 1e4, 25.0).rows) == 0


def test_near_the_expected_places_it_is_a_comparison_within_the_ball():
    index = build_index(smooth())
    rng = np.random.default_rng(2)
    places = index.points_lps(rng.integers(0, index.n_body, 6))
    places[5] += 1e4
    expected = Expectation(places, np.full(6, 1e-4))
    vectors = index.vectors(rng.integers(0, index.n_body, 6))
    rows, values = search_near(index, vectors, expected, 30.0)
    points = index.points_lps(np.arange(index.n_body))
    for n in range(5):
        away = np.linalg.norm(points - places[n], axis=1)
        similarity = (index.vectors(np.arange(index.n_body)) @ vectors[n]).numpy() - 1e-4 * away**2
        similarity[away > 30.0] = -np.inf
        assert rows[n] == similarity.argmax() and values[n] == pytest.approx(similarity.max(), abs=1e-5)
    assert rows[5] == -1 and values[5] == -1


def test_no_candidate_left():
    index = build_index(white_noise())
    rows, similarity = search(index, index.vectors(np.array([3])), np.zeros((1, 3)), 1e6)
    assert rows[0] == -1 and similarity[0] == -1


def test_memory_is_as_documented():
    index = build_index(smooth())
    n_rows, length = index.rows.shape
    assert index.rows.dtype == torch.float16
    assert index.nbytes <= n_rows * (2 * length + 8) + 4 * index.grid.n_voxels


def test_a_ready_index_does_not_wait_for_another(monkeypatch):
    """While one index is being built, which takes its time, another one is handed out."""
    ready, slow = white_noise(0), white_noise(1)
    index = search_index(ready)
    building, go_on = threading.Event(), threading.Event()
    original = search_module.build_index

    def held_up(emb):
        building.set()
        assert go_on.wait(60)
        return original(emb)

    monkeypatch.setattr(search_module, "build_index", held_up)
    found = []
    threads = [threading.Thread(target=lambda: found.append(search_index(slow))) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert building.wait(60)
    assert search_index(ready) is index
    go_on.set()
    for thread in threads:
        thread.join()
    assert found[0] is found[1], "built once"


def test_an_index_is_built_once_and_dies_with_its_embedding():
    emb = white_noise()
    index = search_index(emb)
    assert search_index(emb) is index
    release_index(emb)
    assert search_index(emb) is not index
    alive = weakref.ref(search_index(emb))
    del emb, index
    gc.collect()
    assert alive() is None


def test_progress_may_cancel():
    def stop(fraction, text):
        raise Cancelled()

    index = build_index(white_noise())
    with pytest.raises(Cancelled):
        search(index, index.vectors(np.arange(3)), progress=stop)


def test_bad_embeddings_are_refused():
    emb = white_noise()
    with pytest.raises(InputError, match="No body"):
        build_index(dataclasses.replace(emb, body=np.zeros_like(emb.body)))
    with pytest.raises(InputError, match="shape"):
        build_index(dataclasses.replace(emb, body=emb.body[1:]))
    broken = emb.fine.vectors.clone()
    broken[0, 4, 4, 4] = float("nan")
    body = np.ones_like(emb.body)
    with pytest.raises(ModelError, match="no numbers"):
        build_index(dataclasses.replace(emb, fine=FeatureMap("fine", broken, emb.fine.grid), body=body))
