"""Layouts for comparing scans: template above query, and one view per study; both can be undone.

Works on view nodes only, so it needs no main window: without one there is no layout node, and nothing happens.
"""

from __future__ import annotations

from typing import Optional

import slicer
import slicer.util

from SAMv2SlicerLib.scene.slice_views import layoutNode

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
