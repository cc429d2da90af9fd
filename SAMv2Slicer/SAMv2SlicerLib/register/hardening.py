"""Copies of volumes that are under non-linear transforms, with their voxels deformed; the volumes stay as they are."""

from __future__ import annotations

import slicer

from SAMv2SlicerLib import texts
from SAMv2SlicerLib.scene import match_list, node_geometry
from SAMv2SlicerLib.scene.undo import Action


def hardenedCopy(logic, volumeNode):
    """A copy of a volume with its (non-linear) transforms applied to the voxels, in the world; undoable."""
    nodeID = _addCopy(volumeNode.GetID()).GetID()
    current = {"id": nodeID}

    def back() -> None:
        node = slicer.mrmlScene.GetNodeByID(current["id"])
        if node is not None:
            match_list.removeNode(node)

    def forth() -> None:
        if slicer.mrmlScene.GetNodeByID(volumeNodeID) is not None:
            current["id"] = _addCopy(volumeNodeID).GetID()

    volumeNodeID = volumeNode.GetID()
    logic.undoStack.push(Action(texts.actionHarden(volumeNode.GetName()), back, forth))
    return slicer.mrmlScene.GetNodeByID(nodeID)


def _addCopy(volumeNodeID: str):
    scene = slicer.mrmlScene
    volumeNode = scene.GetNodeByID(volumeNodeID)
    node_geometry.checkVolumeNode(volumeNode)
    name = scene.GenerateUniqueName(texts.hardenedName(volumeNode.GetName()))
    copy = slicer.vtkSlicerVolumesLogic.CloneVolume(scene, volumeNode, name)
    copy.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    copy.HardenTransform()
    match_list.placeBeside(copy, volumeNode)
    return copy
