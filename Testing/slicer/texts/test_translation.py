"""Texts are translated in the contexts under which Slicer's update_translations.py collects them."""

import ast
import importlib
import logging
from pathlib import Path

import pytest

from SAMv2SlicerLib.texts import translation

LIBRARY = Path(translation.__file__).resolve().parents[1]


def collected(path):
    """The texts that a file calls ``_`` with: what lupdate finds."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    return [node.args[0].value for node in calls if isinstance(node.func, ast.Name) and node.func.id == "_"]


FILES = [path for path in sorted(LIBRARY.rglob("*.py")) if collected(path)]


def contextOf(path):
    """As update_translations.py names it: the folder where it is a package, and the file."""
    isPackage = (path.parent / "__init__.py").is_file()
    return f"{path.parent.name}.{path.stem}" if isPackage else path.stem


@pytest.fixture
def translated(monkeypatch):
    """{(context, text): translation}, used instead of the application's."""
    known = {}
    monkeypatch.setattr(translation, "translate", lambda context, text: known.get((context, text), text))
    return known


@pytest.mark.parametrize("path", FILES, ids=contextOf)
def test_every_text_is_looked_up_where_it_is_collected(path, translated):
    module = importlib.import_module(".".join(path.relative_to(LIBRARY.parent).with_suffix("").parts))
    texts = collected(path)
    translated.update({(contextOf(path), text): f"<{text}>" for text in texts})
    assert [module._(text) for text in texts] == [f"<{text}>" for text in texts]


def test_texts_are_collected_from_many_files():
    assert {"texts.errors", "texts.lesions", "panel.parameters"} <= {contextOf(path) for path in FILES}


def test_nothing_inspects_the_stack_for_its_context():
    for path in FILES:
        assert "slicer.i18n import tr" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("wrong", ["{nombre} points", "{count:.1f} points", "{count} {count2}", "{count points"])
def test_a_translation_that_cannot_be_filled_in_is_not_used(wrong, translated, caplog):
    text = "Match {count} points"
    translated["texts.widgets", text] = wrong
    with caplog.at_level(logging.WARNING):
        assert translation.translator("SAMv2SlicerLib.texts.widgets")(text) == text
    assert "other placeholders" in caplog.text


def test_placeholders_may_change_places(translated):
    translated["texts.widgets", "{a} of {b:.0f}"] = "von {b:.0f} {a}"
    assert translation.translator("SAMv2SlicerLib.texts.widgets")("{a} of {b:.0f}") == "von {b:.0f} {a}"
