"""Lesions of Longitudinal-CT (and sets of its layout) from baseline to follow-up, beside the set's own registration.

The set (FDAT, doi 10.57754/FDAT.qe950-g4h94: 300 melanoma patients, 4,079 baseline and 3,103 follow-up lesions) has
a table per patient with a row per lesion: ``cog_bl`` and ``cog_fu``, the lesion's centers in both scans,
``cog_propagated``, where its authors' registration brings the first one, and what has become of it. Baseline and
follow-up lie in different frames. Only rows with both centers say how far off a place is; ``linking_unclear`` ones
are left out.

* Centers are "x y z" in voxels of the image, half a voxel beyond the mean of the mask's indices (as if the first
  voxel began at 0), which is taken off here.
* Folders: ``PID.csv`` in ``inputsTr`` or ``meta`` (or anywhere below), scans ``PID_BL_img_00.nii.gz``,
  ``PID_BL_img_BL_img_00.nii.gz``, or ``PID_00.nii.gz`` in a folder ``inputs...`` whose name ends in BL or FU; numbers
  are ``img_id_bl`` and ``img_id_fu`` of the table.
* No lesion is dropped: one without a prediction is infinitely far off. Quantiles are of all lesions; one that falls
  there is null.
"""

from __future__ import annotations

import math
import re
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from SAMv2Core.errors import InputError, SAMv2Error
from SAMv2Core.evaluation.extractor import Extractor
from SAMv2Core.evaluation.methods import find_points
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.files import PathLike
from SAMv2Core.io.tables import number_of, read_table
from SAMv2Core.io.volume import read_volume
from SAMv2Core.progress import Progress, part, silent

HALF_VOXEL = 0.5
BEYOND_MM = (25, 50, 100)
QUANTILES = {"median_mm": 50, "p75_mm": 75, "p90_mm": 90, "p95_mm": 95}
N_BOOTSTRAP = 1000

OURS, THEIRS = "ours", "set"
FAILED = "no lesion of the patient has a place inside the follow-up"

_TRUE = ("true", "1", "yes")


@dataclass(frozen=True)
class LesionRow:
    """One lesion: centers in voxels (x, y, z), half a voxel taken off; None where the table has none."""

    lesion: str
    fate: str
    baseline: Tuple[float, float, float]
    follow_up: Tuple[float, float, float]
    propagated: Optional[Tuple[float, float, float]]
    volume_mm3: float


@dataclass(frozen=True)
class PatientPair:
    """One baseline and one follow-up scan of a patient with the lesions that both show.

    :param baseline: :param follow_up: files, None where they are missing.
    """

    patient: str
    baseline: Optional[Path]
    follow_up: Optional[Path]
    rows: Tuple[LesionRow, ...]


@dataclass(frozen=True)
class Placement:
    """One lesion as predicted by one method.

    :param error_mm: infinite without a prediction.
    :param is_inside: the prediction lies in the follow-up.
    """

    patient: str
    lesion: str
    fate: str
    method: str
    error_mm: float
    is_inside: bool
    status: str
    confidence: Optional[float]


def read_pairs(folder: PathLike) -> List[PatientPair]:
    """All pairs of scans of a set, by patient.

    :raises InputError: no such folder, no table of the layout in it, or a table that cannot be read.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{folder} is not a folder.", "Give the folder of the set.")
    scans = sorted(root.rglob("*.nii.gz"))
    pairs = []
    for path in sorted(root.rglob("*.csv")):
        rows = _rows_of(path)
        for (bl, fu), mine in (rows or {}).items():
            baseline, follow_up = _scan(scans, path.stem, "BL", bl), _scan(scans, path.stem, "FU", fu)
            pairs.append(PatientPair(path.stem, baseline, follow_up, tuple(mine)))
    if not pairs:
        raise InputError(
            f"{folder} holds no table with the columns cog_bl, cog_fu and cog_propagated.",
            "Unpack the set; a table per patient is named PID.csv.",
        )
    return pairs


def _rows_of(path: Path) -> Optional[Dict[Tuple[int, int], List[LesionRow]]]:
    """Lesions with both centers, by the numbers of their scans; None for another table."""
    table = read_table(path)
    if not {"cog_bl", "cog_fu", "cog_propagated"} <= {name.lower() for name in table.names}:
        return None
    found: Dict[Tuple[int, int], List[LesionRow]] = defaultdict(list)
    for row in table.rows:
        where = f"{path}, line {row.line}"
        centers = [_center(row.cells.get(name, ""), where) for name in ("cog_bl", "cog_fu", "cog_propagated")]
        is_unclear = row.cells.get("linking_unclear", "").strip().lower() in _TRUE
        if centers[0] is None or centers[1] is None or is_unclear:
            continue
        numbers = [int(number_of(row.cells.get(name, "").strip() or "0", where)) for name in ("img_id_bl", "img_id_fu")]
        volume = row.cells.get("volume_bl", "").strip()
        found[numbers[0], numbers[1]].append(
            LesionRow(
                row.cells.get("lesion_id", "").strip() or str(row.line),
                row.cells.get("topology_class", "").strip().lower(),
                centers[0],
                centers[1],
                centers[2],
                number_of(volume, where) if volume else math.nan,
            )
        )
    return found


def _center(text: str, where: str) -> Optional[Tuple[float, float, float]]:
    """ "x y z" without its half voxel; None for an empty cell."""
    parts = re.findall(r"[^\s,;\[\]()]+", text)
    if not parts or parts[0].lower() in ("nan", "none"):
        return None
    if len(parts) != 3:
        raise InputError(f"{where}: {text!r} is no center (x y z).", "Correct the table.")
    x, y, z = (number_of(value, where) - HALF_VOXEL for value in parts)
    return x, y, z


def _scan(scans: Sequence[Path], patient: str, side: str, number: int) -> Optional[Path]:
    names = {f"{patient}_{side}_img_{number:02d}.nii.gz", f"{patient}_{side}_img_{side}_img_{number:02d}.nii.gz"}
    for path in scans:
        is_in_folder = path.name == f"{patient}_{number:02d}.nii.gz" and path.parent.name.lower().startswith("inputs")
        if path.name in names or (is_in_folder and path.parent.name.upper().endswith(side)):
            return path
    return None


def run(
    pairs: Sequence[PatientPair], extractor: Extractor, method: str, progress: Optional[Progress] = None
) -> Tuple[List[Placement], List[Dict[str, str]], float]:
    """All lesions of all pairs, ours and the set's own: (placements, failures, seconds of ours)."""
    tell = progress or silent
    placements: List[Placement] = []
    failures: List[Dict[str, str]] = []
    seconds = 0.0
    for number, pair in enumerate(pairs):
        mine = part(tell, number / len(pairs), (number + 1) / len(pairs), f"{pair.patient}: ")
        start = time.perf_counter()
        grid: Optional[Grid]
        try:
            found, grid = _places(pair, extractor, method, mine)
        except SAMv2Error as error:
            failures.append({"patient": pair.patient, "reason": error.cause})
            found, grid = [(None, "failed", None)] * len(pair.rows), _grid_of(pair)
        seconds += time.perf_counter() - start
        placements += [_placement(pair, row, OURS, grid, *answer) for row, answer in zip(pair.rows, found)]
        for row in pair.rows:
            place = None if grid is None or row.propagated is None else grid.to_lps(np.array([row.propagated]))[0]
            placements.append(_placement(pair, row, THEIRS, grid, place, "" if place is not None else "failed", None))
    tell(1.0, "done")
    return placements, failures, seconds


def _grid_of(pair: PatientPair) -> Optional[Grid]:
    """The follow-up's geometry; None when it cannot be read."""
    try:
        return None if pair.follow_up is None else read_volume(pair.follow_up).grid
    except SAMv2Error:
        return None


def _places(
    pair: PatientPair, extractor: Extractor, method: str, progress: Progress
) -> Tuple[List[Tuple[Optional[np.ndarray], str, Optional[float]]], Grid]:
    if pair.baseline is None or pair.follow_up is None:
        side = "baseline" if pair.baseline is None else "follow-up"
        raise InputError(f"The {side} scan of {pair.patient} is missing.", "Unpack all files of the set.")
    baseline, follow_up = read_volume(pair.baseline), read_volume(pair.follow_up)
    emb_baseline = extractor.embed(baseline, "ct", part(progress, 0.0, 0.45))
    emb_follow_up = extractor.embed(follow_up, "ct", part(progress, 0.45, 0.9))
    points = baseline.grid.to_lps(np.array([row.baseline for row in pair.rows]))
    diameters = [2 * (3 * row.volume_mm3 / (4 * math.pi)) ** (1 / 3) for row in pair.rows]
    answers = find_points(emb_baseline, emb_follow_up, points, method, diameters)
    return [(answer.place_lps, answer.status, answer.confidence) for answer in answers], follow_up.grid


def _placement(
    pair: PatientPair,
    row: LesionRow,
    method: str,
    grid: Optional[Grid],
    place: Optional[np.ndarray],
    status: str,
    confidence: Optional[float],
) -> Placement:
    error, inside = math.inf, False
    if grid is not None and place is not None:
        error = float(np.linalg.norm(place - grid.to_lps(np.array([row.follow_up]))[0]))
        inside = bool(grid.contains(place)[0])
    return Placement(pair.patient, row.lesion, row.fate, method, error, inside, status, confidence)


def summarize(placements: Sequence[Placement], method: str, seed: int = 0) -> Dict[str, Any]:
    """The figures of the field for one method, with 95 % intervals by patient.

    :returns: ``n``, ``patients``, quantiles in mm (None for infinity), ``beyond`` in percent, ``out_of_bounds``
        (lesions placed outside the follow-up), ``without_place``, ``failed_patients``, ``ci95``.
    """
    mine = [placement for placement in placements if placement.method == method]
    errors = np.array([placement.error_mm for placement in mine])
    patients = np.array([placement.patient for placement in mine])
    is_inside = np.array([placement.is_inside for placement in mine], dtype=bool)
    names = list(dict.fromkeys(patients.tolist()))
    members = [np.flatnonzero(patients == name) for name in names]
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(N_BOOTSTRAP if len(names) > 1 else 0):
        chosen = rng.integers(len(names), size=len(names))
        draws.append(_figures(errors[np.concatenate([members[n] for n in chosen])]))
    return {
        "n": len(mine),
        "patients": len(names),
        **{name: _finite(value) for name, value in _figures(errors).items() if name in QUANTILES},
        "beyond": {str(mm): 100 * float(np.mean(errors > mm)) if len(mine) else None for mm in BEYOND_MM},
        "out_of_bounds": int(np.sum(~is_inside & np.isfinite(errors))),
        "without_place": int(np.sum(~np.isfinite(errors))),
        "failed_patients": sum(not is_inside[rows].any() for rows in members),
        "ci95": {
            name: [_finite(float(np.percentile([d[name] for d in draws], q, method="nearest"))) for q in (2.5, 97.5)]
            for name in (draws[0] if draws else ())
        },
    }


def _figures(errors: np.ndarray) -> Dict[str, float]:
    if not len(errors):
        return dict.fromkeys(QUANTILES, math.inf)
    # A quantile between a number and infinity would be none: the next lesion's error is taken.
    found = {name: float(np.percentile(errors, share, method="higher")) for name, share in QUANTILES.items()}
    return {**found, **{f"beyond_{mm}": 100 * float(np.mean(errors > mm)) for mm in BEYOND_MM}}


def _finite(value: float) -> Optional[float]:
    return value if math.isfinite(value) else None
