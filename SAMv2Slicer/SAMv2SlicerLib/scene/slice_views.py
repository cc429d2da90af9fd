"""Slice views: which of them show a volume, bringing them to a place, and side-by-side layouts that can be undone.

Works on view nodes only (``vtkMRMLSliceNode`` and its composite node), so it needs no main window: without views it
does nothing. Window and level are never touched.
"""

from __future__ import annotations

from typing import Any, List, Optional

import numpy as np
import slicer
import slicer.util


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


def jump(volumeNode, positionWorld: Optional[np.ndarray], centered: bool = True) -> int:
    """Bring the views that show a volume to a world RAS position; how many views moved.

    :param centered: put the position into the middle of the views; else only their slices move, so that what the user
        is looking at (or dragging) stays where it is on the screen.
    """
    if positionWorld is None:
        return 0
    nodes = sliceNodesShowing(volumeNode)
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


# Two rows of three; own singleton tags, so that the user's Red, Yellow and Green keep what they show.
SIDE_BY_SIDE_ID = 8127
ROWS = (("A", "#0072B2"), ("B", "#E69F00"))
ORIENTATIONS = ("Axial", "Sagittal", "Coronal")


def viewName(row: str, orientation: str) -> str:
    """Singleton tag of a view of the side-by-side layout."""
    return f"SAMv2-{row}-{orientation}"


STUDIES_ID = 8130
"""Layouts with one view per study have this ID plus the number of studies."""


def studyViewName(index: int) -> str:
    """Singleton tag of a study's view."""
    return f"SAMv2-S{index + 1}"


def studiesDescription(count: int) -> str:
    """Slicer's XML for one axial view per study, side by side."""
    views = "".join(
        f'<item><view class="vtkMRMLSliceNode" singletontag="{studyViewName(n)}">'
        f'<property name="orientation" action="default">Axial</property>'
        f'<property name="viewlabel" action="default">{n}</property>'
        f'<property name="viewcolor" action="default">{ROWS[min(n, 1)][1]}</property>'
        f'<property name="viewgroup" action="default">{10 + n}</property></view></item>'
        for n in range(count)
    )
    return f'<layout type="horizontal" split="true">{views}</layout>'


def sideBySideDescription() -> str:
    """Slicer's XML for the layout: A above B, axial, sagittal and coronal from left to right."""
    rows = []
    for group, (row, color) in enumerate(ROWS):
        views = "".join(
            f'<item><view class="vtkMRMLSliceNode" singletontag="{viewName(row, orientation)}">'
            f'<property name="orientation" action="default">{orientation}</property>'
            f'<property name="viewlabel" action="default">{row} {orientation[0]}</property>'
            f'<property name="viewcolor" action="default">{color}</property>'
            f'<property name="viewgroup" action="default">{group + 1}</property></view></item>'
            for orientation in ORIENTATIONS
        )
        rows.append(f'<item><layout type="horizontal">{views}</layout></item>')
    return f'<layout type="vertical" split="true">{"".join(rows)}</layout>'


class LayoutSwitch:
    """Changes the layout and puts the former one back."""

    def __init__(self) -> None:
        self._former: Optional[int] = None
        self._shown = -1

    def showSideBySide(self, templateNode, queryNode) -> bool:
        """Template above query, each with its own views; False without a main window."""
        if not self._show(SIDE_BY_SIDE_ID, sideBySideDescription()):
            return False
        for (row, _), volume in zip(ROWS, (templateNode, queryNode)):
            showInRow(row, volume)
        return True

    def showStudies(self, volumeNodes) -> bool:
        """One axial view per study, in order; False without a main window or without studies."""
        count = len(volumeNodes)
        if not count or not self._show(STUDIES_ID + count, studiesDescription(count)):
            return False
        for n, volume in enumerate(volumeNodes):
            _showInViews({studyViewName(n)}, volume, isLinked=False)
        return True

    def _show(self, layoutID: int, description: str) -> bool:
        node = layoutNode()
        if node is None:
            return False
        if not node.IsLayoutDescription(layoutID):
            node.AddLayoutDescription(layoutID, description)
        if self._former is None:
            self._former = node.GetViewArrangement()
        self._shown = layoutID
        node.SetViewArrangement(layoutID)
        return True

    def restore(self) -> None:
        """The layout from before, unless the user has chosen another one since."""
        node, former = layoutNode(), self._former
        self._former = None
        if node is not None and former is not None and node.GetViewArrangement() == self._shown:
            node.SetViewArrangement(former)


def showInRow(row: str, volumeNode) -> None:
    """Show a volume in one row of the side-by-side layout, sliced along its own axes."""
    _showInViews({viewName(row, orientation) for orientation in ORIENTATIONS}, volumeNode, isLinked=True)


def _showInViews(names, volumeNode, isLinked: bool) -> None:
    for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        if composite.GetLayoutName() in names:
            composite.SetBackgroundVolumeID(volumeNode.GetID() if volumeNode is not None else None)
            composite.SetLinkedControl(isLinked)
    for sliceNode in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
        if sliceNode.GetLayoutName() in names and volumeNode is not None:
            sliceNode.RotateToVolumePlane(volumeNode)


class Comparison:
    """Fixed and moving over each other in all slice views, with a way back."""

    def __init__(self) -> None:
        self._former: List[tuple] = []

    def show(self, fixedNode, movingNode, opacity: float = 0.5) -> None:
        """Fixed as background, moving as foreground, faded by ``opacity``."""
        if not self._former:
            self._former = [
                (node.GetID(), node.GetBackgroundVolumeID(), node.GetForegroundVolumeID(), node.GetForegroundOpacity())
                for node in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
            ]
        for nodeID, *_ in self._former:
            node = slicer.mrmlScene.GetNodeByID(nodeID)
            if node is not None:
                node.SetBackgroundVolumeID(fixedNode.GetID())
                node.SetForegroundVolumeID(movingNode.GetID())
                node.SetForegroundOpacity(opacity)

    def isShown(self) -> bool:
        return bool(self._former)

    def fade(self, opacity: float) -> None:
        """Change the weight of the moving volume."""
        for nodeID, *_ in self._former:
            node = slicer.mrmlScene.GetNodeByID(nodeID)
            if node is not None:
                node.SetForegroundOpacity(opacity)

    def restore(self) -> None:
        """What the views showed before."""
        for nodeID, background, foreground, opacity in self._former:
            node = slicer.mrmlScene.GetNodeByID(nodeID)
            if node is not None:
                node.SetBackgroundVolumeID(background)
                node.SetForegroundVolumeID(foreground)
                node.SetForegroundOpacity(opacity)
        self._former = []
