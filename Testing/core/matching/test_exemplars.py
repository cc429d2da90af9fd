"""Several exemplars: the majority wins against a confident minority of one, and names join the lists."""

import dataclasses

import numpy as np
import pytest

from SAMv2Core.errors import InputError, UsageError
from SAMv2Core.io.points import Point, PointList
from SAMv2Core.matching.confidence import UncertaintyModel
from SAMv2Core.matching.exemplars import agree, by_label, combined
from SAMv2Core.matching.match import match
from SAMv2Core.matching.result import Match
from Testing.samples.synthetic_embeddings import AnatomyField, lattice, synthetic_embedding


def scan(shift=0.0, seed=0, noise=0.0):
    """An anatomy that lies ``shift`` mm along S."""
    grid = lattice((240, 200, 200), center_lps=(0, 0, shift))
    return synthetic_embedding(AnatomyField(0), grid, lambda world: world - [0, 0, shift], noise=noise, seed=seed)


def answer(place, confidence, template=(0.0, 0.0, 0.0)):
    place = np.asarray(place, dtype=float)
    return Match(np.asarray(template), place, 0.8, 3.0, 10, confidence, "uncertain", "", place)


def test_three_that_agree_outvote_one_that_is_surer():
    places = np.array([[0.0, 0, 0], [4, 0, 0], [0, 4, 0], [80, 0, 0]])
    found = agree(places, np.array([0.4, 0.4, 0.4, 0.7]))
    assert np.linalg.norm(found.place_lps) < 8  # the weighted mean lies 30 mm off
    assert (found.distances_mm < 10).tolist() == [True, True, True, False]


def test_agreement_is_worth_more_than_each_and_dissent_less():
    grid = scan().volume_grid
    center = np.zeros(3)
    model = UncertaintyModel()
    together = combined([answer(center, 0.6)] * 4, grid, model)
    apart = combined([answer(center + [0, 0, 30 * n], 0.6) for n in range(-1, 2)], grid, model)
    assert together.confidence > 0.6 > apart.confidence
    assert "are wanted" in apart.reason and len(together.exemplars) == 4


def test_what_convinces_alone_does_so_in_company():
    """Earlier scans of the patient: two that agree are worth no less than the better one; one against two is not."""
    grid, model = scan().volume_grid, UncertaintyModel()
    sure = dataclasses.replace(answer([0, 0, 0], 0.98), status="matched")
    both = combined([sure, answer([2, 0, 0], 0.7)], grid, model)
    assert both.status == "matched" and both.confidence >= 0.98
    against = combined([sure, answer([60, 0, 0], 0.7), answer([62, 0, 0], 0.7)], grid, model)
    assert against.confidence < 0.9 and against.status != "matched"


def test_a_place_outside_the_scan_is_not_found_and_says_so():
    grid = scan().volume_grid
    beyond = grid.to_lps(np.array(grid.size_ijk) + 20)
    found = combined([answer(beyond, 0.9)] * 3, grid, UncertaintyModel())
    assert found.status == "not_found" and found.query_lps is None and "outside the other scan" in found.reason


def test_lists_are_joined_by_label():
    first = PointList((Point("a", (1.0, 2.0, 3.0)), Point("b", None)), "one")
    second = PointList((Point("c", (7.0, 8.0, 9.0)), Point("a", (4.0, 5.0, 6.0))), "two")
    names, (one, two) = by_label([first, second])
    assert names == ("a", "b", "c")
    np.testing.assert_array_equal(one, [[1, 2, 3], [np.nan] * 3, [np.nan] * 3])
    np.testing.assert_array_equal(two, [[4, 5, 6], [np.nan] * 3, [7, 8, 9]])
    with pytest.raises(InputError, match="cannot be told apart"):
        by_label([first, PointList((Point("a", None), Point("a", None)), "twice")])


def test_a_point_of_two_scans_is_found_with_both_and_one_of_one_scan_with_that():
    templates, query = [scan(), scan(shift=50.0, seed=1, noise=0.2)], scan(shift=-30.0, seed=2, noise=0.2)
    point = np.array([10.0, -5.0, 7.0])
    lists = [np.array([point, [np.nan] * 3]), np.array([point + [0, 0, 50], point + [12, 0, 50]])]
    both, one = match(templates, query, lists)
    assert [len(both.exemplars), len(one.exemplars)] == [2, 1]
    np.testing.assert_allclose(both.candidate_lps, point + [0, 0, -30], atol=4.0)  # half a voxel
    np.testing.assert_allclose(one.candidate_lps, point + [12, 0, -30], atol=3.0)


@pytest.mark.parametrize("lists, error", [(([],), UsageError), (([[0, 0, 0]], [[0, 0, 0]] * 2), InputError)])
def test_lists_that_do_not_fit_are_refused(lists, error):
    with pytest.raises(error):
        match([scan(), scan()], scan(), list(lists))
