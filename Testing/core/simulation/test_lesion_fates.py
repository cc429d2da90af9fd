"""Planted lesions stay, change, vanish, appear, merge and split as they should, and only they do."""

import math
from collections import Counter

import numpy as np
import pytest

from SAMv2Core.io.volume import Volume
from SAMv2Core.simulation.lesion_fates import COUNTS, draw_fates, planted, simulate_fates
from SAMv2Core.simulation.simulate import SimulationOptions

STILL = SimulationOptions()
"""Nothing else changes: places and voxels of both time points are the same."""


@pytest.fixture(scope="module")
def body():
    """A uniform trunk, 20 HU, in air."""
    array = np.full((90, 110, 110), -1000, np.int16)
    j, i = np.indices(array.shape[1:])
    array[:, (j - 55) ** 2 + (i - 55) ** 2 < 50**2] = 20
    matrix = np.diag([3.0, 3.0, 3.0, 1.0])
    matrix[:3, 3] = (-160, -160, 0)
    return Volume(array, matrix, "body", "ct")


@pytest.fixture(scope="module")
def pair(body):
    return simulate_fates(body, 3, STILL)


def depth_at(volume, lps, fate):
    """How far a place differs from the body, in units of the lesion's contrast."""
    i, j, k = np.rint(volume.grid.to_ijk(np.atleast_2d(lps))[0]).astype(int)
    return (float(volume.array[k, j, i]) - 20) / fate.contrast


def test_every_kind_is_planted_as_often_as_asked(pair):
    kinds = Counter(fate.kind for fate in pair.fates)
    assert set(kinds) == set(COUNTS) and all(kinds[kind] <= COUNTS[kind] for kind in kinds)  # as many as fit
    assert sum(kinds.values()) >= 20
    assert len(pair.new) == kinds["new"]
    assert Counter(one.kind for one in pair.lesions)["merged"] == 2 * kinds["merged"]


def test_both_time_points_show_what_became_of_them(pair):
    """At the centers of the balls, and between them."""
    for fate in pair.fates:
        before = {id(ball): depth_at(pair.baseline, ball.center_lps, fate) for ball in fate.before}
        after = {id(ball): depth_at(pair.follow_up.volume, ball.center_lps, fate) for ball in fate.after}
        assert min([*before.values(), *after.values()]) > 0.9, fate.kind
        for balls, volume in ((fate.before, pair.follow_up.volume), (fate.after, pair.baseline)):
            if fate.kind in ("vanished", "new"):
                assert all(abs(depth_at(volume, ball.center_lps, fate)) < 0.1 for ball in balls)


def test_merged_lesions_touch_and_split_ones_do_not(pair):
    for fate in pair.fates:
        if fate.kind in ("merged", "split", "neighbors", "long"):
            for balls, volume, is_one in (
                (fate.before, pair.baseline, fate.kind in ("split", "long")),
                (fate.after, pair.follow_up.volume, fate.kind in ("merged", "long")),
            ):
                line = np.linspace(balls[0].center_lps, balls[1].center_lps, 40)
                lowest = min(depth_at(volume, place, fate) for place in line)
                assert (lowest > 0.8) if is_one else (lowest < 0.5), fate.kind


def test_sizes_and_places_are_told_as_they_are(pair):
    growths = {one.kind: one.growth for one in pair.lesions}
    assert math.isnan(growths["vanished"]) and 0.85 < growths["unchanged"] < 1.15
    assert all(max(one.growth, 1 / one.growth) > 1.35 for one in pair.lesions if one.kind == "changed")
    for one in pair.lesions:
        np.testing.assert_allclose(one.lps, one.lesion.center_lps, atol=1e-6)
    partners = {one.lesion.label: one.partner for one in pair.lesions if one.partner}
    assert partners and all(partners[partners[label]] == label for label in partners)


def test_the_patients_own_tissue_is_left_where_none_is(body, pair):
    """Nothing but the lesions differs from the body, which is what a vanished lesion leaves behind."""
    untouched = planted(body, [])
    np.testing.assert_array_equal(untouched.array, body.array)
    vanished = [fate for fate in pair.fates if fate.kind == "vanished"]
    for fate in vanished:
        i, j, k = np.rint(body.grid.to_ijk(fate.before[0].center_lps[None])[0]).astype(int)
        box = (slice(k - 2, k + 3), slice(j - 2, j + 3), slice(i - 2, i + 3))
        np.testing.assert_array_equal(pair.follow_up.volume.array[box], body.array[box])


def test_same_seed_same_lesions(body):
    one, other = (draw_fates(body, {"vanished": 3}, np.random.default_rng(5)) for _ in range(2))
    assert [fate.contrast for fate in one] == [fate.contrast for fate in other] and len(one) == 3
