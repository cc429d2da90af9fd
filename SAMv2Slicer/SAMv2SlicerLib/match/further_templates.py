"""Further templates: scans with a point list of their own, in which points have the labels of those of the template.

Earlier studies of the patient, or other people. A point is looked for from each scan that has its label, and the answer
is what they agree on (SAMv2Core.matching.exemplars), with a confidence that one scan alone does not give.
"""

from __future__ import annotations

from typing import Any, Dict, Sequence, Tuple

import numpy as np

from SAMv2Core.errors import InputError
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.scene import match_list, node_geometry

Pair = Tuple[Any, Any]
"""(volume node, point list)."""


def pairs(volumes: Sequence[Any], lists: Sequence[Any]) -> Tuple[Pair, ...]:
    """Those of which both still exist: Slicer's parameter node keeps None for a removed node."""
    return tuple((v, points) for v, points in zip(volumes, lists) if v is not None and points is not None)


def placesOf(pointsNode) -> Dict[str, np.ndarray]:
    """Label -> world RAS (3,) of the placed points.

    :raises InputError: labels that do not tell the points apart.
    """
    placed = node_geometry.definedPointIndices(pointsNode)
    labels = [pointsNode.GetNthControlPointLabel(n) for n in placed]
    ambiguous = sorted({label for label in labels if not label or labels.count(label) > 1})
    if ambiguous:
        raise InputError(texts.sameLabelCause(pointsNode.GetName(), ambiguous[0]), texts.sameLabelRemedy())
    return {label: node_geometry.pointWorld(pointsNode, n) for n, label in zip(placed, labels)}


def pointsLike(labels: Sequence[str], volumeNode, pointsNode) -> np.ndarray:
    """(N, 3) volume LPS of the points with some labels, NaN where a list has none of a label."""
    places = placesOf(pointsNode)
    found = np.full((len(labels), 3), np.nan)
    known = [n for n, label in enumerate(labels) if label in places]
    if known:
        world = np.array([places[labels[n]] for n in known])
        found[known] = node_geometry.worldToVolumeLPS(volumeNode, world)
    return found


def inCommon(pointsNode, furtherNode) -> Tuple[int, int]:
    """(how many labels of the template's placed points a further list has, how many there are)."""
    mine, others = (
        {node.GetNthControlPointLabel(n) for n in node_geometry.definedPointIndices(node)} - {""}
        for node in (pointsNode, furtherNode)
    )
    return len(mine & others), len(mine)


def listIn(volumeNode, pointsNode) -> Any:
    """The matches of the template's points in a scan, which have their labels; None without any."""
    return match_list.findMatchList(pointsNode, volumeNode)


def unseen(pointsNode) -> int:
    """How many matches of a list nobody has looked at: found from the template alone, they are no second witness."""
    if not match_list.isMatchList(pointsNode):
        return 0
    found = [match_list.resultAt(pointsNode, n) for n in node_geometry.definedPointIndices(pointsNode)]
    return sum(result is not None and not result.edited for result in found)
