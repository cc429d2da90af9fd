"""The network of a recipe with its starting weights."""

from __future__ import annotations

from typing import Any, Dict, Tuple

from torch import nn

from SAMv2Core.models.checkpoints import load_state, read_checkpoint
from SAMv2Core.network.build import build_network
from SAMv2Core.network.lite import CT_WINDOWS
from Training.engine.recipe import NetworkOptions
from Training.tasks.inflate import inflate, initialize

WINDOWS: Dict[str, Tuple[Tuple[float, float], ...]] = {
    "ct": CT_WINDOWS,
    # MR spans the whole preprocessed scale, tissue by tissue anywhere on it.
    "ct-mr": (*CT_WINDOWS, (-50.0, 205.0), (-50.0, 60.0), (30.0, 205.0)),
}
"""Intensity windows of the light networks, by what they see."""


def build(options: NetworkOptions) -> nn.Module:
    """Build, initialize (He; Xavier for the heads), then inflate or load what the recipe names.

    :raises ModelError: a checkpoint that does not fit.
    """
    net = build_network(options.architecture)
    if options.narrow > 1:
        narrow(net, options.narrow)
    if options.architecture != "lite":
        initialize(net)
    if options.resnet18 is not None:
        inflate(net, options.resnet18)
    if options.start is not None:
        start(net, options.start)
    return net


def start(net: Any, path: str) -> None:
    """Load the weights that a file and the network share; a semantic head on one side only is left as it is.

    :raises ModelError: not a weights file, or other differences.
    """
    state = read_checkpoint(path).state
    own = net.state_dict()
    kept = {key: value for key, value in state.items() if not key.startswith("semantic_head.") or key in own}
    filled = {key: value for key, value in own.items() if key.startswith("semantic_head.") and key not in kept}
    load_state(net, {**filled, **kept}, path)


def narrow(net: Any, factor: int) -> None:
    """Divide the channels of every layer by ``factor`` (at least 1 is left), weights drawn anew; in place.

    The layout stays that of the full network, so a trial run exercises all of it in a fraction of the time.
    """
    for parent in list(net.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Conv3d):
                sizes = [n if n == 1 else max(1, n // factor) for n in (layer.in_channels, layer.out_channels)]
                kernel, stride, padding = layer.kernel_size, layer.stride, layer.padding
                bias = layer.bias is not None
                fewer = nn.Conv3d(sizes[0], sizes[1], kernel, stride, padding, bias=bias)  # type: ignore[arg-type]
                setattr(parent, name, fewer)
            elif isinstance(layer, nn.BatchNorm3d):
                setattr(parent, name, nn.BatchNorm3d(max(1, layer.num_features // factor)))
    net.embedding_dim = max(1, net.embedding_dim // factor)
