"""Axes of shapes whose axes are known, on grids as scanners make them."""

import numpy as np
import pytest

from SAMv2Core.geometry.diameters import axes_in_slice, in_slice
from SAMv2Core.geometry.grid import Grid


def ellipsoid(grid, center, radii, angle):
    """Voxels of an ellipsoid turned about the patient's axis."""
    k, j, i = np.indices(grid.shape_zyx)
    ijk = np.stack([i, j, k], axis=-1).reshape(-1, 3)
    relative = grid.to_lps(ijk) - center
    c, s = np.cos(angle), np.sin(angle)
    turned = relative @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return ijk[((turned / radii) ** 2).sum(axis=1) <= 1]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_both_axes_of_a_turned_ellipsoid_in_whatever_order_the_scan_is_stored(order):
    """0.5 mm voxels: their corners add up to 0.7 mm to a diameter of 20 and 12 mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.diag([0.5, 0.5, 1.0])[:, list(order)]
    grid = Grid((60, 60, 60), matrix)
    center = grid.to_lps(np.array([[29.5, 29.5, 29.5]]))[0]
    ijk = ellipsoid(grid, center, (10.0, 6.0, 25.0), np.radians(30))  # longest along the patient: not in a slice
    axes = axes_in_slice(ijk, grid)
    assert axes.long_mm == pytest.approx(20.0, abs=0.75) and axes.short_mm == pytest.approx(12.0, abs=0.75)
    long, short = axes.long_lps[1] - axes.long_lps[0], axes.short_lps[1] - axes.short_lps[0]
    assert abs(long @ short) < 1e-6 and np.ptp(np.concatenate([axes.long_lps, axes.short_lps])[:, 2]) < 1e-9
    angle = np.degrees(np.arctan2(long[1], long[0])) % 180
    assert angle == pytest.approx(30, abs=5)
    np.testing.assert_allclose(axes.long_lps.mean(axis=0)[:2], center[:2], atol=0.75)


def test_one_voxel_and_a_row_of_voxels():
    grid = Grid((5, 5, 5), np.diag([2.0, 2.0, 3.0, 1.0]))
    assert axes_in_slice(np.array([[2, 2, 2]]), grid).long_mm == pytest.approx(8**0.5)
    row = axes_in_slice(np.array([[n, 2, 2] for n in range(4)]), grid)
    assert row.long_mm == pytest.approx((8**2 + 2**2) ** 0.5) and 1.9 < row.short_mm < 2.2


def test_the_short_axis_of_a_triangle_is_its_longest_chord_across():
    """A right triangle of pixels: across the hypotenuse, its height."""
    grid = Grid((3, 120, 120), np.diag([0.1, 0.1, 1.0, 1.0]))
    ijk = np.array([[i, j, 1] for i in range(100) for j in range(100 - i)])
    axes = axes_in_slice(ijk, grid)
    assert axes.long_mm == pytest.approx(10 * 2**0.5, abs=0.2)
    assert axes.short_mm == pytest.approx(10 / 2**0.5, abs=0.2)


def test_a_line_is_laid_into_the_nearest_slice():
    grid = Grid((40, 64, 64), np.diag([1.0, 1.0, 2.5, 1.0]))
    flat = in_slice(np.array([[10.0, 10.0, 20.0], [22.0, 15.0, 29.0]]), grid)
    np.testing.assert_allclose(flat, [[10, 10, 25], [22, 15, 25]])
    upright = np.array([[10.0, 10.0, 20.0], [10.0, 10.0, 30.0]])
    np.testing.assert_array_equal(in_slice(upright, grid), upright)
