"""Small training data for the tests: phantoms with labels and registered CT-MR pairs, prepared without any file."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

import numpy as np
import torch

from SAMv2Core.preprocessing.preprocess import preprocess_report
from Testing.samples.synthetic import make_body_volume
from Training.data.index import Entry, to_stored, write_index

SHAPE = (36, 40, 44)
SPACING = (4.0, 4.0, 3.0)
MR_SHIFT_LPS = np.array([6.0, -4.0, 8.0])

#: Values that make a network of the paper's layout small enough for a test.
TINY = (
    "network.narrow=8", "patch.size_zyx=[16, 48, 48]", "patch.margin_zyx=[2, 6, 6]", "patch.voxels=body",
    "run.batch=2", "semantic.size_zyx=[16, 48, 48]", "registered.size_zyx=[16, 48, 48]", "registered.jitter_voxels=3",
    "fine.n_positive=60", "fine.n_negative=100", "optimizer.warmup_steps=5", "validation.pairs=2",
    "validation.points=200", "validation.pictures=false",
)  # fmt: skip

#: The same for the light recipe, with a bank of whole scans.
SMALL_LITE = (
    "lite.views.context_size=[24, 32, 32]", "lite.views.detail_size=[16, 24, 24]", "lite.views.shift_mm=[16, 16, 16]",
    "lite.views.cut_probability=0", "lite.views.rotation=8", "lite.wide.share=0", "lite.groups={ct: 1.0}",
    "lite.coarse.n_negatives=1000", "lite.fine.n_negatives=1000", "lite.refresh=20", "validation.pairs=6",
)  # fmt: skip


def phantom_labels(stored: np.ndarray) -> np.ndarray:
    """Lungs 1, bone 2, soft tissue 3 of a phantom CT (HU), by its values; (z, y, x) uint8."""
    labels = np.zeros(stored.shape, np.uint8)
    labels[(stored > -900) & (stored < -700)] = 1
    labels[stored > 450] = 2
    labels[(stored > 0) & (stored < 120)] = 3
    return labels


def phantom_entry(
    folder: Path,
    name: str,
    seed: int,
    modality: str = "ct",
    split: str = "train",
    labelled: bool = False,
    partner: Optional[str] = None,
) -> Entry:
    """Write the arrays of one phantom; an MR lies ``MR_SHIFT_LPS`` beside its CT and is registered to it exactly."""
    center = MR_SHIFT_LPS if modality == "mr" else np.zeros(3)
    volume = make_body_volume(SHAPE, SPACING, seed=seed, modality=modality, center_lps=center)
    result = preprocess_report(volume, modality)
    arrays: Dict[str, np.ndarray] = {"image": to_stored(result.x[0, 0].numpy()), "body": result.body.astype(np.uint8)}
    if labelled:
        arrays["labels"] = phantom_labels(arrays["image"])
    for kind, array in arrays.items():
        np.save(folder / f"{name}_{kind}.npy", array)
    matrix = np.eye(4)
    matrix[:3, 3] = -MR_SHIFT_LPS if modality == "mr" else MR_SHIFT_LPS
    origin = tuple(float(x) for x in result.grid.ijk_to_lps[:3, 3])
    return Entry(
        name, "phantom", modality, f"{name}_image.npy", f"{name}_body.npy", result.grid.shape_zyx, origin,  # type: ignore[arg-type]
        labels=f"{name}_labels.npy" if labelled else None, partner=partner,
        partner_matrix=tuple(matrix.ravel()) if partner else None, split=split,
    )  # fmt: skip


def write_phantom_index(folder: Path, n_train: int = 3, pairs: bool = False) -> Path:
    """An index of labelled phantom CTs, two of them held out; with ``pairs`` each has its MR."""
    entries: List[Entry] = []
    for seed in range(n_train + 2):
        split = "train" if seed < n_train else "val"
        name, other = f"ct{seed}", f"mr{seed}"
        entries.append(phantom_entry(folder, name, seed, "ct", split, True, other if pairs else None))
        if pairs:
            entries.append(phantom_entry(folder, other, seed, "mr", split, False, name))
    return write_index(folder, entries)


class PlaceNetwork:
    """Stands for a perfect coarse head: every voxel's vector is its own place in the volume."""

    def parameters(self) -> Iterator[torch.Tensor]:
        return iter([torch.zeros(1)])

    def embed_context(self, x: torch.Tensor) -> Tuple[None, torch.Tensor]:
        shape = [n // 2 for n in x.shape[2:]]
        axes = torch.meshgrid(*[torch.linspace(0, torch.pi, n) for n in shape], indexing="ij")
        # Waves: neighbors stay apart in half precision, too.
        waves = [wave(k * axis) for axis in axes for k in (1, 2, 4, 8) for wave in (torch.sin, torch.cos)]
        return None, torch.nn.functional.normalize(torch.stack(waves)[None], dim=1)
