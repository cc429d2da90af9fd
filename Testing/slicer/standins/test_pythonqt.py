"""The module uses no name of Qt that Slicer's PythonQt does not have."""

import json

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

from PySide6 import QtWidgets

# isort: split
from __feature__ import true_property  # noqa: F401

from standins import pythonqt

CONFIRMED = json.loads(pythonqt.LIST.read_text(encoding="utf-8"))


def asTheModule(expression, **names):
    """A value as code of the module gets it."""
    return eval(compile(expression, pythonqt.MODULE + "x.py", "eval"), names)


def test_names_of_qts_classes_are_confirmed():
    wanted = pythonqt.classNames(pythonqt.MODULE)
    assert "ResizeToContents" in wanted["QHeaderView"]
    unknown = [f"qt.{c}.{n}" for c, names in wanted.items() for n in names if n not in CONFIRMED["classes"].get(c, ())]
    assert not unknown, f"look them up in a Slicer ({pythonqt.__name__}): {unknown}"


def test_a_name_that_pythonqt_lacks_is_refused():
    button = pythonqt.guarded(QtWidgets.QPushButton)()
    assert asTheModule("button.checkable", button=button) is False if "checkable" in CONFIRMED["instances"] else True
    with pytest.raises(AttributeError, match="PythonQt"):
        asTheModule("button.grabGesture", button=button)
    assert button.grabGesture  # tests may
    assert isinstance(button, QtWidgets.QPushButton) and pythonqt.plainClass(button) is QtWidgets.QPushButton


def test_every_list_is_of_a_real_slicer():
    assert CONFIRMED["slicer"].startswith("5.") and len(CONFIRMED["instances"]) > 15
