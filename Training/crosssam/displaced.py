"""Known misalignment for measuring: the second scan of every aligned pair is turned, moved and resampled.

    python -m Training.crosssam.displaced --data INDEX --out DIR [--seed 0]

The index that comes out has unregistered pairs; the truth lies beside it in ``truth.json``, {name of the first scan: 16
numbers, row by row, LPS, first to second}. Scans are really resampled, with their corners cut by the turned field of
view, not just given another header: the networks' lattice follows the patient's axes, and a turned header would be
straightened without anybody's merit.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import numpy as np
from scipy.spatial.transform import Rotation

from SAMv2Core.errors import InputError
from SAMv2Core.geometry.grid import Grid, transform_points
from SAMv2Core.io.files import write_json
from SAMv2Core.io.resample import resample_to
from SAMv2Core.io.volume import Volume
from SAMv2Core.preprocessing.lattice import LATTICE_MM
from Training.data.index import AIR, IDENTITY, Entry, Index, moved_to, read_index, write_index
from Training.data.prepare_scan import ARRAYS, save_array, scan_arrays
from Training.engine.command import finish

TRUTH = "truth.json"


@dataclass(frozen=True)
class Displacement:
    """:param rotation_deg: largest rotation about each axis.
    :param translation_mm: longest translation.
    :param keep: share of the second scan's length along z that is kept, about a random place; 1 keeps all.
    """

    rotation_deg: float = 20.0
    translation_mm: float = 60.0
    keep: float = 1.0


def random_rigid(rng: np.random.Generator, center_lps: np.ndarray, options: Displacement) -> np.ndarray:
    """(4, 4) rotation about a center, uniform in each angle, then a translation of uniform length and direction."""
    angles = rng.uniform(-options.rotation_deg, options.rotation_deg, 3)
    direction = rng.normal(size=3)
    shift = direction / np.linalg.norm(direction) * rng.uniform(0, options.translation_mm)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    matrix[:3, 3] = center_lps + shift - matrix[:3, :3] @ center_lps
    return matrix


def displace(index: Index, out: Path, seed: int = 0, options: Optional[Displacement] = None) -> Index:
    """Write an index of the aligned pairs with their second scans displaced, and ``truth.json``.

    :raises InputError: no pair whose alignment is known.
    """
    aligned = [(a, b) for a, b in index.pairs(split=None) if a.partner_matrix is not None]
    if not aligned:
        raise InputError(f"{index.folder} holds no aligned pair.", "Displacing needs pairs whose transform is known.")
    out.mkdir(parents=True, exist_ok=True)
    entries: List[Entry] = []
    truth: Dict[str, List[float]] = {}
    for number, (first, second) in enumerate(aligned):
        rng = np.random.default_rng((seed, number))
        middle = second.grid.corners_lps().mean(axis=0)
        move = random_rigid(rng, middle, options or Displacement())
        entries.append(
            replace(first, partner_matrix=None, partner_field=None, **moved_to(first, index.folder, out))  # type: ignore[arg-type]
        )
        entries.append(_moved(index, second, move, rng, options or Displacement(), out))
        assert first.to_partner is not None
        truth[first.name] = (move @ first.to_partner).ravel().tolist()
    write_index(out, entries)
    write_json(out / TRUTH, truth)
    return read_index(out)


def read_truth(path: Path) -> Dict[str, np.ndarray]:
    """The matrices of ``truth.json``, (4, 4) by the name of the first scan.

    :raises InputError: missing or damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name: np.array(values, float).reshape(4, 4) for name, values in content.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path} cannot be read as true transforms ({error}).", "Make it with --displace.") from error


def _moved(
    index: Index, entry: Entry, move: np.ndarray, rng: np.random.Generator, options: Displacement, out: Path
) -> Entry:
    image, body = index.array(entry.image), index.array(entry.body)
    first, n = 0, image.shape[0]
    if options.keep < 1:
        n = max(2, round(options.keep * image.shape[0]))
        first = int(rng.integers(0, image.shape[0] - n + 1))
    matrix = entry.grid.ijk_to_lps.copy()
    matrix[:3, 3] += first * matrix[:3, 2]
    part = Grid((n, *image.shape[1:]), matrix)
    grid = _box(transform_points(move, part.corners_lps()))
    back = np.linalg.inv(move)
    image, body = (
        resample_to(grid, Volume(array[first : first + n].astype(np.float32) + offset, part.ijk_to_lps), back).array
        for array, offset in ((image, -AIR), (body, 0))
    )
    arrays = scan_arrays(np.round(image + AIR).astype(np.int16), body >= 0.5)
    paths = {kind: f"{ARRAYS}/{entry.name}.{kind}.npy" for kind in arrays}
    for kind, path in paths.items():
        save_array(out / path, arrays[kind])
    return replace(
        entry, image=paths["image"], body=paths["body"], image_4mm=paths["image4"], body_4mm=paths["body4"],
        shape_zyx=grid.shape_zyx, origin_lps=tuple(grid.ijk_to_lps[:3, 3].tolist()), direction=IDENTITY,
        labels=None, label_names=None, partner_matrix=None, partner_field=None,
    )  # fmt: skip


def _box(corners_lps: np.ndarray) -> Grid:
    """The 2 mm lattice along L, P, S that covers these points."""
    low, high = corners_lps.min(axis=0), corners_lps.max(axis=0)
    matrix = np.diag([LATTICE_MM] * 3 + [1.0])
    matrix[:3, 3] = low + LATTICE_MM / 2
    shape: Tuple[int, ...] = tuple(int(np.ceil(n / LATTICE_MM)) for n in (high - low)[::-1])
    return Grid(shape, matrix)  # type: ignore[arg-type]


def main(argv: Optional[List[str]] = None) -> int:
    """Exit codes as those of the command line ``samv2``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="index of Training.prepare, or its folder")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    return finish(lambda: displace(read_index(args.data), args.out, args.seed), args.out)


if __name__ == "__main__":
    sys.exit(main())
