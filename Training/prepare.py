"""Prepares scans for training: one compressed array file per scan on its 2 mm lattice, with body mask and labels.

    python -m Training.prepare ROOT --out FOLDER [--groups ct/train hn/train ...]

Every ``NAME.nii.gz`` under a group's folder becomes ``<group with __>__NAME.npz`` with

* ``hu`` (z, y, x) int16 at 2 mm, LPS axes; ``hu4`` the means of its 2x2x2 blocks (4 mm);
* ``body4`` uint8 at 4 mm, 1 inside the patient (the table is outside);
* ``labels`` uint8 on the lattice of ``hu``, when ``NAME_labels.nii.gz`` lies beside the scan;
* ``origin`` (3,) LPS mm of the centre of voxel 0, to place landmarks.

The preprocessing is the one the models see at run time (:mod:`SAMv2Core.preprocess`). Files that cannot be read are
listed and skipped; files already prepared are not read again.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Dict, List, Optional

import numpy as np
from scipy import ndimage

from SAMv2Core.errors import SAMv2Error
from SAMv2Core.files import atomic_path
from SAMv2Core.geometry import Grid
from SAMv2Core.preprocess import preprocess_report
from SAMv2Core.volume import read_volume

logger = logging.getLogger(__name__)

SKIPPED_SUFFIXES = ("_labels.nii.gz", "_mr.nii.gz")


def halve(array: np.ndarray) -> np.ndarray:
    """Means of 2x2x2 blocks of (z, y, x); an odd last plane is dropped."""
    d, h, w = (n // 2 for n in array.shape)
    return array[: 2 * d, : 2 * h, : 2 * w].reshape(d, 2, h, 2, w, 2).mean((1, 3, 5), dtype=np.float32)


def resample_labels(labels: np.ndarray, label_grid: Grid, grid: Grid) -> np.ndarray:
    """Nearest-neighbor labels (z, y, x) on another lattice; 0 outside."""
    matrix = label_grid.lps_to_ijk @ grid.ijk_to_lps
    flip = [2, 1, 0]
    return ndimage.affine_transform(
        labels,
        matrix[:3, :3][np.ix_(flip, flip)],
        offset=matrix[:3, 3][flip],
        output_shape=grid.shape_zyx,
        order=0,
        mode="constant",
        cval=0,
    )


def prepare_ct(path: Path) -> Dict[str, np.ndarray]:
    """The arrays of one CT, see the module's text.

    :raises SAMv2Error: the scan or its label map cannot be read or makes no sense.
    """
    result = preprocess_report(read_volume(path), "ct")
    values = (result.x[0, 0].numpy() + 50.0) * (4095.0 / 255.0) - 1024.0
    arrays: Dict[str, np.ndarray] = {
        "hu": np.round(values).astype(np.int16),
        "hu4": np.round(halve(values)).astype(np.int16),
        "body4": (halve(result.body.astype(np.float32)) >= 0.5).astype(np.uint8),
        "origin": result.grid.ijk_to_lps[:3, 3].copy(),
    }
    label_path = path.with_name(path.name.replace(".nii.gz", "_labels.nii.gz"))
    if label_path.exists():
        labels = read_volume(label_path)
        arrays["labels"] = resample_labels(labels.array.astype(np.uint8), labels.grid, result.grid)
    return arrays


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--groups", nargs="+", default=["ct/train", "hn/train", "ctmr/train"])
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    args.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for group in args.groups:
        for path in sorted((args.root / group).glob("*.nii.gz")):
            if path.name.endswith(SKIPPED_SUFFIXES):
                continue
            target = args.out / f"{group.replace('/', '__')}__{path.name[: -len('.nii.gz')]}.npz"
            if target.exists():
                continue
            try:
                arrays = prepare_ct(path)
            except SAMv2Error as error:
                failed += 1
                logger.warning("skipped %s: %s", path, error)
                continue
            with atomic_path(target) as temporary:
                with open(temporary, "wb") as stream:
                    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
            logger.info("%s: %s voxels, body %.0f %%", target.name, arrays["hu"].shape, 100 * arrays["body4"].mean())
    if failed:
        logger.warning("%d files skipped.", failed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
