"""The paper's networks: slabs equal the whole, folding changes nothing, errors can be read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from SAMv2Core.errors import Cancelled, InputError, ModelError
from SAMv2Core.network.build import build_network
from SAMv2Core.network.fuse import fuse_for_inference

# Twenty times the rounding noise measured (4e-7): a wrong halo gives 1e-2.
TOLERANCE = 1e-5
ROOT = Path(__file__).resolve().parents[3]


def randomize(net, seed=5):
    """Weights and statistics that are far from those of a fresh network, where normalization does nothing."""
    torch.manual_seed(seed)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net


@pytest.fixture(scope="module")
def net():
    return randomize(build_network("sampp"))


def volume(*shape):
    return torch.rand((1, 1, *shape), generator=torch.Generator().manual_seed(3)) * 255 - 50


def assert_equal(found, expected, tolerance=TOLERANCE):
    for name in ("fine", "coarse", "semantic"):
        one, other = getattr(found, name), getattr(expected, name)
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        assert float((one - other).abs().max()) <= tolerance, name
        assert float(torch.nn.functional.cosine_similarity(one, other, dim=1).min()) >= 1 - 1e-5, name


@pytest.mark.parametrize("shape", [(13, 21, 34), (16, 32, 17), (2, 16, 16), (3, 9, 5)])
def test_slabs_equal_the_whole(net, shape):
    x = volume(*shape)
    with torch.no_grad():
        whole = net(x)
    for slab_depth in (1, 2, 6, 7, 64):
        assert_equal(net.forward_in_slabs(x, slab_depth, out_dtype=torch.float32), whole)


def test_vectors_have_unit_length_and_the_documented_sizes(net):
    with torch.no_grad():
        output = net(volume(13, 21, 34))
    assert tuple(output.fine.shape) == tuple(output.semantic.shape) == (1, 128, 6, 11, 17)
    assert tuple(output.coarse.shape) == (1, 128, 3, 2, 3)
    for head in output:
        torch.testing.assert_close(head.norm(dim=1), torch.ones(head[:, 0].shape))
        assert head.dtype == torch.float32


def test_folded_normalization_gives_the_same_output(net):
    x = volume(12, 24, 30)
    with torch.no_grad():
        expected = net(x)
    folded = build_network("sampp")
    folded.load_state_dict(net.state_dict())
    folded = fuse_for_inference(folded).to(memory_format=torch.channels_last_3d)
    assert not any(isinstance(module, torch.nn.BatchNorm3d) for module in folded.modules())
    assert_equal(folded.forward_in_slabs(x, 4, out_dtype=torch.float32), expected, 1e-4)
    assert_equal(fuse_for_inference(folded)(x), expected, 1e-4)


def test_two_volumes_at_once_equal_each_alone(net):
    pair = torch.cat([volume(8, 16, 16), volume(8, 16, 16).flip(2)])
    with torch.no_grad():
        both = net.forward_in_slabs(pair, 4, out_dtype=torch.float32)
        second = net(pair[1:])
    assert_equal(type(both)(*(head[1:] for head in both)), second)


def test_gradients_reach_every_layer():
    """The same class is trained: nothing that is done in place may break that."""
    net = build_network("sampp").train()
    output = net(volume(8, 32, 32))
    sum((head * torch.linspace(-1, 1, head.numel()).view_as(head)).sum() for head in output).backward()
    assert not [name for name, parameter in net.named_parameters() if parameter.grad is None]


def test_progress_rises_and_may_cancel(net):
    told = []
    net.forward_in_slabs(volume(16, 16, 16), 4, lambda fraction, text: told.append((fraction, text)))
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions) and fractions[0] == 0.0 and fractions[-1] < 1.0
    assert len(told) == 4 + 2 + 2 * 4

    def cancel(fraction, text):
        raise Cancelled()

    with pytest.raises(Cancelled):
        net.forward_in_slabs(volume(16, 16, 16), 4, cancel)


def test_half_precision_output(net):
    output = net.forward_in_slabs(volume(8, 16, 16), 4)
    assert {head.dtype for head in output} == {torch.float16}


def test_thinner_slabs_need_less_memory(net):
    shape = (250, 150, 180)
    needed = [net.peak_bytes(shape, depth) for depth in (8, 16, 64, 250)]
    assert needed == sorted(needed)
    outputs = 2 * 2 * 128 * 125 * 75 * 90
    assert outputs < needed[0] < 1.1 * 2**30  # a torso fits beside weights and torch under 1.5 GiB


MEASURE = """
import sys, threading, time
import torch
from SAMv2Core.embedding.memory import release_unused
from SAMv2Core.network.build import build_network
from SAMv2Core.network.fuse import fuse_for_inference

def resident():
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * 4096

def watch():
    while running:
        found[0] = max(found[0], resident())
        time.sleep(0.002)

torch.set_num_threads(1)
shape, depth = (96, 128, 160), int(sys.argv[1])
net = fuse_for_inference(build_network("sampp")).to(memory_format=torch.channels_last_3d)
net.forward_in_slabs(torch.zeros(1, 1, 8, 16, 16), 8)
release_unused()  # what building and folding left free would be used again and not be seen
before, found, running = resident(), [0], True
thread = threading.Thread(target=watch)
thread.start()
output = net.forward_in_slabs(torch.rand(1, 1, *shape), depth)
running = False
thread.join()
print(net.peak_bytes(shape, depth) / (found[0] - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_estimated_memory_is_what_is_used():
    """Measured: 0.92 to 1.2, of 340 MB; 1.07 of 438 MB for 180 x 150 x 100 voxels.

    Once, in a fresh environment on a busy machine, 0.57: how much the allocator keeps is its own matter, so the
    bounds only exclude an estimate that forgets a layer or counts one twice.
    """
    command = [sys.executable, "-c", MEASURE, "16"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert 0.5 < float(done.stdout) < 1.5


@pytest.mark.parametrize("x", [torch.zeros(1, 1, 1, 16, 16), torch.zeros(1, 2, 8, 16, 16), torch.zeros(8, 16, 16)])
def test_what_is_no_volume_is_refused(net, x):
    for run in (net, lambda value: net.forward_in_slabs(value, 8)):
        with pytest.raises(InputError) as caught:
            run(x)
        assert caught.value.remedy


def test_an_unknown_architecture_is_refused():
    with pytest.raises(ModelError, match="vgg"):
        build_network("vgg")


@pytest.mark.parametrize("name", ["sam", "sampp", "crosssam", "lite"])
def test_every_network_follows_the_contract(name):
    built = build_network(name)
    assert built.architecture == name
    assert not built.training
    assert set(built.heads) <= set(built.level_stride)
    assert {"fine", "coarse"} <= set(built.heads)
    assert built.embedding_dim > 0
