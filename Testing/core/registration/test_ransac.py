"""Robust estimation: survives 70 % wrong matches, tells when nothing is to be found, is deterministic."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from SAMv2Core.geometry.grid import transform_points
from SAMv2Core.registration.least_squares import fit, residuals_mm
from SAMv2Core.registration.ransac import ransac, refine


def scene(kind, seed, n=300, wrong=0.7, noise_mm=3.0, box=(320, 220, 300)):
    """Pairs of points of a torso-sized box; the wrong ones go anywhere in the moved box."""
    rng = np.random.default_rng(seed)
    source = rng.uniform(-0.5, 0.5, (n, 3)) * box
    truth = np.eye(4)
    truth[:3, :3] = Rotation.random(random_state=seed).as_matrix()  # up to 180 degrees
    if kind != "rigid":
        truth[:3, :3] *= rng.uniform(0.8, 1.2)
    if kind == "affine":
        truth[:3, :3] = truth[:3, :3] @ (np.eye(3) + rng.uniform(-0.1, 0.1, (3, 3)))
    truth[:3, 3] = rng.uniform(-200, 200, 3)
    target = transform_points(truth, source) + rng.normal(0, noise_mm, (n, 3))
    lost = rng.permutation(n)[: int(wrong * n)]
    target[lost] = transform_points(truth, rng.uniform(-0.5, 0.5, (len(lost), 3)) * box)
    good = np.ones(n, dtype=bool)
    good[lost] = False
    return source, target, truth, good


@pytest.mark.parametrize("kind", ["rigid", "similarity", "affine"])
@pytest.mark.parametrize("seed", range(5))
def test_seventy_percent_wrong_matches_among_300_are_survived(kind, seed):
    source, target, truth, good = scene(kind, seed)
    found = ransac(kind, source, target, threshold_mm=12.0, seed=seed)
    matrix = refine(kind, source[found.inliers], target[found.inliers], found.matrix)
    # 90 pairs with 3 mm noise per axis: errors of 3 * sqrt(6 / 90) = 0.8 mm in the middle, more at corners
    assert residuals_mm(matrix, source, transform_points(truth, source)).max() < 4.0
    assert found.inliers[good].mean() > 0.95
    assert found.inliers[~good].mean() < 0.05
    assert found.undetermined == ()


def test_the_same_seed_gives_the_same_answer():
    source, target, _, _ = scene("rigid", 1)
    first, again = (ransac("rigid", source, target, 12.0, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.matrix, again.matrix)


def test_noise_explains_few_pairs():
    rng = np.random.default_rng(0)
    source, target = rng.uniform(-150, 150, (2, 300, 3))
    found = ransac("rigid", source, target, 12.0)
    assert found is None or found.inliers.mean() < 0.06


def test_trust_in_matches_guides_the_search():
    source, target, truth, good = scene("rigid", 4, wrong=0.93)
    weights = np.where(good, 1.0, 0.1)
    found = ransac("rigid", source, target, 12.0, weights=weights)
    assert residuals_mm(found.matrix, source, transform_points(truth, source)).max() < 12.0
    none = ransac("rigid", source, target, 12.0, weights=np.where(np.arange(300) < 2, 1.0, 0.0))
    assert none is None  # two usable pairs are too few


def test_too_few_pairs_give_none():
    assert ransac("affine", np.eye(3), np.eye(3), 5.0) is None


@pytest.mark.parametrize("kind", ["rigid", "similarity", "affine"])
def test_refinement_shrugs_off_moderate_outliers(kind):
    source, target, truth, _ = scene(kind, 7, wrong=0.0)
    target[:45] += np.random.default_rng(1).normal(0, 25, (45, 3)) + 25  # 15 %, all to one side
    plain = fit(kind, source, target)
    start = ransac(kind, source, target, 12.0).matrix
    found = refine(kind, source, target, start)
    moved = transform_points(truth, source)
    assert residuals_mm(found, source, moved).mean() < 0.5 * residuals_mm(plain, source, moved).mean()


def test_refinement_of_perfect_pairs_stays_perfect():
    source, target, truth, _ = scene("rigid", 2, wrong=0.0, noise_mm=0.0)
    np.testing.assert_allclose(refine("rigid", source, target, truth), truth, atol=1e-8)


def test_collinear_inliers_are_reported():
    rng = np.random.default_rng(5)
    source = np.linspace(-200, 200, 60)[:, None] * np.array([[0.0, 0.0, 1.0]])
    target = source[rng.permutation(60)] + np.array([300, 0, 0])
    target[:40] = source[:40] + np.array([0, 0, 50])
    found = ransac("rigid", source, target, 5.0)
    assert found is not None and "line" in found.undetermined[0]
