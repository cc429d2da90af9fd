"""Scans of one synthetic patient at three times, and lesions marked in the first."""

import numpy as np
import slicer
import slicer.util
import vtk
from phantoms import SHIFT_LPS, addPair, addPoints, addVolume, phantom
from vtk.util.numpy_support import numpy_to_vtk

PLACES_RAS = np.array([[11.0, 13, 141], [-13, -7, 133], [3, 21, 149]])
"""Centers of feature voxels of the baseline, see test_logic.py."""

SHIFT_RAS = SHIFT_LPS * [-1, -1, 1]
THIRD_SHIFT_RAS = np.array([-10.0, 6.0, 12.0])


def addStudies(scene):
    """(baseline, first follow-up, second follow-up) volume nodes; the same voxels, shifted in the world."""
    baseline, first = addPair(scene)
    matrix = np.array([[2, 0, 0, -50], [0, 2, 0, -40], [0, 0, 2, 100], [0, 0, 0, 1]], dtype=float)
    matrix[:3, 3] += THIRD_SHIFT_RAS
    return baseline, first, addVolume("CT 2024", phantom(), matrix)


def addLesionPoints(scene, name="L", labels=("liver", "spleen", "node")):
    return addPoints(scene, PLACES_RAS, name=name, labels=list(labels))


def addLine(scene, center, length=12.0, name="RECIST 1"):
    """A line markup of a length along y around a world position."""
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsLineNode", name)
    node.CreateDefaultDisplayNodes()
    for sign in (-0.5, 0.5):
        node.AddControlPointWorld(vtk.vtkVector3d(*(np.asarray(center) + [0, sign * length, 0])))
    return node


def addSegment(scene, center, sizeMm=(12.0, 8.0, 6.0), spacing=2.0, name="tumor", isCut=False):
    """A segmentation with one box-shaped segment around a world position; ``isCut``: with a gap in the middle."""
    image = slicer.vtkOrientedImageData()
    shape = [round(s / spacing) for s in sizeMm]
    image.SetDimensions(*(n + 4 for n in shape))
    image.SetSpacing(spacing, spacing, spacing)
    image.SetOrigin(*(c - spacing * (n + 3) / 2 for c, n in zip(center, shape)))
    values = np.zeros([n + 4 for n in shape[::-1]], np.uint8)
    values[2:-2, 2:-2, 2:-2] = 1
    if isCut:
        values[:, :, values.shape[2] // 2] = 0
    image.GetPointData().SetScalars(numpy_to_vtk(values.ravel(), deep=True))
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Segmentation")
    node.CreateDefaultDisplayNodes()
    node.AddSegmentFromBinaryLabelmapRepresentation(image, name, [1.0, 0.0, 0.0])
    return node
