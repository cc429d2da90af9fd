"""The comparison of synthetic with real views: synthesized is the contrast alone, and errors are in millimeters."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from Testing.benchmarks import synthesis
from Training.data.index import NETWORK_RANGE, Index
from Training.engine.recipe import load_recipe
from Training.tasks.landmark_error import MR_IN_CT
from Training.views.synthesis import LOW


@pytest.fixture(scope="module")
def index(aligned):
    """A CT-MR pair for training, another one in val."""
    split = {"p0": "train", "p1": "val"}
    return Index(aligned.folder, tuple(dataclasses.replace(e, split=split[e.name[:2]]) for e in aligned.entries))


def explained(image, by):
    """Share of an image's variance that another image's levels explain."""
    levels = np.digitize(by, np.arange(*NETWORK_RANGE, 8.0))
    means = np.zeros_like(image)
    for level in np.unique(levels):
        means[levels == level] = image[levels == level].mean()
    return means.var() / image.var()


def test_synthetic_views_show_the_same_anatomy_and_differ_in_nothing_else(index):
    recipe = load_recipe("lite-ct", ["lite.cross=0"])
    real, synthetic = (synthesis.SyntheticViews(recipe, index, 0, share) for share in (0.0, 1.0))
    in_place, elsewhere, n_cut = [], [], 0
    for step in range(6):
        pairs = [task.draw(step, 0).content["pair"] for task in (real, synthetic)]
        for one, other in zip(pairs[0].views, pairs[1].views):
            assert torch.equal(one.coarse.points, other.coarse.points) and torch.equal(one.detail, other.detail)
            assert one.cut == other.cut and one.context.shape == other.context.shape
            body = F.interpolate(one.coarse.body[None, None].float(), scale_factor=2)[0, 0] > 0
            a, b = one.context.numpy(), other.context.numpy()
            in_place.append(explained(b[body], a[body]))
            elsewhere.append(explained(b[:, ::-1][body], a[body]))
            if one.cut is not None:
                n_cut += 1
                z = (np.arange(len(b)) - (len(b) - 1) / 2) * 4.0
                beyond = (z < one.cut[0]) | (z > one.cut[1])
                assert beyond.any() and np.all(b[beyond] == LOW)
    assert n_cut > 0
    assert np.mean(in_place) > 0.25 and np.mean(in_place) > 2 * np.mean(elsewhere)


def test_both_trainings_run_and_their_table_has_a_row_each(index, tmp_path):
    """Two steps: the networks differ from the start and from one another; finished ones are read again."""
    nets = [synthesis.trained(index, tmp_path / str(share), "lite-ct", 2, share, 0) for share in (0.0, 1.0)]
    weights = [net.coarse_head.state_dict() for net in nets]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    rows = {name: {"ct": np.array([3.0, 5.0]), MR_IN_CT: np.array([16.0, 40.0])} for name in ("start", "after")}
    text = synthesis.table(rows).splitlines()
    assert len(text) == 4 and text[3] == "| after | 4.0 (4.0) mm | 28.0 (28.0) mm | 50 % |"
    again = synthesis.trained(index, tmp_path / "1.0", "lite-ct", 2, 1.0, 0)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), nets[1].state_dict().values()))
