"""Synthesis from label maps: the anatomy's borders stay, the contrast does not, the seed decides."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy import ndimage

from Training.views.geometry import CONTEXT_MM, ViewOptions, draw_map
from Training.views.synthesis import (
    HIGH,
    LOW,
    SynthesisOptions,
    anatomy_labels,
    draw_contrast,
    sharpened,
    smooth,
    strong_views,
    synthesize,
    tissue_labels,
)

SHAPE = (32, 40, 48)
TISSUE_HU = (-100.0, 50.0, 120.0, 600.0)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ball_map(seed: int = 0) -> tuple:
    """Labels 0..12 (balls in an ellipsoid of label 0) and body of SHAPE."""
    rng = np.random.default_rng(seed)
    at = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), -1)
    body = (((at - np.array(SHAPE) / 2) / (np.array(SHAPE) * 0.48)) ** 2).sum(-1) < 1
    labels = np.zeros(SHAPE, np.int64)
    for label in range(1, 13):
        center = np.array(SHAPE) / 2 + rng.uniform(-0.3, 0.3, 3) * SHAPE
        labels[((at - center) ** 2).sum(-1) < rng.uniform(4, 8) ** 2] = label
    return torch.from_numpy(labels * body), torch.from_numpy(body)


def borders(labels: torch.Tensor, body: torch.Tensor) -> np.ndarray:
    """Within one voxel of a border inside the body."""
    array = labels.numpy()
    inner = ndimage.binary_erosion(body.numpy(), iterations=3)
    return (ndimage.maximum_filter(array, 3) != ndimage.minimum_filter(array, 3)) & inner


def steepness(image: torch.Tensor) -> np.ndarray:
    return ndimage.gaussian_gradient_magnitude(image.numpy(), 1.0)


def test_borders_of_the_anatomy_are_those_of_the_image():
    """Over many draws the gradient is steeper at the label borders than elsewhere, and correlates with them; with a map
    moved by 4 voxels it does not."""
    labels, body = ball_map()
    at_border = borders(labels, body)
    inside = ndimage.binary_erosion(body.numpy(), iterations=4)
    right, wrong = [], []
    for seed in range(24):
        gradient = steepness(synthesize(labels, body, generator(seed)))
        right.append(np.corrcoef(gradient[inside], at_border[inside])[0, 1])
        wrong.append(np.corrcoef(gradient[inside], np.roll(at_border, (4, 4, 4), (0, 1, 2))[inside])[0, 1])
    assert np.mean(right) > 0.3
    assert np.mean(np.array(right) > 0.05) > 0.9
    assert abs(np.mean(wrong)) < 0.15


def test_contrast_is_random_in_size_and_sign():
    """Levels of the labels in two draws are unrelated: mean correlation 0 within three standard errors, both signs."""
    labels, body = ball_map()
    quiet = SynthesisOptions(texture=0, noise=0, bias=0, blur_mm=0, thickness_mm=0, merge_probability=0)
    levels = []
    for seed in range(60):
        image = synthesize(labels, body, generator(seed), quiet)
        levels.append([float(image[(labels == label) & body].mean()) for label in range(13)])
    rows = np.array(levels)
    r = np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(rows[::2], rows[1::2])])
    assert abs(r.mean()) < 3 * r.std() / np.sqrt(len(r))
    assert 0.2 < np.mean(r > 0) < 0.8
    ranges = rows.max(1) - rows.min(1)
    assert ranges.min() < 80 < 180 < ranges.max()


def test_the_seed_decides_and_nothing_else():
    labels, body = ball_map()
    real = torch.rand(SHAPE, generator=generator(9)) * 255 - 50
    torch.manual_seed(1)
    first = synthesize(labels, body, generator(3), real=real)
    torch.manual_seed(2)
    assert torch.equal(first, synthesize(labels, body, generator(3), real=real))
    assert not torch.equal(first, synthesize(labels, body, generator(4), real=real))


def test_scale_shape_and_background():
    labels, body = ball_map()
    for seed in range(20):
        contrast = draw_contrast(generator(seed))
        image = synthesize(labels, body, generator(seed), contrast=contrast)
        assert image.shape == labels.shape
        assert image.dtype == torch.float32
        assert image.min() >= LOW
        assert image.max() <= HIGH
        assert torch.isfinite(image).all()
        corner = image[:3, :3, :3].mean()
        assert abs(float(corner) - contrast.background) < 3 * contrast.noise + 1


def test_one_contrast_gives_both_crops_one_look():
    labels, body = ball_map()
    contrast = draw_contrast(generator(5), SynthesisOptions(noise=0, bias=0, texture=0, blur_mm=0, thickness_mm=0))
    fine = synthesize(labels, body, generator(1), contrast=contrast)
    half = (slice(None, None, 2),) * 3
    coarse = synthesize(labels[half], body[half], generator(2), contrast=contrast, spacing_mm=4.0)
    assert torch.allclose(fine[half], coarse)


def test_real_image_lends_its_fine_structure_or_is_blended_in():
    labels, body = ball_map()
    real = smooth(torch.randn(SHAPE, generator=generator(0)), 0.7) * 60 + 50
    quiet = SynthesisOptions(texture=0, noise=0, bias=0, blur_mm=0, thickness_mm=0, full_range_probability=1)
    sharp = dataclasses.replace(quiet, mix_probability=0)
    detail = synthesize(labels, body, generator(1), sharp, real=real)
    within = (labels == 0) & body
    fine = (real - smooth(real, 1.5))[within]
    assert abs(np.corrcoef(detail[within].numpy(), fine.numpy())[0, 1]) > 0.9
    blend = dataclasses.replace(quiet, mix_probability=1, detail=0)
    mixed = synthesize(labels, body, generator(1), blend, real=real)
    pure = synthesize(labels, body, generator(1), blend)
    share = ((mixed - pure) / (real - pure).clamp_min(1))[real - pure > 20]
    assert 0.2 <= float(share.median()) <= 0.8


def phantom(noise_hu: float, seed: int = 0) -> tuple:
    """A blurred, noisy CT of four tissues in known regions, body mask, and the regions."""
    labels, body = ball_map(seed)
    region = (labels.numpy() + 1) % len(TISSUE_HU)
    hu = np.where(body, np.array(TISSUE_HU)[region], -1000)
    noise = np.random.default_rng(seed).normal(0, noise_hu, SHAPE)
    return np.round(ndimage.gaussian_filter(hu, 0.6) + noise).astype(np.int16), body.numpy(), region


def test_tissue_labels_are_the_tissues():
    """Two voxels from the borders, where blur leaves no truth, one cluster fills 95 % of each tissue."""
    hu, body, region = phantom(noise_hu=12.0)
    found = tissue_labels(hu, body)
    assert found.dtype == np.uint8
    assert not found[~body].any()
    assert (found[body] > 0).all()
    main = []
    for tissue in range(len(TISSUE_HU)):
        inner = ndimage.binary_erosion((region == tissue) & body, np.ones((3, 3, 3)), iterations=2)
        ids, counts = np.unique(found[inner], return_counts=True)
        main.append(ids[counts.argmax()])
        assert counts.max() / counts.sum() > 0.95
    assert len(set(main)) == len(TISSUE_HU)
    assert [TISSUE_HU[i] for i in np.argsort(main)] == sorted(TISSUE_HU), "ids go from dark to bright"


def test_noise_is_no_tissue():
    hu = np.random.default_rng(0).normal(50, 20, SHAPE).astype(np.int16)
    found = tissue_labels(hu, np.ones(SHAPE, bool))
    assert np.bincount(found.ravel()).max() / found.size > 0.95


def test_tissue_labels_of_an_empty_or_flat_body():
    assert not tissue_labels(np.zeros(SHAPE, np.int16), np.zeros(SHAPE, bool)).any()
    assert (tissue_labels(np.zeros(SHAPE, np.int16), np.ones(SHAPE, bool)) == 1).all()


def test_blurred_step_becomes_a_step():
    x = torch.from_numpy(ndimage.gaussian_filter1d(np.r_[np.zeros(20), np.ones(20)], 1.0)).float()
    x = x.expand(9, 9, 40).contiguous()
    between = lambda y: int(((y > 0.1) & (y < 0.9)).sum())  # noqa: E731
    assert between(sharpened(x, 0.05)) < 0.35 * between(x)


@pytest.mark.parametrize("has_background", [True, False])
def test_organs_stand_above_tissues(has_background):
    hu, body, _ = phantom(12.0)
    organs = np.zeros(SHAPE, np.uint8) if has_background else np.full(SHAPE, 7, np.uint8)
    organs[5:15, 10:20, 10:20] = 90
    organs[18:25, 20:30, 20:30] = 14
    merged = anatomy_labels(hu, body, organs, n_clusters=10)
    tissue = anatomy_labels(hu, body, n_clusters=10)
    assert merged.dtype == np.uint16
    known = (organs > 0) & body
    assert np.array_equal(merged[~known], tissue[~known])
    ids = {organ: np.unique(merged[known & (organs == organ)]) for organ in (14, 90)}
    assert all(len(i) == 1 and i[0] > 10 for i in ids.values())
    assert ids[14][0] < ids[90][0]


@pytest.mark.parametrize("seed", range(4))
def test_strong_views_stay_invertible(seed):
    options = strong_views(ViewOptions())
    rng = np.random.default_rng(seed)
    view_map = draw_map(rng, np.array([100.0, 80.0, 60.0]), options)
    half = torch.tensor(options.context_size[::-1]) * CONTEXT_MM / 2
    u = (torch.rand(500, 3, generator=generator(seed)) * 2 - 1) * half * 0.9
    assert (view_map.to_view(view_map.to_scan(u)) - u).norm(dim=1).max() < 0.5
