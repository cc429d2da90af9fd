"""A layout manager without windows, on Slicer's own layout and slice logics.

What a view is in the scene (view nodes, composite nodes, singleton tags, what the layout's XML says) is Slicer's own
code; what is stood in for is Qt: views get their size when the application handles events, not when they are made.
"""

import slicer
import slicer.util
import vtk
from PySide6 import QtCore

# isort: split
from __feature__ import true_property  # noqa: F401

SIZE = (400, 300)
"""Pixels of every slice view once it has been laid out."""


class SliceWidget:
    """What scripts ask of a ``qMRMLSliceWidget``."""

    def __init__(self, logic):
        self._logic = logic

    def sliceLogic(self):
        return self._logic

    def mrmlSliceNode(self):
        return self._logic.GetSliceNode()


class LayoutManager(QtCore.QObject):
    """Follows the scene's layout node and gives each of its slice views a slice logic.

    :param applicationLogic: knows the slice logics, as in Slicer.
    """

    layoutChanged = QtCore.Signal(int)

    def __init__(self, scene, applicationLogic):
        super().__init__()
        self._scene, self._applicationLogic = scene, applicationLogic
        self._widgets = {}
        self._collection = vtk.vtkCollection()
        applicationLogic.SetSliceLogics(self._collection)
        self._logic = slicer.vtkMRMLLayoutLogic()
        self._logic.SetMRMLScene(scene)
        self._tag = self._logic.AddObserver(vtk.vtkCommand.ModifiedEvent, self._onLayout)
        self._tag2 = self.layoutLogic().GetLayoutNode().AddObserver(vtk.vtkCommand.ModifiedEvent, self._onLayout)
        self._onLayout()

    def close(self):
        """Let go of the scene, as the main window does when it is closed."""
        self._logic.GetLayoutNode().RemoveObserver(self._tag2)
        self._logic.RemoveObserver(self._tag)
        for widget in self._widgets.values():
            widget.sliceLogic().SetMRMLScene(None)
        self._widgets.clear()
        self._collection.RemoveAllItems()
        self._applicationLogic.SetSliceLogics(None)
        self._logic.SetMRMLScene(None)

    def layoutLogic(self):
        return self._logic

    def sliceViewNames(self):
        """Layout names of the slice views that are shown."""
        nodes = self._logic.GetViewNodes()
        shown = [nodes.GetItemAsObject(n) for n in range(nodes.GetNumberOfItems())] if nodes is not None else []
        return tuple(node.GetLayoutName() for node in shown if node.IsA("vtkMRMLSliceNode"))

    def sliceWidget(self, name):
        return self._widgets.get(name)

    def setLayout(self, layout):
        node = self._logic.GetLayoutNode()
        node.SetViewArrangement(layout if node.IsLayoutDescription(layout) else 2)
        self._onLayout()  # also when it is shown already

    def _onLayout(self, caller=None, event=None):
        nodes = self._logic.GetViewNodes()
        shown = [nodes.GetItemAsObject(n) for n in range(nodes.GetNumberOfItems())] if nodes is not None else []
        for node in slicer.util.getNodesByClass("vtkMRMLAbstractViewNode", scene=self._scene):
            node.SetMappedInLayout(node in shown)
        for node in shown:
            if node.IsA("vtkMRMLSliceNode"):
                self._ensureWidget(node)

    def _ensureWidget(self, node):
        name = node.GetLayoutName()
        known = self._widgets.get(name)
        if known is not None and known.mrmlSliceNode() is node:
            return
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLApplicationLogic(self._applicationLogic)
        logic.SetMRMLScene(self._scene)
        logic.SetSliceNode(node)
        self._collection.AddItem(logic)
        self._widgets[name] = SliceWidget(logic)
        QtCore.QTimer.singleShot(0, lambda: logic.GetSliceNode() and logic.ResizeSliceNode(*SIZE))
