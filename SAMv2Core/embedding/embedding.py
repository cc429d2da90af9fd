"""What an embedded volume is: feature maps with their own geometry.

A :class:`FeatureMap` keeps one head's vectors together with the lattice they live on, so that no caller has to know a
network's strides; an :class:`Embedding` is the set of heads of one volume (paper sec. 3.1: fine and coarse appearance,
semantic) with what matching needs besides: the body mask and both geometries.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Tuple

import numpy as np
import torch
from scipy import ndimage

from SAMv2Core.geometry.grid import Grid


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """One head's output for a volume.

    :param name: ``"fine"``, ``"coarse"`` or ``"semantic"``.
    :param vectors: (C, d, h, w) float16 or float32, L2-normalised over C, axes (z, y, x).
    :param grid: the lattice of the d x h x w feature voxels, LPS mm.
    """

    name: str
    vectors: torch.Tensor
    grid: Grid

    def __repr__(self) -> str:
        return f"<FeatureMap {self.name}: {len(self.vectors)} channels, {self.grid.size_text}>"

    @property
    def nbytes(self) -> int:
        return self.vectors.numel() * self.vectors.element_size()


@dataclass(frozen=True, eq=False)
class Embedding:
    """All that matching needs of one volume.

    :param fine: appearance vectors at 4 mm.
    :param coarse: appearance vectors of large context, on a coarser lattice.
    :param semantic: semantic vectors on the fine lattice, or None when the model has no semantic head, or gives it no
        weight and nobody asked for it.
    :param body: (d, h, w) bool on the fine lattice: inside the patient, table removed.
    :param input_grid: the 2 mm lattice the network saw.
    :param volume_grid: the geometry of the original volume.
    :param modality: ``"ct"`` or ``"mr"``.
    :param model: name of the model; embeddings of different models must not be compared.
    :param model_sha256: hash of its weights.
    :param head_weights: weight of each head's cosine in the similarity; they sum to 1.
    :param calibration: of the model's confidence
        (:meth:`SAMv2Core.matching.confidence.UncertaintyModel.from_metadata`); empty for the defaults.
    """

    fine: FeatureMap
    coarse: FeatureMap
    semantic: Optional[FeatureMap]
    body: np.ndarray
    input_grid: Grid
    volume_grid: Grid
    modality: str
    model: str
    model_sha256: str
    head_weights: Dict[str, float] = field(default_factory=dict)
    source: str = ""
    warnings: Tuple[str, ...] = ()
    calibration: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        heads = ", ".join(head.name for head in self.heads)
        name = Path(self.source).name or "a volume"
        size = f"{self.fine.grid.size_text}, {self.nbytes / 1e6:.1f} MB"
        return f"<Embedding of {name}: {self.modality.upper()}, {self.model} ({heads}), {size}>"

    @property
    def heads(self) -> Tuple[FeatureMap, ...]:
        """The heads present, in the order fine, coarse, semantic."""
        return tuple(head for head in (self.fine, self.coarse, self.semantic) if head is not None)

    @property
    def nbytes(self) -> int:
        return sum(head.nbytes for head in self.heads) + self.body.nbytes


def with_shell(body: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """The voxels of a mask, and those followed by their neighbors outside of it: what a place in the body is made of.

    :param body: (d, h, w) bool.
    :returns: (n,) and (m,) int64 indices into the flattened mask; the first n of the m are the n.
    """
    inside = np.flatnonzero(body)
    shell = np.flatnonzero(ndimage.binary_dilation(body, np.ones((3, 3, 3))) & ~body)
    return inside, np.concatenate([inside, shell])
