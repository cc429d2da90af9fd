"""What tests ask of a scene: its state, slice views, linear transforms, columns and findings."""

import numpy as np
import slicer.util
import vtk

from SAMv2SlicerLib.scene import rings
from SAMv2SlicerLib.track import findings


def linear(scene, angle, axis, translation):
    transform = vtk.vtkTransform()
    transform.Translate(*translation)
    transform.RotateWXYZ(angle, *axis)
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetMatrixTransformToParent(transform.GetMatrix())
    return node


def sceneState(scene):
    """(class, name, transform) of every node: what undo must give back.

    Without lists of rings that hold none: they are kept on purpose, hidden and unsaved.
    """
    lists = slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode", scene=scene)
    kept = [node for node in lists if node.GetNodeReferenceID(rings.ROLE) and not node.GetNumberOfControlPoints()]
    ids = {node.GetID() for node in kept} | {node.GetDisplayNodeID() for node in kept}
    state = []
    for node in (scene.GetNthNode(n) for n in range(scene.GetNumberOfNodes())):
        if node.GetID() in ids:
            continue
        parent = node.GetTransformNodeID() if node.IsA("vtkMRMLTransformableNode") else None
        state.append((node.GetClassName(), node.GetName(), parent))
    return sorted(state, key=str)


def addSliceViews(scene):
    """Two slice views as the application makes them: Red for the template, Yellow for the query."""
    views = []
    for name in ("Red", "Yellow"):
        sliceNode = scene.AddNewNodeByClass("vtkMRMLSliceNode", name)
        sliceNode.SetLayoutName(name)
        sliceNode.SetSingletonTag(name)
        composite = scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode", name)
        composite.SetLayoutName(name)
        views.append((sliceNode, composite))
    return views


def centerOf(sliceNode):
    return np.array([sliceNode.GetSliceToRAS().GetElement(row, 3) for row in range(3)])


def columnOf(table, name):
    column = table.GetTable().GetColumnByName(name)
    return [column.GetValue(n) for n in range(column.GetNumberOfValues())]


def findingAt(logic, lesion, study):
    return findings.findings(logic.tracker.lesionList())[lesion][study]
