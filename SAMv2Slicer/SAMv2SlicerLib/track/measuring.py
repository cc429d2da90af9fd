"""Sizes measured by hand in a follow-up: a line markup over a finding, whose length becomes the lesion's size there.

Where a line was proposed (diameters.py), measuring takes it over.
"""

from __future__ import annotations

import numpy as np
import slicer

from SAMv2Core.tracking.diameters import fits
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.scene import hierarchy, node_geometry
from SAMv2SlicerLib.scene.undo import Action
from SAMv2SlicerLib.track import diameters, findings, lesion_list


def measure(logic, finding: findings.Finding):
    """Add a line over a finding for the user to fit to the lesion; its length becomes the size. The line node.

    It starts as the proposed line, else as long and in the direction of the baseline's line; undoable.
    """
    listNode, volumeNode = logic.tracker.lesionList(), slicer.mrmlScene.GetNodeByID(finding.volumeID)
    existing = diameters.linesOf(listNode).get((finding.uid, finding.volumeID))
    if existing is not None and not diameters.isProposal(existing):
        return existing
    proposed = diameters.endsOf(existing)
    if fits(proposed, finding.world):
        ends = proposed
    else:
        lesion = next(item for item in lesion_list.lesionsIn(listNode) if item.uid == finding.uid)
        half = 0.5 * _axisOf(lesion, finding)
        ends = np.array([finding.world - half, finding.world + half])
    nodeID = _replace(logic, listNode, volumeNode, finding, ends)
    _pushAction(logic, listNode.GetID(), volumeNode.GetID(), finding, ends, proposed, nodeID)
    return slicer.mrmlScene.GetNodeByID(nodeID)


def _replace(logic, listNode, volumeNode, finding, ends: np.ndarray, isProposal: bool = False) -> str:
    """A new line in place of the one that the finding may have; its ID."""
    with logic.writing():
        existing = diameters.linesOf(listNode).get((finding.uid, finding.volumeID))
        if existing is not None:
            hierarchy.removeNode(existing)
        node = diameters.add(listNode, volumeNode, finding.uid, finding.label, ends, isProposal, isProposal)
    _keepUp(logic, listNode)
    return node.GetID()


def _keepUp(logic, listNode) -> None:
    """Let the tracker watch the new line, and the tables know its length."""
    logic.tracker.follow(findings.baselineOf(listNode), logic.tracker.order())
    logic.tracker.updateTables()


def _pushAction(logic, listID: str, volumeID: str, finding, ends, proposed, nodeID: str) -> None:
    """Undo brings back the proposal that was taken over, if there was one."""
    current = {"id": nodeID}

    def put(lineEnds: np.ndarray, isProposal: bool) -> None:
        listNode, volumeNode = (slicer.mrmlScene.GetNodeByID(n) for n in (listID, volumeID))
        if listNode is not None and volumeNode is not None:
            current["id"] = _replace(logic, listNode, volumeNode, finding, lineEnds, isProposal)

    def back() -> None:
        node = slicer.mrmlScene.GetNodeByID(current["id"])
        if node is not None and proposed is not None:
            put(proposed, True)
        elif node is not None:
            hierarchy.removeNode(node)
        logic.tracker.updateTables()

    def forth() -> None:
        put(ends, False)

    logic.undoStack.push(Action(texts.actionMeasure(finding.label), back, forth))


def _axisOf(lesion: lesion_list.Lesion, finding: findings.Finding) -> np.ndarray:
    """(3,) world RAS vector of the line that measuring starts with."""
    direction = np.array([1.0, 0.0, 0.0])
    if lesion.endsLPS is not None:
        axis = node_geometry.flipRASAndLPS(lesion.endsLPS[1] - lesion.endsLPS[0])
        direction = axis / max(float(np.linalg.norm(axis)), 1e-6)
    lengths = [value for value in (finding.sizeMm, lesion.diameterMm, 10.0) if np.isfinite(value) and value > 0]
    return direction * lengths[0]
