"""Point in, mask back: against a stand-in server that speaks nnInteractive's protocol, by its own client."""

import numpy as np
import pytest

from SAMv2Core.errors import InputError, UsageError
from SAMv2Core.io.volume import Volume
from SAMv2Core.tracking import segmenting
from SAMv2Core.tracking.finding import Finding
from Testing.samples.nninteractive_server import grown, serving

THRESHOLD = 100.0
MATRIX = np.array([[-2.0, 0, 0, 80], [0, 2, 0, -40], [0, 0, 3, 10], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def volume():
    """Two bright balls of 8 and 5 mm radius, and a bright slab that is no lesion."""
    array = np.zeros((120, 60, 60), np.int16)
    k, j, i = np.indices(array.shape)
    for (ck, cj, ci), radius in (((20, 30, 30), 8.0), ((20, 30, 46), 5.0)):
        array[((k - ck) * 3) ** 2 + ((j - cj) * 2) ** 2 + ((i - ci) * 2) ** 2 <= radius**2] = 300
    array[:, 2:6, :] = 300
    return Volume(array, MATRIX, "scan", "ct")


class Fake:
    """The documented interface of a session, without a server."""

    def __init__(self):
        self.clicks = []

    def set_image(self, image, properties):
        assert image.ndim == 4 and properties["spacing"] == [3.0, 2.0, 2.0]
        self.image = image

    def set_target_buffer(self, buffer):
        self.target_buffer = buffer

    def reset_interactions(self):
        self.target_buffer.fill(0)

    def add_point_interaction(self, coordinates, include_interaction):
        assert include_interaction
        self.clicks.append(coordinates)
        self.target_buffer[grown(self.image, coordinates, THRESHOLD)] = 1


def points(volume, **voxels):
    return {name: volume.grid.to_lps(np.array([ijk], float))[0] for name, ijk in voxels.items()}


def test_masks_become_lesions_with_both_axes(volume):
    session = Fake()
    asked = points(volume, a=(30, 30, 20), b=(46.2, 29.8, 20), slab=(30, 4, 60), nothing=(30, 50, 90), out=(500, 0, 0))
    found = segmenting.segment(session, volume, asked)
    assert list(found) == ["a", "b"] and session.clicks[1] == (20, 30, 46)  # a slab of 360 mm is no lesion
    assert found["a"].diameter_mm == pytest.approx(16.0, abs=3.0) and found["b"].short_mm == pytest.approx(
        10.0, abs=3.0
    )
    np.testing.assert_allclose(found["a"].center_lps, asked["a"], atol=0.5)
    assert found["a"].volume_ml == pytest.approx(4 / 3 * np.pi * 0.8**3, rel=0.1)
    ends = found["a"].ends_lps
    assert ends[0][2] == ends[1][2] and np.linalg.norm(ends[1] - ends[0]) == pytest.approx(found["a"].diameter_mm)
    findings = [Finding("a", n, asked["a"], 0.9, 1.0, 0.9, "matched", "") for n in (0, 1)]
    updated = segmenting.with_segmented(findings, 1, found)
    assert (
        updated[0] is findings[0] and updated[1].diameter_mm == found["a"].diameter_mm and updated[1].state == "present"
    )


def test_a_server_that_fails_is_an_error_with_a_remedy(volume):
    session = Fake()
    session.add_point_interaction = None
    with pytest.raises(InputError, match="failed"):
        segmenting.segment(session, volume, points(volume, a=(30, 30, 20)))


def test_without_the_client_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(segmenting, "CLIENT", "no_such_package_at_all")
    with pytest.raises(UsageError, match="client does not load"):
        segmenting.connect("http://127.0.0.1:1")


def test_by_the_clients_own_protocol(volume):
    pytest.importorskip("nnInteractive.inference.remote", reason="nninteractive-client is not installed")
    with serving(THRESHOLD) as (address, asked):
        session = segmenting.connect(address)
        found = segmenting.segment(session, volume, points(volume, a=(30, 30, 20), nothing=(30, 50, 90)))
        session.close()
    assert list(found) == ["a"] and found["a"].diameter_mm == pytest.approx(16.0, abs=3.0)
    assert asked[:3] == ["/claim", "/set_image", "/set_target_buffer"]
    assert asked.count("/add_point_interaction") == 2 and "/release" in asked
    with pytest.raises(InputError, match="cannot be used"):
        segmenting.connect("http://127.0.0.1:1")
