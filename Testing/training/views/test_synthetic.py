"""Synthetic views of the paper's recipes: the same anatomy in another contrast."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from Testing.samples.training_samples import TINY, write_phantom_index
from Training.data.index import read_index
from Training.engine.recipe import load_recipe
from Training.views.patch_intensity import IntensityOptions
from Training.views.patches import PatchOptions, ScanReader, draw_pair
from Training.views.synthetic import synthetic_crop

OPTIONS = PatchOptions((16, 48, 48), margin_zyx=(2, 6, 6), independent=0.0)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return ScanReader(read_index(write_phantom_index(tmp_path_factory.mktemp("index"), n_train=1)))


def explained(image, labels):
    """Share of the variance of an image that labels explain."""
    within = sum(image[labels == label].var() * (labels == label).sum() for label in np.unique(labels))
    return 1 - within / (image.var() * image.size)


def test_contrast_is_another_and_anatomy_the_same(reader):
    entry = reader.index["ct0"]
    stored, body, labels = (np.array(reader(path)) for path in (entry.image, entry.body, entry.labels))
    organs = np.where(body > 0, labels, 4)
    signs = []
    for seed in range(6):
        image = synthetic_crop(stored, body, labels, "ct", np.random.default_rng(seed))
        assert image.shape == stored.shape and image.dtype == np.int16
        assert image.min() >= -1024 and image.max() <= 3071
        inside = (labels > 0) & (body > 0)
        moved = np.roll(organs, 12, axis=1)
        # Anatomy: what the labels separate differs, at their own place and nowhere else.
        assert explained(image.astype(float), organs) > 2 * explained(image.astype(float), moved)
        signs.append(np.sign(np.corrcoef(stored[inside], image[inside])[0, 1]))
    assert {-1.0, 1.0} == set(signs)  # bright turns dark as often as not


def test_a_share_of_the_views_is_synthetic_and_their_places_are_kept(reader):
    entry = reader.index["ct0"]
    changed = 0
    for seed in range(20):
        real, mixed = (
            draw_pair(reader, entry, np.random.default_rng(seed), OPTIONS, IntensityOptions(synthetic=share))[0]
            for share in (0.0, 0.5)
        )
        assert torch.equal(real.fine.points, mixed.fine.points)
        changed += not torch.equal(real.image, mixed.image)
    assert 4 <= changed <= 16  # binomial, 20 of 0.5: beyond in 1 of 300


def test_it_is_an_option_of_every_recipe_of_the_paper():
    for name in ("sam", "sampp", "aggsam", "crosssam"):
        assert load_recipe(name, TINY).intensity.synthetic == 0.0
        assert load_recipe(name, ["intensity.synthetic=0.3"]).intensity.synthetic == 0.3
