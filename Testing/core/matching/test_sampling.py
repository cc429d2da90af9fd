"""Points spread over a body: as many as asked for, evenly, everywhere, the same every time."""

import numpy as np
from scipy.spatial import cKDTree

from SAMv2Core.matching.sampling import body_points, spread_points
from Testing.samples.synthetic_embeddings import AnatomyField, lattice, synthetic_embedding, trunk


def cloud(n=20000, seed=0):
    points = np.random.default_rng(seed).uniform(-150, 150, (n, 3))
    return points[trunk(points)]


def test_about_as_many_as_asked_for_and_all_when_there_are_fewer():
    candidates = cloud()
    for n in (50, 300, 1000):
        assert 0.85 * n <= len(spread_points(candidates, n, seed=1)) <= 1.15 * n
    assert len(spread_points(candidates[:30], 100, seed=1)) == 30
    kept = candidates[:, 2] > 0
    assert spread_points(candidates, 100, 1, kept)[:, 2].min() > 0


def test_they_are_candidates_spread_better_than_by_chance_and_reach_everywhere():
    candidates = cloud()
    chosen = spread_points(candidates, 400, seed=2)
    assert np.isin(chosen[:, 0], candidates[:, 0]).all()
    chance = candidates[np.random.default_rng(3).permutation(len(candidates))[:400]]

    def largest_hole(points):
        return np.percentile(cKDTree(points).query(candidates)[0], 99)

    assert largest_hole(chosen) < 0.85 * largest_hole(chance)


def test_the_same_seed_chooses_the_same_points():
    candidates = cloud()
    np.testing.assert_array_equal(spread_points(candidates, 200, 5), spread_points(candidates, 200, 5))
    assert not np.array_equal(spread_points(candidates, 200, 5)[:50], spread_points(candidates, 200, 6)[:50])


def test_body_points_are_the_body_voxels_in_world_coordinates():
    grid = lattice((120, 80, 64), 8.0, center_lps=(30, -40, 500), euler_deg=(10, 20, 30), left_handed=True)
    inverse = np.linalg.inv(grid.ijk_to_lps)
    emb = synthetic_embedding(AnatomyField(channels=4), grid, lambda p: p - np.array([30.0, -40, 500]))
    points = body_points(emb)
    assert len(points) == emb.body.sum() > 100
    assert trunk(points - np.array([30.0, -40, 500])).all()
    ijk = points @ inverse[:3, :3].T + inverse[:3, 3]
    np.testing.assert_allclose(ijk, np.round(ijk), atol=1e-9)
