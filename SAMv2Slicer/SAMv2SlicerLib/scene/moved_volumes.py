"""Noticing that a scan was moved after matching: its matches then no longer lie on the anatomy that they were found at.

A matched list remembers where corners of its scans were in the world of its points. That holds for any transform, also
through a saved scene, and is quiet when points and scan are moved together. Whether the first slice or the last comes
first does not count: Slicer reverses the slices of a left-handed scan when it reads it again.
"""

from __future__ import annotations

import json
from typing import Any, Optional

import numpy as np

from SAMv2SlicerLib.scene import match_list, node_geometry

ATTRIBUTE = "SAMv2.frames"
MOVED_MM = 0.1
"""More than rounding, less than a voxel."""


def remember(listNode) -> None:
    """Write down where the scans of a matched list are."""
    text = json.dumps({role: np.round(found, 3).tolist() for role, found in _corners(listNode).items()})
    if listNode.GetAttribute(ATTRIBUTE) != text:
        listNode.SetAttribute(ATTRIBUTE, text)


def movedVolume(listNode) -> Optional[Any]:
    """The first scan of a matched list that was moved against the points since they were matched, or None."""
    try:
        known = json.loads(listNode.GetAttribute(ATTRIBUTE) or "{}")
    except ValueError:
        return None
    for role, now in _corners(listNode).items():
        before = np.array(known.get(role, now), dtype=float)
        if before.shape == now.shape and _apart(before, now) > MOVED_MM:
            return listNode.GetNodeReference(role)
    return None


def _apart(before: np.ndarray, now: np.ndarray) -> float:
    """The longest way of a corner, mm, in the order of the slices in which it is shorter."""
    along = now[3] - now[0]
    turned = np.array([now[3], now[1] + along, now[2] + along, now[0]])
    return float(min(np.linalg.norm(before - corners, axis=1).max() for corners in (now, turned)))


def _corners(listNode) -> dict:
    """{role: (4, 3)} the first corner of template and query and its neighbors along i, j, k, in the frames of the point
    lists that lie in them."""
    pairs = (
        (match_list.ROLE_TEMPLATE, listNode.GetNodeReference(match_list.ROLE_POINTS)),
        (match_list.ROLE_QUERY, listNode),
    )
    found = {}
    for role, points in pairs:
        volume = listNode.GetNodeReference(role)
        if volume is None or points is None or volume.GetImageData() is None:
            continue
        size = np.array(volume.GetImageData().GetDimensions(), dtype=float) - 1
        ijk = np.vstack([np.zeros(3), np.diag(size)])
        toRAS = node_geometry.LPS_FROM_RAS @ node_geometry.ijkToLPS(volume)
        corners = ijk @ toRAS[:3, :3].T + toRAS[:3, 3]
        found[role] = node_geometry.carryPoints(
            corners, volume.GetParentTransformNode(), points.GetParentTransformNode()
        )
    return found
