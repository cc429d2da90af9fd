"""Maps between patients: recovered from matches of which many are wrong, and silent where nothing supports them."""

import numpy as np
import torch
from scipy.ndimage import map_coordinates

from Training.patients.cross_map import LATTICE_MM, fit_cross_map
from Training.patients.link import DISSIMILAR, NO_COMMON, TOO_FEW, Embedded, expected, left_out_errors, link

SHAPE_ZYX = (16, 14, 20)


def true_map(points):
    """A body of another size, posture and shape: affine plus a smooth 12 mm deformation."""
    affine = np.array([[1.1, 0.05, 0], [-0.04, 0.92, 0.03], [0, 0.02, 1.05]])
    wave = 12 * np.stack([np.sin(points[:, 2] / 60), np.cos(points[:, 0] / 70), np.sin(points[:, 1] / 50)], 1)
    return points @ affine.T + [30, -20, 55] + wave


def noisy_matches(n, outliers, seed):
    rng = np.random.default_rng(seed)
    extent = (np.array(SHAPE_ZYX)[::-1] - 1) * LATTICE_MM
    points = rng.uniform(0, 1, (n, 3)) * extent
    matched = true_map(points) + rng.normal(0, 4, (n, 3))
    wrong = rng.random(n) < outliers
    matched[wrong] = rng.uniform(0, 1, (int(wrong.sum()), 3)) * extent * 1.2
    return points, matched


def error_at(cross_map, points):
    lattice = (points / LATTICE_MM)[:, ::-1].T
    moved = np.stack([map_coordinates(cross_map.target[..., a], lattice, order=1) for a in range(3)], 1)
    return np.linalg.norm(moved - true_map(points), axis=1)


def test_recovers_a_smooth_map_from_matches_of_which_40_percent_are_wrong():
    points, matched = noisy_matches(900, 0.4, seed=0)
    cross_map = fit_cross_map(points, matched, np.ones(len(points)), SHAPE_ZYX)
    assert cross_map is not None
    inner = points[np.all((points > 24) & (points < points.max(0) - 24), axis=1)]
    errors = error_at(cross_map, inner)
    assert np.median(errors) < 4 and np.percentile(errors, 95) < 10
    assert cross_map.residual_mm < 10


def test_does_not_trust_places_without_matches():
    points, matched = noisy_matches(900, 0.2, seed=1)
    lower = points[:, 2] < 100
    cross_map = fit_cross_map(points[lower], matched[lower], np.ones(int(lower.sum())), SHAPE_ZYX)
    assert cross_map is not None
    assert (cross_map.support[-3:] < 1).all()
    assert (cross_map.support[2:4, 3:-3, 3:-3] >= 1).mean() > 0.8


def test_random_matches_give_no_trusted_map():
    points, matched = noisy_matches(600, 1.0, seed=2)
    cross_map = fit_cross_map(points, matched, np.ones(len(points)), SHAPE_ZYX)
    assert cross_map is None or (cross_map.support >= 1).mean() < 0.1


def test_too_few_matches_give_no_map():
    points, matched = noisy_matches(30, 0.0, seed=3)
    assert fit_cross_map(points, matched, np.ones(30), SHAPE_ZYX) is None


def test_known_pairs_are_kept_whatever_the_matches_say():
    points, matched = noisy_matches(900, 0.2, seed=4)
    place = np.array([[120.0, 100.0, 110.0]])
    away = true_map(place) + [60.0, 0.0, 0.0]  # farther than matches may lie from what their neighbors say
    weights = np.r_[np.ones(len(points)), 50.0]
    sides = np.r_[points, place], np.r_[matched, away]
    free, fixed = (fit_cross_map(*sides, weights, SHAPE_ZYX, n_fixed=n) for n in (0, 1))
    assert error_at(free, place)[0] < 10
    assert np.linalg.norm(error_at(fixed, place)[0]) > 25


def test_the_stretch_is_that_of_the_affine_part():
    points = noisy_matches(900, 0.0, seed=5)[0]
    cross_map = fit_cross_map(points, points * [1.0, 0.8, 1.3], np.ones(len(points)), SHAPE_ZYX)
    assert np.allclose(cross_map.stretch, (0.8, 1.3), atol=0.05)  # drawn weakly to 1


def scans(shift, names_a, names_b, seed_b=0):
    """Two scans of the same vectors (or of others), the second one moved, with known points of these names."""
    grid = np.stack(np.meshgrid(*[np.arange(0, 160, 8.0)] * 3, indexing="ij")[::-1], -1).reshape(-1, 3)
    vectors = [
        torch.nn.functional.normalize(
            torch.randn(len(grid), 32, generator=torch.Generator().manual_seed(seed)), dim=1
        ).bfloat16()
        for seed in (0, seed_b)
    ]
    places = {
        "vertebra_T8": [80, 70, 60],
        "carina": [40, 90, 60],
        "celiac_origin": [100, 30, 120],
        "sma_origin": [20, 20, 20],
    }
    known = {name: np.array(place, dtype=float) for name, place in places.items()}
    a = Embedded(vectors[0], grid, (11, 11, 11), {name: known[name] for name in names_a})
    b = Embedded(vectors[1], grid + shift, (11, 11, 11), {name: known[name] + shift for name in names_b})
    return a, b


ALL = ("vertebra_T8", "carina", "celiac_origin", "sma_origin")
SHIFT = np.array([20.0, 10.0, -30.0])


def test_link_finds_the_shift_between_two_scans_with_the_same_vectors():
    sides = scans(SHIFT, ALL, ALL)
    cross_map, verdict = link(*sides, np.random.default_rng(0))
    assert verdict == "kept" and cross_map.n_matches > 900
    errors = left_out_errors(*sides, np.random.default_rng(0))
    assert len(errors) == 4 and max(errors) < 1.0


def test_scans_that_share_too_few_known_points_get_no_map_though_every_match_agrees():
    assert link(*scans(SHIFT, ALL[:2], ALL), np.random.default_rng(0)) == (None, NO_COMMON)
    assert link(*scans(SHIFT, ALL[:3], ALL[1:]), np.random.default_rng(0)) == (None, NO_COMMON)
    assert link(*scans(SHIFT, ALL[:3], ALL), np.random.default_rng(0)).verdict == "kept"


def test_domes_are_no_anchors():
    a, b = scans(SHIFT, ALL[:2], ALL[:2])
    for side in (a, b):
        side.known.update(dome_left=np.zeros(3), dome_right=np.ones(3), liver_dome=np.ones(3))
    assert link(a, b, np.random.default_rng(0)).verdict == NO_COMMON


def test_without_known_points_matches_must_be_similar():
    assert link(*scans(SHIFT, (), ()), np.random.default_rng(0)).verdict == "kept"
    assert link(*scans(SHIFT, (), (), seed_b=1), np.random.default_rng(0)).verdict in (DISSIMILAR, TOO_FEW)


def test_a_match_counts_only_near_where_the_anchors_expect_it():
    anchors = np.array([[0.0, 0, 0], [100, 0, 0], [0, 100, 0]])
    places, reach = expected(np.array([[50.0, 0, 0], [0, 0, 100.0], [0, 0, 400.0]]), anchors, anchors * 1.2 + 7)
    assert np.allclose(places[0], [67, 7, 7], atol=1e-6)
    assert reach.tolist() == [40 + 0.25 * 50, 40 + 0.25 * 100, 0.0]
