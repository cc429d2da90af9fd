"""An embedding as a file: what ``samv2 embed`` writes and the cache keeps, readable with numpy alone.

The layout is that of safetensors (little-endian, no code in it):

==============  ====================================================================================
bytes           content
==============  ====================================================================================
0 ... 7         n, unsigned 64-bit: length of the header in bytes
8 ... 7+n       header, UTF-8 JSON object: one key per tensor, ``{"dtype": "F16", "shape": [...],
                "data_offsets": [first, last + 1]}`` with offsets counted from byte 8+n, and
                ``"__metadata__"``: text to text
8+n ... end     the tensors' elements, C order, without gaps
==============  ====================================================================================

Tensors:

* ``fine``, ``coarse`` and, when the model has it, ``semantic``: F16 (or F32), shape (C, d, h, w), axes
  (z, y, x), of unit length over C;
* ``body``: U8, shape (d, h, w) of ``fine``, 1 inside the patient.

The cache keeps nothing of the air around the patient (version 2): of the heads on the lattice of ``body``, such as
``fine``, shape (n, C) of the voxels of the body and next to it, and once

* ``voxels``: I32, shape (n,), their index in the flattened (d, h, w).

Metadata, all text:

* ``format`` is ``samv2-embedding``, ``format_version`` is ``1``, or ``2`` with ``voxels``;
* ``grids``: JSON object with a key for each head and for ``input`` (the 2 mm lattice) and ``volume`` (the
  original), each ``{"shape_zyx": [d, h, w], "ijk_to_lps": 4x4 row-major}``; ijk = (x, y, z) index of a
  voxel's centre, LPS mm;
* ``modality``, ``model``, ``model_sha256``, ``source`` (the volume's file name without folder);
* ``head_weights``, ``calibration`` (may be absent): JSON objects, ``warnings``: JSON list;
* ``tensors_sha256``: SHA-256 of the tensors' bytes, taken in the alphabetical order of their names.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Tuple

import numpy as np
import torch

from SAMv2Core.embedding.embedding import Embedding, FeatureMap, with_shell
from SAMv2Core.errors import InputError
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.files import PathLike
from SAMv2Core.io.safetensors import read_safetensors, write_safetensors

FORMAT = "samv2-embedding"
FORMAT_VERSION, BODY_ONLY_VERSION = "1", "2"

_HEADS = ("fine", "coarse", "semantic")


def save_embedding(
    emb: Embedding, path: PathLike, extra: Optional[Mapping[str, str]] = None, body_only: bool = False
) -> None:
    """Write an embedding; atomically, so that the file is whole or absent.

    Parameters
    ----------
    emb : Embedding
    path : path
        Usually ``*.safetensors``; the layout stands at the top of this module and is readable with numpy alone.
    extra : mapping of str to str, optional
        More metadata; must not use the keys of the format.
    body_only : bool
        Leave out the vectors of the air around the patient, which read back as zero.

    Raises
    ------
    OutputError
        The file cannot be written.

    Examples
    --------
    >>> import SAMv2Core as s
    >>> template = s.load_model("lite-ct", "cpu").embed(volume)
    >>> s.save_embedding(template, "template.safetensors")
    >>> bool((s.load_embedding("template.safetensors").fine.vectors == template.fine.vectors).all())
    True
    """
    tensors, metadata = as_tensors(emb, body_only)
    write_safetensors(path, tensors, {**(extra or {}), **metadata, "tensors_sha256": tensors_sha256(tensors)})


def as_tensors(emb: Embedding, body_only: bool = False) -> Tuple[Dict[str, np.ndarray], Dict[str, str]]:
    """The tensors and the metadata of the layout; :func:`from_tensors` undoes it."""
    tensors = {head.name: head.vectors.detach().cpu().contiguous().numpy() for head in emb.heads}
    tensors["body"] = np.ascontiguousarray(emb.body).view(np.uint8)
    if body_only:
        tensors["voxels"] = voxels = with_shell(emb.body)[1].astype(np.int32)
        for head in emb.heads:
            if head.grid.shape_zyx == emb.body.shape:
                flat = head.vectors.detach().cpu().reshape(len(head.vectors), -1)
                tensors[head.name] = flat.T[torch.from_numpy(voxels.astype(np.int64))].contiguous().numpy()
    grids = {
        "input": emb.input_grid,
        "volume": emb.volume_grid,
        **{head.name: head.grid for head in emb.heads},
    }
    metadata = {
        "format": FORMAT,
        "format_version": BODY_ONLY_VERSION if body_only else FORMAT_VERSION,
        "grids": json.dumps({name: _grid_to_json(grid) for name, grid in grids.items()}),
        "modality": emb.modality,
        "model": emb.model,
        "model_sha256": emb.model_sha256,
        "source": Path(emb.source).name,
        "head_weights": json.dumps(dict(emb.head_weights)),
        "calibration": json.dumps(dict(emb.calibration)),
        "warnings": json.dumps(list(emb.warnings)),
    }
    return tensors, metadata


def load_embedding(path: PathLike, verify: bool = True) -> Embedding:
    """Read an embedding that :func:`save_embedding` (or ``samv2 embed``) wrote.

    Parameters
    ----------
    path : path
    verify : bool
        Compare the checksum (some 0.3 s for a torso CT).

    Returns
    -------
    Embedding

    Raises
    ------
    InputError
        Missing, damaged, of another kind or of a newer format.

    Examples
    --------
    See :func:`save_embedding`.
    """
    tensors, metadata = read_safetensors(path)
    if metadata.get("format") != FORMAT:
        raise InputError(f"{path} is not an embedding of SAMv2.", "Make one with: samv2 embed --image I --output E.")
    if metadata.get("format_version") not in (FORMAT_VERSION, BODY_ONLY_VERSION):
        raise InputError(
            f"{path} has format {metadata.get('format_version')}, this program reads up to {BODY_ONLY_VERSION}.",
            "Update SAMv2, or embed the volume again.",
        )
    if verify and metadata.get("tensors_sha256") != tensors_sha256(tensors):
        raise _damaged(path, "its checksum does not match")
    try:
        return from_tensors(tensors, metadata)
    except (KeyError, TypeError, ValueError, InputError) as error:
        raise _damaged(path, str(error)) from error


def tensors_sha256(tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the elements of all tensors, in the alphabetical order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def from_tensors(tensors: Dict[str, np.ndarray], metadata: Mapping[str, str]) -> Embedding:
    """The embedding of tensors and metadata; raises KeyError, TypeError or ValueError where these are none."""
    tensors = dict(tensors)
    grids = {name: _grid_from_json(value) for name, value in json.loads(metadata["grids"]).items()}
    body, voxels = tensors["body"], tensors.get("voxels")
    if voxels is not None:
        for name in [head for head in _HEADS if head in tensors and tensors[head].ndim == 2]:
            tensors[name] = _spread_out(tensors[name], voxels, grids[name])
    maps = {name: _feature_map(name, tensors[name], grids[name]) for name in _HEADS if name in tensors}
    if body.dtype != np.uint8 or body.shape != maps["fine"].grid.shape_zyx:
        raise ValueError(f"its body mask is {body.dtype} of shape {body.shape}")
    return Embedding(
        fine=maps["fine"],
        coarse=maps["coarse"],
        semantic=maps.get("semantic"),
        body=body != 0,
        input_grid=grids["input"],
        volume_grid=grids["volume"],
        modality=metadata["modality"],
        model=metadata["model"],
        model_sha256=metadata["model_sha256"],
        head_weights={str(k): float(v) for k, v in json.loads(metadata["head_weights"]).items()},
        source=metadata["source"],
        warnings=tuple(str(text) for text in json.loads(metadata["warnings"])),
        calibration=dict(json.loads(metadata.get("calibration", "{}"))),
    )


def _spread_out(rows: np.ndarray, voxels: np.ndarray, grid: Grid) -> np.ndarray:
    """(C, d, h, w) of (n, C) rows at some voxels, zero elsewhere.

    Rows of one voxel stay together, so the pages between, never written to, take no memory.
    """
    if rows.shape[0] != len(voxels) or not np.all((voxels >= 0) & (voxels < grid.n_voxels)):
        raise ValueError(f"it names {len(voxels)} voxels for {rows.shape[0]} vectors")
    full = np.zeros((grid.n_voxels, rows.shape[1]), rows.dtype)
    full[voxels] = rows
    return np.moveaxis(full.reshape(*grid.shape_zyx, rows.shape[1]), -1, 0)


def _feature_map(name: str, vectors: np.ndarray, grid: Grid) -> FeatureMap:
    if vectors.dtype not in (np.float16, np.float32) or vectors.ndim != 4 or vectors.shape[1:] != grid.shape_zyx:
        raise ValueError(f"its {name} map is {vectors.dtype} of shape {vectors.shape} on a grid of {grid.shape_zyx}")
    # A copy only where the reader hands out views of a read-only buffer, which torch must not own.
    return FeatureMap(name, torch.from_numpy(vectors if vectors.flags.writeable else vectors.copy()), grid)


def _grid_to_json(grid: Grid) -> Dict[str, Any]:
    return {"shape_zyx": list(grid.shape_zyx), "ijk_to_lps": grid.ijk_to_lps.tolist()}


def _grid_from_json(value: Dict[str, Any]) -> Grid:
    shape = tuple(int(n) for n in value["shape_zyx"])
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"a grid has the shape {shape}")
    return Grid(shape, np.array(value["ijk_to_lps"], dtype=np.float64))


def _damaged(path: PathLike, reason: str) -> InputError:
    return InputError(f"{path} is damaged: {reason}.", "Embed the volume again.")
