"""Vectors averaged over a scan and the same scan half a coarse voxel further: less depends on where the lattice falls.

A network sees the lattice of 2 mm in blocks (coarse voxels), and the vector of a place depends a little on where in its
block it lies. The mean of two looks depends on it less, for twice the time. Not in the paper. With ``lite-ct`` it
gained nothing over the present matcher (977 places: -0.03 mm in necks, +0.2 in torsos, both within chance), so it is no
default.
"""

from __future__ import annotations

from typing import Dict, Mapping, Tuple

import torch
import torch.nn.functional as F

Size3 = Tuple[int, int, int]
Strides = Mapping[str, Size3]
"""Voxels of the lattice per voxel of each head, (z, y, x)."""


def shift_of(strides: Strides) -> Size3:
    """Half a coarse voxel in voxels of the lattice (z, y, x), so that fine voxels fall on fine voxels again."""
    z, y, x = (max(coarse // 2 // fine, 1) * fine for coarse, fine in zip(strides["coarse"], strides["fine"]))
    return z, y, x


def shifted_input(x: torch.Tensor, strides: Strides) -> torch.Tensor:
    """(1, 1, D, H, W) begun by so many voxels earlier, its border repeated, and ended by a coarse voxel later."""
    pads = [n for shift, coarse in zip(shift_of(strides)[::-1], strides["coarse"][::-1]) for n in (shift, coarse)]
    return F.pad(x, pads, mode="replicate")


def averaged(
    heads: Mapping[str, torch.Tensor], shifted: Mapping[str, torch.Tensor], strides: Strides
) -> Dict[str, torch.Tensor]:
    """The mean directions of both, on the lattices of the first.

    :param heads: name to (C, d, h, w) float16, unit vectors.
    :param shifted: the same of :func:`shifted_input`; larger.
    """
    found = {}
    for name, vectors in heads.items():
        other = shifted[name]
        for axis, (shift, stride) in enumerate(zip(shift_of(strides), strides[name]), 1):
            whole, part = divmod(shift, stride)
            near = other.narrow(axis, whole, vectors.shape[axis])
            if part:  # between two voxels of the second
                far = other.narrow(axis, whole + 1, vectors.shape[axis])
                near = torch.lerp(near.float(), far.float(), part / stride)
            other = near
        # Plane by plane: in float32 the whole would take four times the memory.
        planes = [
            F.normalize(a.float() + F.normalize(b.float(), dim=0), dim=0).half()
            for a, b in zip(vectors.unbind(1), other.unbind(1))
        ]
        found[name] = torch.stack(planes, dim=1)
    return found
