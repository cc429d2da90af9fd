"""Which of the names that the module uses of Qt this Slicer's PythonQt has; see Testing/slicer/standins/pythonqt.py."""

import json
from pathlib import Path

import ctk
import qt
import slicer
import slicer.util

LIST = Path(__file__).resolve().parents[1] / "standins" / "pythonqt.json"


def missing(names):
    """["QPushButton.text", ...] of a list like that file's content that are not here."""
    found = []
    for className, attributes in names["instances"].items():
        made = _instance(className)
        found += [f"{className}.{name}" for name in attributes if not hasattr(made, name)]
    for className, attributes in names["classes"].items():
        found += [f"qt.{className}.{name}" for name in attributes if not hasattr(getattr(qt, className), name)]
    return found


def write(recorded, classes):
    """Make the list anew from what the tests recorded and the sources say, less what is not here; what is not here."""
    names = {"instances": json.loads(Path(recorded).read_text(encoding="utf-8")), "classes": classes}
    lacking = missing(names)
    for kind, prefix in (("instances", ""), ("classes", "qt.")):
        for className, attributes in names[kind].items():
            names[kind][className] = [n for n in attributes if f"{prefix}{className}.{n}" not in lacking]
    content = {"slicer": slicer.app.applicationVersion, **names}
    LIST.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return lacking


def _instance(className):
    owner = {"Q": qt, "c": ctk, "q": slicer}[className[0]]
    if className == "QShortcut":
        return qt.QShortcut(slicer.util.mainWindow())
    return getattr(owner, className)()
