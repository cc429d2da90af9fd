"""Tissue shares: what they add up to, what survives halving, sampling, edges and mutual information."""

import numpy as np
import pytest
import torch

from SAMv2Core.errors import InputError
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.volume import Volume
from SAMv2Core.registration.tissue import mutual_information, near_body, sample, tissue_image
from Testing.samples.limb_phantom import limb, tissue_at


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_shares_add_up_to_what_was_scanned(modality):
    image = tissue_image(limb(modality))
    total = image.shares.sum(0)
    assert image.shares.min() >= 0
    torch.testing.assert_close(total, total.round(), atol=1e-5, rtol=0)
    assert 0.2 < float(image.body.float().mean()) < 0.6  # a tube of 58 mm in a box of 160 mm
    assert image.spacing_mm == pytest.approx(2.0)


def test_ct_knows_its_tissues_and_mr_its_quantiles():
    ct, mr = tissue_image(limb("ct")), tissue_image(limb("mr"))
    outside = torch.tensor([[0.0, 0.0, 200.0]])
    assert sample(ct.shares, ct.grid, outside).abs().max() == 0
    k, j, i = np.meshgrid(*(np.arange(n) for n in ct.body.shape), indexing="ij")
    points = ct.grid.to_lps(np.stack([i, j, k], axis=-1).reshape(-1, 3))
    tissue = tissue_at(points)
    near = torch.from_numpy(points)
    found = {name: sample(image.shares, image.grid, near).argmax(0).numpy() for name, image in (("ct", ct), ("mr", mr))}
    assert np.median(found["ct"][tissue == 0]) == 0  # air
    assert np.median(found["ct"][tissue == 2]) == 3  # muscle
    assert np.median(found["ct"][tissue == 4]) >= 4  # bone
    assert np.median(found["mr"][tissue == 2]) in (1, 2)
    assert np.median(found["mr"][tissue == 5]) > 2  # bright marrow


def test_halving_keeps_the_amount_of_each_tissue_and_the_place():
    image = tissue_image(limb("ct"))
    halved = image.halved
    assert halved.spacing_mm == pytest.approx(4.0)
    torch.testing.assert_close(8 * halved.shares.sum((1, 2, 3)), image.shares.sum((1, 2, 3)), rtol=1e-4, atol=1.0)
    points = torch.tensor([[10.0, 5.0, 20.0], [-30.0, 12.0, -44.0]], dtype=torch.float64)
    apart = sample(image.shares, image.grid, points) - sample(halved.shares, halved.grid, points)
    assert apart.abs().max() < 0.5
    assert image.at_spacing(8.0).spacing_mm == pytest.approx(8.0)


def test_edges_point_along_the_world_s_axes_whatever_the_lattice_s():
    array = np.full((40, 40, 40), -1000, np.int16)
    array[8:32, 8:32, 8:32] = 50
    flipped = np.diag([2.0, -2.0, 2.0, 1.0])
    for matrix in (np.diag([2.0, 2.0, 2.0, 1.0]), flipped):
        image = tissue_image(Volume(array, matrix, "cube"), "ct")
        face = matrix[:3, :3] @ [20, 8, 20] + matrix[:3, 3]
        inward = np.sign(matrix[1, 1]) * np.array([0.0, 1.0, 0.0])
        edge = sample(image.edges, image.grid, torch.from_numpy(face[None]))[:, 0].numpy()
        assert edge @ inward > 0.3
        assert np.abs(edge[[0, 2]]).max() < 0.05


def test_information_is_that_of_the_textbook():
    independent = torch.ones(3, 4)
    dependent = torch.eye(4)
    assert float(mutual_information(independent)) == pytest.approx(0.0, abs=1e-5)
    assert float(mutual_information(dependent)) == pytest.approx(np.log(4), abs=1e-4)


def test_the_rim_is_as_wide_as_asked_and_ends_with_the_scan():
    image = tissue_image(limb("ct")).at_spacing(4.0)
    grown = near_body(image, 12.0)
    assert not (grown & (image.shares.sum(0) < 0.5)).any()
    middle = grown.shape[0] // 2, grown.shape[1] // 2
    across = int(grown[middle].sum() - image.body[middle].sum())
    assert 1 <= across <= 6  # 3 voxels on either side, or as far as the scan reaches


def test_a_volume_without_a_body_is_refused():
    with pytest.raises(InputError):
        tissue_image(Volume(np.full((20, 20, 20), -1000, np.int16), np.diag([3.0, 3, 3, 1]), "air"), "ct")


def test_ct_knows_its_bones_but_not_specks_and_mr_none():
    scan = limb("ct")
    array = scan.array.copy()
    array[30:33, 26:29, 40:43] = 900  # 0.7 ml
    ct = tissue_image(Volume(array, scan.ijk_to_lps, scan.source), "ct")
    k, j, i = np.meshgrid(*(np.arange(n) for n in ct.body.shape), indexing="ij")
    tissue = tissue_at(ct.grid.to_lps(np.stack([i, j, k], axis=-1).reshape(-1, 3)))
    found = ct.bone.numpy().ravel()
    assert found[tissue == 4].mean() > 0.9  # the smoothed rims of small pieces are missed
    assert found[tissue == 2].mean() < 0.05
    speck = scan.grid.to_lps(np.array([[41.0, 27.0, 31.0]]))
    assert sample(ct.bone.float()[None], ct.grid, torch.from_numpy(speck)) == 0
    far = sample(ct.at_spacing(4.0).bone_distance, ct.at_spacing(4.0).grid, torch.from_numpy(speck))
    assert far > 2.0
    assert tissue_image(limb("mr")).bone is None and tissue_image(limb("mr")).bone_distance is None


def test_sampling_is_the_same_with_any_number_of_threads():
    channels = torch.rand(3, 9, 8, 7, generator=torch.Generator().manual_seed(0))
    grid = Grid((9, 8, 7), np.diag([2.0, 3.0, 4.0, 1.0]))
    places = torch.from_numpy(np.random.default_rng(0).uniform(-4, 36, (5, 24, 3)))
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 7):  # 7 does not divide the places
            torch.set_num_threads(count)
            points = places.clone().requires_grad_()
            values = sample(channels, grid, points)
            values.square().sum().backward()
            found.append((values.detach(), points.grad))
    finally:
        torch.set_num_threads(threads)
    assert values.shape == (3, 5, 24) and float(values.max()) > 0.5
    for values, gradient in found[1:]:
        assert torch.equal(values, found[0][0]) and torch.equal(gradient, found[0][1])


def test_not_a_number_is_air_whether_or_not_a_ct_has_its_rescale():
    """A CT stored 1024 too high has its air at 0: NaN must become that, not -1024, which no scanner gives."""
    ct = limb("ct")
    hu = np.round(ct.array).astype(np.float32)
    corner = (slice(0, 6),) * 3
    hu[corner] = -1024.0
    shifted = hu + 1024
    shifted[corner] = np.nan
    told, found = (tissue_image(Volume(a, ct.ijk_to_lps, modality="ct")) for a in (hu, shifted))
    torch.testing.assert_close(found.shares, told.shares, atol=1e-4, rtol=0)  # float32 of values up to 4000
    assert torch.equal(found.body, told.body)
