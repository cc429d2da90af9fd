"""Two aligned synthetic CT-MR pairs, prepared, and results of registering them: for AdaReg and its rounds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from SAMv2Core.io.volume import write_volume
from Testing.samples.synthetic import make_body_volume
from Training.crosssam.adareg import PairResult
from Training.crosssam.displaced import TRUTH, read_truth
from Training.data.index import Index, read_index
from Training.prepare import prepare

SHAPE, SPACING = (24, 40, 44), (5.0, 4.0, 5.0)


def aligned_pairs(folder: Path) -> Index:
    """An index of two aligned synthetic CT-MR pairs, made in a folder."""
    for seed in (0, 1):
        for modality in ("ct", "mr"):
            volume = make_body_volume(SHAPE, SPACING, seed=seed, modality=modality)
            write_volume(volume, folder / f"p{seed}_{modality}.nii.gz")
    prepare([folder], folder / "out")
    index = read_index(folder / "out")
    same = tuple(np.eye(4).ravel())
    return Index(index.folder, tuple(replace(entry, partner_matrix=same) for entry in index.entries))


def truths(index):
    return read_truth(index.folder / TRUTH)


def known(index, offset_mm=0.0, **changes):
    """Results that are the truth, off by a translation."""
    out = []
    for first, second in index.pairs(split=None):
        matrix = truths(index)[first.name].copy()
        matrix[:3, 3] += offset_mm * np.array([1.0, 0, 0])
        given = {"status": "registered", "weight": 1.0, **changes}
        out.append(PairResult(first.name, second.name, tuple(matrix.ravel().tolist()), **given))
    return out
