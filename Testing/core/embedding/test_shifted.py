"""The second look is laid on the first where it belongs: of a field that depends on the place alone nothing changes."""

import numpy as np
import pytest
import torch

from SAMv2Core.embedding.model import Model
from SAMv2Core.embedding.shifted import averaged, shift_of, shifted_input
from SAMv2Core.errors import UsageError
from SAMv2Core.matching.match import match
from Testing.samples.embedding_samples import model_info, small_lite, torso

LITE = {"fine": (2, 2, 2), "coarse": (4, 4, 4)}
OFFICIAL = {"fine": (2, 2, 2), "coarse": (16, 16, 16)}


def looks(strides, size, begin=(0, 0, 0)):
    """What a perfect network says of a lattice of ``size`` voxels from a place on: directions that turn slowly."""
    heads = {}
    for name, stride in strides.items():
        axes = [b + (np.arange(n // s) + 0.5) * s for b, n, s in zip(begin, size, stride)]
        z, y, x = np.meshgrid(*axes, indexing="ij")
        angles = np.stack([z / 40, y / 30, x / 50])
        vectors = np.concatenate([np.cos(angles), np.sin(angles)]) / np.sqrt(3)
        heads[name] = torch.from_numpy(vectors).half()
    return heads


@pytest.mark.parametrize("strides", [LITE, OFFICIAL])
def test_what_depends_on_the_place_alone_stays(strides):
    size = (64, 48, 80)
    shift = shift_of(strides)
    assert shift == tuple(n // 2 for n in strides["coarse"])
    x = shifted_input(torch.zeros(1, 1, *size), strides)
    assert x.shape[2:] == tuple(n + s + c for n, s, c in zip(size, shift, strides["coarse"]))
    first, second = looks(strides, size), looks(strides, x.shape[2:], tuple(-n for n in shift))
    for name, vectors in averaged(first, second, strides).items():
        assert vectors.shape == first[name].shape and vectors.dtype == torch.float16
        # Half precision and, between two coarse voxels, the chord of an arc: less than a thousandth.
        assert (vectors.float() - first[name].float()).abs().max() < 4e-3
    wrong = looks(strides, x.shape[2:])  # laid a shift away, the same look would be seen
    assert (averaged(first, wrong, strides)["fine"].float() - first["fine"].float()).abs().max() > 1e-2


def test_a_better_embedding_is_another_one_on_the_same_lattice_and_kept_apart(tmp_path):
    model = Model(small_lite(), model_info())
    plain, best = (model.embed(torso(), "ct", cache=tmp_path, quality=q) for q in ("default", "best"))
    assert best.fine.grid == plain.fine.grid and best.coarse.vectors.shape == plain.coarse.vectors.shape
    cosine = (best.fine.vectors.float() * plain.fine.vectors.float()).sum(0)[torch.from_numpy(plain.body)]
    assert 0.7 < cosine.mean() < 0.9999
    again = model.embed(torso(), "ct", cache=tmp_path, quality="best")
    np.testing.assert_array_equal(again.fine.vectors[:, again.body], best.fine.vectors[:, best.body])
    (found,) = match(best, best, [[0.0, 0.0, 140.0]])
    np.testing.assert_allclose(found.candidate_lps, [0.0, 0.0, 140.0], atol=1.0)
    with pytest.raises(UsageError, match="quality"):
        model.embed(torso(), "ct", quality="good")
