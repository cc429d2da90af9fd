"""Named landmarks of a volume as a point list: no template is needed, the model brings its own exemplars.

The list is a matched list of the volume in itself (match_list.py), its points named like the landmarks: what was
accepted, moved or rejected is kept when it is computed anew, the scene without this module still shows everything.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, List, Optional, Sequence, Tuple

import numpy as np
import slicer

from SAMv2Core.errors import InputError, UnreliableResultError
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.match.match_job import listAction
from SAMv2SlicerLib.scene import match_list, moved_volumes, node_geometry
from SAMv2SlicerLib.work import engine
from SAMv2SlicerLib.work.worker import Job


def findLandmarkList(volumeNode):
    """The landmarks of a volume, or None."""
    return match_list.findMatchList(volumeNode, volumeNode)


def landmarkLists() -> List[Tuple[Any, Any]]:
    """(list, volume) of all landmarks in the scene."""
    volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    found = [(findLandmarkList(volume), volume) for volume in volumes]
    return [(node, volume) for node, volume in found if node is not None]


def startLandmarks(
    logic,
    volume,
    only: Optional[Sequence[str]] = None,
    model="auto",
    device="auto",
    modality="auto",
    atlas: str = "",
    onEnd=None,
) -> Job:
    """Begin a list (the job's value is its node) of the landmarks that a volume shows.

    :param only: names wanted, None for all.
    :param atlas: file of other landmarks than the model's own.
    """
    node = logic.resolve(volume, "vtkMRMLScalarVolumeNode")
    options = engine.Options(model, device)
    (item,) = logic.volumeInputs([node], [modality], options)
    name = texts.landmarksName(node.GetName())
    wanted = list(only) if only else None
    return logic.submit(
        name,
        lambda progress: logic.engine.landmarks(item, wanted, atlas, options, name, progress),
        LandmarksCommit(logic, node.GetID(), name),
        onEnd,
    )


class LandmarksCommit:
    """Writes the landmarks into the volume's list; the completion handler of its job."""

    def __init__(self, logic, volumeID: str, name: str) -> None:
        self._logic = logic
        self._volumeID, self._name = volumeID, name

    def __call__(self, computed) -> Any:
        """The list in world coordinates; a landmark that was not found has no position.

        :raises InputError: the volume is gone or was changed.
        :raises UnreliableResultError: no landmark was found; nothing was written.
        """
        self._logic.keepEmbeddings(computed)
        volumeNode = slicer.mrmlScene.GetNodeByID(self._volumeID)
        if volumeNode is None:
            raise InputError(texts.nodeGoneCause(), texts.nodeGoneRemedy())
        if all(landmark.position_lps is None for landmark in computed.results):
            raise UnreliableResultError(texts.noLandmarksCause(self._name), texts.noLandmarksRemedy())
        before = match_list.captureList(findLandmarkList(volumeNode))
        with self._logic.writing():
            node = match_list.ensureMatchList(volumeNode, volumeNode, volumeNode, self._name)
            if before is None:
                node.GetDisplayNode().SetVisibility3D(False)  # eighty labels hide everything else there
            labels = [landmark.name for landmark in computed.results]
            match_list.writeMatches(node, labels, [_found(one, volumeNode) for one in computed.results], lock=True)
            match_list.describeOrigin(node, computed.embeddings[0], "landmarks")
            moved_volumes.remember(node)
        self._logic.landmarkEdits.noteWrite(node)
        action = texts.actionLandmarks(volumeNode.GetName())
        self._logic.undoStack.push(listAction(self._logic, node, before, action))
        return node


def _found(landmark, volumeNode):
    """(facts, world position or None) of a landmark of SAMv2Core."""
    result = match_list.PointResult(
        landmark.name,
        landmark.status,
        similarity=landmark.witnesses.similarity,
        confidence=landmark.confidence,
        reason=landmark.reason,
        orElse=landmark.witnesses.neighbor,
    )
    if landmark.position_lps is None:
        return result, None
    return result, node_geometry.volumeLPSToWorld(volumeNode, np.asarray(landmark.position_lps))[0]


def positions(listNode) -> List[Tuple[str, np.ndarray]]:
    """(name, world RAS (3,)) of the landmarks that have a place."""
    return [
        (match_list.resultAt(listNode, n).templatePoint, node_geometry.pointWorld(listNode, n))
        for n in node_geometry.definedPointIndices(listNode)
        if match_list.resultAt(listNode, n) is not None
    ]


def whereIs(volumeNode, world: Optional[np.ndarray]) -> str:
    """The body region and the nearest landmarks of a world RAS position (3,), as far as landmarks of the volume were
    found and are sure, or vertebrae that may be one off; else empty."""
    listNode = findLandmarkList(volumeNode)
    if listNode is None or world is None:
        return ""
    from SAMv2Core.landmarks.where import where
    from SAMv2Core.matching.confidence import MATCHED, UNCERTAIN

    found = []
    for n in node_geometry.definedPointIndices(listNode):
        result = match_list.resultAt(listNode, n)
        if result is not None:
            found.append(
                SimpleNamespace(
                    name=result.templatePoint,
                    status=UNCERTAIN if result.needsALook else MATCHED,
                    position_lps=node_geometry.flipRASAndLPS(node_geometry.pointWorld(listNode, n)),
                    witnesses=SimpleNamespace(neighbor=result.orElse),
                )
            )
    region, near = where(node_geometry.flipRASAndLPS(world), found, n=2)
    return texts.whereLine(region, "; ".join(one.text for one in near)) if near else ""
