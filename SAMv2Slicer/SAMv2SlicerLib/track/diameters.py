"""Lines over findings in follow-ups: diameters that a person measured, and proposals of diameters.

A lesion marked by a line has two ends, and both are looked for in every follow-up; the line between their matches
is drawn there as a *proposal*: in another color and with other glyphs, a question mark in its name, locked, and its
length is no size: not in the plot, not in the sizes, not in DICOM reports. It becomes a measurement when the user
presses Measure on it or drags an end. Proposals that do not fit the finding (rejected, moved elsewhere, ends that were
matched badly) are not shown.

On simulated follow-ups of four torsos (Testing/slicer/line_ends.py) the proposed length of 84 lines was off by 3 %
where only the patient had moved (median; 90 % within 9 %; the old length would be off by 7 %), and that of 79 lines by
22 % where planted lesions had grown or shrunk by factors of 0.5 to 1.8 (the old length: 33 %): the ends' surroundings
speak for the place more than for the size. Hence a proposal and no more.
"""

from __future__ import annotations

import math
from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np
import slicer
import slicer.util
import vtk

from SAMv2Core.tracking import diameters as proposals
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.scene import hierarchy, match_list, node_geometry
from SAMv2SlicerLib.track import lesion_list

ATTRIBUTE_LESION = "SAMv2.lesion"
ATTRIBUTE_PROPOSED = "SAMv2.proposedEnds"
"""World RAS of both ends as they were proposed; gone when the line is a measurement."""

MOVED_MM = 0.01
Key = Tuple[str, str]
"""(Tracking UID, volume ID)."""


def linesOf(lesionListNode) -> Dict[Key, Any]:
    """All lines over the findings of a lesion list, measured and proposed."""
    found = {}
    for node in slicer.util.getNodesByClass("vtkMRMLMarkupsLineNode", scene=lesionListNode.GetScene()):
        if node.GetNodeReferenceID(match_list.ROLE_LESIONS) == lesionListNode.GetID():
            found[(node.GetAttribute(ATTRIBUTE_LESION) or "", node.GetNodeReferenceID(match_list.ROLE_QUERY) or "")] = (
                node
            )
    return found


def endsOf(lineNode) -> Optional[np.ndarray]:
    """(2, 3) world RAS of a line's ends, None while it has not both."""
    if lineNode is None or len(node_geometry.definedPointIndices(lineNode)) != 2:
        return None
    return node_geometry.pointsWorld(lineNode, (0, 1))


def lengthOf(lineNode) -> float:
    """mm between the ends of a line in the world, NaN while it has not both."""
    ends = endsOf(lineNode)
    return math.nan if ends is None else float(np.linalg.norm(ends[1] - ends[0]))


def add(lesionListNode, volumeNode, uid: str, label: str, ends: np.ndarray, isProposal: bool, locked: bool = False):
    """A new line over a finding, from end to end (2, 3) world RAS."""
    scene = lesionListNode.GetScene()
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsLineNode")
    with slicer.util.NodeModify(node):
        node.SetNodeReferenceID(match_list.ROLE_LESIONS, lesionListNode.GetID())
        node.SetNodeReferenceID(match_list.ROLE_QUERY, volumeNode.GetID())
        node.SetAttribute(ATTRIBUTE_LESION, uid)
        node.CreateDefaultDisplayNodes()
        for end in ends:
            node.AddControlPointWorld(vtk.vtkVector3d(*(float(x) for x in end)))
        _describe(node, label, volumeNode, ends if isProposal else None)
        node.SetLocked(locked)
    hierarchy.placeBeside(node, volumeNode, asChild=True)
    return node


def _describe(node, label: str, volumeNode, proposedEnds: Optional[np.ndarray]) -> None:
    """Name and look of a proposal (ends given) or of a measurement."""
    isProposal = proposedEnds is not None
    display = node.GetDisplayNode()
    usual = node.GetScene().GetDefaultNodeByClass("vtkMRMLMarkupsDisplayNode") or slicer.vtkMRMLMarkupsDisplayNode()
    if isProposal:
        display.SetSelectedColor(*match_list.COLOR_UNCERTAIN)
        display.SetGlyphType(display.CrossDot2D)
        display.SetLineThickness(0.5 * usual.GetLineThickness())
    elif node.GetAttribute(ATTRIBUTE_PROPOSED) is not None:
        display.SetSelectedColor(*usual.GetSelectedColor())
        display.SetGlyphType(usual.GetGlyphType())
        display.SetLineThickness(usual.GetLineThickness())
    value = " ".join(f"{x:.4f}" for x in np.ravel(proposedEnds)) if isProposal else None
    node.SetAttribute(ATTRIBUTE_PROPOSED, value)
    node.SetHideFromEditors(isProposal)  # else the list of what may mark lesions would fill with them
    name = (texts.proposedLineName if isProposal else texts.lineName)(label)
    if node.GetName() != name:
        node.SetName(name)  # the same in all studies: it stands in the views, and each is below its scan


def isProposal(lineNode) -> bool:
    """Whether nobody has measured with this line: it still is where it was proposed."""
    proposed, ends = _proposedEnds(lineNode), endsOf(lineNode)
    return proposed is not None and ends is not None and bool(np.abs(ends - proposed).max() <= MOVED_MM)


def _proposedEnds(lineNode) -> Optional[np.ndarray]:
    values = (lineNode.GetAttribute(ATTRIBUTE_PROPOSED) or "").split()
    return np.array(values, dtype=np.float64).reshape(2, 3) if len(values) == 6 else None


def confirm(lineNode, label: str) -> None:
    """A proposal becomes a measurement."""
    volumeNode = lineNode.GetNodeReference(match_list.ROLE_QUERY)
    if volumeNode is not None:
        _describe(lineNode, label, volumeNode, None)
        lineNode.SetLocked(False)


def confirmMoved(lineNode, label: str) -> bool:
    """Confirm a proposal whose ends the user dragged; whether there was one."""
    isMoved = lineNode.GetAttribute(ATTRIBUTE_PROPOSED) is not None and not isProposal(lineNode)
    if isMoved:
        confirm(lineNode, label)
    return isMoved


# --- what a run proposes ---------------------------------------------------------------------------------------------

Proposal = Tuple[str, str, np.ndarray]
"""(Tracking UID, label, ends (2, 3) world RAS)."""


def propose(lesionListNode, volumeNode, proposals: List[Proposal], locked: bool) -> None:
    """Make the proposed lines of a study be these; where a person measured, nothing is proposed."""
    present = {uid: node for (uid, volumeID), node in linesOf(lesionListNode).items() if volumeID == volumeNode.GetID()}
    wanted = {uid for uid, _, _ in proposals}
    for uid, node in present.items():
        if uid not in wanted and isProposal(node):
            hierarchy.removeNode(node)
    for uid, label, ends in proposals:
        node = present.get(uid)
        if node is not None and not isProposal(node):
            continue
        if node is not None:
            hierarchy.removeNode(node)
        add(lesionListNode, volumeNode, uid, label, ends, True, locked)


def capture(lesionListNode) -> Dict[Key, Tuple[str, np.ndarray, bool]]:
    """All proposals as values, for undo: (label, ends, locked)."""
    labels = _labels(lesionListNode)
    return {
        key: (labels.get(key[0], ""), _proposedEnds(node), bool(node.GetLocked()))
        for key, node in linesOf(lesionListNode).items()
        if isProposal(node)
    }


def restore(lesionListNode, captured: Mapping[Key, Tuple[str, np.ndarray, bool]]) -> None:
    """Make the proposals what they were when captured, as far as their studies still are there."""
    for volumeID in {volumeID for _, volumeID in {**capture(lesionListNode), **captured}}:
        volumeNode = slicer.mrmlScene.GetNodeByID(volumeID)
        if volumeNode is not None:
            here = {uid: value for (uid, where), value in captured.items() if where == volumeID}
            locked = any(value[2] for value in here.values())
            propose(lesionListNode, volumeNode, [(uid, label, ends) for uid, (label, ends, _) in here.items()], locked)


def removeProposals(lesionListNode) -> None:
    """Remove all proposals; what was measured stays."""
    for node in linesOf(lesionListNode).values():
        if isProposal(node):
            hierarchy.removeNode(node)


def showFitting(lesionListNode, worlds: Mapping[Key, Optional[np.ndarray]]) -> None:
    """Show the proposals that fit their findings, hide the others.

    :param worlds: where the findings are, world RAS.
    """
    for key, node in linesOf(lesionListNode).items():
        if isProposal(node):
            isFitting = proposals.fits(endsOf(node), worlds.get(key))
            if node.GetDisplayNode() is not None and bool(node.GetDisplayVisibility()) != isFitting:
                node.SetDisplayVisibility(isFitting)


def _labels(lesionListNode) -> Dict[str, str]:
    return {lesion.uid: lesion.label for lesion in lesion_list.lesionsIn(lesionListNode)}
