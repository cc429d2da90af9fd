"""AdaReg: registers a CT and an MR of one patient by their embeddings (arXiv 2311.15111, sec. 3.3).

For a pair that nobody has aligned, whatever the fields of view: points sampled in the body of the smaller scan are
matched in the other one, a robust rigid transform explains most of them, the region that the smaller body covers is
widened by a margin and the larger scan cropped to it, the pair is refined deformably if wanted, its quality is checked.
Pairs that fail get weight 0, doubtful ones less than 1. The result is a new index, on which CrossSAM is trained.

Matching, fit and verdict are :func:`SAMv2Core.registration.register.register`, which differs from the official script
in what its module says: matches must survive the way back, rotations are unlimited, there is a verdict. With
``intensities`` the images decide between hypotheses and refine the pose; ``"off"`` is the paper's way, points alone.

Conventions: LPS mm; matrices map points of the first scan (CT) to the second (MR), as ``partner_matrix`` of an index.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from SAMv2Core.embedding.embedding import Embedding
from SAMv2Core.embedding.model import Model
from SAMv2Core.errors import SAMv2Error
from SAMv2Core.geometry.grid import Grid, transform_points
from SAMv2Core.io.volume import Volume
from SAMv2Core.matching.search import release_index
from SAMv2Core.registration.register import Registration, register
from Training.crosssam.deformable import bend, field_lattice, inverted
from Training.data.index import AIR, Entry, Index, field_at, moved_to
from Training.data.prepare_scan import ARRAYS, save_array

logger = logging.getLogger(__name__)

N_BODY_POINTS = 1000


@dataclass(frozen=True)
class AdaRegOptions:
    """How pairs are registered and what becomes of them.

    :param intensities: ``"auto"`` (when the modalities differ), ``"on"`` or ``"off"`` (points alone, as in the paper).
    :param deformable: ``"none"``, ``"convexadam"`` or ``"deeds"``; see :mod:`Training.crosssam.deformable`.
    :param margin_mm: around the smaller body in the larger scan.
    :param uncertain_weight: of a pair whose transform is doubtful; 0 drops it.
    :param max_folded: share of the field's voxels that may fold; beyond, the field is dropped, not the pair.
    :param max_bend_mm: 95th percentile of the field's length in the body, likewise.
    """

    intensities: str = "auto"
    deformable: str = "none"
    margin_mm: float = 30.0
    uncertain_weight: float = 0.5
    max_folded: float = 0.01
    max_bend_mm: float = 25.0


@dataclass(frozen=True)
class PairResult:
    """What AdaReg found for a pair; plain numbers, so that it goes to JSON and back.

    :param first: name of the CT (the fixed scan), ``second`` of the MR.
    :param matrix: (16,) LPS, first to second.
    :param status: ``"registered"``, ``"uncertain"`` or ``"failed"``.
    :param weight: 0..1 in training.
    :param reasons: of doubts and failures.
    :param change_mm: mean distance over the body to the transform of the round before; None in the first round.
    :param field: path of the deformable refinement relative to the folder of the result, or None.
    """

    first: str
    second: str
    matrix: Tuple[float, ...]
    status: str
    weight: float
    reasons: Tuple[str, ...] = ()
    consistent: int = 0
    inliers: int = 0
    change_mm: Optional[float] = None
    field: Optional[str] = None
    seconds: float = 0.0

    @property
    def to_second(self) -> np.ndarray:
        """(4, 4), first to second."""
        return np.array(self.matrix).reshape(4, 4)

    @staticmethod
    def from_json(content: Dict[str, Any]) -> PairResult:
        """The result that ``dataclasses.asdict`` turned into JSON."""
        known = {f.name for f in dataclasses.fields(PairResult)}
        given: Dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items() if k in known}
        return PairResult(**given)


def volume_of(index: Index, entry: Entry) -> Volume:
    """A prepared scan as a volume: CT in HU, MR from 0 on."""
    stored = index.array(entry.image)
    array = stored if entry.modality == "ct" else (stored.astype(np.int16) - np.int16(AIR))
    return Volume(array, entry.grid.ijk_to_lps, entry.name, entry.modality)


def body_points(index: Index, entry: Entry, n: int = N_BODY_POINTS) -> np.ndarray:
    """(N, 3) LPS mm of at most ``n`` body voxels, evenly drawn, the same every time."""
    flat = np.flatnonzero(index.array(entry.body))
    rows = flat[np.linspace(0, len(flat) - 1, min(n, len(flat))).astype(int)]
    k, j, i = np.unravel_index(rows, entry.shape_zyx)
    return entry.grid.to_lps(np.stack([i, j, k], axis=-1))


def register_pair(
    index: Index,
    pair: Tuple[Entry, Entry],
    model: Model,
    options: AdaRegOptions,
    out: Path,
    previous: Optional[PairResult] = None,
    embeddings: Optional[Tuple[Embedding, Embedding]] = None,
) -> PairResult:
    """Register one pair; a pair that cannot be registered comes back as failed, with the reason.

    :param out: where a field goes (``out/arrays``).
    :param previous: of the round before: competes as a guess, and ``change_mm`` is measured against it.
    :param embeddings: of :func:`embed_pair`, when the caller has them.
    """
    first, second = pair
    start = time.perf_counter()
    guess = previous.to_second if previous is not None and previous.weight > 0 else None
    try:
        volumes = volume_of(index, first), volume_of(index, second)
        found = _register(embeddings or embed_pair(index, pair, model), volumes, options, guess)
    except Exception as error:  # one strange pair must not end rounds that take days
        if not isinstance(error, SAMv2Error):
            logger.warning("%s: unexpected failure, please report it", first.name, exc_info=True)
        reason = str(error) if isinstance(error, SAMv2Error) else f"{type(error).__name__}: {error}"
        return PairResult(first.name, second.name, tuple(np.eye(4).ravel().tolist()), "failed", 0.0, (reason,))
    result = PairResult(
        first.name,
        second.name,
        tuple(found.matrix.ravel().tolist()),
        found.status,
        {"registered": 1.0, "uncertain": options.uncertain_weight, "failed": 0.0}[found.status],
        found.reasons,
        found.consistent,
        found.inliers,
        None if previous is None else moved_by(index, second, previous.to_second, found.matrix),
    )
    if options.deformable != "none" and result.weight > 0:
        result = _refined(index, pair, volumes, result, options, out)
    return replace(result, seconds=round(time.perf_counter() - start, 2))


def embed_pair(index: Index, pair: Tuple[Entry, Entry], model: Model) -> Tuple[Embedding, Embedding]:
    """The embeddings of both scans.

    :raises SAMv2Error: see :meth:`SAMv2Core.embedding.model.Model.embed`.
    """
    first, second = (model.embed(volume_of(index, entry), entry.modality) for entry in pair)
    return first, second


def _register(
    embeddings: Tuple[Embedding, Embedding],
    volumes: Tuple[Volume, Volume],
    options: AdaRegOptions,
    guess: Optional[np.ndarray],
) -> Registration:
    try:
        return register(
            *embeddings,
            transform="rigid",
            fixed_volume=volumes[0],
            moving_volume=volumes[1],
            refine=options.intensities,
            initial=guess,
        )
    finally:
        for embedding in embeddings:
            release_index(embedding)


def moved_by(index: Index, second: Entry, old: np.ndarray, new: np.ndarray) -> float:
    """Mean distance in mm, over the body of the second scan, of where two transforms see it in the first scan."""
    points = body_points(index, second)
    apart = transform_points(np.linalg.inv(old), points) - transform_points(np.linalg.inv(new), points)
    return float(np.linalg.norm(apart, axis=1).mean())


def _refined(
    index: Index,
    pair: Tuple[Entry, Entry],
    volumes: Tuple[Volume, Volume],
    result: PairResult,
    options: AdaRegOptions,
    out: Path,
) -> PairResult:
    """With a displacement field, when the refinement works and its field passes the checks; else without one."""
    first = pair[0]
    try:
        field = bend(
            volumes, (index.array(first.body), index.array(pair[1].body)), result.to_second, options.deformable
        )
    except SAMv2Error as error:
        return replace(result, reasons=(*result.reasons, f"no deformable refinement: {error}"))
    doubt = field_doubt(field, index, first, options)
    if doubt is not None:
        return replace(result, reasons=(*result.reasons, f"deformable refinement dropped: {doubt}"))
    path = f"{ARRAYS}/{first.name}.field.npy"
    save_array(out / path, field.astype(np.float32))
    return replace(result, field=path)


def field_doubt(field: np.ndarray, index: Index, first: Entry, options: AdaRegOptions) -> Optional[str]:
    """Why a field is not to be trusted: folded, or bending the body further than organs move."""
    lattice = field_lattice(first.grid)
    gradient = np.stack(np.gradient(field, axis=(2, 1, 0)), axis=-1) / lattice.spacing_ijk_mm
    direction = lattice.ijk_to_lps[:3, :3] / lattice.spacing_ijk_mm
    folded = float(np.mean(np.linalg.det(np.eye(3) + gradient @ direction.T) <= 0))
    if folded > options.max_folded:
        return f"{folded:.1%} of it is folded"
    length = np.linalg.norm(field_at(field, first.grid, body_points(index, first)), axis=1)
    if (far := float(np.percentile(length, 95))) > options.max_bend_mm:
        return f"it bends the body by {far:.0f} mm"
    return None


def apply_results(index: Index, results: Sequence[PairResult], out: Path, options: AdaRegOptions) -> List[Entry]:
    """The entries of a new index in ``out``: transforms, weights, the larger scan of each pair cropped.

    Scans that belong to no result are passed on as they are; arrays are shared with the old index where nothing is
    cropped.
    """
    entries = {e.name: replace(e, **moved_to(e, index.folder, out)) for e in index.entries}  # type: ignore[arg-type]
    for result in results:
        first, second = index[result.first], index[result.second]
        matrix, inverse = result.to_second, np.linalg.inv(result.to_second)
        field = None if result.field is None else np.load(out / result.field)
        for entry, to_partner in ((first, matrix), (second, inverse)):
            entries[entry.name] = replace(
                entries[entry.name],
                weight=result.weight,
                partner_matrix=tuple(to_partner.ravel().tolist()),
                partner_field=None,
                warnings=(*entry.warnings, *result.reasons),
            )
        if result.weight > 0:
            _crop_larger(index, (first, second), matrix, options.margin_mm, out, entries)
        if field is not None:
            _attach_field(field, first, second, matrix, entries, out)
    return list(entries.values())


def _crop_larger(
    index: Index,
    pair: Tuple[Entry, Entry],
    matrix: np.ndarray,
    margin_mm: float,
    out: Path,
    entries: Dict[str, Entry],
) -> None:
    """Crop the scan with the larger body to where the other body lies, and a margin."""
    sizes = [int(np.count_nonzero(index.array(entry.body))) for entry in pair]
    if sizes[0] >= sizes[1]:
        large, points = pair[0], transform_points(np.linalg.inv(matrix), body_points(index, pair[1], 20000))
    else:
        large, points = pair[1], transform_points(matrix, body_points(index, pair[0], 20000))
    box = box_around(large.grid, points, margin_mm)
    if box is not None:
        entries[large.name] = cropped(index, large, entries[large.name], box, out)


def box_around(grid: Grid, points_lps: np.ndarray, margin_mm: float) -> Optional[Tuple[np.ndarray, np.ndarray]]:
    """First and last voxel (x, y, z; first included, last not) of the box around points; None when it is all.

    The first voxel is even, so that the 4 mm lattice stays where it is, and a multiple of nothing else.
    """
    ijk = grid.to_ijk(points_lps)
    margin = margin_mm / grid.spacing_ijk_mm
    low = np.clip(np.floor(ijk.min(axis=0) - margin), 0, grid.size_ijk - 1).astype(int) // 2 * 2
    high = np.clip(np.ceil(ijk.max(axis=0) + margin) + 1, 1, grid.size_ijk).astype(int)
    if np.any(high - low < 2) or (np.all(low == 0) and np.all(high == grid.size_ijk)):
        return None
    return low, high


def cropped(index: Index, entry: Entry, updated: Entry, box: Tuple[np.ndarray, np.ndarray], out: Path) -> Entry:
    """The entry with its arrays cut to a box and written to ``out``."""
    (x0, y0, z0), (x1, y1, z1) = box
    paths: Dict[str, Any] = {}
    for kind in ("image", "body", "labels", "image_4mm", "body_4mm"):
        path = getattr(entry, kind)
        if path is None:
            continue
        step = 2 if kind.endswith("_4mm") else 1
        cut = tuple(slice(a // step, b // step) for a, b in ((z0, z1), (y0, y1), (x0, x1)))
        paths[kind] = f"{ARRAYS}/{entry.name}.{kind.replace('_4mm', '4')}.npy"
        save_array(out / paths[kind], index.array(path)[cut])
    origin = entry.grid.to_lps(np.array([x0, y0, z0], float))
    return replace(
        updated, shape_zyx=(int(z1 - z0), int(y1 - y0), int(x1 - x0)), origin_lps=tuple(origin.tolist()), **paths
    )


def _attach_field(
    field: np.ndarray, first: Entry, second: Entry, matrix: np.ndarray, entries: Dict[str, Entry], out: Path
) -> None:
    """Write the field on the lattices of both entries as they are now (cropped), and its inverse for the second."""
    one, two = entries[first.name], entries[second.name]
    points = lattice_points(one.grid)
    forth = field_at(field, first.grid, points.reshape(-1, 3)).reshape(points.shape)
    back = inverted(lambda p: field_at(field, first.grid, p), matrix, lattice_points(two.grid))
    for entry, values in ((one, forth), (two, back)):
        path = f"{ARRAYS}/{entry.name}.partner_field.npy"
        save_array(out / path, values.astype(np.float32))
        entries[entry.name] = replace(entries[entry.name], partner_field=path)


def lattice_points(grid: Grid) -> np.ndarray:
    """(d, h, w, 3) LPS mm of the points of a displacement field on a scan's lattice."""
    lattice = field_lattice(grid)
    ijk = np.stack(np.meshgrid(*(np.arange(n) for n in lattice.shape_zyx), indexing="ij")[::-1], axis=-1)
    return lattice.to_lps(ijk.reshape(-1, 3)).reshape(ijk.shape)
