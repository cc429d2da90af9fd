"""Each rule of RECIST 1.1 at both sides of its threshold (Eisenhauer et al. 2009, tables 1 to 3)."""

import pytest

from SAMv2Core.errors import InputError
from SAMv2Core.tracking.recist import (
    ABSENT,
    MERGED,
    NEW,
    NON_TARGET,
    NOT_EVALUABLE,
    PRESENT,
    PROGRESSED,
    TARGET,
    TOO_SMALL,
    VANISHED,
    Course,
    Reading,
    as_table,
    hints,
    time_points,
)  # fmt: skip

GONE, LOST, HERE = Reading(VANISHED), Reading(NOT_EVALUABLE), Reading(PRESENT)


def target(label, *sizes, organ="", role=TARGET):
    """A lesion by its longest diameters; readings stand for themselves."""
    return Course(label, role, tuple(s if isinstance(s, Reading) else Reading(PRESENT, s) for s in sizes), organ)


def node(label, *sizes, role=TARGET):
    readings = tuple(s if isinstance(s, Reading) else Reading(PRESENT, s + 8, s) for s in sizes)
    return Course(label, role, readings, is_node=True)


def last(*courses):
    return time_points(courses)[-1]


@pytest.mark.parametrize(
    ("sizes", "category"),
    [
        ((50, 35.0), "PR"),  # 30 % below the baseline
        ((50, 35.1), "SD"),
        ((50, 30, 36.0), "PD"),  # 20 % and 6 mm above the nadir, although 28 % below the baseline
        ((50, 30, 35.9), "SD"),
        ((20, 24.9), "SD"),  # 24.5 %, and less than 5 mm
        ((20, 25.0), "PD"),
        ((100, 119.0), "SD"),  # 19 mm, and less than 20 %
        ((50, 34, 34), "PR"),
    ],
)
def test_partial_response_and_progression_at_their_thresholds(sizes, category):
    point = last(target("a", *map(float, sizes)))
    assert (point.target, point.overall) == (category, category)
    if sizes == (20, 24.9):
        assert "only 4.9 mm" in point.rule


def test_change_is_told_against_baseline_and_against_the_smallest_sum_before():
    points = time_points([target("a", 40.0, 20.0, 30.0), target("b", 10.0, 10.0, 9.0)])
    assert [p.sum_mm for p in points] == [50, 30, 39]
    assert [p.nadir_mm for p in points] == [None, 50, 30] and points[2].nadir_study == 1
    assert points[2].change_from_baseline == pytest.approx(-0.22)
    assert points[2].change_from_nadir == pytest.approx(0.3)
    assert (
        points[1].overall == "PR" and points[2].overall == "PD" and "nadir of 30.0 mm (follow-up 1)" in points[2].rule
    )
    assert points[0].overall == "" and points[0].sum_mm == 50


def test_a_vanished_target_counts_nothing_and_the_sum_stays():
    point = last(target("a", 30.0, GONE), target("b", 20.0, 20.0))
    assert point.sum_mm == 20 and point.change_from_baseline == pytest.approx(-0.6) and point.overall == "PR"
    assert last(target("a", 30.0, GONE), target("b", 20.0, GONE)).overall == "CR"


def test_too_small_counts_five_millimeters_unless_it_was_measured():
    assert last(target("a", 30.0, Reading(TOO_SMALL))).sum_mm == 5
    assert last(target("a", 30.0, Reading(TOO_SMALL, 3.0))).sum_mm == 3
    assert last(target("a", 12.0, Reading(TOO_SMALL))).overall == "PR"  # not complete: it is there


def test_lymph_nodes_count_by_the_short_axis_and_are_normal_below_ten():
    point = last(node("n", 16.0, 9.9), target("a", 20.0, GONE))
    assert point.sum_mm == pytest.approx(9.9) and point.overall == "CR" and "below 10 mm" in point.rule
    assert last(node("n", 16.0, 10.0), target("a", 20.0, GONE)).overall == "PR"
    # more than 20 % and 5 mm above the nadir, and still normal
    assert last(node("n", 16.0, 3.0, 9.0)).overall == "CR"
    assert last(node("n", 16.0, 3.0, 10.5)).overall == "PD"
    # pathological nodes among the non-targets stand in the way of a complete response
    assert last(target("a", 20.0, GONE), node("m", 12.0, 11.0, role=NON_TARGET)).overall == "PR"
    assert last(target("a", 20.0, GONE), node("m", 12.0, 8.0, role=NON_TARGET)).overall == "CR"


def test_a_lesion_without_a_size_leaves_no_sum_but_progression_shows_without_it():
    point = last(target("a", 30.0, LOST), target("b", 20.0, 20.0))
    assert (point.sum_mm, point.missing, point.overall) == (None, ("a",), "NE")
    assert last(target("a", 30.0, HERE), target("b", 20.0, 20.0)).overall == "NE"  # there, and nobody measured
    grown = last(target("a", 5.0, LOST), target("b", 20.0, 31.0))
    assert grown.overall == "PD" and "at least" in grown.rule


def test_what_comes_back_after_a_complete_response_is_progression_and_otherwise_a_size():
    assert last(target("a", 20.0, GONE, 4.0)).overall == "PD"
    assert last(target("a", 20.0, GONE, 4.0), target("b", 20.0, 10.0, 10.0)).overall == "PR"


def test_merged_lesions_count_once():
    point = last(target("a", 15.0, 26.0), target("b", 15.0, Reading(MERGED)))
    assert point.sum_mm == 26 and point.overall == "SD"


@pytest.mark.parametrize(
    ("targets", "others", "overall"),
    [
        (GONE, GONE, "CR"), (GONE, HERE, "PR"), (GONE, LOST, "PR"), (5.0, HERE, "PR"), (5.0, LOST, "PR"),
        (20.0, HERE, "SD"), (20.0, LOST, "SD"), (LOST, HERE, "NE"), (40.0, GONE, "PD"),
        (GONE, Reading(PROGRESSED), "PD"), (20.0, Reading(PROGRESSED), "PD"),
    ],
)  # fmt: skip
def test_targets_and_non_targets_together(targets, others, overall):
    """Table 1 of the guideline."""
    assert last(target("t", 20.0, targets), target("x", 10.0, others, role=NON_TARGET)).overall == overall


@pytest.mark.parametrize(
    ("others", "overall"), [(GONE, "CR"), (HERE, "non-CR/non-PD"), (LOST, "NE"), (Reading(PROGRESSED), "PD")]
)
def test_patients_without_targets(others, overall):
    """Table 2 of the guideline."""
    assert last(target("x", 10.0, others, role=NON_TARGET)).overall == overall


def test_a_new_lesion_is_progression_from_then_on():
    new = Course("new", NEW, (Reading(ABSENT), Reading(ABSENT), Reading(PRESENT, 6.0), Reading(VANISHED)))
    points = time_points([target("a", 20.0, 10.0, 10.0, 10.0), new])
    assert [p.overall for p in points] == ["", "PR", "PD", "PD"] and points[1].new == () and points[2].new == ("new",)
    assert points[2].sum_mm == 10  # it is no target


def test_the_choice_of_targets_is_advised_never_changed():
    many = [target(str(n), 12.0, 12.0, organ="Liver" if n < 3 else "") for n in range(6)]
    found = hints([*many, node("n", 12.0, 12.0), target("small", 8.0, 8.0), target("unmeasured", HERE, HERE)])
    assert [next(w for w in ("8 targets", "3 targets in liver", "unmeasured", "15 mm", "10 mm of") if w in h)
            for h in found] == ["8 targets", "3 targets in liver", "unmeasured", "15 mm", "10 mm of"]  # fmt: skip
    assert hints(many[:2]) == []
    assert last(*many).n_targets == 6


def test_the_table_is_laid_out_as_people_read_it():
    courses = [target("x", 10.0, HERE, role=NON_TARGET), target("a", 30.0, GONE), node("n", 16.0, 12.0)]
    header, rows = as_table(courses, ["baseline", "follow-up 1"])
    assert header[4:] == ["baseline", "follow-up 1"] and all(len(row) == 6 for row in rows)
    shown = {row[0]: row[3:] for row in rows}
    assert shown["a"] == ["long", "30.0", "0.0"] and shown["n"] == ["short", "16.0", "12.0"]
    assert shown["x"] == ["long", "10.0", "present"] and list(shown)[2] == "x"
    assert shown["sum of targets (mm)"] == ["", "46.0", "12.0"]
    assert shown["suggested category (RECIST 1.1)"] == ["", "", "PR"] and "74 % below" in shown["rule"][2]


def test_nonsense_is_refused():
    for wrong in (lambda: Reading("big"), lambda: Reading(PRESENT, -1.0), lambda: target("a", role="x"),
                  lambda: time_points([target("a", 1.0), target("b", 1.0, 2.0)])):  # fmt: skip
        with pytest.raises(InputError):
            wrong()
    assert time_points([]) == []
