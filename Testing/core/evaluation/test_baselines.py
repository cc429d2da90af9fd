"""The three baselines on one real CT displaced rigidly: matrix convention, direction, inverse, errors."""

from __future__ import annotations

import dataclasses
import importlib.util

import numpy as np
import pytest

from SAMv2Core.errors import UnreliableResultError, UsageError
from SAMv2Core.evaluation import baselines
from SAMv2Core.geometry.grid import transform_points
from SAMv2Core.io.resample import crop_to, resample_to
from SAMv2Core.io.volume import Volume, read_volume
from Testing.samples.embedding_samples import torso

NEEDS = {"sitk": "SimpleITK", "elastix": "itk", "ants": "ants"}

# Millimeters over the corners of the body. Each program stops within a fraction of its 4 mm voxels.
TOLERANCE_MM = 1.5


def rigid(degrees: float, shift_lps, center_lps) -> np.ndarray:
    """Rotation about a center, about S and then about L, and a shift."""
    angle = np.radians(degrees)
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    matrix = np.eye(4)
    matrix[:3, :3] = turn
    matrix[:3, 3] = np.array(center_lps) + np.array(shift_lps) - turn @ np.array(center_lps)
    return matrix


@pytest.fixture(scope="module")
def pair(shared):
    """(fixed, moving, truth): a real CT at 4 mm, and the same moved in the world and resampled to a turned grid."""
    original = read_volume(shared / "data" / "ct" / "val" / "CRLM-CT-1004.nii.gz")
    matrix = original.ijk_to_lps.copy()
    matrix[:3, :3] *= 2
    fixed = Volume(np.ascontiguousarray(original.array[::2, ::2, ::2]), matrix, "fixed")
    center = fixed.grid.to_lps((fixed.grid.size_ijk - 1) / 2)
    truth = rigid(7.0, (12.0, -9.0, 15.0), center)
    # What the moving grid shows at p is the fixed volume at inverse(truth) p.
    moving = resample_to(fixed.grid, fixed, np.linalg.inv(truth))
    return fixed, dataclasses.replace(moving, source="moving"), truth


def error_mm(volume: Volume, found: np.ndarray, truth: np.ndarray) -> float:
    corners = volume.grid.corners_lps()
    return float(np.linalg.norm(transform_points(found, corners) - transform_points(truth, corners), axis=1).max())


@pytest.mark.parametrize("name", list(baselines.BASELINES))
def test_baseline_finds_a_known_rigid_displacement(pair, name):
    pytest.importorskip(NEEDS[name]) if name != "elastix" else _elastix()
    fixed, moving, truth = pair
    before = error_mm(fixed, np.eye(4), truth)
    found = baselines.BASELINES[name](fixed, moving)
    assert before > 30
    assert error_mm(fixed, found, truth) < TOLERANCE_MM
    np.testing.assert_allclose(found[:3, :3] @ found[:3, :3].T, np.eye(3), atol=1e-6)  # rigid


def _elastix():
    if importlib.util.find_spec("itk") is None:
        pytest.skip("itk-elastix is not installed")


def test_left_handed_volumes_keep_their_place(pair):
    fixed, moving, truth = pair
    matrix = moving.ijk_to_lps.copy()
    matrix[:3, 3] += matrix[:3, 0] * (moving.array.shape[2] - 1)
    matrix[:3, 0] *= -1
    flipped = Volume(np.ascontiguousarray(moving.array[:, :, ::-1]), matrix, "flipped")
    assert error_mm(fixed, baselines.register_sitk(fixed, flipped), truth) < TOLERANCE_MM


def test_directed_returns_fixed_to_moving_whichever_way_it_ran():
    fixed = torso()
    moving = crop_to(fixed, {"ijk_min": [0, 0, 10], "ijk_max": [43, 35, 25]})
    asked = []
    shift = np.eye(4)
    shift[:3, 3] = (1.0, 2.0, 3.0)

    def baseline(a, b):
        asked.append((a.array.shape, b.array.shape))
        return shift

    straight, was_swapped = baselines.directed(baseline, fixed, moving, fixed_is_smaller=False)
    assert not was_swapped and asked[-1] == (fixed.array.shape, moving.array.shape)
    np.testing.assert_allclose(straight, shift)
    back, was_swapped = baselines.directed(baseline, fixed, moving, fixed_is_smaller=True)
    assert was_swapped and asked[-1] == (moving.array.shape, fixed.array.shape)
    np.testing.assert_allclose(back, np.linalg.inv(shift))


def test_field_of_view_is_that_of_the_world():
    assert baselines.field_of_view_mm3(torso((10, 20, 30))) == pytest.approx(10 * 20 * 30 * 8)


def test_a_missing_package_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setitem(baselines._NEEDS, "ants", ("a_package_that_is_not_there", "antspyx"))
    with pytest.raises(UsageError, match="pip install antspyx"):
        baselines.prepare("ants")
    with pytest.raises(UsageError, match="no baseline 'niftyreg'"):
        baselines.prepare("niftyreg")


def test_volumes_that_cannot_be_registered_are_an_answer():
    constant = Volume(np.zeros((8, 8, 8), np.int16), np.diag([2.0, 2.0, 2.0, 1.0]), "constant")
    with pytest.raises(UnreliableResultError, match="SimpleITK gave up"):
        baselines.register_sitk(constant, constant)


def test_not_a_number_does_not_spread():
    volume = torso()
    array = volume.array.astype(np.float32)
    array[0, 0, 0] = np.nan
    finite = baselines._finite(dataclasses.replace(volume, array=array)).array
    assert np.isfinite(finite).all() and finite[0, 0, 0] == volume.array.min()
