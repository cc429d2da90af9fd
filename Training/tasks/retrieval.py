"""Validation of the paper's recipes: does a held-out voxel find itself again in another view, or the other modality?

The share of points of one view whose most similar voxel of the other view lies within some millimeters of the truth.
The pairs of views are the same at every validation and come from scans of the split ``val`` alone; similarity is that
of matching: the mean cosine of the fine and the enlarged coarse vectors (sec. 3.1).
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import torch

from SAMv2Core.errors import InputError
from Training.data.index import Entry
from Training.engine.pictures import picture_of
from Training.engine.recipe import Recipe
from Training.engine.task import Report
from Training.tasks.maps import enlarged, heads
from Training.views.patches import Patch, ScanReader, draw_patches, moved, render
from Training.views.registered import draw_registered_pair
from Training.views.semantic import draw_labelled_scans

logger = logging.getLogger(__name__)

_STREAM = 13
_NEAR_MM = 4.0  # the other view shows a point when one of its fine voxels is this near


class Looked(NamedTuple):
    """Points of view A looked up in view B: rows of A, rows found in B, distance from the truth (mm)."""

    rows: torch.Tensor
    found: torch.Tensor
    error_mm: torch.Tensor


def validate(net: Any, reader: ScanReader, recipe: Recipe, device: torch.device, pictures: bool) -> Report:
    """Retrieval over views of one scan, over registered pairs and over labels, as far as the recipe trains them.

    ``net`` is in evaluation mode. Figures: ``retrieval`` and ``error_mm`` (median), ``cross_retrieval``,
    ``cross_error_mm``, ``label_retrieval``; what no held-out scan allows is missing.
    """
    figures: Dict[str, float] = {}
    shown: Dict[str, np.ndarray] = {}
    for name, pairs in (("", _self_pairs(reader, recipe)), ("cross_", _registered_pairs(reader, recipe))):
        errors: List[torch.Tensor] = []
        for number, pair in enumerate(pairs):
            views = moved(pair, device)
            vectors = similarity_vectors(net, views)
            looked = look_up(vectors, views, recipe.validation.points, number)
            errors.append(looked.error_mm.cpu())
            if pictures and number == 0:
                shown[f"{name}views"] = picture_of(render(views), vectors, views, looked)
        pooled = torch.cat(errors) if errors else torch.zeros(0)
        if len(pooled):
            figures[f"{name}retrieval"] = float((pooled <= recipe.validation.within_mm).float().mean())
            figures[f"{name}error_mm"] = float(pooled.median())
            figures[f"{name}points"] = float(len(pooled))
    figures.update(_label_retrieval(net, reader, recipe, device))
    return Report(figures, shown)


@torch.no_grad()
def similarity_vectors(net: Any, views: Tuple[Patch, Patch]) -> List[torch.Tensor]:
    """For each view the rows (N, C + C'), whose dot products are mean cosines of the fine and coarse heads."""
    rows = []
    for view in views:
        maps = heads(net, render([view]), ("fine", "coarse"), torch.no_grad)
        coarse = enlarged(maps["coarse"], maps["fine"])[0]
        rows.append(torch.cat((maps["fine"][0].flatten(1).T, coarse), dim=1) * 0.5**0.5)
    return rows


@torch.no_grad()
def look_up(vectors: List[torch.Tensor], views: Tuple[Patch, Patch], n_points: int, number: int) -> Looked:
    """Random valid points of the first view that the second shows, and the most similar valid voxels there."""
    a, b = (torch.nonzero(view.fine.valid)[:, 0] for view in views)
    empty = torch.zeros(0, dtype=torch.long, device=a.device)
    if not len(a) or not len(b):
        return Looked(empty, empty, empty.float())
    points_a, points_b = views[0].fine.points, views[1].fine.points[b]
    shuffled = torch.randperm(len(a), generator=torch.Generator().manual_seed(number)).to(a.device)
    a = a[shuffled[: 8 * n_points]]
    shown = torch.cat([torch.cdist(part, points_b).amin(1) <= _NEAR_MM for part in points_a[a].split(256)])
    rows = a[shown][:n_points]
    best = [(part @ vectors[1][b].T).argmax(1) for part in vectors[0][rows].split(256)]
    found = b[torch.cat(best)] if best else empty
    return Looked(rows, found, (views[1].fine.points[found] - points_a[rows]).norm(dim=1))


def _self_pairs(reader: ScanReader, recipe: Recipe) -> List[Tuple[Patch, Patch]]:
    if recipe.parts.appearance <= 0:
        return []
    used = [m for m, share in (("ct", recipe.data.ct), ("mr", recipe.data.mr)) if share > 0]
    entries = [entry for entry in _held_out(reader, recipe) if entry.modality in used]
    options = replace(recipe.patch, independent=0.0, body_seed=1.0, voxels="body")
    pairs = []
    for number in range(recipe.validation.pairs if entries else 0):
        rng = np.random.default_rng([_STREAM, number])
        pairs.append(draw_patches(reader, entries[number % len(entries)], rng, options, recipe.intensity))
    return pairs


def _registered_pairs(reader: ScanReader, recipe: Recipe) -> List[Tuple[Patch, Patch]]:
    if recipe.parts.registered <= 0:
        return []
    try:
        scans = [pair for pair in reader.index.pairs("val", registered=True) if pair[0].split == "val"]
    except InputError:
        scans = []
    body = replace(recipe, patch=replace(recipe.patch, voxels="body"))
    pairs = []
    for number in range(recipe.validation.pairs if scans else 0):
        rng = np.random.default_rng([_STREAM, 1000 + number])
        pairs.append(draw_registered_pair(reader, *scans[number % len(scans)], rng, body))
    return pairs


@torch.no_grad()
def _label_retrieval(net: Any, reader: ScanReader, recipe: Recipe, device: torch.device) -> Dict[str, float]:
    """Share of labelled voxels of one scan whose most similar semantic vector in another bears the same label."""
    entries = [entry for entry in _held_out(reader, recipe) if entry.labels is not None]
    if recipe.parts.semantic <= 0 or len(entries) < 2:
        return {}
    hits: List[torch.Tensor] = []
    for number in range(recipe.validation.pairs):
        views = draw_labelled_scans(reader, entries, np.random.default_rng([_STREAM, 2000 + number]), recipe)
        views = moved(views, device)
        rows = [heads(net, render([view]), ("semantic",), torch.no_grad)["semantic"][0].flatten(1).T for view in views]
        labels = [view.labels for view in views]
        assert labels[0] is not None and labels[1] is not None
        shared = torch.isin(labels[0], labels[1]) & (labels[0] > 0)
        index = torch.nonzero(shared)[:, 0]
        index = index[torch.randperm(len(index), generator=torch.Generator().manual_seed(number)).to(index.device)]
        index = index[: recipe.validation.points]
        found = (rows[0][index] @ rows[1].T).argmax(1) if len(index) else index
        hits.append((labels[1][found] == labels[0][index]).float().cpu())
    pooled = torch.cat(hits)
    return {"label_retrieval": float(pooled.mean()), "label_points": float(len(pooled))} if len(pooled) else {}


def _held_out(reader: ScanReader, recipe: Recipe) -> List[Entry]:
    """Scans of the split ``val``; those without a split may have been trained on and do not count."""
    groups: Optional[Tuple[str, ...]] = recipe.data.groups
    return [e for e in reader.index.entries if e.split == "val" and (groups is None or e.group in groups)]
