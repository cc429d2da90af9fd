"""The verdict on a registration: every limit, once broken, shows in status and reasons."""

import dataclasses

import numpy as np
import pytest

from SAMv2Core.registration.poses import Choice
from SAMv2Core.registration.verdict import Evidence, verdict

RNG = np.random.default_rng(0)
GOOD = Evidence(
    matrix=np.eye(4),
    points_lps=RNG.uniform(-100, 100, (200, 3)),
    explained=np.arange(200) < 160,
    median_residual_mm=4.0,
    overlap=0.9,
    half_sample_mm=3.0,
    undetermined=(),
)


def test_all_well_is_registered_without_reasons():
    assert verdict(GOOD) == ("registered", ())


@pytest.mark.parametrize(
    "change, status, word",
    [
        ({"explained": np.arange(200) < 90}, "uncertain", "90 of 200"),
        ({"explained": np.arange(200) < 60}, "failed", "60 of 200"),
        ({"explained": np.zeros(0, bool), "points_lps": np.zeros((0, 3))}, "failed", "0 of 0"),
        ({"overlap": 0.2}, "uncertain", "20%"),
        ({"overlap": 0.05}, "failed", "5%"),
        ({"half_sample_mm": 20.0}, "uncertain", "20 mm"),
        ({"half_sample_mm": 90.0}, "failed", "90 mm"),
        ({"half_sample_mm": np.inf}, "failed", "disagree"),
        ({"median_residual_mm": 9.0}, "uncertain", "8 mm off"),
        ({"points_lps": GOOD.points_lps * (0.02, 0.02, 1.0)}, "uncertain", "line"),
        ({"undetermined": ("scale",)}, "uncertain", "scale"),
        ({"matrix": np.diag([1.5, 1.5, 1.5, 1.0])}, "uncertain", "size"),
        ({"crosses_modalities": True}, "uncertain", "CT and MR"),
    ],
)
def test_every_broken_limit_shows(change, status, word):
    found, reasons = verdict(dataclasses.replace(GOOD, **change))
    assert found == status
    assert any(word in reason for reason in reasons), reasons


def test_few_but_perfect_matches_are_not_enough():
    few = dataclasses.replace(GOOD, points_lps=GOOD.points_lps[:15], explained=np.ones(15, bool))
    assert verdict(few)[0] == "failed"


CHOSEN = Choice(
    np.eye(4),
    information=0.4,
    edges=0.4,
    overlap=1.0,
    runner_up=0.7,
    turned_deg=10.0,
    bone=0.8,
    votes=0.4,
    halves_mm=3.0,
)


@pytest.mark.parametrize(
    "change, status, word",
    [
        ({}, "registered", ""),
        ({"runner_up": 0.9}, "uncertain", "90%"),
        ({"runner_up": 0.97}, "failed", "97%"),
        ({"halves_mm": 14.0}, "uncertain", "14 mm apart"),
        ({"information": 0.1, "bone": 0.5}, "uncertain", "0.50"),
        ({"information": 0.1, "edges": 0.2, "bone": 0.3}, "failed", "0.30"),
    ],
)
def test_with_intensities_they_decide_not_the_matches(change, status, word):
    useless = np.zeros(200, bool)
    chosen = dataclasses.replace(CHOSEN, **change)
    found, reasons = verdict(dataclasses.replace(GOOD, explained=useless, intensity=chosen))
    assert found == status
    assert word in " ".join(reasons)


def test_intensities_do_not_excuse_bodies_that_hardly_overlap():
    assert verdict(dataclasses.replace(GOOD, overlap=0.05, intensity=CHOSEN))[0] == "failed"
