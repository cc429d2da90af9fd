"""The error at known points of CT-MR pairs, with a stand-in for a perfect network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from SAMv2Core.models.catalogue import find_model
from Testing.samples.training_pairs import aligned_pairs
from Testing.samples.training_samples import PlaceNetwork
from Training.data.index import Index
from Training.export import load_trained
from Training.tasks.landmark_error import N_PARTNER_POINTS, KnownPoints, partner_errors

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
    errors = KnownPoints(held_out(aligned, 0.0), ("ct", "mr")).errors(PlaceNetwork())
    assert list(errors) == ["mr_in_ct"] and len(errors["mr_in_ct"]) > 100
    assert np.median(errors["mr_in_ct"]) < 8.0  # a voxel of the lattice; the two bodies' crops may differ by one


def test_the_alignment_of_the_pair_is_the_truth(aligned):
    errors = KnownPoints(held_out(aligned, AWAY_MM), ("ct", "mr")).errors(PlaceNetwork())["mr_in_ct"]
    assert np.median(errors) == pytest.approx(AWAY_MM, abs=6.0)


def test_a_ct_in_itself_is_found_where_the_alignment_says_so(aligned):
    ct, _ = held_out(aligned, 0.0).pairs("val")[0]
    moved, _ = held_out(aligned, AWAY_MM).pairs("val")[0]
    net = load_trained(find_model("lite-ct"), "lite")
    for entry, expected in ((ct, 0.0), (moved, AWAY_MM)):
        errors = partner_errors(net, aligned, entry, ct)
        assert len(errors) == N_PARTNER_POINTS
        assert np.median(errors) == pytest.approx(expected, abs=0.01)


def test_a_network_for_ct_is_not_asked_for_mr_and_training_pairs_are_not_held_out(aligned):
    assert KnownPoints(held_out(aligned, 0.0)).errors(PlaceNetwork()) == {}
    assert KnownPoints(aligned, ("ct", "mr")).errors(PlaceNetwork()) == {}
