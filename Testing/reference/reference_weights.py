"""The seeded weights and inputs of the reference vectors, made from names and shapes (see data/README.md)."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Dict, Sequence

import numpy as np

DATA = Path(__file__).parent / "data"
FILES = {"sam": "state_dict_sam.json", "sampp": "state_dict_uae_s.json", "crosssam": "state_dict_uae_m.json"}


def reference_shapes(architecture: str) -> Dict[str, Sequence[int]]:
    """Name to shape of every entry of a released checkpoint."""
    return json.loads((DATA / FILES[architecture]).read_text(encoding="utf-8"))


def reference_array(name: str, shape: Sequence[int]) -> np.ndarray:
    """The values of one entry: drawn by a generator that is seeded with the entry's name."""
    draw = np.random.RandomState(zlib.crc32(name.encode()) & 0xFFFFFFFF)
    if name.endswith("num_batches_tracked"):
        return np.array(20000, dtype=np.int64)
    if name.endswith((".bn.weight", ".running_var")):
        values = draw.uniform(0.5, 1.5, shape)
    elif name.endswith((".bn.bias", ".running_mean", ".conv.bias")):
        values = 0.1 * draw.standard_normal(shape)
    elif name.endswith(".conv.weight"):
        values = draw.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[1:]))
    else:
        raise KeyError(name)
    return values.astype(np.float32)


def reference_state(architecture: str) -> Dict[str, np.ndarray]:
    """A whole state dict."""
    return {name: reference_array(name, shape) for name, shape in reference_shapes(architecture).items()}


def reference_input(shape: Sequence[int] = (1, 1, 32, 64, 64), seed: int = 20231125) -> np.ndarray:
    """A network input, float32, uniform over the range of preprocessed volumes."""
    draw = np.random.RandomState(seed)
    return draw.uniform(-50.0, 205.0, shape).astype(np.float32)
