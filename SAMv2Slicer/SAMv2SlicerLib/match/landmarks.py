"""Named landmarks of a volume as a point list: no template is needed, the model brings its own exemplars."""

from __future__ import annotations

from typing import Any, List, Optional, Sequence, Tuple

import slicer

from SAMv2Core.errors import InputError, UnreliableResultError
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.scene import hierarchy, match_list, node_geometry
from SAMv2SlicerLib.scene.undo import addUndoably
from SAMv2SlicerLib.work import engine
from SAMv2SlicerLib.work.worker import Job


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
    """Adds the landmarks as a point list; the completion handler of its job."""

    def __init__(self, logic, volumeID: str, name: str) -> None:
        self._logic = logic
        self._volumeID, self._name = volumeID, name

    def __call__(self, computed) -> Any:
        """The list in world coordinates; a landmark that was not found has no position.

        :raises InputError: the volume is gone or was changed.
        :raises UnreliableResultError: no landmark was found; no node was made.
        """
        self._logic.keepEmbeddings(computed)
        if slicer.mrmlScene.GetNodeByID(self._volumeID) is None:
            raise InputError(texts.nodeGoneCause(), texts.nodeGoneRemedy())
        if all(landmark.position_lps is None for landmark in computed.results):
            raise UnreliableResultError(texts.noLandmarksCause(self._name), texts.noLandmarksRemedy())
        (node,) = addUndoably(
            self._logic, texts.actionAdd(self._name), lambda: self._add(computed.results, computed.embeddings[0])
        )
        return node

    def _add(self, landmarks: List[Any], embedding: Any) -> Tuple[Any, ...]:
        volumeNode = slicer.mrmlScene.GetNodeByID(self._volumeID)
        if volumeNode is None:
            return ()
        scene = slicer.mrmlScene
        node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", scene.GenerateUniqueName(self._name))
        node.CreateDefaultDisplayNodes()
        display = node.GetDisplayNode()
        display.SetSelectedColor(*match_list.COLOR_MATCHED)
        display.SetColor(*match_list.COLOR_UNCERTAIN)
        match_list.describeOrigin(node, embedding, "landmarks")
        with slicer.util.NodeModify(node):
            for landmark in landmarks:
                index = node.AddControlPointWorld([0.0, 0.0, 0.0], landmark.name)
                found = landmark.position_lps is not None
                place = node_geometry.volumeLPSToWorld(volumeNode, landmark.position_lps[None])[0] if found else None
                match_list.setPosition(node, index, place)
                node.SetNthControlPointLocked(index, True)
                node.SetNthControlPointSelected(index, landmark.status == "matched")
                said = texts.landmarkSaid(landmark.status, landmark.confidence, landmark.reason)
                node.SetNthControlPointDescription(index, said)
        hierarchy.placeBeside(node, volumeNode, asChild=True)
        return (node,)
