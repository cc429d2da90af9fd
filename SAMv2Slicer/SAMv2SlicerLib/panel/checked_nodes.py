"""A selector in which any number of nodes can be checked, and what the parameter node says is checked."""

from __future__ import annotations

from typing import Any, Callable, List, Sequence

import qt
import slicer
import slicer.util

from SAMv2SlicerLib.scene.node_geometry import ATTRIBUTE_MADE


class CheckedNodes:
    """Binds a ``qMRMLCheckableNodeComboBox`` by hand: the parameter node's wrapper has no connector for it.

    :param classNames: of the nodes that it offers.
    :param onChecked: called with all checked nodes when the user changes one; not while :meth:`show` checks one after
        the other, nor while the box is held because a scene is being loaded, where the parameter node knows better.
    """

    def __init__(self, selector, classNames: Sequence[str], onChecked: Callable[[List[Any]], None]) -> None:
        self._selector, self._classNames, self._onChecked = selector, classNames, onChecked
        self._isShowing = self._isHeld = False
        selector.checkedNodesChanged.connect(self._onChanged)

    def hold(self, isHeld: bool) -> None:
        """Say nothing while held; the box loses its checks when a batch of changes of the scene has ended."""
        self._isHeld = isHeld

    def show(self, wanted: Sequence[Any], unwanted: Sequence[Any] = ()) -> None:
        """Check these nodes and no others.

        :param unwanted: nodes that are not offered.
        """
        hidden = [node.GetID() for node in unwanted if node is not None]
        proxy = self._selector.sortFilterProxyModel()
        if list(proxy.hiddenNodeIDs) != hidden:
            proxy.hiddenNodeIDs = hidden
        self._isShowing = True
        try:
            for className in self._classNames:
                for node in slicer.util.getNodesByClass(className):
                    self._selector.setCheckState(node, qt.Qt.Checked if node in wanted else qt.Qt.Unchecked)
        finally:
            self._isShowing = False

    def _onChanged(self) -> None:
        if not self._isShowing and not self._isHeld and not slicer.mrmlScene.IsBatchProcessing():
            self._onChecked([node for node in self._selector.checkedNodes() if node is not None])


def madeVolumes() -> List[Any]:
    """Volumes that the module made from others: maps, crops, checkerboards are no scans to search."""
    nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    return [node for node in nodes if node.GetAttribute(ATTRIBUTE_MADE)]
