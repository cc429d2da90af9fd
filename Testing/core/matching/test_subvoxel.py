"""The quadratic fit finds summits between voxel centers, and knows when there is none."""

import numpy as np
import pytest

from SAMv2Core.matching.search import build_index, search
from SAMv2Core.matching.similarity import joint_vectors
from SAMv2Core.matching.subvoxel import _STEPS, refine, summit
from Testing.samples.synthetic_embeddings import AnatomyField, lattice, synthetic_embedding


@pytest.mark.parametrize("top", [(0, 0, 0), (0.3, -0.4, 0.1), (-0.5, 0.5, 0.45)])
def test_exact_for_a_quadratic(top):
    curvature = np.array([[0.05, 0.01, 0.0], [0.01, 0.03, -0.005], [0.0, -0.005, 0.02]])
    away = _STEPS - np.array(top)
    values = 0.9 - np.einsum("ni,ij,nj->n", away, curvature, away)
    np.testing.assert_allclose(summit(values[None])[0], top, atol=1e-9)


def test_no_maximum_no_offset():
    saddle = _STEPS[:, 0] ** 2 - _STEPS[:, 1] ** 2
    np.testing.assert_array_equal(summit(np.stack([np.ones(27), saddle, _STEPS[:, 2]])), np.zeros((3, 3)))


def test_never_further_than_a_voxel():
    slope = 0.1 * _STEPS[:, 0] - 0.001 * (_STEPS**2).sum(1)
    np.testing.assert_allclose(summit(slope[None])[0], [1.0, 0.0, 0.0], atol=1e-9)


def test_refining_brings_matches_much_closer():
    field = AnatomyField(1)
    template = synthetic_embedding(field, lattice((200, 160, 160)))
    query = synthetic_embedding(field, lattice((200, 160, 160), center_lps=(3.1, -2.2, 1.7), euler_deg=(0, 0, 12)))
    points = np.random.default_rng(0).uniform(-50, 50, (60, 3))
    index, vectors = build_index(query), joint_vectors(template, points)
    rows, _ = search(index, vectors)
    centers = np.linalg.norm(index.points_lps(rows) - points, axis=1).mean()
    refined = np.linalg.norm(refine(index, vectors, rows) - points, axis=1).mean()
    assert 3.0 < centers < 5.0  # a cube of 8 mm: 0.48 * 8 on average
    assert refined < 0.5 * centers


def test_at_the_end_of_the_lattice_the_center_is_kept():
    emb = synthetic_embedding(AnatomyField(0), lattice((80, 80, 80)), inside=lambda p: np.ones(len(p), bool))
    index = build_index(emb)
    row = index.rows_at(np.array([[0, 4, 4]]))
    vectors = index.vectors(row)
    np.testing.assert_allclose(refine(index, vectors, row), index.points_lps(row))
