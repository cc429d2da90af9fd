"""Starting weights: the inflated network computes what the 2-D one computes."""

import pytest
import torch
import torch.nn.functional as F

from SAMv2Core.errors import ModelError
from SAMv2Core.network.build import build_network
from Training.tasks.inflate import inflate, inflated, initialize


def resnet18_state(seed=0):
    """Random weights in torchvision's layout, classifier included."""
    generator = torch.Generator().manual_seed(seed)
    state = {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}

    def conv(name, *shape):
        state[f"{name}.weight"] = torch.randn(*shape, generator=generator) * 0.05

    def norm(name, n):
        state[f"{name}.weight"], state[f"{name}.bias"] = (torch.rand(n, generator=generator) for _ in range(2))
        state[f"{name}.running_mean"], state[f"{name}.running_var"] = torch.zeros(n), torch.ones(n)
        state[f"{name}.num_batches_tracked"] = torch.tensor(0)

    conv("conv1", 64, 3, 7, 7)
    norm("bn1", 64)
    before = 64
    for stage, n in enumerate((64, 128, 256, 512), start=1):
        for block in (0, 1):
            conv(f"layer{stage}.{block}.conv1", n, before, 3, 3)
            conv(f"layer{stage}.{block}.conv2", n, n, 3, 3)
            norm(f"layer{stage}.{block}.bn1", n)
            norm(f"layer{stage}.{block}.bn2", n)
            if block == 0 and stage > 1:
                conv(f"layer{stage}.0.downsample.0", n, before, 1, 1)
                norm(f"layer{stage}.0.downsample.1", n)
            before = n
    return state


def test_layers_answer_a_constant_stack_as_the_2d_network_answers_its_slice(tmp_path):
    state = resnet18_state()
    torch.save(state, tmp_path / "resnet18.pth")
    net = build_network("sam")
    inflate(net, str(tmp_path / "resnet18.pth"))
    plane = torch.randn(1, 128, 12, 12, generator=torch.Generator().manual_seed(1))
    stack = plane[:, :, None].repeat(1, 1, 7, 1, 1)
    for name, conv, key in (
        ("layer2", net.backbone.layer2[1].conv2.conv, "layer2.1.conv2.weight"),
        ("layer3", net.backbone.layer3[0].conv1.conv, "layer3.0.conv1.weight"),
    ):
        stride = conv.stride[1]
        expected = F.conv2d(plane, state[key], stride=stride, padding=1)
        # Away from the ends of the stack, where (3, 3, 3) kernels see padding.
        torch.testing.assert_close(conv(stack)[:, :, 3], expected, atol=1e-4, rtol=1e-4, msg=name)
    block = net.backbone.layer2[0].downsample
    assert torch.equal(block.conv.weight[:, :, 0], state["layer2.0.downsample.0.weight"][:, :, None][:, :, 0])
    assert torch.equal(block.bn.bias, state["layer2.0.downsample.1.bias"])


def test_color_planes_become_depth_taps():
    state = resnet18_state()
    stem = inflated(state)["backbone.conv1.conv.weight"]
    assert stem.shape == (64, 1, 3, 7, 7)
    assert torch.equal(stem[:, 0], state["conv1.weight"])


def test_everything_but_the_first_shortcut_and_the_heads_is_inflated():
    own = set(build_network("sam").state_dict())
    missing = {key for key in own - set(inflated(resnet18_state())) if not key.endswith("num_batches_tracked")}
    assert {key.split(".")[0] for key in missing} == {"backbone", "neck", "read_out_head"}
    assert all("layer1.0.downsample" in key for key in missing if key.startswith("backbone"))


def test_initialization_is_he_and_xavier():
    torch.manual_seed(0)
    net = build_network("sampp")
    initialize(net)
    weight = net.backbone.layer3[0].conv1.conv.weight
    assert weight.std().item() == pytest.approx((2 / (256 * 27)) ** 0.5, rel=0.02)
    head = net.semantic_head.fpn_convs[0].conv
    bound = (6 / (2 * 128 * 27)) ** 0.5
    assert 0.99 * bound < head.weight.abs().max().item() <= bound
    assert not head.bias.any()


def test_files_that_are_no_resnet18(tmp_path):
    net = build_network("sam")
    with pytest.raises(ModelError, match="does not exist"):
        inflate(net, str(tmp_path / "none.pth"))
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(ModelError, match="cannot be read"):
        inflate(net, str(tmp_path / "text.pth"))
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "part.pth")
    with pytest.raises(ModelError, match="has no entry 'bn1"):
        inflate(net, str(tmp_path / "part.pth"))
    torch.save(resnet18_state() | {"conv1.weight": torch.zeros(64, 1, 7, 7)}, tmp_path / "gray.pth")
    with pytest.raises(ModelError, match="does not fit the backbone"):
        inflate(net, str(tmp_path / "gray.pth"))
