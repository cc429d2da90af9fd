"""The error at known points of CT-MR pairs, with a stand-in for a perfect network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from SAMv2Core.models.catalogue import find_model
from Testing.samples.training_pairs import aligned_pairs
from Testing.samples.training_samples import PlaceNetwork
from Training.data.index import Index
from Training.export import load_trained
from Training.patients.link import Embedded
from Training.tasks.landmark_error import N_PARTNER_POINTS, KnownPoints, by_name, partner_errors, search_known

AWAY_MM = 24.0  # three voxels of the coarse lattice


def held_out(index: Index, away_mm: float) -> Index:
    matrix = np.eye(4)
    matrix[0, 3] = away_mm
    partner = tuple(matrix.ravel().tolist())
    return Index(index.folder, tuple(replace(e, split="val", partner_matrix=partner) for e in index.entries))


@pytest.fixture(scope="module")
def aligned(tmp_path_factory):
    return aligned_pairs(tmp_path_factory.mktemp("pairs"))


def test_a_perfect_network_finds_the_places_of_an_mr_in_its_ct(aligned):
    found = by_name(KnownPoints(held_out(aligned, 0.0), ("ct", "mr")).find(PlaceNetwork()))
    assert list(found) == ["mr_in_ct"] and len(found["mr_in_ct"]) > 100
    assert (
        np.median([one.error_mm for one in found["mr_in_ct"]]) < 8.0
    )  # a voxel of the lattice; the two bodies' crops may differ by one


def test_the_alignment_of_the_pair_is_the_truth(aligned):
    figures = KnownPoints(held_out(aligned, AWAY_MM), ("ct", "mr")).figures(PlaceNetwork())
    assert figures["mr_in_ct_median_mm"] == pytest.approx(AWAY_MM, abs=6.0)


def test_a_ct_in_itself_is_found_where_the_alignment_says_so(aligned):
    ct, _ = held_out(aligned, 0.0).pairs("val")[0]
    moved, _ = held_out(aligned, AWAY_MM).pairs("val")[0]
    net = load_trained(find_model("lite-ct"), "lite")
    for entry, expected in ((ct, 0.0), (moved, AWAY_MM)):
        errors = partner_errors(net, aligned, entry, ct)
        assert len(errors) == N_PARTNER_POINTS
        assert np.median(errors) == pytest.approx(expected, abs=0.01)


def test_a_network_for_ct_is_not_asked_for_mr_and_training_pairs_are_not_held_out(aligned):
    assert KnownPoints(held_out(aligned, 0.0)).find(PlaceNetwork()) == []
    assert KnownPoints(aligned, ("ct", "mr")).find(PlaceNetwork()) == []


def scan_of(entry, moved_mm=0.0):
    """A body of distinct vectors 8 mm apart; where things are known to be is moved along x."""
    grid = np.stack(np.meshgrid(*[np.arange(0, 80, 8.0)] * 3, indexing="ij")[::-1], -1).reshape(-1, 3)
    vectors = torch.nn.functional.normalize(
        torch.randn(len(grid), 64, generator=torch.Generator().manual_seed(0)), dim=1
    )
    places = {"humeral_head_left": 64.0, "humeral_head_right": 16.0, "carina": 40.0, "dome_left": 32.0}
    known = {name: np.array([x + moved_mm, 40.0, 40.0]) for name, x in places.items()}
    return Embedded(vectors.bfloat16(), grid, (5, 5, 5), known)


def test_errors_are_told_by_region_and_split_and_sides_are_compared(aligned):
    train = replace(aligned.entries[0], group="ct", split="train")
    val = replace(aligned.entries[1], group="ct", split="val")
    found = search_known(train, val, scan_of(train), scan_of(val, -24.0)) + search_known(
        val, train, scan_of(val), scan_of(train, -32.0)
    )
    parts = by_name(found)
    figures = {name: [one.error_mm for one in part] for name, part in parts.items()}
    assert figures["ct"] == pytest.approx([24.0] * 3) and figures["train_ct"] == pytest.approx([32.0] * 3)
    assert figures["ct_bones"] == pytest.approx([24.0] * 2) and figures["ct_domes"] == pytest.approx([24.0])
    assert figures["ct_chest"] == pytest.approx([24.0])
    # The true heads lie 48 mm apart: what is found for the right one lies as near to the left one from 24 mm off on.
    confused = {one.label: one.confused for one in parts["train_ct_bones"]}
    assert confused == {"humeral_head_left": False, "humeral_head_right": True}
    assert parts["ct_chest"][0].confused is None
