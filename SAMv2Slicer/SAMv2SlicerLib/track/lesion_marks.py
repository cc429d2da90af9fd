"""What users mark lesions with, read as lesions: points, line markups (RECIST diameters), segments.

The user's nodes are only read. Every lesion gets a key that stays the same as long as its mark exists, so that a second
run recognizes it although it was moved or renamed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import slicer.util

from SAMv2Core.errors import InputError
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.lesion import Lesion
from SAMv2Core.io.lesions import lesions_from_segmentation
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.scene import match_list, node_geometry
from SAMv2SlicerLib.scene.match_facts import factsOf, toFloat
from SAMv2SlicerLib.scene.segments import segmentsIn, segmentVolume

SOURCE_CLASSES = ("vtkMRMLMarkupsFiducialNode", "vtkMRMLMarkupsLineNode", "vtkMRMLSegmentationNode")


@dataclass(frozen=True, eq=False)
class MarkedLesion:
    """One lesion of the baseline as it is marked in the scene.

    :param key: node ID and part of the mark.
    :param centerWorld: (3,) world RAS.
    :param diameterMm: NaN when the mark has no size.
    :param isEstimated: the size was computed from a segment, not measured by a person.
    :param shortMm: short axis of a segment.
    :param endsWorld: (2, 3) of a measured diameter, or None.
    :param samplesWorld: (n, 3) places that stand for a segment when it is tracked, or None.
    """

    key: str
    label: str
    centerWorld: np.ndarray
    diameterMm: float = math.nan
    isEstimated: bool = False
    endsWorld: Optional[np.ndarray] = None
    samplesWorld: Optional[np.ndarray] = None
    shortMm: float = math.nan


def marksIn(nodes: Sequence[Any]) -> List[MarkedLesion]:
    """All lesions marked in some nodes, in order; other nodes, empty marks and lines in follow-ups are left out."""
    found: List[MarkedLesion] = []
    for node in nodes:
        if node is None:
            continue
        if node.IsA("vtkMRMLMarkupsLineNode") and not match_list.isLesionLine(node):
            found += _fromLine(node)
        elif node.IsA("vtkMRMLMarkupsFiducialNode"):
            found += _fromPoints(node)
        elif node.IsA("vtkMRMLSegmentationNode"):
            found += _fromSegmentation(node)
    return found


def _fromPoints(node) -> List[MarkedLesion]:
    """One lesion per placed point; sizes may stand in its description as ``diameter_mm=12.5; short_mm=9``."""
    return [
        MarkedLesion(
            key=f"{node.GetID()}:{node.GetNthControlPointID(n)}",
            label=node.GetNthControlPointLabel(n),
            centerWorld=node_geometry.pointWorld(node, n),
            diameterMm=toFloat(factsOf(node.GetNthControlPointDescription(n) or "").get("diameter_mm")),
            shortMm=toFloat(factsOf(node.GetNthControlPointDescription(n) or "").get("short_mm")),
        )
        for n in node_geometry.definedPointIndices(node)
    ]


def _fromLine(node) -> List[MarkedLesion]:
    """One lesion with a measured diameter."""
    if len(node_geometry.definedPointIndices(node)) != 2:
        return []
    ends = node_geometry.pointsWorld(node, (0, 1))
    length = float(np.linalg.norm(ends[1] - ends[0]))
    return [MarkedLesion(f"{node.GetID()}:line", node.GetName(), ends.mean(axis=0), length, False, ends)]


def _fromSegmentation(node) -> List[MarkedLesion]:
    """One lesion per segment, or per separate part of a segment; sizes are the longest diameters in a slice."""
    return [
        MarkedLesion(
            key=key,
            label=label,
            centerWorld=_toWorld(node, lesion.center_lps[None])[0],
            diameterMm=lesion.diameter_mm or math.nan,
            isEstimated=True,
            samplesWorld=_toWorld(node, lesion.points_lps),
            shortMm=lesion.short_mm or math.nan,
        )
        for key, label, lesion in _partsOf(node)
    ]


def partsIn(node, volumeNode) -> List[Tuple[str, Lesion]]:
    """(key, lesion in volume LPS) of everything segmented in a follow-up.

    :raises InputError: a part lies outside the volume: it was drawn on another one.
    """
    found = []
    for key, label, lesion in _partsOf(node):
        center, places = (
            node_geometry.worldToVolumeLPS(volumeNode, _toWorld(node, points))
            for points in (lesion.center_lps[None], lesion.points_lps)
        )
        moved = replace(lesion, label=label, center_lps=center[0], points_lps=places, ends_lps=None)
        found.append((key, moved))
    grid = Grid(slicer.util.arrayFromVolume(volumeNode).shape, node_geometry.ijkToLPS(volumeNode))
    outside = [lesion.label for _, lesion in found if not grid.contains(lesion.center_lps)[0]]
    if outside:
        raise InputError(
            texts.foreignSegmentsCause(node.GetName(), volumeNode.GetName(), outside[0]),
            texts.foreignSegmentsRemedy(),
        )
    return found


def _partsOf(node) -> Iterator[Tuple[str, str, Lesion]]:
    """(key, label, lesion in the segmentation's LPS) of each segment, or of each separate part of one."""
    for segmentID, name in segmentsIn(node):
        volume = segmentVolume(node, segmentID)
        if volume is None or not volume.array.any():
            continue
        lesions = lesions_from_segmentation(volume)
        for part, lesion in enumerate(lesions):
            label = name if len(lesions) == 1 else f"{name} {part + 1}"
            yield f"{node.GetID()}:{segmentID}:{part}", label, lesion


def _toWorld(node, pointsLPS: np.ndarray) -> np.ndarray:
    """World RAS of points (n, 3) in a node's own frame, LPS."""
    return node_geometry.carryPoints(node_geometry.flipRASAndLPS(pointsLPS), node.GetParentTransformNode(), None)
