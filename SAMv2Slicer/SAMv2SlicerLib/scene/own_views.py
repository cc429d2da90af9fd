"""Point lists only in the views of the scan that they lie in.

Slicer shows every list in all views, wherever its points happen to be: those of one scan then lie on foreign anatomy
of the other. While the module is shown, each list is confined to the slice views that show its scan, and to the 3D
views; Slicer then also refuses to place points of a list in the other views. What users chose for a list themselves
is written beside it, and comes back when the module is left or when a scene that was saved meanwhile is loaded.
"""

from __future__ import annotations

from typing import Any, Callable, Iterable, List, Tuple

import slicer
import slicer.util
import vtk

from SAMv2SlicerLib.scene import rings, slice_views
from SAMv2SlicerLib.scene.match_list import ROLE_QUERY
from SAMv2SlicerLib.scene.while_shown import WhileShown

ATTRIBUTE = "SAMv2.usersViews"
"""Of a display node: the IDs of the views that the list was confined to before, empty for all views."""

NOWHERE = "SAMv2NoView"
"""In place of a view's ID: a list that is confined to no views at all would be shown in all of them."""


def scanOf(markupsNode) -> Any:
    """The scan that one of the module's own lists and lines lies in, None for those of the user."""
    owner = markupsNode.GetNodeReference(rings.ROLE) or markupsNode
    return owner.GetNodeReference(ROLE_QUERY)


class OwnViews(WhileShown):
    """Confines lists to the views of their scans.

    :param usersLists: gives (markups node, volume node) of the user's own lists that are selected in the panel.
    """

    def __init__(self, usersLists: Callable[[], Iterable[Tuple[Any, Any]]]) -> None:
        super().__init__()
        self._usersLists = usersLists

    def change(self) -> None:
        self._followViews()
        wanted = {}
        spaces = [node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLViewNode")]
        for markupsNode, volumeNode in self._lists():
            ids = [node.GetID() for node in slice_views.sliceNodesShowing(volumeNode)] + spaces
            for n in range(markupsNode.GetNumberOfDisplayNodes()):
                display = markupsNode.GetNthDisplayNode(n)
                if display is not None:
                    wanted[display.GetID()] = sorted(ids) or [NOWHERE]
        for display in _displays():
            if display.GetID() in wanted:
                _confine(display, wanted[display.GetID()])
            else:
                _giveBack(display)

    def giveBack(self) -> None:
        release()

    def _lists(self) -> Iterable[Tuple[Any, Any]]:
        if not slicer.util.getNodesByClass("vtkMRMLSliceNode"):
            return
        for markupsNode in slicer.util.getNodesByClass("vtkMRMLMarkupsNode"):
            volumeNode = scanOf(markupsNode)
            if volumeNode is not None:
                yield markupsNode, volumeNode
        for markupsNode, volumeNode in self._usersLists():
            if markupsNode is not None and volumeNode is not None and markupsNode.GetScene() is not None:
                yield markupsNode, volumeNode

    def _followViews(self) -> None:
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            if not self.hasObserver(composite, vtk.vtkCommand.ModifiedEvent, self._onChanged):
                self.addObserver(composite, vtk.vtkCommand.ModifiedEvent, self._onChanged)

    def _onChanged(self, caller=None, event=None) -> None:
        slice_views.beforeDrawing(self.update)


def release() -> None:
    """Give all lists the views that they had; also those of a scene that was saved while the module was shown."""
    for display in _displays():
        _giveBack(display)


def _displays() -> List[Any]:
    return slicer.util.getNodesByClass("vtkMRMLMarkupsDisplayNode")


def _confine(display, ids: List[str]) -> None:
    if display.GetAttribute(ATTRIBUTE) is None:
        display.SetAttribute(ATTRIBUTE, " ".join(display.GetViewNodeIDs() or ()))
    _setViews(display, ids)


def _giveBack(display) -> None:
    before = display.GetAttribute(ATTRIBUTE)
    if before is not None:
        display.RemoveAttribute(ATTRIBUTE)
        _setViews(display, before.split())


def _setViews(display, ids: List[str]) -> None:
    if list(display.GetViewNodeIDs() or ()) == ids:
        return
    with slicer.util.NodeModify(display):
        display.RemoveAllViewNodeIDs()
        for nodeID in ids:
            display.AddViewNodeID(nodeID)
