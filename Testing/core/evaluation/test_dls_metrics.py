"""Each evaluator of DLS against figures computed by hand; anisotropic spacing, pixels against mm, bounds of boxes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from SAMv2Core.evaluation import dls_metrics
from SAMv2Core.evaluation.dls_files import LesionPair
from SAMv2Core.evaluation.dls_metrics import mean_intervals


def lesion(**changes) -> LesionPair:
    """A lesion at (100, 100, 10) of a scan of 0.5 x 0.5 x 5 mm, of 32 pixels = 16 mm, in a box of 30 x 40 x 5."""
    values = {
        "key": "1",
        "source": "000001_01_01_001-020.nii.gz",
        "target": "000001_02_01_001-020.nii.gz",
        "source_center": (1.0, 2.0, 3.0),
        "target_center": (100.0, 100.0, 10.0),
        "source_spacing": (1.0, 1.0, 1.0),
        "target_spacing": (0.5, 0.5, 5.0),
        "target_box": (85.0, 80.0, 8.0, 30.0, 40.0, 5.0),
        "target_diameter_px": 32.0,
    }
    values.update(changes)
    return LesionPair(**values)


def hits_of(pair: LesionPair, predicted) -> dict:
    outcome = dls_metrics.judge([pair], np.array([predicted], dtype=float))
    return {name: values[0] for name, values in outcome.hits.items()}


@pytest.mark.parametrize(
    ("moved_px", "distance", "expected"),
    [
        # r = 32 / 2 * 0.5 = 8 mm; the box's diagonal is sqrt(900 + 1600 + 25) = 50.2 voxels.
        ((0, 0, 1), 5.0, {"dlt10": 1, "dltr": 1, "tlt10": 1, "tltr": 1, "plain10": 1, "box": 1}),
        ((15.9, 0, 0), 7.95, {"dlt10": 1, "dltr": 1, "tlt10": 1, "tltr": 1, "plain10": 1, "box": 0}),
        ((16, 0, 0), 8.0, {"dlt10": 1, "dltr": 0, "tlt10": 1, "tltr": 1, "plain10": 1, "box": 0}),  # d = r
        ((0, 18, 0), 9.0, {"dlt10": 0, "dltr": 0, "tlt10": 1, "tltr": 1, "plain10": 1, "box": 1}),
        ((0, 0, 2), 10.0, {"dlt10": 0, "dltr": 0, "tlt10": 0, "tltr": 1, "plain10": 1, "box": 1}),  # d = 10
        ((0, 0, 4), 20.0, {"dlt10": 0, "dltr": 0, "tlt10": 0, "tltr": 1, "plain10": 0, "box": 0}),
        ((0, 0, 11), 55.0, {"dlt10": 0, "dltr": 0, "tlt10": 0, "tltr": 0, "plain10": 0, "box": 0}),
    ],
)
def test_every_rule_on_an_anisotropic_scan(moved_px, distance, expected):
    pair = lesion()
    predicted = np.add(pair.target_center, moved_px)
    assert dls_metrics.judge([pair], predicted[None]).distance_mm[0] == pytest.approx(distance)
    hits = hits_of(pair, predicted)
    assert {
        "dlt10": hits["dlt", "cpm_10mm"], "dltr": hits["dlt", "cpm_radius"], "tlt10": hits["tlt", "cpm_10mm"],
        "tltr": hits["tlt", "cpm_radius"], "plain10": hits["plain", "cpm_10mm"], "box": hits["plain", "in_box"],
    } == expected  # fmt: skip


def test_recist_diameters_are_pixels():
    # 12 mm off: within 16 pixels read as mm, outside 16 pixels x 0.5 mm.
    hits = hits_of(lesion(), (124.0, 100.0, 10.0))
    assert hits["dlt", "cpm_radius"] == 0
    assert hits_of(lesion(target_spacing=(1.0, 1.0, 5.0)), (112.0, 100.0, 10.0))["dlt", "cpm_radius"] == 1


def test_a_lesion_larger_than_20_mm_is_judged_at_10_mm():
    large = lesion(target_diameter_px=80.0)  # r = 20 mm
    assert hits_of(large, (120.0, 100.0, 10.0))["dlt", "cpm_10mm"] == 1  # d = 10 mm: within, bound included
    assert hits_of(large, (120.2, 100.0, 10.0))["dlt", "cpm_10mm"] == 0
    assert hits_of(large, (139.0, 100.0, 10.0))["dlt", "cpm_radius"] == 1


def test_small_box_bounds_the_tlt_limit():
    tiny = lesion(target_box=(99.0, 98.0, 9.0, 2.0, 4.0, 4.0))  # diagonal sqrt(4 + 16 + 16) = 6
    assert hits_of(tiny, (111.9, 100.0, 10.0))["tlt", "cpm_10mm"] == 1  # 5.95 mm
    assert hits_of(tiny, (112.0, 100.0, 10.0))["tlt", "cpm_10mm"] == 0  # 6 mm: bound excluded
    assert hits_of(tiny, (112.0, 100.0, 10.0))["tlt", "cpm_radius"] == 0


@pytest.mark.parametrize(
    ("predicted", "inside"),
    [
        ((85.0, 80.0, 8.0), 1),  # lower bounds included
        ((114.99, 119.99, 12.99), 1),
        ((115.0, 100.0, 10.0), 0),  # upper bounds excluded
        ((100.0, 120.0, 10.0), 0),
        ((100.0, 100.0, 13.0), 0),
        ((84.99, 100.0, 10.0), 0),
    ],
)
def test_in_box_includes_the_lower_and_excludes_the_upper_bound(predicted, inside):
    assert hits_of(lesion(), predicted)["plain", "in_box"] == inside


def test_a_missing_prediction_is_a_miss_and_no_distance():
    pairs = [lesion(), lesion(key="2")]
    outcome = dls_metrics.judge(pairs, np.array([(100.0, 100.0, 11.0), (math.nan,) * 3]))
    found = dls_metrics.summarize(outcome)
    assert (found["n"], found["n_predicted"]) == (2, 1)
    assert found["dlt"]["cpm_10mm"] == found["tlt"]["cpm_radius"] == found["plain"]["in_box"] == 50.0
    assert found["dlt"]["med_mm"] == 5.0


def test_what_a_rule_lacks_is_left_out_of_it():
    outcome = dls_metrics.judge(
        [lesion(), lesion(target_diameter_px=None), lesion(target_box=None)], np.tile((124.0, 100.0, 10.0), (3, 1))
    )
    np.testing.assert_array_equal(outcome.hits["dlt", "cpm_radius"], [0, np.nan, 0])
    np.testing.assert_array_equal(outcome.hits["tlt", "cpm_radius"], [1, 1, np.nan])
    np.testing.assert_array_equal(outcome.hits["plain", "cpm_10mm"], [0, 0, 0])


def test_med_and_its_parts_by_hand():
    # Offsets in mm: (3, 0, 0), (0, -4, 0), (0, 0, 5), (-1, 2, -2) -> distances 3, 4, 5, 3.
    offsets = np.array([(3, 0, 0), (0, -4, 0), (0, 0, 5), (-1, 2, -2)], dtype=float)
    pairs = [lesion(key=str(n)) for n in range(4)]
    predicted = np.array([pair.target_center for pair in pairs]) + offsets / (0.5, 0.5, 5.0)
    found = dls_metrics.summarize(dls_metrics.judge(pairs, predicted))["dlt"]
    assert found["med_mm"] == pytest.approx(3.75)
    assert found["med_std_mm"] == pytest.approx(math.sqrt((0.75**2 + 0.25**2 + 1.25**2 + 0.75**2) / 4))  # over n
    assert found["med_xyz_mm"] == pytest.approx([1.0, 1.5, 1.75])
    assert found["med_xyz_std_mm"] == pytest.approx([np.std([3, 0, 0, 1]), np.std([0, 4, 0, 2]), np.std([0, 0, 5, 2])])


def test_tables_by_size_and_region_add_up():
    pairs = [
        lesion(key="a", target_diameter_px=10.0, region="lung"),  # 5 mm
        lesion(key="b", target_diameter_px=20.0, region="liver"),  # 10 mm: the class begins with it
        lesion(key="c", target_diameter_px=200.0, region="liver"),  # 100 mm
    ]
    outcome = dls_metrics.judge(pairs, np.array([pair.target_center for pair in pairs]))
    sizes = dls_metrics.by_size(outcome)
    assert [(row["diameter"], row["n"]) for row in sizes] == [("< 10 mm", 1), ("10-20 mm", 1), (">= 40 mm", 1)]
    regions = dls_metrics.by_region(outcome, [pair.region for pair in pairs])
    assert [(row["region"], row["n"]) for row in regions] == [("liver", 2), ("lung", 1)]
    assert dls_metrics.by_region(outcome, ["", "", ""]) == []


def test_intervals_are_those_of_patients():
    pairs = [lesion(key=str(n)) for n in range(40)]
    rng = np.random.default_rng(0)
    predicted = np.array([pair.target_center for pair in pairs]) + rng.normal(0, 8, (40, 3))
    outcome = dls_metrics.judge(pairs, predicted)
    patients = [str(n // 10) for n in range(40)]
    ci = dls_metrics.intervals(outcome, patients)
    found = dls_metrics.summarize(outcome)
    for evaluator, figure in dls_metrics.SHARES:
        low, high = ci[evaluator][figure]
        assert 0 <= low <= found[evaluator][figure] <= high <= 100
    assert ci["resampled"] == "patients" and len(ci["dlt"]["med_xyz_mm"]) == 3
    assert dls_metrics.intervals(outcome, patients) == ci  # seeded
    assert dls_metrics.intervals(outcome, None)["resampled"] == "lesions"


def test_width_is_that_of_the_normal_approximation():
    values = np.random.default_rng(1).normal(5, 2, (400, 1))
    ((low, high),) = mean_intervals(values, n_resamples=4000)
    expected = 2 * 1.96 * values.std() / np.sqrt(400)
    assert high - low == pytest.approx(expected, rel=0.08)
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.03)


def test_lesions_of_one_patient_do_not_count_as_many():
    # 20 patients whose 20 lesions agree completely: the interval is that of 20 values, not of 400.
    patient = np.repeat(np.arange(20), 20)
    values = np.random.default_rng(2).normal(0, 1, 20)[patient][:, None]
    ((low, high),) = mean_intervals(values, patient, n_resamples=4000)
    ((low_single, high_single),) = mean_intervals(values, n_resamples=4000)
    assert (high - low) / (high_single - low_single) == pytest.approx(np.sqrt(20), rel=0.12)


def test_rows_without_a_value_do_not_count():
    values = np.array([[1.0, np.nan], [3.0, np.nan], [2.0, np.nan]])
    first, second = mean_intervals(values)
    assert first[0] >= 1 and first[1] <= 3 and second is None


def test_seed_decides():
    values = np.random.default_rng(3).normal(size=(30, 2))
    assert mean_intervals(values, seed=4) == mean_intervals(values, seed=4)
    assert mean_intervals(values, seed=4) != mean_intervals(values, seed=5)


def test_one_patient_says_nothing_of_others():
    assert mean_intervals(np.ones((5, 2)), ["p"] * 5) == [None, None]
    assert mean_intervals(np.ones((0, 1))) == [None]
