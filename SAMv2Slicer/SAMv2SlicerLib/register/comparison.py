"""What helps to judge a registration: a checkerboard of both volumes, and the points that the alignment rests on."""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import slicer
import slicer.util
import vtk

from SAMv2Core.errors import InputError
from SAMv2Core.io.itk import resampled, transform_of
from SAMv2Core.io.resample import crop_to
from SAMv2Core.io.volume import Volume
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.scene import hierarchy, match_list, node_geometry, slice_views
from SAMv2SlicerLib.scene.undo import Action
from SAMv2SlicerLib.work.worker import Job

ATTRIBUTE_POINTS = "SAMv2.usedPoints"
MAXIMUM_STORED_POINTS = 200
SQUARES = 8


def startCheckerboard(logic, fixedNode, movingNode, onEnd=None) -> Job:
    """Begin a checkerboard; the job's value is its volume node. Computed beside the window, which stays alive."""
    name = texts.checkerboardName(fixedNode.GetName(), movingNode.GetName())
    make = checkerboard(fixedNode, movingNode)
    ids = fixedNode.GetID(), movingNode.GetID()

    def commit(values: np.ndarray) -> Any:
        nodes = [slicer.mrmlScene.GetNodeByID(nodeID) for nodeID in ids]
        if any(node is None for node in nodes):
            raise InputError(texts.nodeGoneCause(), texts.nodeGoneRemedy())
        return addCheckerboard(*nodes, values)

    return logic.submitPlain(name, lambda progress: make(), commit, onEnd, name)


def checkerboard(fixedNode, movingNode, squares: int = SQUARES) -> Callable[[], np.ndarray]:
    """What computes a checkerboard on the fixed grid: fixed and moving alternate, each as its display window shows it.

    Reads the scene now; what is returned does not and may run in another thread: (z, y, x), 0..1.

    :param squares: number of squares along the longest side.
    """
    arrays = [np.array(slicer.util.arrayFromVolume(node)) for node in (fixedNode, movingNode)]
    windows = [_window(node) for node in (fixedNode, movingNode)]
    onFixed = _resampling(movingNode, fixedNode)

    def make() -> np.ndarray:
        fixed, moving = (_scaled(values, window) for values, window in zip(arrays, windows))
        moving = onFixed(moving)
        size = max(1, int(np.ceil(max(fixed.shape) / squares)))
        index = [np.arange(n) // size for n in fixed.shape]
        odd = (index[0][:, None, None] + index[1][None, :, None] + index[2][None, None, :]) % 2 == 1
        return np.where(odd & np.isfinite(moving), moving, fixed).astype(np.float32)

    return make


def addCheckerboard(fixedNode, movingNode, values: Optional[np.ndarray] = None):
    """A checkerboard (computed now when not given) as a volume node: to be looked at, so not saved with the scene."""
    values = checkerboard(fixedNode, movingNode)() if values is None else values
    name = texts.checkerboardName(fixedNode.GetName(), movingNode.GetName())
    ijkToRAS = node_geometry.LPS_FROM_RAS @ node_geometry.ijkToLPS(fixedNode)
    node = slicer.util.addVolumeFromArray(values, ijkToRAS, slicer.mrmlScene.GenerateUniqueName(name))
    node.SetAttribute(node_geometry.ATTRIBUTE_MADE, "1")
    node.SetAndObserveTransformNodeID(fixedNode.GetTransformNodeID())
    node.CreateDefaultDisplayNodes()
    node.SetSaveWithScene(False)
    node.GetDisplayNode().SetSaveWithScene(False)
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevelMinMax(0.0, 1.0)
    hierarchy.place(node, fixedNode, movingNode)
    return node


def addResampled(fixedNode, movingNode, volume: Volume):
    """The moving volume on the fixed volume's voxels, as SAMv2Core resampled it, as a node that looks like it."""
    name = slicer.mrmlScene.GenerateUniqueName(texts.resampledName(movingNode.GetName(), fixedNode.GetName()))
    node = node_geometry.addVolumeNode(volume, name)
    node.SetAttribute(node_geometry.ATTRIBUTE_MADE, "1")
    node.SetAndObserveTransformNodeID(fixedNode.GetTransformNodeID())
    node.CreateDefaultDisplayNodes()
    display = movingNode.GetDisplayNode()
    if display is not None:
        node.GetDisplayNode().SetAutoWindowLevel(False)
        node.GetDisplayNode().SetWindowLevelMinMax(display.GetWindowLevelMin(), display.GetWindowLevelMax())
    hierarchy.place(node, fixedNode, movingNode)
    return node


def _resampling(movingNode, fixedNode) -> Callable[[np.ndarray], np.ndarray]:
    """What carries values on the moving grid (z, y, x) to the fixed one as the scene shows them; NaN outside.

    Trilinear. Reads the scene now; what is returned has its own copy of the transforms.
    """
    shape = slicer.util.arrayFromVolume(fixedNode).shape
    fixedRAS, movingRAS = (
        node_geometry.LPS_FROM_RAS @ node_geometry.ijkToLPS(node) for node in (fixedNode, movingNode)
    )
    if not any(node_geometry.isUnderNonLinearTransform(node) for node in (movingNode, fixedNode)):
        worldFromFixed = node_geometry.worldFromNodeMatrix(fixedNode) @ fixedRAS
        worldFromMoving = node_geometry.worldFromNodeMatrix(movingNode) @ movingRAS
        movingFromFixed = np.linalg.inv(worldFromMoving) @ worldFromFixed
        return lambda values: resampled(values, transform_of(movingFromFixed), shape, np.nan)
    way = node_geometry.transformBetween(fixedNode.GetParentTransformNode(), movingNode.GetParentTransformNode())
    return lambda values: _throughDeformation(values, way, fixedRAS, np.linalg.inv(movingRAS), shape)


def _throughDeformation(values: np.ndarray, way, fixedRAS: np.ndarray, movingIJK: np.ndarray, shape) -> np.ndarray:
    """Slice by slice, every voxel carried by a VTK transform."""
    from scipy.ndimage import map_coordinates

    rows, columns = np.indices(shape[1:]).reshape(2, -1)
    result = np.empty(shape, dtype=np.float32)
    for k in range(shape[0]):
        ijk = np.stack([columns, rows, np.full_like(rows, k)], axis=1)
        points = node_geometry.transformed(way, ijk @ fixedRAS[:3, :3].T + fixedRAS[:3, 3])
        where = points @ movingIJK[:3, :3].T + movingIJK[:3, 3]
        result[k] = map_coordinates(values, where.T[::-1], order=1, cval=np.nan).reshape(shape[1:])
    return result


def _window(volumeNode) -> Optional[Tuple[float, float]]:
    """Ends of the display window, None without one."""
    display = volumeNode.GetDisplayNode()
    if display is None or display.GetWindow() <= 0:
        return None
    return display.GetWindowLevelMin(), display.GetWindowLevelMax()


def _scaled(array: np.ndarray, window: Optional[Tuple[float, float]]) -> np.ndarray:
    """Values as the slice views show them: 0..1 between the ends of the display window."""
    low, high = window if window is not None else (float(x) for x in np.nanpercentile(array, (1, 99)))
    return np.clip((np.nan_to_num(array.astype(np.float32), nan=low) - low) / max(high - low, 1e-6), 0, 1)


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
        node.SetNodeReferenceID(match_list.ROLE_QUERY, volumeNode.GetID())  # see own_views.py
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
    """Two volumes over each other in the slice views on the screen, with a way back: fixed and moving, or a
    checkerboard of them. Views that nobody sees are left alone: changing them takes Slicer as long."""

    def __init__(self) -> None:
        self._former: Dict[str, Tuple[Any, ...]] = {}
        """Composite node ID -> what it showed before."""
        self._planes: Dict[str, Tuple[Any, ...]] = {}
        """Slice node ID -> its plane and frame before, of the views that did not show the fixed volume."""
        self._shown: Optional[Tuple[str, Optional[str], float]] = None
        """ID of the fixed and of the moving volume, and its opacity, while they are shown."""

    def show(self, fixedNode, movingNode, opacity: float = 0.5) -> None:
        """Fixed as background, moving as foreground, faded by ``opacity``; views that do not cut it go there."""
        self._shown = (fixedNode.GetID(), movingNode.GetID() if movingNode is not None else None, opacity)
        with slice_views.drawnOnce():
            self._put(*slice_views.onScreen())

    def follow(self) -> None:
        """Show the same in views that have come onto the screen since."""
        nodes, composites = slice_views.onScreen() if self._shown is not None else ((), ())
        composites = [node for node in composites if node.GetID() not in self._former]
        names = {node.GetLayoutName() for node in composites}
        if composites and _present(self._shown[:1]):
            with slice_views.drawnOnce():
                self._put([node for node in nodes if node.GetLayoutName() in names], composites)

    def _put(self, sliceNodes: Sequence[Any], composites: Sequence[Any]) -> None:
        fixedID, movingID, opacity = self._shown
        for node in composites:
            shown = (node.GetBackgroundVolumeID(), node.GetForegroundVolumeID(), node.GetForegroundOpacity())
            self._former.setdefault(node.GetID(), shown)
            node.SetBackgroundVolumeID(fixedID)
            node.SetForegroundVolumeID(movingID)
            node.SetForegroundOpacity(opacity)
        for node in sliceNodes:
            if not slice_views.cuts(node, slicer.mrmlScene.GetNodeByID(fixedID)):
                self._planes.setdefault(node.GetID(), slice_views.planeOf(node))
                slice_views.fit(node)

    def fade(self, opacity: float) -> None:
        """Change the weight of the moving volume."""
        if self._shown is not None:
            self._shown = (*self._shown[:2], opacity)
        with slice_views.drawnOnce():
            for node in _present(self._former):
                node.SetForegroundOpacity(opacity)

    def restore(self) -> None:
        """What the views showed before, as far as it still is there."""
        scene = slicer.mrmlScene
        with slice_views.drawnOnce():
            for node in _present(self._former):
                background, foreground, opacity = self._former[node.GetID()]
                node.SetBackgroundVolumeID(background if background and scene.GetNodeByID(background) else None)
                node.SetForegroundVolumeID(foreground if foreground and scene.GetNodeByID(foreground) else None)
                node.SetForegroundOpacity(opacity)
            for node in _present(self._planes):
                slice_views.setPlane(node, self._planes[node.GetID()])
        self._former, self._planes, self._shown = {}, {}, None


def _present(nodeIDs) -> List[Any]:
    found = [slicer.mrmlScene.GetNodeByID(nodeID) for nodeID in nodeIDs]
    return [node for node in found if node is not None]
