"""The first format of prepared scans, which ``Training.lite`` reads: one compressed file per scan.

    python -m Training.prepare_npz ROOT --out FOLDER [--groups ct/train hn/train ...]

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

from SAMv2Core.errors import SAMv2Error
from SAMv2Core.files import atomic_path
from SAMv2Core.preprocess import preprocess_report
from SAMv2Core.volume import read_volume
from Training.prepare_scan import halve, resample_labels

logger = logging.getLogger(__name__)

SKIPPED_SUFFIXES = ("_labels.nii.gz", "_mr.nii.gz")


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
