"""The expectation of where a body lies in another: found despite wrong matches, silent without, and heeded."""

import dataclasses
import gc

import numpy as np
import pytest
import torch

from SAMv2Core.matching import body_map as body_map_module
from SAMv2Core.matching.body_map import FLOOR_MM, body_map, body_maps, fit_body_map, kernel_regression, robust_affine
from SAMv2Core.matching.match import match
from SAMv2Core.matching.search import Expectation, build_index, search
from Testing.samples.synthetic_embeddings import AnatomyField, lattice, matrix_map, synthetic_embedding

SHIFT = np.array([14.0, -6.0, 22.0])


def bent(points):
    """Another posture: turned, stretched, and bent by 10 mm."""
    affine = np.array([[1.05, 0.04, 0], [-0.05, 0.95, 0.02], [0, 0.01, 1.04]])
    return points @ affine.T + SHIFT + 10 * np.sin(points[:, [2, 0, 1]] / 70)


def pairs(n, wrong, seed=0):
    rng = np.random.default_rng(seed)
    source = rng.uniform([-150, -100, -300], [150, 100, 300], (n, 3))
    target = bent(source) + rng.normal(0, 4, (n, 3))
    bad = rng.random(n) < wrong
    target[bad] = rng.uniform([-150, -100, -300], [150, 100, 300], (int(bad.sum()), 3))
    return source, target


@pytest.mark.parametrize("wrong", [0.0, 0.4])
def test_a_bent_body_is_found_among_wrong_matches(wrong):
    source, target = pairs(900, wrong)
    found = fit_body_map(source, target, np.ones(len(source)))
    inner = np.random.default_rng(1).uniform([-110, -70, -250], [110, 70, 250], (200, 3))
    places, spread = found.predict(inner)
    # The kernel of 32 mm smooths a bend of 10 mm over 70 mm by a few mm.
    errors = np.linalg.norm(places - bent(inner), axis=1)
    assert np.median(errors) < 5 and np.percentile(errors, 95) < 12
    assert np.all(spread >= FLOOR_MM) and np.mean(errors <= 2 * spread) > 0.95


def test_roughness_is_how_far_matches_lie_from_a_smooth_map():
    rng = np.random.default_rng(3)
    source = rng.uniform(-100, 100, (600, 3))
    rough = [fit_body_map(source, source + rng.normal(0, mm, (600, 3)), np.ones(600)).roughness_mm for mm in (2, 6)]
    # the length of three normal components has a median of 1.54 deviations; the neighbors' mean adds a little
    np.testing.assert_allclose(rough, [1.6 * 2, 1.6 * 6], rtol=0.15)


def test_a_rough_map_and_one_of_dissimilar_places_are_less_alike():
    rng = np.random.default_rng(3)
    source = rng.uniform(-100, 100, (600, 3))

    def likeness(mm, cosine):
        return fit_body_map(source, source + rng.normal(0, mm, (600, 3)), np.full(600, cosine)).likeness

    assert likeness(2, 0.8) > likeness(6, 0.8) > likeness(6, 0.7)
    assert likeness(6, 0.8) == pytest.approx(0.8 - 0.02 * (9.6 - 10), abs=0.03)


def test_bodies_less_alike_than_the_model_asks_for_have_no_map():
    emb, other = (synthetic_embedding(AnatomyField(0), lattice(), noise=0.3, seed=seed) for seed in (0, 1))
    likeness = min(one.likeness for one in body_maps(emb, other))
    for asked, is_map in ((likeness - 0.01, True), (likeness + 0.01, False)):
        strict = dataclasses.replace(other, calibration={"map_likeness": asked})
        assert all((one is not None) == is_map for one in body_maps(emb, strict))


def test_the_spread_grows_where_nothing_supports_the_map():
    source, target = pairs(900, 0.0)
    upper = source[:, 2] > 0
    found = fit_body_map(source[upper], target[upper], np.ones(int(upper.sum())))
    _, spread = found.predict(np.array([[0.0, 0, 150], [0.0, 0, -100], [0.0, 0, -250]]))
    assert spread[0] < 30 < spread[1] < spread[2]


@pytest.mark.parametrize("n, wrong", [(30, 0.0), (600, 1.0)], ids=["few", "random"])
def test_without_agreement_there_is_no_map(n, wrong):
    source, target = pairs(n, wrong, seed=2)
    assert fit_body_map(source, target, np.ones(n)) is None


def test_a_third_of_outliers_does_not_move_the_affine():
    source, target = pairs(900, 0.0)
    clean = robust_affine(source, target, np.ones(900))
    target[::3] += [200, -100, 150]
    moved = np.column_stack([source, np.ones(900)]) @ (robust_affine(source, target, np.ones(900)) - clean)
    assert np.abs(moved).max() < 6


def test_far_from_all_points_the_nearest_decide():
    points = np.array([[0.0, 0, 0], [1000.0, 0, 0]])
    values = np.array([[1.0], [5.0]])
    mean, support = kernel_regression(points, values, np.ones(2), np.array([[400.0, 0, 0], [5000.0, 0, 0]]))
    assert mean[0, 0] == pytest.approx(1.0) and mean[1, 0] == pytest.approx(5.0) and np.all(support < 1e-6)


def embeddings():
    """One anatomy in two scans on different lattices; a block of the template looks like another place."""
    field = AnatomyField(3)
    move = np.eye(4)
    move[:3, 3] = SHIFT
    template = synthetic_embedding(field, lattice((300, 200, 400), 6.0), noise=0.3, seed=1)
    query = synthetic_embedding(
        field, lattice((300, 200, 400), 6.0, tuple(SHIFT), left_handed=True), matrix_map(np.linalg.inv(move)), noise=0.3
    )
    return template, query


def test_maps_of_two_embeddings_lead_there_and_back_and_die_with_them():
    template, query = embeddings()
    there, back = body_maps(template, query)
    points = np.random.default_rng(0).uniform([-80, -50, -120], [80, 50, 120], (50, 3))
    assert np.linalg.norm(there.predict(points)[0] - points - SHIFT, axis=1).max() < 8
    assert np.linalg.norm(back.predict(points + SHIFT)[0] - points, axis=1).max() < 8
    assert body_map(template, query) is there
    again = body_map_module._make_maps(build_index(template), build_index(query), seed=0)[0]
    np.testing.assert_array_equal(again.source_lps, there.source_lps)
    other = body_map(template, query, seed=1)
    assert other is not there, "another seed is another map"
    kept = len(body_map_module._MAPS)
    del template
    gc.collect()
    assert len(body_map_module._MAPS) == kept - 2


def test_an_expected_search_equals_a_full_comparison():
    index = build_index(embeddings()[0])
    rng = np.random.default_rng(4)
    vectors = torch.nn.functional.normalize(torch.randn((60, index.rows.shape[1]), generator=torch.Generator()), dim=1)
    expected = Expectation(rng.uniform(-150, 150, (60, 3)), rng.uniform(0, 2e-4, 60))
    rows, values = search(index, vectors, expected=expected)
    points = index.points_lps(np.arange(index.n_body))
    far = np.square(points[None] - expected.places_lps[:, None]).sum(axis=2)
    full = (vectors @ index.vectors(np.arange(index.n_body)).T).numpy() - expected.stiffness[:, None] * far
    np.testing.assert_allclose(values, full.max(axis=1), atol=1e-4)
    assert np.mean(rows == full.argmax(axis=1)) > 0.95


def test_a_twin_at_the_wrong_end_of_the_body_no_longer_wins():
    """The point's vector is mostly that of a place 150 mm away: plain search goes there, the expecting one does not."""
    template, query = embeddings()
    grid = template.fine.grid
    here, twin = np.array([10.0, 5.0, -80.0]), np.array([10.0, 5.0, 70.0])
    for head in (template.fine, template.coarse):
        i, j, k = np.rint(head.grid.to_ijk(here)).astype(int)
        a, b, c = np.rint(head.grid.to_ijk(twin)).astype(int)
        block = head.vectors[:, c - 2 : c + 3, b - 2 : b + 3, a - 2 : a + 3].clone()
        mine = head.vectors[:, k - 2 : k + 3, j - 2 : j + 3, i - 2 : i + 3]
        # Two thirds twin, one third truth: ambiguous, with the twin ahead.
        mixed = 0.55 * block.float() + 0.45 * mine.float()
        mine.copy_(torch.nn.functional.normalize(mixed, dim=0).half())
    assert grid.contains(here[None])[0]
    plain, expecting = (match(template, query, [here], "nearest", expect=e)[0].candidate_lps for e in (False, True))
    assert np.linalg.norm(plain - twin - SHIFT) < 25
    assert np.linalg.norm(expecting - here - SHIFT) < 25
