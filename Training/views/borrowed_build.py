"""Views of a patient in another patient's build: shapes that occur, with correspondences that are exact.

A random deformation is no anatomy. A cross-subject map (:mod:`Training.patients.cross_map`) says how one patient's body
has to be stretched and bent to look like another's; a share of it, put into a view's own map, shows the first patient
with a build on the way to the second's. Both views are of one scan, so the correspondence stays exact however rough the
map is (ours, not in the paper).
"""

from __future__ import annotations

import dataclasses

import torch

from Training.views.geometry import ViewMap
from Training.views.scans import Link

MIN_POINTS = 12  # control points that the map supports; fewer say nothing of a build
SCALES = (0.6, 1.6)  # of the borrowed affine part; beyond, the map is wrong rather than the patients unlike
LARGEST_MM = 40.0  # of the displacement at a control point


def borrow_build(view_map: ViewMap, there: Link, back: Link, share: float) -> ViewMap:
    """A view map with a share of another patient's build; the same map where the links support too little of it.

    :param view_map: of a view of patient A.
    :param there: A to B. :param back: B to A.
    :param share: 0 (A's own build) to 1 (B's).
    """
    seen, trusted = there.transfer(view_map.centre[None])
    if not bool(trusted[0]):
        return view_map
    u = _control_points(view_map)
    asked = u @ view_map.matrix.T  # from the center, in B if B's axes were A's
    found, trusted = back.transfer(torch.cat((seen, seen + asked)))
    if not bool(trusted[0]) or int(trusted[1:].sum()) < MIN_POINTS:
        return view_map
    trusted, moved = trusted[1:], found[1:] - found[0]
    affine = torch.linalg.lstsq(asked[trusted], moved[trusted]).solution.T
    scales = torch.linalg.svdvals(affine)
    if not SCALES[0] <= float(scales.min()) <= float(scales.max()) <= SCALES[1]:
        return view_map
    matrix = ((1 - share) * torch.eye(3) + share * affine) @ view_map.matrix
    left = torch.where(trusted[:, None], share * (moved - asked @ affine.T), torch.zeros(3))
    bend = (left @ torch.linalg.inv(matrix).T).clamp(-LARGEST_MM, LARGEST_MM)
    shape = view_map.field.shape
    field = view_map.field + bend.T.reshape(shape)
    return dataclasses.replace(view_map, matrix=matrix, field=field)


def _control_points(view_map: ViewMap) -> torch.Tensor:
    """(N, 3) view coordinates of the field's points, x fastest."""
    axes = [torch.linspace(-0.5, 0.5, n) for n in view_map.field.shape[2:]]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    return torch.stack((x, y, z), dim=-1).reshape(-1, 3) * view_map.extent
