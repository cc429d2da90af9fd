"""What tests ask of a scene: its state, slice views, linear transforms, columns and findings."""

import numpy as np
import vtk

from SAMv2SlicerLib.track import findings


def linear(scene, angle, axis, translation):
    transform = vtk.vtkTransform()
    transform.Translate(*translation)
    transform.RotateWXYZ(angle, *axis)
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetMatrixTransformToParent(transform.GetMatrix())
    return node


def sceneState(scene):
    """(class, name, transform) of every node: what undo must give back."""
    state = []
    for n in range(scene.GetNumberOfNodes()):
        node = scene.GetNthNode(n)
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
