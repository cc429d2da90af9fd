"""Validation: retrieval counts what it says, on pairs that never change; pictures show it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from Testing.samples.training_samples import TINY, write_phantom_index
from Training.data.index import read_index
from Training.engine.pictures import FOUND, TRUTH, joint_colors, picture_of
from Training.engine.recipe import load_recipe
from Training.tasks.networks import build
from Training.tasks.retrieval import look_up, validate
from Training.views.intensity import IntensityOptions
from Training.views.patches import PatchOptions, ScanReader, draw_patches, level_shape, render

SIZE = (16, 48, 48)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return ScanReader(read_index(write_phantom_index(tmp_path_factory.mktemp("index"), n_train=1, pairs=True)))


def views_of(reader):
    options = PatchOptions(SIZE, independent=0.0, body_seed=1.0, margin_zyx=(4, 12, 12), voxels="body")
    entry = reader.index.select(None, "val", "ct")[0]
    return draw_patches(reader, entry, np.random.default_rng(0), options, IntensityOptions())


def place_vectors(points, scale=30.0):
    """Unit vectors whose similarity falls with the distance of their places."""
    phases = torch.cat([points / scale, points / (3 * scale)], dim=1)
    return F.normalize(torch.cat([phases.cos(), phases.sin()], dim=1), dim=1)


def test_vectors_that_know_their_place_are_found(reader):
    views = views_of(reader)
    looked = look_up([place_vectors(v.fine.points) for v in views], views, 300, 0)
    assert len(looked.rows) > 50
    # Half the diagonal of a fine voxel at the larger scale of the two views.
    assert looked.error_mm.max() <= 0.5 * 3**0.5 * 4 * 1.2 + 0.1
    assert views[0].fine.valid[looked.rows].all() and views[1].fine.valid[looked.found].all()
    random = [F.normalize(torch.randn(len(v.fine.points), 16), dim=1) for v in views]
    assert look_up(random, views, 300, 0).error_mm.median() > 10


def test_a_picture_shows_both_views_with_points_above_their_colors(reader):
    views = views_of(reader)
    vectors = [place_vectors(v.fine.points) for v in views]
    looked = look_up(vectors, views, 300, 0)
    picture = picture_of(render(views), vectors, views, looked)
    assert picture.shape == (2 * SIZE[1], 2 * SIZE[2], 3) and picture.dtype == np.uint8
    left, right = picture[: SIZE[1], : SIZE[2]], picture[: SIZE[1], SIZE[2] :]
    assert (left == TRUTH).all(-1).any() and not (left == FOUND).all(-1).any()
    green = (right == TRUTH).all(-1)
    # Points found elsewhere: the truth stays where it was, a red cross and a line appear.
    wrong = picture_of(render(views), vectors, views, looked._replace(found=looked.found.flip(0)))
    right = wrong[: SIZE[1], SIZE[2] :]
    assert green.any() and np.array_equal((right == TRUTH).all(-1), green)
    assert (right == FOUND).all(-1).sum() > green.sum()
    # Equal vectors have equal colors in both views.
    shape = level_shape(SIZE, (2, 2, 2))
    colors = joint_colors(vectors, [v.fine.valid for v in views], shape)
    near = looked.error_mm < 2.0
    a, b = (c.reshape(-1, 3)[r[near].numpy()].astype(int) for c, r in zip(colors, (looked.rows, looked.found)))
    assert np.abs(a - b).mean() < 10


def test_validation_repeats_itself_and_covers_what_the_recipe_trains(reader):
    changes = [*TINY, "validation.pictures=true", "validation.pairs=1", "validation.points=50"]
    expected = {
        "sam": {"retrieval", "error_mm", "points"},
        "sampp": {"retrieval", "error_mm", "points", "label_retrieval", "label_points"},
        "crosssam": {"retrieval", "error_mm", "points", "cross_retrieval", "cross_error_mm", "cross_points"},
    }
    for name, keys in expected.items():
        recipe = load_recipe(name, changes)
        torch.manual_seed(0)
        net = build(recipe.network).eval()
        reports = [validate(net, reader, recipe, torch.device("cpu"), True) for _ in range(2)]
        assert reports[0].figures == reports[1].figures
        assert set(reports[0].figures) == keys
        assert set(reports[0].pictures) == ({"views", "cross_views"} if name == "crosssam" else {"views"})


def test_without_held_out_scans_there_are_no_figures(tmp_path):
    from dataclasses import replace

    from Training.data.index import Index

    index = read_index(write_phantom_index(tmp_path, n_train=1))
    unsplit = Index(index.folder, tuple(replace(entry, split=None) for entry in index.entries))
    recipe = load_recipe("sam", TINY)
    report = validate(build(recipe.network).eval(), ScanReader(unsplit), recipe, torch.device("cpu"), True)
    assert report.figures == {} and report.pictures == {}
