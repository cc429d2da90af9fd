"""What the same named places look like in several people: vectors and positions, no voxel of anyone.

An *exemplar* is one scan whose landmarks somebody has placed: for each its joint vector
(:func:`SAMv2Core.matching.similarity.joint_vectors`) and its position. An :class:`Atlas` is some exemplars together;
:func:`SAMv2Core.landmarks.find.find_landmarks` looks for their names in another scan. It belongs to the network that
made the vectors and says so by the hash of its weights. The paper's one-shot detection has a single exemplar (arXiv
2311.15111, sec. 3.2 and the landmark tables).

File, safetensors layout: ``vectors`` (N, K) float16, ``positions`` (N, 3) float32 LPS mm of the exemplar, ``sure`` (N,)
float32; metadata ``names`` and ``exemplars`` (JSON lists of N texts), ``model``, ``model_sha256``, ``calibration`` and
``reliability`` (JSON objects of numbers).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Dict, Mapping, Sequence, Tuple

import numpy as np

from SAMv2Core.errors import InputError, ModelError
from SAMv2Core.io.files import PathLike
from SAMv2Core.io.safetensors import read_safetensors, write_safetensors
from SAMv2Core.models.records import ATLAS_SUFFIX, bundled_folder

if TYPE_CHECKING:
    from SAMv2Core.embedding.embedding import Embedding

FORMAT = "samv2-landmarks-1"

BUNDLED = "bundled"
"""Names the atlas that ships with the model among others."""


@dataclass(frozen=True, eq=False)
class Atlas:
    """Landmarks of some exemplars, one row each.

    :param names: (N,) of the landmarks; the same name in each exemplar that shows it.
    :param exemplars: (N,) which scan a row comes from.
    :param positions_lps: (N, 3) LPS mm in that scan.
    :param vectors: (N, K) joint vectors of unit length.
    :param sure: (N,) 0..1, how sure whoever placed it was.
    :param model: that made the vectors, ``model_sha256`` the hash of its weights.
    :param calibration: coefficients of the confidence, see :class:`SAMv2Core.landmarks.landmark.Coefficients`.
    :param reliability: by name, in how many other patients it was found within 10 mm, 0..1: a bifurcation is easy, a
        level of the spine or the top of a flat dome is not.
    :raises InputError: arrays that do not fit together, or numbers that are none.
    """

    names: Tuple[str, ...]
    exemplars: Tuple[str, ...]
    positions_lps: np.ndarray
    vectors: np.ndarray
    sure: np.ndarray
    model: str
    model_sha256: str
    calibration: Mapping[str, float] = field(default_factory=dict)
    reliability: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n, vectors = len(self.names), np.asarray(self.vectors)
        shapes = (np.shape(self.positions_lps), np.shape(self.sure), len(self.exemplars))
        if not n or vectors.ndim != 2 or len(vectors) != n or shapes != ((n, 3), (n,), n):
            raise InputError("This is no atlas of landmarks.", "Make one with: samv2 landmarks --teach")
        if not all(np.isfinite(values).all() for values in (vectors, self.positions_lps, self.sure)):
            raise InputError("An atlas of landmarks holds numbers that are none.", "Make it again.")

    def __repr__(self) -> str:
        return f"Atlas({len(set(self.names))} landmarks of {len(set(self.exemplars))} exemplars, model {self.model})"

    def part(self, keep: np.ndarray) -> Atlas:
        """The rows chosen by a mask or by numbers (N,)."""
        rows = np.arange(len(self.names))[keep]
        return Atlas(
            tuple(self.names[i] for i in rows),
            tuple(self.exemplars[i] for i in rows),
            self.positions_lps[rows],
            self.vectors[rows],
            self.sure[rows],
            self.model,
            self.model_sha256,
            self.calibration,
            self.reliability,
        )


def exemplar(emb: Embedding, landmarks: Mapping[str, Sequence[float]], name: str, sure: Mapping[str, float]) -> Atlas:
    """An atlas of one scan.

    :param landmarks: LPS mm in the scan by name.
    :param name: tells this exemplar from others.
    :param sure: 0..1 by name; 1 where it says nothing.
    :raises InputError: no landmark, or one outside the scan.
    """
    from SAMv2Core.matching.similarity import joint_vectors

    names = tuple(landmarks)
    if not names:
        raise InputError(f"There is no landmark in {name}.", "Place some points and give them names.")
    positions = np.array([landmarks[label] for label in names], dtype=np.float64)
    outside = [label for label, inside in zip(names, emb.volume_grid.contains(positions)) if not inside]
    if outside:
        raise InputError(f"{', '.join(outside)} of {name} lie outside the scan.", "Give the points of this scan.")
    vectors = joint_vectors(emb, positions).cpu().numpy().astype(np.float16)
    trust = np.array([float(sure.get(label, 1.0)) for label in names])
    return Atlas(names, (name,) * len(names), positions, vectors, trust, emb.model, emb.model_sha256)


def join(atlases: Sequence[Atlas]) -> Atlas:
    """All exemplars together; the first atlas gives calibration and reliability.

    :raises ModelError: atlases of different models.
    :raises InputError: none, or two exemplars of one name.
    """
    if not atlases:
        raise InputError("There is no exemplar.", "Give at least one scan with landmarks.")
    if len({atlas.model_sha256 for atlas in atlases}) > 1:
        raise ModelError(
            "The atlases were made with different models.", "Make them again with the model you search with."
        )
    if sum(len(set(atlas.exemplars)) for atlas in atlases) > len({e for atlas in atlases for e in atlas.exemplars}):
        raise InputError("Two exemplars bear the same name.", "Leave one out, or give it another name.")
    first = atlases[0]
    return Atlas(
        tuple(name for atlas in atlases for name in atlas.names),
        tuple(name for atlas in atlases for name in atlas.exemplars),
        np.concatenate([atlas.positions_lps for atlas in atlases]),
        np.concatenate([atlas.vectors for atlas in atlases]),
        np.concatenate([atlas.sure for atlas in atlases]),
        first.model,
        first.model_sha256,
        first.calibration,
        first.reliability,
    )


def save_atlas(atlas: Atlas, path: PathLike) -> None:
    """Write an atlas as a file.

    :raises OutputError: see :func:`SAMv2Core.io.safetensors.write_safetensors`.
    """
    tensors: Dict[str, np.ndarray] = {
        "vectors": np.asarray(atlas.vectors, dtype=np.float16),
        "positions": np.asarray(atlas.positions_lps, dtype=np.float32),
        "sure": np.asarray(atlas.sure, dtype=np.float32),
    }
    metadata = {
        "format": FORMAT,
        "names": json.dumps(atlas.names),
        "exemplars": json.dumps(atlas.exemplars),
        "model": atlas.model,
        "model_sha256": atlas.model_sha256,
        "calibration": json.dumps(dict(atlas.calibration), sort_keys=True),
        "reliability": json.dumps(dict(atlas.reliability), sort_keys=True),
    }
    write_safetensors(path, tensors, metadata)


def load_atlas(path: PathLike) -> Atlas:
    """Read an atlas.

    :raises InputError: missing, damaged, or a file of another kind.
    """
    tensors, metadata = read_safetensors(path)
    refusal = InputError(f"{path} is no atlas of landmarks.", "Make one with: samv2 landmarks --teach")
    if metadata.get("format") != FORMAT or not {"vectors", "positions", "sure"} <= set(tensors):
        raise refusal
    try:
        names, exemplars = (tuple(map(str, json.loads(metadata[key]))) for key in ("names", "exemplars"))
        calibration, reliability = (_numbers(metadata[key]) for key in ("calibration", "reliability"))
    except (KeyError, ValueError, TypeError, AttributeError):
        raise refusal from None
    arrays = (tensors["positions"].astype(np.float64), tensors["vectors"], tensors["sure"].astype(np.float64))
    model, sha256 = metadata.get("model", ""), metadata.get("model_sha256", "")
    try:
        return Atlas(names, exemplars, *arrays, model, sha256, calibration, reliability)
    except InputError:
        raise refusal from None


def _numbers(text: str) -> Dict[str, float]:
    """A JSON object of numbers; ValueError, TypeError or AttributeError for anything else."""
    return {str(key): float(value) for key, value in json.loads(text).items()}


def bundled_path(model: str) -> Path:
    """Where the atlas of a bundled model lies."""
    return bundled_folder() / f"{model}{ATLAS_SUFFIX}"


def atlas_for(emb: Embedding) -> Atlas:
    """The bundled atlas of the model that made an embedding.

    :raises ModelError: that model has none, or it was made with other weights.
    """
    path = bundled_path(emb.model)
    remedy = "Use --model lite-ct, or give an atlas of your own (--atlas)."
    if not path.is_file() and emb.modality == "mr":
        raise ModelError(
            "There are landmarks of CT alone, and this scan is an MR.", "Give an atlas of your own (--atlas)."
        )
    if not path.is_file():
        raise ModelError(f"There is no atlas of landmarks for the model {emb.model!r}.", remedy)
    atlas = load_atlas(path)
    if atlas.model_sha256 != emb.model_sha256:
        raise ModelError(f"The atlas of landmarks was made with other weights of {emb.model!r}.", remedy)
    return atlas
