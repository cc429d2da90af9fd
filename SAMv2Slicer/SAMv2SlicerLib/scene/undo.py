"""The module's own undo: Slicer's scene undo is off by default and does not cover markups and transforms reliably.

An action is a name with two closures, *back* and *forth*. They find their nodes by ID at the time they run and do
nothing when a node is gone, so no action keeps a node alive or brings back what the user deleted. The stack is bounded
and is cleared when the scene closes. A closure that makes or removes many nodes is a generator, which goes a step in
each turn of the event loop where there is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import GeneratorType
from typing import Any, Callable, Dict, Generator, List, Optional, Sequence

import slicer

from SAMv2SlicerLib.scene import hierarchy

MAXIMUM_ACTIONS = 100

Steps = Generator[None, None, Any]
InTurns = Callable[[str, Steps, Callable[[bool], None]], None]
"""Called with the name of an action in steps, with these, and with what to call when they have ended: whether they came
to their end, else they have left everything as it was."""


@dataclass
class Action:
    """Something the module did and can take back.

    :param name: short, translated, without a final period: "match 3 points".
    :param key: consecutive actions with the same key (not None) merge into one: a drag is one action, not fifty.
    """

    name: str
    back: Callable[[], Any]
    forth: Callable[[], Any]
    key: Optional[str] = None


class UndoStack:
    """Actions that were done, and those taken back."""

    def __init__(self, onChanged: Optional[Callable[[], None]] = None) -> None:
        self._done: List[Action] = []
        self._undone: List[Action] = []
        self._onChanged = onChanged
        self._moving: Optional[Steps] = None

    def push(self, action: Action) -> None:
        """Remember an action that has just been done; one on its way is finished before."""
        self.finish()
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

    def undo(self, inTurns: Optional[InTurns] = None) -> Optional[str]:
        """Take the last action back; its name, or None when there is none, or another one is still on its way.

        :param inTurns: goes through the steps of an action that has some; without it all are done now.
        """
        return self._move(self._done, self._undone, lambda action: action.back(), inTurns)

    def redo(self, inTurns: Optional[InTurns] = None) -> Optional[str]:
        """Do the last undone action again; else as :meth:`undo`."""
        return self._move(self._undone, self._done, lambda action: action.forth(), inTurns)

    def isMoving(self) -> bool:
        """Whether an action is on its way, step by step."""
        return self._moving is not None

    def finish(self) -> None:
        """Take the steps that are left now."""
        steps, self._moving = self._moving, None
        for _ in steps or ():
            pass

    def nextUndo(self) -> Optional[str]:
        return self._done[-1].name if self._done and self._moving is None else None

    def nextRedo(self) -> Optional[str]:
        return self._undone[-1].name if self._undone and self._moving is None else None

    def clear(self) -> None:
        self._moving = None
        self._done.clear()
        self._undone.clear()
        self._changed()

    def _move(
        self,
        source: List[Action],
        target: List[Action],
        apply: Callable[[Action], Any],
        inTurns: Optional[InTurns],
    ) -> Optional[str]:
        if not source or self._moving is not None:
            return None
        action = source.pop()
        steps = apply(action)
        target.append(action)
        if isinstance(steps, GeneratorType):
            self._moving = steps
            if inTurns is None:
                self.finish()
            else:
                inTurns(action.name, steps, lambda isDone: self._moved(steps, action, source, target, isDone))
        self._changed()
        return action.name

    def _moved(self, steps: Steps, action: Action, source: List[Action], target: List[Action], isDone: bool) -> None:
        if self._moving is steps:  # else it was finished before, and perhaps another one is on its way
            self._moving = None
        if not isDone and action in target:
            target.remove(action)
            source.append(action)
        self._changed()

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
