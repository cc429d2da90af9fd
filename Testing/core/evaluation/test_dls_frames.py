"""A lesion's place from its annotated voxel, in every storage order of the same scan, right header or wrong one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from SAMv2Core.errors import InputError
from SAMv2Core.evaluation import dls_frames
from SAMv2Core.geometry.grid import transform_points
from SAMv2Core.io.volume import Volume
from Testing.samples.embedding_samples import torso

SHAPE_ZYX = (20, 30, 40)
SPACING = (0.8, 0.8, 5.0)


def as_annotated() -> Volume:
    """A scan in the annotation's order (x left, y posterior, z inferior) with the right header; voxels differ."""
    matrix = np.diag([*SPACING[:2], -SPACING[2], 1.0])
    matrix[:3, 3] = (-10.0, -20.0, 300.0)
    return Volume(np.arange(np.prod(SHAPE_ZYX), dtype=np.int32).reshape(SHAPE_ZYX) % 3000, matrix, "scan.nii.gz")


def stored(volume: Volume, order, flips) -> Volume:
    """The same voxels at the same places in the world, stored along other axes and backwards."""
    array, matrix = volume.array.transpose([2 - axis for axis in order[::-1]]), volume.ijk_to_lps.copy()
    matrix[:3, :3] = volume.ijk_to_lps[:3, list(order)]
    for axis, flip in enumerate(flips):
        if flip:
            array = np.flip(array, 2 - axis)
            matrix[:3, 3] += matrix[:3, axis] * (array.shape[2 - axis] - 1)
            matrix[:3, axis] *= -1
    return Volume(np.ascontiguousarray(array), matrix, volume.source)


VOXELS = np.array([(0, 0, 0), (39, 29, 19), (12, 3, 15)], dtype=float)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", list(itertools.product((False, True), repeat=3)))
def test_a_right_header_is_right_in_every_storage_order(order, flips):
    original = as_annotated()
    volume = stored(original, order, flips)
    ijk = transform_points(dls_frames.annotation_to_ijk(volume.grid, "affine"), VOXELS).astype(int)
    values = [volume.array[k, j, i] for i, j, k in ijk]
    assert values == [original.array[int(z), int(y), int(x)] for x, y, z in VOXELS]
    np.testing.assert_allclose(
        transform_points(dls_frames.annotation_to_lps(volume, "affine"), VOXELS), original.grid.to_lps(VOXELS)
    )
    dls_frames.check_spacing(volume, SPACING, "affine")


def test_the_two_kinds_in_the_wild_by_their_codes():
    original = as_annotated()
    assert dls_frames.orientation_code(original.grid) == "LPI"  # read by an ITK program
    assert dls_frames.orientation_code(stored(original, (1, 0, 2), (False,) * 3).grid) == "PLI"  # rows first
    turned = stored(original, (0, 1, 2), (False, False, True))
    assert dls_frames.orientation_code(turned.grid) == "LPS"
    # z of the annotation is N - 1 - z of a file from the feet up.
    ijk = transform_points(dls_frames.annotation_to_ijk(turned.grid, "affine"), [(1.0, 2.0, 3.0)])
    np.testing.assert_allclose(ijk, [(1, 2, 16)])


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1)])  # identity in LPS, identity in RAS
def test_slices_with_a_header_without_meaning_are_put_upright(signs):
    original = as_annotated()
    wrong = Volume(original.array, np.diag([*np.multiply(SPACING, signs), 1.0]), "scan.nii.gz")
    upright = dls_frames.upright(wrong, "slices")
    assert dls_frames.orientation_code(upright.grid) == "LPI"
    np.testing.assert_array_equal(upright.array, original.array)
    np.testing.assert_allclose(upright.grid.spacing_ijk_mm, SPACING)
    to_lps = dls_frames.annotation_to_lps(wrong, "slices")
    np.testing.assert_allclose(transform_points(to_lps, VOXELS), upright.grid.to_lps(VOXELS))
    assert dls_frames.upright(wrong, "affine") is wrong


def lesions_of(volume: Volume, n: int = 12):
    """Boxes of (x, y, z, w, h, d) around soft tissue in the lower, wider part of a scan."""
    rng = np.random.default_rng(0)
    tissue = np.argwhere(volume.array > 0)
    chosen = tissue[rng.choice(len(tissue), n, replace=False)]
    return [(float(x - 2), float(y - 2), float(z - 2), 4.0, 4.0, 4.0) for z, y, x in chosen]


def half_body() -> Volume:
    """A body that narrows towards the head; in the annotation's order, header right."""
    body = torso((40, 60, 60))
    array = body.array.copy()
    for z in range(40):  # the annotation's z: 0 is the head
        array[z, :, : 28 - z // 2] = -1000
        array[z, : 28 - z // 2] = -1000
    return Volume(array, np.diag([0.8, 0.8, -2.0, 1.0]), "scan.nii.gz")


@pytest.mark.parametrize(
    ("truth", "expected"), [("affine", "affine"), ("slices", "slices")]
)  # fmt: skip
def test_lesions_elect_the_order(truth, expected):
    scan = half_body()
    boxes = lesions_of(scan)
    if truth == "affine":
        stored_scan = stored(scan, (0, 1, 2), (False, False, True))
    else:
        stored_scan = Volume(scan.array, np.diag([0.8, 0.8, 2.0, 1.0]), "scan.nii.gz")
    assert dls_frames.orientation_code(stored_scan.grid) == "LPS"
    votes = dls_frames.vote(stored_scan, boxes)
    assert votes.order == expected
    assert max(votes) >= dls_frames.MIN_VOTES and min(votes) <= 1


def test_without_votes_the_header_is_believed():
    assert dls_frames.Votes(0, 4).order == "affine"
    assert dls_frames.Votes(0, 5).order == "slices"
    assert dls_frames.Votes(3, 7).order == "affine"
    assert dls_frames.vote(as_annotated(), [(1.0, 1.0, 1.0, 4.0, 4.0, 4.0)]) == dls_frames.Votes()


def test_a_scan_that_is_not_the_annotated_one_is_refused():
    volume = as_annotated()
    with pytest.raises(InputError, match=r"0\.8x0\.8x5 mm, the annotation says 0\.8x0\.8x1 mm"):
        dls_frames.check_spacing(volume, (0.8, 0.8, 1.0), "affine")
    with pytest.raises(InputError, match="lies outside"):
        dls_frames.check_inside(volume.source, volume.grid, (5.0, 5.0, 20.0), "affine")
    dls_frames.check_inside(volume.source, volume.grid, (5.0, 5.0, 19.0), "affine")


def test_the_offset_of_png_slices_is_taken_away():
    original = torso()
    shifted = Volume(original.array.astype(np.int32) + 32768, original.ijk_to_lps, "scan.nii.gz")
    restored = dls_frames.without_png_offset(shifted)
    np.testing.assert_array_equal(restored.array, original.array)
    assert "32768" in restored.warnings[0]
    assert dls_frames.without_png_offset(original) is original
