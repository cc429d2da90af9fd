"""Rings around matches that need a look: in the slice views, too, nothing is told by color alone.

Slicer draws all points of a list with one glyph, so the rings are points of a list of their own behind each matched
list: hidden from editors, locked (a locked list is never picked, so the match below can be dragged), not saved. They
follow their matched list and go with it.
"""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np
import slicer
import slicer.util
import vtk

from SAMv2SlicerLib.scene import node_geometry

ROLE = "SAMv2.ringsOf"
SCALE = 2.2
"""Of the match's own glyph."""


def ringsOf(listNode, scene: Any = None):
    """The list of rings of a matched list, or None.

    :param scene: of a list that has just been removed from it; by default the list's own.
    """
    scene = scene or listNode.GetScene()
    for node in slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode", scene=scene) if scene is not None else ():
        if node.GetNodeReferenceID(ROLE) == listNode.GetID():
            return node
    return None


def show(listNode, indices: Sequence[int]) -> None:
    """Make the rings of a matched list be those around the points with these indices.

    A list without any stays: to add or remove a node costs Slicer as much time as a match.
    """
    node = ringsOf(listNode)
    if node is None and not indices:
        return
    node = node or _add(listNode)
    places = node_geometry.pointsWorld(listNode, indices)
    with slicer.util.NodeModify(node):
        if node.GetNumberOfControlPoints() != len(places):
            node.RemoveAllControlPoints()
            for place in places:
                node.AddControlPointWorld(vtk.vtkVector3d(*place), "")
        else:
            for n, place in enumerate(places):
                if not np.allclose(node_geometry.pointWorld(node, n), place, atol=1e-6):
                    node.SetNthControlPointPositionWorld(n, *place)
    follow(listNode, node)


def follow(listNode, node: Any = None) -> None:
    """Show the rings where and as large as the matched list is shown."""
    node = node or ringsOf(listNode)
    if node is None or listNode.GetDisplayNode() is None:
        return
    display, shown = node.GetDisplayNode(), listNode.GetDisplayNode()
    with slicer.util.NodeModify(display):
        display.SetVisibility(shown.GetVisibility())
        display.SetVisibility2D(shown.GetVisibility2D())
        display.SetUseGlyphScale(shown.GetUseGlyphScale())
        display.SetGlyphScale(SCALE * shown.GetGlyphScale())
        display.SetGlyphSize(SCALE * shown.GetGlyphSize())
        display.SetSelectedColor(*shown.GetColor())
        display.SetOpacity(shown.GetOpacity())


def remove(node) -> None:
    """Remove a list of rings with its display node; None is no list."""
    if node is None or node.GetScene() is None:
        return
    scene, display = node.GetScene(), node.GetDisplayNode()
    scene.RemoveNode(node)
    if display is not None:
        scene.RemoveNode(display)


def _add(listNode):
    scene = listNode.GetScene()
    node = scene.CreateNodeByClass("vtkMRMLMarkupsFiducialNode")
    node.UnRegister(None)
    node.SetName(f"{listNode.GetName()} rings")
    node.SetHideFromEditors(True)
    node.SetSaveWithScene(False)
    node = scene.AddNode(node)
    node.SetNodeReferenceID(ROLE, listNode.GetID())
    node.CreateDefaultDisplayNodes()
    node.SetLocked(True)
    display = node.GetDisplayNode()
    display.SetSaveWithScene(False)
    display.SetGlyphType(display.StarBurst2D)
    display.SetPointLabelsVisibility(False)
    display.SetVisibility3D(False)
    return node
