"""The interface for the notebook: every example runs, objects show themselves in a line, mistakes say what to do."""

from __future__ import annotations

import doctest
import functools
import inspect

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import SAMv2Core as s
from Testing.samples.synthetic import make_body_volume

FUNCTIONS = [name for name in s.__all__ if inspect.isfunction(getattr(s, name))]
SHOWN = [*FUNCTIONS, "Cache", "Model"]
# What a class or a function needs no example of its own for, because another's says it.
ELSEWHERE = {"load_embedding", "load_registration", "read_transform", "write_points", "write_volume"}


@functools.cache
def phantom() -> s.Volume:
    """A torso of 96 x 96 x 80 mm."""
    made = make_body_volume((40, 48, 48), (2.0, 2.0, 2.0))
    return s.Volume(made.array, made.ijk_to_lps, "phantom")


@pytest.fixture(scope="module")
def model():
    return s.load_model("lite-ct", "cpu")


@pytest.fixture(scope="module")
def embedding(model):
    return model.embed(phantom())


@pytest.mark.parametrize("name", SHOWN)
def test_examples_are_true(name, model, embedding, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name not in ("load_model", "Model", "Cache"):  # what others load and embed first is kept between them
        kept = {id(phantom()): embedding}
        monkeypatch.setattr("SAMv2Core.embedding.load.load_model", lambda *_: model)
        embed = model.embed
        monkeypatch.setattr(model, "embed", lambda volume: kept.get(id(volume)) or embed(volume))
    named = {"volume": phantom(), "np": np}
    tests = doctest.DocTestFinder(recurse=True).find(getattr(s, name), name, globs=named)
    ran = [test for test in tests if test.examples]
    assert ran or name in ELSEWHERE, f"{name} has no example"
    for test in ran:
        report = []
        result = doctest.DocTestRunner().run(test, out=report.append)
        assert not result.failed, "".join(report)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_documented_in_the_field_s_form(name):
    text = inspect.getdoc(getattr(s, name)) or ""
    for title in ("Parameters", "Examples"):
        assert f"{title}\n{'-' * len(title)}\n" in text, f"{name} says nothing under {title}"
    described = text.partition("Parameters\n")[2]
    for parameter in inspect.signature(getattr(s, name)).parameters:
        assert parameter in described, f"{name} does not say what {parameter} is"


def test_objects_show_themselves_in_a_line(model, embedding):
    result = s.register(embedding, embedding)
    match = s.match(embedding, embedding, [0, 10, 0])[0]
    for shown in (embedding, embedding.fine, embedding.fine.grid, phantom(), result, match, model):
        assert "\n" not in repr(shown) and len(repr(shown)) <= 120, repr(shown)
    assert "phantom" in repr(embedding) and "lite-ct" in repr(model) and result.status in repr(result)


def test_comparing_never_raises(embedding):
    result, match = s.register(embedding, embedding), s.match(embedding, embedding, [0, 10, 0])[0]
    for thing in (embedding, embedding.fine, phantom(), result, match):
        assert (thing == thing) is True and (thing == 3) is False and hash(thing) is not None
    one, same, other = (s.Grid((4, 5, 6), np.diag([2.0, 2, mm, 1])) for mm in (3.0, 3.0, 4.0))
    assert one == same and hash(one) == hash(same) and one != other and one != "grid"


def test_a_path_is_as_good_as_a_volume(model, embedding, tmp_path):
    s.write_volume(phantom(), tmp_path / "a.nii.gz")
    found = model.embed(str(tmp_path / "a.nii.gz"))
    assert (found.fine.vectors == embedding.fine.vectors).all()


def test_one_point_and_a_point_list_are_as_good_as_an_array(embedding):
    asked = np.array([[0.0, 10.0, 0.0]])
    expected = s.positions(s.match(embedding, embedding, asked))
    points = s.PointList((s.Point("p", (0.0, 10.0, 0.0)),))
    for given in ([0, 10, 0], asked[0], points):
        np.testing.assert_array_equal(s.positions(s.match(embedding, embedding, given)), expected)
    assert s.positions([]).shape == (0, 3)


def test_mistakes_say_what_to_do(model, embedding):
    volume = phantom()
    for call in (
        lambda: s.match(volume, volume, [0, 0, 0]),
        lambda: s.register(volume, embedding),
        lambda: s.locate(embedding, "a.nii.gz", [0, 0, 0]),
        lambda: s.similarity_map(embedding, None, [0, 0, 0]),
    ):
        with pytest.raises(s.UsageError, match=r"model\.embed"):
            call()
    with pytest.raises(s.InputError, match="read_volume"):
        model.embed(volume.array)
    with pytest.raises(s.InputError, match=r"\(N, 3\)"):
        s.match(embedding, embedding, [0, 10])
    with pytest.raises(s.InputError, match="does not exist"):
        model.embed("nowhere.nii.gz")


def test_the_command_line_s_cache_is_used_when_asked(model, embedding, tmp_path, monkeypatch):
    monkeypatch.setenv("SAMV2_CACHE_DIR", str(tmp_path / "kept"))
    model.embed(phantom(), cache=False)
    assert not (tmp_path / "kept").exists()
    model.embed(phantom(), cache=True)
    assert len(list((tmp_path / "kept").rglob("*.safetensors"))) == 1
    monkeypatch.setattr(model, "_compute", None)  # a second pass would fail
    again, body = model.embed(phantom(), cache=True), embedding.body  # the air is not kept
    assert (again.fine.vectors[:, body] == embedding.fine.vectors[:, body]).all()


def test_a_registration_comes_back_with_its_verdict(embedding, tmp_path):
    result = s.register(embedding, embedding, "affine")
    s.save_registration(result, tmp_path / "r.json")
    read = s.load_registration(tmp_path / "r.json")
    assert read.to_report() == result.to_report()
    np.testing.assert_array_equal(read.fixed_points_lps, result.fixed_points_lps)
    for text in ("{}", "[1]", '{"format": "samv2-registration", "format_version": 9}', "no json"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(s.InputError):
            s.load_registration(tmp_path / "bad.json")
