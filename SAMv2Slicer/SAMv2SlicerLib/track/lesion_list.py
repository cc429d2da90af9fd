"""The lesions of a baseline scan: one point list that gives each lesion a lasting identity.

Users mark lesions as they like (lesion_marks.py); this list, made beside the baseline volume, remembers for each of
them a Tracking UID, which its findings in all studies refer to (also in DICOM reports), its size, and which mark it
came from. A lesion that is new in a follow-up has a UID there, too, and no position. The list is hidden in the views
because the marks themselves are there. The findings in a follow-up are a matched list (match_list.py) of this list,
whose points name the Tracking UID as their template point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import slicer
import slicer.util

from SAMv2Core.io.structured_report import new_tracking_uid
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.scene import hierarchy, match_list, node_geometry
from SAMv2SlicerLib.scene.match_facts import factsOf, toFloat
from SAMv2SlicerLib.track.lesion_marks import MarkedLesion

ATTRIBUTE = "SAMv2.lesions"
ROLE_SOURCE = "SAMv2.lesionSource"


@dataclass(frozen=True, eq=False)
class Lesion:
    """One lesion of the baseline as the list knows it.

    :param uid: its Tracking UID.
    :param key: which mark it came from, see lesion_marks.MarkedLesion.
    :param label: unique within the list.
    :param centerWorld: (3,) world RAS, None for a lesion that the baseline does not have.
    :param isEstimated: the size was computed, not measured by a person.
    :param endsLPS: (2, 3) world LPS of a measured diameter, or None.
    :param shortMm: short axis, from a segmentation; NaN when not known.
    :param role: ``target`` or ``non_target`` where the user said so (SAMv2Core.tracking.recist), "" otherwise.
    :param organ: name of the organ, "" when nobody said.
    :param isNode: a lymph node: it counts by its short axis, and a line over it is one.
    """

    uid: str
    key: str
    label: str
    centerWorld: Optional[np.ndarray]
    diameterMm: float = math.nan
    isEstimated: bool = False
    endsLPS: Optional[np.ndarray] = None
    shortMm: float = math.nan
    role: str = ""
    organ: str = ""
    isNode: bool = False

    @property
    def sizeMm(self) -> float:
        """What it counts in the baseline; NaN when not known."""
        return self._axes()[0]

    @property
    def acrossMm(self) -> float:
        """The other axis, where both are known."""
        return self._axes()[1]

    def _axes(self) -> Tuple[float, float]:
        isShort = self.isNode and math.isfinite(self.shortMm)
        return (self.shortMm, self.diameterMm) if isShort else (self.diameterMm, self.shortMm)

    def toDescription(self) -> str:
        facts = {
            "lesion": self.uid,
            "source": self.key,
            "diameter_mm": f"{self.diameterMm:.2f}" if math.isfinite(self.diameterMm) else "",
            "estimated": "yes" if self.isEstimated else "",
            "short_mm": f"{self.shortMm:.2f}" if math.isfinite(self.shortMm) else "",
            "role": self.role,
            "organ": self.organ.replace(";", ",").replace("\n", " "),
            "node": "yes" if self.isNode else "",
            "ends": "" if self.endsLPS is None else " ".join(f"{x:.3f}" for x in np.ravel(self.endsLPS)),
        }
        return "; ".join(f"{key}={value}" for key, value in facts.items() if value)


@dataclass(frozen=True, eq=False)
class PlannedLesion:
    """A mark together with the lesion that it is, decided before anything is written."""

    lesion: Lesion
    mark: MarkedLesion


def isLesionList(node) -> bool:
    return bool(node is not None and node.GetAttribute(ATTRIBUTE))


def findLesionList(baselineNode):
    """The lesion list of a baseline volume, or None."""
    if baselineNode is None or baselineNode.GetScene() is None:
        return None
    for node in slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode", scene=baselineNode.GetScene()):
        if isLesionList(node) and node.GetNodeReferenceID(match_list.ROLE_TEMPLATE) == baselineNode.GetID():
            return node
    return None


def ensureLesionList(baselineNode):
    """The lesion list of a baseline volume, made under it when there is none."""
    node = findLesionList(baselineNode)
    if node is not None:
        return node
    scene = baselineNode.GetScene()
    name = scene.GenerateUniqueName(texts.lesionListName(baselineNode.GetName()))
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    node.SetAttribute(ATTRIBUTE, "1")
    node.SetNodeReferenceID(match_list.ROLE_TEMPLATE, baselineNode.GetID())
    node.CreateDefaultDisplayNodes()
    node.SetDisplayVisibility(False)
    node.SetLocked(True)
    hierarchy.placeBeside(node, baselineNode, asChild=True)
    return node


def lesionsIn(listNode) -> List[Lesion]:
    """The lesions of a list, in order."""
    if listNode is None:
        return []
    found, defined = [], set(node_geometry.definedPointIndices(listNode))
    for n in range(listNode.GetNumberOfControlPoints()):
        facts = factsOf(listNode.GetNthControlPointDescription(n) or "")
        if "lesion" not in facts:
            continue
        ends = np.array([toFloat(x) for x in facts.get("ends", "").split()])
        found.append(
            Lesion(
                uid=facts["lesion"],
                key=facts.get("source", ""),
                label=listNode.GetNthControlPointLabel(n),
                centerWorld=node_geometry.pointWorld(listNode, n) if n in defined else None,
                diameterMm=toFloat(facts.get("diameter_mm")),
                isEstimated=facts.get("estimated") == "yes",
                endsLPS=ends.reshape(2, 3) if ends.shape == (6,) and np.isfinite(ends).all() else None,
                shortMm=toFloat(facts.get("short_mm")),
                role=facts.get("role", ""),
                organ=facts.get("organ", ""),
                isNode=facts.get("node") == "yes",
            )
        )
    return found


def plan(listNode, marks: Sequence[MarkedLesion]) -> List[PlannedLesion]:
    """Which lesion each mark is: by its key, else (the mark's node was replaced) by its label, else a new one."""
    known = lesionsIn(listNode)
    byKey = {lesion.key: lesion for lesion in known}
    keys = {mark.key for mark in marks}
    byLabel = {lesion.label: lesion for lesion in known if lesion.key not in keys}
    taken: Dict[str, int] = {}
    planned = []
    for mark in marks:
        lesion = byKey.get(mark.key) or byLabel.pop(mark.label, None)
        planned.append(PlannedLesion(_fromMark(mark, lesion, taken), mark))
    return planned


def _fromMark(mark: MarkedLesion, known: Optional[Lesion], taken: Dict[str, int]) -> Lesion:
    """A mark as a lesion; what the user said of it before stays.

    :param known: what the list has of it.
    """
    label = mark.label or texts.lesionLabel()
    taken[label] = taken.get(label, 0) + 1
    unique = label if taken[label] == 1 else f"{label} ({taken[label]})"
    return Lesion(
        uid=known.uid if known is not None else new_tracking_uid(),
        key=mark.key,
        label=unique,
        centerWorld=mark.centerWorld,
        diameterMm=mark.diameterMm,
        isEstimated=mark.isEstimated,
        endsLPS=None if mark.endsWorld is None else node_geometry.flipRASAndLPS(mark.endsWorld),
        shortMm=mark.shortMm,
        **_said(known),
    )


def _said(known: Optional[Lesion]) -> Dict[str, Any]:
    """What only the user knows of a lesion."""
    return {} if known is None else {"role": known.role, "organ": known.organ, "isNode": known.isNode}


def planNew(listNode, taken: Sequence[str], parts: Sequence[Tuple[str, str]]) -> List[Lesion]:
    """Lesions that the baseline does not have, each with the UID that it had before.

    :param taken: labels of the other lesions; :param parts: (key, label) of what is segmented and belongs to none.
    """
    known = {lesion.key: lesion for lesion in lesionsIn(listNode)}
    counts = dict.fromkeys(taken, 1)
    found = []
    for key, label in parts:
        counts[label] = counts.get(label, 0) + 1
        unique = label if counts[label] == 1 else f"{label} ({counts[label]})"
        before = known.get(key)
        uid = before.uid if before is not None else new_tracking_uid()
        found.append(Lesion(uid, key, unique, None, **_said(before)))
    return found


def write(listNode, planned: Sequence[PlannedLesion], new: Sequence[Lesion], keptUIDs) -> Tuple[str, ...]:
    """Make the list hold the planned and the new lesions, in order.

    :param keptUIDs: lesions that stay although their mark is gone: the user decided on them.
    :return: Tracking UIDs of the lesions that were dropped.
    """
    wanted = [*(item.lesion for item in planned), *new]
    present = {lesion.uid for lesion in wanted}
    orphans = [lesion for lesion in lesionsIn(listNode) if lesion.uid not in present]
    kept = [lesion for lesion in orphans if lesion.uid in keptUIDs]
    with slicer.util.NodeModify(listNode):
        listNode.RemoveAllControlPoints()
        for lesion in [*wanted, *kept]:
            center = (0.0, 0.0, 0.0) if lesion.centerWorld is None else lesion.centerWorld
            index = listNode.AddControlPointWorld([float(x) for x in center], lesion.label)
            if lesion.centerWorld is None:
                listNode.UnsetNthControlPointPosition(index)
            listNode.SetNthControlPointDescription(index, lesion.toDescription())
    return tuple(lesion.uid for lesion in orphans if lesion not in kept)


def say(listNode, uid: str, **facts: Any) -> None:
    """Write down what the user says of a lesion: ``role``, ``organ`` or ``isNode``."""
    for n in range(listNode.GetNumberOfControlPoints()):
        if factsOf(listNode.GetNthControlPointDescription(n) or "").get("lesion") == uid:
            lesion = next(item for item in lesionsIn(listNode) if item.uid == uid)
            listNode.SetNthControlPointDescription(n, replace(lesion, **facts).toDescription())


def findingsOf(listNode) -> List[Any]:
    """The matched lists of a lesion list: one per follow-up, in scene order."""
    return match_list.matchLists(listNode) if listNode is not None else []
