"""Run the matcher over DeepLesion scans: one prediction for each annotated lesion.

Scans are embedded once each as long as their lesions follow one another, and found in the disk cache otherwise. A scan
that is missing or does not fit its annotation costs its lesions (listed with the reason), not the run. DLS has every
lesion in both scans, so the best candidate counts as the prediction also where the matcher would have said
``not_found``; how often it said so is reported beside.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from SAMv2Core.errors import Cancelled, InputError, SAMv2Error
from SAMv2Core.evaluation import dls_frames
from SAMv2Core.evaluation.dls_files import LesionPair
from SAMv2Core.evaluation.extractor import Extractor, RecentEmbeddings
from SAMv2Core.evaluation.methods import find_points
from SAMv2Core.geometry.grid import Grid, transform_points
from SAMv2Core.io.volume import Volume, read_volume
from SAMv2Core.progress import Progress, part, silent

if TYPE_CHECKING:
    from SAMv2Core.embedding.embedding import Embedding

logger = logging.getLogger(__name__)


#: Scans that are read to find out how a folder was converted; one conversion made it, a sample tells.
SURVEYED = 100


@dataclass
class Predictions:
    """What came out.

    :param centers: (N, 3) in voxels of the targets as the annotation counts them, NaN where there is none.
    :param statuses: the matcher's verdict per lesion, empty where it was not asked.
    :param confidences: (N,), NaN likewise.
    :param failures: ``{"id", "reason"}`` of lesions that could not be tried.
    :param orientations: per orientation code of the files: how many, the votes, the order used.
    """

    centers: np.ndarray
    statuses: List[str]
    confidences: np.ndarray
    failures: List[Dict[str, str]] = field(default_factory=list)
    orientations: Dict[str, Dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Scan:
    """An embedded scan and its annotation's frame."""

    emb: Embedding
    to_lps: np.ndarray
    source: str
    file_grid: Grid
    order: str


def predict(
    pairs: Sequence[LesionPair],
    folder: Path,
    extractor: Extractor,
    method: str = "default",
    slice_order: str = "auto",
    progress: Optional[Progress] = None,
) -> Predictions:
    """Find every lesion of the source scans in the target scans.

    :param folder: with the NIfTI files that the annotation names, in any depth.
    :param method: of :data:`SAMv2Core.evaluation.methods.LESION_METHODS`.
    :param slice_order: ``auto``, ``affine`` or ``slices``, see :mod:`SAMv2Core.evaluation.dls_frames`.
    :param progress: called as ``progress(fraction, text)``; may raise ``Cancelled``.
    :raises InputError: no such folder, or not one scan of the annotation in it.
    """
    tell = progress or silent
    files = find_scans(folder, pairs)
    orientations = survey(pairs, files, slice_order, part(tell, 0.0, 0.1))
    n = len(pairs)
    result = Predictions(np.full((n, 3), np.nan), [""] * n, np.full(n, np.nan), orientations=orientations)
    scans = _Scans(files, extractor, {code: entry["order"] for code, entry in orientations.items()})
    groups: Dict[Tuple[str, str], List[int]] = {}
    for row, pair in enumerate(pairs):
        groups.setdefault((pair.source, pair.target), []).append(row)
    for number, rows in enumerate(groups.values()):
        tell(0.1 + 0.9 * number / len(groups), f"{pairs[rows[0]].source} to {pairs[rows[0]].target}")
        try:
            _predict_group(pairs, rows, scans, method, result)
        except Cancelled:
            raise
        except SAMv2Error as error:
            logger.debug("lesions %s: %s", [pairs[row].key for row in rows], error.cause)
            result.failures += [{"id": pairs[row].key, "reason": error.cause} for row in rows]
    tell(1.0, "done")
    return result


def find_scans(folder: Path, pairs: Sequence[LesionPair]) -> Dict[str, Path]:
    """The annotation's file names to paths; ``.nii`` serves for ``.nii.gz``.

    :raises InputError: no such folder, or nothing in it.
    """
    if not Path(folder).is_dir():
        raise InputError(f"{folder} is not a folder.", "Give the folder with the DeepLesion NIfTI files.")
    there = {_stem(path.name): path for path in sorted(Path(folder).rglob("*.nii*"))}
    wanted = {name for pair in pairs for name in (pair.source, pair.target)}
    found = {name: there[_stem(name)] for name in wanted if _stem(name) in there}
    if not found:
        raise InputError(
            f"{folder} holds none of the {len(wanted)} scans of the annotation.",
            f"Its files must be named as there, such as {sorted(wanted)[0]}.",
        )
    return found


def _stem(name: str) -> str:
    return Path(name).name.replace(".nii.gz", "").replace(".nii", "")


def survey(
    pairs: Sequence[LesionPair], files: Dict[str, Path], slice_order: str, progress: Progress
) -> Dict[str, Dict[str, Any]]:
    """Which orientations the files have, and how each is to be read."""
    boxes: Dict[str, List[Tuple[float, ...]]] = {}
    for pair in pairs:
        for name, box in ((pair.source, pair.source_box), (pair.target, pair.target_box)):
            if name in files:
                boxes.setdefault(name, []).extend([box] if box else [])
    votes: Dict[str, dls_frames.Votes] = {}
    counts: Counter = Counter()
    step = -(-len(boxes) // SURVEYED) or 1
    for number, (name, listed) in enumerate(list(boxes.items())[::step]):
        progress(number * step / len(boxes), f"Orientation of {name}")
        try:
            volume = dls_frames.without_png_offset(read_volume(files[name]))
        except SAMv2Error:
            continue  # told again, as a failure, when its lesions are tried
        code = dls_frames.orientation_code(volume.grid)
        counts[code] += 1
        votes[code] = votes.get(code, dls_frames.Votes()).plus(dls_frames.vote(volume, set(listed)))
    return {
        code: {
            "files_surveyed": counts[code],
            "votes": {"affine": count.affine, "slices": count.slices},
            "order": count.order if slice_order == "auto" else slice_order,
            "decided_by": "the user" if slice_order != "auto" else _decided_by(code, count),
        }
        for code, count in sorted(votes.items())
    }


def _decided_by(code: str, votes: dls_frames.Votes) -> str:
    if code == "LPI":
        return "the header, which is the annotation's own order"
    return "the votes of the lesions" if votes.order == "slices" else "the header"


class _Scans:
    """Embedded scans by name."""

    def __init__(self, files: Dict[str, Path], extractor: Extractor, orders: Dict[str, str]) -> None:
        self._files, self._extractor, self._orders = files, extractor, orders
        self._recent = RecentEmbeddings()

    def get(self, name: str, spacing: Optional[Sequence[float]]) -> _Scan:
        """:raises InputError: missing, or not the scan that was annotated."""
        return self._recent.get(name, lambda: self._make(name, spacing))

    def _make(self, name: str, spacing: Optional[Sequence[float]]) -> Tuple[_Scan, int]:
        if name not in self._files:
            raise InputError(f"The scan {name} is not there.", "Add it to the folder of --images.")
        volume: Volume = dls_frames.without_png_offset(read_volume(self._files[name]))
        order = self._orders.get(dls_frames.orientation_code(volume.grid), "affine")
        dls_frames.check_spacing(volume, spacing, order)
        emb = self._extractor.embed(dls_frames.upright(volume, order), "ct")
        to_lps = dls_frames.annotation_to_lps(volume, order)
        return _Scan(emb, to_lps, volume.source, volume.grid, order), emb.nbytes


def _predict_group(
    pairs: Sequence[LesionPair], rows: Sequence[int], scans: _Scans, method: str, result: Predictions
) -> None:
    """All lesions of one pair of scans."""
    first = pairs[rows[0]]
    source = scans.get(first.source, first.source_spacing)
    target = scans.get(first.target, first.target_spacing)
    asked = [row for row in rows if _can_be_asked(pairs[row], source, target, result)]
    if not asked:
        return
    centers = np.array([pairs[row].source_center for row in asked], dtype=np.float64)
    diameters = [pairs[row].source_diameter_mm for row in asked]
    found = find_points(source.emb, target.emb, transform_points(source.to_lps, centers), method, diameters)
    to_voxels = np.linalg.inv(target.to_lps)
    for row, answer in zip(asked, found):
        result.statuses[row], result.confidences[row] = answer.status, answer.confidence
        if answer.place_lps is None:
            result.failures.append({"id": pairs[row].key, "reason": answer.reason})
        else:
            result.centers[row] = transform_points(to_voxels, answer.place_lps)


def _can_be_asked(pair: LesionPair, source: _Scan, target: _Scan, result: Predictions) -> bool:
    """Whether both ends lie in their scans; the reason goes to the failures."""
    try:
        if pair.source_center is None:
            raise InputError("The annotation has no source center.", "Give the annotations of the DLT repository.")
        for scan, center in ((source, pair.source_center), (target, pair.target_center)):
            dls_frames.check_inside(scan.source, scan.file_grid, center, scan.order)
    except InputError as error:
        result.failures.append({"id": pair.key, "reason": error.cause})
        return False
    return True
