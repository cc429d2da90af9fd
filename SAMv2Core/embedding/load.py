"""A model by its name or file: verified, built, fused, on its device."""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, Mapping, Tuple

from SAMv2Core.embedding.model import Model
from SAMv2Core.io.files import PathLike
from SAMv2Core.models.checkpoints import load_network
from SAMv2Core.models.library import verify
from SAMv2Core.network.device import resolve_device
from SAMv2Core.network.fuse import fuse_for_inference


def load_model(name_or_file: PathLike, device: str = "auto") -> Model:
    """A model, ready to embed volumes.

    Parameters
    ----------
    name_or_file : str or path
        A name that ``samv2 models list`` shows, or a weights file (``.safetensors``, ``.pth``).
    device : {"auto", "cpu", "cuda", "cuda:1", "mps"}

    Returns
    -------
    Model

    Raises
    ------
    ModelError
        Not here, damaged, of another architecture, not trustworthy.
    UsageError
        No such device.

    Examples
    --------
    >>> import SAMv2Core as s
    >>> s.load_model("lite-ct", "cpu")
    <Model lite-ct: CT, on cpu>
    """
    place = resolve_device(device)
    info = verify(name_or_file)
    assert info.path is not None
    net, checkpoint = load_network(info.path, info.architecture or None)
    info = replace(
        info,
        architecture=checkpoint.architecture,
        head_weights=_head_weights(tuple(net.heads), info.head_weights),  # type: ignore[arg-type]
        warnings=(*checkpoint.warnings, *info.warnings),
    )
    return Model(fuse_for_inference(net), info, place)


def _head_weights(heads: Tuple[str, ...], told: Mapping[str, float]) -> Dict[str, float]:
    """Weights of a network's heads that sum to 1: as told where that is complete and makes sense, else equal."""
    weights = {head: told.get(head, -1.0) for head in heads}
    if min(weights.values()) < 0 or not 0 < sum(weights.values()) < float("inf"):
        weights = dict.fromkeys(heads, 1.0)
    return {head: weight / sum(weights.values()) for head, weight in weights.items()}
