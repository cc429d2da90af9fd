"""Fixed points vote: the local affine fit, its guards, and the iteration on synthetic anatomy."""

import numpy as np
import pytest

from SAMv2Core.errors import Cancelled, UsageError
from SAMv2Core.geometry.grid import transform_points
from SAMv2Core.matching.fixed_point import FixedPointOptions, fixed_point_matches, local_affine, vote_of_pairs
from SAMv2Core.matching.search import build_index, search
from SAMv2Core.matching.similarity import joint_vectors
from SAMv2Core.matching.subvoxel import refine
from Testing.samples.synthetic_embeddings import AnatomyField, lattice, matrix_map, synthetic_embedding

OPTIONS = FixedPointOptions()
POINT = np.array([10.0, -20.0, 300.0])
# Turned by 6 degrees, stretched by 8 % along z, moved: an anatomical change between two visits.
MAP = np.eye(4)
MAP[:3, :3] = [[0.9945, -0.1045, 0], [0.1045, 0.9945, 0], [0, 0, 1.08]]
MAP[:3, 3] = [5, -12, 30]


def cloud(n=60, spread=8.0, seed=0):
    return POINT + np.random.default_rng(seed).normal(0, spread, (n, 3))


def truth(points=POINT):
    return transform_points(MAP, points)


def test_an_affine_map_is_recovered():
    pairs = cloud()
    found, residual = local_affine(POINT, pairs, truth(pairs), OPTIONS)
    # The prior on the linear part cannot move the point itself when pairs surround it evenly; it is 0.1 mm
    # here.
    assert np.linalg.norm(found - truth()) < 0.2 and residual < 0.5


def test_noise_is_averaged():
    pairs = cloud()
    noise = np.random.default_rng(1).normal(0, 2, pairs.shape)
    found, residual = local_affine(POINT, pairs, truth(pairs) + noise, OPTIONS)
    assert np.linalg.norm(found - truth()) < 1.0 and 1.5 < residual < 4.5


def test_a_fifth_of_outliers_is_ignored():
    pairs = cloud()
    ends = truth(pairs)
    ends[::5] += [60, 10, -30]
    result = vote_of_pairs(POINT, pairs, ends, OPTIONS)
    assert np.linalg.norm(result.query_lps - truth()) < 0.3
    assert result.fixed_points <= 48


@pytest.mark.parametrize("axes", [(1, 1, 0), (1, 0, 0), (0, 0, 0)], ids=["in a plane", "on a line", "at one place"])
def test_degenerate_clouds_end_in_a_translation(axes):
    pairs = POINT + (cloud() - POINT) * axes
    found, _ = local_affine(POINT, pairs, truth(pairs), OPTIONS)
    assert np.linalg.norm(found - truth()) < 0.3


def test_an_extrapolation_far_from_the_votes_is_no_result():
    # Pairs 20 mm to one side whose shifts grow by 1 mm per mm: a fit would throw the point by 20 mm.
    pairs = POINT + np.array([20.0, 0, 0]) + np.random.default_rng(0).normal(0, [2, 6, 6], (40, 3))
    ends = pairs + (pairs - POINT - [20, 0, 0]) * [4, 0, 0]
    options = FixedPointOptions(prior_strain=100.0)
    found, _ = local_affine(POINT, pairs, ends, options)
    assert np.linalg.norm(found - POINT) > 30
    assert vote_of_pairs(POINT, pairs, ends, options).query_lps is None


def test_the_largest_agreement_wins_not_the_median():
    """A third of the pairs is right; two wrong clusters lie on one side, so the median shift is wrong."""
    pairs = cloud(60)
    ends = truth(pairs)
    ends[20:39] += [0, 0, 35]
    ends[39:] += np.random.default_rng(1).uniform(20, 60, (21, 3))
    result = vote_of_pairs(POINT, pairs, ends, OPTIONS)
    assert np.linalg.norm(result.query_lps - truth()) < 0.5


def test_distant_and_few_pairs_do_not_vote():
    far = cloud() + np.array([60, 0, 0])
    result = vote_of_pairs(POINT, far, truth(far), OPTIONS)
    assert result.query_lps is None and result.fixed_points == 0 and np.isnan(result.residual_mm)
    three = FixedPointOptions(min_fixed_points=3)
    assert vote_of_pairs(POINT, cloud(2), truth(cloud(2)), three).query_lps is None
    assert vote_of_pairs(POINT, np.empty((0, 3)), np.empty((0, 3)), OPTIONS).query_lps is None


@pytest.mark.parametrize("per_axis", [0, 4])
def test_starts_need_a_middle(per_axis):
    with pytest.raises(UsageError, match="middle"):
        FixedPointOptions(starts_per_axis=per_axis)


@pytest.fixture(scope="module")
def pair():
    """Two noisy embeddings of one anatomy, the second turned, stretched and left-handed; points and truth."""
    field = AnatomyField(5)
    turn = np.eye(4)
    turn[:3, :3] = MAP[:3, :3]
    turn[:3, 3] = (6, -4, 5)
    query_lattice = lattice((210, 180, 190), 7.0, (3, 2, -4), (5, -8, 4), left_handed=True)
    template = synthetic_embedding(field, lattice((200, 160, 180), 7.0), noise=0.6, wrong_fraction=0.05, seed=1)
    query = synthetic_embedding(
        field, query_lattice, matrix_map(np.linalg.inv(turn)), noise=0.6, wrong_fraction=0.05, seed=2
    )
    points = np.random.default_rng(0).uniform([-60, -45, -50], [60, 45, 50], (40, 3))
    return template, query, points, transform_points(turn, points)


def test_beats_the_nearest_neighbor_under_noise(pair):
    template, query, points, expected = pair
    index_t, index_q = build_index(template), build_index(query)
    results = fixed_point_matches(index_t, index_q, points)
    voted = np.array([result.query_lps is not None for result in results])
    assert voted.mean() > 0.9
    ours = np.array([np.linalg.norm(r.query_lps - e) for r, e in zip(results, expected) if r.query_lps is not None])
    vectors = joint_vectors(template, points)
    nearest = refine(index_q, vectors, search(index_q, vectors)[0])
    theirs = np.linalg.norm(nearest - expected, axis=1)[voted]
    assert np.median(ours) < 0.5 * np.median(theirs)
    assert np.percentile(ours, 95) < 7.0  # one voxel


def test_every_pair_is_a_fixed_point(pair):
    template, query, points, _ = pair
    index_t, index_q = build_index(template), build_index(query)
    result = fixed_point_matches(index_t, index_q, points[:1], FixedPointOptions(gate_mm=1e6))[0]
    assert result.fixed_points > 10
    rows = index_t.rows_at(np.rint(index_t.grid.to_ijk(result.template_pairs_lps)).astype(int))
    forward, _ = search(index_q, index_t.vectors(rows))
    back, _ = search(index_t, index_q.vectors(forward))
    np.testing.assert_array_equal(back, rows)
    assert np.all(np.linalg.norm(result.template_pairs_lps - points[0], axis=1) <= OPTIONS.tau_dis_mm)


def test_a_batch_gives_what_single_points_give(pair):
    template, query, points, _ = pair
    index_t, index_q = build_index(template), build_index(query)
    together = fixed_point_matches(index_t, index_q, points[:4])
    for point, result in zip(points, together):
        alone = fixed_point_matches(index_t, index_q, point[None])[0]
        assert alone.fixed_points == result.fixed_points
        np.testing.assert_allclose(alone.query_lps, result.query_lps, atol=1e-6)


def test_progress_rises_and_may_cancel(pair):
    template, query, points, _ = pair
    index_t, index_q = build_index(template), build_index(query)
    told = []
    fixed_point_matches(index_t, index_q, points[:3], progress=lambda fraction, text: told.append(fraction))
    assert len(told) > 3 and told == sorted(told) and 0 <= told[0] and told[-1] <= 1

    def stop(fraction, text):
        if fraction > 0.3:
            raise Cancelled()

    with pytest.raises(Cancelled):
        fixed_point_matches(index_t, index_q, points[:3], progress=stop)


def test_a_point_without_body_around_it_has_no_starts(pair):
    template, query, _, _ = pair
    beyond = np.array([[0.0, 0.0, 500.0]])
    result = fixed_point_matches(build_index(template), build_index(query), beyond)[0]
    assert result.query_lps is None and result.fixed_points == 0
