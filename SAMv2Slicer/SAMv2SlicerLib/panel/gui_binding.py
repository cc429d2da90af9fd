"""The panel's widgets and the scene's parameter node, bound to each other once per node.

Slicer's wrapper of the parameter node binds all widgets that have a ``SlicerParameterName``. It is made for being bound
once: each time, it fills the combo boxes anew and leaves observers on the node that nobody can remove, and its
``connectGui`` does not return the tag without which nothing can be unbound (Slicer#7547, in 5.8 and 5.10). Widgets that
are bound twice then write what they show while they are being filled: the last of all choices. So the binding stays
when the module is left, and when the scene is closed, which the parameter node outlives as all singletons do.
"""

from __future__ import annotations

from typing import Any, List, Optional

from SAMv2SlicerLib.panel.parameters import SAMv2SlicerParameterNode

PROPERTY = "SlicerParameterName"
"""Dynamic property of a widget in the .ui file: the parameter that it shows."""

_unbound: List[Any] = globals().get("_unbound", [])
"""Parameters that are in use no more (also those from before a reload). Their observers are on the node still, and VTK
would call them after Python has cleared them."""


class GuiBinding:
    """Binds widgets to one parameter node at a time.

    :param ui: the child widgets of the .ui file by name.
    """

    def __init__(self, ui) -> None:
        self._ui = ui
        self._parameters: Optional[SAMv2SlicerParameterNode] = None
        self._tag: Any = None
        self._widgets: List[Any] = []

    def bind(self, node) -> SAMv2SlicerParameterNode:
        """The parameters of a ``vtkMRMLScriptedModuleNode``, bound to the widgets; the same ones for the same node."""
        if self._parameters is not None and self._parameters.parameterNode is node:
            node.Modified()  # they are read when the node changes, in a scene file before the nodes that they name
            return self._parameters
        self.release()
        parameters = SAMv2SlicerParameterNode(node)
        named = {widget.property(PROPERTY): widget for widget in vars(self._ui).values()}
        bound = {name: widget for name, widget in named.items() if name}
        self._tag, self._widgets = parameters.connectParametersToGui(bound), list(bound.values())
        self._parameters = parameters
        return parameters

    def hold(self, isHeld: bool) -> None:
        """Let the bound widgets say nothing while they are held: what they show meanwhile is nobody's choice."""
        for widget in self._widgets:
            widget.blockSignals(isHeld)

    def release(self) -> None:
        """Unbind (the module is unloaded, or the node is another one)."""
        if self._parameters is not None:
            self._parameters.disconnectGui(self._tag)
            _unbound.append(self._parameters)
            self._parameters = None
