"""Slice views: which of them show a volume, and bringing them to a place.

Works on view nodes only (``vtkMRMLSliceNode`` and its composite node), so it needs no main window: without views it
does nothing. Window and level are never touched.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Callable, Iterator, List, Optional, Tuple

import numpy as np
import qt
import slicer
import slicer.util

PARALLEL = 0.7
"""Cosine between the normals of two views that show the same plane: the planes of a scan are at right angles."""


_held: List[Callable[[], None]] = []
"""What waits for the end of :func:`drawnOnce`."""
_depth = 0
_isPaused = False


@contextmanager
def drawnOnce() -> Iterator[None]:
    """While active no view is drawn, and in the next turn of the event loop all that was asked for once.

    With each of a dozen changes of nodes Slicer may draw all views, before it goes on. Part of what it asks of a view
    comes through the event loop: it would draw again what was drawn before, and with each view the whole window.
    """
    global _depth
    _pause()
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        while _held and not _depth:
            _held.pop(0)()


def _pause() -> None:
    global _isPaused
    if not _isPaused and getattr(slicer.app, "pauseRender", None) is not None:
        slicer.app.pauseRender()
        _isPaused = True
        qt.QTimer.singleShot(1, _resume)  # not 0, which some versions of Qt take for the next event in the queue


def _resume() -> None:
    global _isPaused
    _isPaused = False
    slicer.app.resumeRender()


def isHeld() -> bool:
    """Whether :func:`drawnOnce` is active: more is about to change."""
    return _depth > 0


def beforeDrawing(follow: Callable[[], None]) -> None:
    """Follow what has changed: now, or once before the views are drawn again when more is about to change."""
    if not _depth:
        follow()
    elif follow not in _held:
        _held.append(follow)


def compositesShowing(volumeNode) -> List[Any]:
    """Composite nodes of the slice views with this volume as background or foreground."""
    if volumeNode is None or volumeNode.GetScene() is None:
        return []
    volumeID = volumeNode.GetID()
    return [
        node
        for node in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
        if volumeID in (node.GetBackgroundVolumeID(), node.GetForegroundVolumeID())
    ]


def sliceNodesShowing(volumeNode) -> List[Any]:
    """Slice nodes of the views that show this volume."""
    names = {composite.GetLayoutName() for composite in compositesShowing(volumeNode)}
    return [node for node in slicer.util.getNodesByClass("vtkMRMLSliceNode") if node.GetLayoutName() in names]


def isInView(volumeNode) -> bool:
    """Whether any slice view on the screen shows a volume; yes, too, where there is no window to look at."""
    if layoutNode() is None:
        return True
    return any(node.IsMappedInLayout() for node in sliceNodesShowing(volumeNode))


def show(volumeNode) -> None:
    """Show a volume in all slice views on the screen, all of it."""
    nodes, composites = onScreen()
    for composite in composites:
        composite.SetBackgroundVolumeID(volumeNode.GetID())
    for node in nodes:
        fit(node)


def onScreen() -> Tuple[List[Any], List[Any]]:
    """(slice nodes, composite nodes) of the views on the screen; all there are where there is no window."""
    nodes = slicer.util.getNodesByClass("vtkMRMLSliceNode")
    composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    if layoutNode() is None:
        return nodes, composites
    nodes = [node for node in nodes if node.IsMappedInLayout()]
    names = {node.GetLayoutName() for node in nodes}
    return nodes, [node for node in composites if node.GetLayoutName() in names]


def fit(sliceNode) -> None:
    """Let a slice view show all of its volumes, with their middle in its middle."""
    logic = slicer.app.applicationLogic().GetSliceLogic(sliceNode) if sliceNode is not None else None
    if logic is not None:
        logic.FitSliceToAll()
        logic.SnapSliceOffsetToIJK()


def cuts(sliceNode, volumeNode) -> bool:
    """Whether the middle of a slice view lies within a volume, so that something of it is seen there."""
    bounds = [0.0] * 6
    volumeNode.GetRASBounds(bounds)
    low, high = np.array(bounds[0::2]), np.array(bounds[1::2])
    middle = middleOf(sliceNode)
    return bool(np.all((middle >= low) & (middle <= high)))


def middleOf(sliceNode) -> np.ndarray:
    """(3,) world RAS of the middle of a slice view."""
    return np.array([sliceNode.GetSliceToRAS().GetElement(row, 3) for row in range(3)])


def planeOf(sliceNode) -> Tuple[np.ndarray, Tuple[float, ...]]:
    """Where a slice view is, and how much it shows."""
    return slicer.util.arrayFromVTKMatrix(sliceNode.GetSliceToRAS()), tuple(sliceNode.GetFieldOfView())


def setPlane(sliceNode, plane: Tuple[np.ndarray, Tuple[float, ...]]) -> None:
    """Bring a slice view back to where it was."""
    toRAS, fieldOfView = plane
    sliceNode.GetSliceToRAS().DeepCopy(slicer.util.vtkMatrixFromArray(toRAS))
    sliceNode.UpdateMatrices()
    sliceNode.SetFieldOfView(*fieldOfView)


def volumeIn(sliceNode) -> Any:
    """The volume that a slice view shows as background, None without one."""
    for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        if composite.GetLayoutName() == sliceNode.GetLayoutName():
            return slicer.mrmlScene.GetNodeByID(composite.GetBackgroundVolumeID() or "")
    return None


def areParallel(sliceNode, other) -> bool:
    """Whether two views show the same plane, as far as scans of one patient lie alike."""
    normals = [[node.GetSliceToRAS().GetElement(row, 2) for row in range(3)] for node in (sliceNode, other)]
    return bool(abs(np.dot(*normals)) > PARALLEL)


def jump(volumeNode, positionWorld: Optional[np.ndarray], centered: bool = True, like: Any = None) -> int:
    """Bring the views that show a volume to a world RAS position; how many views moved.

    :param centered: put the position into the middle of the views; else only their slices move, so that what the user
        is looking at (or dragging) stays where it is on the screen.
    :param like: a slice node; only the views of its plane move.
    """
    if positionWorld is None:
        return 0
    nodes = [node for node in sliceNodesShowing(volumeNode) if like is None or areParallel(node, like)]
    with drawnOnce():
        for node in nodes:
            if centered:
                node.JumpSliceByCentering(*(float(x) for x in positionWorld))
            else:
                node.JumpSliceByOffsetting(*(float(x) for x in positionWorld))
    return len(nodes)


def startPlacing(markupsNode, index: int) -> None:
    """Let the user's next click in a view place one control point that has no position."""
    selection = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSelectionNode")
    interaction = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLInteractionNode")
    if selection is None or interaction is None:
        return
    markupsNode.SetControlPointPlacementStartIndex(index)
    selection.SetReferenceActivePlaceNodeClassName(markupsNode.GetClassName())
    selection.SetActivePlaceNodeID(markupsNode.GetID())
    interaction.SetPlaceModePersistence(0)
    interaction.SetCurrentInteractionMode(slicer.vtkMRMLInteractionNode.Place)


def overlay(volumeNode, underNode, opacity: float = 0.5) -> None:
    """Show a volume half-transparent over another one, in the views that show that one."""
    for composite in compositesShowing(underNode):
        if composite.GetBackgroundVolumeID() == underNode.GetID():
            composite.SetForegroundVolumeID(volumeNode.GetID())
            composite.SetForegroundOpacity(opacity)


def showChart(chartNode) -> bool:
    """Show a plot in a layout with a plot view; False without a main window."""
    plots = getattr(slicer.modules, "plots", None)
    if layoutNode() is None or plots is None:
        return False
    plots.logic().ShowChartInLayout(chartNode)
    return True


def defaultVolumes() -> List[Any]:
    """Up to two different scalar volumes that the user is looking at, background before foreground."""
    found: List[Any] = []
    composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    ids = [node.GetBackgroundVolumeID() for node in composites] + [node.GetForegroundVolumeID() for node in composites]
    for volumeID in ids:
        node = slicer.mrmlScene.GetNodeByID(volumeID) if volumeID else None
        if node is not None and node.GetClassName() == "vtkMRMLScalarVolumeNode" and node not in found:
            found.append(node)
    return found[:2]


def layoutNode():
    """The application's layout node, None without a main window."""
    return slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
