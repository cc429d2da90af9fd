"""Which series of a study a file of rules chooses."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from SAMv2Core.batch.rules import DEFAULT, choose, read_rules
from SAMv2Core.errors import InputError
from SAMv2Core.io.archive import ArchivedSeries

THIN = ArchivedSeries(
    "P1", "", "study", "thin", "20240101", "", "CT", "frame", "Thorax PORTAL venous",
    n_images=400, orientation="axial", thickness_mm=1.0, kernel="Br40d", has_contrast=True,
)  # fmt: skip
LUNG = replace(THIN, series_uid="lung", kernel="Bl57", n_images=500)
CORONAL = replace(THIN, series_uid="coronal", orientation="coronal", n_images=900)
THICK = replace(THIN, series_uid="thick", thickness_mm=8.0, n_images=40, description="nativ", has_contrast=False)
MR = replace(THIN, series_uid="mr", modality="MR", kernel="", thickness_mm=None, n_images=60)
ALL = (THIN, LUNG, CORONAL, THICK, MR)


def written(tmp_path, content):
    (tmp_path / "rules.json").write_text(json.dumps(content))
    return tmp_path / "rules.json"


@pytest.mark.parametrize(
    "rule, uid",
    [
        ({"kernel": "^br"}, "coronal"),
        ({"kernel": "^br", "orientation": "axial"}, "thin"),
        ({"thickness_mm": [5, 10]}, "thick"),
        ({"modality": "MR"}, "mr"),
        ({"phase": "nativ"}, "thick"),
        ({"contrast": False}, "thick"),
        ({"phase": "portal", "thickness_mm": [0, 2], "min_images": 450, "orientation": ["axial"]}, "lung"),
    ],
)
def test_a_rule_chooses_by_what_it_names(tmp_path, rule, uid):
    assert choose(ALL, read_rules(written(tmp_path, [rule])).newest).series_uid == uid


def test_the_first_rule_that_any_series_fulfills_decides(tmp_path):
    rules = read_rules(written(tmp_path, [{"kernel": "none"}, {"modality": "MR"}, {}])).prior
    assert choose(ALL, rules).series_uid == "mr" and choose((THICK,), rules).series_uid == "thick"
    assert choose((), rules) is None and choose((THIN,), rules[:2]) is None


def test_without_a_file_axial_thin_series_come_first(tmp_path):
    assert choose(ALL, DEFAULT) is LUNG and choose((THICK, CORONAL), DEFAULT) is THICK
    assert choose((CORONAL,), read_rules(None).prior) is CORONAL


def test_both_sides_may_have_their_own(tmp_path):
    rules = read_rules(written(tmp_path, {"newest": [{"modality": "MR"}], "prior": [{"modality": "CT"}]}))
    assert rules.are_apart and (rules.newest[0].modality, rules.prior[0].modality) == (("MR",), ("CT",))


@pytest.mark.parametrize(
    "content, complaint",
    [
        ([], "no list of rules"),
        ({"newest": [{}]}, "no list of rules"),
        ([{"kernal": "B"}], "rule 1: 'kernal' is unknown"),
        ([{}, {"kernel": "("}], "rule 2 makes no sense"),
        ([{"thickness_mm": [5, 1]}], "smallest, largest"),
        ([{"thickness_mm": 5}], "rule 1 makes no sense"),
        ([{"modality": "PT"}], "CT, MR"),
        ([{"min_images": "many"}], "whole number"),
    ],
)
def test_rules_without_sense_are_refused(tmp_path, content, complaint):
    with pytest.raises(InputError, match=complaint):
        read_rules(written(tmp_path, content))
