"""The last millimeters: found on textured scans of other geometry and contrast, and left alone where nothing fits."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from SAMv2Core.io.lesion import lesion_at
from SAMv2Core.io.volume import Volume
from SAMv2Core.tracking.confidence import TrackEvidence
from SAMv2Core.tracking.refinement import SEARCH_MM, correlation, refine_findings, refined_place
from SAMv2Core.tracking.track import Finding

CENTER = np.array([3.0, -5.0, 104.0])
SHIFT = np.array([2.6, -1.7, 3.1])


def scan(shift=(0.0, 0.0, 0.0), spacing=(1.5, 1.5, 2.0), euler_deg=(0, 0, 0), gain=1.0, offset=0.0, seed=0):
    """A smooth random texture (features of some 5 mm), moved by ``shift``, on a lattice of its own."""
    texture = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((80, 80, 80)), 5.0) * 4000
    matrix = np.eye(4)
    axes = Rotation.from_euler("xyz", euler_deg, degrees=True).as_matrix()
    matrix[:3, :3] = axes * spacing
    size = np.ceil(78 / np.array(spacing)).astype(int)
    matrix[:3, 3] = CENTER - matrix[:3, :3] @ ((size - 1) / 2)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in size[::-1]), indexing="ij"), axis=-1)[..., ::-1]
    lps = index @ matrix[:3, :3].T + matrix[:3, 3]
    at = (lps - CENTER - shift + 39.5)[..., ::-1]
    values = ndimage.map_coordinates(texture, np.moveaxis(at, -1, 0), order=3, mode="mirror")
    return Volume((gain * values + offset).astype(np.float32), matrix)


@pytest.fixture(scope="module")
def baseline():
    return scan()


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"spacing": (0.9, 0.9, 4.0), "gain": 0.5, "offset": 300.0},
        {"euler_deg": (4, -8, 12), "spacing": (1.2, 2, 1)},
    ],
)
def test_a_place_some_millimeters_off_is_moved_to_the_right_one(baseline, other):
    lesion = lesion_at("a", CENTER, 12.0)
    found = refined_place(lesion, baseline, scan(SHIFT, **other), CENTER)
    # a quarter of the lattice it is searched on; thick slices interpolated linearly cost a little more
    assert found is not None and np.linalg.norm(found - CENTER - SHIFT) < (0.5 if "gain" in other else 0.25)


def test_what_does_not_correlate_or_ends_at_the_border_stays(baseline):
    lesion = lesion_at("a", CENTER, 12.0)
    assert refined_place(lesion, baseline, scan(seed=1), CENTER) is None  # another patient
    uniform = dataclasses.replace(baseline, array=np.zeros_like(baseline.array))
    assert refined_place(lesion, baseline, uniform, CENTER) is None
    far = np.array([SEARCH_MM + 2.0, 0, 0])
    found = refined_place(lesion, baseline, scan(far), CENTER)
    assert found is None or np.linalg.norm(found - CENTER) < SEARCH_MM - 0.5
    assert refined_place(lesion, baseline, scan(), CENTER + [0, 0, 36.0]) is None  # at the end of the scan


def test_only_places_that_were_tracked_are_moved(baseline):
    lesion = lesion_at("a", CENTER, 12.0)
    evidence = TrackEvidence(0.9, 1.0, 1.0, 20, 0.2)
    tracked = Finding("a", 1, CENTER, 0.9, 1.0, 0.9, "uncertain", "why", None, CENTER, evidence)
    verified = dataclasses.replace(tracked, evidence=None)
    absent = dataclasses.replace(tracked, lps=None, status="not_found")
    marked = dataclasses.replace(tracked, study=0)
    rows = refine_findings([marked, tracked, verified, absent], [lesion], baseline, [scan(SHIFT)])
    assert rows[0] is marked and rows[2] is verified and rows[3] is absent
    np.testing.assert_allclose(rows[1].lps, CENTER + SHIFT, atol=0.25)
    assert (rows[1].status, rows[1].confidence, rows[1].reason) == ("uncertain", 0.9, "why")


def test_correlation_by_hand():
    rng = np.random.default_rng(0)
    scene = rng.standard_normal((7, 7, 7)) + 100.0
    mask = rng.uniform(size=(3, 3, 3)) < 0.8
    template = 5.0 - 2.0 * scene[1:4, 2:5, 3:6]  # inverted contrast
    found = correlation(template, mask, scene)
    assert found.shape == (5, 5, 5) and found[1, 2, 3] == pytest.approx(-1.0, abs=1e-6)
    other = np.corrcoef(template[mask], scene[0:3, 0:3, 0:3][mask])[0, 1]
    assert found[0, 0, 0] == pytest.approx(other, abs=1e-6)
