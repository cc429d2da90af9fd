"""Exports: what comes out loads again and computes the same."""

import json

import pytest
import torch

from SAMv2Core.models.checkpoints import load_network, read_checkpoint
from SAMv2Core.network.build import build_network
from Training.engine.checkpoint import write_checkpoint
from Training.engine.recipe import NetworkOptions, as_mapping, load_recipe
from Training.export import main
from Training.tasks.networks import build, start


def checkpoint(tmp_path, recipe, average=None, changes=()):
    """A training checkpoint with fresh weights, and these weights."""
    torch.manual_seed(1)
    loaded = load_recipe(recipe, changes)
    net = build(loaded.network)
    state = {"net": net.state_dict(), "average": average or {}, "step": 7, "recipe": as_mapping(loaded)}
    write_checkpoint(tmp_path / "last.pt", state)
    return tmp_path / "last.pt", net.state_dict()


def test_our_format_round_trip(tmp_path):
    path, state = checkpoint(tmp_path, "sampp")
    (tmp_path / "facts.json").write_text(json.dumps({"modalities": "ct", "n_scans": 3}))
    out = tmp_path / "mine.safetensors"
    assert main([str(path), str(out), "--facts", str(tmp_path / "facts.json")]) == 0
    net, found = load_network(out)
    assert (found.architecture, found.metadata["steps"], found.metadata["n_scans"]) == ("sampp", "7", "3")
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=1e-3, atol=1e-6)  # half precision matrices


@pytest.mark.parametrize(("recipe", "name"), [("sam", "SAM.pth"), ("crosssam", "CrossSAM_ct_mri.pth")])
def test_official_layout_round_trip_is_exact(tmp_path, recipe, name):
    path, state = checkpoint(tmp_path, recipe)
    assert main([str(path), str(tmp_path / name)]) == 0
    content = torch.load(tmp_path / name, weights_only=True)
    assert set(content) == {"meta", "state_dict"}
    found = read_checkpoint(tmp_path / name, recipe)
    assert set(found.state) == set(state)
    assert all(torch.equal(found.state[key], value) for key, value in state.items())


def test_the_average_is_exported_where_there_is_one(tmp_path):
    average = {key: value + 1 for key, value in build_network("lite").state_dict().items()}
    path, _ = checkpoint(tmp_path, "lite-ct", average)
    assert main([str(path), str(tmp_path / "lite.safetensors")]) == 0
    net, found = load_network(tmp_path / "lite.safetensors")
    assert found.architecture == "lite"
    key = "detail.stem.bn.bias"
    assert torch.equal(net.state_dict()[key], average[key])


def test_mean_with_other_weights(tmp_path):
    path, state = checkpoint(tmp_path, "sampp")
    assert main([str(path), str(tmp_path / "first.safetensors")]) == 0
    stored = torch.load(path, weights_only=True)
    stored["net"] = {key: value + 4 if value.is_floating_point() else value for key, value in state.items()}
    write_checkpoint(path, stored)
    mixing = ["--with", str(tmp_path / "first.safetensors"), "--share", "0.75"]
    assert main([str(path), str(tmp_path / "mean.safetensors"), *mixing]) == 0
    key = next(name for name in state if name.endswith("bias"))
    found = load_network(tmp_path / "mean.safetensors")[0].state_dict()[key]
    torch.testing.assert_close(found, state[key] + 3, rtol=1e-3, atol=1e-3)
    assert "first.safetensors" in json.loads((tmp_path / "mean.json").read_text())["origin"]


def test_mean_with_another_network_is_refused(tmp_path, capsys):
    path, _ = checkpoint(tmp_path, "sampp")
    assert main([str(path), str(tmp_path / "first.safetensors")]) == 0
    path, _ = checkpoint(tmp_path, "lite-ct")
    mixing = ["--with", str(tmp_path / "first.safetensors")]
    assert main([str(path), str(tmp_path / "mean.safetensors"), *mixing]) == 3
    assert "another network" in capsys.readouterr().err
    assert main([str(path), str(tmp_path / "mean.safetensors"), *mixing, "--share", "1"]) == 2


def test_what_cannot_be_exported_says_why(tmp_path, capsys):
    path, _ = checkpoint(tmp_path, "sam", changes=["network.narrow=8"])
    assert main([str(path), str(tmp_path / "narrow.safetensors")]) == 4
    assert "does not fit the network sam" in capsys.readouterr().err
    path, _ = checkpoint(tmp_path, "lite-ct")
    assert main([str(path), str(tmp_path / "lite.pth")]) == 2
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    assert main([str(tmp_path / "other.pt"), str(tmp_path / "x.safetensors")]) == 3
    assert not list(tmp_path.glob("*.safetensors"))


def test_crosssam_starts_from_aggsams_weights(tmp_path):
    path, state = checkpoint(tmp_path, "aggsam")
    assert main([str(path), str(tmp_path / "aggsam.pth")]) == 0
    net = build(NetworkOptions("crosssam", start=str(tmp_path / "aggsam.pth")))
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    plain = build_network("sam")  # has no semantic head: the file's is left out
    start(plain, str(tmp_path / "aggsam.pth"))
    assert torch.equal(plain.neck.fpn_convs[0].conv.weight, state["neck.fpn_convs.0.conv.weight"])
