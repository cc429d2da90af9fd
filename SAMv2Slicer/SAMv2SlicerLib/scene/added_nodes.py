"""Adding nodes to the scene as one undoable action: undo removes them, redo makes them anew."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Sequence

import slicer

from SAMv2SlicerLib.scene import match_list
from SAMv2SlicerLib.scene.undo import Action


def addUndoably(logic, name: str, add: Callable[[], Sequence[Any]]) -> Sequence[Any]:
    """The nodes that ``add`` makes, remembered in the undo stack.

    :param name: of the action, see undo.Action.
    :param add: makes the nodes; an empty sequence when what they are made of is gone (a redo much later).
    """
    nodes = add()
    current: Dict[str, List[str]] = {"ids": [node.GetID() for node in nodes]}

    def back() -> None:
        for nodeID in reversed(current["ids"]):
            node = slicer.mrmlScene.GetNodeByID(nodeID)
            if node is not None:
                match_list.removeNode(node)

    def forth() -> None:
        current["ids"] = [node.GetID() for node in add()]

    logic.undoStack.push(Action(name, back, forth))
    return nodes
