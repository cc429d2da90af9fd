"""Patches whose contrast is made up, for the recipes of the paper: the option ``intensity.synthetic``.

The part of a scan that a view covers is replaced by an image synthesized from its label map
(:mod:`Training.views.synthesis`): organs where the scan has labels, clusters of tissue elsewhere. Everything after that
(rotation, scale, curves, blur) is as for a real patch, so synthetic and real views mix freely, also within a pair.
"""

from __future__ import annotations

from typing import Optional

import numpy as np
import torch

from Training.data.index import to_network, to_stored
from Training.views.synthesis import anatomy_labels, synthesize


def synthetic_crop(
    stored: np.ndarray, body: np.ndarray, labels: Optional[np.ndarray], modality: str, rng: np.random.Generator
) -> np.ndarray:
    """An image of the same anatomy in another contrast.

    :param stored: (d, h, w) int16 stored units on the 2 mm lattice.
    :param body: (d, h, w), true inside the patient.
    :param labels: (d, h, w) organ ids, or None.
    :returns: (d, h, w) int16 stored units.
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    inside = np.asarray(body, bool)
    anatomy = anatomy_labels(stored, inside, labels, modality, seed=int(rng.integers(2**31)))
    image = synthesize(
        torch.from_numpy(anatomy.astype(np.int64)),
        torch.from_numpy(inside),
        generator,
        real=torch.from_numpy(to_network(stored.astype(np.float32))),
    )
    return to_stored(image.numpy())
