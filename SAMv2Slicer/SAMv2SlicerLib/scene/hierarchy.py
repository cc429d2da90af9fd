"""A folder in the subject hierarchy for what belongs to two scans: beside the query, gone when it is empty again."""

from __future__ import annotations

from typing import Any, List

import vtk

from SAMv2SlicerLib import texts
from SAMv2SlicerLib.scene import node_geometry

ATTRIBUTE = "SAMv2.pair"
"""Of the folder's item: the IDs of both volumes, so that renaming a volume does not make a second folder."""


def place(node, templateNode, queryNode) -> None:
    """Put a node into the folder of two volumes (template or fixed, query or moving), making it when there is none."""
    hierarchy = node_geometry.subjectHierarchy(node.GetScene())
    queryItem = hierarchy.GetItemByDataNode(queryNode) if hierarchy is not None else 0
    if not queryItem:
        return
    parent = hierarchy.GetItemParent(queryItem)
    pair = f"{templateNode.GetID()} {queryNode.GetID()}"
    folder = next((item for item in _children(hierarchy, parent) if _pairOf(hierarchy, item) == pair), 0)
    if not folder:
        folder = hierarchy.CreateFolderItem(parent, texts.pairFolderName(templateNode.GetName(), queryNode.GetName()))
        hierarchy.SetItemAttribute(folder, ATTRIBUTE, pair)
    item = hierarchy.GetItemByDataNode(node)
    if item:
        hierarchy.SetItemParent(item, folder)
    else:
        hierarchy.CreateItem(folder, node)


def folderOf(node) -> int:
    """Item of the pair's folder that a node lies in, 0 when it lies elsewhere."""
    hierarchy = node_geometry.subjectHierarchy(node.GetScene())
    item = hierarchy.GetItemByDataNode(node) if hierarchy is not None else 0
    parent = hierarchy.GetItemParent(item) if item else 0
    return parent if parent and _pairOf(hierarchy, parent) else 0


def removeIfEmpty(scene, folder: int) -> None:
    """Remove a pair's folder that holds nothing (any more)."""
    hierarchy = node_geometry.subjectHierarchy(scene)
    if folder and hierarchy is not None and not _children(hierarchy, folder):
        hierarchy.RemoveItem(folder)


def _pairOf(hierarchy, item: int) -> str:
    return hierarchy.GetItemAttribute(item, ATTRIBUTE) or ""


def _children(hierarchy, item: int) -> List[Any]:
    ids = vtk.vtkIdList()
    hierarchy.GetItemChildren(item, ids, False)
    return [ids.GetId(n) for n in range(ids.GetNumberOfIds())]
