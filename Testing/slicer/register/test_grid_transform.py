"""A deformation on top of a registration: the grid transform node says what SAMv2Core's deformation says."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

import slicer
import slicer.util
from panel_tools import settle
from phantoms import addPair
from scene_tools import linear, sceneState

from SAMv2Core.errors import InputError
from SAMv2Core.geometry.grid import Grid
from SAMv2SlicerLib.register import comparison, grid_transform
from SAMv2SlicerLib.register.register_job import Extras
from SAMv2SlicerLib.scene import node_geometry
from SAMv2SlicerLib.setup import install

INNER_RAS = np.array([[0.0, 0, 140], [11, 13, 141], [-13, -7, 133]])


def bump(matrix):
    """A smooth displacement of up to 6 mm in the middle of the fixed phantom, on an 8 mm lattice."""
    shape = (8, 10, 12)
    grid = Grid(shape, np.array([[8.0, 0, 0, -44], [0, 8, 0, -36], [0, 0, 8, 108], [0, 0, 0, 1]]))
    z, y, x = np.meshgrid(*(np.hanning(n) for n in shape), indexing="ij")
    vectors = (x * y * z)[..., None] * np.array([6.0, -4.0, 2.0])
    report = {"median_mm": 1.0, "max_mm": 6.0, "folded": 0.0}
    return SimpleNamespace(matrix=matrix, vectors=vectors.astype(np.float32), grid=grid, to_report=lambda: report)


def displaced(deformation, pointsLPS):
    """matrix(x + u(x)) of points (n, 3), LPS, as SAMv2Core defines it."""
    from scipy.ndimage import map_coordinates

    ijk = deformation.grid.to_ijk(pointsLPS)
    u = [map_coordinates(deformation.vectors[..., c].astype(float), ijk.T[::-1], order=1) for c in range(3)]
    return (pointsLPS + np.stack(u, axis=1)) @ deformation.matrix[:3, :3].T + deformation.matrix[:3, 3]


@pytest.fixture
def deforming(logic):
    """The logic with a known deformation instead of ConvexAdam's, which is kept in ``made``."""
    made = []

    def deform(fixed, moving, matrix, progress=None):
        assert fixed is not None and moving is not None
        made.append(bump(matrix))
        return made[-1]

    logic.engine.deform = deform
    logic.made = made
    return logic


def agreement(fixed, moving, deformation):
    """mm between where the scene puts fixed places and their deformed counterparts of the moving volume."""
    fixedLPS = INNER_RAS * [-1, -1, 1]
    apart = node_geometry.volumeLPSToWorld(fixed, fixedLPS) - node_geometry.volumeLPSToWorld(
        moving, displaced(deformation, fixedLPS)
    )
    return np.linalg.norm(apart, axis=1).max()


@pytest.mark.parametrize("side", ["none", "fixed", "moving", "both"])
def test_the_scene_deforms_as_core_says(deforming, scene, side):
    fixed, moving = addPair(scene)
    if side in ("fixed", "both"):
        fixed.SetAndObserveTransformNodeID(linear(scene, 40, (1, 2, 0), (5, 6, -7)).GetID())
    if side in ("moving", "both"):
        moving.SetAndObserveTransformNodeID(linear(scene, -25, (0, 1, 3), (-8, 1, 2)).GetID())
    output = deforming.registerVolumes(fixed, moving, deformable=True)
    grid = grid_transform.gridAbove(output)
    assert grid.IsA("vtkMRMLGridTransformNode") and moving.GetParentTransformNode() is output
    # the tolerance is that of VTK's numeric inversion of the field, plus linear interpolation
    assert agreement(fixed, moving, deforming.made[0]) < 0.1
    assert np.abs(deforming.made[0].vectors).max() > 4


def test_undo_redo_and_repeating(deforming, scene):
    fixed, moving = addPair(scene)
    before = sceneState(scene)
    output = deforming.registerVolumes(fixed, moving, deformable=True)
    after = sceneState(scene)
    deforming.undoStack.undo()
    assert sceneState(scene) == before
    deforming.undoStack.redo()
    assert [state[0] for state in sceneState(scene)] == [state[0] for state in after]
    output = moving.GetParentTransformNode()
    assert agreement(fixed, moving, deforming.made[0]) < 0.1
    deforming.registerVolumes(fixed, moving, outputTransform=output)  # without a deformation: the old one goes
    assert grid_transform.gridAbove(output) is None
    assert scene.GetNumberOfNodesByClass("vtkMRMLGridTransformNode") == 0
    deforming.undoStack.undo()
    assert agreement(fixed, moving, deforming.made[0]) < 0.1
    with pytest.raises(InputError, match="non-linear"):
        deforming.registerVolumes(fixed, moving)  # into another node: the deformation would be lost silently


def test_a_cropped_copy_shows_the_same_anatomy(scene):
    fixed, moving = addPair(scene)
    node = comparison.addCroppedVolume(fixed, moving, {"ijk_min": [2, 3, 4], "ijk_max": [20, 30, 25]}, "moving")
    whole, part = slicer.util.arrayFromVolume(moving), slicer.util.arrayFromVolume(node)
    assert part.shape == (22, 28, 19) and np.array_equal(part, whole[4:26, 3:31, 2:21])
    inWhole = node_geometry.ijkToLPS(moving) @ [2, 3, 4, 1]
    assert np.allclose(node_geometry.ijkToLPS(node) @ [0, 0, 0, 1], inWhole)
    assert slicer.util.arrayFromVolume(moving).shape == whole.shape


def test_crop_is_part_of_the_undo_step(logic, scene):
    fixed, moving = addPair(scene)
    before = sceneState(scene)
    crop = {"ijk_min": [2, 3, 4], "ijk_max": [20, 30, 25]}
    real = logic.engine.register

    def register(*arguments):
        computed = real(*arguments)
        object.__setattr__(computed.results[0], "crop", crop)
        return computed

    logic.engine.register = register
    job = logic.startRegistration(fixed, moving, extras=Extras(True, True))
    while logic.tick(0.05):
        pass
    assert job.error is None and scene.GetNumberOfNodesByClass("vtkMRMLMarkupsROINode") == 1
    assert scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 3
    logic.undoStack.undo()
    assert sceneState(scene) == before


def test_checkerboard_and_hardened_copy_under_a_deformation(deforming, scene):
    fixed, moving = addPair(scene)
    deforming.registerVolumes(fixed, moving, deformable=True)
    values = comparison.checkerboard(fixed, moving)()
    assert values.shape == slicer.util.arrayFromVolume(fixed).shape and np.isfinite(values).all() and values.std() > 0


def test_panel_hardens_copies_on_request(widget, scene):
    fixed, moving = addPair(scene)
    widget.ui.tabWidget.currentIndex = 2
    assert not widget.ui.hardenedCopyButton.enabled
    deformation = bump(np.eye(4))
    node = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "bspline")
    node.SetAndObserveTransformFromParent(
        grid_transform.gridTransform(deformation.vectors, deformation.grid.ijk_to_lps, np.eye(4))
    )
    values = slicer.util.arrayFromVolume(moving).copy()
    moving.SetAndObserveTransformNodeID(node.GetID())
    widget.panel.refresh()
    widget.ui.registerButton.click()
    assert "under a non-linear transform" in widget.ui.statusLabel.text and widget.ui.hardenedCopyButton.enabled
    widget.ui.hardenedCopyButton.click()
    copy = widget.panel.parameters.movingVolume
    assert copy is not moving and copy.GetParentTransformNode() is None
    assert np.array_equal(slicer.util.arrayFromVolume(moving), values)
    assert not np.array_equal(slicer.util.arrayFromVolume(copy), values)
    widget.ui.registerButton.click()
    settle(widget)
    assert widget.panel.parameters.outputTransform is not None
    widget.ui.undoButton.click()
    widget.ui.undoButton.click()
    assert scene.GetNodeByID(copy.GetID()) is None or copy.GetScene() is None


def test_deformation_asks_before_installing(widget, scene, monkeypatch):
    addPair(scene)
    monkeypatch.setattr(grid_transform, "isAvailable", lambda: False)
    monkeypatch.setattr(slicer.util, "pip_install", lambda *a: pytest.fail("installed"), raising=False)
    questions = []
    monkeypatch.setattr(install, "confirm", lambda text: questions.append(text))
    widget.ui.deformableCheckBox.checked = True
    widget.ui.registerButton.click()
    assert "convexadam" in questions[0] and not widget.panel.registerTab.isRunning()
    assert widget.panel.parameters.outputTransform is None


def test_optional_packages_never_replace_slicers_own(monkeypatch):
    """pip gets a list of constraints that pins what is there, for as long as it runs."""
    seen = []

    def pipInstall(requirements, **options):
        seen.append((requirements, Path(os.environ["PIP_CONSTRAINT"]).read_text(encoding="utf-8")))

    monkeypatch.setattr(slicer.util, "pip_install", pipInstall, raising=False)
    monkeypatch.delenv("PIP_CONSTRAINT", raising=False)
    assert install.installOptional("x>=1", "?", ask=lambda text: True) == ""
    ((requirements, constraints),) = seen
    assert requirements == ["x>=1"] and f"\nnumpy=={np.__version__}\n" in constraints
    assert "PIP_CONSTRAINT" not in os.environ
