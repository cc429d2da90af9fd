"""The report is valid JSON whatever is put into it, and says what CLI users rely on."""

from __future__ import annotations

import enum
import json
import math
from pathlib import Path

import numpy as np
import pytest

from SAMv2Core.cli.report import Report, as_json, geometry_of, versions
from SAMv2Core.errors import InputError
from Testing.samples.synthetic import make_body_volume


class Color(enum.Enum):
    RED = "red"


def strict(text):
    def refuse(name):
        raise AssertionError(f"{name} in JSON")

    return json.loads(text, parse_constant=refuse)


def test_everything_becomes_json():
    value = {
        "nan": math.nan, "inf": [-math.inf, np.float32("nan")], "array": np.eye(2), "int": np.int64(3),
        5: True,
        "flag": np.bool_(False), "path": Path("a") / "b", "enum": Color.RED, "none": None, "tuple": (1, 2.5),
        "array_nan": np.array([1.0, np.nan]),
    }  # fmt: skip
    assert strict(json.dumps(as_json(value), allow_nan=False)) == {
        "nan": None, "inf": [None, None], "array": [[1, 0], [0, 1]], "int": 3, "5": True, "flag": False,
        "path": str(Path("a") / "b"), "enum": "red", "none": None, "tuple": [1, 2.5], "array_nan": [1, None],
    }  # fmt: skip


def test_what_has_no_place_in_json_is_an_error():
    with pytest.raises(TypeError, match="object"):
        as_json({"x": object()})


def test_report_of_a_run(tmp_path):
    report = Report("match", {"method": "fixed-point", "threads": None})
    volume = make_body_volume((6, 7, 8), (1.0, 1.5, 4.0))
    report.add_volume("template", volume, modality="ct")
    report.add_file("points", tmp_path / "p.csv")
    report.model, report.device = {"name": "lite-ct", "sha256": "ab"}, "cpu"
    report.warnings += ["twice", "twice", "once"]
    report.results["points"] = [{"label": "a", "query": None, "similarity": math.nan}]
    for _ in range(2):
        with report.stage("embedding"):
            pass
    with pytest.raises(RuntimeError), report.stage("failing"):
        raise RuntimeError
    report.write(tmp_path / "r.json")
    content = strict((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert content["command"] == "match"
    assert content["options"] == {"method": "fixed-point", "threads": None}
    assert content["inputs"]["template"]["size_ijk"] == [8, 7, 6]
    assert content["inputs"]["template"]["spacing_mm"] == [1.0, 1.5, 4.0]
    assert content["inputs"]["template"]["modality"] == "ct"
    assert content["inputs"]["template"]["ijk_to_lps"] == geometry_of(volume.grid)["ijk_to_lps"]
    assert content["points"] == [{"label": "a", "query": None, "similarity": None}]
    assert content["warnings"] == ["twice", "once"]
    assert list(content["seconds"]) == ["embedding", "failing"]
    assert content["seconds_total"] >= sum(content["seconds"].values())
    assert 10 < content["peak_memory_mib"] < 1e5
    assert content["model"]["sha256"] == "ab"
    assert content["error"] is None


def test_a_failed_run_has_its_cause():
    content = Report("embed", {}).content(3, InputError("It is broken.", "Repair it."))
    assert content["exit_code"] == 3
    assert content["error"] == {"cause": "It is broken.", "remedy": "Repair it."}


def test_versions():
    found = versions()
    assert found["samv2"]
    assert found["numpy"] == np.__version__
