"""Weights files: the released layout loads, every other file is refused with a reason, and no code in one
ever runs."""

from __future__ import annotations

import collections
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from SAMv2Core.errors import ModelError, OutputError
from SAMv2Core.io.safetensors import read_safetensors, write_safetensors
from SAMv2Core.models.checkpoints import export_official, load_network, read_checkpoint, save_network
from SAMv2Core.network.build import build_network
from SAMv2Core.network.lite import LiteConfig, LiteNet
from Testing.reference.reference_weights import reference_shapes

META = {
    "epoch": 1,
    "iter": 20000,
    "mmcv_version": "1.4.7",
    "config": "model = dict()",
    "seed": None,
    "env": {"a": [1.5]},
}
SMALL = LiteConfig(context_channels=(8, 12, 16, 16), detail_channels=(8, 16, 16), merge_channels=16, embedding_dim=32)


@pytest.fixture(scope="module")
def states():
    """State dicts of the layout of the released checkpoints, constant per entry so that they take no time."""

    def values(name, shape, index):
        if name.endswith("num_batches_tracked"):
            return torch.tensor(20000)
        return torch.full(tuple(shape), 1.0 + index / 256)  # exact in half precision

    def state(architecture):
        shapes = reference_shapes(architecture)
        return collections.OrderedDict((k, values(k, s, i)) for i, (k, s) in enumerate(shapes.items()))

    return {architecture: state(architecture) for architecture in ("sam", "sampp")}


def save(path, content):
    torch.save(content, path)
    return path


def assert_loaded(net, state):
    loaded = net.state_dict()
    assert set(loaded) == set(state)
    for name, expected in state.items():
        assert torch.equal(loaded[name], expected), name
        assert loaded[name].dtype in (torch.float32, torch.int64)


@pytest.mark.parametrize("architecture, filename", [("sam", "SAM.pth"), ("sampp", "SAMv2_iter_20000.pth")])
def test_a_released_checkpoint_loads_as_it_is(tmp_path, states, architecture, filename):
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.02}]}
    content = {"meta": META, "state_dict": states[architecture], "optimizer": optimizer}
    net, checkpoint = load_network(save(tmp_path / filename, content))
    assert net.architecture == checkpoint.architecture == architecture
    assert not net.training
    assert checkpoint.warnings == ()
    assert_loaded(net, states[architecture])


def test_a_bare_parallel_half_precision_state_dict_loads_too(tmp_path, states):
    state = {f"module.{k}": v.half() if v.is_floating_point() else v for k, v in states["sam"].items()}
    net, _ = load_network(save(tmp_path / "anything.pth", state))
    assert_loaded(net, states["sam"])


def test_counters_of_normalization_may_be_missing(tmp_path, states):
    state = {name: v for name, v in states["sam"].items() if not name.endswith("num_batches_tracked")}
    net, _ = load_network(save(tmp_path / "s.pth", state))
    assert torch.equal(net.state_dict()["neck.fpn_convs.0.conv.bias"], states["sam"]["neck.fpn_convs.0.conv.bias"])


@pytest.mark.parametrize(
    "filename, wanted, expected, doubtful",
    [
        ("CrossSAM_iter_20000_ct_mr_inter_1.pth", None, "crosssam", False),
        ("SAMv2_iter_20000.pth", None, "sampp", False),
        ("SAMv2_iter_20000.pth", "crosssam", "crosssam", False),
        ("mine.pth", "crosssam", "crosssam", False),
        ("mine.pth", None, "sampp", True),
    ],
)
def test_sampp_and_crosssam_differ_by_name_or_by_word(tmp_path, states, filename, wanted, expected, doubtful):
    found = read_checkpoint(save(tmp_path / filename, states["sampp"]), wanted)
    assert found.architecture == expected
    assert bool(found.warnings) == doubtful


@pytest.mark.parametrize("wanted", ["sampp", "crosssam", "lite"])
def test_the_wrong_word_is_refused(tmp_path, states, wanted):
    with pytest.raises(ModelError, match=f"not {wanted}"):
        read_checkpoint(save(tmp_path / "SAM.pth", states["sam"]), wanted)


def test_missing_unexpected_and_misshapen_entries_are_named(tmp_path, states):
    state = dict(states["sam"])
    del state["neck.fpn_convs.0.conv.bias"]
    state["neck.extra"] = torch.zeros(1)
    state["backbone.conv1.bn.bias"] = torch.zeros(63)
    with pytest.raises(ModelError) as caught:
        load_network(save(tmp_path / "SAM.pth", state))
    for name in ("SAM.pth", "1 missing (neck.fpn_convs.0.conv.bias)", "neck.extra", "backbone.conv1.bn.bias"):
        assert name in caught.value.cause


def test_another_architecture_is_refused_by_its_entries(tmp_path):
    state = {"layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3), "fc.bias": torch.zeros(1000)}
    with pytest.raises(ModelError, match=r"another architecture.*fc\.bias"):
        load_network(save(tmp_path / "resnet18.pth", {"state_dict": state}))


def test_values_that_are_not_finite_are_refused(tmp_path, states):
    state = {**states["sam"], "backbone.conv1.bn.bias": torch.full((64,), float("nan"))}
    with pytest.raises(ModelError, match="not finite"):
        load_network(save(tmp_path / "SAM.pth", state))


class Code:
    """Creates a file when it is unpickled."""

    def __init__(self, witness):
        self.witness = str(witness)

    def __reduce__(self):
        return (open, (self.witness, "w"))


@pytest.mark.parametrize("layout", ["zip", "before 1.6", "protocol 0", "protocol 2", "protocol 4", "inside meta"])
def test_code_in_a_pickle_is_refused_and_never_runs(tmp_path, states, layout):
    witness, path = tmp_path / "witness", tmp_path / "SAM.pth"
    code = Code(witness)
    if layout == "zip":
        torch.save(code, path)
    elif layout == "before 1.6":
        torch.save({"state_dict": {"a": torch.zeros(1)}, "meta": code}, path, _use_new_zipfile_serialization=False)
    elif layout == "inside meta":
        torch.save({"meta": {"hook": code}, "state_dict": states["sam"]}, path)
    else:
        path.write_bytes(pickle.dumps(code, protocol=int(layout[-1])))
    with pytest.raises(ModelError) as caught:
        load_network(path)
    assert caught.value.exit_code == 4
    assert "SAM.pth" in caught.value.cause and caught.value.remedy
    assert not witness.exists()
    with open(path, "rb") as stream:  # the test can fail: the code is there and works
        pickle.load(stream) if "protocol" in layout else torch.load(stream, weights_only=False)
    assert witness.exists()


def truncated(path):
    torch.save({"state_dict": {"a": torch.zeros(5000)}}, path)
    path.write_bytes(path.read_bytes()[:9000])


def damaged_inside(path):
    torch.save({"state_dict": {"a": torch.zeros(5000)}}, path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v9"))


def compressed(path):
    torch.save({"state_dict": {"a": torch.zeros(5000)}}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def other_archive(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


WRONG_FILES = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello world\n" * 20),
    "noise": lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)),
    "web page": lambda path: path.write_text("<!DOCTYPE html><html></html>"),
    "message": lambda path: path.write_text('{"Code": 10010, "Message": "not found"}'),
    "LFS pointer": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "truncated": truncated,
    "damaged inside": damaged_inside,
    "compressed": compressed,
    "another archive": other_archive,
    "a list": lambda path: torch.save([1, 2], path),
    "a tensor": lambda path: torch.save(torch.zeros(3), path),
    "no weights": lambda path: torch.save({"state_dict": {}}, path),
    "text for weights": lambda path: torch.save({"state_dict": {"backbone.conv1.conv.weight": "x"}}, path),
    "a folder": lambda path: path.mkdir(),
    "nothing": lambda path: None,
    "embedding": lambda path: write_safetensors(path, {"fine": np.zeros(3, np.float16)}, {"format": "samv2-embedding"}),
}


@pytest.mark.parametrize("make", WRONG_FILES.values(), ids=WRONG_FILES)
def test_what_is_no_checkpoint_is_refused_by_name(tmp_path, make):
    path = tmp_path / "model.pth"
    make(path)
    with pytest.raises(ModelError) as caught:
        load_network(path)
    assert "model.pth" in caught.value.cause
    assert caught.value.remedy


def test_export_is_what_the_official_loader_reads(tmp_path, states):
    export_official({k: v.half() if v.is_floating_point() else v for k, v in states["sam"].items()}, tmp_path / "e.pth")
    content = torch.load(tmp_path / "e.pth", weights_only=True)
    assert {"meta", "state_dict"} <= set(content)
    assert {k: list(v.shape) for k, v in content["state_dict"].items()} == reference_shapes("sam")
    assert load_network(tmp_path / "e.pth")[1].architecture == "sam"
    with pytest.raises(ModelError):
        export_official(LiteNet(SMALL).state_dict(), tmp_path / "lite.pth")
    with pytest.raises(OutputError):
        export_official(states["sam"], tmp_path / "none" / "e.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["e.pth"]


def test_our_layout_keeps_the_light_network_and_its_config(tmp_path):
    torch.manual_seed(7)
    net = LiteNet(SMALL).eval()
    path = tmp_path / "mine.safetensors"
    save_network(net, path, {"modalities": '["ct"]'})
    found, checkpoint = load_network(path)
    assert checkpoint.architecture == "lite" and checkpoint.metadata["modalities"] == '["ct"]'
    assert found.config == SMALL
    arrays, _ = read_safetensors(path)
    assert all(array.dtype == (np.float16 if array.ndim > 1 else array.dtype) for array in arrays.values())
    x = torch.rand(1, 1, 16, 16, 16) * 255 - 50
    with torch.no_grad():
        for one, other in zip(found(x), net(x)):
            # half precision weights: 2**-11 relative each, averaged over hundreds of inputs
            assert float(torch.nn.functional.cosine_similarity(one, other, dim=1).min()) > 0.9999


def test_our_layout_keeps_the_official_networks(tmp_path, states):
    net = build_network("crosssam")
    net.load_state_dict(states["sampp"])
    save_network(net, tmp_path / "mine.safetensors")
    found, checkpoint = load_network(tmp_path / "mine.safetensors")
    assert found.architecture == "crosssam" and checkpoint.warnings == ()
    assert_loaded(found, states["sampp"])


HUGE = SMALL.to_json().replace('"merge_channels": 16', '"merge_channels": 1000000000')  # 100 PB if allocated


@pytest.mark.parametrize("config", ["no JSON", "[]", '{"windows": 3}', '{"context_channels": [1]}', HUGE])
def test_a_config_that_makes_no_sense_is_refused(tmp_path, config):
    path = tmp_path / "mine.safetensors"
    arrays = {name: tensor.numpy() for name, tensor in LiteNet(SMALL).state_dict().items()}
    write_safetensors(path, arrays, {"architecture": "lite", "config": config})
    with pytest.raises(ModelError, match=r"mine\.safetensors"):
        load_network(path)


def test_a_network_loaded_does_not_depend_on_its_file(tmp_path, states):
    """The file is mapped while it is read; it may be replaced or deleted afterwards."""
    path = save(tmp_path / "SAM.pth", states["sam"])
    net, checkpoint = load_network(path)
    del checkpoint
    with open(path, "r+b") as stream:
        stream.write(b"\xff" * os.path.getsize(path))
    assert_loaded(net, states["sam"])
    assert isinstance(path, Path)
