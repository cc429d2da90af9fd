"""What belongs to two scans lies in one folder of the subject hierarchy, under the moving scan's study."""

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

import slicer
import vtk
from panel_tools import patientItems

from SAMv2SlicerLib.register import comparison
from SAMv2SlicerLib.scene import node_geometry
from SAMv2SlicerLib.scene.hierarchy import removeNode
from SAMv2SlicerLib.scene.undo import addUndoably


@pytest.fixture
def hierarchy(scene):
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)


def folders(hierarchy):
    """Names of all folders of ours."""
    ids = vtk.vtkIdList()
    hierarchy.GetItemChildren(hierarchy.GetSceneItemID(), ids, True)
    items = [ids.GetId(n) for n in range(ids.GetNumberOfIds())]
    return [hierarchy.GetItemName(item) for item in items if hierarchy.GetItemAttribute(item, "SAMv2.pair")]


def parentName(hierarchy, node):
    return hierarchy.GetItemName(hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)))


def test_outputs_of_a_pair_share_a_folder(logic, pair, scene, hierarchy):
    fixed, moving = pair
    patientItems(scene, {"P": [fixed, moving]})
    transform = logic.registerVolumes(fixed, moving)
    moving.SetName("renamed")  # no reason for another folder
    (board,) = addUndoably(logic, "board", lambda: (comparison.addCheckerboard(fixed, moving),))
    resampled = comparison.addResampled(fixed, moving, node_geometry.volumeFromNode(fixed))
    assert folders(hierarchy) == ["SAMv2 CT 2021 → CT 2023"]
    for node in (transform, board, resampled):
        assert parentName(hierarchy, node) == "SAMv2 CT 2021 → CT 2023"
    folder = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(transform))
    assert hierarchy.GetItemName(hierarchy.GetItemParent(folder)) == "Study"
    other = comparison.addResampled(moving, fixed, node_geometry.volumeFromNode(moving))
    assert len(folders(hierarchy)) == 2 and parentName(hierarchy, other) == "SAMv2 renamed → CT 2021"


def test_an_empty_folder_goes_with_its_last_node(logic, pair, scene, hierarchy):
    patientItems(scene, {"P": list(pair)})
    logic.registerVolumes(*pair)
    addUndoably(logic, "board", lambda: (comparison.addCheckerboard(*pair),))
    logic.undoStack.undo()
    assert len(folders(hierarchy)) == 1  # the transform is in it
    logic.undoStack.undo()
    assert folders(hierarchy) == []
    logic.undoStack.redo()
    transform = scene.GetFirstNodeByClass("vtkMRMLLinearTransformNode")
    assert len(folders(hierarchy)) == 1 and parentName(hierarchy, transform).startswith("SAMv2 ")


def test_users_folders_stay(logic, pair, scene, hierarchy):
    patientItems(scene, {"P": list(pair)})
    mine = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "mine")
    transform = logic.registerVolumes(*pair)
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(transform), mine)
    removeNode(transform)
    assert hierarchy.GetItemName(mine) == "mine"
