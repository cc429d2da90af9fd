"""Writing a registration into the scene, and taking it back.

The moving volume is put under the transform node, nothing is hardened or resampled. A parent that it had stays above
the new node. When the registration failed no node is made or changed: a wrong alignment that looks like a right one is
worse than none.
"""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
import slicer
import slicer.util
import vtk

from SAMv2Core.errors import InputError, UnreliableResultError
from SAMv2SlicerLib import comparison, conversion, registration_facts, results, texts
from SAMv2SlicerLib.undo import Action


class RegistrationCommit:
    """The completion handler of a registration job.

    :param outputID: ID of the transform node to write to, None for a new one.
    :param apply: put the moving volume under it.
    :param createCropROI: also add a box around what both scans show.
    """

    def __init__(
        self, logic, fixedID: str, movingID: str, outputID: Optional[str], apply: bool, createCropROI: bool = False
    ) -> None:
        self._logic = logic
        self._fixedID, self._movingID, self._outputID = fixedID, movingID, outputID
        self._apply, self._createCropROI = apply, createCropROI

    def __call__(self, computed) -> Any:
        """The transform node.

        :raises InputError: a volume is gone or was changed. :raises UnreliableResultError: the registration failed.
        """
        self._logic.keepEmbeddings(computed)
        scene = slicer.mrmlScene
        fixedNode, movingNode = scene.GetNodeByID(self._fixedID), scene.GetNodeByID(self._movingID)
        if fixedNode is None or movingNode is None:
            raise InputError(texts.nodeGoneCause(), texts.nodeGoneRemedy())
        facts = registration_facts.registrationFacts(computed.results)
        if facts["status"] == registration_facts.FAILED:
            raise UnreliableResultError(
                texts.registrationFailedCause(movingNode.GetName(), fixedNode.GetName()),
                texts.registrationFailedRemedy(),
            )
        return self._write(fixedNode, movingNode, computed, facts)

    def _write(self, fixedNode, movingNode, computed, facts):
        scene = slicer.mrmlScene
        matrix = np.asarray(computed.results.matrix, dtype=np.float64)
        output = scene.GetNodeByID(self._outputID) if self._outputID else None
        before = _State.of(output, movingNode)
        if output is None:
            name = scene.GenerateUniqueName(texts.transformName(movingNode.GetName(), fixedNode.GetName()))
            output = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
            results.placeBeside(output, movingNode)
        conversion.setTransformFromMatrix(output, matrix, fixedNode, movingNode)
        registration_facts.storeRegistration(output, facts, fixedNode, movingNode)
        comparison.storeUsedPoints(output, computed.results.fixed_points_lps, computed.results.moving_points_lps)
        results.describeOrigin(output, computed.embeddings[1], facts["transform"])
        if self._apply:
            above = conversion.parentAbove(movingNode, output)
            output.SetAndObserveTransformNodeID(above.GetID() if above is not None else None)
            movingNode.SetAndObserveTransformNodeID(output.GetID())
        after = _State.of(output, movingNode)
        box = _Box(self._fixedID, self._movingID, facts if self._createCropROI else {})
        box.add()
        name = texts.actionRegister(movingNode.GetName(), fixedNode.GetName())

        def back() -> None:
            box.remove()
            _switch(after, before)

        def forth() -> None:
            _switch(before, after)
            box.add()

        self._logic.undoStack.push(Action(name, back, forth))
        return output


class _Box:
    """The region of interest around what both scans show, as something that can be added and removed again."""

    def __init__(self, fixedID: str, movingID: str, facts: dict) -> None:
        self._fixedID, self._movingID = fixedID, movingID
        self._crop, self._cropOf = facts.get("crop"), facts.get("crop_of")
        self._nodeID = ""

    def add(self) -> None:
        fixedNode, movingNode = (slicer.mrmlScene.GetNodeByID(n) for n in (self._fixedID, self._movingID))
        if self._crop and fixedNode is not None and movingNode is not None:
            self._nodeID = comparison.addCropROI(fixedNode, movingNode, self._crop, self._cropOf).GetID()

    def remove(self) -> None:
        node = slicer.mrmlScene.GetNodeByID(self._nodeID) if self._nodeID else None
        if node is not None:
            results.removeNode(node)


class _State:
    """All that a registration changes in the scene, as values."""

    def __init__(self) -> None:
        self.movingID = ""
        self.movingParentID: Optional[str] = None
        self.outputID: Optional[str] = None
        self.outputName = ""
        self.outputParentID: Optional[str] = None
        self.toParent: Optional[np.ndarray] = None
        self.attributes: dict = {}
        self.references: dict = {}

    @staticmethod
    def of(output, movingNode) -> _State:
        state = _State()
        state.movingID = movingNode.GetID()
        state.movingParentID = movingNode.GetTransformNodeID()
        if output is not None:
            matrix = vtk.vtkMatrix4x4()
            output.GetMatrixTransformToParent(matrix)
            state.toParent = slicer.util.arrayFromVTKMatrix(matrix)
            state.outputID, state.outputName = output.GetID(), output.GetName()
            state.outputParentID = output.GetTransformNodeID()
            state.attributes = {name: output.GetAttribute(name) for name in output.GetAttributeNames() or ()}
            state.references = {role: output.GetNodeReferenceID(role) for role in ("SAMv2.fixed", "SAMv2.moving")}
        return state


def _switch(current: _State, wanted: _State) -> None:
    """From one state to another; each part only if its node still is there."""
    scene = slicer.mrmlScene
    movingNode = scene.GetNodeByID(wanted.movingID)
    output = scene.GetNodeByID(current.outputID or wanted.outputID or "")
    if wanted.toParent is None:
        if movingNode is not None and movingNode.GetTransformNodeID() == current.outputID:
            movingNode.SetAndObserveTransformNodeID(wanted.movingParentID)
        if output is not None:
            results.removeNode(output)
        return
    if output is None:
        if movingNode is None:
            return
        output = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", wanted.outputName)
        results.placeBeside(output, movingNode)
        if wanted.movingParentID == wanted.outputID:
            wanted.movingParentID = output.GetID()
        current.outputID = wanted.outputID = output.GetID()
    output.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(wanted.toParent))
    for name in set(current.attributes) | set(wanted.attributes):
        output.SetAttribute(name, wanted.attributes.get(name))
    for role in ("SAMv2.fixed", "SAMv2.moving"):
        output.SetNodeReferenceID(role, wanted.references.get(role))
    output.SetAndObserveTransformNodeID(wanted.outputParentID)
    if movingNode is not None:
        movingNode.SetAndObserveTransformNodeID(wanted.movingParentID)
