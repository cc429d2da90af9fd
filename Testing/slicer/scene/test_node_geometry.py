"""Geometry between the scene and SAMv2Core, against SimpleITK and against Slicer's own file formats."""

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

import slicer.util
import vtk
from phantoms import addPoints, addVolume, phantom

from SAMv2Core.errors import InputError
from SAMv2SlicerLib.scene import node_geometry
from SAMv2SlicerLib.scene.hierarchy import hierarchyOf

MICROMETER = 1e-3
"""Positions go through float64 matrices only; one micrometer is far above rounding and far below a voxel."""


def rotation(axis, degrees):
    transform = vtk.vtkTransform()
    transform.RotateWXYZ(degrees, *axis)
    return slicer.util.arrayFromVTKMatrix(transform.GetMatrix())


def geometries():
    scale = np.diag([0.9, 1.1, 3.0, 1.0])
    oblique = rotation((1, 2, 3), 25) @ scale
    oblique[:3, 3] = [12.5, -80, 400]
    return {
        "RAS": scale,
        "LPS": np.diag([-1.0, -1.0, 1.0, 1.0]) @ scale,
        "left-handed": np.diag([-1.0, 1.0, 1.0, 1.0]) @ scale,
        "oblique": oblique,
        "sagittal": np.array([[0, 0, 3.0, 1], [1, 0, 0, 2], [0, 1, 0, 3], [0, 0, 0, 1]]),
    }


def under(scene, node, matrix):
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    node.SetAndObserveTransformNodeID(transform.GetID())
    return transform


def bend(scene, node):
    """A smooth non-linear parent (thin plate spline, some 10 mm)."""
    spline = vtk.vtkThinPlateSplineTransform()
    spline.SetBasisToR()
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    rng = np.random.default_rng(0)
    for point in rng.uniform(-60, 60, (12, 3)):
        source.InsertNextPoint(point)
        target.InsertNextPoint(point + rng.uniform(-8, 8, 3))
    spline.SetSourceLandmarks(source)
    spline.SetTargetLandmarks(target)
    transform = scene.AddNewNodeByClass("vtkMRMLTransformNode")
    transform.SetAndObserveTransformToParent(spline)
    node.SetAndObserveTransformNodeID(transform.GetID())
    return transform


@pytest.mark.parametrize("name", geometries())
def test_volume_has_the_positions_of_the_file_that_slicer_would_save(scene, tmp_path, name):
    node = addVolume("CT", phantom((6, 7, 8)), geometries()[name])
    path = str(tmp_path / "ct.nrrd")
    storage = scene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    storage.SetFileName(path)
    assert storage.WriteData(node)
    image = sitk.ReadImage(path)
    volume = node_geometry.volumeFromNode(node)
    for ijk in ((0, 0, 0), (7, 0, 0), (0, 6, 0), (0, 0, 5), (3, 4, 2)):
        expected = image.TransformIndexToPhysicalPoint(ijk)
        assert np.allclose(volume.ijk_to_lps @ [*ijk, 1], [*expected, 1], atol=MICROMETER)
        assert volume.array[ijk[::-1]] == image.GetPixel(ijk)


def test_volume_is_a_copy(scene):
    node = addVolume("CT", phantom((6, 7, 8)), np.eye(4))
    volume = node_geometry.volumeFromNode(node)
    before = volume.array.copy()
    slicer.util.arrayFromVolume(node)[:] = 0
    assert np.array_equal(volume.array, before)


def test_volume_there_and_back(scene):
    for name, matrix in geometries().items():
        node = addVolume(name, phantom((6, 7, 8)), matrix)
        again = node_geometry.addVolumeNode(node_geometry.volumeFromNode(node), "again")
        assert np.array_equal(slicer.util.arrayFromVolume(again), slicer.util.arrayFromVolume(node))
        assert np.allclose(node_geometry.ijkToLPS(again), node_geometry.ijkToLPS(node), atol=1e-9)


def test_points_are_carried_through_a_chain_of_linear_parents(scene):
    node = addVolume("CT", phantom((6, 7, 8)), geometries()["oblique"])
    inner = under(scene, node, rotation((0, 0, 1), 40) + [[0, 0, 0, 5], [0, 0, 0, 0], [0, 0, 0, -9], [0, 0, 0, 0]])
    outer = under(scene, inner, np.diag([1.2, 1.0, 0.8, 1.0]))
    world = np.array([[10.0, 20, 30], [-5, 0, 300]])
    lps = node_geometry.worldToVolumeLPS(node, world)
    total = slicer.util.arrayFromTransformMatrix(outer) @ slicer.util.arrayFromTransformMatrix(inner)
    expected = (np.linalg.inv(total) @ np.c_[world, np.ones(2)].T).T[:, :3] * [-1, -1, 1]
    assert np.allclose(lps, expected, atol=MICROMETER)
    assert np.allclose(node_geometry.volumeLPSToWorld(node, lps), world, atol=MICROMETER)


def test_points_are_carried_through_a_non_linear_parent(scene):
    node = addVolume("CT", phantom((6, 7, 8)), np.eye(4))
    transform = bend(scene, node)
    local = np.array([[10.0, 20, -30], [0, 0, 0], [-40, 5, 15]])
    expected = np.array([transform.GetTransformToParent().TransformPoint(point) for point in local])
    world = node_geometry.volumeLPSToWorld(node, local * [-1, -1, 1])
    assert np.allclose(world, expected, atol=MICROMETER)
    assert np.abs(world - local).max() > 1  # the transform does something
    back = node_geometry.worldToVolumeLPS(node, world) * [-1, -1, 1]
    assert np.allclose(back, local, atol=0.05)  # VTK inverts splines iteratively, by default to 0.001 of their scale
    assert node_geometry.isUnderNonLinearTransform(node)
    with pytest.raises(InputError, match="non-linear"):
        node_geometry.worldFromNodeMatrix(node)


def test_points_of_a_transformed_list_are_read_in_world(scene):
    points = addPoints(scene, [(1, 2, 3)])
    under(scene, points, rotation((0, 0, 1), 90))
    assert np.allclose(node_geometry.pointWorld(points, 0), (-2, 1, 3), atol=MICROMETER)


def test_undefined_and_missing_points_are_not_defined(scene):
    points = addPoints(scene, [(1, 2, 3), (4, 5, 6), (7, 8, 9)])
    points.UnsetNthControlPointPosition(1)
    assert node_geometry.definedPointIndices(points) == (0, 2)


def some_rigid_matrix():
    """A rigid fixed-to-moving map in LPS, some 20 degrees and 30 mm."""
    matrix = rotation((0.3, -0.5, 1.0), 20)
    matrix[:3, 3] = [9, -25, 12]
    return matrix


def test_transform_node_resamples_like_simpleitk(scene, tmp_path):
    """The node applied to the moving volume = sitk.Resample(moving, fixed, transform) with the same matrix."""
    fixed = addVolume("fixed", phantom((20, 24, 28), seed=1), np.diag([2.0, 2, 2, 1]))
    leftHanded = np.diag([-2.0, 2.5, 3, 1])
    leftHanded[:3, 3] = [55, -5, -10]
    moving = addVolume("moving", phantom((24, 20, 22), seed=2), leftHanded)
    matrix = some_rigid_matrix()
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node_geometry.setTransformFromMatrix(node, matrix, fixed, moving)
    moving.SetAndObserveTransformNodeID(node.GetID())

    images = {}
    for volume in (fixed, moving):
        core = node_geometry.volumeFromNode(volume)
        image = sitk.GetImageFromArray(core.array.astype(np.float32))
        spacing = np.linalg.norm(core.ijk_to_lps[:3, :3], axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetDirection((core.ijk_to_lps[:3, :3] / spacing).ravel().tolist())
        image.SetOrigin(core.ijk_to_lps[:3, 3].tolist())
        images[volume.GetName()] = image
    transform = sitk.AffineTransform(matrix[:3, :3].ravel().tolist(), matrix[:3, 3].tolist())
    resampled = sitk.GetArrayFromImage(
        sitk.Resample(images["moving"], images["fixed"], transform, sitk.sitkLinear, -7.0)
    )

    # Where does each fixed voxel lie in the moving volume, according to the scene?
    inside = np.argwhere(resampled != -7)[::17]
    fixed_world = (
        node_geometry.LPS_FROM_RAS @ node_geometry.ijkToLPS(fixed) @ np.c_[inside[:, ::-1], np.ones(len(inside))].T
    ).T[:, :3]
    moving_lps = node_geometry.worldToVolumeLPS(moving, fixed_world)
    values = [images["moving"].EvaluateAtPhysicalPoint(point.tolist(), sitk.sitkLinear) for point in moving_lps]
    assert len(values) > 20
    assert np.allclose(values, resampled[tuple(inside.T)], atol=0.05)  # HU; float32 interpolation of values to 1500


def test_transform_node_equals_slicers_reading_of_an_itk_file(scene, tmp_path):
    fixed = addVolume("fixed", phantom((6, 7, 8)), np.eye(4))
    moving = addVolume("moving", phantom((6, 7, 8)), np.eye(4))
    matrix = some_rigid_matrix()
    path = str(tmp_path / "t.tfm")
    sitk.WriteTransform(sitk.AffineTransform(matrix[:3, :3].ravel().tolist(), matrix[:3, 3].tolist()), path)
    loaded = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    storage = scene.AddNewNodeByClass("vtkMRMLTransformStorageNode")
    storage.SetFileName(path)
    assert storage.ReadData(loaded)
    ours = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node_geometry.setTransformFromMatrix(ours, matrix, fixed, moving)
    assert np.allclose(
        slicer.util.arrayFromTransformMatrix(ours), slicer.util.arrayFromTransformMatrix(loaded), atol=1e-6
    )


def test_transform_node_below_existing_parents_still_aligns(scene):
    fixed = addVolume("fixed", phantom((6, 7, 8)), geometries()["oblique"])
    moving = addVolume("moving", phantom((6, 7, 8)), geometries()["LPS"])
    under(scene, fixed, rotation((0, 1, 0), 33))
    parent = under(scene, moving, rotation((1, 0, 0), -70) + [[0, 0, 0, 40], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    matrix = some_rigid_matrix()
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    for _ in range(2):  # the second time the node already is the parent, as after registering again
        node_geometry.setTransformFromMatrix(node, matrix, fixed, moving)
        node.SetAndObserveTransformNodeID(parent.GetID())
        moving.SetAndObserveTransformNodeID(node.GetID())
        fixed_lps = np.array([[5.0, -7, 11], [0, 0, 0], [100, 20, -30]])
        moving_lps = (matrix @ np.c_[fixed_lps, np.ones(3)].T).T[:, :3]
        assert np.allclose(
            node_geometry.volumeLPSToWorld(moving, moving_lps),
            node_geometry.volumeLPSToWorld(fixed, fixed_lps),
            atol=MICROMETER,
        )


def test_volumes_that_cannot_be_embedded_say_why(scene):
    empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "MRHead2")
    with pytest.raises(InputError, match="MRHead2 has no voxels"):
        node_geometry.volumeFromNode(empty)
    with pytest.raises(InputError, match="No volume"):
        node_geometry.volumeFromNode(None)
    with pytest.raises(InputError, match="not a scalar volume"):
        node_geometry.volumeFromNode(addPoints(scene, []))
    color = slicer.util.addVolumeFromArray(
        np.zeros((4, 5, 6, 3), dtype=np.uint8), np.eye(4), "photo", "vtkMRMLVectorVolumeNode"
    )
    with pytest.raises(InputError, match="photo is a color volume"):
        node_geometry.volumeFromNode(color)


def test_modality_comes_from_dicom_only(scene):
    node = addVolume("MR of the head", phantom((6, 7, 8)), np.eye(4))
    assert node_geometry.modalityOfNode(node) is None
    node.SetAttribute("DICOM.Modality", "MR")
    assert node_geometry.modalityOfNode(node) == "mr"
    items = hierarchyOf(scene)
    other = addVolume("CT", phantom((6, 7, 8)), np.eye(4))
    item = items.GetItemByDataNode(other) or items.CreateItem(items.GetSceneItemID(), other)
    items.SetItemAttribute(item, "DICOM.Modality", "CT")
    assert node_geometry.modalityOfNode(other) == "ct"


def test_crop_box(scene):
    node = addVolume("CT", phantom((6, 7, 8)), geometries()["oblique"])
    center, size = node_geometry.boxFromIJK(node, (1, 2, 3), (4, 5, 5))
    ijk_to_ras = node_geometry.LPS_FROM_RAS @ node_geometry.ijkToLPS(node)
    assert np.allclose(center, (ijk_to_ras @ [2.5, 3.5, 4, 1])[:3], atol=MICROMETER)
    assert np.allclose(size, [4 * 0.9, 4 * 1.1, 3 * 3.0])
