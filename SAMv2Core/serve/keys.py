"""By what both sides name a mask; a volume's name is :func:`SAMv2Core.embedding.cache.cache_key`."""

from __future__ import annotations

import hashlib
from typing import Sequence

import numpy as np


def mask_key(bits: np.ndarray, shape_zyx: Sequence[int], lps_to_ijk: np.ndarray) -> str:
    """64 hexadecimal digits that change with the bits, the shape and the geometry.

    :param bits: (n,) uint8, ``np.packbits`` of the mask in C order.
    :param lps_to_ijk: (4, 4).
    """
    head = ([int(n) for n in shape_zyx], np.asarray(lps_to_ijk, np.float64).tolist())
    digest = hashlib.sha256(repr(head).encode())
    digest.update(np.ascontiguousarray(bits, np.uint8).data)
    return digest.hexdigest()
