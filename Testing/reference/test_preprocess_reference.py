"""Our tensors against those of the official preprocessing (torchio 0.18).

Tolerances from the vectors' own README: CT 0.07 grey levels, because the official code interpolates in int16
and cuts to whole HU (1 HU = 0.0623 levels); MR 1e-3.
"""

from __future__ import annotations

import numpy as np
import pytest

from SAMv2Core.io.volume import read_volume
from SAMv2Core.preprocessing.preprocess import preprocess

CASES = [("ct_lps", "ct", 0.07), ("ct_ras", "ct", 0.07), ("mr_lps", "mr", 1e-3)]


@pytest.fixture(scope="module")
def vectors(shared):
    path = shared / "reference" / "preprocess.npz"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    with np.load(path) as content:
        return dict(content)


@pytest.mark.parametrize(("name", "modality", "tolerance"), CASES)
def test_tensor(shared, vectors, name, modality, tolerance):
    x, grid = preprocess(read_volume(shared / "reference" / "nii" / f"{name}.nii.gz"), modality)
    expected = vectors[f"{name}_tensor"]
    assert tuple(x.shape) == expected.shape
    assert grid.shape_zyx == expected.shape[2:]
    difference = np.abs(x.numpy() - expected)
    assert difference.max() <= tolerance
    # The official integers are cut, not rounded: half a HU on average. More would be a shift of the lattice.
    assert abs(float(np.mean(x.numpy() - expected))) <= tolerance / 2


@pytest.mark.parametrize("name", [case[0] for case in CASES])
def test_scale_between_voxels_and_lattice(shared, vectors, name):
    volume = read_volume(shared / "reference" / "nii" / f"{name}.nii.gz")
    np.testing.assert_allclose(volume.grid.spacing_ijk_mm / 2, vectors[f"{name}_norm_ratio"], rtol=1e-6)


@pytest.mark.parametrize("name", [case[0] for case in CASES])
def test_lattice_keeps_the_outer_corner(shared, name):
    volume = read_volume(shared / "reference" / "nii" / f"{name}.nii.gz")
    _, grid = preprocess(volume, name[:2])
    first_corner = grid.corners_lps().min(axis=0)
    np.testing.assert_allclose(first_corner, volume.grid.corners_lps().min(axis=0), atol=1e-4)
