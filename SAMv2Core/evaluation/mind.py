"""MIND-SSC, a descriptor without any training, through the same matcher: the line that a network has to beat.

Twelve numbers per voxel, how alike patches around it are to each other (Heinrich et al., MICCAI 2013), computed by
``convexAdam`` (Apache-2.0) at 2 mm, radius 2, dilation 2, then averaged to the 4 mm lattice. They lie in 0..1 and
are compared by squared differences; the matcher compares unit vectors by their dot product. Taking 0.5 away before the
vectors are normalized makes them nearly equal in length, so that both orders agree closely (and a flat region,
whose numbers are all near 1, differs from a structured one).

Its "similarities" are not those that the matcher's verdicts were calibrated on: of a MIND line errors mean something,
``found`` and ``confidence`` do not.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Callable, Optional

import torch

from SAMv2Core.embedding.embedding import Embedding
from SAMv2Core.errors import UsageError
from SAMv2Core.evaluation.extractor import Extractor
from SAMv2Core.evaluation.features import as_embedding
from SAMv2Core.io.volume import Volume
from SAMv2Core.preprocessing.preprocess import preprocess_report

Progress = Callable[[float, str], None]

NAME = "MIND-SSC"
RADIUS, DILATION = 2, 2


class MindFeatures(Extractor):
    """The MIND-SSC descriptor of a volume.

    :raises UsageError: ``convexAdam`` is not installed.
    """

    def __init__(self) -> None:
        try:
            self._mind = importlib.import_module("convexAdam.convex_adam_utils").MINDSSC
        except ImportError as error:
            raise UsageError(
                f"MIND-SSC features need the Python package convexAdam, which does not load ({error}).",
                "pip install convexAdam",
            ) from error
        self.name, self.sha256, self.device = NAME, "", "cpu"

    def embed(self, volume: Volume, modality: str = "auto", progress: Optional[Progress] = None) -> Embedding:
        """The descriptor on the 4 mm lattice; errors are those of preprocessing."""
        prepared = preprocess_report(volume, modality)
        if progress is not None:
            progress(0.1, f"{NAME} of {Path(volume.source).name}")
        with torch.no_grad():
            descriptor = self._mind(prepared.x, RADIUS, DILATION, "cpu")
        return as_embedding(descriptor - 0.5, prepared, volume, NAME, f"radius {RADIUS}, dilation {DILATION}")
