"""What a light step draws and what its losses see: known points, wide crops, labels of two patients, whole scans."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from SAMv2Core.io.volume import Volume, write_volume
from Testing.samples.synthetic import make_body_volume
from Testing.samples.training_samples import SHAPE, SMALL_LITE, SPACING, phantom_labels
from Testing.training.tasks.test_lite_learning import evaluating
from Training.data.index import Index, read_index
from Training.engine.recipe import LiteOptions, load_recipe
from Training.losses.supcon import prototypical_supcon
from Training.prepare import prepare
from Training.tasks.lite import LiteTask
from Training.tasks.lite_losses import SharedPoints, _semantic_loss
from Training.views.pairs import draw_cross_pair
from Training.views.scans import ScanLink

A, B = "ct__train__p0", "ct__train__p1"


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Two training phantoms that are each other's map, with a carina and an organ's label; a third one is held out."""
    source = tmp_path_factory.mktemp("phantoms")
    for seed in range(3):
        folder = source / "ct" / ("train" if seed < 2 else "val")
        folder.mkdir(parents=True, exist_ok=True)
        volume = make_body_volume(SHAPE, SPACING, seed=seed)
        write_volume(volume, folder / f"p{seed}.nii.gz")
        write_volume(Volume(phantom_labels(volume.array), volume.ijk_to_lps), folder / f"p{seed}_labels.nii.gz")
    (source / "labels.json").write_text("{}")
    prepare([source], source / "out")
    index = read_index(source / "out")
    entries = []
    for entry in index.entries:
        middle = entry.grid.to_lps(np.array([entry.shape_zyx[::-1]]) / 2)[0]
        entries.append(replace(entry, landmarks={"carina": (*middle, 1.0), "dome_left": (*middle, 1.0)}))
    made = LiteTask(load_recipe("lite-ct", SMALL_LITE), Index(index.folder, tuple(entries)), 0, "fp32")
    for a, b in ((A, B), (B, A)):
        made.links[a, b] = same_place(next(scan for scan in made.scans if scan.name == a))
    return made


def same_place(scan):
    shape = [int(np.ceil(n * 2 / 16)) + 1 for n in scan.hu.shape]
    lattice = np.stack(np.meshgrid(*[np.arange(n) * 16.0 for n in shape], indexing="ij")[::-1], -1)
    return ScanLink(lattice.astype(np.float32), np.full(shape, 2.0, np.float32))


def cross_pair(task, seed, about_known=1.0):
    scans = [next(scan for scan in task.scans if scan.name == name) for name in (A, B)]
    links = task.links[A, B], task.links[B, A]
    generator = torch.Generator().manual_seed(seed)
    views = task.options.views
    return draw_cross_pair(tuple(scans), links, np.random.default_rng(seed), generator, views, about_known)


def test_pairs_of_two_patients_lie_about_a_point_that_both_have(task):
    for seed in range(4):
        pair = cross_pair(task, seed)
        assert len(pair.known[0]) == 1  # the dome is no point
        for view, point in zip(pair.views, pair.known):
            # The detail box lies up to 16 mm from it along each axis, as far as the lattice of 8 mm allows.
            assert (view.map.to_view(point) - view.fine.box[2]).abs().max() <= 16.0 + 4.0


def test_known_points_whole_scans_and_labels_give_losses_and_wide_steps_only_coarse_ones(task):
    net = task.build_network().train()
    task.before_step(0, lambda: evaluating(net))
    batch = task._draw(task.scans, np.random.default_rng(0))
    batch.content["pair"] = cross_pair(task, 1)
    names = set(task.losses(net, batch, 0, None))
    assert names == {"coarse", "coarse_known", "search", "fine", "fine_known", "semantic"}
    kept = task.whole.fine(A)
    assert kept is not None and len(kept.vectors) > 100
    assert set(task.losses(net, task._draw(task.scans, np.random.default_rng(1), is_wide=True), 0, None)) <= {
        "coarse", "coarse_known", "search",
    }  # fmt: skip
    task.before_step(task.options.refresh, lambda: evaluating(net))
    assert task.whole.fine(A) is None and task.whole.coarse(A) is not None  # a resumed run finds the same


def test_whole_scans_are_as_matching_sees_them(task):
    net = task.build_network()
    with torch.no_grad():
        task.whole.refresh(net.eval())
    scan = next(scan for scan in task.scans if scan.name == A)
    whole = task.whole.coarse(A)
    assert whole.vectors.norm(dim=1).sub(1).abs().max() < 0.01  # kept in half precision
    voxels = (whole.points.numpy() - 3.0) / 8.0
    assert np.allclose(voxels, voxels.round()) and (voxels * 2 < np.array(scan.body4.shape[::-1])).all()


def test_points_are_searched_in_other_patients_that_have_them(task):
    found = SharedPoints(task.scans, 2)(A, torch.Generator().manual_seed(0))
    assert [name for name, _, _ in found] == [B]
    scans = {scan.name: scan for scan in task.scans}
    for (_, here, there), name in zip(found, (B,)):
        assert here[0].tolist() == pytest.approx(scans[A].exact["carina"].tolist(), abs=1e-3)
        assert there[0].tolist() == pytest.approx(scans[name].exact["carina"].tolist(), abs=1e-3)
    assert SharedPoints(task.scans, 2)("unknown", torch.Generator()) == []


def test_labels_that_only_one_patient_bears_say_nothing(task):
    pair = cross_pair(task, 2)
    generator = torch.Generator().manual_seed(3)
    shape = tuple(pair.views[0].fine.body.shape)
    vectors = F.normalize(torch.randn(2, 8, *shape, generator=generator), dim=1)
    options = LiteOptions(semantic_weight=1.0)
    both = torch.tensor([1, 3])
    loss = _semantic_loss(vectors, replace(pair, labels_agree=both), options, torch.Generator())[0]
    rows, labels = [], []
    for k, view in enumerate(pair.views):
        taken = view.fine.body & torch.isin(view.labels, both)
        rows.append(vectors[k][:, taken].T)
        labels.append(view.labels[taken])
    expected = prototypical_supcon(torch.cat(rows), torch.cat(labels), options.semantic_temperature)
    assert float(loss) == pytest.approx(float(expected), rel=1e-4)
    assert _semantic_loss(vectors, replace(pair, labels_agree=torch.tensor([3])), options, torch.Generator()) is None
