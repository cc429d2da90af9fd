"""The file of an atlas: round trip, what is refused, joining exemplars."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from SAMv2Core.errors import InputError, ModelError
from SAMv2Core.io.safetensors import read_safetensors, write_safetensors
from SAMv2Core.landmarks.atlas import bundled_path, exemplar, join, load_atlas, save_atlas
from SAMv2Core.matching.similarity import joint_vectors
from SAMv2Core.models.library import list_models, model_info
from Testing.samples.synthetic_embeddings import AnatomyField, lattice, synthetic_embedding

POINTS = {"a": (10.0, 5.0, -20.0), "b": (-30.0, 0.0, 40.0)}


@pytest.fixture(scope="module")
def emb():
    return synthetic_embedding(AnatomyField(), lattice())


def test_an_exemplar_is_the_vectors_at_its_points(emb):
    atlas = exemplar(emb, POINTS, "first", {"b": 0.6})
    assert atlas.names == ("a", "b") and atlas.exemplars == ("first", "first") and atlas.sure.tolist() == [1.0, 0.6]
    expected = joint_vectors(emb, np.array(list(POINTS.values()))).numpy()
    np.testing.assert_allclose(atlas.vectors, expected, atol=1e-3)  # float16


def test_round_trip(emb, tmp_path):
    atlas = join([exemplar(emb, POINTS, "first", {}), exemplar(emb, {"a": POINTS["a"]}, "second", {})])
    atlas = dataclasses.replace(atlas, calibration={"bias": -1.5}, reliability={"a": 0.8})
    save_atlas(atlas, tmp_path / "own.safetensors")
    again = load_atlas(tmp_path / "own.safetensors")
    assert (again.names, again.exemplars, again.model_sha256) == (atlas.names, atlas.exemplars, atlas.model_sha256)
    assert again.calibration == atlas.calibration and again.reliability == atlas.reliability
    np.testing.assert_array_equal(again.vectors, atlas.vectors)
    np.testing.assert_allclose(again.positions_lps, atlas.positions_lps)
    assert repr(again) == "Atlas(2 landmarks of 2 exemplars, model synthetic)"


def test_refusals(emb, tmp_path):
    atlas = exemplar(emb, POINTS, "first", {})
    with pytest.raises(InputError, match="same name"):
        join([atlas, atlas])
    with pytest.raises(ModelError, match="different models"):
        join([atlas, dataclasses.replace(atlas, model_sha256="1" * 64, exemplars=("second",) * 2)])
    with pytest.raises(InputError, match="c of first lie outside"):
        exemplar(emb, {**POINTS, "c": (0, 0, 999)}, "first", {})
    with pytest.raises(InputError, match="no landmark"):
        exemplar(emb, {}, "first", {})
    write_safetensors(tmp_path / "weights.safetensors", {"w": np.zeros(3, np.float32)})
    with pytest.raises(InputError, match="no atlas"):
        load_atlas(tmp_path / "weights.safetensors")
    save_atlas(atlas, tmp_path / "nan.safetensors")
    tensors, metadata = read_safetensors(tmp_path / "nan.safetensors")
    broken = {**tensors, "vectors": np.full_like(tensors["vectors"], np.nan)}
    write_safetensors(tmp_path / "nan.safetensors", broken, metadata)
    with pytest.raises(InputError, match="no atlas"):
        load_atlas(tmp_path / "nan.safetensors")
    for change in ({"sure": [1.0]}, {"names": ()}, {"positions_lps": np.zeros(2)}, {"vectors": np.zeros((2, 2, 2))}):
        with pytest.raises(InputError):  # as it may come from another computer
            dataclasses.replace(atlas, **change)


def test_the_bundled_atlas_belongs_to_the_bundled_weights():
    atlas = load_atlas(bundled_path("lite-ct"))
    assert atlas.model_sha256 == model_info("lite-ct").sha256
    assert len(set(atlas.exemplars)) >= 20 and len(set(atlas.names)) >= 60
    assert not {"NSCLC-IO-05", "LUNG1-002"} & set(atlas.exemplars)  # CC BY-NC: to measure with only
    assert bundled_path("lite-ct").stat().st_size < 2_000_000


def test_an_atlas_is_not_listed_as_a_model():
    assert not [info.name for info in list_models() if "landmarks" in info.name]
