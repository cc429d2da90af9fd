"""Studies of one patient in time: their dates and their order. A date is read or entered, never invented."""

from __future__ import annotations

import datetime
import re
from typing import Any, List, Optional, Sequence

import slicer
import slicer.util

from SAMv2Core.errors import InputError
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.scene import hierarchy, node_geometry

ATTRIBUTE_DATE = "SAMv2.studyDate"
ROLE_SEGMENTATION = "SAMv2.lesionSegmentation"


def dateOf(volumeNode) -> str:
    """The date of a volume's study as YYYY-MM-DD, empty when nobody said: the user first, then DICOM."""
    entered = volumeNode.GetAttribute(ATTRIBUTE_DATE)
    if entered:
        return entered
    items = hierarchy.hierarchyOf(volumeNode.GetScene())
    item = items.GetItemByDataNode(volumeNode) if items is not None else 0
    value = items.GetAttributeFromItemAncestor(item, "DICOM.StudyDate", "Study") if item else ""
    return normalizedDate(value or volumeNode.GetAttribute("DICOM.StudyDate") or "")


def setDate(volumeNode, text: str) -> None:
    """Remember the date that the user entered; an empty one gives way to that of DICOM.

    :raises InputError: not a date.
    """
    date = normalizedDate(text)
    if text.strip() and not date:
        raise InputError(texts.notADateCause(text), texts.notADateRemedy())
    volumeNode.SetAttribute(ATTRIBUTE_DATE, date or None)


def segmentationOf(volumeNode):
    """The segmentation that was chosen as the one of a study's lesions, or None."""
    return volumeNode.GetNodeReference(ROLE_SEGMENTATION)


def setSegmentation(volumeNode, segmentationNode) -> None:
    """Remember which segmentation shows a study's lesions; None for none."""
    nodeID = segmentationNode.GetID() if segmentationNode is not None else None
    if volumeNode.GetNodeReferenceID(ROLE_SEGMENTATION) != nodeID:
        volumeNode.SetNodeReferenceID(ROLE_SEGMENTATION, nodeID)


def normalizedDate(text: str) -> str:
    """YYYY-MM-DD from that or from DICOM's YYYYMMDD, empty for anything else."""
    match = re.fullmatch(r"\s*(\d{4})-?(\d{2})-?(\d{2})\s*", text)
    if match is None:
        return ""
    try:
        return datetime.date(*(int(part) for part in match.groups())).isoformat()
    except ValueError:
        return ""


def inTimeOrder(volumeNodes: Sequence[Any]) -> List[Any]:
    """Sorted by date when all have one, else in the order given (which the user can change)."""
    dates = [dateOf(node) for node in volumeNodes]
    if not all(dates):
        return list(volumeNodes)
    return [node for _, _, node in sorted(zip(dates, range(len(dates)), volumeNodes), key=lambda item: item[:2])]


def daysSince(baselineNode, volumeNode) -> Optional[int]:
    """Days from the baseline to another study, None when a date is missing."""
    dates = [dateOf(node) for node in (baselineNode, volumeNode)]
    if not all(dates):
        return None
    first, second = (datetime.date.fromisoformat(date) for date in dates)
    return (second - first).days


def titleOf(volumeNode, separator: str = " ") -> str:
    """How a study is named in tables: its date and the volume's name."""
    date = dateOf(volumeNode)
    return f"{date}{separator}{volumeNode.GetName()}" if date else volumeNode.GetName()


def ofSamePatient(volumeNode) -> List[Any]:
    """The other scalar volumes of a volume's patient in the subject hierarchy, in scene order; none without a patient.

    What the module made itself (maps, crops, checkerboards) is no study.
    """
    patient = hierarchy.patientItem(volumeNode)
    if not patient:
        return []
    return [
        node
        for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode", scene=volumeNode.GetScene())
        if node.GetClassName() == "vtkMRMLScalarVolumeNode"
        and node is not volumeNode
        and not node.GetAttribute(node_geometry.ATTRIBUTE_MADE)
        and hierarchy.patientItem(node) == patient
    ]
