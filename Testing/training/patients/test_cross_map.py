"""Maps between patients: recovered from matches of which many are wrong, and silent where nothing supports them."""

import numpy as np
import torch
from scipy.ndimage import map_coordinates

from Training.patients.cross_map import LATTICE_MM, fit_cross_map
from Training.patients.link import Embedded, link

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


def test_link_finds_the_shift_between_two_scans_with_the_same_vectors():
    grid = np.stack(np.meshgrid(*[np.arange(0, 160, 8.0)] * 3, indexing="ij")[::-1], -1).reshape(-1, 3)
    vectors = torch.nn.functional.normalize(
        torch.randn(len(grid), 32, generator=torch.Generator().manual_seed(0)), dim=1
    )
    shift = np.array([20.0, 10.0, -30.0])
    known = {"here": np.array([80.0, 70.0, 60.0])}
    a = Embedded(vectors.bfloat16(), grid, (11, 11, 11), known)
    b = Embedded(vectors.bfloat16(), grid + shift, (11, 11, 11), {"here": known["here"] + shift})
    cross_map, errors = link(a, b, np.random.default_rng(0))
    assert cross_map is not None and cross_map.n_matches > 900
    assert len(errors) == 1 and errors[0] < 1.0
