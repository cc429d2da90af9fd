"""The atlas command's parts: what is absent, the fit of the confidence, and that nobody judges himself."""

from __future__ import annotations

import math

import numpy as np
import pytest

from SAMv2Core.geometry.grid import Grid
from SAMv2Core.landmarks.landmark import Witnesses
from Training import landmark_atlas as la


def trials(n: int = 400, seed: int = 0):
    """Answers whose agreement tells the truth, by a logistic curve; a fifth are of what the scan does not show."""
    rng = np.random.default_rng(seed)
    out = []
    for number in range(n):
        is_absent = rng.uniform() < 0.2
        agreement = rng.uniform(0, 0.5 if is_absent else 1)
        is_right = rng.uniform() < 1 / (1 + math.exp(-12 * (agreement - 0.5)))
        error = math.nan if is_absent else float(rng.uniform(0, 9) if is_right else rng.uniform(11, 60))
        witnesses = Witnesses(agreement, 0.8, 5.0, 0.5, 9, 0.0)
        out.append(la.Trial(f"s{number % 8}", f"p{number % 8}", "train", 0, f"l{number % 10}", error, "l0", witnesses))
    return out


def test_confidence_is_the_share_that_is_right():
    coefficients = la.fit(trials())
    sure = [t for t in trials(seed=1) if t.witnesses.agreement > 0.9]
    expected = np.mean([t.is_right for t in sure])
    confidence = np.mean([la.confidence_of(t, coefficients) for t in sure])
    assert confidence == pytest.approx(expected, abs=0.12)  # some 30 of them: one standard deviation is 0.05
    assert coefficients.agreement > 2 and coefficients.not_found_below <= coefficients.matched_above


def test_what_is_called_matched_is_right_and_what_is_absent_is_lost():
    known = trials(2000)
    c = la.fit(known)
    answers = [(t, c.status(t.name, la.confidence_of(t, c))) for t in known]
    matched = [t.is_right for t, status in answers if status == "matched"]
    lost = [status == "not_found" for t, status in answers if t.is_absent]
    assert len(matched) >= la.FEW and np.mean(matched) >= la.MATCHED_RIGHT
    assert np.mean(lost) >= la.ABSENT_NOT_FOUND or c.not_found_below == c.matched_above


def test_one_wrong_spine_among_few_patients_forbids_sure_levels():
    """Twenty patients with 12 levels each, all sure: all are right, or one patient's are wrong (5 % of the levels)."""

    def levels(patient, is_right):
        witnesses = Witnesses(0.9, 0.9, 3.0, 0.5, 9, 0.0, level=0.99)
        names = [f"vertebra_T{n}" for n in range(1, 13)]
        error = 2.0 if is_right else 25.0
        return [la.Trial(patient, patient, "train", 0, name, error, name, witnesses) for name in names]

    one_wrong = [trial for n in range(20) for trial in levels(f"p{n}", n > 0)]
    all_right = [trial for n in range(20) for trial in levels(f"p{n}", True)]
    for others, is_sure in ((one_wrong, False), (all_right, True)):
        c = la.fit([*trials(), *others])
        assert (la.confidence_of(others[0], c) >= c.level_matched_above) == is_sure


def test_a_patient_does_not_judge_himself():
    """One patient's landmarks are all right and look it; his own answers must not learn that from himself."""
    others = trials(400)
    own = [t for t in others if t.patient == "p3"]
    told = la.with_reliability(own, others)
    without = la.reliabilities([t for t in others if t.patient != "p3"])
    assert all(t.witnesses.reliability == without[t.name] for t in told)
    assert {t.patient for t, _ in la.cross_fitted(others)} == {f"p{n}" for n in range(8)}


def test_absent_is_what_all_others_put_outside():
    """A scan of the upper half; the names of the lower half lie 80 mm and more below its last slice."""

    def body(scale):
        return {f"l{n}": (10.0 * n % 30, 7.0 * n % 20, scale * 40.0 * (n - 4)) for n in range(12)}

    matrix = np.diag([2.0, 2.0, 2.0, 1.0])
    matrix[:3, 3] = (-60, -60, -20)
    upper = Grid((200, 60, 60), matrix)  # z from -20 mm up
    own = {name: place for name, place in body(1.0).items() if place[2] > -10}
    others = [body(scale) for scale in (0.95, 1.0, 1.05)]
    assert la.absent(own, upper, others) == ["l0", "l1", "l2"]  # l3 lies 20 mm below: not certain
    assert la.absent(own, upper, others[:2]) == []  # two patients are no proof


def test_scans_of_one_patient_are_one_patient():
    assert la.patient_of("ACRIN-FLT-001-a") == la.patient_of("ACRIN-FLT-001-c") != la.patient_of("ACRIN-FLT-013")
