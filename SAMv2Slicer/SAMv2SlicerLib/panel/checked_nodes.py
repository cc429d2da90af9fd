"""A selector in which any number of nodes can be checked, and what the parameter node says is checked."""

from __future__ import annotations

from typing import Any, Callable, List, Sequence

import qt
import slicer
import slicer.util


class CheckedNodes:
    """Binds a ``qMRMLCheckableNodeComboBox`` by hand: the parameter node's wrapper has no connector for it.

    :param classNames: of the nodes that it offers.
    :param onChecked: called with all checked nodes when the user changes one; not while :meth:`show` checks one after
        the other, nor while a scene is being loaded, where the parameter node knows better.
    """

    def __init__(self, selector, classNames: Sequence[str], onChecked: Callable[[List[Any]], None]) -> None:
        self._selector, self._classNames, self._onChecked = selector, classNames, onChecked
        self._isShowing = False
        selector.checkedNodesChanged.connect(self._onChanged)

    def show(self, wanted: Sequence[Any]) -> None:
        """Check these nodes and no others."""
        self._isShowing = True
        try:
            for className in self._classNames:
                for node in slicer.util.getNodesByClass(className):
                    self._selector.setCheckState(node, qt.Qt.Checked if node in wanted else qt.Qt.Unchecked)
        finally:
            self._isShowing = False

    def _onChanged(self) -> None:
        if not self._isShowing and not slicer.mrmlScene.IsBatchProcessing():
            self._onChecked([node for node in self._selector.checkedNodes() if node is not None])
