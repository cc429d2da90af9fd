"""Lesions that change between time points: their size is what the truth says, the rest of the scan stays."""

import numpy as np
import pytest

from SAMv2Core.errors import UsageError
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.lesion import lesion_at
from SAMv2Core.io.volume import Volume
from SAMv2Core.simulation.lesion_growth import REACH, RIM_MM, LesionChange, LesionOptions, apply_changes, draw_changes
from SAMv2Core.simulation.simulate import SimulationOptions, simulate_follow_up

GRID = Grid((60, 60, 60), np.diag([1.0, 1.0, 1.0, 1.0]))
CENTER = np.array([30.0, 29.0, 31.0])


def distance_to(center, grid=GRID):
    k, j, i = np.indices(grid.shape_zyx)
    points = grid.to_lps(np.stack([i, j, k], axis=-1).reshape(-1, 3))
    return np.linalg.norm(points - center, axis=1).reshape(grid.shape_zyx)


def ball(radius, center=CENTER):
    """A bright ball in soft tissue."""
    return np.where(distance_to(center) < radius, 150.0, 40.0).astype(np.float32)


def diameter_of(array):
    """Of the ball that has as many bright voxels."""
    return 2 * (3 * np.count_nonzero(array > 95) / (4 * np.pi)) ** (1 / 3)


@pytest.mark.parametrize("growth", [0.5, 1.0, 1.6])
def test_a_lesion_has_the_size_that_the_truth_says(growth):
    array = ball(8.0)
    apply_changes(array, GRID, [LesionChange("a", CENTER, 16.0 * growth, growth)], [16.0])
    assert diameter_of(array) == pytest.approx(16.0 * growth, abs=0.6)  # of voxels of 1 mm
    far = distance_to(CENTER) > REACH * 8.0 * max(growth, 1.0) + RIM_MM
    np.testing.assert_array_equal(array[far], ball(8.0)[far])


def test_a_vanished_lesion_leaves_what_surrounds_it():
    array = ball(8.0)
    apply_changes(array, GRID, [LesionChange("a", CENTER, 0.0, 0.0)], [16.4])
    np.testing.assert_array_equal(array, 40.0)


def test_a_lesion_outside_the_follow_up_changes_nothing():
    array = ball(8.0)
    apply_changes(array, GRID, [LesionChange("a", np.array([500.0, 0, 0]), 30.0, 1.5)], [20.0])
    np.testing.assert_array_equal(array, ball(8.0))


def test_fates_are_drawn_from_their_ranges_and_only_for_known_sizes():
    lesions = [lesion_at(f"l{n}", (n, 0, 0), None if n % 4 == 0 else 10.0) for n in range(200)]
    centers = np.array([lesion.center_lps for lesion in lesions])
    options = LesionOptions((0.6, 1.6), 0.2)
    changes = draw_changes(lesions, centers, 1.1, options, np.random.default_rng(0))
    assert len(changes) == 150
    grown = np.array([change.growth for change in changes])
    assert 0.1 < np.mean(grown == 0) < 0.3 and 0.6 <= grown[grown > 0].min() and grown.max() <= 1.6
    assert {change.kind for change in changes} == {"vanished", "grown", "shrunk", "stable"}
    for change in changes:
        assert change.diameter_mm == pytest.approx(10.0 * 1.1 * change.growth)


@pytest.mark.parametrize("bad", [{"growth": (0.0, 1.0)}, {"growth": (2.0, 1.0)}, {"vanish": 1.5}])
def test_fates_without_sense_are_refused(bad):
    with pytest.raises(UsageError):
        LesionOptions(**bad)


def test_a_simulated_follow_up_shows_the_lesion_as_its_truth_says():
    baseline = Volume(ball(7.0).astype(np.int16), GRID.ijk_to_lps, "ball", "ct")
    options = SimulationOptions(translation_mm=15.0, rotation_deg=8.0)
    lesion = lesion_at("a", CENTER, 14.0)
    follow = simulate_follow_up(baseline, options, 3, [lesion], LesionOptions((1.5, 1.5)))
    (change,) = follow.lesions
    moved, _ = follow.map_points(CENTER[None])
    np.testing.assert_allclose(change.center_lps, moved[0])
    assert change.kind == "grown" and change.diameter_mm == pytest.approx(21.0, rel=0.01)
    inside = distance_to(change.center_lps, follow.volume.grid) < 9.5
    assert np.median(follow.volume.array[inside]) > 140
    assert diameter_of(follow.volume.array) == pytest.approx(21.0, abs=0.8)
    assert simulate_follow_up(baseline, options, 3).lesions == ()
