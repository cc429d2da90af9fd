"""What README and tutorial tell users to type into Slicer's Python console, typed."""

import re
from pathlib import Path

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

import slicer
import slicer.util
from lesions import PLACES_RAS, addStudies
from phantoms import addPoints

ROOT = Path(__file__).resolve().parents[2]
CONSOLE = {"README.md": ("CTChest", "CTFollowUp", "CT"), "Resources/Tutorial.md": ("Template", "Query", "Query 2")}


def consoleExample(document):
    """The Python block that begins with the module's logic."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL)
    return next(block for block in blocks if "getModuleLogic" in block)


@pytest.mark.parametrize("document", CONSOLE)
def test_console_examples_run(logic, scene, document, monkeypatch):
    for node, name in zip(addStudies(scene), CONSOLE[document]):
        node.SetName(name)
    addPoints(scene, PLACES_RAS)
    monkeypatch.setattr(slicer.util, "getModuleLogic", lambda name: {"SAMv2Slicer": logic}[name], raising=False)
    names = {"slicer": slicer}
    exec(consoleExample(document), names)
    assert names["matches"].GetNumberOfControlPoints() == 3
    assert names["transform"].IsA("vtkMRMLLinearTransformNode")
    studies = 1 + len(re.findall(r"trackLesions\(.*?\[(.*?)\]", consoleExample(document), re.DOTALL)[0].split(","))
    assert names["table"].GetNumberOfRows() == 3 * studies
    if "embedding" in names:
        assert names["embedding"].fine.vectors.ndim == 4


def test_pictures_of_the_tutorial_exist_and_are_small():
    text = (ROOT / "Resources/Tutorial.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert pictures
    for picture in pictures:
        path = ROOT / "Resources" / picture
        assert path.is_file() and path.stat().st_size < 200_000, picture
