"""An archive becomes rows: the newest study of each patient against earlier ones."""

from __future__ import annotations

from dataclasses import replace

from SAMv2Core.batch.comparisons import COLUMNS, Skipped, comparisons
from SAMv2Core.batch.rules import Rule, Rules, read_rules
from SAMv2Core.io.archive import ArchivedReport, ArchivedSeries, Contents

RULES = read_rules(None)


def series(study, date, patient="P1", number=1, **more):
    uid = f"{study}.{number}"
    facts = {"n_images": 100, "orientation": "axial", "thickness_mm": 1.0, "url": f"http://a/{uid}", **more}
    return ArchivedSeries(patient, "", study, uid, date, "1200", facts.pop("modality", "CT"), uid, "", **facts)


def report(study, *uids, patient="P1", minute="00"):
    return ArchivedReport(patient, "", study, "sr", f"sr of {study} {minute}", uids, ("20240101", minute))


OLD, MIDDLE, NEW = series("old", "20220101"), series("middle", "20230101"), series("new", "20240101")
OTHER = series("other", "20250101", "P2")


def test_the_newest_study_is_registered_to_the_last_before_it():
    rows = comparisons(Contents((MIDDLE, NEW, OLD, OTHER), ()), "register", RULES)
    first, second = rows
    assert first == {
        "name": "new", "fixed": "http://a/new.1", "series_fixed": "new.1", "moving": "http://a/middle.1",
        "series_moving": "middle.1", "sro": "registration.dcm",
    }  # fmt: skip
    assert second == Skipped("other", "no earlier study has a series that fits the rules")
    assert set(first) <= set(COLUMNS["register"])


def test_as_many_priors_as_asked_the_latest_first():
    rows = comparisons(Contents((MIDDLE, NEW, OLD), ()), "register", RULES, n_priors=5)
    assert [(row["name"], row["series_moving"]) for row in rows] == [("new_1", "middle.1"), ("new_2", "old.1")]


def test_in_one_frame_of_reference_there_is_no_object_to_write():
    (row,) = comparisons(
        Contents((replace(OLD, frame_of_reference_uid="f"), replace(NEW, frame_of_reference_uid="f")), ()),
        "register",
        RULES,
    )
    assert "sro" not in row


def test_modalities_are_mixed_only_where_the_rules_say_so():
    mr = series("mr", "20230601", modality="MR")
    found = Contents((OLD, mr, NEW), ())
    assert comparisons(found, "register", RULES)[0]["series_moving"] == "old.1"
    apart = Rules((Rule(modality=("CT",)),), (Rule(modality=("MR",)),), are_apart=True)
    assert comparisons(found, "register", apart)[0]["series_moving"] == "mr.1"


def test_lesions_are_followed_from_the_last_report_through_all_studies_since():
    lung = series("old", "20220101", number=2, n_images=500)
    reports = (report("old", "old.1", minute="01"), report("old", "old.2", minute="09"), report("old", minute="00"))
    (row,) = comparisons(Contents((OLD, lung, MIDDLE, NEW), reports), "track", RULES)
    assert (row["series_baseline"], row["lesions"]) == ("old.2", "sr of old 09")
    assert (row["series_follow_up"], row["name"], row["sr"]) == ("middle.1;new.1", "new", "lesions.dcm")
    # A report on the middle one: what was before it is in the report.
    (row,) = comparisons(Contents((OLD, MIDDLE, NEW), (*reports, report("middle", "middle.1"))), "track", RULES)
    assert (row["series_baseline"], row["series_follow_up"]) == ("middle.1", "new.1")


def test_a_report_counts_with_the_scan_that_it_speaks_of_alone():
    for reports, reason in (((), "has a report"), ((report("old", "elsewhere"),), "has a report")):
        (skipped,) = comparisons(Contents((OLD, NEW), reports), "track", RULES)
        assert reason in skipped.reason
    (skipped,) = comparisons(Contents((NEW,), (report("new", "new.1"),)), "track", RULES)
    assert skipped.reason == "no earlier study"
    (row,) = comparisons(Contents((OLD, NEW), (report("old"),)), "track", RULES)  # names no images: the rules decide
    assert row["series_baseline"] == "old.1"


def test_a_study_may_be_taken_for_newest():
    found = Contents((OLD, MIDDLE, NEW), ())
    (row,) = comparisons(found, "register", RULES, newest=["middle", "another patient's"])
    assert (row["name"], row["series_moving"]) == ("middle", "old.1")


def test_patients_are_not_mixed():
    twin = replace(series("twin", "20230601"), birth_date="19500101")
    same = replace(NEW, birth_date="19800101")
    found = comparisons(Contents((replace(OLD, birth_date="19800101"), twin, same), ()), "register", RULES)
    assert [row["series_moving"] for row in found if isinstance(row, dict)] == ["old.1"]
    nobody = (replace(OLD, patient_id=""), replace(NEW, patient_id=""))
    assert comparisons(Contents(nobody, ()), "register", RULES) == []
