"""``slicer.parameterNodeWrapper``: typed properties on a real ``vtkMRMLScriptedModuleNode``.

What a module can stumble over is as in Slicer 5.8 and 5.10: values are written on construction when absent and read
from a cache that follows the node's ModifiedEvent; enumerations are stored by name; a list is stored element by
element, keeps None where a node was removed, and is returned as something that is no list; binding the GUI fills combo
boxes anew, adds an observer that nobody removes, and supports only some pairs of widget and type, by exact type. Only
what the module calls is here; test_parameter_node_wrapper.py holds it against Slicer's own.
"""

import collections.abc
import enum
import typing
import weakref

import slicer
import slicer.util
import vtk
from PySide6 import QtWidgets

# isort: split
from __feature__ import true_property  # noqa: F401

from standins import mrml_widgets, pythonqt


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
        parameters[name] = _parameterOf(name, datatype, getattr(classtype, name, None), ranges)
        setattr(classtype, name, _property(name))
    classtype.allParameters = parameters
    classtype.__init__ = _init
    for method in (connectParametersToGui, disconnectGui):
        setattr(classtype, method.__name__, method)
    return classtype


# --- how values are stored -------------------------------------------------------------------------------------------


def _parameterOf(name, datatype, default, ranges):
    if typing.get_origin(datatype) is list:
        return _ListParameter(name, typing.get_args(datatype)[0])
    if isinstance(datatype, type) and issubclass(datatype, slicer.vtkMRMLNode):
        return _NodeParameter(name, datatype)
    return _PlainParameter(name, datatype, default, ranges)


class _PlainParameter:
    """A number, a text, a truth value or an enumeration."""

    def __init__(self, name, datatype, default, ranges):
        self.name, self.datatype, self.ranges = name, datatype, ranges
        self.isEnum = isinstance(datatype, type) and issubclass(datatype, enum.Enum)
        if not (self.isEnum or datatype in (int, float, str, bool)):
            raise TypeError(f"Unable to create serializer for {name}: {datatype}")
        if default is None:
            default = next(iter(datatype)) if self.isEnum else datatype()
        self.default = default

    def isIn(self, node):
        return bool(node.HasParameter(self.name))

    def read(self, node):
        text = node.GetParameter(self.name)
        if self.isEnum:
            return self.datatype[text]
        return text == "True" if self.datatype is bool else self.datatype(text)

    def write(self, node, value):
        if not isinstance(value, self.datatype) and not (self.datatype is float and isinstance(value, int)):
            raise TypeError(f"{self.name} must be a {self.datatype.__name__}, not {value!r}")
        if any(not item.minimum <= value <= item.maximum for item in self.ranges):
            raise ValueError(f"{self.name}: {value} is not within the range")
        node.SetParameter(self.name, value.name if self.isEnum else str(value))


class _NodeParameter:
    """A node: a reference, and a parameter that tells that it was set, be it to None."""

    default = None

    def __init__(self, name, datatype):
        self.name, self.datatype = name, datatype

    def isIn(self, node):
        return bool(node.HasParameter(self.name))

    def read(self, node):
        return node.GetNodeReference(self.name)

    def write(self, node, value):
        if value is not None and not isinstance(value, self.datatype):
            raise TypeError(f"{self.name} must be a {self.datatype.__name__}, not {value!r}")
        node.SetParameter(self.name, "")
        node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)

    def remove(self, node):
        node.UnsetParameter(self.name)
        node.RemoveNodeReferenceIDs(self.name)


class _ListParameter:
    """A list of nodes: ``NAME.len``, ``NAME.0``..."""

    default = ()

    def __init__(self, name, datatype):
        self.name, self.datatype = name, datatype

    def isIn(self, node):
        return bool(node.HasParameter(f"{self.name}.len"))

    def read(self, node):
        count = int(node.GetParameter(f"{self.name}.len"))
        return _List([self._element(n).read(node) for n in range(count)])

    def write(self, node, values):
        before = int(node.GetParameter(f"{self.name}.len")) if self.isIn(node) else 0
        with slicer.util.NodeModify(node):
            for n, value in enumerate(values):
                self._element(n).write(node, value)
            node.SetParameter(f"{self.name}.len", str(len(values)))
            for n in range(len(values), before):
                self._element(n).remove(node)

    def _element(self, n):
        return _NodeParameter(f"{self.name}.{n}", self.datatype)


class _List(collections.abc.Sequence):
    """What reading a list gives: it can be read, but neither added to another list nor counted as one."""

    def __init__(self, values):
        self._values = values

    def __len__(self):
        return len(self._values)

    def __getitem__(self, index):
        return self._values[index]

    def __eq__(self, other):
        return self._values == (other._values if isinstance(other, _List) else other)

    def __add__(self, other):
        raise NotImplementedError("Adding an ObservedList is not supported")

    __radd__ = __add__


# --- the wrapper -----------------------------------------------------------------------------------------------------


class _Cached:
    """A parameter's value in a node; read again whenever the node was modified."""

    def __init__(self, parameter, node):
        self.parameter, self.node = parameter, node
        self.value = self._read()
        self._isWriting = False
        weak = weakref.ref(self)
        self._tag = node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda caller, event: weak()._onModified())

    def __del__(self):
        self.node.RemoveObserver(self._tag)

    def _read(self):
        if not self.parameter.isIn(self.node):  # also after a node was reset because its scene closed
            self.parameter.write(self.node, self.parameter.default)
        return self.parameter.read(self.node)

    def _onModified(self):
        if not self._isWriting:
            self.value = self._read()

    def write(self, value):
        self._isWriting = True
        try:
            with slicer.util.NodeModify(self.node):
                self.parameter.write(self.node, value)
                self.value = self._read()
        finally:
            self._isWriting = False


def _property(name):
    return property(
        lambda self: self._values[name].value,
        lambda self, value: self._values[name].write(value),
    )


def _init(self, parameterNode):
    self.parameterNode = parameterNode
    self._bound = {}
    self._nextTag = 0
    self._isUpdating = False
    self._values = {}
    for name, parameter in self.allParameters.items():
        self._values[name] = _Cached(parameter, parameterNode)


def connectParametersToGui(self, mapping):
    """Bind widgets by the names of their parameters; a tag for :func:`disconnectGui`."""
    unknown = [name for name in mapping if name not in self.allParameters]
    if unknown:
        raise ValueError(f"Cannot find a param with the given name: {unknown[0]}")
    bound = {name: _Connector(self.allParameters[name], widget) for name, widget in mapping.items()}
    tag, self._nextTag = self._nextTag, self._nextTag + 1
    self._bound[tag] = bound
    for name, connector in bound.items():
        connector.write(self._values[name].value)
        connector.connect(_writer(self, name, connector))
    self.parameterNode.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda caller, event: _updateGui(self))
    return tag


def disconnectGui(self, tag):
    for connector in self._bound.pop(tag, {}).values():
        connector.disconnect()


def _writer(self, name, connector):
    def write():
        if not self._isUpdating:
            self._values[name].write(connector.read())

    return write


def _updateGui(self):
    if self._isUpdating:
        return
    self._isUpdating = True
    try:
        for bound in self._bound.values():
            for name, connector in bound.items():
                connector.write(self._values[name].value)
    finally:
        self._isUpdating = False


class _Connector:
    """A widget and how it is read and written, for the pairs that Slicer's wrapper supports."""

    def __init__(self, parameter, widget):
        self._signal, self.read, self.write = _binding(parameter, widget)
        self._changed = None

    def connect(self, changed):
        self._changed = changed
        self._signal.connect(self._onSignal)

    def disconnect(self):
        self._changed = None
        self._signal.disconnect(self._onSignal)

    def _onSignal(self, *args):
        if self._changed is not None:
            self._changed()


def _binding(parameter, widget):
    """(signal, read, write)."""
    kind, datatype = pythonqt.plainClass(widget), parameter.datatype
    if isinstance(parameter, _NodeParameter) and kind is mrml_widgets.qMRMLNodeComboBox:
        widget.nodeTypes = [datatype.__name__]
        return widget.currentNodeChanged, widget.currentNode, widget.setCurrentNode
    if isinstance(parameter, _PlainParameter):
        if datatype is bool and kind is QtWidgets.QCheckBox:
            return widget.stateChanged, lambda: widget.checked, lambda value: setattr(widget, "checked", value)
        spins = {int: QtWidgets.QSpinBox, float: QtWidgets.QDoubleSpinBox}
        if kind is spins.get(datatype):
            for item in parameter.ranges:  # Slicer's connectors take the range from the annotation, too
                widget.minimum, widget.maximum = item.minimum, item.maximum
            return widget.valueChanged, lambda: widget.value, lambda value: setattr(widget, "value", value)
        if parameter.isEnum and kind is QtWidgets.QComboBox:
            members = list(datatype)
            widget.clear()
            for member in members:
                widget.addItem(member.label())
            return (
                widget.currentIndexChanged,
                lambda: members[widget.currentIndex],
                lambda value: setattr(widget, "currentIndex", members.index(value)),
            )
    raise RuntimeError(f"Unable to create GUI connector from {datatype} to {kind}")
