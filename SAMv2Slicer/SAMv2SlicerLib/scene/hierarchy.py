"""The subject hierarchy: whose patient a scan is, where results go, and nothing left behind when they go.

What belongs to two scans has a folder beside the query, which is gone when it is empty again.
"""

from __future__ import annotations

from typing import Any, List, Optional

import slicer
import vtk

from SAMv2SlicerLib import texts

ATTRIBUTE = "SAMv2.pair"
"""Of the folder's item: the IDs of both volumes, so that renaming a volume does not make a second folder."""


def hierarchyOf(scene):
    """The scene's subject hierarchy, or None without a scene."""
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene) if scene is not None else None


def patientMismatch(nodeA, nodeB) -> str:
    """A text when two volumes are known to belong to different patients, else empty."""
    if nodeA is None or nodeB is None:
        return ""
    identifiers = [_patientID(node) for node in (nodeA, nodeB)]
    if None in identifiers or identifiers[0] == identifiers[1]:
        return ""
    return texts.otherPatient(*identifiers)


def _patientID(volumeNode) -> Optional[str]:
    """PatientID of the subject hierarchy's patient above a volume."""
    hierarchy = hierarchyOf(volumeNode.GetScene())
    item = hierarchy.GetItemByDataNode(volumeNode) if hierarchy is not None else 0
    return (hierarchy.GetAttributeFromItemAncestor(item, "DICOM.PatientID", "Patient") or None) if item else None


def patientItem(volumeNode) -> int:
    """Subject hierarchy item of the patient that a volume belongs to, 0 without one."""
    hierarchy = hierarchyOf(volumeNode.GetScene()) if volumeNode is not None else None
    item = hierarchy.GetItemByDataNode(volumeNode) if hierarchy is not None else 0
    return hierarchy.GetItemAncestorAtLevel(item, "Patient") if item else 0


# --- where nodes go ---


def place(node, templateNode, queryNode) -> None:
    """Put a node into the folder of two volumes (template or fixed, query or moving), making it when there is none."""
    hierarchy = hierarchyOf(node.GetScene())
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
    hierarchy = hierarchyOf(node.GetScene())
    item = hierarchy.GetItemByDataNode(node) if hierarchy is not None else 0
    parent = hierarchy.GetItemParent(item) if item else 0
    return parent if parent and _pairOf(hierarchy, parent) else 0


def removeIfEmpty(scene, folder: int) -> None:
    """Remove a pair's folder that holds nothing (any more)."""
    hierarchy = hierarchyOf(scene)
    if folder and hierarchy is not None and not _children(hierarchy, folder):
        hierarchy.RemoveItem(folder)


def placeBeside(node, neighbor, asChild: bool = False) -> None:
    """Put a node into the subject hierarchy folder of another one (its study), or under it."""
    hierarchy = hierarchyOf(node.GetScene())
    neighborItem = hierarchy.GetItemByDataNode(neighbor) if hierarchy is not None else 0
    if not neighborItem:
        return
    parent = neighborItem if asChild else hierarchy.GetItemParent(neighborItem)
    item = hierarchy.GetItemByDataNode(node)
    if item:
        hierarchy.SetItemParent(item, parent)
    else:
        hierarchy.CreateItem(parent, node)


def removeNode(node) -> None:
    """Remove a node of ours with its display and storage nodes, and a folder of ours that becomes empty by that."""
    scene, folder = node.GetScene(), folderOf(node)
    companions = []
    if node.IsA("vtkMRMLDisplayableNode"):
        companions += [node.GetNthDisplayNode(n) for n in range(node.GetNumberOfDisplayNodes())]
    if node.IsA("vtkMRMLStorableNode"):
        companions.append(node.GetStorageNode())
    hierarchy = hierarchyOf(scene)
    scene.RemoveNode(node)
    item = hierarchy.GetItemByDataNode(node) if hierarchy is not None else 0
    if item:  # without Slicer's subject hierarchy plugins (a script without the application) it stays
        hierarchy.RemoveItem(item, False, False)
    for companion in companions:
        if companion is not None and companion.GetScene() is scene:
            scene.RemoveNode(companion)
    removeIfEmpty(scene, folder)


def _pairOf(hierarchy, item: int) -> str:
    return hierarchy.GetItemAttribute(item, ATTRIBUTE) or ""


def _children(hierarchy, item: int) -> List[Any]:
    ids = vtk.vtkIdList()
    hierarchy.GetItemChildren(item, ids, False)
    return [ids.GetId(n) for n in range(ids.GetNumberOfIds())]
