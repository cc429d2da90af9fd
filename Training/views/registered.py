"""Views of a CT and an MR that are registered to each other (paper sec. 3.3), in the frame of the CT.

The crops lie about one anatomical point and are jittered independently. A voxel of one scan that lies beyond the other
one's lattice is *outside*: eq. 8 draws its N_fov negatives there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Tuple

import numpy as np

from SAMv2Core.geometry.grid import transform_points
from Training.data.index import LATTICE_MM, Entry, partner_points
from Training.views.patches import Patch, Pose, ScanReader, draw_pose, make_patch

if TYPE_CHECKING:
    from Training.engine.recipe import Recipe


def draw_registered_pair(
    reader: ScanReader, ct: Entry, mr: Entry, rng: np.random.Generator, recipe: Recipe
) -> Tuple[Patch, Patch]:
    """(MR view, CT view) about one point of the MR's body; their points are LPS mm of the CT."""
    size = recipe.registered.size_zyx
    options = replace(recipe.patch, size_zyx=size)
    seed = reader.seed(mr, rng, mr.body)
    there = mr_to_ct(reader, ct, mr, mr.grid.to_lps(seed[None] / LATTICE_MM))
    seeds = (seed, ct.grid.to_ijk(there)[0] * LATTICE_MM)
    poses = []
    for entry, point in zip((mr, ct), seeds):
        pose = draw_pose(entry, point, rng, options, size)
        jitter = rng.uniform(-1, 1, 3) * recipe.registered.jitter_voxels * LATTICE_MM
        poses.append(Pose(pose.center + jitter, pose.matrix, pose.scale))
    # Code: positives are places of the MR's body; what surrounds a limb is the same everywhere.
    mr_view = make_patch(
        reader, mr, poses[0], rng, replace(options, voxels="body"), recipe.intensity, size,
        to_common=lambda lps: mr_to_ct(reader, ct, mr, lps),
        beyond=lambda lps: ~ct.grid.contains(mr_to_ct(reader, ct, mr, lps)),
    )  # fmt: skip
    ct_view = make_patch(
        reader, ct, poses[1], rng, options, recipe.intensity, size,
        beyond=lambda lps: ~mr.grid.contains(ct_to_mr(reader, ct, mr, lps)),
    )  # fmt: skip
    return mr_view, ct_view


def mr_to_ct(reader: ScanReader, ct: Entry, mr: Entry, points_lps: np.ndarray) -> np.ndarray:
    """(N, 3) LPS of the MR in the CT; by the MR's own transform where it has one, else the CT's inverted."""
    if mr.partner_matrix is not None:
        return partner_points(reader.index, mr, points_lps)
    assert ct.to_partner is not None
    return transform_points(np.linalg.inv(ct.to_partner), points_lps)


def ct_to_mr(reader: ScanReader, ct: Entry, mr: Entry, points_lps: np.ndarray) -> np.ndarray:
    """(N, 3) LPS of the CT in the MR."""
    return partner_points(reader.index, ct, points_lps)
