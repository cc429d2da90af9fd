"""Joint vectors: geometry of the heads, weights, and what must not be compared."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from SAMv2Core.embedding.embedding import Embedding, FeatureMap
from SAMv2Core.errors import ModelError
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.matching.similarity import (
    check_comparable,
    joint_vectors,
    lattice_vectors,
    vector_length,
    weighted_heads,
)
from Testing.samples.synthetic_embeddings import AnatomyField, lattice, synthetic_embedding

INPUT = Grid((24, 32, 40), np.diag([2.0, 2.0, 2.0, 1.0]))


def random_head(name, stride, seed, channels=8, input_grid=INPUT):
    shape = tuple(n // s for n, s in zip(input_grid.shape_zyx, stride))
    vectors = torch.randn((channels, *shape), generator=torch.Generator().manual_seed(seed))
    return FeatureMap(name, F.normalize(vectors, dim=0), input_grid.strided(stride, shape))


@pytest.fixture(scope="module")
def emb():
    fine, semantic = random_head("fine", (2, 2, 2), 0), random_head("semantic", (2, 2, 2), 1)
    coarse = random_head("coarse", (4, 8, 8), 2, channels=6)  # the official coarse head is anisotropic too
    body = np.ones(fine.grid.shape_zyx, dtype=bool)
    weights = {"fine": 0.5, "coarse": 0.3, "semantic": 0.2}
    return Embedding(fine, coarse, semantic, body, INPUT, INPUT, "ct", "random", "0" * 64, weights)


def all_voxels(emb):
    return np.arange(emb.fine.grid.n_voxels)


def test_vectors_have_unit_length_and_all_heads(emb):
    vectors = lattice_vectors(emb, all_voxels(emb))
    assert vectors.shape == (12 * 16 * 20, 22) and vector_length(emb) == 22
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)), atol=1e-5, rtol=0)


def test_dot_product_is_the_weighted_mean_of_the_cosines(emb):
    upsampled = F.interpolate(emb.coarse.vectors[None], size=emb.fine.grid.shape_zyx, mode="trilinear")[0]
    maps = {
        "fine": emb.fine.vectors,
        "coarse": F.normalize(upsampled, dim=0),
        "semantic": emb.semantic.vectors,
    }
    expected = sum(
        weight * (maps[name].reshape(maps[name].shape[0], -1).T @ maps[name].reshape(maps[name].shape[0], -1)[:, 5])
        for name, weight in emb.head_weights.items()
    )
    vectors = lattice_vectors(emb, all_voxels(emb))
    # interpolate(align_corners=False) is our reference for the coarse head's geometry: equal up to float32
    # sums
    torch.testing.assert_close(vectors @ vectors[5], expected, atol=2e-5, rtol=0)


def test_sampling_at_a_voxel_center_is_a_look_up(emb):
    chosen = np.array([0, 7, 1234, 3839])
    z, y, x = np.unravel_index(chosen, emb.fine.grid.shape_zyx)
    points = emb.fine.grid.to_lps(np.stack([x, y, z], axis=1))
    torch.testing.assert_close(joint_vectors(emb, points), lattice_vectors(emb, chosen), atol=1e-5, rtol=0)


def test_the_layout_in_memory_changes_no_vector(emb):
    """The cache keeps voxel after voxel, the network makes channel after channel."""
    vectors = emb.fine.vectors.half()
    voxel_major = vectors.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    chosen = np.array([3839, 0, 7, 7])
    of = [
        lattice_vectors(dataclasses.replace(emb, fine=dataclasses.replace(emb.fine, vectors=v)), chosen)
        for v in (vectors, voxel_major)
    ]
    assert voxel_major.stride(0) == 1 and torch.equal(*of)


def test_between_two_voxels_both_count_the_same(emb):
    a, b = emb.fine.vectors[:, 3, 4, 5], emb.fine.vectors[:, 3, 4, 6]
    point = emb.fine.grid.to_lps(np.array([[5.5, 4, 3]]))
    expected = F.normalize(a + b, dim=0) * 0.5**0.5
    torch.testing.assert_close(joint_vectors(emb, point)[0, :8], expected, atol=1e-5, rtol=0)


def test_beyond_the_lattice_the_border_is_taken(emb):
    corner = emb.fine.grid.to_lps(np.zeros((1, 3)))
    torch.testing.assert_close(joint_vectors(emb, corner - 500), joint_vectors(emb, np.full((1, 3), -500.0)))


def test_an_axis_of_one_voxel_can_be_sampled():
    flat = Grid((2, 32, 40), np.diag([2.0, 2.0, 2.0, 1.0]))
    head = random_head("fine", (2, 2, 2), 3, input_grid=flat)
    coarse = FeatureMap("coarse", F.normalize(torch.ones(4, 1, 2, 2), dim=0), flat.strided((2, 16, 16), (1, 2, 2)))
    emb = Embedding(head, coarse, None, np.ones((1, 16, 20), bool), flat, flat, "ct", "m", "0")
    assert torch.isfinite(joint_vectors(emb, np.array([[10.0, 10.0, 1.0]]))).all()


def test_half_precision_storage_moves_no_cosine_by_more_than_rounding(emb):
    half = dataclasses.replace(
        emb, fine=FeatureMap("fine", emb.fine.vectors.half(), emb.fine.grid), semantic=emb.semantic
    )
    difference = lattice_vectors(half, all_voxels(emb)) - lattice_vectors(emb, all_voxels(emb))
    assert difference.norm(dim=1).max() < 1e-3  # 11-bit mantissa


@pytest.mark.parametrize("turn", [(0, 0, 90), (20, -15, 30)])
@pytest.mark.parametrize("left_handed", [False, True])
def test_the_same_place_looks_the_same_on_any_lattice(turn, left_handed):
    field = AnatomyField(3)
    a = synthetic_embedding(field, lattice((160, 120, 140)))
    b = synthetic_embedding(field, lattice((170, 150, 150), 6.0, (4, -3, 5), turn, left_handed))
    points = np.random.default_rng(0).uniform(-30, 30, (50, 3))
    cosines = (joint_vectors(a, points) * joint_vectors(b, points)).sum(1)
    assert cosines.min() > 0.99  # trilinear interpolation of waves of 40 mm on lattices of 8 and 16 mm


def test_heads_without_weight_are_left_out_and_weights_are_normalized(emb):
    chosen = dataclasses.replace(emb, head_weights={"fine": 3.0, "coarse": 1.0, "semantic": 0.0})
    assert [(head.name, weight) for head, weight in weighted_heads(chosen)] == [
        ("fine", 0.75),
        ("coarse", 0.25),
    ]
    assert [weight for _, weight in weighted_heads(dataclasses.replace(emb, head_weights={}))] == [1 / 3] * 3


def test_no_weight_at_all_is_an_error(emb):
    with pytest.raises(ModelError, match="positive weight"):
        weighted_heads(dataclasses.replace(emb, head_weights={"fine": 0.0}))


@pytest.mark.parametrize(
    "change",
    [{"model": "other"}, {"model_sha256": "1" * 64}, {"semantic": None}, {"head_weights": {"fine": 1.0}}],
    ids=["model", "weights file", "heads", "head weights"],
)
def test_different_models_are_not_compared(emb, change):
    check_comparable(emb, emb)
    with pytest.raises(ModelError) as caught:
        check_comparable(emb, dataclasses.replace(emb, **change))
    assert caught.value.remedy
