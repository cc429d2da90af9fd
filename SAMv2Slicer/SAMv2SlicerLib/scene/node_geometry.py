"""MRML nodes to SAMv2Core values and back: the only place where RAS meets LPS.

Slicer's scene is RAS, everything in SAMv2Core is LPS (arXiv 2311.15111 works in voxels; we never do). Three frames:

* *world*: the scene's RAS millimetres, what the user sees and clicks;
* *volume RAS*: the frame of a volume's own header, before its parent transforms;
* *volume LPS*: the same with x and y negated, the frame of ``SAMv2Core.Volume`` and of its embedding.

A volume is embedded in its **own** frame and points are carried between world and that frame through the parent
transforms. So moving a volume's parent (or applying a registration) costs no new embedding, the patient stays upright
for the network whatever the scene does to the volume, and non-linear parents need no resampling: VTK inverts them at
the points.
"""

from __future__ import annotations

from typing import Optional, Tuple

import numpy as np
import slicer
import slicer.util
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from SAMv2Core.errors import InputError
from SAMv2Core.io.volume import Volume
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.scene.hierarchy import hierarchyOf

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Its own inverse, so it also is RAS from LPS."""

_MODALITIES = {"CT": "ct", "MR": "mr"}

ATTRIBUTE_MADE = "SAMv2.made"
"""Marks volumes that the module made from others."""


def flipRASAndLPS(points) -> np.ndarray:
    """Points (..., 3) from RAS to LPS or back."""
    return np.asarray(points, dtype=np.float64) * LPS_FROM_RAS.diagonal()[:3]


# --- volumes ---------------------------------------------------------------------------------------------------------


def volumeFromNode(volumeNode, isCopied: bool = True) -> Volume:
    """The voxels and the geometry of a scalar volume node, in volume LPS.

    :param volumeNode: a ``vtkMRMLScalarVolumeNode``; its parent transforms are deliberately not applied (see above).
    :param isCopied: else the node's own voxels are looked at: for who notices when they change (a signature).
    :return: a frozen ``SAMv2Core.Volume`` with its **own copy** of the voxels (z, y, x), safe to hand to a thread.
    :raises InputError: no node, no voxels, a color volume, or a degenerate geometry.
    """
    checkVolumeNode(volumeNode)
    array = slicer.util.arrayFromVolume(volumeNode)
    array = np.array(array) if isCopied else array
    return Volume(
        array=array,
        ijk_to_lps=ijkToLPS(volumeNode),
        source=volumeNode.GetName() or "",
        modality=modalityOfNode(volumeNode),
        warnings=(),
    )


def checkVolumeNode(volumeNode) -> None:
    """Raise InputError, with a text for the user, when a node cannot be embedded."""
    if volumeNode is None:
        raise InputError(texts.noVolumeCause(), texts.noVolumeRemedy())
    name = volumeNode.GetName()
    if not volumeNode.IsA("vtkMRMLScalarVolumeNode"):
        raise InputError(texts.notAVolumeCause(name), texts.notAVolumeRemedy())
    imageData = volumeNode.GetImageData()
    if imageData is None or imageData.GetNumberOfPoints() == 0 or imageData.GetPointData().GetScalars() is None:
        raise InputError(texts.noVoxelsCause(name), texts.noVoxelsRemedy())
    if imageData.GetNumberOfScalarComponents() != 1:
        raise InputError(texts.colorVolumeCause(name), texts.colorVolumeRemedy())


def ijkToLPS(volumeNode) -> np.ndarray:
    """(4, 4) float64, voxel index (i, j, k) to volume LPS mm: spacing, origin and full direction matrix."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return LPS_FROM_RAS @ slicer.util.arrayFromVTKMatrix(matrix)


def addVolumeNode(volume: Volume, name: str, nodeClassName: str = "vtkMRMLScalarVolumeNode"):
    """A new volume node in the scene with a copy of a Core volume's voxels and geometry."""
    ijkToRAS = LPS_FROM_RAS @ volume.ijk_to_lps
    return slicer.util.addVolumeFromArray(np.array(volume.array), ijkToRAS, name, nodeClassName)


def voxelsAt2mm(volumeNode) -> int:
    """How many voxels a volume has at the 2 mm that networks see, for estimates."""
    imageData = volumeNode.GetImageData()
    if imageData is None:
        return 0
    sizesMm = [count * spacing for count, spacing in zip(imageData.GetDimensions(), volumeNode.GetSpacing())]
    return int(sizesMm[0] * sizesMm[1] * sizesMm[2] / 8.0)


def modalityOfNode(volumeNode) -> Optional[str]:
    """``"ct"``, ``"mr"`` or None, from what DICOM said when the volume was loaded; never guessed from a name."""
    value = volumeNode.GetAttribute("DICOM.Modality") or _subjectHierarchyModality(volumeNode)
    return _MODALITIES.get((value or "").upper())


def _subjectHierarchyModality(volumeNode) -> Optional[str]:
    """The modality that Slicer's DICOM plugins keep on a volume's subject hierarchy item."""
    hierarchy = hierarchyOf(volumeNode.GetScene())
    if hierarchy is None:
        return None
    item = hierarchy.GetItemByDataNode(volumeNode)
    return hierarchy.GetItemAttribute(item, "DICOM.Modality") if item else None


# --- parent transforms -----------------------------------------------------------------------------------------------


def isUnderNonLinearTransform(node) -> bool:
    """Whether a node's way to the world is more than a 4x4 matrix."""
    parent = node.GetParentTransformNode()
    return parent is not None and not parent.IsTransformToWorldLinear()


def worldFromNodeMatrix(node) -> np.ndarray:
    """(4, 4) RAS matrix from a node's own frame to the world.

    :raises InputError: the node is under a non-linear transform.
    """
    parent = node.GetParentTransformNode()
    return np.eye(4) if parent is None else worldFromTransformNodeMatrix(parent, node.GetName())


def worldFromTransformNodeMatrix(transformNode, name: str) -> np.ndarray:
    """(4, 4) RAS matrix from the frame under a transform node to the world; ``name`` is for the error text.

    :raises InputError: the chain of transforms is not linear.
    """
    matrix = vtk.vtkMatrix4x4()
    if not transformNode.IsTransformToWorldLinear():
        raise InputError(texts.nonLinearCause(name), texts.nonLinearRemedy())
    transformNode.GetMatrixTransformToWorld(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def worldToVolumeLPS(volumeNode, pointsWorld: np.ndarray) -> np.ndarray:
    """World RAS points (N, 3) to volume LPS (N, 3), through linear and non-linear parents."""
    pointsRAS = carryPoints(pointsWorld, None, volumeNode.GetParentTransformNode())
    return pointsRAS * LPS_FROM_RAS.diagonal()[:3]


def volumeLPSToWorld(volumeNode, pointsLPS: np.ndarray) -> np.ndarray:
    """Volume LPS points (N, 3) to world RAS (N, 3), through linear and non-linear parents."""
    pointsRAS = np.asarray(pointsLPS, dtype=np.float64).reshape(-1, 3) * LPS_FROM_RAS.diagonal()[:3]
    return carryPoints(pointsRAS, volumeNode.GetParentTransformNode(), None)


def carryPoints(points: np.ndarray, sourceTransformNode, targetTransformNode) -> np.ndarray:
    """Points (N, 3) from under one transform node (None: the world) to under another."""
    points = np.asarray(points, dtype=np.float64).reshape(-1, 3)
    if sourceTransformNode is targetTransformNode or not len(points):
        return points.copy()
    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(sourceTransformNode, targetTransformNode, transform)
    return transformed(transform, points)


def transformBetween(sourceTransformNode, targetTransformNode) -> vtk.vtkGeneralTransform:
    """The way from under one transform node to under another, as a copy that may leave the main thread."""
    transform, copy = vtk.vtkGeneralTransform(), vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(sourceTransformNode, targetTransformNode, transform)
    copy.DeepCopy(transform)
    return copy


def transformed(transform: vtk.vtkAbstractTransform, points: np.ndarray) -> np.ndarray:
    """Points (N, 3) carried by a VTK transform."""
    before, after = vtk.vtkPoints(), vtk.vtkPoints()
    for container in (before, after):
        container.SetDataTypeToDouble()
    before.SetData(numpy_to_vtk(np.ascontiguousarray(points, dtype=np.float64)))
    transform.TransformPoints(before, after)
    return vtk_to_numpy(after.GetData()).copy().reshape(-1, 3)


# --- points ----------------------------------------------------------------------------------------------------------


def definedPointIndices(markupsNode) -> Tuple[int, ...]:
    """Indices of the control points that have a position (not undefined, missing or in preview)."""
    defined = slicer.vtkMRMLMarkupsNode.PositionDefined
    count = markupsNode.GetNumberOfControlPoints()
    return tuple(n for n in range(count) if markupsNode.GetNthControlPointPositionStatus(n) == defined)


def pointWorld(markupsNode, index: int) -> np.ndarray:
    """(3,) world RAS mm of one control point, parent transforms of the markup applied."""
    position = [0.0, 0.0, 0.0]
    markupsNode.GetNthControlPointPositionWorld(index, position)
    return np.array(position)


def pointsWorld(markupsNode, indices) -> np.ndarray:
    """(N, 3) world RAS mm of the control points with these indices."""
    return np.array([pointWorld(markupsNode, n) for n in indices], dtype=np.float64).reshape(-1, 3)


# --- transforms ------------------------------------------------------------------------------------------------------


def setTransformFromMatrix(transformNode, fixedToMovingLPS: np.ndarray, fixedNode, movingNode) -> None:
    """Make a linear transform node align the moving volume with the fixed one.

    :param fixedToMovingLPS: (4, 4), ITK's resampling convention: a point in fixed volume LPS to moving volume LPS.
    :param fixedNode: where it is in the world is honored through its (linear) parents.
    :param movingNode: the transform node is meant to become its *direct* parent; parents it already has stay above, so
        their effect is taken out first: moving -> this node -> old parents -> world.
    :raises InputError: one of the volumes is under a non-linear transform.
    """
    fixedFromMovingRAS = LPS_FROM_RAS @ np.linalg.inv(fixedToMovingLPS) @ LPS_FROM_RAS
    above = parentAbove(movingNode, transformNode)
    worldFromAbove = np.eye(4) if above is None else worldFromTransformNodeMatrix(above, movingNode.GetName())
    toParent = np.linalg.inv(worldFromAbove) @ worldFromNodeMatrix(fixedNode) @ fixedFromMovingRAS
    transformNode.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(toParent))


def parentAbove(node, transformNode):
    """The transform node above ``transformNode`` when that is the node's direct parent, else the node's own parent."""
    parent = node.GetParentTransformNode()
    return transformNode.GetParentTransformNode() if parent is transformNode and parent is not None else parent


def boxFromIJK(volumeNode, ijkMin, ijkMax) -> Tuple[np.ndarray, np.ndarray]:
    """Center (3,) and size (3,) in mm along the volume's own axes of an inclusive index box; center in volume RAS."""
    ijkMin, ijkMax = np.asarray(ijkMin, dtype=np.float64), np.asarray(ijkMax, dtype=np.float64)
    ijkToRAS = LPS_FROM_RAS @ ijkToLPS(volumeNode)
    center = ijkToRAS[:3, :3] @ ((ijkMin + ijkMax) / 2) + ijkToRAS[:3, 3]
    spacing = np.linalg.norm(ijkToRAS[:3, :3], axis=0)
    return center, (ijkMax - ijkMin + 1) * spacing
