"""Writing a registration into the scene, and taking it back.

The moving volume is put under the transform node, nothing is hardened or resampled. A parent that it had stays above
the new node. When the registration failed no node is made or changed: a wrong alignment that looks like a right one is
worse than none.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Dict, List, Optional

import numpy as np
import slicer
import slicer.util
import vtk

from SAMv2Core.errors import InputError, UnreliableResultError
from SAMv2Core.io.volume import Volume
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.register import comparison, grid_transform
from SAMv2SlicerLib.scene import hierarchy, match_list, node_geometry
from SAMv2SlicerLib.scene.undo import Action


@dataclass(frozen=True)
class Extras:
    """What a registration adds besides its transform.

    :param cropROI: a box around what both scans show; :param croppedVolume: a copy of the larger scan, cropped to it.
    :param deformation: refine the alignment by a deformation, as a grid transform node.
    :param resampled: a copy of the moving scan on the voxels of the fixed one.
    """

    cropROI: bool = False
    croppedVolume: bool = False
    deformation: bool = False
    resampled: bool = False


class RegistrationCommit:
    """The completion handler of a registration job.

    :param outputID: ID of the transform node to write to, None for a new one.
    :param apply: put the moving volume under it.
    :param extras: what else to add, see :class:`Extras`.
    """

    def __init__(
        self, logic, fixedID: str, movingID: str, outputID: Optional[str], apply: bool, extras: Extras
    ) -> None:
        self._logic = logic
        self._fixedID, self._movingID, self._outputID = fixedID, movingID, outputID
        self._apply, self._extras = apply, extras

    def __call__(self, computed) -> Any:
        """The transform node.

        :raises InputError: a volume is gone or was changed. :raises UnreliableResultError: the registration failed.
        """
        self._logic.keepEmbeddings(computed)
        scene = slicer.mrmlScene
        fixedNode, movingNode = scene.GetNodeByID(self._fixedID), scene.GetNodeByID(self._movingID)
        if fixedNode is None or movingNode is None:
            raise InputError(texts.nodeGoneCause(), texts.nodeGoneRemedy())
        registration, deformation, _ = computed.results
        facts = registrationFacts(registration, deformation)
        if facts["status"] == FAILED:
            raise UnreliableResultError(
                texts.registrationFailedCause(movingNode.GetName(), fixedNode.GetName()),
                texts.registrationFailedRemedy(),
            )
        return self._write(fixedNode, movingNode, computed, facts)

    def _write(self, fixedNode, movingNode, computed, facts):
        scene, (registration, deformation, resampled) = slicer.mrmlScene, computed.results
        matrix = np.asarray(registration.matrix, dtype=np.float64)
        output = scene.GetNodeByID(self._outputID) if self._outputID else None
        replaced = grid_transform.Replaced(output)
        before = _State.of(output, movingNode)
        if output is None:
            name = scene.GenerateUniqueName(texts.transformName(movingNode.GetName(), fixedNode.GetName()))
            output = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
            hierarchy.place(output, fixedNode, movingNode)
        node_geometry.setTransformFromMatrix(output, matrix, fixedNode, movingNode)
        storeRegistration(output, facts, fixedNode, movingNode)
        comparison.storeUsedPoints(output, registration.fixed_points_lps, registration.moving_points_lps)
        match_list.describeOrigin(output, computed.embeddings[1], facts["transform"])
        if self._apply or deformation is not None:
            above = node_geometry.parentAbove(movingNode, output)
            output.SetAndObserveTransformNodeID(above.GetID() if above is not None else None)
            movingNode.SetAndObserveTransformNodeID(output.GetID())
        after = _State.of(output, movingNode)
        additions = self._additions(facts, deformation, resampled)
        for addition in additions:
            addition.add()
        name = texts.actionRegister(movingNode.GetName(), fixedNode.GetName())

        def back() -> None:
            for addition in reversed(additions):
                addition.remove()
            self._tell(_switch(after, before))
            replaced.restore()

        def forth() -> None:
            replaced.again()
            self._tell(_switch(before, after))
            for addition in additions:
                addition.add()

        self._logic.undoStack.push(Action(name, back, forth))
        return output

    def _tell(self, output) -> None:
        """Undo and redo make and remove the transform node: the panel must show the one that there is."""
        if self._logic.onRegistered is not None:
            self._logic.onRegistered(output)

    def _additions(self, facts, deformation, resampled) -> List[Any]:
        """What is added besides the transform; each can be removed and added again."""
        additions: List[Any] = []
        if self._extras.cropROI:
            additions.append(_FromCrop(self._fixedID, self._movingID, facts, comparison.addCropROI))
        if self._extras.croppedVolume:
            additions.append(_FromCrop(self._fixedID, self._movingID, facts, comparison.addCroppedVolume))
        if deformation is not None:
            additions.append(
                grid_transform.Refinement(
                    self._fixedID, self._movingID, deformation.vectors, deformation.grid.ijk_to_lps
                )
            )
        if resampled is not None:
            additions.append(_Resampled(self._fixedID, self._movingID, resampled))
        return additions


class _Resampled:
    """The moving volume as it now lies, on the fixed grid; can be removed and added again.

    While the node is there it holds the voxels, else this does: they are never kept twice.
    """

    def __init__(self, fixedID: str, movingID: str, volume: Volume) -> None:
        self._ids, self._nodeID = (fixedID, movingID), ""
        self._volume: Optional[Volume] = volume

    def add(self) -> None:
        nodes = [slicer.mrmlScene.GetNodeByID(nodeID) for nodeID in self._ids]
        if all(node is not None for node in nodes) and self._volume is not None:
            self._nodeID = comparison.addResampled(*nodes, self._volume).GetID()
            self._volume = None

    def remove(self) -> None:
        node = slicer.mrmlScene.GetNodeByID(self._nodeID) if self._nodeID else None
        if node is not None:
            self._volume = node_geometry.volumeFromNode(node)
            hierarchy.removeNode(node)


class _FromCrop:
    """A node made from the region that both scans show, as something that can be added and removed again.

    :param make: of (fixed node, moving node, crop, which of them it is a crop of), gives the node.
    """

    def __init__(self, fixedID: str, movingID: str, facts: dict, make) -> None:
        self._fixedID, self._movingID, self._make = fixedID, movingID, make
        self._crop, self._cropOf = facts.get("crop"), facts.get("crop_of")
        self._nodeID = ""

    def add(self) -> None:
        fixedNode, movingNode = (slicer.mrmlScene.GetNodeByID(n) for n in (self._fixedID, self._movingID))
        if self._crop and fixedNode is not None and movingNode is not None:
            self._nodeID = self._make(fixedNode, movingNode, self._crop, self._cropOf).GetID()

    def remove(self) -> None:
        node = slicer.mrmlScene.GetNodeByID(self._nodeID) if self._nodeID else None
        if node is not None:
            hierarchy.removeNode(node)


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


def _switch(current: _State, wanted: _State) -> Any:
    """From one state to another; each part only if its node still is there. The transform node, None without one."""
    scene = slicer.mrmlScene
    movingNode = scene.GetNodeByID(wanted.movingID)
    output = scene.GetNodeByID(current.outputID or wanted.outputID or "")
    if wanted.toParent is None:
        if movingNode is not None and movingNode.GetTransformNodeID() == current.outputID:
            movingNode.SetAndObserveTransformNodeID(wanted.movingParentID)
        if output is not None:
            hierarchy.removeNode(output)
        return None
    if output is None:
        if movingNode is None:
            return None
        output = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", wanted.outputName)
        fixedNode = scene.GetNodeByID(wanted.references.get("SAMv2.fixed") or "")
        if fixedNode is not None:
            hierarchy.place(output, fixedNode, movingNode)
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
    return output


ATTRIBUTE = "SAMv2.registration"
FAILED = "failed"


def registrationFacts(registration: Any, deformation: Any = None) -> Dict[str, Any]:
    """What the result card shows: the report of a ``SAMv2Core`` Registration with angle and length; for JSON.

    :param deformation: a ``SAMv2Core`` Deformation on top of it, or None.
    """
    facts = dict(registration.to_report())
    if deformation is not None:
        facts["deformation"] = deformation.to_report()
    matrix = np.asarray(registration.matrix, dtype=np.float64)
    cosine = (np.trace(_rotationPart(matrix[:3, :3])) - 1) / 2
    facts["rotation_deg"] = math.degrees(math.acos(min(1.0, max(-1.0, cosine))))
    facts["translation_mm"] = float(np.linalg.norm(matrix[:3, 3]))
    return facts


def _rotationPart(linear: np.ndarray) -> np.ndarray:
    """The rotation nearest to a 3x3 matrix (polar decomposition)."""
    u, _, vt = np.linalg.svd(linear)
    return u @ vt


def storeRegistration(transformNode, facts: Dict[str, Any], fixedNode, movingNode) -> None:
    """Keep a registration's facts and inputs on its transform node, so that they are saved with the scene."""
    transformNode.SetAttribute(ATTRIBUTE, json.dumps(facts))
    transformNode.SetAttribute("SAMv2.status", facts["status"])
    transformNode.SetNodeReferenceID("SAMv2.fixed", fixedNode.GetID())
    transformNode.SetNodeReferenceID("SAMv2.moving", movingNode.GetID())


def loadRegistration(transformNode) -> Optional[Dict[str, Any]]:
    """The facts kept on a transform node, None when it has none that can be read."""
    text = transformNode.GetAttribute(ATTRIBUTE) if transformNode is not None else None
    if not text:
        return None
    try:
        facts = json.loads(text)
    except ValueError:
        return None
    return facts if isinstance(facts, dict) and "status" in facts else None
