"""Holds PySide6 to what PythonQt has: the module may use no name that Slicer's Qt does not know.

PySide6 has names that PythonQt lacks (and the other way round), so a panel that works here may fail in Slicer. What the
module uses stands in ``pythonqt.json``, confirmed by a real Slicer: the tour (``in_application/tour.py``) looks each
name up there. To add some, let a run of the tests record them (``SAMV2_RECORD_QT=FILE``), and let ``write`` of
``in_application/qt_names.py`` make the list anew in a Slicer, from that file and :func:`classNames`. A name that is not
in the list is an AttributeError for the module, not for tests.
"""

import ast
import atexit
import json
import os
import sys
from collections import defaultdict
from pathlib import Path

from PySide6 import QtCore

# isort: split
from __feature__ import true_property  # noqa: F401

LIST = Path(__file__).with_name("pythonqt.json")
MODULE = str(Path(__file__).resolve().parents[3] / "SAMv2Slicer") + os.sep
OWN_WRAPPER = os.path.join(os.environ.get("SLICER_SOURCE") or os.devnull, "Base", "Python", "slicer")
"""Slicer's own parameter node wrapper, which asks for widgets by their exact class."""
RECORD = os.environ.get("SAMV2_RECORD_QT", "")

NAMES = {name: set(found) for name, found in json.loads(LIST.read_text(encoding="utf-8"))["instances"].items()}
_recorded = defaultdict(set)
_guarded = {}


def guarded(qtClass):
    """A subclass whose instances show the module only names that PythonQt has; the same one for the same class."""
    if qtClass not in _guarded:
        name = qtClass.__name__
        known = NAMES.get(name, set())

        def check(attribute):
            code = sys._getframe(2).f_code  # Qt itself looks for overridden functions, from any frame
            if not code.co_filename.startswith(MODULE) or attribute not in code.co_names:
                return
            if RECORD:
                _recorded[name].add(attribute)
            elif attribute not in known:
                raise AttributeError(f"{name}.{attribute} is not known to be in PythonQt, see {__name__}")

        def lookUp(self, attribute):
            check(attribute)
            return qtClass.__getattribute__(self, attribute)

        def assign(self, attribute, value):
            check(attribute)
            qtClass.__setattr__(self, attribute, value)

        own = {"__getattribute__": lookUp, "__setattr__": assign, "qtClass": qtClass}
        _guarded[qtClass] = type(name, (qtClass,), own)
    return _guarded[qtClass]


def plainClass(widget):
    """The class of a widget without its guard."""
    return getattr(type(widget), "qtClass", type(widget))


def classNames(folder):
    """{class: names} that sources ask of Qt's classes themselves: ``qt.QHeaderView.ResizeToContents``."""
    found = defaultdict(set)
    for path in Path(folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            inner = node.value if isinstance(node, ast.Attribute) else None
            if isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Name) and inner.value.id == "qt":
                found[inner.attr].add(node.attr)
    return {name: sorted(found[name]) for name in sorted(found)}


@atexit.register
def _write():
    if RECORD and _recorded:
        known = json.loads(Path(RECORD).read_text(encoding="utf-8")) if os.path.exists(RECORD) else {}
        for name, attributes in _recorded.items():
            known[name] = sorted({*known.get(name, ()), *attributes})
        Path(RECORD).write_text(json.dumps(known, indent=1, sort_keys=True), encoding="utf-8")


def asModuleSees(value):
    """A class of Qt, guarded if it is the module that asks for it."""
    isModule = sys._getframe(2).f_code.co_filename.startswith((MODULE, OWN_WRAPPER))
    return guarded(value) if isModule and isinstance(value, type) and issubclass(value, QtCore.QObject) else value
