"""Simulated metal: the physics of its streaks, where the rods go, and which points are asked for beside them."""

import numpy as np
import pytest

pytest.importorskip("torch")

from SAMv2Core.errors import InputError
from SAMv2Core.io.volume import Volume
from Testing.benchmarks import metal
from Testing.benchmarks.robustness import beside_metal

N, PIXEL_CM = 101, 0.3


def discs(*centers, radius):
    """(1, N, N) of 0 and 1."""
    j, i = np.ogrid[:N, :N]
    return np.any([np.hypot(j - y, i - x) <= radius for y, x in centers], axis=0)[None].astype(float)


def test_what_is_projected_is_reconstructed():
    disc = discs((50, 30), radius=10)
    again = metal.reconstruct(metal.project(disc, PIXEL_CM), PIXEL_CM)
    assert again[discs((50, 30), radius=8) > 0].mean() == pytest.approx(1.0, abs=0.03)
    assert again[discs((50, 70), radius=10) > 0].mean() == pytest.approx(0.0, abs=0.03)
    assert again[discs((20, 50), radius=10) > 0].mean() == pytest.approx(0.0, abs=0.03)


def test_two_rods_darken_what_lies_between_them():
    made = metal.streaks(discs((50, 30), (50, 70), radius=3), 3.0, np.random.default_rng(0))[0]
    between, beyond = made[50, 40:61].mean(), made[20:81, [5, 95]].mean()
    assert between < -100 < 2 * abs(beyond) < 100
    assert made[50, 50] < made[40, 50]


def test_more_metal_is_measured_as_less_than_it_is():
    through = np.array([0.0, 0.5, 1.0, 2.0])
    hardened = metal.measured(through, np.random.default_rng(0))
    assert hardened[0] == pytest.approx(0.0, abs=1e-9)  # no noise either, without metal
    assert (np.diff(hardened) > 0).all()
    assert (np.diff(hardened / np.maximum(through, 1e-9))[1:] < 0).all()


def phantom():
    array = np.full((40, 60, 60), -1000, dtype=np.int16)
    array[:, 10:50, 5:55] = 40
    return Volume(array, np.diag([4.0, 4.0, 4.0, 1.0]))


def test_rods_stand_where_they_may_and_change_their_slices_only():
    ct = phantom()
    places = np.zeros(ct.array.shape, dtype=bool)
    places[20, 30, [15, 45]] = True
    made, rods = metal.with_implants(ct, places, seed=3)
    again, _ = metal.with_implants(ct, places, seed=3)
    assert made.array.dtype == ct.array.dtype and np.array_equal(made.array, again.array)
    assert sorted(rods[:, 0]) == [60.0, 180.0] and (rods[:, 1:] == (120.0, 80.0)).all()
    changed = np.flatnonzero((made.array != ct.array).any((1, 2)))
    assert changed[0] >= 20 - 8 and changed[-1] <= 20 + 8  # 30 mm to each side
    assert (made.array[20, 30, [15, 45]] == 3000).all()
    assert (made.array[20, 30, 20:41] < ct.array[20, 30, 20:41]).mean() > 0.9
    with pytest.raises(InputError, match="no two places"):
        metal.with_implants(ct, np.zeros(ct.array.shape, dtype=bool), seed=3)


def test_points_beside_metal():
    rods = np.array([[0.0, 0.0, 0.0], [100.0, 0.0, 0.0]])
    points = np.array([[50.0, 0, 0], [10.0, 0, 0], [110.0, 0, 20], [50.0, 80, -29], [50.0, 0, 31]])
    assert beside_metal(points, rods, np.array([0.0, 0.0, 1.0])).tolist() == [True, False, False, True, False]
