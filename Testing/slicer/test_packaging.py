"""What Slicer would package and import: CMake's lists, the .ui file, what importing the module does, reloading."""

import ast
import re
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

MODULE = Path(__file__).resolve().parents[2] / "SAMv2Slicer"
UI = MODULE / "Resources" / "UI" / "SAMv2Slicer.ui"

# Widget classes that Slicer 5.8 to 5.13 have; a stand-in must not be the only place where a class exists.
SLICER_WIDGETS = {
    "ctkCollapsibleButton",
    "qMRMLCheckableNodeComboBox",
    "qMRMLNodeComboBox",
    "qMRMLWidget",
    "qSlicerSimpleMarkupsWidget",
}


def cmakeList(variable):
    text = (MODULE / "CMakeLists.txt").read_text(encoding="utf-8")
    return set(re.search(rf"set\({variable}\s(.*?)\)", text, re.DOTALL).group(1).split())


def tree():
    files = (path for path in MODULE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(MODULE).as_posix() for path in files} - {"CMakeLists.txt"}


def test_cmake_lists_equal_the_tree():
    assert cmakeList("MODULE_PYTHON_SCRIPTS") == {name for name in tree() if name.endswith(".py")}
    assert cmakeList("MODULE_PYTHON_RESOURCES") == {name for name in tree() if not name.endswith(".py")}


def test_only_the_module_itself_lies_where_slicer_looks_for_modules():
    assert [path.name for path in MODULE.glob("*.py")] == ["SAMv2Slicer.py"]


def uiWidgets():
    return xml.etree.ElementTree.parse(UI).getroot().iter("widget")


def test_ui_uses_only_widgets_that_slicer_has():
    root = xml.etree.ElementTree.parse(UI).getroot()
    classes = {widget.get("class") for widget in uiWidgets()}
    custom = {element.findtext("class") for element in root.iter("customwidget")}
    assert custom == SLICER_WIDGETS == {name for name in classes if not name.startswith("Q")}
    assert root.find("widget").get("class") == "qMRMLWidget"


def test_every_scene_widget_of_the_ui_gets_the_scene():
    """In Slicer these connections carry the scene to the selectors; the stand-ins do it themselves."""
    root = xml.etree.ElementTree.parse(UI).getroot()
    connected = {
        connection.findtext("receiver")
        for connection in root.iter("connection")
        if connection.findtext("signal") == "mrmlSceneChanged(vtkMRMLScene*)"
        and connection.findtext("slot") == "setMRMLScene(vtkMRMLScene*)"
    }
    needing = {
        w.get("name") for w in uiWidgets() if w.get("class") in SLICER_WIDGETS - {"ctkCollapsibleButton", "qMRMLWidget"}
    }
    assert connected == needing


def test_ui_names_are_unique():
    names = [widget.get("name") for widget in uiWidgets()]
    assert len(names) == len(set(names))


def test_every_control_can_be_read_aloud():
    """Controls have a text or an accessible name, and a tooltip where they are not self-explaining."""
    silent = []
    for widget in uiWidgets():
        if widget.get("class") in (
            "QLabel",
            "QWidget",
            "QTabWidget",
            "qMRMLWidget",
            "ctkCollapsibleButton",
            "QCheckBox",
        ):
            continue
        properties = {p.get("name") for p in widget.findall("property")}
        if "accessibleName" not in properties:
            silent.append(widget.get("name"))
    # The two action buttons change their text with the state; Qt reads that.
    assert set(silent) <= {"registerButton"}


def test_parameter_names_exist():
    from SAMv2SlicerLib.panel.parameters import SAMv2SlicerParameterNode

    root = xml.etree.ElementTree.parse(UI).getroot()
    bound = [p.findtext("string") for p in root.iter("property") if p.get("name") == "SlicerParameterName"]
    assert bound and set(bound) <= set(SAMv2SlicerParameterNode.allParameters) and len(bound) == len(set(bound))


def test_importing_and_building_the_panel_loads_no_torch(tmp_path):
    """In a fresh process: import, setup, enter; no torch, no network, and the panel says what is going on."""
    code = f"""
import sys
sys.path[:0] = [{str(MODULE)!r}, {str(MODULE.parent / "Testing" / "slicer")!r}, {str(MODULE.parent)!r}]
import socket
def refuse(*arguments):
    raise AssertionError("network at module load")
socket.socket.connect = refuse
from standins.install import install
slicer = install()
import qt, SAMv2Slicer
parent = slicer.qMRMLWidget()
qt.QVBoxLayout(parent)
widget = SAMv2Slicer.SAMv2SlicerWidget(parent)
widget.setup()
widget.enter()
assert widget.ui.statusLabel.text, "no status"
assert "torch" not in sys.modules, "torch was imported"
widget.cleanup()
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip().endswith("fine"), done.stderr


def test_nothing_but_standard_and_slicer_packages_at_file_scope():
    allowed = {"slicer", "vtk", "qt", "ctk", "numpy", "SAMv2Core", "SAMv2SlicerLib"} | set(sys.stdlib_module_names)
    wrong = []
    for path in MODULE.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module]
            wrong += [f"{path.name}: {name}" for name in names if name.split(".")[0] not in allowed]
    assert not wrong


def test_module_class_describes_itself():
    import SAMv2Slicer

    parent = type("parent", (), {})()
    SAMv2Slicer.SAMv2Slicer(parent)
    assert parent.title == "SAMv2 Anatomical Matching" and parent.categories == ["Registration"]
    assert parent.helpText.startswith("SAMv2 is not Meta's Segment Anything")


def test_reload_order_puts_leaves_first():
    import SAMv2Slicer
    import SAMv2SlicerLib.panel.panel  # noqa: F401

    order = SAMv2Slicer.reloadOrder()
    for before, after in (
        ("SAMv2Core.errors", "SAMv2SlicerLib.work.worker"),
        ("SAMv2SlicerLib.texts", "SAMv2SlicerLib.scene.node_geometry"),
        ("SAMv2SlicerLib.scene.match_list", "SAMv2SlicerLib.match.match_job"),
        ("SAMv2SlicerLib.match.match_job", "SAMv2SlicerLib.logic"),
        ("SAMv2SlicerLib.panel.match_tab", "SAMv2SlicerLib.panel.panel"),
    ):
        assert order.index(before) < order.index(after)


def test_reloading_twice_works(tmp_path):
    """In a process of its own, because every class of the module is another one afterwards."""
    code = f"""
import sys
sys.path[:0] = [{str(MODULE)!r}, {str(MODULE.parent / "Testing" / "slicer")!r}, {str(MODULE.parent)!r}]
from standins.install import install
slicer = install()
import importlib, qt, SAMv2Slicer
for isShown in (False, True, True):  # whoever reloads looks at the panel, and Slicer does not enter it again
    parent = slicer.qMRMLWidget()
    qt.QVBoxLayout(parent)
    parent.isEntered = isShown
    widget = SAMv2Slicer.SAMv2SlicerWidget(parent)
    widget.setup()
    assert (widget.panel.parameters is not None) == isShown
    widget.enter()
    widget.cleanup()
    for name in SAMv2Slicer.reloadOrder():
        importlib.reload(sys.modules[name])
    importlib.reload(SAMv2Slicer)
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip().endswith("fine"), done.stderr


def test_own_test_class_passes(scene, monkeypatch):
    """The self test that Slicer's Self Tests module offers, with the tiny network."""
    pytest.importorskip("torch")
    from tiny_model import TinyEngine

    import SAMv2Slicer
    from SAMv2SlicerLib import logic as logicModule

    monkeypatch.setattr(logicModule.engine, "Engine", TinyEngine)
    test = SAMv2Slicer.SAMv2SlicerTest()
    test.runTest()
