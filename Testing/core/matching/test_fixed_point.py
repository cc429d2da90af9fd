"""Fixed points vote: the local affine fit, its guards, and the iteration on synthetic anatomy."""

import numpy as np
import pytest

from SAMv2Core.errors import Cancelled, UsageError
from SAMv2Core.geometry.grid import transform_points
from SAMv2Core.matching.body_map import BodyMap
from SAMv2Core.matching.fixed_point import (
    FixedPointOptions,
    affine_of_all,
    fixed_point_matches,
    paper_matches,
    vote_of_pairs,
)
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


def test_the_point_moves_as_the_pairs_around_it():
    pairs = cloud()
    found = vote_of_pairs(POINT, pairs, truth(pairs), OPTIONS)
    # The middle of 60 pairs is 1 mm off the point, of which a turn of 6 degrees leaves a tenth.
    assert np.linalg.norm(found.query_lps - truth()) < 0.3 and found.fixed_points == 60
    assert found.residual_mm < 2.5  # pairs 14 mm away are turned by 6 degrees, stretched by 8 %


def test_noise_is_averaged():
    pairs = cloud()
    noise = np.random.default_rng(1).normal(0, 2, pairs.shape)
    found = vote_of_pairs(POINT, pairs, truth(pairs) + noise, OPTIONS)
    assert np.linalg.norm(found.query_lps - truth()) < 1.0 and 1.5 < found.residual_mm < 4.5


def test_a_fifth_of_outliers_is_ignored():
    pairs = cloud()
    ends = truth(pairs)
    ends[::5] += [60, 10, -30]
    result = vote_of_pairs(POINT, pairs, ends, OPTIONS)
    assert np.linalg.norm(result.query_lps - truth()) < 0.5
    assert result.fixed_points <= 48


def test_near_pairs_count_more():
    pairs = np.concatenate([POINT + np.eye(3), POINT + 40 * np.eye(3)])
    ends = pairs + np.repeat([[1.0, 0, 0], [11.0, 0, 0]], 3, axis=0)
    result = vote_of_pairs(POINT, pairs, ends, OPTIONS)
    assert result.fixed_points == 6 and np.linalg.norm(result.query_lps - POINT - [1, 0, 0]) < 0.6


def test_the_largest_agreement_wins_not_the_median():
    """A third of the pairs is right; two wrong clusters lie on one side, so the median shift is wrong."""
    pairs = cloud(60)
    ends = truth(pairs)
    ends[20:39] += [0, 0, 35]
    ends[39:] += np.random.default_rng(1).uniform(20, 60, (21, 3))
    result = vote_of_pairs(POINT, pairs, ends, OPTIONS)
    assert np.linalg.norm(result.query_lps - truth()) < 0.7


def test_without_pairs_there_is_no_vote():
    for found in (
        vote_of_pairs(POINT, np.empty((0, 3)), np.empty((0, 3)), OPTIONS),
        affine_of_all(POINT, np.empty((0, 3)), np.empty((0, 3))),
    ):
        assert found.query_lps is None and found.fixed_points == 0 and np.isnan(found.residual_mm)


def test_the_paper_fits_all_pairs_alike_and_few_of_them_by_a_translation():
    pairs = cloud()
    whole = affine_of_all(POINT, pairs, truth(pairs))
    assert np.linalg.norm(whole.query_lps - truth()) < 1e-6 and whole.residual_mm < 1e-6 and whole.fixed_points == 60
    far = pairs.copy()
    far[0] += 500.0
    assert np.linalg.norm(affine_of_all(POINT, pairs, truth(far)).query_lps - truth()) > 3.0, "no outlier is left out"
    one = affine_of_all(POINT, pairs[:1], pairs[:1] + [1.0, 2.0, 3.0])
    np.testing.assert_allclose(one.query_lps, POINT + [1.0, 2.0, 3.0])


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
    assert np.median(ours) < 0.6 * np.median(theirs)  # 2.3 against 4.4 mm
    assert np.percentile(ours, 95) < 7.0  # one voxel


def test_every_pair_is_a_fixed_point(pair):
    template, query, points, _ = pair
    index_t, index_q = build_index(template), build_index(query)
    result = fixed_point_matches(index_t, index_q, points[:1], FixedPointOptions(gate_mm=1e6))[0]
    assert result.fixed_points > 5
    rows = index_t.rows_at(np.rint(index_t.grid.to_ijk(result.template_pairs_lps)).astype(int))
    forward, _ = search(index_q, index_t.vectors(rows))
    back, _ = search(index_t, index_q.vectors(forward))
    np.testing.assert_array_equal(back, rows)
    np.testing.assert_allclose(index_q.points_lps(forward), result.query_pairs_lps)


def exact_maps(matrix):
    """What a body map of the true transform expects, there and back."""
    around = np.random.default_rng(0).uniform(-120, 120, (60, 3))
    sides = []
    for affine in (matrix, np.linalg.inv(matrix)):
        still = np.zeros((60, 3))
        sides.append(
            BodyMap(around, still, np.ones(60), np.full(60, 3.0), np.vstack([affine[:3, :3].T, affine[:3, 3]]))
        )
    return tuple(sides)


def test_balls_find_what_whole_bodies_find_and_better(pair):
    template, query, points, expected = pair
    index_t, index_q = build_index(template), build_index(query)
    turn = np.eye(4)
    turn[:3, :3], turn[:3, 3] = MAP[:3, :3], (6, -4, 5)
    near = fixed_point_matches(index_t, index_q, points, maps=exact_maps(turn))
    far = fixed_point_matches(index_t, index_q, points)
    errors = np.array([[np.linalg.norm(r.query_lps - e) for r, e in zip(found, expected)] for found in (near, far)])
    assert np.all(errors[0] < 7.0) and errors[0].mean() <= errors[1].mean()


def test_the_paper_s_form_votes_with_more_starts(pair):
    template, query, points, expected = pair
    index_t, index_q = build_index(template), build_index(query)
    found = paper_matches(index_t, index_q, points[:10])
    errors = np.array([np.linalg.norm(r.query_lps - e) for r, e in zip(found, expected) if r.query_lps is not None])
    assert len(errors) >= 9 and np.median(errors) < 4.0
    assert np.mean([r.fixed_points for r in found]) > 10


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
