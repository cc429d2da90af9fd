"""The figures of the tracking benchmark and the fit of the confidence, on made-up results."""

import dataclasses
import math

import numpy as np
import pytest

from SAMv2Core.matching.confidence import Evidence, UncertaintyModel
from SAMv2Core.tracking.confidence import TrackEvidence
from Testing.benchmarks import calibration, common, tracking
from Testing.benchmarks.calibration import Sample
from Testing.benchmarks.tracking import Finished, Trial


def results(n=1200, seed=0):
    """Results whose probability to be right follows from similarity and cycle error, of five scans."""
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(n):
        similarity, cycle = rng.uniform(0.4, 1.0), rng.exponential(8.0)
        probability = 1 / (1 + math.exp(-(-6 + 11 * similarity - 1.5 * math.log1p(cycle / 4))))
        evidence = dataclasses.asdict(Evidence(similarity, cycle, float(rng.uniform(0, 0.2))))
        scan = f"scan {rng.integers(5)}"
        samples.append(Sample("made up", "nearest", (scan,), evidence, bool(rng.uniform() < probability)))
    return samples


def with_all_sets(samples):
    """The samples and as many of the other two sets, which :func:`calibration.fit_sets` needs."""
    voted = [dataclasses.replace(s, method="default", evidence={**s.evidence, "fixed_points": 20}) for s in samples]
    facts = [(s, TrackEvidence(s.evidence["similarity"], 2.0, s.evidence["cycle_error_mm"], 20, 0.1)) for s in samples]
    tracked = [dataclasses.replace(s, method="tracker", evidence=dataclasses.asdict(evidence)) for s, evidence in facts]
    return [*samples, *voted, *tracked]


def test_the_fit_finds_the_probabilities_and_no_coefficient_turns_its_sign():
    samples = results()
    fitted = calibration.fit(samples)
    assert fitted["similarity"] == pytest.approx(11, abs=2.5) and fitted["cycle"] == pytest.approx(-1.5, abs=0.5)
    flipped = [dataclasses.replace(s, is_right=not s.is_right) for s in samples]
    assert calibration.fit(flipped)["similarity"] == 0 and calibration.fit(flipped)["cycle"] == 0


def test_cross_validated_confidence_is_calibrated_and_has_not_seen_the_scan():
    samples = with_all_sets(results())
    sure = calibration.cross_validated(samples)
    right = np.array([s.is_right for s in samples])
    assert common.expected_calibration_error(sure, right) < 0.04  # sampling error of ten bins of some 450
    one = [n for n, s in enumerate(samples) if s.scans[0] == "scan 0"]
    lying = [dataclasses.replace(s, is_right=not s.is_right) if s.scans[0] == "scan 0" else s for s in samples]
    np.testing.assert_allclose(calibration.cross_validated(lying)[one], sure[one])


def test_what_is_written_is_what_the_program_computes():
    samples = with_all_sets(results(600))
    fitted = calibration.calibration_of(samples, calibration.cross_validated(samples))
    sets = {**fitted, "track": fitted["track"]["coefficients"]}
    model = UncertaintyModel.from_metadata(fitted)
    for sample in samples[:20]:
        assert calibration.confidence(sets, sample) == pytest.approx(model.confidence(Evidence(**sample.evidence)))
    assert 0 < fitted["not_found_below"] < fitted["matched_above"] < 1
    beyond = dataclasses.replace(samples[0], is_beyond=True)
    assert calibration.confidence(sets, beyond) <= 0.1  # outside the scan: not found, whatever else is known


def test_several_templates_are_right_where_they_agree():
    """Three templates of one landmark 2 mm off, a fourth one 60 mm; of another landmark there is one only."""
    rng = np.random.default_rng(0)
    offs = [*rng.normal(0, 1, (3, 3)), np.array([60.0, 0, 0])]
    facts = {"experiment": "torso", "method": "default", "evidence": {}, "is_inside": True}
    samples = [
        Sample(scans=("q", f"t{n}"), is_right=n < 3, label="carina", off_mm=tuple(off), **facts)
        for n, off in enumerate(offs)
    ]
    samples.append(Sample(scans=("q", "t0"), is_right=True, label="spleen", off_mm=(0.0, 0.0, 0.0), **facts))
    found = calibration.together(samples, np.full(5, 0.6))
    assert [sample.experiment for sample in found] == [f"torso, {n} templates" for n in (2, 3, 4)]
    assert found[-1].is_right and np.linalg.norm(found[-1].off_mm) < 3
    assert found[-1].scans == ("q", "t0", "t1", "t2", "t3") and found[-1].set == "several"
    assert found[-1].terms["support"] == pytest.approx(np.log1p(3 * 0.6))


def test_the_cut_of_matched_keeps_its_promise_in_every_experiment():
    easy = [Sample("easy", "nearest", ("a",), {}, n % 20 > 0) for n in range(400)]
    hard = [Sample("hard", "nearest", ("b",), {}, n % 100 < s) for s in (60, 90) for n in range(100)]
    samples = [dataclasses.replace(s, evidence=dataclasses.asdict(Evidence(0.9, 1.0, 0.1))) for s in easy + hard]
    sure = np.array([0.95] * 400 + [0.82] * 100 + [0.9] * 100)
    outside = dataclasses.replace(samples[0], is_inside=False, is_right=False)
    matched, not_found = calibration.cuts_of([*samples, outside], np.append(sure, 0.1), ("nearest",))
    assert 0.82 < matched <= 0.9  # below it the hard ones of 60 % would count
    assert not_found == pytest.approx(0.1)


def test_calibration_error_by_hand():
    sure = [0.05, 0.05, 0.95, 0.95, 0.95, 1.0]
    right = [0, 1, 1, 1, 0, 1]
    # |0.5 - 0.05| of two results, |0.75 - 0.9625| of four (1.0 is in the last bin)
    assert common.expected_calibration_error(sure, right) == pytest.approx((2 * 0.45 + 4 * 0.2125) / 6)


def trial(**changes):
    values = {
        "case": "a", "kind": "whole", "study": 1, "label": "l", "method": "nearest", "radius_mm": 8.0,
        "is_inside": True, "offset_mm": (3.0, 0.0, 4.0), "status": "matched", "confidence": 0.9,
    }  # fmt: skip
    return Trial(**{**values, **changes})


def test_the_table_by_hand():
    trials = [
        trial(),  # 5 mm: within the radius
        trial(offset_mm=(0, 9.0, 0), radius_mm=20.0, status="not_found"),  # 9 mm, a false alarm
        trial(offset_mm=(9.0, 0, 0)),  # 9 mm of a radius of 8
        trial(offset_mm=(math.inf,) * 3, status="not_found", confidence=0.0),  # nothing at all: 200 mm per axis
        trial(is_inside=False, status="not_found", confidence=0.1),
        trial(is_inside=False),
    ]
    (row,) = tracking.summarize(trials)
    assert (row["n"], row["n_outside"]) == (4, 2)
    assert (row["cpm_10mm"], row["cpm_radius"], row["plain_10mm"]) == (0.5, 0.5, 0.75)
    assert row["med_mm"] == pytest.approx((5 + 9 + 9 + 200 * 3**0.5) / 4)
    assert (row["not_found_outside"], row["not_found_inside"]) == (0.5, 0.5)
    assert "| nearest | 4 |" in tracking.to_markdown([row])


def test_kept_findings_are_judged_by_todays_coefficients():
    evidence = dataclasses.asdict(TrackEvidence(0.9, 1.0, 1.0, 30, 0.2, 1.0, 3.0, 1.0, 50.0))
    found = trial(method="tracker", evidence=evidence)
    assert tracking.judged(found, {}).status == "matched"
    doubting = {"track": {"coefficients": {"bias": -30.0}}}
    assert tracking.judged(found, doubting).status == "not_found"
    beyond = trial(method="tracker", evidence={**evidence, "depth_mm": -4.0})
    assert tracking.judged(beyond, {}).status == "not_found" and tracking.is_beyond(beyond)
    matched = trial(evidence=dataclasses.asdict(Evidence(0.9, 1.0, 0.2)))
    assert tracking.judged(matched, {"matched_above": 1.0}).status == "uncertain"
    assert tracking.judged(trial(method="MIND-SSC, nearest", evidence=evidence), doubting).status == "matched"


def test_finished_scans_are_kept_and_a_torn_line_is_not(tmp_path):
    path = tmp_path / "cases.jsonl"
    facts = {"sha256": "x", "lesions": 2}
    Finished(path, facts).add("a", "nearest", [trial(), trial(offset_mm=(math.inf,) * 3)], 1.5)
    with open(path, "a") as stream:
        stream.write('{"sha256": "x", "case": "b", "tri')
    again = Finished(path, facts)
    assert again.get("b", "nearest") is None and again.get("a", "tracker") is None
    assert again.get("a", "nearest")[1].error_mm == math.inf and again.seconds("a", "nearest") == 1.5
    again.add("b", "nearest", [trial(case="b")], 1.0)
    assert Finished(path, facts).get("b", "nearest")[0].case == "b"
    assert Finished(path, {**facts, "sha256": "y"}).get("a", "nearest") is None


def test_results_of_several_templates_weigh_the_same_each():
    """30 of 40 and 0 of 10 right are 60 % of all, where experiments of equal weight would say 37.5 %."""
    samples = [
        Sample(experiment, "several", ("a", "b"), {"bias": 1.0}, n < right)
        for experiment, right, count in (("torso, 2 templates", 30, 40), ("neck, 2 templates", 0, 10))
        for n in range(count)
    ]
    assert calibration.fit(samples)["bias"] == pytest.approx(np.log(0.6 / 0.4), abs=0.01)
