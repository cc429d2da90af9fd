"""Starting weights: He and Xavier initialization, and a 2-D ResNet-18 inflated to the paper's 3-D backbone.

The (1, 3, 3) convolutions take those of the 2-D network as they are; the (3, 3, 3) ones repeat them along z, divided by
3, so that an image that does not change along z gives the same features. The stem's three color planes become its three
depth taps, undivided as in the official code. The first stage's shortcut has no counterpart in 2-D and keeps its random
weights, and so do the heads.
"""

from __future__ import annotations

import os
import pickle
from typing import Any, Dict, Mapping

import torch
from torch import nn

from SAMv2Core.errors import ModelError

_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
_SOURCE = "a ResNet-18 state dict in torchvision's layout"


def initialize(net: nn.Module) -> None:
    """He initialization of the backbone, Xavier-uniform with zero bias of the heads; in place.

    Drawn from torch's global generator.
    """
    for name, layer in net.named_modules():
        if not isinstance(layer, nn.Conv3d):
            continue
        if name.startswith("backbone."):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        else:
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)


def inflate(net: nn.Module, path: str) -> None:
    """Put a 2-D ResNet-18 into the backbone of one of the paper's networks; in place.

    :param path: ``resnet18-*.pth`` of torchvision; entries of its classifier are ignored.
    :raises ModelError: not such a file, entries missing or of another shape.
    """
    source = read_resnet18(path)
    own = net.state_dict()
    for key, value in inflated(source, path).items():
        if key not in own or own[key].shape != value.shape:
            raise ModelError(f"{path} does not fit the backbone ({key}).", f"Use {_SOURCE}, and network.narrow 1.")
        own[key].copy_(value)


def inflated(source: Mapping[str, torch.Tensor], path: str = "The checkpoint") -> Dict[str, torch.Tensor]:
    """Entries of our backbone made of those of a 2-D ResNet-18.

    :raises ModelError: an entry is missing.
    """
    result: Dict[str, torch.Tensor] = {}
    try:
        result["backbone.conv1.conv.weight"] = source["conv1.weight"][:, None]
        _copy_batch_norm(source, "bn1", result, "backbone.conv1.bn")
        for stage in (1, 2, 3, 4):
            for block in (0, 1):
                here = f"layer{stage}.{block}"
                for conv in (1, 2):
                    weight = _deepened(source[f"{here}.conv{conv}.weight"], 3 if stage > 2 else 1)
                    result[f"backbone.{here}.conv{conv}.conv.weight"] = weight
                    _copy_batch_norm(source, f"{here}.bn{conv}", result, f"backbone.{here}.conv{conv}.bn")
            if stage > 1:
                shortcut = f"layer{stage}.0.downsample"
                result[f"backbone.{shortcut}.conv.weight"] = _deepened(source[f"{shortcut}.0.weight"], 1)
                _copy_batch_norm(source, f"{shortcut}.1", result, f"backbone.{shortcut}.bn")
    except KeyError as error:
        raise ModelError(f"{path} has no entry {error}.", f"Use {_SOURCE}.") from error
    return result


def read_resnet18(path: str) -> Dict[str, Any]:
    """The state dict in a file; nothing in it is executed.

    :raises ModelError: missing, damaged, or more than tensors.
    """
    if not os.path.isfile(path):
        raise ModelError(f"{path} does not exist.", f"Give the path of {_SOURCE}.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, OSError) as error:
        raise ModelError(f"{path} cannot be read ({' '.join(str(error).split())[:120]}).", f"Use {_SOURCE}.") from error
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ModelError(f"{path} holds no state dict.", f"Use {_SOURCE}.")
    return content


def _deepened(weight: torch.Tensor, depth: int) -> torch.Tensor:
    """(out, in, h, w) to (out, in, depth, h, w), with the same sum along z."""
    return weight[:, :, None].repeat(1, 1, depth, 1, 1) / depth


def _copy_batch_norm(source: Mapping[str, torch.Tensor], old: str, result: Dict[str, torch.Tensor], new: str) -> None:
    for name in _BATCH_NORM:
        result[f"{new}.{name}"] = source[f"{old}.{name}"]
