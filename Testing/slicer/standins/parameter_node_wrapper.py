"""``slicer.parameterNodeWrapper``: typed properties on a real ``vtkMRMLScriptedModuleNode``.

Values are written on construction when absent, enumerations are stored by name, nodes as node references, and
``connectGui`` binds only the pairs of widget and type that Slicer's wrapper has a connector for, by exact type.
Lists of nodes are returned as plain lists: assign a new one instead of changing it.
"""

import enum
import typing
import weakref

import slicer
import slicer.util
import vtk
from PySide6 import QtWidgets

# isort: split
from __feature__ import true_property  # noqa: F401

from standins import mrml_widgets


class WithinRange:
    """Annotation of the smallest and the largest value of a number."""

    def __init__(self, minimum, maximum):
        self.minimum, self.maximum = minimum, maximum


def parameterNodeWrapper(classtype):
    """Class decorator, see the module's text."""
    parameters = {}
    annotations = typing.get_type_hints(classtype, include_extras=True)
    for name, datatype in typing.get_type_hints(classtype).items():
        ranges = [item for item in getattr(annotations[name], "__metadata__", ()) if isinstance(item, WithinRange)]
        parameters[name] = _Parameter(name, datatype, getattr(classtype, name, None), ranges)
        setattr(classtype, name, _property(parameters[name]))
    classtype.allParameters = parameters
    for method in (_init, connectGui, disconnectGui, StartModify, EndModify, AddObserver, RemoveObserver, Modified):
        setattr(classtype, "__init__" if method is _init else method.__name__, method)
    return classtype


def _isNode(datatype):
    return isinstance(datatype, type) and issubclass(datatype, slicer.vtkMRMLNode)


class _Parameter:
    def __init__(self, name, datatype, default, ranges):
        self.ranges = ranges
        self.name, self.datatype = name, datatype
        self.isNode = _isNode(datatype)
        self.isNodeList = typing.get_origin(datatype) is list and _isNode(typing.get_args(datatype)[0])
        self.isEnum = isinstance(datatype, type) and issubclass(datatype, enum.Enum)
        if not (self.isNode or self.isNodeList or self.isEnum or datatype in (int, float, str, bool)):
            raise TypeError(f"Unable to create serializer for {name}: {datatype}")
        if default is None and not (self.isNode or self.isNodeList):
            default = next(iter(datatype)) if self.isEnum else datatype()
        self.default = default

    def initialize(self, node):
        if not (self.isNode or self.isNodeList) and not node.GetParameter(self.name):
            self.write(node, self.default)

    def read(self, node):
        if self.isNode:
            return node.GetNodeReference(self.name)
        if self.isNodeList:
            count = node.GetNumberOfNodeReferences(self.name)
            found = [node.GetNthNodeReference(self.name, n) for n in range(count)]
            return [item for item in found if item is not None]
        text = node.GetParameter(self.name)
        if self.isEnum:
            return self.datatype[text]
        return text == "True" if self.datatype is bool else self.datatype(text)

    def write(self, node, value):
        if self.isNode:
            if value is not None and not value.IsA(self.datatype.__name__):
                raise TypeError(f"{self.name} must be a {self.datatype.__name__}")
            node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
        elif self.isNodeList:
            with slicer.util.NodeModify(node):
                node.RemoveNodeReferenceIDs(self.name)
                for item in value:
                    node.AddNodeReferenceID(self.name, item.GetID())
        else:
            if not isinstance(value, self.datatype) and not (self.datatype is float and isinstance(value, int)):
                raise TypeError(f"{self.name} must be a {self.datatype.__name__}, not {value!r}")
            if any(not item.minimum <= value <= item.maximum for item in self.ranges):
                raise ValueError(f"{self.name}: {value} is not within the range")
            node.SetParameter(self.name, value.name if self.isEnum else str(value))


def _property(parameter):
    return property(
        lambda self: parameter.read(self.parameterNode),
        lambda self, value: parameter.write(self.parameterNode, value),
    )


def _init(self, parameterNode):
    self.parameterNode = parameterNode
    self._connections = {}
    self._updating = False
    for parameter in self.allParameters.values():
        parameter.initialize(parameterNode)


def connectGui(self, ui):
    """Bind the widgets of ``ui`` that have the property SlicerParameterName; a tag for :func:`disconnectGui`."""
    connectors = []
    for widget in vars(ui).values():
        name = widget.property("SlicerParameterName")
        if name:
            if name not in self.allParameters:
                raise ValueError(f"Cannot find a param with the given name: {name}")
            connectors.append(_connector(self, self.allParameters[name], widget))
    weak = weakref.ref(self)  # the node must not keep the wrapper alive, which keeps the node

    def onModified(caller, event):
        wrapper = weak()
        if wrapper is not None:
            _updateGui(wrapper)

    tag = self.AddObserver(vtk.vtkCommand.ModifiedEvent, onModified)
    self._connections[tag] = connectors
    _updateGui(self)
    return tag


def disconnectGui(self, tag):
    for signal, slot, _ in self._connections.pop(tag, ()):
        signal.disconnect(slot)
    self.RemoveObserver(tag)


def _updateGui(self):
    if self._updating:
        return
    self._updating = True
    try:
        for connectors in self._connections.values():
            for _, _, update in connectors:
                update()
    finally:
        self._updating = False


def _connector(self, parameter, widget):
    """(signal, slot, update) of a widget, for the pairs that Slicer's wrapper supports."""
    signal, read, write = _binding(parameter, widget)

    def slot(*args):
        if not self._updating:
            parameter.write(self.parameterNode, read())

    signal.connect(slot)
    return signal, slot, lambda: write(parameter.read(self.parameterNode))


def _binding(parameter, widget):
    kind = type(widget)
    if parameter.datatype is bool and kind is QtWidgets.QCheckBox:
        return widget.stateChanged, lambda: widget.checked, lambda value: setattr(widget, "checked", value)
    if parameter.datatype is bool and kind is QtWidgets.QPushButton and widget.checkable:
        return widget.toggled, lambda: widget.checked, lambda value: setattr(widget, "checked", value)
    spins = {int: QtWidgets.QSpinBox, float: QtWidgets.QDoubleSpinBox}
    if kind is spins.get(parameter.datatype):
        for item in parameter.ranges:  # Slicer's connectors take the range from the annotation, too
            widget.minimum, widget.maximum = item.minimum, item.maximum
        return widget.valueChanged, lambda: widget.value, lambda value: setattr(widget, "value", value)
    if parameter.datatype is str and kind is QtWidgets.QLineEdit:
        return widget.textChanged, lambda: widget.text, lambda value: setattr(widget, "text", value)
    if parameter.isEnum and kind is QtWidgets.QComboBox:
        members = list(parameter.datatype)
        if widget.count != len(members):
            widget.clear()
            widget.addItems([member.label() for member in members])
        return (
            widget.currentIndexChanged,
            lambda: members[widget.currentIndex],
            lambda value: setattr(widget, "currentIndex", members.index(value)),
        )
    if parameter.isNode and kind is mrml_widgets.qMRMLNodeComboBox:
        widget.nodeTypes = [parameter.datatype.__name__]
        return widget.currentNodeChanged, widget.currentNode, widget.setCurrentNode
    raise RuntimeError(f"Unable to create GUI connector from {parameter.datatype} to {kind}")


def StartModify(self):
    return self.parameterNode.StartModify()


def EndModify(self, wasModified):
    self.parameterNode.EndModify(wasModified)


def AddObserver(self, event, callback, priority=0.0):
    return self.parameterNode.AddObserver(event, callback, priority)


def RemoveObserver(self, tag):
    self.parameterNode.RemoveObserver(tag)


def Modified(self):
    self.parameterNode.Modified()
