"""Weights files, in and out: the released ``.pth`` checkpoints, and ours in the safetensors layout.

A released checkpoint is a zip archive with a pickle in it (``{"meta", "state_dict", "optimizer"}`` as mmcv
writes it, or a bare state dict). A pickle can run code when it is read, so it is read by torch's restricted
unpickler alone (``weights_only=True``); what that refuses is refused here, without a way around. Layouts from
before PyTorch 1.6 never reach it: in older versions of torch their reader is not safe (CVE-2025-32434). Keys
are compared with the architecture's and every difference is named: weights that fit half would give
embeddings that look right and match nothing.

Our own files hold tensors (half precision, vectors such as biases in single) and text: ``architecture``,
``config`` (JSON, light network), ``name``, and facts for people. All weights become float32.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterable, Mapping, Optional, Tuple

import numpy as np
import torch
from torch import nn

from SAMv2Core import __version__
from SAMv2Core.errors import ModelError
from SAMv2Core.io.files import PathLike, atomic_path
from SAMv2Core.io.safetensors import read_safetensors, write_safetensors
from SAMv2Core.models.records import is_safetensors, read_head, refuse_foreign
from SAMv2Core.network.build import build_network

logger = logging.getLogger(__name__)

State = Dict[str, torch.Tensor]

OFFICIAL = ("sam", "sampp", "crosssam")
_OFFICIAL_KEY = "backbone.conv1.conv.weight"
_LITE_KEY = "context.stem.conv.weight"
_SEMANTIC_PREFIX = "semantic_head."
_COUNTER = "num_batches_tracked"  # of batch normalization; only training reads it


@dataclass(frozen=True)
class Checkpoint:
    """A weights file, read and recognized.

    :param architecture: ``sam``, ``sampp``, ``crosssam`` or ``lite``.
    :param state: name to float32 tensor (counters int64), on the CPU.
    :param metadata: what the file says of itself, text to text; empty for ``.pth``.
    :param warnings: what the reader had to guess.
    """

    architecture: str
    state: State
    metadata: Dict[str, str] = field(default_factory=dict)
    warnings: Tuple[str, ...] = ()


def read_checkpoint(path: PathLike, architecture: Optional[str] = None) -> Checkpoint:
    """Read a weights file of either kind; nothing in it is executed.

    :param architecture: what it is known to be, None to recognize it by its metadata, keys and name.
    :raises ModelError: missing, damaged, a pickle with code, no weights in it, or of another architecture.
    """
    path = Path(path)
    metadata: Dict[str, str] = {}
    head = read_head(path)
    if is_safetensors(head):
        arrays, metadata = read_safetensors(path, mmap=True, error=ModelError)
        tensors: Mapping[Any, Any] = {name: torch.from_numpy(array) for name, array in arrays.items()}
    else:
        refuse_foreign(path, head)
        tensors = _state_dict_of(_unpickle(path), path)
    state = _clean(tensors, path)
    found, doubts = _recognize(state, metadata.get("architecture"), architecture, path)
    return Checkpoint(found, state, metadata, doubts)


def load_network(path: PathLike, architecture: Optional[str] = None) -> Tuple[nn.Module, Checkpoint]:
    """The network of a weights file, in evaluation mode on the CPU, and what was read.

    :raises ModelError: see :func:`read_checkpoint`; also missing, unexpected or misshapen entries.
    """
    checkpoint = read_checkpoint(path, architecture)
    with torch.device("meta"):  # sizes are compared before memory is taken, and nothing is drawn at random
        net = _build(checkpoint, path)
    load_state(net, checkpoint.state, str(path))
    return net, checkpoint


def load_state(net: nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Copy a state dict into a network, strictly; only the counters of batch normalization may be missing.

    A network built on torch's ``meta`` device gets its memory here, on the CPU.

    :param source: names the file in the error.
    :raises ModelError: entries missing, unexpected or of another shape.
    """
    wanted = net.state_dict()
    differences = []
    missing = [key for key in wanted if key not in state and not key.endswith(_COUNTER)]
    unexpected = [key for key in state if key not in wanted]
    misshapen = [key for key in state if key in wanted and state[key].shape != wanted[key].shape]
    for kind, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen)):
        if keys:
            differences.append(f"{len(keys)} {kind} ({_some(keys)})")
    if differences:
        raise ModelError(
            f"{source} does not fit the network {net.architecture}: {', '.join(differences)}.",
            "Use a checkpoint of SAM, SAM++, CrossSAM or this program, imported under its name (--as).",
        )
    counters = {k: torch.zeros(v.shape, dtype=v.dtype) for k, v in wanted.items() if k.endswith(_COUNTER)}
    if any(tensor.is_meta for tensor in wanted.values()):
        _take_memory(net)
    net.load_state_dict({**counters, **state})


def _take_memory(net: nn.Module) -> None:
    """What ``net.to_empty(device="cpu")`` does, which imports sympy for it: 0.37 s."""
    for module in net.modules():
        for name, weight in module.named_parameters(recurse=False):
            empty = torch.empty(weight.shape, dtype=weight.dtype)
            setattr(module, name, nn.Parameter(empty, requires_grad=weight.requires_grad))
        for name, values in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(values.shape, dtype=values.dtype))


def save_network(
    net: nn.Module,
    path: PathLike,
    metadata: Optional[Mapping[str, str]] = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a network in our layout: matrices in ``dtype``, vectors (biases, normalization) as they are.

    The architecture, the number of parameters and the light network's config are added to the metadata.

    :raises OutputError: the file cannot be written.
    """
    arrays: Dict[str, np.ndarray] = {}
    for key, tensor in net.state_dict().items():
        tensor = tensor.detach().cpu()
        arrays[key] = (tensor.to(dtype) if tensor.ndim > 1 else tensor).numpy()
    facts = {"format": "samv2-weights", "architecture": str(net.architecture), **(metadata or {})}
    facts["parameters"] = str(sum(parameter.numel() for parameter in net.parameters()))
    config = getattr(net, "config", None)
    if config is not None:
        facts["config"] = config.to_json()
    write_safetensors(path, arrays, facts)


def export_official(state: Mapping[str, torch.Tensor], path: PathLike) -> None:
    """Write a ``.pth`` that the official code loads: mmcv's layout, plain values besides tensors.

    :param state: state dict of ``sam``, ``sampp`` or ``crosssam``, in any floating dtype.
    :raises ModelError: the keys or shapes are not those of a released checkpoint.
    :raises OutputError: the file cannot be written.
    """
    cleaned = _clean(state, Path(path))
    architecture = "sampp" if any(key.startswith(_SEMANTIC_PREFIX) for key in cleaned) else "sam"
    load_state(build_network(architecture), cleaned, str(path))
    content = {"meta": {"exported_by": f"SAMv2Core {__version__}"}, "state_dict": OrderedDict(cleaned)}
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def _unpickle(path: Path) -> Any:
    """What the restricted unpickler of torch makes of a file of the zip layout."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [entry.filename.rsplit("/", 1)[-1] for entry in archive.infolist()]
            is_plain = all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _damaged(path, str(error)) from error
    if "data.pkl" not in names or "constants.pkl" in names or not is_plain:  # constants: a TorchScript program
        raise ModelError(f"{path} is an archive, but not a checkpoint of PyTorch.", "Use a checkpoint (state dict).")
    # Mapped, an optimizer's state (as large as the weights) is never read.
    options: Dict[str, Any] = {"mmap": True} if _torch_can_map() else {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols
            return torch.load(os.fspath(path), map_location="cpu", weights_only=True, **options)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = found.group(1) if found else "Python objects"
        raise ModelError(
            f"{path} refers to {what}, which is more than weights and may be code that runs when it is read; "
            "it was not read.",
            "If you trust its author, save its state dict alone: torch.save(checkpoint['state_dict'], FILE).",
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # torch raises RuntimeError, EOFError, KeyError, ... for damaged files
        raise _damaged(path, str(error)) from error


def _torch_can_map() -> bool:
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    return (major, minor) >= (2, 1)


def _damaged(path: Path, reason: str) -> ModelError:
    reason = " ".join(reason.split())
    return ModelError(f"{path} is damaged or incomplete ({reason[:120]}).", "Download it again.")


def _state_dict_of(content: Any, path: Path) -> Mapping[Any, Any]:
    """The state dict inside a checkpoint, or the checkpoint itself where it is one."""
    if isinstance(content, Mapping):
        inner = content.get("state_dict", content)
        if isinstance(inner, Mapping) and inner and all(isinstance(v, torch.Tensor) for v in inner.values()):
            return inner
    raise ModelError(f"{path} holds no network weights.", "Use a checkpoint: {'state_dict': ...} or a bare state dict.")


def _clean(tensors: Mapping[Any, Any], path: Path) -> State:
    """Float32 on the CPU, without the prefix that data-parallel training leaves; finite."""
    prefix = "module." if all(str(key).startswith("module.") for key in tensors) else ""
    state: State = {}
    for key, tensor in tensors.items():
        tensor = tensor.detach().cpu()
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        if not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{path}: the entry {key} holds values that are not finite.", "Use another checkpoint.")
        state[str(key)[len(prefix) :]] = tensor
    return state


def _recognize(state: State, declared: Optional[str], wanted: Optional[str], path: Path) -> Tuple[str, Tuple[str, ...]]:
    """Architecture of a state dict, and a warning where it had to be guessed."""
    if declared in OFFICIAL or declared == "lite":
        kind = declared
    elif _LITE_KEY in state:
        kind = "lite"
    elif _OFFICIAL_KEY in state:
        has_semantic = any(key.startswith(_SEMANTIC_PREFIX) for key in state)
        return _official_variant(has_semantic, wanted, path)
    else:
        raise ModelError(
            f"{path} is of another architecture (entries: {_some(state)}).",
            "Use a checkpoint of SAM, SAM++, CrossSAM or this program.",
        )
    if wanted not in (None, kind):
        raise ModelError(f"{path} is a {kind} model, not {wanted}.", "Import it under another name.")
    return str(kind), ()


def _official_variant(has_semantic: bool, wanted: Optional[str], path: Path) -> Tuple[str, Tuple[str, ...]]:
    """``sam`` by its keys; ``sampp`` and ``crosssam`` have the same keys: by name or the caller's word."""
    fitting = ("sampp", "crosssam") if has_semantic else ("sam",)
    if wanted is not None and wanted not in fitting:
        raise ModelError(
            f"{path} is a checkpoint of {' or '.join(fitting)}, not {wanted}.",
            "Import it under another name (--as).",
        )
    if wanted is not None or not has_semantic:
        return wanted or "sam", ()
    name = path.name.lower()
    if "cross" in name or "ct_mr" in name:
        return "crosssam", ()
    if "samv2" in name or "sampp" in name or "sam++" in name or "uae_s" in name:
        return "sampp", ()
    text = f"{path.name} fits sampp and crosssam alike; taken as sampp (import it --as crosssam if it is that)."
    logger.warning("%s", text)
    return "sampp", (text,)


def _build(checkpoint: Checkpoint, path: PathLike) -> nn.Module:
    if checkpoint.architecture != "lite":
        return build_network(checkpoint.architecture)
    from SAMv2Core.network.lite import LiteConfig

    text = checkpoint.metadata.get("config")
    try:
        return build_network("lite", LiteConfig.from_json(text) if text else None)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ModelError(f"{path} has a config that makes no sense ({error}).", "Get the model file again.") from error


def _some(keys: Iterable[str], most: int = 3) -> str:
    keys = sorted(keys)
    return ", ".join(keys[:most]) + (", ..." if len(keys) > most else "")
