"""Folders of models that a test may fill, and a small network's weights to put there."""

import pytest

from SAMv2Core.models import catalogue


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Empty models folders of the user and of the program."""
    user, bundled = tmp_path / "Modelle ü", tmp_path / "bundled"
    bundled.mkdir()
    monkeypatch.setenv("SAMV2_MODELS_DIR", str(user))
    monkeypatch.setattr(catalogue, "bundled_folder", lambda: bundled)
    return user, bundled


@pytest.fixture(scope="session")
def lite_file(tmp_path_factory):
    """A small light network in our layout, with the metadata that a trained one has."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from SAMv2Core.models.checkpoints import save_network
    from SAMv2Core.network.lite import LiteConfig, LiteNet

    torch.manual_seed(7)
    config = LiteConfig(
        context_channels=(8, 12, 16, 16), detail_channels=(8, 16, 16), merge_channels=16, embedding_dim=32
    )
    path = tmp_path_factory.mktemp("weights") / "lite-ct.safetensors"
    facts = {
        "modalities": '["ct"]',
        "coverage": "chest, abdomen",
        "head_weights": '{"fine": 2, "coarse": 1, "semantic": 1}',
        "calibration": '{"matched_above": 0.8}',
    }
    save_network(LiteNet(config), path, facts)
    return path
