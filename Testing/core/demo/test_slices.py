"""Planes come out in radiological orientation and true scale, whatever the volume's own axes are."""

import numpy as np
import pytest

from SAMv2Core.demo.slices import PLANES, body_box_lps, bounds_lps, cut, project
from SAMv2Core.geometry.grid import Grid

LEFT, POSTERIOR, SUPERIOR = np.eye(3)


def rotation(axis, degrees):
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    a = np.radians(degrees)
    return np.eye(3) + np.sin(a) * k + (1 - np.cos(a)) * k @ k


# index axes -> LPS, with spacing (0.9, 1.3, 2.0): straight, all axes flipped (left-handed), permuted, oblique
MATRICES = {
    "straight": np.diag([0.9, 1.3, 2.0]),
    "left-handed": np.diag([-0.9, -1.3, -2.0]),
    "sagittal": np.array([[0, 0, 2.0], [0.9, 0, 0], [0, -1.3, 0]]),
    "oblique": rotation([1, 2, 3], 35) @ np.diag([0.9, 1.3, 2.0]),
}


def head_phantom(linear):
    """Smooth field whose brightest directions are known: value = 4 L + 2 P + 1 S (mm from the middle)."""
    shape = (44, 60, 70)
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = [12.0, -30.0, 700.0] - linear @ ((np.array(shape[::-1]) - 1) / 2)
    grid = Grid(shape, matrix)
    z, y, x = np.indices(shape)
    points = grid.to_lps(np.stack([x, y, z], -1).reshape(-1, 3))
    middle = np.array([12.0, -30.0, 700.0])
    return ((points - middle) @ [4.0, 2.0, 1.0]).reshape(shape).astype(np.float32), grid, middle


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize(
    ("plane", "to_the_right", "to_the_bottom"),
    [("axial", LEFT, POSTERIOR), ("coronal", LEFT, -SUPERIOR), ("sagittal", POSTERIOR, -SUPERIOR)],
)
def test_orientation_and_scale(name, plane, to_the_right, to_the_bottom):
    array, grid, middle = head_phantom(MATRICES[name])
    view = cut(array, grid, PLANES[plane], middle, (31, 21), 0.7)
    slope = np.array([4.0, 2.0, 1.0])
    assert view.pixels.shape == (21, 31)
    # a linear field is reproduced by linear interpolation up to float32 rounding
    np.testing.assert_allclose(np.diff(view.pixels, axis=1), 0.7 * slope @ to_the_right, atol=1e-3)
    np.testing.assert_allclose(np.diff(view.pixels, axis=0), 0.7 * slope @ to_the_bottom, atol=1e-3)
    assert view.pixels[10, 15] == pytest.approx(0.0, abs=1e-3)


def test_points_land_on_their_pixels():
    array, grid, middle = head_phantom(MATRICES["oblique"])
    view = cut(array, grid, PLANES["coronal"], middle, (40, 40), 1.0)
    point = middle + 5 * LEFT - 7 * SUPERIOR
    x, y = view.to_pixel(point)
    assert (x, y) == pytest.approx((19.5 + 5, 19.5 + 7))
    assert view.shows(point) and not view.shows(middle + 30 * LEFT)


def test_outside_the_scan_is_marked_and_the_outer_half_voxel_is_not_lost():
    array = np.ones((3, 4, 5), np.int16)
    view = cut(
        array,
        Grid((3, 4, 5), np.diag([2.0, 2.0, 10.0, 1.0])),
        PLANES["coronal"],
        (4.0, 3.0, 10.0),
        (30, 50),
        1.0,
    )
    # 5 voxels of 2 mm and 3 of 10 mm; the view is larger on each side
    assert int(np.isfinite(view.pixels).any(axis=0).sum()) == 10
    assert int(np.isfinite(view.pixels).any(axis=1).sum()) == 30


def test_projection_keeps_orientation_and_averages():
    array = np.full((40, 40, 40), -1000, np.int16)
    array[30:, :, 30:] = 0  # superior left corner, through the whole depth
    grid = Grid((40, 40, 40), np.eye(4))
    view = project(array, grid, PLANES["coronal"], step_mm=2.0)
    assert view.pixels.shape == (20, 20)
    assert view.pixels[2, 17] == pytest.approx(0.0)
    assert view.pixels[17, 17] == view.pixels[2, 2] == pytest.approx(-1000.0)
    assert project(array, grid, PLANES["axial"], how="max").pixels[10, 17] == pytest.approx(0.0)


def test_the_body_box_ignores_the_air_around():
    array = np.full((60, 80, 80), -1000, np.int16)
    array[:, 20:60, 25:55] = 40
    grid = Grid((60, 80, 80), np.diag([2.0, 2.0, 2.0, 1.0]))
    low, high = body_box_lps(array, grid)
    assert low[:2] == pytest.approx([50 - 12, 40 - 12], abs=3)
    assert high[:2] == pytest.approx([108 + 12, 118 + 12], abs=3)
    assert (low[2], high[2]) == pytest.approx((bounds_lps(grid)[0][2], bounds_lps(grid)[1][2]))
