"""pca.py: equal vectors get equal colors, directions are found, signs do not flip."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from SAMv2Core.embedding.pca import embedding_pca
from SAMv2Core.errors import UsageError
from Testing.samples.embedding_samples import random_embedding


def with_fine(vectors: torch.Tensor):
    """A random embedding with other fine vectors (12, 6, 8, 10) and everything inside the body."""
    emb = random_embedding()
    return dataclasses.replace(
        emb, fine=dataclasses.replace(emb.fine, vectors=vectors.half()), body=np.ones((6, 8, 10), bool)
    )


def gradient_vectors() -> torch.Tensor:
    """Component 7 varies most, along x; 2 less, along y; 4 least, along z; the others are constant."""
    vectors = torch.full((12, 6, 8, 10), 0.1)
    vectors[7] = torch.linspace(-1.0, 1.0, 10)
    vectors[2] = torch.linspace(-0.6, 0.6, 8)[:, None]
    vectors[4] = torch.linspace(-0.3, 0.3, 6)[:, None, None]
    return vectors


def test_the_main_directions_become_red_green_and_blue():
    colors = embedding_pca(with_fine(gradient_vectors()))
    assert colors.shape == (6, 8, 10, 3) and colors.dtype == np.uint8
    red, green, blue = colors[3, 4, :, 0], colors[3, :, 5, 1], colors[:, 4, 5, 2]
    for ramp in (red, green, blue):  # increasing with the largest component: the sign is fixed
        assert np.all(np.diff(ramp.astype(int)) >= 0) and ramp[0] < 10 and ramp[-1] > 245
    assert np.ptp(colors[3, 4, :, 1].astype(int)) <= 2  # green does not change along x


def test_mirrored_vectors_keep_their_axes_and_the_result_is_reproducible():
    emb = random_embedding()
    np.testing.assert_array_equal(embedding_pca(emb), embedding_pca(emb))
    a = embedding_pca(with_fine(gradient_vectors()))
    b = embedding_pca(with_fine(gradient_vectors().flip(-1)))
    np.testing.assert_allclose(a[..., ::-1, :].astype(int), b.astype(int), atol=1)


@pytest.mark.parametrize("head", ["fine", "coarse", "semantic"])
def test_every_head_on_its_own_grid_and_black_outside_the_body(head):
    emb = random_embedding()
    body = np.zeros_like(emb.body)
    body[2:, 2:, 2:] = True
    emb = dataclasses.replace(emb, body=body)
    colors = embedding_pca(emb, head)
    assert colors.shape == (*getattr(emb, head).grid.shape_zyx, 3)
    assert not colors[0, 0, 0].any()
    assert colors[1:, 1:, 1:].any()
    if head != "coarse":
        assert not colors[~body].any()


def test_nothing_inside_the_body_is_black():
    emb = random_embedding()
    assert not embedding_pca(dataclasses.replace(emb, body=np.zeros_like(emb.body))).any()


def test_an_unknown_head_names_those_that_there_are():
    with pytest.raises(UsageError, match="fine, coarse"):
        embedding_pca(random_embedding(semantic=False), "semantic")
