"""``qMRML*`` and ``qSlicer*`` widgets: plain Qt on the real scene, as far as the module uses them."""

import slicer
import slicer.util
from PySide6 import QtCore, QtGui, QtWidgets

# isort: split
from __feature__ import true_property  # noqa: F401
from slicer.util import VTKObservationMixin

from standins.qt_standin import CUSTOM_WIDGETS


class qMRMLWidget(QtWidgets.QWidget):
    """A widget that knows a scene and tells its children."""

    mrmlSceneChanged = QtCore.Signal(object)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene = None

    def mrmlScene(self):
        return self._scene

    def setMRMLScene(self, scene):
        """In Slicer the .ui file's connections carry the scene to the children; they cannot be made from Python."""
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)
        for child in self.findChildren(QtWidgets.QWidget):
            if isinstance(child, _SceneWidget):
                child.setMRMLScene(scene)


class _SceneWidget(QtWidgets.QWidget, VTKObservationMixin):
    """Base of the selectors: follows nodes being added, removed and renamed."""

    def __init__(self, parent=None):
        QtWidgets.QWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self._scene = None
        self._nodeTypes = []
        self._showHidden = False

    def _getNodeTypes(self):
        return self._nodeTypes

    def _setNodeTypes(self, nodeTypes):
        self._nodeTypes = list(nodeTypes)
        self._refresh()

    def _getShowHidden(self):
        return self._showHidden

    def _setShowHidden(self, shown):
        self._showHidden = shown
        self._refresh()

    nodeTypes = QtCore.Property("QStringList", _getNodeTypes, _setNodeTypes)
    showHidden = QtCore.Property(bool, _getShowHidden, _setShowHidden)

    def setMRMLScene(self, scene):
        self.removeObservers()
        self._scene = scene
        if scene is not None:
            self.addObserver(scene, slicer.vtkMRMLScene.StartImportEvent, self._onImport)
            self.addObserver(scene, slicer.vtkMRMLScene.EndBatchProcessEvent, self._onBatchEnd)
            for event in (
                slicer.vtkMRMLScene.NodeAddedEvent,
                slicer.vtkMRMLScene.NodeRemovedEvent,
                slicer.vtkMRMLScene.EndCloseEvent,
                slicer.vtkMRMLScene.EndImportEvent,
            ):
                self.addObserver(scene, event, self._onSceneChanged)
        self._refresh()

    def _onSceneChanged(self, caller=None, event=None):
        self._refresh()

    def _onImport(self, caller=None, event=None):
        """A scene begins to be loaded: Slicer's selectors lose what they show."""

    def _onBatchEnd(self, caller=None, event=None):
        """A batch of changes has ended, after everything else was told so."""

    def _candidates(self):
        """Nodes of the types asked for; exact types unless showChildNodeTypes is set, hidden ones with showHidden."""
        if self._scene is None:
            return []
        nodes = [self._scene.GetNthNode(n) for n in range(self._scene.GetNumberOfNodes())]
        exact = not self.property("showChildNodeTypes")
        return [
            node
            for node in nodes
            if (self._showHidden or not node.GetHideFromEditors())
            and any(node.GetClassName() == name if exact else node.IsA(name) for name in self._nodeTypes)
        ]

    def _refresh(self):
        raise NotImplementedError


class qMRMLNodeComboBox(_SceneWidget):
    """Selects one node of given types."""

    currentNodeChanged = QtCore.Signal(object)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._currentID = ""
        self._box = QtWidgets.QComboBox(self)
        layout = QtWidgets.QHBoxLayout(self)
        layout.contentsMargins = QtCore.QMargins()
        layout.addWidget(self._box)
        self._box.activated.connect(self._onActivated)

    def currentNode(self):
        return self._scene.GetNodeByID(self._currentID) if self._scene is not None and self._currentID else None

    def setCurrentNode(self, node):
        nodeID = node.GetID() if node is not None else ""
        if nodeID == self._currentID:
            return
        self._currentID = nodeID
        self._refresh()
        self.currentNodeChanged.emit(node)

    def _onImport(self, caller=None, event=None):
        self.setCurrentNode(None)

    def addNode(self):
        """The combo box's "Create new" entry."""
        node = self._scene.AddNewNodeByClass(self._nodeTypes[0])
        self.setCurrentNode(node)
        return node

    def _onActivated(self, index):
        self.setCurrentNode(self._scene.GetNodeByID(self._box.itemData(index) or ""))

    def _refresh(self):
        if self._currentID and self.currentNode() is None:
            self._currentID = ""
            self.currentNodeChanged.emit(None)
        self._box.clear()
        self._box.addItem("None" if self.property("noneEnabled") else "Select a node", "")
        for node in self._candidates():
            self._box.addItem(node.GetName(), node.GetID())
            if node.GetID() == self._currentID:
                self._box.currentIndex = self._box.count - 1


class SortFilterProxyModel:
    """What scripts ask of a ``qMRMLSortFilterProxyModel``."""

    def __init__(self):
        self.hiddenNodeIDs = ()


class qMRMLCheckableNodeComboBox(_SceneWidget):
    """Checks any number of nodes of given types; loses its checks when a scene is loaded, and tells so afterwards."""

    checkedNodesChanged = QtCore.Signal()

    def __init__(self, parent=None):
        super().__init__(parent)
        self._checked, self._hasLost = [], False
        self._proxy = SortFilterProxyModel()
        self._label = QtWidgets.QLabel(self)
        QtWidgets.QHBoxLayout(self).addWidget(self._label)

    def checkedNodes(self):
        nodes = (self._scene.GetNodeByID(nodeID) for nodeID in self._checked) if self._scene is not None else ()
        return [node for node in nodes if node is not None]

    def sortFilterProxyModel(self):
        return self._proxy

    def offered(self):
        """The nodes that a user sees in it."""
        return [node for node in self._candidates() if node.GetID() not in self._proxy.hiddenNodeIDs]

    def _onImport(self, caller=None, event=None):
        self._hasLost, self._checked = bool(self._checked), []

    def _onBatchEnd(self, caller=None, event=None):
        if self._hasLost:
            self._hasLost, self._checked = False, []
            self.checkedNodesChanged.emit()

    def checkState(self, node):
        return QtCore.Qt.Checked if node.GetID() in self._checked else QtCore.Qt.Unchecked

    def setCheckState(self, node, state):
        wanted = state == QtCore.Qt.Checked
        if wanted == (node.GetID() in self._checked):
            return
        if wanted:
            self._checked.append(node.GetID())
        else:
            self._checked.remove(node.GetID())
        self._refresh()
        self.checkedNodesChanged.emit()

    def _refresh(self):
        self._label.text = ", ".join(node.GetName() for node in self.checkedNodes())


class qSlicerSimpleMarkupsWidget(_SceneWidget):
    """A point list selector with a table of its points.

    What its selector offers differs between versions of Slicer; here it is everything: markups of all kinds, hidden
    ones too. Choosing a list there enters place mode unless that is switched off; choosing one by code does not.

    :ivar isPlacing: whether the next click in a view places a point.
    """

    markupsNodeChanged = QtCore.Signal()

    def __init__(self, parent=None):
        super().__init__(parent)
        self._selector, self._table = qMRMLNodeComboBox(self), QtWidgets.QTableWidget(0, 4, self)
        self._entersPlaceMode, self.isPlacing, self._isByCode = True, False, False
        self.defaultNodeColor = QtGui.QColor(0, 0, 0)
        self._selector.nodeTypes = ["vtkMRMLMarkupsNode"]
        self._selector.showHidden = True
        self._selector.setProperty("showChildNodeTypes", True)
        self._selector.setProperty("noneEnabled", True)
        layout = QtWidgets.QVBoxLayout(self)
        layout.addWidget(self._selector)
        layout.addWidget(self._table)
        self._selector.currentNodeChanged.connect(self._onChosen)

    def setMRMLScene(self, scene):
        self._selector.setMRMLScene(scene)
        super().setMRMLScene(scene)

    def markupsSelectorComboBox(self):
        return self._selector

    def currentNode(self):
        return self._selector.currentNode()

    def setCurrentNode(self, node):
        if node is not self.currentNode():
            self._isByCode = True
            self._selector.setCurrentNode(node)
            self._isByCode = False

    def addNode(self):
        """The user chooses "Create new" in its selector: the list has the widget's color."""
        node = self._selector.addNode()
        node.CreateDefaultDisplayNodes()
        color = self.defaultNodeColor
        node.GetDisplayNode().SetSelectedColor(color.redF(), color.greenF(), color.blueF())
        return node

    def placeActive(self, place):
        self.isPlacing = place

    def tableWidget(self):
        return self._table

    def _getEntersPlaceMode(self):
        return self._entersPlaceMode

    def _setEntersPlaceMode(self, enters):
        self._entersPlaceMode = enters

    enterPlaceModeOnNodeChange = QtCore.Property(bool, _getEntersPlaceMode, _setEntersPlaceMode)

    def _onChosen(self, node=None):
        isByCode = self._isByCode
        self._refresh()
        self.markupsNodeChanged.emit()
        if self._entersPlaceMode and not isByCode:
            self.isPlacing = self.currentNode() is not None

    def _refresh(self):
        node = self.currentNode()
        self._table.rowCount = node.GetNumberOfControlPoints() if node is not None else 0
        for n in range(self._table.rowCount):
            self._table.setItem(n, 0, QtWidgets.QTableWidgetItem(node.GetNthControlPointLabel(n)))


for _class in (qMRMLWidget, qMRMLNodeComboBox, qMRMLCheckableNodeComboBox, qSlicerSimpleMarkupsWidget):
    CUSTOM_WIDGETS[_class.__name__] = _class
