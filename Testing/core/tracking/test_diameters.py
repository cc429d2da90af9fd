"""Which matched ends of a diameter are worth proposing."""

from types import SimpleNamespace

import numpy as np
import pytest

from SAMv2Core.geometry.grid import Grid
from SAMv2Core.tracking.diameters import fits, is_credible, laid_like, match_ends


@pytest.mark.parametrize(
    ("factor", "offset", "credible"), [(1.0, 0.0, True), (3.5, 0.0, False), (0.2, 0.0, False), (1.0, 12.0, False)]
)
def test_ends_that_were_matched_badly_are_not_credible(factor, offset, credible):
    place = np.array([1.0, 2.0, 3.0])
    ends = place + [[0, offset - 6 * factor, 0], [0, offset + 6 * factor, 0]]
    assert is_credible(ends, place, 12.0) == credible
    assert not is_credible(ends, None, 12.0) and not is_credible(None, place, 12.0)


def test_longer_lines_may_lie_farther_from_their_finding():
    place = np.zeros(3)
    for length, apart, expected in ((8.0, 6.0, True), (8.0, 8.0, False), (40.0, 14.0, True), (40.0, 16.0, False)):
        ends = np.array([[apart, -length / 2, 0], [apart, length / 2, 0]])  # allowed: 5 mm and a quarter of the length
        assert fits(ends, place) is expected


def test_without_a_place_nothing_is_searched():
    """The embeddings are not even looked at."""
    lost = SimpleNamespace(label="L1", lps=None)
    assert match_ends(None, None, {"L1": np.zeros((2, 3)), "L2": np.zeros((2, 3))}, [lost]) == {}


def test_ends_are_laid_into_one_slice_as_the_line_was_drawn():
    """The follow-up has slices of 5 mm; a line drawn along the patient stays across them."""
    drawn_grid, grid = (
        Grid((50, 80, 80), np.diag([1.0, 1.0, 2.0, 1.0])),
        Grid((30, 80, 80), np.diag([1.0, 1.0, 5.0, 1.0])),
    )
    ends = np.array([[10.0, 20.0, 41.0], [30.0, 21.0, 47.0]])
    flat = laid_like(ends, grid, np.array([[10.0, 20.0, 40.0], [30.0, 20.0, 40.0]]), drawn_grid)
    np.testing.assert_allclose(flat, [[10, 20, 45], [30, 21, 45]])
    upright = np.array([[10.0, 20.0, 30.0], [10.0, 24.0, 50.0]])
    np.testing.assert_array_equal(laid_like(ends, grid, upright, drawn_grid), ends)
