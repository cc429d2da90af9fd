"""Confidence moves the right way with every piece of evidence, and words follow the numbers."""

import dataclasses
import json
import math

import pytest

from SAMv2Core.errors import ModelError
from SAMv2Core.matching.confidence import (
    MATCHED,
    NO_MAP,
    NOT_FOUND,
    UNCERTAIN,
    Coefficients,
    Evidence,
    UncertaintyModel,
    judge,
)

VOTED = Evidence(similarity=0.9, cycle_error_mm=2.0, margin=0.2, fixed_points=60, residual_mm=1.0, agreement_mm=1.5)
NEAREST = Evidence(similarity=0.9, cycle_error_mm=2.0, margin=0.2)
BAD = Evidence(similarity=0.5, cycle_error_mm=60.0, margin=0.0, at_edge=True, fell_back=True)


def test_clear_cases():
    for good in (VOTED, NEAREST):
        verdict = judge(good)
        assert verdict.status == MATCHED and verdict.confidence > 0.9 and verdict.reason == ""
    bad = judge(BAD)
    assert bad.status == NOT_FOUND and bad.confidence < 0.1
    assert "60 mm" in bad.reason and bad.reason.endswith(".")


@pytest.mark.parametrize(
    ("base", "worse"),
    [
        (VOTED, {"similarity": 0.7}),
        (VOTED, {"cycle_error_mm": 12.0}),
        (VOTED, {"margin": 0.02}),
        (VOTED, {"fixed_points": 4}),
        (VOTED, {"residual_mm": 8.0}),
        (VOTED, {"agreement_mm": 15.0}),
        (VOTED, {"at_edge": True}),
        (NEAREST, {"similarity": 0.7}),
        (NEAREST, {"cycle_error_mm": 12.0}),
        (NEAREST, {"margin": 0.02}),
        (NEAREST, {"at_edge": True}),
        (NEAREST, {"fell_back": True}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "voted" if value is VOTED else "nearest",
)
def test_worse_evidence_lowers_the_confidence(base, worse):
    model = UncertaintyModel()
    assert model.confidence(dataclasses.replace(base, **worse)) < model.confidence(base)


def test_a_fallback_is_judged_as_a_nearest_neighbor():
    """Its few fixed points did not give the result, so they neither help nor harm."""
    model = UncertaintyModel()
    two = dataclasses.replace(NEAREST, fell_back=True, fixed_points=2)
    assert model.confidence(two) == model.confidence(dataclasses.replace(two, fixed_points=0))
    assert model.coefficients(two) is model.nearest and model.coefficients(VOTED) is model.fixed_point


def test_bodies_less_alike_are_believed_less_and_those_without_a_map_least():
    model = UncertaintyModel(fixed_point=dataclasses.replace(UncertaintyModel().fixed_point, likeness=10.0))
    same, other, none = (dataclasses.replace(VOTED, likeness=value) for value in (0.97, 0.78, NO_MAP))
    assert model.confidence(none) < model.confidence(other) < model.confidence(VOTED) < model.confidence(same)


def test_one_exemplar_of_another_patient_is_never_called_matched():
    strict = UncertaintyModel(same_patient=0.9)
    same, other, unknown = (dataclasses.replace(VOTED, likeness=value) for value in (0.95, 0.8, math.nan))
    assert judge(same, strict).status == judge(unknown, strict).status == MATCHED
    verdict = judge(other, strict)
    assert verdict.status == UNCERTAIN and "two patients" in verdict.reason
    assert judge(other).status == MATCHED  # a model that says nothing of patients


def test_nothing_is_called_matched_between_bodies_that_have_no_map():
    verdict = judge(dataclasses.replace(VOTED, likeness=NO_MAP))
    assert judge(VOTED).status == MATCHED
    assert verdict.status == UNCERTAIN and "too little of the two bodies agrees" in verdict.reason


def test_hard_limits_overrule_the_sum():
    sure = UncertaintyModel(nearest=Coefficients(10.0, 0.0, 0.0, 0.0), fixed_point=Coefficients(10.0, 0.0, 0.0, 0.0))
    lost = dataclasses.replace(NEAREST, cycle_error_mm=sure.max_cycle_error_nearest_mm + 1)
    assert judge(NEAREST, sure).status == MATCHED
    assert judge(lost, sure).status == NOT_FOUND and judge(lost, sure).confidence < sure.not_found_below
    for base in (NEAREST, VOTED):
        assert judge(dataclasses.replace(base, similarity=sure.min_similarity - 0.01), sure).status == NOT_FOUND
    # The way back from a voted result is a single neighbor's: it may go astray without the vote being wrong.
    assert judge(dataclasses.replace(VOTED, cycle_error_mm=99.0), sure).status == MATCHED


def test_between_the_cuts_it_is_uncertain_and_says_why():
    flat = UncertaintyModel(fixed_point=Coefficients(0.0, 0.0, 0.0, 0.0, agreement=-0.1))
    verdict = judge(dataclasses.replace(VOTED, agreement_mm=15.0), flat)
    assert verdict.status == UNCERTAIN and flat.not_found_below < verdict.confidence < flat.matched_above
    assert "15 mm" in verdict.reason


@pytest.mark.parametrize(
    ("base", "change", "words"),
    [
        (NEAREST, {"at_edge": True}, "edge of the scan"),
        (NEAREST, {"margin": 0.0}, "another place"),
        (VOTED, {"similarity": 0.4}, "similarity is only 0.40"),
        (VOTED, {"fixed_points": 2}, "only 2 of the surrounding places agree"),
        (NEAREST, {"fell_back": True}, "do not agree"),
        (NEAREST, {"cycle_error_mm": 18.0}, "it ends 18 mm from the point"),
    ],
    ids=["edge", "rival", "similarity", "few votes", "fallback", "cycle"],
)
def test_the_reason_names_the_weak_point(base, change, words):
    strict = UncertaintyModel(matched_above=1.0)  # nothing is good enough
    assert words in judge(dataclasses.replace(base, **change), strict).reason


def test_confidence_is_a_probability_for_any_numbers():
    for extreme in (1e9, -1e9):
        assert 0 <= UncertaintyModel(nearest=Coefficients(extreme, 1.0, 1.0, -1.0)).confidence(NEAREST) <= 1


def test_coefficients_come_from_the_model():
    stored = UncertaintyModel.from_metadata({"nearest": {"bias": 1.5}, "matched_above": 0.8})
    assert stored.nearest == dataclasses.replace(UncertaintyModel().nearest, bias=1.5)
    assert stored.matched_above == 0.8 and stored.fixed_point == UncertaintyModel().fixed_point
    assert UncertaintyModel.from_metadata({}) == UncertaintyModel()
    assert UncertaintyModel.from_metadata({"other_patient": {"bias": 1.0}}) == UncertaintyModel()  # of older records
    assert UncertaintyModel.from_metadata({"track": {"matched_above": 0.9}}) == UncertaintyModel()  # the tracker's
    as_json = json.dumps(dataclasses.asdict(stored))
    assert UncertaintyModel.from_metadata(json.loads(as_json)) == stored


@pytest.mark.parametrize(
    "values",
    [
        {"nearest": {"bias": "high"}},
        {"nearest": {"bias": math.inf}},
        {"nearest": {"gamma": 1.0}},
        {"fixed_point": {"bias": math.nan}},
        {"nearest": 3.0},
        {"gamma": 1.0},
        {"matched_above": None},
        {"matched_above": {"bias": 1.0}},
    ],
)
def test_nonsense_coefficients_are_refused(values):
    with pytest.raises(ModelError, match="coefficients"):
        UncertaintyModel.from_metadata(values)
