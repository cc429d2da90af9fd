"""device.py: names of devices and precisions, and what they lead to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from SAMv2Core.errors import UsageError
from SAMv2Core.network import device as device_module
from SAMv2Core.network.device import cpu_has_bf16, number_format, resolve_device, resolve_precision

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


def test_auto_is_a_device_that_exists():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device("auto").type == expected
    assert resolve_device("cpu") == CPU


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cpu:0", "CUDA", "", "cuda:99", "cuda:-1"])
def test_devices_that_do_not_exist(name):
    with pytest.raises(UsageError) as caught:
        resolve_device(name)
    assert repr(name) in caught.value.cause or name in caught.value.cause
    assert "cpu" in caught.value.remedy


def test_auto_keeps_full_precision_on_a_cpu_and_halves_it_on_cuda():
    assert resolve_precision("auto", CPU) == "fp32"
    assert resolve_precision("auto", torch.device("mps")) == "fp32"
    assert resolve_precision("auto", CUDA) == "fp16"


@pytest.mark.parametrize(("has_bf16", "allowed"), [(True, {"fp32", "bf16"}), (False, {"fp32"})])
def test_a_cpu_computes_only_what_it_has_instructions_for(monkeypatch, has_bf16, allowed):
    monkeypatch.setattr(device_module, "cpu_has_bf16", lambda: has_bf16)
    for precision in ("fp32", "fp16", "bf16"):
        if precision in allowed:
            assert resolve_precision(precision, CPU) == precision
        else:
            with pytest.raises(UsageError, match="not computed natively"):
                resolve_precision(precision, CPU)


def test_bf16_is_told_by_the_flags_of_the_cpu(monkeypatch):
    monkeypatch.setattr(device_module.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    for flags, expected in (("fpu avx512f avx512_bf16", True), ("fpu amx_bf16 sse", True), ("fpu avx512f", False)):
        monkeypatch.setattr(Path, "read_text", lambda self, flags=flags: f"model name : X\nflags\t\t: {flags}\n")
        assert cpu_has_bf16() is expected
    monkeypatch.setattr(device_module.platform, "machine", lambda: "arm64")
    assert not cpu_has_bf16()


def test_number_format_computes_in_it_and_restores():
    a = torch.ones(2, 2)
    with number_format("bf16", CPU):
        assert (a @ a).dtype == torch.bfloat16
    assert (a @ a).dtype == torch.float32
    before = torch.backends.cudnn.allow_tf32
    with number_format("fp32", CPU):
        assert not torch.backends.cudnn.allow_tf32
        assert (a @ a).dtype == torch.float32
    assert torch.backends.cudnn.allow_tf32 == before
    with pytest.raises(ValueError), number_format("fp32", CPU):
        raise ValueError
    assert torch.backends.cudnn.allow_tf32 == before
