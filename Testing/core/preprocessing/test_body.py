"""The body mask against the truth of synthetic volumes: table out, arms in, inner air filled."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from SAMv2Core.io.volume import read_volume
from SAMv2Core.preprocessing.body import body_mask, body_on_features
from Testing.samples.synthetic import BONE_HU, TABLE_HU, body_grid, body_truth, make_body_volume

SHAPE, HALF = (60, 90, 130), (130.0, 90.0, 60.0)


def lattice(modality="ct", seed=0, **options):
    volume = make_body_volume(SHAPE, (2, 2, 2), seed=seed, modality=modality, **options)
    return volume.array.astype(np.float32), body_truth(body_grid(SHAPE, (2, 2, 2)), HALF)


def everywhere(values):
    return np.ones(values.shape, bool)


def dice(a, b):
    return 2 * np.sum(a & b) / (a.sum() + b.sum())


@pytest.mark.parametrize(("modality", "least"), [("ct", 0.97), ("mr", 0.95)])
@pytest.mark.parametrize("seed", [0, 1])
def test_it_agrees_with_the_truth(modality, least, seed):
    values, truth = lattice(modality, seed)
    mask = body_mask(values, modality, everywhere(values))
    assert mask.dtype == bool
    assert mask.shape == values.shape
    assert dice(mask, truth) > least


def test_the_table_is_out_and_the_arm_in():
    values, truth = lattice()
    mask = body_mask(values, "ct", everywhere(values))
    near_table = ndimage.binary_dilation(truth, iterations=3)
    assert np.sum(mask & ~near_table) == 0
    arm = truth & (np.indices(SHAPE)[2] > 112)
    assert arm.sum() > 1000
    assert mask[arm].mean() > 0.9


def test_a_dense_table_that_touches_the_back_is_cut_off():
    values, truth = lattice(table=False)
    rows = np.flatnonzero(truth[:, :, 65].any(axis=0))
    back = rows.max()
    values[:, back + 1 : back + 3] = BONE_HU  # 4 mm of plate, through the whole volume
    values[:, back + 10 : back + 12] = TABLE_HU
    mask = body_mask(values, "ct", everywhere(values))
    assert dice(mask, truth) > 0.95
    assert not mask[:, back + 10 :].any()


def test_a_blanket_does_not_join():
    values, truth = lattice()
    shell = ndimage.binary_dilation(truth, iterations=5) & ~ndimage.binary_dilation(truth, iterations=4)
    values[shell] = -200
    mask = body_mask(values, "ct", everywhere(values))
    assert mask[shell].mean() < 0.02


def test_lungs_are_inside_even_where_the_volume_cuts_them():
    values, truth = lattice()
    values, truth = values[:46], truth[:46]  # the last slice runs through the lungs
    lungs = truth & (values < -700)
    assert lungs[-1].sum() > 500
    mask = body_mask(values, "ct", everywhere(values))
    assert mask[lungs].mean() > 0.99


def test_lungs_open_to_the_border_are_inside():
    values, truth = lattice(table=False)
    # The field of view cuts the patient's right chest wall away, and the lung with it.
    cut = slice(35, None)
    values, truth = values[:, :, cut], truth[:, :, cut]
    lungs = truth & (values < -700)
    assert lungs[45, :, 0].any()
    mask = body_mask(values, "ct", everywhere(values))
    assert mask[lungs].mean() > 0.95


def test_a_cut_through_a_lung_that_is_hardly_denser_than_air():
    """Deep inspiration, emphysema: at the cut most of the lung is as thin as air, but for a vessel here and there."""
    values, truth = lattice(table=False)
    lungs = truth & (values < -700)
    values[lungs] = np.where(np.random.default_rng(0).random(np.count_nonzero(lungs)) < 0.04, -200, -985)
    values, truth, lungs = values[:, :, 35:], truth[:, :, 35:], lungs[:, :, 35:]
    mask = body_mask(values, "ct", everywhere(values))
    assert mask[lungs].mean() > 0.95
    assert mask[~truth].mean() < 0.02


def test_a_body_that_fills_the_volume():
    values = np.random.default_rng(0).normal(50, 20, (20, 30, 40)).astype(np.float32)
    assert body_mask(values, "ct", everywhere(values)).mean() > 0.99


def test_both_legs_are_kept():
    values = np.full((40, 60, 120), -1000, np.float32)
    _, y, x = np.ogrid[:40, :60, :120]
    legs = ((y - 30) ** 2 + (x - 30) ** 2 < 18**2) | ((y - 30) ** 2 + (x - 88) ** 2 < 22**2)
    values[np.broadcast_to(legs, values.shape)] = 40
    mask = body_mask(values, "ct", everywhere(values))
    assert dice(mask, np.broadcast_to(legs, values.shape)) > 0.97


def test_nothing_outside_the_volume():
    values, _ = lattice()
    covered = everywhere(values)
    covered[-5:] = False
    values[-5:] = 0  # the padding of the official rule looks like tissue
    mask = body_mask(values, "ct", covered)
    assert not mask[-5:].any()
    assert mask[-6].any()


@pytest.mark.parametrize("modality", ["ct", "mr"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (30, 21, 25), (1, 40, 40)])
def test_small_volumes_do_not_fail(modality, shape):
    values = np.random.default_rng(0).normal(0, 500, shape).astype(np.float32)
    assert body_mask(values, modality, np.ones(shape, bool)).shape == shape


def test_no_body():
    air = np.full((20, 20, 20), -1000, np.float32)
    assert not body_mask(air, "ct", everywhere(air)).any()
    assert not body_mask(air, "ct", np.zeros_like(air, bool)).any()
    assert not body_mask(np.zeros_like(air), "mr", everywhere(air)).any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ct/val/LIDC-IDRI-0314", "ct/train/TotalSegmentator-example"])
def test_real_torsos(shared, name):
    """Labelled organs lie inside the mask, the posterior rows (table) outside."""
    from SAMv2Core.preprocessing.preprocess import preprocess_report

    volume = read_volume(shared / "data" / f"{name}.nii.gz")
    body = preprocess_report(volume, "ct").body
    assert 0.35 < body.mean() < 0.75
    labels_path = shared / "data" / f"{name}_labels.nii.gz"
    if labels_path.exists():  # both on a 2 mm lattice in LPS order: voxel for voxel
        labels = read_volume(labels_path).array > 0
        assert body[labels].mean() > 0.999


@pytest.mark.parametrize("stride", [(2, 2, 2), (4, 4, 4), (1, 3, 2)])
def test_body_on_features_is_the_majority_of_the_covered_voxels(stride):
    rng = np.random.default_rng(0)
    body = rng.random((9, 7, 10)) > 0.5
    shape = tuple(-(-n // s) + 1 for n, s in zip(body.shape, stride))  # one feature beyond the end on each axis
    found = body_on_features(body, stride, shape)
    for k, j, i in np.ndindex(*shape):
        z, y, x = (slice(n * s, n * s + s) for n, s in zip((k, j, i), stride))
        covered = body[z, y, x]
        assert found[k, j, i] == (covered.size > 0 and covered.mean() >= 0.5)


def test_body_on_features_that_leave_out_the_last_plane():
    """The official networks floor odd depths."""
    body = np.zeros((5, 4, 4), bool)
    body[4] = True
    assert body_on_features(body, (2, 2, 2), (2, 2, 2)).shape == (2, 2, 2)
    assert not body_on_features(body, (2, 2, 2), (2, 2, 2)).any()
