"""Named landmarks in any scan, from several exemplars and from what their places say of each other.

One exemplar is a weak witness: between two patients the most similar place is right in half of the cases. So every
exemplar's landmark names its most similar places (:data:`CANDIDATES`, apart from each other); each exemplar's landmarks
together, as one body, are laid over the scan by a robust affine map and a smooth rest, which tells where each name is
to be expected; the candidates are chosen again with that in mind, and the geometric median of all exemplars' choices
is the answer. Three rounds of this suffice (measured, see Resources/Benchmarks.md). Vertebrae are read together first
(:mod:`SAMv2Core.landmarks.spine`). Not in the paper, whose one-shot detection (arXiv 2311.15111, sec. 3.2) has one
exemplar.

A landmark that the scan does not show is *not found*: the rest of the body expects it outside, or the exemplars do not
agree. World LPS mm.
"""

from __future__ import annotations

import math
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import torch

from SAMv2Core.embedding.embedding import Embedding
from SAMv2Core.errors import InputError, ModelError, UsageError
from SAMv2Core.landmarks.atlas import Atlas, atlas_for
from SAMv2Core.landmarks.landmark import Coefficients, Landmark, Witnesses
from SAMv2Core.landmarks.spine import Level, read_spine
from SAMv2Core.matching.body_map import robust_affine
from SAMv2Core.matching.confidence import MATCHED, NOT_FOUND, logistic
from SAMv2Core.matching.robust import geometric_median, redescending
from SAMv2Core.matching.similarity import lattice_vectors, vector_length
from SAMv2Core.progress import Progress, silent

CANDIDATES = 12
"""Places that each exemplar's landmark names; with 5 the median error rises by 5 %, 16 are no better."""
ROUNDS = 3
STEP = 2  # fine voxels: candidates lie on the 8 mm lattice first
STIFFNESS = 0.04
"""A departure of one spread from the expected place costs this much similarity; 0.02 to 0.08 differ by 1 %."""
FLOOR_MM = 12.0
KERNEL_MM = 60.0  # how far a landmark's own shift is shared by its neighbors
BODY_REJECT_MM, REJECT_MM = 25.0, 15.0  # of what the affine map leaves, and of what the neighbors leave
AGREE_MM = 10.0
MIN_SHAPE = 4  # landmarks of an exemplar below which it says nothing of the others' places
MIN_SURE = 0.5
EDGE_MM = 12.0
CROWDED = 0.5
"""Two landmarks nearer to each other than this share of their distance in the exemplars cannot both be right: vertebrae
look alike, and one that the scan does not show is found at the next."""
LITTLE_TRUST = 0.1
"""Of what lies at the edge or crowds another, and of vertebrae: the organs of one patient lie a level higher than those
of another, so where the levels are right they say little of the organs, and many of them agree."""
OUTSIDE_MM = 20.0
"""A place that the rest of the body expects this far outside the scan is not looked for."""


def find_landmarks(
    emb: Embedding,
    atlas: Optional[Atlas] = None,
    only: Optional[Sequence[str]] = None,
    progress: Optional[Progress] = None,
) -> List[Landmark]:
    """Look for every name of an atlas in a scan.

    Parameters
    ----------
    emb : Embedding
        Of the scan, made with the atlas's model.
    atlas : Atlas, optional
        None for the one that ships with the model.
    only : sequence of str, optional
        Names wanted; None for all. All are searched for, since each helps the others.
    progress : callable, optional
        Called with (fraction, text); may raise ``Cancelled``.

    Returns
    -------
    list of Landmark
        One answer per name, in alphabetical order, or in that of ``only``; places are LPS mm.

    Raises
    ------
    ModelError
        No atlas for this model, or one of other weights.
    UsageError
        A name that the atlas does not have.
    InputError
        The scan shows no body.

    Examples
    --------
    >>> import SAMv2Core as s
    >>> scan = s.load_model("lite-ct", "cpu").embed(volume)  # the doctests' phantom, which has no carina
    >>> [(one.name, one.status == "matched") for one in s.find_landmarks(scan, only=["carina", "vertebra_L1"])]
    [('carina', False), ('vertebra_L1', False)]
    """
    tell = progress or silent
    atlas = atlas_for(emb) if atlas is None else atlas
    if atlas.model_sha256 != emb.model_sha256 or atlas.vectors.shape[1] != vector_length(emb):
        raise ModelError("The atlas of landmarks was made with another model.", "Embed the scan with that model.")
    unknown = [name for name in only or () if name not in atlas.names]
    if unknown:
        raise UsageError(
            f"The atlas has no landmark {', '.join(map(repr, unknown))}.",
            f"It has: {', '.join(sorted(set(atlas.names)))}.",
        )
    atlas = atlas.part(atlas.sure >= MIN_SURE)
    tell(0.0, "Searching landmarks")
    places, similarity = candidates(emb, torch.from_numpy(atlas.vectors.astype(np.float32)), tell)
    tell(0.9, "Weighing landmarks")
    found = _consensus(emb, atlas, places, similarity, read_spine(emb, atlas, places, similarity))
    tell(1.0, "Landmarks found")
    return [found[name] for name in (only or sorted(found))]


def candidates(emb: Embedding, vectors: torch.Tensor, tell: Progress) -> Tuple[np.ndarray, np.ndarray]:
    """The most similar places of each vector, at least a voxel of the 8 mm lattice apart from each other.

    :param vectors: (N, K) float32 joint vectors.
    :returns: (N, CANDIDATES, 3) LPS mm on the fine lattice and (N, CANDIDATES) cosines, -1 where there are no more.
    """
    grid, body = emb.fine.grid, np.asarray(emb.body, dtype=bool)
    flat = np.flatnonzero(body)
    if not len(flat):
        raise InputError("The scan shows no body.", "Check its intensities and modality.")
    rows = lattice_vectors(emb, flat, torch.float16).cpu()
    zyx = np.stack(np.unravel_index(flat, body.shape), axis=1)
    number = np.full(np.add(body.shape, 6), -1)  # a border of three voxels spares all checks of bounds
    number[tuple((zyx + 3).T)] = np.arange(len(flat))
    on_coarse = np.flatnonzero(np.all(zyx % STEP == 0, axis=1))
    on_coarse = on_coarse if len(on_coarse) else np.arange(len(flat))
    place_in_coarse = np.full(len(flat) + 1, -1)
    place_in_coarse[on_coarse] = np.arange(len(on_coarse))
    cube = np.stack(np.meshgrid(*[(-1, 0, 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    around = place_in_coarse[number[tuple(np.moveaxis(zyx[on_coarse][:, None] + 3 + STEP * cube, -1, 0))]]
    around = np.where(around < 0, np.arange(len(on_coarse))[:, None], around)
    ball = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    ball = ball[(ball**2).sum(axis=1) <= 5]
    coarse = rows[torch.from_numpy(on_coarse)].float()
    places = np.zeros((len(vectors), CANDIDATES, 3))
    values = np.full((len(vectors), CANDIDATES), -1.0, dtype=np.float32)
    for start in range(0, len(vectors), 128):
        tell(0.9 * start / len(vectors), "Searching landmarks")
        asked = vectors[start : start + 128]
        similarity = (asked @ coarse.T).numpy()
        each = np.arange(len(asked))
        for n in range(CANDIDATES):
            best = similarity.argmax(axis=1)
            is_left = similarity[each, best] > -1
            near = number[tuple(np.moveaxis(zyx[on_coarse[best]][:, None] + 3 + ball, -1, 0))]
            cosines = torch.einsum("nok,nk->no", rows[torch.from_numpy(np.maximum(near, 0))].float(), asked).numpy()
            cosines[near < 0] = -1
            finest = cosines.argmax(axis=1)
            places[start + each, n] = grid.to_lps(zyx[near[each, finest]][:, ::-1])
            values[start + each, n] = np.where(is_left, cosines[each, finest], -1)
            np.put_along_axis(similarity, around[best], -1, axis=1)
    return places, values


def _consensus(
    emb: Embedding,
    atlas: Atlas,
    places: np.ndarray,
    similarity: np.ndarray,
    spine: Mapping[str, Optional[Level]],
) -> Dict[str, Landmark]:
    """The answer for every name.

    :param places: (N, CANDIDATES, 3) LPS mm and ``similarity`` (N, CANDIDATES) of the atlas's rows.
    :param spine: vertebrae, whose places are settled already (:func:`SAMv2Core.landmarks.spine.read_spine`).
    """
    names = sorted(set(atlas.names))
    places, similarity = places.copy(), similarity.copy()
    level, neighbor = np.full(len(names), math.nan), [""] * len(names)
    for name, told in spine.items():
        number = names.index(name)
        level[number] = 0.0 if told is None else told.probability
        if told is not None:
            neighbor[number] = told.neighbor
            places[told.rows, 0], similarity[told.rows, 0] = told.places_lps, told.similarity
            similarity[told.rows, 1:] = -1
    of_name = [np.flatnonzero(np.array(atlas.names) == name) for name in names]
    name_of = np.empty(len(atlas.names), dtype=np.int64)
    for number, rows in enumerate(of_name):
        name_of[rows] = number
    bodies = [np.flatnonzero(np.array(atlas.exemplars) == exemplar) for exemplar in sorted(set(atlas.exemplars))]
    chosen, cosine = places[:, 0].copy(), similarity[:, 0].copy()
    answer, trust = chosen, np.clip(cosine, 0.05, 1) * atlas.sure
    expected, spread = np.full((len(names), 3), np.nan), np.full(len(names), 50.0)
    agreement, distance = np.zeros(len(names)), np.zeros(len(names))
    typical = _typical_distances(atlas, bodies, name_of, len(names))
    at_edge, is_crowded = np.zeros(len(names), dtype=bool), np.zeros(len(names), dtype=bool)
    for _ in range(ROUNDS):
        expected, spread = _expectations(atlas, bodies, name_of, answer, trust, len(names))
        medians = np.zeros((len(names), 3))
        weight_of_name = np.zeros(len(names))
        for number, rows in enumerate(of_name):
            score = similarity[rows].astype(np.float64)
            if np.isfinite(expected[number, 0]):
                departure = ((places[rows] - expected[number]) ** 2).sum(axis=2)
                score = score - STIFFNESS * departure / (FLOOR_MM**2 + spread[number] ** 2)
            best = np.where(similarity[rows] > -1, score, -np.inf).argmax(axis=1)
            chosen[rows], cosine[rows] = places[rows, best], similarity[rows, best]
            weights = np.clip(cosine[rows], 0.05, 1) ** 4 * atlas.sure[rows]
            medians[number] = geometric_median(chosen[rows], weights)
            apart = np.linalg.norm(chosen[rows] - medians[number], axis=1)
            agreement[number] = weights[apart < AGREE_MM].sum() / weights.sum()
            distance[number] = np.average(apart, weights=weights)
            few = min(1.0, len(rows) / 4)
            weight_of_name[number] = agreement[number] ** 2 * few * np.clip(cosine[rows].mean(), 0.05, 1) + 1e-3
        at_edge = emb.volume_grid.depth_mm(medians) < EDGE_MM
        is_crowded = _crowded(medians, weight_of_name, typical)
        weight_of_name[at_edge | is_crowded | np.isfinite(level)] *= LITTLE_TRUST
        answer, trust = medians[name_of], weight_of_name[name_of]
    coefficients = Coefficients.of(atlas.calibration)
    found = {}
    for number, (name, rows) in enumerate(zip(names, of_name)):
        place = answer[rows[0]]
        is_expected = bool(np.isfinite(expected[number, 0]))
        departure = float(np.linalg.norm(place - expected[number]) / math.hypot(FLOOR_MM, spread[number]))
        witnesses = Witnesses(
            agreement=float(agreement[number]),
            similarity=float(cosine[rows].mean()),
            spread_mm=float(distance[number]),
            departure=departure if is_expected else math.nan,
            exemplars=len(rows),
            beyond_mm=emb.volume_grid.beyond_mm(expected[number]) if is_expected else 0.0,
            reliability=atlas.reliability.get(name, Witnesses.reliability),
            at_edge=bool(at_edge[number]),
            is_crowded=bool(is_crowded[number]),
            level=float(level[number]),
            neighbor=neighbor[number],
        )
        found[name] = judge(name, place, witnesses, coefficients)
    return found


def _expectations(
    atlas: Atlas, bodies: Sequence[np.ndarray], name_of: np.ndarray, targets: np.ndarray, trust: np.ndarray, n: int
) -> Tuple[np.ndarray, np.ndarray]:
    """Where each name is expected by the other landmarks of all exemplars; (n, 3) LPS mm, NaN unknown, and (n,) mm."""
    said: List[List[Tuple[np.ndarray, float]]] = [[] for _ in range(n)]
    for rows in bodies:
        if len(rows) < MIN_SHAPE:
            continue
        source, target, weights = atlas.positions_lps[rows], targets[rows], trust[rows]
        laid = np.column_stack([source, np.ones(len(rows))]) @ robust_affine(source, target, weights, n_iterations=20)
        rest = target - laid
        weights = weights * redescending(np.linalg.norm(rest, axis=1), BODY_REJECT_MM)
        distance = np.linalg.norm(source[:, None] - source[None], axis=2)
        for _ in range(2):  # a landmark that its neighbors contradict must not move them
            kernel = np.exp(-0.5 * (distance / KERNEL_MM) ** 2) * weights
            np.fill_diagonal(kernel, 0)
            smooth = (kernel @ rest) / (kernel.sum(axis=1) + 0.3)[:, None]
            weights = trust[rows] * redescending(np.linalg.norm(rest - smooth, axis=1), REJECT_MM)
        for place, support, name in zip(laid + smooth, kernel.sum(axis=1), name_of[rows]):
            said[name].append((place, support + 0.1))
    expected, spread = np.full((n, 3), np.nan), np.full(n, 50.0)
    for number, places in enumerate(said):
        if places:
            points = np.array([place for place, _ in places])
            expected[number] = geometric_median(points, np.array([support for _, support in places]))
            if len(points) > 2:
                spread[number] = np.median(np.linalg.norm(points - expected[number], axis=1))
    return expected, spread


def _typical_distances(atlas: Atlas, bodies: Sequence[np.ndarray], name_of: np.ndarray, n: int) -> np.ndarray:
    """(n, n) mm: median distance of two landmarks over the exemplars that show both; 0 where none does."""
    all_of = np.full((len(bodies), n, n), np.nan)
    for body, rows in zip(all_of, bodies):
        points = atlas.positions_lps[rows]
        body[np.ix_(name_of[rows], name_of[rows])] = np.linalg.norm(points[:, None] - points[None], axis=2)
    known = np.isfinite(all_of).any(axis=0)
    return np.where(known, np.nanmedian(np.where(known, all_of, 0.0), axis=0), 0.0)


def _crowded(places: np.ndarray, trust: np.ndarray, typical: np.ndarray) -> np.ndarray:
    """(n,) bool: which answers stand too near to one that is trusted more."""
    near = np.linalg.norm(places[:, None] - places[None], axis=2) < CROWDED * typical
    return (near & (trust[None] > trust[:, None])).any(axis=1)


def judge(name: str, place: np.ndarray, witnesses: Witnesses, c: Coefficients) -> Landmark:
    """Confidence and status of a landmark, and in words what speaks against it."""
    confidence = logistic(witnesses.terms(c).values())
    if witnesses.beyond_mm > OUTSIDE_MM or witnesses.level == 0:
        confidence = min(confidence, c.not_found_below / 2)
    status = c.status(name, confidence)
    position = None if status == NOT_FOUND else place
    reason = "" if status == MATCHED else _doubt(name, witnesses)
    return Landmark(name, position, confidence, status, reason, place, witnesses)


def _doubt(name: str, w: Witnesses) -> str:
    if w.beyond_mm > OUTSIDE_MM:
        return f"The rest of the body expects it {w.beyond_mm:.0f} mm outside the scan."
    if w.level == 0:
        return "The spine in the scan ends before it."
    if w.is_crowded:
        return "Another landmark fits this place better."
    if w.at_edge:
        return "It lies at the edge of the scan."
    if w.exemplars < 3:
        return f"Only {w.exemplars} of the exemplars show it."
    if w.neighbor:
        return f"The level may be one off: {name} or {w.neighbor}."
    if w.agreement < 0.5:
        return f"Only {w.agreement:.0%} of the exemplars agree on the place."
    if w.departure > 1.5:
        return "The other landmarks point elsewhere."
    return f"The exemplars' places lie {w.spread_mm:.0f} mm apart on average."
