"""Patches: every voxel lies where it says, and intensities change as drawn."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from SAMv2Core.network.build import build_network
from Testing.samples.training_samples import MR_SHIFT_LPS, TINY, write_phantom_index
from Training.data.index import AIR, Entry, Index, read_index, to_network
from Training.engine.recipe import load_recipe
from Training.tasks.maps import heads
from Training.views.intensity import (
    LEVELS,
    IntensityOptions,
    apply_intensity,
    blur,
    draw_curve,
    draw_intensity,
)
from Training.views.patches import (
    COARSE_STRIDE,
    FINE_STRIDE,
    PatchOptions,
    ScanReader,
    draw_patches,
    level_shape,
    render,
)
from Training.views.registered import draw_registered_pair
from Training.views.semantic import draw_labelled_scans

PLAIN = IntensityOptions(noise=(0.0, 0.0))
TURNED = PatchOptions((16, 40, 48), scale=(0.8, 1.2), rotation_deg=20.0, margin_zyx=(2, 4, 4))
SLOPE = np.array([3.0, -2.0, 5.0])  # HU per mm along x, y, z (LPS)


@pytest.fixture(scope="module")
def ramp(tmp_path_factory):
    """A scan whose HU are a linear function of the place, with labels; turned lattice."""
    folder = tmp_path_factory.mktemp("ramp")
    entry = Entry(
        "ramp", "g", "ct", "image.npy", "body.npy", (60, 64, 70), (-50.0, -70.0, 300.0), labels="labels.npy",
        direction=(0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0), split="train",
    )  # fmt: skip
    k, j, i = np.indices(entry.shape_zyx).reshape(3, -1)
    lps = entry.grid.to_lps(np.stack([i, j, k], axis=1))
    np.save(folder / "image.npy", np.round(lps @ SLOPE - 1500).astype(np.int16).reshape(entry.shape_zyx))
    np.save(folder / "body.npy", np.ones(entry.shape_zyx, np.uint8))
    np.save(folder / "labels.npy", (np.indices(entry.shape_zyx)[0] // 10).astype(np.uint8))
    return ScanReader(Index(folder, (entry,))), entry


def fine_means(patch):
    """(1, 1, D, H, W) averaged to the fine lattice and flattened."""
    return torch.nn.functional.avg_pool3d(patch, 2).flatten()


@pytest.mark.parametrize("seed", range(4))
def test_a_voxels_value_is_that_of_its_place(ramp, seed):
    reader, entry = ramp
    for view in draw_patches(reader, entry, np.random.default_rng(seed), TURNED, PLAIN):
        patch = render([view])
        assert patch.shape == (1, 1, 16, 40, 48)
        expected = to_network(view.fine.points.double().numpy() @ SLOPE - 1500)
        lattice = entry.grid.to_ijk(view.fine.points.numpy())
        deep = np.all((lattice > 2) & (lattice < entry.grid.size_ijk - 3), axis=1)  # border voxels mix with padding
        assert deep.sum() > 500
        # Rounding to whole HU is 0.03 gray levels, float32 millimeters add a little.
        np.testing.assert_allclose(fine_means(patch).numpy()[deep], expected[deep], atol=0.06)
        labels = np.rint(lattice[:, 2]).astype(int) // 10
        clear = deep & (np.abs(lattice[:, 2] % 10 - 9.5) > 0.6)
        assert view.labels is not None
        np.testing.assert_array_equal(view.labels.numpy()[clear], labels[clear])


def test_levels_match_the_networks_feature_maps():
    net = build_network("sam")
    for size in ((32, 96, 96), (10, 34, 50), (9, 33, 47)):
        maps = heads(net, torch.zeros(1, 1, *size), ("fine", "coarse"), torch.no_grad)
        assert tuple(maps["fine"].shape[2:]) == level_shape(size, FINE_STRIDE)
        assert tuple(maps["coarse"].shape[2:]) == level_shape(size, COARSE_STRIDE)


def test_views_share_a_point_unless_drawn_independently(ramp):
    reader, entry = ramp
    small = replace(TURNED, size_zyx=(8, 32, 32), margin_zyx=(1, 2, 2), independent=0.0)
    for seed in range(10):
        a, b = draw_patches(reader, entry, np.random.default_rng(seed), small, PLAIN)
        assert float(torch.cdist(a.fine.points, b.fine.points).min()) < 4.0


def test_what_lies_outside_the_scan_is_air_and_not_valid(ramp):
    reader, entry = ramp
    large = PatchOptions((160, 160, 160), independent=0.0)
    view, _ = draw_patches(reader, entry, np.random.default_rng(0), large, PLAIN)
    lattice = entry.grid.to_ijk(view.fine.points.numpy())
    outside = np.any((lattice < -2) | (lattice > entry.grid.size_ijk + 1), axis=1)
    assert outside.mean() > 0.5
    assert not view.fine.valid.numpy()[outside].any()
    assert fine_means(render([view])).numpy()[outside] == pytest.approx(to_network(float(AIR)))


def test_registered_views_share_the_cts_frame(tmp_path):
    index = read_index(write_phantom_index(tmp_path, n_train=1, pairs=True))
    (ct, mr) = index.pairs("train", registered=True)[0]
    # The MR's voxels are those of its body, whatever the recipe says of self-supervised pairs (official code).
    recipe = load_recipe("crosssam", [*TINY, "registered.jitter_voxels=0", "patch.voxels=scan"])
    reader = ScanReader(index)
    mr_view, ct_view = draw_registered_pair(reader, ct, mr, np.random.default_rng(1), recipe)
    assert (mr_view.name, ct_view.name) == ("mr0", "ct0")
    # The MR lies MR_SHIFT_LPS beside the CT, so its points come back by that.
    own = mr.grid.to_ijk(mr_view.fine.points.numpy() + MR_SHIFT_LPS)
    inside = np.all((own > -0.5) & (own < mr.grid.size_ijk - 0.5), axis=1)
    body = reader(mr.body)
    x, y, z = np.rint(own[inside]).astype(int).T
    np.testing.assert_array_equal(mr_view.fine.valid.numpy()[inside], body[z, y, x] > 0)
    # The same lattice shifted: a voxel of the CT within the shift of its border is beyond the MR.
    assert ct_view.fine.outside is not None
    moved = mr.grid.to_ijk(ct_view.fine.points.numpy() + MR_SHIFT_LPS)
    beyond = np.any((moved < -0.5) | (moved > mr.grid.size_ijk - 0.5), axis=1)
    np.testing.assert_array_equal(ct_view.fine.outside.numpy(), beyond & ct_view.fine.valid.numpy())


def test_labelled_scans_are_two_of_one_group(tmp_path):
    index = read_index(write_phantom_index(tmp_path, n_train=2))
    recipe = load_recipe("sampp", TINY)
    for seed in range(5):
        entries = index.select(None, "train", labelled=True)
        views = draw_labelled_scans(ScanReader(index), entries, np.random.default_rng(seed), recipe)
        assert {view.name for view in views} == {"ct0", "ct1"}
        assert all(int((view.labels > 0).sum()) > 0 for view in views)


def test_curves_rise_from_end_to_end_or_fall_when_inverted():
    rng = np.random.default_rng(0)
    for _ in range(50):
        up = draw_curve(rng, IntensityOptions(inversion=0.0))
        down = draw_curve(rng, IntensityOptions(inversion=1.0))
        assert up.shape == (LEVELS,) and up[0] == 0 and up[-1] == 1 and np.all(np.diff(up) >= -1e-6)
        assert down[0] == 1 and down[-1] == 0 and np.all(np.diff(down) <= 1e-6)


def test_an_inverted_curve_maps_by_its_table_and_only_in_the_body():
    options = IntensityOptions(curve=1.0, curve_points=(2, 2), inversion=1.0, own_range=0.0, noise=(0, 0))
    draws = [draw_intensity(np.random.default_rng(n), options) for n in (0, 1)]
    patches = torch.linspace(-50, 205, 2 * 8 * 8 * 8).view(2, 1, 8, 8, 8)
    body = torch.zeros_like(patches, dtype=torch.bool)
    body[..., 4:] = True
    found = apply_intensity(patches, body, draws, [2.0, 2.0])
    expected = torch.where(body, 155 - patches, patches)  # upside down on [-50, 205]
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    own = [replace(draw, own_range=True) for draw in draws]
    found = apply_intensity(patches, None, own, [2.0, 2.0])
    low, high = patches.flatten(1).amin(1).view(2, 1, 1, 1, 1), patches.flatten(1).amax(1).view(2, 1, 1, 1, 1)
    torch.testing.assert_close(found, low + high - patches, atol=1e-3, rtol=0)


def test_blur_is_gaussian_with_each_patchs_own_width():
    patches = torch.randn(2, 1, 12, 14, 16, generator=torch.Generator().manual_seed(0))
    found = blur(patches, [1.5, 0.7])
    for patch, result, sigma in zip(patches, found, (1.5, 0.7)):
        expected = ndimage.gaussian_filter(patch[0].numpy(), sigma, mode="nearest", truncate=4.0)
        # Taps end at 2.5 deviations of the widest: 1 % of the weight.
        np.testing.assert_allclose(result[0].numpy(), expected, atol=0.02)


def test_blur_is_in_millimeters_of_the_scan():
    edge = torch.zeros(2, 1, 8, 8, 24)
    edge[..., 12:] = 100.0
    draws = [replace(draw_intensity(np.random.default_rng(0), PLAIN), blur_mm=3.0)] * 2
    found = apply_intensity(edge, None, draws, [1.6, 2.4])
    # Slope of a blurred step: height / (sqrt(2 pi) sigma), sigma in voxels; taps and their end cost some percent.
    slopes = (found[..., 12] - found[..., 11])[:, 0, 4, 4]
    assert slopes[1] / slopes[0] == pytest.approx(2.4 / 1.6, rel=0.08)


def test_a_draw_looks_the_same_every_time(ramp):
    reader, entry = ramp
    options = load_recipe("aggsam").intensity
    views = [draw_patches(reader, entry, np.random.default_rng(5), TURNED, options) for _ in range(2)]
    assert torch.equal(render(views[0]), render(views[1]))
