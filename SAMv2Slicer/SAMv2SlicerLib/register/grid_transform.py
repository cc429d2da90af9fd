"""A deformation on top of a registration, as a grid transform node above the linear one.

moving volume -> linear transform -> grid transform -> what was above before. SAMv2Core gives the deformation in the
fixed volume's own frame: a fixed point x goes to matrix(x + u(x)) in the moving volume, so the grid transform's
"from parent" displacement is u, carried into the frame in which the linear node ends.
"""

from __future__ import annotations

from typing import Any, Optional, Tuple

import numpy as np
import slicer
import slicer.util
import vtk
from vtk.util.numpy_support import numpy_to_vtk

from SAMv2SlicerLib import texts
from SAMv2SlicerLib.scene import hierarchy, node_geometry

ATTRIBUTE = "SAMv2.deformation"
PACKAGE, REQUIREMENT = "convexAdam", "convexadam>=0.2"


def isAvailable() -> bool:
    """Whether the package that estimates deformations is installed; imports nothing."""
    import importlib.util

    return importlib.util.find_spec(PACKAGE) is not None


def gridAbove(transformNode):
    """Our grid transform node right above a linear one, or None."""
    parent = transformNode.GetParentTransformNode() if transformNode is not None else None
    return parent if parent is not None and parent.GetAttribute(ATTRIBUTE) else None


def checkLinearWay(volumeNode, outputNode=None) -> None:
    """Raise InputError when a volume is under a non-linear transform; a deformation that the next registration into
    ``outputNode`` replaces does not count."""
    parent = volumeNode.GetParentTransformNode()
    grid = gridAbove(outputNode) if outputNode is not None and parent is outputNode else None
    if grid is None:
        node_geometry.worldFromNodeMatrix(volumeNode)
    elif grid.GetParentTransformNode() is not None:
        node_geometry.worldFromTransformNodeMatrix(grid.GetParentTransformNode(), volumeNode.GetName())


class Refinement:
    """The deformation of one registration as something that can be added to the scene and removed again.

    :param vectors: (D, H, W, 3) mm, LPS of the fixed volume; :param ijkToLPS: (4, 4) of their lattice.
    """

    def __init__(self, fixedID: str, movingID: str, vectors: np.ndarray, ijkToLPS: np.ndarray) -> None:
        self._fixedID, self._movingID = fixedID, movingID
        self._vectors, self._ijkToLPS = vectors, ijkToLPS
        self._nodeID = ""

    def add(self) -> None:
        """Put the grid transform between the linear node and what is above it."""
        scene = slicer.mrmlScene
        fixedNode, movingNode = scene.GetNodeByID(self._fixedID), scene.GetNodeByID(self._movingID)
        output = movingNode.GetParentTransformNode() if movingNode is not None else None  # redo makes another node
        if fixedNode is None or output is None:
            return
        above = output.GetParentTransformNode()
        worldFromAbove = np.eye(4)
        if above is not None:
            worldFromAbove = node_geometry.worldFromTransformNodeMatrix(above, output.GetName())
        aboveFromFixed = np.linalg.inv(worldFromAbove) @ node_geometry.worldFromNodeMatrix(fixedNode)
        name = scene.GenerateUniqueName(texts.gridName(output.GetName()))
        node = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", name)
        node.SetAttribute(ATTRIBUTE, "1")
        transform = gridTransform(self._vectors, self._ijkToLPS, aboveFromFixed)
        node.SetAndObserveTransformFromParent(transform)
        node.SetAndObserveTransformNodeID(above.GetID() if above is not None else None)
        hierarchy.placeBeside(node, output)
        output.SetAndObserveTransformNodeID(node.GetID())
        self._nodeID = node.GetID()

    def remove(self) -> None:
        """Take the grid transform out; the linear node is again right below what was above."""
        node = slicer.mrmlScene.GetNodeByID(self._nodeID) if self._nodeID else None
        if node is not None:
            takeOut(node)


def takeOut(gridNode) -> None:
    """Remove a grid transform node; what was under it goes under its parent."""
    scene, parentID = gridNode.GetScene(), gridNode.GetTransformNodeID()
    for node in slicer.util.getNodesByClass("vtkMRMLTransformableNode", scene=scene):
        if node.GetTransformNodeID() == gridNode.GetID():
            node.SetAndObserveTransformNodeID(parentID)
    hierarchy.removeNode(gridNode)


class Replaced:
    """The deformation of an earlier registration into the same linear node: taken out, and put back by undo."""

    def __init__(self, outputNode) -> None:
        self._outputID = outputNode.GetID() if outputNode is not None else ""
        self._kept: Optional[Tuple[str, Any]] = None
        grid = gridAbove(outputNode)
        if grid is not None:
            transform = slicer.vtkOrientedGridTransform()
            transform.DeepCopy(grid.GetTransformFromParentAs("vtkOrientedGridTransform", False))
            self._kept = (grid.GetName(), transform)
            takeOut(grid)

    def again(self) -> None:
        """Take it out once more (redo)."""
        grid = gridAbove(slicer.mrmlScene.GetNodeByID(self._outputID))
        if self._kept is not None and grid is not None:
            takeOut(grid)

    def restore(self) -> None:
        """Put it back (undo)."""
        output = slicer.mrmlScene.GetNodeByID(self._outputID) if self._kept is not None else None
        if output is None:
            return
        name, transform = self._kept
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", name)
        node.SetAttribute(ATTRIBUTE, "1")
        node.SetAndObserveTransformFromParent(transform)
        node.SetAndObserveTransformNodeID(output.GetTransformNodeID())
        hierarchy.placeBeside(node, output)
        output.SetAndObserveTransformNodeID(node.GetID())


def gridTransform(vectors: np.ndarray, ijkToLPS: np.ndarray, aboveFromFixed: np.ndarray):
    """VTK's grid transform x -> x + u(x) in RAS, carried by a RAS matrix into another frame."""
    toFrame = aboveFromFixed @ node_geometry.LPS_FROM_RAS @ ijkToLPS
    spacing = np.linalg.norm(toFrame[:3, :3], axis=0)
    ras = node_geometry.flipRASAndLPS(vectors) @ aboveFromFixed[:3, :3].T
    image = vtk.vtkImageData()
    image.SetDimensions(*(int(n) for n in vectors.shape[2::-1]))
    image.SetSpacing(*(float(x) for x in spacing))
    image.SetOrigin(*(float(x) for x in toFrame[:3, 3]))
    scalars = numpy_to_vtk(np.ascontiguousarray(ras.reshape(-1, 3), dtype=np.float64), deep=True)
    image.GetPointData().SetScalars(scalars)
    transform = slicer.vtkOrientedGridTransform()
    transform.SetDisplacementGridData(image)
    transform.SetInterpolationModeToLinear()
    directions = np.eye(4)
    directions[:3, :3] = toFrame[:3, :3] / spacing
    transform.SetGridDirectionMatrix(slicer.util.vtkMatrixFromArray(directions))
    return transform
