"""feature_mask.py against the definition, voxel by voxel."""

from __future__ import annotations

import numpy as np
import pytest

from SAMv2Core.preprocessing.feature_mask import body_on_features


@pytest.mark.parametrize("stride", [(2, 2, 2), (4, 4, 4), (1, 3, 2)])
def test_body_on_features_is_the_majority_of_the_covered_voxels(stride):
    rng = np.random.default_rng(0)
    body = rng.random((9, 7, 10)) > 0.5
    shape = tuple(-(-n // s) + 1 for n, s in zip(body.shape, stride))  # one feature beyond the end on each axis
    found = body_on_features(body, stride, shape)
    for k, j, i in np.ndindex(*shape):
        z, y, x = (slice(n * s, n * s + s) for n, s in zip((k, j, i), stride))
        covered = body[z, y, x]
        assert found[k, j, i] == (covered.size > 0 and covered.mean() >= 0.5)


def test_body_on_features_that_leave_out_the_last_plane():
    """The official networks floor odd depths."""
    body = np.zeros((5, 4, 4), bool)
    body[4] = True
    assert body_on_features(body, (2, 2, 2), (2, 2, 2)).shape == (2, 2, 2)
    assert not body_on_features(body, (2, 2, 2), (2, 2, 2)).any()
