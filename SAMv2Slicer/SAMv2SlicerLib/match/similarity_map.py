"""Pictures of what the network sees, on request: similarity to one point, and an embedding as colors."""

from __future__ import annotations

from typing import Any, Tuple

import numpy as np
import slicer
import slicer.util

from SAMv2Core.errors import InputError
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.match.match_job import matchRequest
from SAMv2SlicerLib.scene import hierarchy, node_geometry
from SAMv2SlicerLib.scene.undo import addUndoably
from SAMv2SlicerLib.work import engine
from SAMv2SlicerLib.work.worker import Job


def startSimilarityMap(
    logic, template, query, points, pointID: str, model="auto", device="auto", modalities=("auto", "auto"), onEnd=None
) -> Job:
    """Begin a volume (the job's value is its node) of how similar each place of the query is to one point."""
    templateNode = logic.resolve(template, "vtkMRMLScalarVolumeNode")
    queryNode = logic.resolve(query, "vtkMRMLScalarVolumeNode")
    pointsNode = logic.resolve(points, "vtkMRMLMarkupsFiducialNode")
    request = matchRequest(templateNode, queryNode, pointsNode, [pointID], "nearest", False, False)
    options = engine.Options(model, device)
    inputs = logic.volumeInputs([templateNode, queryNode], modalities, options)
    label = pointsNode.GetNthControlPointLabel(pointsNode.GetNthControlPointIndexByID(pointID))
    name = texts.similarityName(label, queryNode.GetName())
    return logic.submit(
        name,
        lambda progress: logic.engine.similarityMap(*inputs, request.pointsLPS[0], options, name, progress),
        SimilarityMapCommit(logic, request.queryID, name),
        onEnd,
    )


def startColors(logic, volume, model="auto", device="auto", modality="auto", onEnd=None) -> Job:
    """Begin an RGB volume (the job's value is its node): the three main directions of a volume's embedding."""
    node = logic.resolve(volume, "vtkMRMLScalarVolumeNode")
    options = engine.Options(model, device)
    (item,) = logic.volumeInputs([node], [modality], options)
    name = texts.colorsName(node.GetName())
    return logic.submit(
        name,
        lambda progress: logic.engine.colors(item, options, name, progress),
        ColorsCommit(logic, node.GetID(), name),
        onEnd,
    )


class SimilarityMapCommit:
    """Adds the similarity map as a volume node; the completion handler of its job."""

    def __init__(self, logic, queryID: str, name: str) -> None:
        self._logic = logic
        self._queryID, self._name = queryID, name

    def __call__(self, computed) -> Any:
        """The volume node, under the query's transforms.

        :raises InputError: the query is gone or was changed.
        """
        self._logic.keepEmbeddings(computed)
        queryNode = slicer.mrmlScene.GetNodeByID(self._queryID)
        if queryNode is None:
            raise InputError(texts.nodeGoneCause(), texts.nodeGoneRemedy())
        (node,) = addUndoably(self._logic, texts.actionAdd(self._name), lambda: self._add(computed.results))
        return node

    def _add(self, volume) -> Tuple[Any, ...]:
        queryNode = slicer.mrmlScene.GetNodeByID(self._queryID)
        if queryNode is None:
            return ()
        node = node_geometry.addVolumeNode(volume, slicer.mrmlScene.GenerateUniqueName(self._name))
        node.SetAndObserveTransformNodeID(queryNode.GetTransformNodeID())
        node.SetAttribute(node_geometry.ATTRIBUTE_MADE, "1")
        node.CreateDefaultDisplayNodes()
        display = node.GetDisplayNode()
        display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeFileColdToHotRainbow.txt")
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(0.0, 1.0)
        display.SetApplyThreshold(True)
        display.SetThreshold(0.3, 1.0)
        hierarchy.placeBeside(node, queryNode, asChild=True)
        return (node,)


class ColorsCommit:
    """Adds the colored embedding as a vector volume; the completion handler of its job."""

    def __init__(self, logic, volumeID: str, name: str) -> None:
        self._logic = logic
        self._volumeID, self._name = volumeID, name

    def __call__(self, computed) -> Any:
        """The volume node, under the transforms of the volume that was embedded.

        :raises InputError: the volume is gone or was changed.
        """
        self._logic.keepEmbeddings(computed)
        volumeNode = slicer.mrmlScene.GetNodeByID(self._volumeID)
        if volumeNode is None:
            raise InputError(texts.nodeGoneCause(), texts.nodeGoneRemedy())
        (node,) = addUndoably(self._logic, texts.actionAdd(self._name), lambda: self._add(*computed.results))
        return node

    def _add(self, colors: np.ndarray, ijkToLPS: np.ndarray) -> Tuple[Any, ...]:
        volumeNode = slicer.mrmlScene.GetNodeByID(self._volumeID)
        if volumeNode is None:
            return ()
        name = slicer.mrmlScene.GenerateUniqueName(self._name)
        ijkToRAS = node_geometry.LPS_FROM_RAS @ ijkToLPS
        node = slicer.util.addVolumeFromArray(np.ascontiguousarray(colors), ijkToRAS, name, "vtkMRMLVectorVolumeNode")
        node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
        node.CreateDefaultDisplayNodes()
        hierarchy.placeBeside(node, volumeNode, asChild=True)
        return (node,)
