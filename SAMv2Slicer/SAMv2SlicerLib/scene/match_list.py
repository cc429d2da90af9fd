"""Where results live in the scene: matched point lists and transforms that explain themselves.

A matched list is an ordinary point list in world coordinates, tied to its template list and both volumes by node
references (never by name), its points tied to template points by control point ID. What is known about each match
stands in the point's description as ``key=value; ...``, so a scene opened without this module still shows it, and so
does the ``.mrk.json`` file. A match that was not found is a point without a position.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Dict, Iterable, List, Optional, Tuple

import numpy as np
import slicer

from SAMv2SlicerLib import texts
from SAMv2SlicerLib.scene import node_geometry
from SAMv2SlicerLib.scene.hierarchy import placeBeside
from SAMv2SlicerLib.scene.match_facts import (
    ACCEPTED,
    MATCHED,
    MERGED,
    MOVED,
    NEW,
    NOT_FOUND,
    REJECTED,
    SEGMENTED,
    UNCERTAIN,
    VANISHED,
    PointResult,
)

ROLE_POINTS = "SAMv2.points"
ROLE_TEMPLATE = "SAMv2.template"
ROLE_QUERY = "SAMv2.query"
ROLE_LESIONS = "SAMv2.measuredIn"
"""From a line over a finding to the lesion list."""

__all__ = [
    "ACCEPTED",
    "MATCHED",
    "MERGED",
    "MOVED",
    "NEW",
    "NOT_FOUND",
    "REJECTED",
    "SEGMENTED",
    "UNCERTAIN",
    "VANISHED",
    "PointResult",
]

# Okabe and Ito's blue and orange: distinguishable in all common color vision deficiencies.
COLOR_MATCHED = (0.0, 0.45, 0.70)
COLOR_UNCERTAIN = (0.90, 0.62, 0.0)
COLOR_POINTS = (0.84, 0.37, 0.0)
"""Of the template's points, Okabe and Ito's vermilion: their matches have other colors."""


# --- matched lists ---------------------------------------------------------------------------------------------------


def findMatchList(pointsNode, queryNode):
    """The matched list of a template list in a query volume, or None."""
    if pointsNode is None or queryNode is None or pointsNode.GetScene() is None:
        return None
    for node in matchLists(pointsNode):
        if node.GetNodeReferenceID(ROLE_QUERY) == queryNode.GetID():
            return node
    return None


def matchLists(pointsNode) -> List[Any]:
    """All matched lists of a template list, in scene order."""
    nodes = slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode", scene=pointsNode.GetScene())
    return [node for node in nodes if node.GetNodeReferenceID(ROLE_POINTS) == pointsNode.GetID()]


def isMatchList(node) -> bool:
    return bool(node is not None and node.GetNodeReferenceID(ROLE_POINTS))


def isLesionLine(node) -> bool:
    """Whether a line is one of ours, in a follow-up, and no mark of a lesion."""
    return bool(node.GetNodeReferenceID(ROLE_LESIONS))


def ensureMatchList(pointsNode, templateNode, queryNode, name: str = ""):
    """The matched list of (points, query), made when there is none; placed under the query volume."""
    node = findMatchList(pointsNode, queryNode)
    if node is not None:
        node.SetNodeReferenceID(ROLE_TEMPLATE, templateNode.GetID())
        return node
    scene = pointsNode.GetScene()
    name = scene.GenerateUniqueName(name or texts.matchListName(pointsNode.GetName(), queryNode.GetName()))
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    with slicer.util.NodeModify(node):
        node.CreateDefaultDisplayNodes()
        display = node.GetDisplayNode()
        display.SetSelectedColor(*COLOR_MATCHED)
        display.SetColor(*COLOR_UNCERTAIN)
        node.SetNodeReferenceID(ROLE_POINTS, pointsNode.GetID())
        node.SetNodeReferenceID(ROLE_TEMPLATE, templateNode.GetID())
        node.SetNodeReferenceID(ROLE_QUERY, queryNode.GetID())
        node.SetAttribute(ROLE_TEMPLATE, templateNode.GetName())
    placeBeside(node, queryNode, asChild=True)
    return node


def describeOrigin(node, embedding: Any, method: str) -> None:
    """Write down which model and version made a matched list or a transform."""
    import SAMv2Core

    with slicer.util.NodeModify(node):
        node.SetAttribute("SAMv2.model", embedding.model)
        node.SetAttribute("SAMv2.modelSHA256", embedding.model_sha256)
        node.SetAttribute("SAMv2.version", SAMv2Core.__version__)
        node.SetAttribute("SAMv2.method", method)


def resultAt(listNode, index: int) -> Optional[PointResult]:
    return PointResult.fromDescription(listNode.GetNthControlPointDescription(index) or "")


def indexOfTemplatePoint(listNode, templatePoint: str) -> int:
    """Index in a matched list of the match of a template point, -1 when there is none."""
    for index in range(listNode.GetNumberOfControlPoints()):
        result = resultAt(listNode, index)
        if result is not None and result.templatePoint == templatePoint:
            return index
    return -1


def needingALook(listNode) -> List[int]:
    """Indices of the placed matches that a person should look at."""
    found = [(n, resultAt(listNode, n)) for n in node_geometry.definedPointIndices(listNode)]
    return [n for n, result in found if result is not None and result.needsALook]


def writeMatches(
    listNode, labels: Iterable[str], found: Iterable[Tuple[PointResult, Optional[np.ndarray]]], lock: bool
):
    """Write matches into a matched list, replacing earlier ones of the same template points.

    :param found: per label the facts and the world RAS position (3,), None when not found.
    :param lock: new points cannot be dragged until unlocked.
    :return: labels of matches that were kept because the user had edited them.
    """
    kept = []
    with slicer.util.NodeModify(listNode):
        for label, (result, position) in zip(labels, found):
            index = indexOfTemplatePoint(listNode, result.templatePoint)
            if index < 0:
                index = listNode.AddControlPointWorld(position if position is not None else [0.0, 0.0, 0.0], label)
                listNode.SetNthControlPointLocked(index, lock)
            elif resultAt(listNode, index).edited:
                kept.append(label)
                continue
            _write(listNode, index, label, result, position)
    return kept


def _write(listNode, index: int, label: str, result: PointResult, position: Optional[np.ndarray]) -> None:
    setPosition(listNode, index, position)
    listNode.SetNthControlPointLabel(index, label)
    proposed = None if position is None else tuple(float(x) for x in node_geometry.flipRASAndLPS(position))
    setResult(listNode, index, replace(result, proposed=proposed))


def setPosition(listNode, index: int, position: Optional[np.ndarray]) -> None:
    """Move a point to a world RAS position (3,), or leave it without one (None)."""
    if position is None:
        listNode.UnsetNthControlPointPosition(index)
    else:
        listNode.SetNthControlPointPositionWorld(index, *(float(x) for x in position))


def setResult(listNode, index: int, result: PointResult) -> None:
    """Write the facts of a match; its color follows."""
    listNode.SetNthControlPointDescription(index, result.toDescription())
    listNode.SetNthControlPointSelected(index, not result.needsALook)


def update(listNode, templatePoint: str, **facts: Any) -> None:
    """Write some more facts, such as a lesion's size, leaving place and judgment as they are."""
    index = indexOfTemplatePoint(listNode, templatePoint)
    if index >= 0:
        setResult(listNode, index, replace(resultAt(listNode, index), **facts))


def decide(listNode, index: int, decision: str) -> None:
    """Write down the user's judgment of a match beside what was proposed; a rerun keeps both."""
    result = resultAt(listNode, index)
    if result is None:
        return
    if decision == REJECTED:
        listNode.UnsetNthControlPointPosition(index)
    setResult(listNode, index, replace(result, decision=decision))


def accept(listNode, index: int) -> None:
    """The user's judgment: this match is right, or it is right that there is none."""
    result = resultAt(listNode, index)
    if result is not None and not result.edited:
        decide(listNode, index, ACCEPTED)


def markMoved(listNode, index: int) -> None:
    """Remember that the user moved or placed this match; what both scans said was said of another place."""
    decide(listNode, index, MOVED)
    result = resultAt(listNode, index)
    if result is not None and result.looks:
        setResult(listNode, index, replace(result, looks="", looksConfidence=math.nan, looksReason=""))


def reject(listNode, index: int) -> None:
    """The user's judgment: this point is not in the query; what was said of a lesion there is taken back."""
    result = resultAt(listNode, index)
    if result is not None:
        setResult(listNode, index, replace(result, state=""))
    decide(listNode, index, REJECTED)


def setState(listNode, index: int, state: str) -> None:
    """The user's word on the lesion itself, such as ``vanished``: with it the match has been looked at."""
    result = resultAt(listNode, index)
    if result is not None:
        decision = result.decision or (ACCEPTED if state else "")
        setResult(listNode, index, replace(result, state=state, decision=decision))


def release(listNode, index: int) -> None:
    """Forget a judgment: back to what was proposed, and the next match may overwrite it."""
    result = resultAt(listNode, index)
    if result is None or not result.edited:
        return
    proposed = None if result.proposed is None else node_geometry.flipRASAndLPS(np.array(result.proposed))
    setPosition(listNode, index, proposed)
    setResult(listNode, index, replace(result, decision="", state=""))


def removeMatch(listNode, templatePoint: str) -> bool:
    """Remove the match of a template point unless the user edited it; whether it was removed."""
    index = indexOfTemplatePoint(listNode, templatePoint)
    if index < 0 or resultAt(listNode, index).edited:
        return False
    listNode.RemoveNthControlPoint(index)
    return True


def summaryOf(listNode) -> str:
    """One line of counts: "7 points, 5 matched, 1 uncertain, 1 not found"."""
    found = [resultAt(listNode, n) for n in range(listNode.GetNumberOfControlPoints())]
    statuses = [result.status for result in found if result is not None]
    counts = ", ".join(
        f"{statuses.count(status)} {word}"
        for status, word in (("matched", "matched"), ("uncertain", "uncertain"), ("not_found", "not found"))
        if status in statuses
    )
    return f"{len(statuses)} points, {counts}" if counts else "no points"


# --- snapshots, for undo ---------------------------------------------------------------------------------------------


def captureList(listNode) -> Optional[List[Dict[str, Any]]]:
    """Everything of a matched list's points, None for no list."""
    if listNode is None:
        return None
    defined = set(node_geometry.definedPointIndices(listNode))
    return [
        {
            "position": node_geometry.pointWorld(listNode, n) if n in defined else None,
            "label": listNode.GetNthControlPointLabel(n),
            "description": listNode.GetNthControlPointDescription(n),
            "locked": bool(listNode.GetNthControlPointLocked(n)),
            "selected": bool(listNode.GetNthControlPointSelected(n)),
        }
        for n in range(listNode.GetNumberOfControlPoints())
    ]


def restoreList(listNode, captured: List[Dict[str, Any]]) -> None:
    """Make a matched list's points what they were when captured."""
    with slicer.util.NodeModify(listNode):
        listNode.RemoveAllControlPoints()
        for point in captured:
            position = point["position"]
            index = listNode.AddControlPointWorld(position if position is not None else [0.0, 0.0, 0.0], point["label"])
            if position is None:
                listNode.UnsetNthControlPointPosition(index)
            listNode.SetNthControlPointDescription(index, point["description"])
            listNode.SetNthControlPointLocked(index, point["locked"])
            listNode.SetNthControlPointSelected(index, point["selected"])
