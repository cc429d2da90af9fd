"""A model by its name or file: it knows its file, and exchanged weights are not loaded."""

from __future__ import annotations

import hashlib

import pytest

from SAMv2Core.embedding.load import load_model
from SAMv2Core.errors import ModelError
from SAMv2Core.models.checkpoints import load_network, save_network
from Testing.samples.bundled import bundle

pytestmark = pytest.mark.usefixtures("folders")


def test_a_loaded_model_knows_its_file(folders, lite_file):
    bundle(lite_file, folders[1])
    model = load_model("lite-ct", "cpu")
    assert model.info.name == "lite-ct" and model.info.trusted
    assert model.info.sha256 == hashlib.sha256(lite_file.read_bytes()).hexdigest()
    assert model.info.head_weights == {"fine": 0.5, "coarse": 0.25, "semantic": 0.25}
    assert model.info.calibration == {"matched_above": 0.8}
    assert model.net.architecture == "lite"


def test_head_weights_are_equal_unless_told(tmp_path, lite_file):
    path = tmp_path / "plain.safetensors"
    save_network(load_network(lite_file)[0], path)
    found = load_model(path, "cpu").info.head_weights
    assert found == dict.fromkeys(("fine", "coarse", "semantic"), 1 / 3)


def test_a_bundled_model_that_was_exchanged_is_not_loaded(folders, lite_file):
    bundle(lite_file, folders[1], recorded="0" * 64)
    with pytest.raises(ModelError):
        load_model("lite-ct", "cpu")
