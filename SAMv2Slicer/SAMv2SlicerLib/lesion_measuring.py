"""Sizes measured by hand in a follow-up: a line markup over a finding, whose length becomes the lesion's size there."""

from __future__ import annotations

import numpy as np
import slicer
import vtk

from SAMv2SlicerLib import conversion, lesion_findings, lesion_list, results, texts
from SAMv2SlicerLib.undo import Action


def measure(logic, finding: lesion_findings.Finding):
    """Add a line over a finding for the user to fit to the lesion; its length becomes the size. The line node.

    It starts as long and in the direction of the baseline's line; undoable.
    """
    listNode, volumeNode = logic.tracker.lesionList(), slicer.mrmlScene.GetNodeByID(finding.volumeID)
    existing = lesion_findings.measuredLines(listNode).get((finding.uid, finding.volumeID))
    if existing is not None:
        return existing
    lesion = next(item for item in lesion_list.lesionsIn(listNode) if item.uid == finding.uid)
    half = 0.5 * _axisOf(lesion, finding)
    ends = (finding.world - half, finding.world + half)
    nodeID = _addLine(listNode, volumeNode, finding, ends)
    _keepUp(logic, listNode)
    _pushAction(logic, listNode.GetID(), volumeNode.GetID(), finding, ends, nodeID)
    return slicer.mrmlScene.GetNodeByID(nodeID)


def _keepUp(logic, listNode) -> None:
    """Let the tracker watch the new line, and the tables know its length."""
    logic.tracker.follow(lesion_findings.baselineOf(listNode), logic.tracker.order())
    logic.tracker.updateTables()


def _pushAction(logic, listID: str, volumeID: str, finding, ends, nodeID: str) -> None:
    current = {"id": nodeID}

    def back() -> None:
        node = slicer.mrmlScene.GetNodeByID(current["id"])
        if node is not None:
            results.removeNode(node)
        logic.tracker.updateTables()

    def forth() -> None:
        listNode, volumeNode = (slicer.mrmlScene.GetNodeByID(n) for n in (listID, volumeID))
        if listNode is not None and volumeNode is not None:
            current["id"] = _addLine(listNode, volumeNode, finding, ends)
            _keepUp(logic, listNode)

    logic.undoStack.push(Action(texts.actionMeasure(finding.label), back, forth))


def _axisOf(lesion: lesion_list.Lesion, finding: lesion_findings.Finding) -> np.ndarray:
    """(3,) world RAS vector of the line that measuring starts with."""
    direction = np.array([1.0, 0.0, 0.0])
    if lesion.endsLPS is not None:
        axis = conversion.flipRASAndLPS(lesion.endsLPS[1] - lesion.endsLPS[0])
        direction = axis / max(float(np.linalg.norm(axis)), 1e-6)
    lengths = [value for value in (finding.sizeMm, lesion.diameterMm, 10.0) if np.isfinite(value) and value > 0]
    return direction * lengths[0]


def _addLine(listNode, volumeNode, finding, ends) -> str:
    scene = listNode.GetScene()
    name = scene.GenerateUniqueName(texts.lineName(finding.label, volumeNode.GetName()))
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsLineNode", name)
    node.SetNodeReferenceID(lesion_findings.ROLE_LESIONS, listNode.GetID())
    node.SetNodeReferenceID(results.ROLE_QUERY, volumeNode.GetID())
    node.SetAttribute(lesion_findings.ATTRIBUTE_LESION, finding.uid)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().GetTextProperty().SetBackgroundOpacity(0.5)  # readable over bone, too
    for end in ends:
        node.AddControlPointWorld(vtk.vtkVector3d(*(float(x) for x in end)))
    results.placeBeside(node, volumeNode, asChild=True)
    return node.GetID()
