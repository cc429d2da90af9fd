"""Deformation on top of a rigid registration: a known one is recovered, and the file says the same as the object."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from SAMv2Core.errors import Cancelled, UnreliableResultError, UsageError
from SAMv2Core.geometry.grid import Grid, transform_points
from SAMv2Core.io.resample import resample_to
from SAMv2Core.io.volume import Volume
from SAMv2Core.registration.deformable import Deformation, deform, write_deformation
from Testing.samples.limb_phantom import limb

MATRIX = np.eye(4)
MATRIX[:3, :3] = Rotation.from_euler("xyz", [5, -10, 20], degrees=True).as_matrix()
MATRIX[:3, 3] = (30.0, -20.0, 55.0)


def bulge(points):
    """A smooth displacement of up to 8 mm in the middle of the limb."""
    return np.exp(-((points[:, 2:] / 40) ** 2)) * np.array([8.0, 0.0, 0.0])


def made_deformation():
    grid = Grid((12, 10, 8), np.array([[4.0, 0, 0, -16], [0, -4, 0, 18], [0, 0, 4, -22], [0, 0, 0, 1]]))
    k, j, i = np.meshgrid(*(np.arange(n) for n in grid.shape_zyx), indexing="ij")
    points = grid.to_lps(np.stack([i, j, k], axis=-1).reshape(-1, 3))
    return Deformation(MATRIX, bulge(points).reshape(12, 10, 8, 3).astype(np.float32), grid, 0.0)


def test_the_file_maps_points_as_the_object_does_and_rigidly_outside(tmp_path):
    deformation = made_deformation()
    write_deformation(deformation, tmp_path / "d.h5")
    read = sitk.ReadTransform(str(tmp_path / "d.h5"))
    inside = deformation.grid.to_lps(np.array([[2.0, 3.0, 4.0], [5.0, 5.0, 9.0]]))
    expected = transform_points(MATRIX, inside + bulge(inside))
    np.testing.assert_allclose([read.TransformPoint(p) for p in inside.tolist()], expected, atol=1e-4)
    np.testing.assert_allclose(deformation.map_points(inside), expected, atol=1e-4)
    outside = np.array([[200.0, 0.0, 0.0]])
    moved = read.TransformPoint(outside[0].tolist())
    np.testing.assert_allclose(moved, transform_points(MATRIX, outside)[0], atol=1e-6)
    assert deformation.to_report()["max_mm"] == pytest.approx(8.0, abs=0.3)


def test_resampling_takes_values_from_where_points_go():
    deformation = made_deformation()
    ramp = np.arange(60, dtype=np.float32)[None, None, :] * np.ones((60, 60, 1), np.float32)
    matrix = np.diag([3.0, 3.0, 3.0, 1.0])
    matrix[:3, 3] = (-60.0, -110.0, -35.0)
    moving = Volume(ramp, matrix, "ramp")
    found = resample_to(deformation.grid, moving, deformation.to_itk())
    where = deformation.map_points(deformation.grid.to_lps(np.array([[4.0, 5.0, 6.0]])))
    assert found.array[6, 5, 4] == pytest.approx(moving.grid.to_ijk(where)[0, 0], abs=1e-3)


def test_a_known_deformation_between_ct_and_mr_is_found():
    pytest.importorskip("convexAdam")
    mr = limb("mr", (-50.0, 50.0), half_width_mm=66.0)
    k, j, i = np.meshgrid(*(np.arange(n) for n in mr.array.shape), indexing="ij")
    points = mr.grid.to_lps(np.stack([i, j, k], axis=-1).reshape(-1, 3))
    sources = mr.grid.to_ijk(points - bulge(points))  # the moved body: what was at x is now near x + bulge(x)
    from scipy import ndimage

    array = ndimage.map_coordinates(mr.array.astype(np.float32), sources[:, ::-1].T, order=1, mode="nearest")
    moved = Volume(array.reshape(mr.array.shape).astype(np.int16), MATRIX @ mr.ijk_to_lps, "bulged.mr")
    found = deform(limb("ct", (-50.0, 50.0), half_width_mm=66.0), moved, MATRIX)
    z = np.arange(-30.0, 31.0, 10.0)
    places = ((40, 0), (-40, 0), (0, 40), (5, 5))
    skin = np.concatenate([np.stack([x + 0 * z, y + 0 * z, z], axis=1) for x, y in places])
    truth = transform_points(MATRIX, skin + bulge(skin))
    before = np.linalg.norm(transform_points(MATRIX, skin) - truth, axis=1).mean()
    after = np.linalg.norm(found.map_points(skin) - truth, axis=1).mean()
    assert before > 4.0
    assert after < 0.5 * before
    assert found.folded < 0.001


def test_it_tells_how_far_it_is_and_stops_when_asked():
    """The package does neither; a cancel before the end leaves most of its iterations undone."""
    pytest.importorskip("convexAdam")
    fractions = []

    def progress(fraction, text):
        fractions.append(fraction)
        if fraction > 0.4:
            raise Cancelled()

    with pytest.raises(Cancelled):
        deform(limb("ct", (-50.0, 50.0)), limb("mr", (-50.0, 50.0)), MATRIX, progress)
    assert len(fractions) > 3 and fractions == sorted(fractions) and fractions[-1] < 0.6


def test_bodies_apart_and_a_missing_package_are_refused(monkeypatch):
    pytest.importorskip("convexAdam")
    far = MATRIX.copy()
    far[2, 3] += 500
    with pytest.raises(UnreliableResultError):
        deform(limb("ct"), limb("mr"), far)

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr("SAMv2Core.registration.deformable.importlib.import_module", missing)
    with pytest.raises(UsageError, match="convexadam"):
        deform(limb("ct"), limb("mr"), np.eye(4))
