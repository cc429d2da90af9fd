"""Findings, segmentations and a reader's table become courses; the reader has the last word."""

import numpy as np
import pytest

from SAMv2Core.errors import InputError
from SAMv2Core.io.lesion import lesion_at
from SAMv2Core.io.lesions import read_lesions
from SAMv2Core.tracking.assignment import assign, with_parts
from SAMv2Core.tracking.finding import Finding
from SAMv2Core.tracking.reading import courses_of, read_readings
from SAMv2Core.tracking.recist import time_points


def finding(label, study, place=(0.0, 0.0, 0.0), diameter=None):
    lps = None if place is None else np.array(place)
    return Finding(label, study, lps, 0.9, 1.0, 0.9, "not_found" if place is None else "matched", "", diameter)


LESIONS = [lesion_at("a", (0, 0, 0), 20.0), lesion_at("b", (50, 0, 0), 12.0), lesion_at("c", (99, 0, 0))]
FOUND = [
    finding("a", 0, diameter=20.0), finding("a", 1), finding("b", 0, (50, 0, 0), 12.0), finding("b", 1, (50, 0, 0)),
    finding("c", 0, (99, 0, 0)), finding("c", 1, None),
]  # fmt: skip


def test_only_a_segmentation_or_a_reader_makes_a_lesion_vanish(tmp_path):
    plain = courses_of(LESIONS, FOUND)
    assert [course.role for course in plain] == ["target", "target", "non_target"]
    assert [course.readings[1].state for course in plain] == ["present", "present", "not_evaluable"]
    assert time_points(plain)[1].sum_mm is None
    found = assign(FOUND, 1, [lesion_at("1", (1, 0, 0), 10.0), lesion_at("2", (0, 70, 0), 9.0)])
    courses = courses_of(LESIONS, with_parts(FOUND, found), {1: found.new})
    assert [course.readings[1].state for course in courses] == ["present", "vanished", "not_evaluable", "present"]
    point = time_points(courses)[1]
    assert (point.sum_mm, point.new, point.overall) == (10.0, ("new 1.1",), "PD")


def test_the_readers_table_has_the_last_word(tmp_path):
    path = tmp_path / "read.csv"
    path.write_text(
        "label;study;diameter_mm;short_mm;state;organ;node\na;1;8,5;;;liver;\nb;1;;;too small;;\nb;0;14;11;;;yes\n"
        "x;1;6;;;bone;\nc;1;;;;;\n"
    )
    courses = courses_of(LESIONS, FOUND, reader=read_readings(path, 2))
    assert [c.size_mm(1) for c in courses] == [8.5, 5.0, None, 6.0]
    assert (courses[0].organ, courses[1].is_node, courses[1].size_mm(0)) == ("liver", True, 11.0)
    assert courses[3].role == "new" and courses[3].readings[0].state == "absent"
    assert time_points(courses)[1].sum_mm == 13.5


@pytest.mark.parametrize(
    "text", ["label,study\na,1\n", "label,study,diameter_mm\na,2,5\n", "label,study,diameter_mm,state\na,1,,huge\n",
             "label,study,diameter_mm\na,1,5\na,1,6\n", "label,study,diameter_mm\na,1,-5\n"]
)  # fmt: skip
def test_what_a_reader_cannot_have_meant_is_refused(tmp_path, text):
    (tmp_path / "read.csv").write_text(text)
    with pytest.raises(InputError):
        read_readings(tmp_path / "read.csv", 2)


def test_a_table_of_lesions_says_role_organ_and_node(tmp_path):
    path = tmp_path / "lesions.csv"
    path.write_text(
        "label,l,p,s,diameter_mm,short_mm,role,organ,node\na,0,0,0,20,15,Non-target,liver,yes\nb,9,0,0,,,,,\n"
    )
    a, b = read_lesions(path)
    assert (a.short_mm, a.role, a.organ, a.is_node) == (15.0, "non_target", "liver", True)
    assert (b.short_mm, b.role, b.organ, b.is_node) == (None, "", "", False)
    path.write_text("label,l,p,s,node\na,0,0,0,perhaps\n")
    with pytest.raises(InputError):
        read_lesions(path)
