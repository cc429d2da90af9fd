"""Matches of many points: right between different grids, restricted when asked, trusted by their way back."""

import functools

import numpy as np

from SAMv2Core.matching.nearest import Correspondences, correspond, correspond_nearby, match_nearby, match_nearest
from SAMv2Core.matching.sampling import body_points, spread_points
from Testing.samples.synthetic_embeddings import AnatomyField, lattice, matrix_map, synthetic_embedding

FIELD = AnatomyField(seed=2)
SHIFT = np.array([12.0, -7.0, 33.0])


@functools.cache
def pair():
    """Two volumes of one anatomy, the second shifted by SHIFT, on another grid."""
    moved = np.eye(4)
    moved[:3, 3] = -SHIFT
    grid = lattice((260, 340, 150), 7.0, tuple(SHIFT), euler_deg=(3, -4, 90), left_handed=True)
    a = synthetic_embedding(FIELD, lattice((320, 220, 200)), noise=0.2)
    return a, synthetic_embedding(FIELD, grid, matrix_map(moved), noise=0.2, seed=1)


def inner_points(n=150):
    a, _ = pair()
    points = body_points(a)
    return spread_points(points, n, 0, np.abs(points[:, 2]) < 40)


def test_nearest_matches_are_right_to_a_fraction_of_a_voxel():
    points = inner_points()
    found, similarity = match_nearest(*pair(), points)
    error = np.linalg.norm(found - points - SHIFT, axis=1)
    assert np.median(error) < 3.0  # voxels of 7 and 8 mm
    assert similarity.min() > 0.5


def test_nearby_finds_the_same_within_the_radius_and_nothing_without_a_body():
    points = inner_points()
    free, best = match_nearest(*pair(), points)
    near, similarity = match_nearby(*pair(), points, free + np.array([5.0, -5.0, 5.0]), 24.0)
    assert np.mean(np.linalg.norm(near - free, axis=1) < 0.1) > 0.97
    np.testing.assert_allclose(np.sort(similarity)[5:], np.sort(best)[5:], atol=5e-3)  # float16 rows
    lost, none = match_nearby(*pair(), points[:3], free[:3] + 4000.0, 24.0)
    assert np.isnan(lost).all() and np.all(none == -1)


def test_results_of_the_restricted_search_stay_within_the_radius():
    a, b = pair()
    points = inner_points(60)
    around = points + SHIFT + np.array([30.0, 0, 0])  # the right place lies outside
    found, _ = match_nearby(a, b, points, around, 20.0)
    hit = np.isfinite(found[:, 0])
    distance = np.linalg.norm(found - around, axis=1)[hit]
    assert hit.mean() > 0.7 and distance.max() < 20 + 2 * 7 * np.sqrt(3)  # rounded to voxels, plus sub-voxel


def test_the_way_back_tells_missing_anatomy():
    a, b = pair()
    points = spread_points(body_points(a), 300, 0)
    shown = b.volume_grid.contains(points + SHIFT, margin_voxels=-4)
    hidden = ~b.volume_grid.contains(points + SHIFT, margin_voxels=4)
    cycle = correspond(a, b, points).cycle_mm
    assert hidden.sum() > 10
    assert np.mean(cycle[shown] < 16) > 0.95
    assert np.median(cycle[hidden]) > 16


def test_points_without_body_at_their_prediction_are_dropped():
    points = inner_points(40)
    predicted = points + SHIFT
    predicted[:10] += 4000.0
    found = correspond_nearby(*pair(), points, predicted, 24.0)
    assert len(found.source_lps) == len(points) - 10
    assert np.median(found.cycle_mm) < 8


def test_trust_falls_with_the_cycle_and_rises_with_similarity():
    n = 5
    zeros = np.zeros((n, 3))
    by_cycle = Correspondences(zeros, zeros, np.full(n, 0.8), np.array([0.0, 4.0, 16.0, 40.0, np.inf]))
    weights = by_cycle.trust(8.0, 32.0) / np.linspace(0.25, 1.0, n)  # equal similarities are ranked in order
    assert np.all(np.diff(weights[:3]) < 0) and np.all(weights[3:] == 0)
    by_similarity = Correspondences(zeros, zeros, np.array([0.1, 0.9, 0.5, 0.3, 0.7]), np.zeros(n))
    np.testing.assert_array_equal(np.argsort(by_similarity.trust(8.0, 32.0)), [0, 3, 2, 4, 1])
