r"""Turns a training checkpoint into weights that are used: our format, or the official one.

    python -m Training.export RUN/last.pt MODEL.safetensors [--facts FACTS.json] [--with WEIGHTS --share 0.75]
    python -m Training.export RUN/last.pt MODEL.pth

A name that ends in ``.pth`` gets the layout of the released checkpoints ({"meta", "state_dict"}, for the official
code); any other our format, with matrices in half precision and a record beside it that holds the file's SHA-256,
without which a bundled file is not trusted. The moving average of the weights is taken where the run kept one. Batch
normalization is kept (it is folded when the model is loaded). ``--facts`` is a JSON object of strings and numbers for
the metadata: modalities, coverage, data, licence, calibration. ``--with`` mixes in the weights that the training
started from: the mean forgets less of what they knew (arXiv 2109.01903).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

import torch

from SAMv2Core.errors import InputError, UsageError
from SAMv2Core.io.files import PathLike
from SAMv2Core.models.checkpoints import export_official, load_state, read_checkpoint, save_network
from SAMv2Core.models.records import sha256_of, write_record
from SAMv2Core.network.build import build_network
from SAMv2Core.network.lite import LiteConfig
from Training.engine.checkpoint import read_training
from Training.engine.command import finish
from Training.tasks.networks import WINDOWS


def main(argv: Optional[List[str]] = None) -> int:
    """Export; exit codes as those of the command line ``samv2``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path, help="NAME.safetensors, or NAME.pth for the official layout")
    parser.add_argument("--name", help="default: the output's name")
    parser.add_argument("--facts", type=Path)
    parser.add_argument(
        "--with", dest="other", type=Path, metavar="WEIGHTS", help="of which the mean is taken with these"
    )
    parser.add_argument(
        "--share", type=float, default=0.5, help="of the checkpoint in that mean (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    other = None if args.other is None else (args.other, args.share)
    return finish(lambda: export(args.checkpoint, args.output, args.name, _read_facts(args.facts), other))


def export(
    checkpoint: PathLike,
    output: PathLike,
    name: Optional[str] = None,
    facts: Optional[Mapping[str, Any]] = None,
    mixed_with: Optional[Tuple[PathLike, float]] = None,
) -> None:
    """Write the weights of a training checkpoint, see the module's text.

    :param facts: for the metadata of our format.
    :param mixed_with: other weights of the same network, and the checkpoint's share in their mean, in (0, 1).
    :raises InputError: not a training checkpoint, or other weights of another network.
    :raises ModelError: weights that fit no full-size network.
    :raises OutputError: the file cannot be written.
    """
    output = Path(output)
    state, architecture, steps = trained_state(checkpoint)
    origin = f"trained by this project, {steps} steps"
    if mixed_with is not None:
        state = _mean(state, architecture, *mixed_with)
        origin += f"; {mixed_with[1]:g} of that, the rest of {Path(mixed_with[0]).name}"
    if output.suffix == ".pth":
        if architecture == "lite":
            raise UsageError("The light network has no official layout.", "Export it as .safetensors.")
        export_official(state, output)
        return
    net = build_network(architecture, _lite_config(state) if architecture == "lite" else None)
    load_state(net, state, str(checkpoint))
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in (facts or {}).items()}
    metadata.update(name=name or output.stem, steps=str(steps))
    save_network(net, output, metadata)
    write_record(output, sha256_of(output), origin, architecture)


def _mean(
    state: Mapping[str, torch.Tensor], architecture: str, path: PathLike, share: float
) -> Dict[str, torch.Tensor]:
    """:raises UsageError: a share that is none. :raises InputError: weights of another network."""
    if not 0 < share < 1:
        raise UsageError(f"A share of {share:g} makes no mean.", "Give --share between 0 and 1.")
    other, found, _ = trained_state(path)
    if found != architecture or {k: v.shape for k, v in other.items()} != {k: v.shape for k, v in state.items()}:
        raise InputError(f"{path} holds another network than the checkpoint.", "Give weights of the same one.")
    return {
        name: torch.lerp(other[name].float(), value.float(), share) if value.is_floating_point() else value
        for name, value in state.items()
    }


def load_trained(path: PathLike, architecture: str) -> torch.nn.Module:
    """The network of a weights file or of a training checkpoint, in evaluation mode on the CPU.

    :raises InputError: not readable, or of another architecture. :raises ModelError: weights that do not fit.
    """
    state, found, _ = trained_state(path)
    if found != architecture:
        raise InputError(f"{path} holds a network {found}.", f"Give one of {architecture}.")
    net = build_network(found, _lite_config(state) if found == "lite" else None)
    load_state(net, state, str(path))
    return net.eval()


def trained_state(path: PathLike) -> Tuple[Dict[str, torch.Tensor], str, int]:
    """State dict (the average of the weights where there is one), architecture and steps of a training checkpoint.

    Weights files are read too; their steps are 0.

    :raises InputError, ModelError: not readable, or neither of these.
    """
    if Path(path).suffix != ".pt":
        checkpoint = read_checkpoint(path)
        return checkpoint.state, checkpoint.architecture, 0
    stored = read_training(path)
    return stored["average"] or stored["net"], stored["recipe"]["network"]["architecture"], stored["step"]


def _lite_config(state: Mapping[str, torch.Tensor]) -> Optional[LiteConfig]:
    """The light network's windows, by their number: a checkpoint holds weights alone."""
    stem = state.get("context.stem.conv.weight")
    fitting = [found for found in WINDOWS.values() if stem is not None and len(found) == stem.shape[1]]
    return LiteConfig(windows=fitting[0]) if fitting else None


def _read_facts(path: Optional[Path]) -> Dict[str, Any]:
    if path is None:
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}).", "Repair the file.") from error
    if not isinstance(facts, dict):
        raise InputError(f"{path} holds no JSON object.", 'Write {"key": "value", ...}.')
    return facts


if __name__ == "__main__":
    sys.exit(main())
