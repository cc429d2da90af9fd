"""Synthetic scans with known correspondence, small enough for a network on one core."""

import numpy as np
import slicer.util

SHIFT_LPS = np.array([14.0, -8.0, 6.0])
"""Query position = template position + this, mm, LPS."""


def phantom(shape=(40, 48, 56), seed=1):
    """(z, y, x) int16 HU: an ellipsoid body in air with many random blobs, so that every place looks different."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    body = (x / 0.9) ** 2 + (y / 0.85) ** 2 + (z / 2.0) ** 2 < 1
    texture = sum(
        gaussian_filter(rng.standard_normal(shape), sigma) * sigma**1.5 * weight
        for sigma, weight in ((1.2, 60), (3, 120), (6, 160))
    )
    hu = np.where(body, 40 + texture, -1000)
    return np.clip(hu, -1024, 1500).astype(np.int16)


def addVolume(name, array, ijkToRAS):
    """A scalar volume node in slicer.mrmlScene."""
    return slicer.util.addVolumeFromArray(array, np.asarray(ijkToRAS, dtype=float), name)


def addPair(scene):
    """(template node, query node): the same voxels at 2 mm; the query's are stored backwards along x and y, elsewhere.

    Nothing is cropped: a network with random weights is only exactly equivariant to shifts by whole strides.
    """
    array = phantom()
    templateRAS = np.array([[2, 0, 0, -50], [0, 2, 0, -40], [0, 0, 2, 100], [0, 0, 0, 1]], dtype=float)
    template = addVolume("CT 2021", array, templateRAS)
    shift = np.eye(4)
    shift[:3, 3] = SHIFT_LPS * [-1, -1, 1]
    stored = array[:, ::-1, ::-1].copy()
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    flip[:3, 3] = [array.shape[2] - 1, array.shape[1] - 1, 0]
    query = addVolume("CT 2023", stored, shift @ templateRAS @ flip)
    return template, query


def addPoints(scene, positionsRAS, name="F", labels=None):
    """A point list with defined points at world RAS positions."""
    import vtk

    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    node.CreateDefaultDisplayNodes()
    for n, position in enumerate(positionsRAS):
        label = labels[n] if labels else f"{name}-{n + 1}"
        node.AddControlPointWorld(vtk.vtkVector3d(*position), label)
    return node
