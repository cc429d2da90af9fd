"""What helps to judge a registration: a checkerboard of both volumes, and the points that the alignment rests on."""

from __future__ import annotations

import json
from typing import Any, List, Tuple

import numpy as np
import slicer
import slicer.util
import vtk

from SAMv2Core.io.itk import resampled, transform_of
from SAMv2Core.io.resample import crop_to
from SAMv2Core.io.volume import Volume
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.scene import hierarchy, match_list, node_geometry
from SAMv2SlicerLib.scene.undo import Action

ATTRIBUTE_POINTS = "SAMv2.usedPoints"
MAXIMUM_STORED_POINTS = 200
SQUARES = 8


def addCheckerboard(fixedNode, movingNode, squares: int = SQUARES):
    """A volume on the fixed grid in which fixed and moving alternate, each scaled to 0..1 by its own display window.

    :param squares: number of squares along the longest in-plane side.
    """
    fixed = _scaled(slicer.util.arrayFromVolume(fixedNode), fixedNode)
    moving = _resampled(_scaled(slicer.util.arrayFromVolume(movingNode), movingNode), movingNode, fixedNode)
    size = max(1, int(np.ceil(max(fixed.shape) / squares)))
    index = [np.arange(n) // size for n in fixed.shape]
    odd = (index[0][:, None, None] + index[1][None, :, None] + index[2][None, None, :]) % 2 == 1
    board = np.where(odd & np.isfinite(moving), moving, fixed).astype(np.float32)
    name = texts.checkerboardName(fixedNode.GetName(), movingNode.GetName())
    ijkToRAS = node_geometry.LPS_FROM_RAS @ node_geometry.ijkToLPS(fixedNode)
    node = slicer.util.addVolumeFromArray(board, ijkToRAS, slicer.mrmlScene.GenerateUniqueName(name))
    node.SetAndObserveTransformNodeID(fixedNode.GetTransformNodeID())
    node.CreateDefaultDisplayNodes()
    node.SetAttribute(node_geometry.ATTRIBUTE_MADE, "1")
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevelMinMax(0.0, 1.0)
    hierarchy.place(node, fixedNode, movingNode)
    return node


def addResampled(fixedNode, movingNode):
    """A copy of the moving volume on the fixed volume's voxels.

    What the moving one does not show becomes its smallest value. Trilinear; whole numbers stay whole numbers.
    """
    values = slicer.util.arrayFromVolume(movingNode)
    found = _resampled(values.astype(np.float32), movingNode, fixedNode)
    found = np.where(np.isfinite(found), found, values.min())
    if values.dtype.kind in "iu":
        found = np.clip(np.rint(found), np.iinfo(values.dtype).min, np.iinfo(values.dtype).max)
    name = slicer.mrmlScene.GenerateUniqueName(texts.resampledName(movingNode.GetName(), fixedNode.GetName()))
    ijkToRAS = node_geometry.LPS_FROM_RAS @ node_geometry.ijkToLPS(fixedNode)
    node = slicer.util.addVolumeFromArray(found.astype(values.dtype), ijkToRAS, name)
    node.SetAttribute(node_geometry.ATTRIBUTE_MADE, "1")
    node.SetAndObserveTransformNodeID(fixedNode.GetTransformNodeID())
    node.CreateDefaultDisplayNodes()
    display = movingNode.GetDisplayNode()
    if display is not None:
        node.GetDisplayNode().SetAutoWindowLevel(False)
        node.GetDisplayNode().SetWindowLevelMinMax(display.GetWindowLevelMin(), display.GetWindowLevelMax())
    hierarchy.place(node, fixedNode, movingNode)
    return node


def _resampled(values: np.ndarray, movingNode, fixedNode) -> np.ndarray:
    """The moving volume's values on the fixed grid (z, y, x), NaN outside; trilinear, through the scene."""
    if node_geometry.isUnderNonLinearTransform(movingNode) or node_geometry.isUnderNonLinearTransform(fixedNode):
        return _resampledThroughDeformation(values, movingNode, fixedNode)
    worldFromFixed = (
        node_geometry.worldFromNodeMatrix(fixedNode) @ node_geometry.LPS_FROM_RAS @ node_geometry.ijkToLPS(fixedNode)
    )
    worldFromMoving = (
        node_geometry.worldFromNodeMatrix(movingNode) @ node_geometry.LPS_FROM_RAS @ node_geometry.ijkToLPS(movingNode)
    )
    movingFromFixed = np.linalg.inv(worldFromMoving) @ worldFromFixed
    shape = slicer.util.arrayFromVolume(fixedNode).shape
    return resampled(values, transform_of(movingFromFixed), shape, np.nan)


def _resampledThroughDeformation(values: np.ndarray, movingNode, fixedNode) -> np.ndarray:
    """The same where a transform is not linear: slice by slice, every voxel carried through the scene."""
    from scipy.ndimage import map_coordinates

    shape = slicer.util.arrayFromVolume(fixedNode).shape
    fixedRAS = node_geometry.LPS_FROM_RAS @ node_geometry.ijkToLPS(fixedNode)
    movingIJK = np.linalg.inv(node_geometry.LPS_FROM_RAS @ node_geometry.ijkToLPS(movingNode))
    parents = fixedNode.GetParentTransformNode(), movingNode.GetParentTransformNode()
    rows, columns = np.indices(shape[1:]).reshape(2, -1)
    result = np.empty(shape, dtype=np.float32)
    for k in range(shape[0]):
        ijk = np.stack([columns, rows, np.full_like(rows, k)], axis=1)
        points = node_geometry.carryPoints(ijk @ fixedRAS[:3, :3].T + fixedRAS[:3, 3], *parents)
        where = points @ movingIJK[:3, :3].T + movingIJK[:3, 3]
        result[k] = map_coordinates(values, where.T[::-1], order=1, cval=np.nan).reshape(shape[1:])
    return result


def _scaled(array: np.ndarray, volumeNode) -> np.ndarray:
    """Values as the slice views show them: 0..1 between the ends of the display window."""
    display = volumeNode.GetDisplayNode()
    if display is not None and display.GetWindow() > 0:
        low, high = display.GetWindowLevelMin(), display.GetWindowLevelMax()
    else:
        low, high = (float(x) for x in np.percentile(array, (1, 99)))
    return np.clip((array.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1)


def storeUsedPoints(transformNode, fixedLPS: np.ndarray, movingLPS: np.ndarray) -> None:
    """Keep (a spread-out part of) the point pairs of a registration on its transform node."""
    step = max(1, int(np.ceil(len(fixedLPS) / MAXIMUM_STORED_POINTS)))
    pairs = {"fixed": np.round(fixedLPS[::step], 2).tolist(), "moving": np.round(movingLPS[::step], 2).tolist()}
    transformNode.SetAttribute(ATTRIBUTE_POINTS, json.dumps(pairs))


def hasUsedPoints(transformNode) -> bool:
    return bool(transformNode.GetAttribute(ATTRIBUTE_POINTS))


def addUsedPoints(transformNode, fixedNode, movingNode) -> Tuple[Any, Any]:
    """Two point lists, one in each volume: corresponding points have the same label; (fixed list, moving list).

    Pairs farther apart than twice the median have the color of uncertain matches; descriptions say how far.
    """
    pairs = json.loads(transformNode.GetAttribute(ATTRIBUTE_POINTS))
    residuals = _residuals(pairs, fixedNode, movingNode)
    far = residuals > 2 * np.median(residuals)
    lists = []
    for volumeNode, key in ((fixedNode, "fixed"), (movingNode, "moving")):
        name = slicer.mrmlScene.GenerateUniqueName(texts.usedPointsName(volumeNode.GetName()))
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetTextScale(0)
        node.GetDisplayNode().SetSelectedColor(*match_list.COLOR_MATCHED)
        node.GetDisplayNode().SetColor(*match_list.COLOR_UNCERTAIN)
        # In the volume's own frame and under its transform: the points stay on the anatomy when that changes.
        node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
        with slicer.util.NodeModify(node):
            for n, point in enumerate(np.array(pairs[key]).reshape(-1, 3) * [-1, -1, 1]):
                index = node.AddControlPoint(vtk.vtkVector3d(*point), str(n + 1))
                node.SetNthControlPointDescription(index, f"residual_mm={residuals[n]:.1f}")
                node.SetNthControlPointSelected(index, not far[n])
        node.SetLocked(True)
        hierarchy.placeBeside(node, volumeNode, asChild=True)
        lists.append(node)
    return lists[0], lists[1]


def _residuals(pairs: dict, fixedNode, movingNode) -> np.ndarray:
    """(n,) mm in the world between the points of each pair, as the scans lie now."""
    fixed, moving = (
        node_geometry.volumeLPSToWorld(node, np.array(pairs[key]).reshape(-1, 3))
        for node, key in ((fixedNode, "fixed"), (movingNode, "moving"))
    )
    return np.linalg.norm(fixed - moving, axis=1)


def addCropROI(fixedNode, movingNode, crop, cropOf: str):
    """A box around what both scans show, in the frame of the volume that it belongs to.

    :param crop: ``ijk_min`` and ``ijk_max`` of a Registration; :param cropOf: ``"fixed"`` or ``"moving"``.
    """
    owner = fixedNode if cropOf == "fixed" else movingNode
    center, size = node_geometry.boxFromIJK(owner, crop["ijk_min"], crop["ijk_max"])
    name = slicer.mrmlScene.GenerateUniqueName(texts.cropName(fixedNode.GetName(), movingNode.GetName()))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", name)
    node.CreateDefaultDisplayNodes()
    axes = node_geometry.LPS_FROM_RAS @ node_geometry.ijkToLPS(owner)
    objectToNode = np.eye(4)
    objectToNode[:3, :3] = axes[:3, :3] / np.linalg.norm(axes[:3, :3], axis=0)
    if np.linalg.det(objectToNode[:3, :3]) < 0:  # a box has no handedness, but an ROI's axes must be right-handed
        objectToNode[:3, 2] *= -1
    objectToNode[:3, 3] = center
    node.SetAndObserveObjectToNodeMatrix(slicer.util.vtkMatrixFromArray(objectToNode))
    node.SetSize(*(float(x) for x in size))
    node.SetAndObserveTransformNodeID(owner.GetTransformNodeID())
    node.GetDisplayNode().SetFillVisibility(False)
    hierarchy.placeBeside(node, owner, asChild=True)
    return node


def addCroppedVolume(fixedNode, movingNode, crop, cropOf: str):
    """A copy of the scan that shows more, cut to what both show; whole voxels, nothing is resampled."""
    owner = fixedNode if cropOf == "fixed" else movingNode
    whole = Volume(slicer.util.arrayFromVolume(owner), node_geometry.ijkToLPS(owner))
    name = slicer.mrmlScene.GenerateUniqueName(texts.croppedName(owner.GetName()))
    node = node_geometry.addVolumeNode(crop_to(whole, crop), name)
    node.SetAttribute(node_geometry.ATTRIBUTE_MADE, "1")
    node.SetAndObserveTransformNodeID(owner.GetTransformNodeID())
    node.CreateDefaultDisplayNodes()
    hierarchy.place(node, fixedNode, movingNode)
    return node


def hardenedCopy(logic, volumeNode):
    """A copy of a volume with its (non-linear) transforms applied to the voxels, in the world; undoable."""
    nodeID = _addHardened(volumeNode.GetID()).GetID()
    current = {"id": nodeID}

    def back() -> None:
        node = slicer.mrmlScene.GetNodeByID(current["id"])
        if node is not None:
            hierarchy.removeNode(node)

    def forth() -> None:
        if slicer.mrmlScene.GetNodeByID(volumeNodeID) is not None:
            current["id"] = _addHardened(volumeNodeID).GetID()

    volumeNodeID = volumeNode.GetID()
    logic.undoStack.push(Action(texts.actionHarden(volumeNode.GetName()), back, forth))
    return slicer.mrmlScene.GetNodeByID(nodeID)


def _addHardened(volumeNodeID: str):
    scene = slicer.mrmlScene
    volumeNode = scene.GetNodeByID(volumeNodeID)
    node_geometry.checkVolumeNode(volumeNode)
    name = scene.GenerateUniqueName(texts.hardenedName(volumeNode.GetName()))
    copy = slicer.vtkSlicerVolumesLogic.CloneVolume(scene, volumeNode, name)
    copy.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    copy.HardenTransform()
    hierarchy.placeBeside(copy, volumeNode)
    return copy


class Comparison:
    """Fixed and moving over each other in all slice views, with a way back."""

    def __init__(self) -> None:
        self._former: List[tuple] = []

    def show(self, fixedNode, movingNode, opacity: float = 0.5) -> None:
        """Fixed as background, moving as foreground, faded by ``opacity``."""
        if not self._former:
            self._former = [
                (node.GetID(), node.GetBackgroundVolumeID(), node.GetForegroundVolumeID(), node.GetForegroundOpacity())
                for node in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
            ]
        for nodeID, *_ in self._former:
            node = slicer.mrmlScene.GetNodeByID(nodeID)
            if node is not None:
                node.SetBackgroundVolumeID(fixedNode.GetID())
                node.SetForegroundVolumeID(movingNode.GetID())
                node.SetForegroundOpacity(opacity)

    def isShown(self) -> bool:
        return bool(self._former)

    def fade(self, opacity: float) -> None:
        """Change the weight of the moving volume."""
        for nodeID, *_ in self._former:
            node = slicer.mrmlScene.GetNodeByID(nodeID)
            if node is not None:
                node.SetForegroundOpacity(opacity)

    def restore(self) -> None:
        """What the views showed before."""
        for nodeID, background, foreground, opacity in self._former:
            node = slicer.mrmlScene.GetNodeByID(nodeID)
            if node is not None:
                node.SetBackgroundVolumeID(background)
                node.SetForegroundVolumeID(foreground)
                node.SetForegroundOpacity(opacity)
        self._former = []
