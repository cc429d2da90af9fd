"""Lesions from points, tables and segmentations: position, size and places inside, whatever the geometry."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from SAMv2Core.errors import InputError
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.lesion import N_SAMPLES, Lesion, check_labels, lesion_at, lesion_of_samples
from SAMv2Core.io.lesions import lesions_from_segmentation, read_lesions
from SAMv2Core.io.volume import Volume, write_volume


def ball_volume(balls, spacing=(1.0, 1.0, 2.0), turn_deg=(0, 0, 0), values=None, shape_zyx=(40, 60, 60)):
    """A segmentation with balls ``(center in mm from the middle, radius)``, and the LPS of the middle."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", turn_deg, degrees=True).as_matrix() * spacing
    middle = np.array([12.0, -34.0, 56.0])
    matrix[:3, 3] = middle - matrix[:3, :3] @ ((np.array(shape_zyx[::-1]) - 1) / 2)
    grid = Grid(shape_zyx, matrix)
    k, j, i = np.indices(shape_zyx)
    points = grid.to_lps(np.stack([i, j, k], axis=-1).reshape(-1, 3)).reshape(*shape_zyx, 3)
    array = np.zeros(shape_zyx, np.uint8)
    for number, (center, radius) in enumerate(balls, 1):
        inside = np.linalg.norm(points - middle - center, axis=-1) <= radius
        array[inside] = number if values is None else values[number - 1]
    return Volume(array, matrix, "labels.nii.gz"), middle


@pytest.mark.parametrize("turn", [(0, 0, 0), (10, -20, 30)])
def test_each_label_is_a_lesion_at_its_center_with_its_longest_diameter(turn):
    balls = [((-14.0, 5.0, 0.0), 8.0), ((12.0, -6.0, 10.0), 5.0)]
    volume, middle = ball_volume(balls, turn_deg=turn, values=[3, 7])
    found = lesions_from_segmentation(volume)
    assert [lesion.label for lesion in found] == ["lesion 3", "lesion 7"]
    for lesion, (center, radius) in zip(found, balls):
        np.testing.assert_allclose(lesion.center_lps, middle + center, atol=0.3)
        # a ball sampled with 1 mm in the slice: corners of the voxels reach up to 1.4 mm beyond
        assert 2 * radius - 1 < lesion.diameter_mm < 2 * radius + 1.5
        assert len(lesion.points_lps) == N_SAMPLES and lesion.weights.sum() == pytest.approx(1)
        assert np.all(np.linalg.norm(lesion.points_lps - lesion.center_lps, axis=1) < radius)
        np.testing.assert_array_equal(lesion.points_lps[0], lesion.center_lps)


def test_one_label_is_split_into_its_parts():
    volume, middle = ball_volume([((-14.0, 0.0, 0.0), 6.0), ((14.0, 0.0, 0.0), 6.0)], values=[1, 1])
    found = lesions_from_segmentation(volume)
    assert sorted(round(float((lesion.center_lps - middle)[0])) for lesion in found) == [-14, 14]
    assert len({lesion.label for lesion in found}) == 2


def test_diameter_is_that_of_the_longest_slice_not_across_slices():
    array = np.zeros((20, 12, 12), np.uint8)
    array[2:18, 5:7, 3:6] = 1  # 16 slices of 3 x 2 voxels
    found = lesions_from_segmentation(Volume(array, np.diag([2.0, 2.0, 2.0, 1.0])))[0]
    assert found.diameter_mm == pytest.approx(np.hypot(6.0, 4.0))


def test_center_of_a_crescent_lies_inside_it():
    angle = np.linspace(0, np.pi, 60)
    samples = np.stack([20 * np.cos(angle), 20 * np.sin(angle), np.zeros(60)], axis=1)
    lesion = lesion_of_samples("crescent", samples)
    assert np.linalg.norm(samples - lesion.center_lps, axis=1).min() < 1e-9


def test_points_and_tables_with_and_without_diameter(tmp_path):
    (tmp_path / "l.csv").write_text("label,l,p,s,diameter_mm\na,1,2,3,12.5\nb,4,5,6,\nc,,,,7\n")
    a, b = read_lesions(tmp_path / "l.csv")  # c has no position
    assert (a.label, a.diameter_mm, b.diameter_mm) == ("a", 12.5, None)
    np.testing.assert_array_equal(a.center_lps, [1, 2, 3])
    assert np.linalg.norm(a.points_lps - a.center_lps, axis=1).max() < 12.5 / 2
    small, large = lesion_at("s", (0, 0, 0), 4.0), lesion_at("l", (0, 0, 0), 200.0)
    assert np.ptp(small.points_lps) < np.ptp(large.points_lps) <= 24.0


def test_a_segmentation_file_is_read_as_one(tmp_path):
    volume, middle = ball_volume([((0.0, 0.0, 0.0), 6.0)])
    write_volume(volume, tmp_path / "labels.nii.gz")
    (lesion,) = read_lesions(tmp_path / "labels.nii.gz")
    np.testing.assert_allclose(lesion.center_lps, middle, atol=0.3)


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("label,l,p,s,diameter_mm\na,1,2,3,wide\n", "wide"),
        ("label,l,p,s,diameter_mm\na,1,2,3,-4\n", "makes no sense"),
        ("label,l,p,s\na,,,\n", "no lesion"),
        ("label,l,p,s\n", "no points"),
    ],
)
def test_tables_without_sense_are_refused(tmp_path, text, complaint):
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(InputError, match=complaint):
        read_lesions(tmp_path / "l.csv")


def test_segmentations_without_sense_are_refused():
    matrix = np.eye(4)
    with pytest.raises(InputError, match="all its voxels are 0"):
        lesions_from_segmentation(Volume(np.zeros((4, 4, 4), np.uint8), matrix))
    with pytest.raises(InputError, match="fractions"):
        lesions_from_segmentation(Volume(np.full((4, 4, 4), 0.5, np.float32), matrix))
    with pytest.raises(InputError, match="separate parts"):
        lesions_from_segmentation(Volume(scattered((30, 30, 30)), matrix))


def scattered(shape_zyx):
    """Single voxels, none touching another."""
    array = np.zeros(shape_zyx, np.uint8)
    array[::2, ::2, ::2] = 1
    return array


def test_labels_must_name_one_lesion_each():
    a, b = lesion_at("same", (0, 0, 0)), lesion_at("same", (9, 0, 0))
    with pytest.raises(InputError, match="same"):
        check_labels([a, b])
    with pytest.raises(InputError, match="no lesion"):
        check_labels([])


@pytest.mark.parametrize(
    "changed", [{"center_lps": (0, np.nan, 0)}, {"diameter_mm": 0.0}, {"points_lps": []}, {"weights": [-1.0]}]
)
def test_a_lesion_makes_sense_or_is_none(changed):
    fields = {"label": "x", "center_lps": (0, 0, 0), "diameter_mm": 5.0, "points_lps": [[0, 0, 0]], "weights": [1.0]}
    with pytest.raises(InputError):
        Lesion(**{**fields, **changed})
