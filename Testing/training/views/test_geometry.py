"""Two-view sampling: correspondences must be exact, whatever rotation, scale and deformation were drawn."""

import numpy as np
import pytest
import torch

from Training.engine.recipe import load_recipe
from Training.views.geometry import (
    COARSE_MM,
    CONTEXT_MM,
    DETAIL_MM,
    ViewOptions,
    crop_coordinates,
    detail_offset,
    draw_map,
    inside_box,
    sample_map,
    sample_scan,
)
from Training.views.pairs import draw_self_pair
from Training.views.scans import Scan, ScanLink, random_body_point

SMALL = ViewOptions(context_size=(24, 32, 32), detail_size=(16, 24, 24), cut_probability=0.0)


def smooth_scan(shape=(40, 50, 60)):
    """A scan whose HU is a smooth function of position, so that values tell places apart."""
    z, y, x = np.meshgrid(*[np.arange(n) * DETAIL_MM for n in shape], indexing="ij")
    hu = (200 * np.sin(x / 25) + 150 * np.cos(y / 20) + 3 * z).astype(np.int16)
    half = hu[::2, ::2, ::2]
    body = np.ones(half.shape, np.uint8)
    index = np.argwhere(body)[:, ::-1].astype(np.float32)
    return Scan("smooth", hu, half, body, index, None, "test", 1.0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["lite-ct", "lite-ctmr"])
def test_view_map_is_inverted_to_a_tenth_of_a_millimeter(name, seed):
    rng = np.random.default_rng(seed)
    options = load_recipe(name).lite.views
    view_map = draw_map(rng, np.array([100.0, 80.0, 60.0]), options)
    half = torch.tensor(options.context_size[::-1]) * CONTEXT_MM / 2
    u = (torch.rand(500, 3, generator=torch.Generator().manual_seed(seed)) * 2 - 1) * half * 0.9
    assert (view_map.to_view(view_map.to_scan(u)) - u).norm(dim=1).max() < 0.1


def test_displacement_at_a_point_equals_that_of_the_whole_crop():
    view_map = draw_map(np.random.default_rng(1), np.zeros(3), SMALL)
    u = crop_coordinates(SMALL.context_size, CONTEXT_MM, torch.zeros(3))
    whole = view_map.to_scan(u.view(-1, 3)).view(u.shape)
    assert torch.allclose(view_map.to_scan(u[5, 6, 7][None])[0], whole[5, 6, 7], atol=1e-3)


def test_sample_scan_reads_voxel_centres_and_fills_outside():
    array = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    points = torch.tensor([[2.0 * 3, 2.0 * 2, 2.0 * 1], [2.0 * 3 + 1, 4.0, 2.0], [-50.0, 0.0, 0.0]])
    values = sample_scan(array, 2.0, points, -1024.0)
    assert values[0] == pytest.approx(array[1, 2, 3])
    assert values[1] == pytest.approx((array[1, 2, 3] + array[1, 2, 4]) / 2)
    assert values[2] == -1024


def test_sample_map_reads_the_voxels_of_its_box():
    features = torch.randn(3, 6, 7, 8, generator=torch.Generator().manual_seed(0))
    offset = torch.tensor([8.0, -16.0, 24.0])
    u = crop_coordinates((6, 7, 8), COARSE_MM, offset)
    sampled = sample_map(features, u.view(-1, 3), COARSE_MM, offset)
    assert torch.allclose(sampled, features.reshape(3, -1).T, atol=1e-5)


def test_detail_box_is_aligned_to_the_coarse_lattice_and_inside_the_context():
    for wish in torch.tensor([[0.0, 0.0, 0.0], [300.0, -300.0, 300.0], [13.0, -9.0, 5.0]]):
        offset, (z, y, x) = detail_offset(wish, SMALL)
        coarse = crop_coordinates(tuple(n // 2 for n in SMALL.context_size), COARSE_MM, torch.zeros(3))
        detail = crop_coordinates(SMALL.detail_size, DETAIL_MM, offset)
        lowest_face = detail[0, 0, 0] - DETAIL_MM / 2
        assert torch.allclose(lowest_face, coarse[z, y, x] - COARSE_MM / 2, atol=1e-4)
        assert z + SMALL.detail_size[0] // 4 <= SMALL.context_size[0] // 2


def test_the_same_anatomy_has_the_same_intensity_in_both_views(monkeypatch):
    monkeypatch.setattr("Training.views.pairs.apply_look", lambda hu, *_: hu)
    scan = smooth_scan()
    pair = draw_self_pair(scan, np.random.default_rng(3), torch.Generator().manual_seed(3), SMALL)
    a, b = pair.views
    u_b = b.map.to_view(a.fine.points.reshape(-1, 3))
    size, _, centre = b.fine.box
    inside = inside_box(u_b, size, CONTEXT_MM, centre, margin=2.0) & (a.fine.body.reshape(-1))
    here = sample_map(a.detail[None], crop_coordinates(*a.fine.box).view(-1, 3), DETAIL_MM, a.fine.box[2])[inside, 0]
    there = sample_map(b.detail[None], u_b, DETAIL_MM, centre)[inside, 0]
    assert inside.sum() > 50
    # One grey level is 16 HU; linear interpolation of this field errs by less.
    assert (here - there).abs().median() < 0.5


def test_scan_link_carries_points_and_trusts_only_supported_places():
    lattice = np.stack(np.meshgrid(*[np.arange(4) * 16.0] * 3, indexing="ij")[::-1], -1).astype(np.float32)
    support = np.ones((4, 4, 4), np.float32) * 2
    support[:, :, 3] = 0
    moved, trusted = ScanLink(lattice + 5, support).transfer(torch.tensor([[10.0, 20.0, 30.0], [47.0, 20.0, 30.0]]))
    assert torch.allclose(moved[0], torch.tensor([15.0, 25.0, 35.0]), atol=1e-3)
    assert trusted.tolist() == [True, False]


def test_views_are_the_same_on_a_rerun():
    scan = smooth_scan()
    first, second = (
        draw_self_pair(scan, np.random.default_rng(7), torch.Generator().manual_seed(7), SMALL) for _ in range(2)
    )
    assert torch.equal(first.views[0].detail, second.views[0].detail)
    assert random_body_point(scan, np.random.default_rng(0)).shape == (3,)
