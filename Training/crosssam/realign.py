"""Aligned CT-MR pairs aligned anew by their intensities, near bone above all.

    python -m Training.crosssam.realign --data INDEX --out DIR

Pairs that others aligned are taught as the truth, to the voxel. In the limbs of ``ctmr`` they are not: at points of
bone placed by hand in CT and MR the authors' alignment is 3 to 13 mm off (median of each of four pairs), and an ascent
from it (:mod:`SAMv2Core.registration.pose_refinement`) 1 to 5. A new pose is kept where the agreement near bone has
risen, the scans still overlap, and the scan has moved less than two poses are told apart by; else the pair stays as it
was. The index that comes out shares the arrays of the first one.
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Dict, List, Optional

import numpy as np

from SAMv2Core.geometry.grid import transform_points
from SAMv2Core.io.volume import Volume
from SAMv2Core.registration.least_squares import residuals_mm
from SAMv2Core.registration.pose_refinement import refine
from SAMv2Core.registration.poses import APART_MM, BONE_LEVELS, LEVELS
from SAMv2Core.registration.tissue import TissueImage, tissue_image
from Training.data.index import Entry, Index, moved_to, read_index, write_index
from Training.engine.command import finish

logger = logging.getLogger("Training")

LOST_OVERLAP = 0.02  # that may be lost: a pose that lays the bone beside the other scan is measured by what is left


def ascend(large: TissueImage, small: TissueImage, matrix: np.ndarray) -> np.ndarray:
    """The nearest best pose by intensities, or the given one where the new one is not surely better.

    :param matrix: (4, 4) LPS mm, points of the small to the large scan, as is the result.
    """
    found = matrix
    for level in (*LEVELS[1:], *BONE_LEVELS):
        found = refine(large, small, found[None], level).matrices[0]
    both = refine(large, small, np.stack([matrix, found]), BONE_LEVELS[-1]._replace(steps=0))
    enough = min(both.overlap[0] - LOST_OVERLAP, BONE_LEVELS[-1].full_overlap)
    better = both.bone[1] > both.bone[0] and both.overlap[1] > enough
    return found if better and moved_mm(small, matrix, found) < APART_MM else matrix


def moved_mm(image: TissueImage, before: np.ndarray, after: np.ndarray) -> float:
    """Mean distance of the places of the body under two poses."""
    k, j, i = np.nonzero(image.at_spacing(8.0).body.numpy())
    points = image.at_spacing(8.0).grid.to_lps(np.stack([i, j, k], axis=-1))
    return float(residuals_mm(after, points, transform_points(before, points)).mean())


def realign(index: Index, out: Path) -> Index:
    """Write the index with every aligned pair aligned anew.

    :raises InputError: no aligned pair, or a scan without a body.
    """
    new: Dict[str, np.ndarray] = {}
    for ct, mr in index.pairs(split=None, registered=True):
        assert ct.to_partner is not None
        large, small = (tissue_image(_volume(index, entry), entry.modality) for entry in (ct, mr))
        before = np.linalg.inv(ct.to_partner)
        found = ascend(large, small, before)
        logger.info("%s moves by %.1f mm", ct.name, moved_mm(small, before, found))
        if found is not before:
            new[mr.name], new[ct.name] = found, np.linalg.inv(found)
    out.mkdir(parents=True, exist_ok=True)
    write_index(out, (_with(entry, new.get(entry.name), index, out) for entry in index.entries))
    return read_index(out)


def _volume(index: Index, entry: Entry) -> Volume:
    return Volume(index.array(entry.image).astype(np.float32), entry.grid.ijk_to_lps, source=entry.name)


def _with(entry: Entry, matrix: Optional[np.ndarray], index: Index, out: Path) -> Entry:
    moved = replace(entry, **moved_to(entry, index.folder, out))  # type: ignore[arg-type]
    if matrix is None:
        return moved
    return replace(moved, partner_matrix=tuple(matrix.ravel().tolist()), partner_field=None)


def main(argv: Optional[List[str]] = None) -> int:
    """Exit codes as those of the command line ``samv2``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="index of Training.prepare, or its folder")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args(argv)
    return finish(lambda: realign(read_index(args.data), args.out), args.out)


if __name__ == "__main__":
    sys.exit(main())
