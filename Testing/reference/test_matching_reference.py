"""The official variant against what the official code computed on a CPU in float32 (seeded, not released
weights).

Nearest-neighbor results are equal bit by bit; the fixed-point results, promised within a voxel, turn out
equal too.
"""

import numpy as np
import pytest
import torch

from SAMv2Core.errors import InputError, UsageError
from Testing.reference.official_match import (
    OfficialImage,
    fixed_point,
    nearest,
    nearest_on_grid,
    robust_affine,
    similarity_volume,
    start_patch,
)

pytestmark = pytest.mark.shared
VARIANTS = {"app_cf": (True, False), "app_f": (False, False), "sem_cf": (True, True), "sem_f": (False, True)}


def load(shared, name):
    path = shared / "reference" / name
    if not path.is_file():
        pytest.skip(f"{path} is missing")
    with np.load(path) as file:
        return {key: file[key] for key in file.files}


@pytest.fixture(scope="module")
def matching(shared):
    return load(shared, "matching.npz")


@pytest.fixture(scope="module")
def edge(shared):
    return load(shared, "edge_and_rigid.npz")


def image(matching, number, coarse=True, semantic=True, planes=None):
    """Image 1 or 2; ``planes`` = (fine, coarse) index cuts one slice out of it."""

    def head(name, index):
        vectors = torch.from_numpy(matching[f"{name}{number}"][0].astype(np.float32))
        return vectors if index is None else vectors[:, index : index + 1]

    fine, low = planes or (None, None)
    shape = tuple(matching["imshape_zyx"]) if number == 2 else (24, 120, 130)
    return OfficialImage(
        head("fine", fine),
        head("coarse", low) if coarse else None,
        head("sem", fine) if semantic else None,
        shape if planes is None else (1, *shape[1:]),
        matching[f"norm_ratio{number}"],
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_nearest_is_equal(matching, name):
    source, target = (image(matching, number, *VARIANTS[name]) for number in (1, 2))
    found, score = nearest(source, target, matching["query_points_xyz"])
    np.testing.assert_array_equal(found, matching[f"nn_{name}_fp32_loc_xyz"])
    np.testing.assert_allclose(score, matching[f"nn_{name}_fp32_score"], atol=1e-6)


def test_the_whole_similarity_volume_is_equal(matching):
    volume = similarity_volume(image(matching, 1), image(matching, 2), matching["query_points_xyz"][0])
    np.testing.assert_allclose(volume.numpy(), matching["simmap_sem_cf_pt0_fp32"], atol=1e-6)


def test_query_indices_and_starts(matching):
    source = image(matching, 1)
    np.testing.assert_array_equal(source.to_grid(matching["query_points_xyz"]), matching["grid_query_xyz"])
    patch = start_patch(matching["grid_patch_centre_xyz"], source.grid_shape_zyx)
    np.testing.assert_array_equal(patch, matching["grid_patch"])


def test_fixed_point_is_within_one_voxel(matching):
    source, target = image(matching, 1), image(matching, 2)
    for point, expected, score in zip(
        matching["query_points_xyz"], matching["fixed_point_fp32_loc_xyz"], matching["fixed_point_fp32_score"]
    ):
        found, mean_score = fixed_point(source, target, point)
        assert np.abs(found - expected).max() <= 1
        assert mean_score == pytest.approx(score, abs=1e-6)


def test_robust_regression(edge):
    np.testing.assert_allclose(robust_affine(edge["rlm_q"], edge["rlm_k"]), edge["rlm_params"], atol=1e-8)


@pytest.mark.parametrize(("case", "point"), [("thin_0", 0), ("thin_1", 4)])
def test_one_slice(matching, edge, case, point):
    """The reference keeps no input of its one-slice case; corresponding slices give its points."""
    source, target = image(matching, 1, planes=(10, 5)), image(matching, 2, planes=(11, 5))
    asked = matching["query_points_xyz"][point] * [1, 1, 0]
    found, score = fixed_point(source, target, asked)
    np.testing.assert_allclose(found, edge[case][:3], atol=1)
    assert score == pytest.approx(edge[case][3], abs=0.02)


def test_grid_search_equals_a_full_comparison_in_any_chunk(matching, monkeypatch):
    source, target = image(matching, 1), image(matching, 2)
    whole = nearest_on_grid(source, target, matching["grid_query_xyz"])
    monkeypatch.setattr("Testing.reference.official_match.VOXELS_PER_CHUNK", 1000)
    parts = nearest_on_grid(source, target, matching["grid_query_xyz"])
    np.testing.assert_array_equal(whole[0], parts[0])
    np.testing.assert_allclose(whole[1], parts[1], atol=1e-6)


def test_where_the_official_code_crashes_there_is_an_error(matching, monkeypatch):
    monkeypatch.setattr("Testing.reference.official_match.MIN_SCORE", 0.99)
    with pytest.raises(InputError, match="survived"):
        fixed_point(image(matching, 1), image(matching, 2), matching["query_points_xyz"][0])


def test_embeddings_with_different_heads_are_refused(matching):
    with pytest.raises(UsageError, match="heads"):
        nearest(image(matching, 1), image(matching, 2, semantic=False), matching["query_points_xyz"][:1])
