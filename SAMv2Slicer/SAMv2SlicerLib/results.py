"""Where results live in the scene: matched point lists and transforms that explain themselves.

A matched list is an ordinary point list in world coordinates, tied to its template list and both volumes by node
references (never by name), its points tied to template points by control point ID. What is known about each match
stands in the point's description as ``key=value; ...``, so a scene opened without this module still shows it, and so
does the ``.mrk.json`` file. A match that was not found is a point without a position.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Dict, Iterable, List, Optional, Tuple

import numpy as np
import slicer

from SAMv2SlicerLib import conversion, texts

ROLE_POINTS = "SAMv2.points"
ROLE_TEMPLATE = "SAMv2.template"
ROLE_QUERY = "SAMv2.query"

MATCHED, UNCERTAIN, NOT_FOUND = "matched", "uncertain", "not_found"

# Okabe and Ito's blue and orange: distinguishable in all common color vision deficiencies.
COLOR_MATCHED = (0.0, 0.45, 0.70)
COLOR_UNCERTAIN = (0.90, 0.62, 0.0)


# --- what is known about one match -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class PointResult:
    """The facts of one match, without its position (that is the control point's).

    :param templatePoint: control point ID in the template list.
    :param status: ``matched``, ``uncertain`` or ``not_found`` as the matcher judged it, also after an edit.
    :param edited: the user placed, moved, accepted or rejected it; a rerun keeps it.
    """

    templatePoint: str
    status: str
    similarity: float = math.nan
    cycleErrorMm: float = math.nan
    fixedPoints: int = 0
    confidence: float = math.nan
    edited: bool = False
    reason: str = ""

    @property
    def needsALook(self) -> bool:
        return self.status != MATCHED and not self.edited

    def toDescription(self) -> str:
        """One line for the control point's description, see the module's text."""
        facts = {
            "status": self.status,
            "similarity": _number(self.similarity, 3),
            "cycle_error_mm": _number(self.cycleErrorMm, 2),
            "fixed_points": str(self.fixedPoints),
            "confidence": _number(self.confidence, 3),
            "template_point": self.templatePoint,
            "edited": "yes" if self.edited else "",
            "reason": self.reason.replace(";", ",").replace("\n", " "),
        }
        return "; ".join(f"{key}={value}" for key, value in facts.items() if value != "")

    @staticmethod
    def fromDescription(description: str) -> Optional[PointResult]:
        """The facts in a description, or None when it is not one of ours (a point the user added to the list)."""
        facts = dict(part.split("=", 1) for part in description.split("; ") if "=" in part)
        if "template_point" not in facts or "status" not in facts:
            return None
        return PointResult(
            templatePoint=facts["template_point"],
            status=facts["status"],
            similarity=_toFloat(facts.get("similarity")),
            cycleErrorMm=_toFloat(facts.get("cycle_error_mm")),
            fixedPoints=int(_toFloat(facts.get("fixed_points", "0"))),
            confidence=_toFloat(facts.get("confidence")),
            edited=facts.get("edited") == "yes",
            reason=facts.get("reason", ""),
        )

    @staticmethod
    def fromMatch(templatePoint: str, match: Any) -> PointResult:
        """From a ``SAMv2Core`` Match."""
        return PointResult(
            templatePoint=templatePoint,
            status=match.status,
            similarity=float(match.similarity),
            cycleErrorMm=float(match.cycle_error_mm),
            fixedPoints=int(match.fixed_points),
            confidence=float(match.confidence),
            reason=match.reason or "",
        )


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else ""


def _toFloat(text: Optional[str]) -> float:
    try:
        return float(text) if text else math.nan
    except ValueError:
        return math.nan


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


def ensureMatchList(pointsNode, templateNode, queryNode):
    """The matched list of (points, query), made when there is none; placed under the query volume."""
    node = findMatchList(pointsNode, queryNode)
    if node is not None:
        node.SetNodeReferenceID(ROLE_TEMPLATE, templateNode.GetID())
        return node
    scene = pointsNode.GetScene()
    name = scene.GenerateUniqueName(texts.matchListName(pointsNode.GetName(), queryNode.GetName()))
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
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

    node.SetAttribute("SAMv2.model", embedding.model)
    node.SetAttribute("SAMv2.modelSHA256", embedding.model_sha256)
    node.SetAttribute("SAMv2.version", SAMv2Core.__version__)
    node.SetAttribute("SAMv2.method", method)


def placeBeside(node, neighbor, asChild: bool = False) -> None:
    """Put a node into the subject hierarchy folder of another one (its study), or under it."""
    hierarchy = conversion.subjectHierarchy(node.GetScene())
    neighborItem = hierarchy.GetItemByDataNode(neighbor) if hierarchy is not None else 0
    if not neighborItem:
        return
    parent = neighborItem if asChild else hierarchy.GetItemParent(neighborItem)
    item = hierarchy.GetItemByDataNode(node)
    if item:
        hierarchy.SetItemParent(item, parent)
    else:
        hierarchy.CreateItem(parent, node)


def removeNode(node) -> None:
    """Remove a node of ours with the display and storage nodes that only it uses: nothing is left behind."""
    scene = node.GetScene()
    companions = []
    if node.IsA("vtkMRMLDisplayableNode"):
        companions += [node.GetNthDisplayNode(n) for n in range(node.GetNumberOfDisplayNodes())]
    if node.IsA("vtkMRMLStorableNode"):
        companions.append(node.GetStorageNode())
    scene.RemoveNode(node)
    for companion in companions:
        if companion is not None and companion.GetScene() is scene:
            scene.RemoveNode(companion)


def resultAt(listNode, index: int) -> Optional[PointResult]:
    return PointResult.fromDescription(listNode.GetNthControlPointDescription(index) or "")


def indexOfTemplatePoint(listNode, templatePoint: str) -> int:
    """Index in a matched list of the match of a template point, -1 when there is none."""
    for index in range(listNode.GetNumberOfControlPoints()):
        result = resultAt(listNode, index)
        if result is not None and result.templatePoint == templatePoint:
            return index
    return -1


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
    if position is None:
        listNode.UnsetNthControlPointPosition(index)
    else:
        listNode.SetNthControlPointPositionWorld(index, *(float(x) for x in position))
    listNode.SetNthControlPointLabel(index, label)
    setResult(listNode, index, result)


def setResult(listNode, index: int, result: PointResult) -> None:
    """Write the facts of a match; its color follows."""
    listNode.SetNthControlPointDescription(index, result.toDescription())
    listNode.SetNthControlPointSelected(index, not result.needsALook)


def markEdited(listNode, index: int) -> None:
    """Remember that the user placed, moved or accepted this match."""
    result = resultAt(listNode, index)
    if result is not None and not result.edited:
        setResult(listNode, index, replace(result, edited=True))


def reject(listNode, index: int) -> None:
    """The user's judgment: this point is not in the query. Kept as an edited match without a position."""
    result = resultAt(listNode, index)
    if result is not None:
        listNode.UnsetNthControlPointPosition(index)
        setResult(listNode, index, replace(result, edited=True, status=NOT_FOUND))


def release(listNode, index: int) -> None:
    """Forget an edit, so that the next match may overwrite it."""
    result = resultAt(listNode, index)
    if result is not None and result.edited:
        setResult(listNode, index, replace(result, edited=False))


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
    defined = set(conversion.definedPointIndices(listNode))
    return [
        {
            "position": conversion.pointWorld(listNode, n) if n in defined else None,
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
