r"""Turns a training checkpoint into the weights file that SAMv2Core loads.

    python -m Training.export runs/lite-ct/last.pt Resources/Models/lite-ct.safetensors \
        --facts Training/facts/lite-ct.json

The averaged weights are taken. Batch normalization is kept (it is folded when the model is loaded), matrices become
half precision. ``--facts`` is a JSON object of strings and numbers for the metadata: modalities, coverage, data,
licence, calibration. The record beside the file holds its SHA-256, without which a bundled file is not trusted.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import List, Optional

import torch

from SAMv2Core.checkpoints import load_state, save_network
from SAMv2Core.model_files import sha256_of, write_record
from SAMv2Core.network.lite import LiteNet


def main(argv: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--name", help="default: the output's name")
    parser.add_argument("--facts", type=Path)
    args = parser.parse_args(argv)
    stored = torch.load(args.checkpoint, map_location="cpu", weights_only=True)
    net = LiteNet()
    load_state(net, stored["average"], str(args.checkpoint))
    facts = json.loads(args.facts.read_text()) if args.facts else {}
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
    metadata.update(name=args.name or args.output.stem, steps=str(stored["step"]))
    save_network(net, args.output, metadata)
    origin = f"trained by this project, {stored['step']} steps"
    write_record(args.output, sha256_of(args.output), origin, net.architecture)


if __name__ == "__main__":
    main()
