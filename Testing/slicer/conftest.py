"""The harness: real MRML from ``slicer-core``, PySide6 offscreen for Qt, stand-ins for the application (standins/).

Without slicer-core or PySide6 every test here is skipped with that reason; install them with
``pip install slicer-core==5.12.4.0 PySide6-Essentials==6.10.2``.
"""

import importlib
import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MISSING = [name for name in ("slicer", "PySide6") if importlib.util.find_spec(name) is None]
PACKAGES = {"slicer": "slicer-core", "PySide6": "PySide6-Essentials"}

for path in (ROOT / "SAMv2Slicer", HERE, ROOT):
    if str(path) not in sys.path:
        sys.path.insert(0, str(path))

BROKEN = ""
"""Why packages that are installed do not work here: PySide6 needs system libraries such as libEGL."""

if not MISSING:
    try:
        importlib.import_module("PySide6.QtWidgets")
        from standins.install import install

        install()
    except ImportError as error:
        BROKEN = str(error)
        collect_ignore_glob = ["test_*.py", "*/test_*.py"]


def pytest_report_header():
    return f"Testing/slicer is left out: {BROKEN}" if BROKEN else None


def pytest_collection_modifyitems(items):
    if not MISSING:
        return
    reason = "not installed: " + ", ".join(PACKAGES[name] for name in MISSING)
    for item in items:
        if HERE in Path(str(item.fspath)).resolve().parents:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def scene():
    """The application's scene, empty before and after; like Slicer's own it always has a subject hierarchy."""
    import slicer
    import slicer.util

    slicer.mrmlScene.Clear()
    for className in ("vtkMRMLCrosshairNode", "vtkMRMLScriptedModuleNode"):  # singletons of another test survive
        for node in slicer.util.getNodesByClass(className):
            slicer.mrmlScene.RemoveNode(node)
    slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    yield slicer.mrmlScene
    slicer.mrmlScene.Clear()


@pytest.fixture
def windows(scene):
    """Slicer's default layout (conventional: three slice views and a 3D view), on real layout and slice logics."""
    import slicer
    import slicer.util
    from standins.layout_manager import LayoutManager

    def clear():
        for name in ("vtkMRMLLayoutNode", "vtkMRMLAbstractViewNode", "vtkMRMLSliceCompositeNode", "vtkMRMLCameraNode"):
            for node in slicer.util.getNodesByClass(name):
                scene.RemoveNode(node)

    clear()
    manager = LayoutManager(scene, slicer.app.applicationLogic())
    slicer.app.windows = manager
    for layout in ("OneUpRedSlice", "Conventional"):  # a change, whatever was shown before
        manager.setLayout(getattr(slicer.vtkMRMLLayoutNode, f"SlicerLayout{layout}View"))
    slicer.app.processEvents()
    yield manager
    slicer.app.windows = None
    manager.close()
    clear()


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.fixture
def logic(scene):
    """A logic with the tiny seeded network instead of the bundled weights."""
    from tiny_model import TinyEngine

    from SAMv2SlicerLib.logic import SAMv2SlicerLogic

    logic = SAMv2SlicerLogic(TinyEngine())
    yield logic
    logic.cleanup()


@pytest.fixture
def pair(scene):
    """Two synthetic CT volume nodes of one "patient": the query is shifted, cropped and has its own geometry."""
    from phantoms import addPair

    return addPair(scene)


@pytest.fixture
def widget(scene, monkeypatch):
    """The module's panel as Slicer would build and enter it, with the tiny network."""
    import qt
    import slicer
    from panel_tools import close
    from tiny_model import TinyEngine

    import SAMv2Slicer
    from SAMv2SlicerLib import logic as logicModule

    monkeypatch.setattr(logicModule.engine, "Engine", TinyEngine)
    parent = slicer.qMRMLWidget()
    qt.QVBoxLayout(parent)
    parent.setMRMLScene(scene)
    parent.isEntered = True
    widget = SAMv2Slicer.SAMv2SlicerWidget(parent)
    widget.setup()
    widget.enter()
    yield widget
    close(widget)


@pytest.fixture(autouse=True)
def insideThisProcess(monkeypatch):
    """No child processes but where a test is about them."""
    monkeypatch.setenv("SAMV2_COMPUTE", "inside")


@pytest.fixture(autouse=True)
def ownCache(monkeypatch, tmp_path):
    """Embeddings are never kept in the user's own cache folder."""
    monkeypatch.setenv("SAMV2_CACHE_DIR", str(tmp_path / "embeddings"))


@pytest.fixture(autouse=True)
def noSwallowedExceptions(monkeypatch):
    """VTK and Qt print exceptions of callbacks and go on; here each of them fails its test."""
    seen = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: seen.append(error))
    yield
    if seen:
        raise seen[0]
