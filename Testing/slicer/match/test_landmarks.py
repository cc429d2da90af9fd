"""Named landmarks as a point list of the scene, with a seeded network and an atlas of its own."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

from phantoms import SHIFT_LPS

from SAMv2Core.errors import UnreliableResultError, UsageError
from SAMv2Core.landmarks.atlas import exemplar, save_atlas
from SAMv2SlicerLib.scene import node_geometry

PLACES_LPS = {"liver": (-11.0, -13.0, 141.0), "spleen": (13.0, 7.0, 133.0), "T12": (-3.0, -21.0, 149.0)}
TOLERANCE_MM = 4.0  # answers are centers of 4 mm voxels
SURE = {"bias": 4.0, "agreement": 0.0, "similarity": 0.0, "spread": 0.0, "edge": 0.0}


@pytest.fixture
def atlas(pair, tmp_path):
    """An atlas of the template's places, made with the tiny network."""
    from tiny_model import tinyModel

    emb = tinyModel().embed(node_geometry.volumeFromNode(pair[0]), modality="auto")
    path = tmp_path / "own.landmarks.safetensors"
    save_atlas(dataclasses.replace(exemplar(emb, PLACES_LPS, "template", {}), calibration=SURE), path)
    return str(path)


def test_landmarks_are_a_list_beside_the_volume(logic, pair, scene, atlas):
    node = logic.findLandmarks(pair[1], atlas=atlas)
    labels = [node.GetNthControlPointLabel(n) for n in range(node.GetNumberOfControlPoints())]
    assert labels == sorted(PLACES_LPS)
    for n, label in enumerate(labels):
        right = (np.array(PLACES_LPS[label]) + SHIFT_LPS) * [-1, -1, 1]
        assert np.abs(node_geometry.pointWorld(node, n) - right).max() <= TOLERANCE_MM
        assert node.GetNthControlPointDescription(n).startswith("status=matched") and node.GetNthControlPointLocked(n)
    assert node.GetAttribute("SAMv2.model") == "tiny"
    assert logic.undoStack.undo() and scene.GetNodeByID(node.GetID()) is None


def test_some_by_name_and_refusals(logic, pair, scene, atlas, tmp_path):
    node = logic.findLandmarks(pair[1], only=["T12"], atlas=atlas)
    assert node.GetNumberOfControlPoints() == 1
    before = scene.GetNumberOfNodesByClass("vtkMRMLMarkupsFiducialNode")
    with pytest.raises(UsageError, match="tail"):
        logic.findLandmarks(pair[1], only=["tail"], atlas=atlas)
    from SAMv2Core.landmarks.atlas import load_atlas

    unsure = dataclasses.replace(load_atlas(atlas), calibration={**SURE, "bias": -9.0})
    save_atlas(unsure, tmp_path / "unsure.safetensors")
    with pytest.raises(UnreliableResultError, match="none was found"):
        logic.findLandmarks(pair[1], atlas=str(tmp_path / "unsure.safetensors"))
    assert scene.GetNumberOfNodesByClass("vtkMRMLMarkupsFiducialNode") == before
