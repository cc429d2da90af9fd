"""The paper's networks against what the official implementation computed with the same weights.

Tolerances: cosine at least 0.99999 and 1e-4 per component in float32; measured here: 1 - 4e-7 and 1e-6, which
is the order in which convolutions add.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from SAMv2Core.network.build import build_network
from SAMv2Core.network.fuse import fuse_for_inference
from Testing.reference.reference_weights import DATA, reference_input, reference_shapes, reference_state

# crosssam has the layout of sampp, and entries are seeded by name: its fine and coarse heads are those of
# uae_s.
VECTORS = {"sam": "sam_even_small.npz", "sampp": "uae_s_even_small.npz", "crosssam": "uae_s_even_small.npz"}
HEADS = {"sam": ("fine", "coarse"), "sampp": ("fine", "coarse", "semantic"), "crosssam": ("fine", "coarse")}
# SPEC of the layers: only the pooling of z rounds down, strides round up.
ODD_INPUT = (1, 1, 33, 61, 70)
ODD_OUTPUT = {"fine": (16, 31, 35), "coarse": (8, 4, 5), "semantic": (16, 31, 35)}


@pytest.fixture(scope="module")
def weights():
    """Of all variants: entries are seeded by name, and sampp has every name."""
    return {name: torch.from_numpy(values) for name, values in reference_state("sampp").items()}


def reference_network(architecture, weights):
    net = build_network(architecture)
    net.load_state_dict({name: weights[name] for name in reference_shapes(architecture)}, strict=True)
    return net


def assert_equal_to_vectors(output, architecture, max_difference=1e-4, min_cosine=0.99999):
    vectors = np.load(DATA / VECTORS[architecture])
    for head in HEADS[architecture]:
        stored = "sem" if head == "semantic" else head
        found = getattr(output, head)
        assert tuple(found.shape) == tuple(vectors[f"{stored}_shape"])
        found = found[0].flatten(1).numpy()[:, vectors[f"{stored}_index"]].astype(np.float64)
        expected = vectors[f"{stored}_fp32"].astype(np.float64)
        assert np.abs(found - expected).max() <= max_difference, head
        lengths = np.linalg.norm(found, axis=0) * np.linalg.norm(expected, axis=0)
        assert ((found * expected).sum(axis=0) / lengths).min() >= min_cosine, head


@pytest.mark.parametrize("architecture", ["sam", "sampp", "crosssam"])
def test_state_dict_has_the_keys_and_shapes_of_the_released_checkpoints(architecture):
    state = build_network(architecture).state_dict()
    assert {name: list(values.shape) for name, values in state.items()} == reference_shapes(architecture)
    others = {name for name, values in state.items() if values.dtype != torch.float32}
    assert others == {name for name in state if name.endswith("num_batches_tracked")}


@pytest.mark.parametrize("architecture", ["sam", "sampp", "crosssam"])
def test_outputs_equal_the_official_ones(architecture, weights):
    net = reference_network(architecture, weights)
    with torch.no_grad():
        output = net(torch.from_numpy(reference_input()))
    assert_equal_to_vectors(output, architecture)
    assert net.heads == HEADS[architecture]
    assert (output.semantic is not None) == ("semantic" in net.heads)


def test_odd_sizes_round_as_in_the_official_networks():
    with torch.no_grad():
        output = build_network("sampp")(torch.from_numpy(reference_input(ODD_INPUT)))
    for head, size in ODD_OUTPUT.items():
        assert tuple(getattr(output, head).shape) == (1, 128, *size)


def test_what_inference_runs_equals_the_official_outputs_too(weights):
    """Folded normalization, channels last, slabs: everything that ``Model.embed`` changes at once."""
    net = fuse_for_inference(reference_network("sampp", weights)).to(memory_format=torch.channels_last_3d)
    x = torch.from_numpy(reference_input())
    assert_equal_to_vectors(net.forward_in_slabs(x, 10, out_dtype=torch.float32), "sampp")
    # half precision: 11 bits, and components are below 1
    assert_equal_to_vectors(net.forward_in_slabs(x, 32), "sampp", max_difference=3e-4)


def test_parameters_are_as_many_as_published():
    def count(architecture):
        return sum(parameter.numel() for parameter in build_network(architecture).parameters())

    assert count("sam") == 32_832_960
    assert count("sampp") == 33_333_184
