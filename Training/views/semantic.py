"""Labelled scans for the semantic loss (paper sec. 3.2): whole, or as much of them as a crop may hold."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, List, Sequence

import numpy as np

from Training.data.index import Entry
from Training.views.patches import Patch, ScanReader, draw_pose, make_patch

if TYPE_CHECKING:
    from Training.engine.recipe import Recipe


def draw_labelled_scans(
    reader: ScanReader, entries: Sequence[Entry], rng: np.random.Generator, recipe: Recipe
) -> List[Patch]:
    """Crops of scans of one group, whose label ids mean the same; each about a labelled voxel.

    :param entries: with labels.
    """
    first = entries[int(rng.integers(len(entries)))]
    group = [entry for entry in entries if entry.group == first.group]
    n = recipe.semantic.n_scans
    others = [group[int(k)] for k in rng.choice(len(group), size=n - 1, replace=len(group) < n)]
    if others and others[0].name == first.name and len(group) > 1:
        others[0] = next(entry for entry in group if entry.name != first.name)
    # Not scaled: the official code crops the labelled scans at 2 mm.
    options = replace(recipe.patch, scale=(1.0, 1.0), size_zyx=recipe.semantic.size_zyx)
    views = []
    for entry in (first, *others):
        pose = draw_pose(entry, reader.seed(entry, rng, entry.labels), rng, options, options.size_zyx)
        views.append(make_patch(reader, entry, pose, rng, options, recipe.intensity, options.size_zyx))
    return views
