"""The module's own undo: Slicer's scene undo is off by default and does not cover markups and transforms reliably.

An action is a name with two closures, *back* and *forth*. They find their nodes by ID at the time they run and do
nothing when a node is gone, so no action keeps a node alive or brings back what the user deleted. The stack is bounded
and is cleared when the scene closes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Sequence

import slicer

from SAMv2SlicerLib.scene import hierarchy

MAXIMUM_ACTIONS = 100


@dataclass
class Action:
    """Something the module did and can take back.

    :param name: short, translated, without a final period: "match 3 points".
    :param key: consecutive actions with the same key (not None) merge into one: a drag is one action, not fifty.
    """

    name: str
    back: Callable[[], None]
    forth: Callable[[], None]
    key: Optional[str] = None


class UndoStack:
    """Actions that were done, and those taken back."""

    def __init__(self, onChanged: Optional[Callable[[], None]] = None) -> None:
        self._done: List[Action] = []
        self._undone: List[Action] = []
        self._onChanged = onChanged

    def push(self, action: Action) -> None:
        """Remember an action that has just been done."""
        self._undone.clear()
        last = self._done[-1] if self._done else None
        if last is not None and action.key is not None and last.key == action.key:
            self._done[-1] = Action(action.name, last.back, action.forth, action.key)
        else:
            self._done.append(action)
            del self._done[:-MAXIMUM_ACTIONS]
        self._changed()

    def closeKey(self) -> None:
        """Let the next action start a new entry even if its key is that of the last one (a drag ended)."""
        if self._done:
            self._done[-1].key = None

    def undo(self) -> Optional[str]:
        """Take the last action back; its name, or None when there is none."""
        return self._move(self._done, self._undone, lambda action: action.back())

    def redo(self) -> Optional[str]:
        """Do the last undone action again; its name, or None when there is none."""
        return self._move(self._undone, self._done, lambda action: action.forth())

    def nextUndo(self) -> Optional[str]:
        return self._done[-1].name if self._done else None

    def nextRedo(self) -> Optional[str]:
        return self._undone[-1].name if self._undone else None

    def clear(self) -> None:
        self._done.clear()
        self._undone.clear()
        self._changed()

    def _move(self, source: List[Action], target: List[Action], apply: Callable[[Action], None]) -> Optional[str]:
        if not source:
            return None
        action = source.pop()
        apply(action)
        target.append(action)
        self._changed()
        return action.name

    def _changed(self) -> None:
        if self._onChanged is not None:
            self._onChanged()


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
                hierarchy.removeNode(node)

    def forth() -> None:
        current["ids"] = [node.GetID() for node in add()]

    logic.undoStack.push(Action(name, back, forth))
    return nodes
