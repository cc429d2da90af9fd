"""What README and tutorial tell users to type into Slicer's Python console, typed."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

import numpy as np
import slicer
import slicer.util
from lesions import PLACES_RAS, addStudies
from phantoms import addPoints, phantom

from SAMv2Core.io.points import Point, PointList, write_points
from SAMv2Core.io.volume import Volume, write_volume

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
        assert path.is_file() and path.stat().st_size < 600_000, picture


RUN_IN_SLICER = """
import runpy, sys
sys.path[:0] = [{harness!r}]
from standins.install import install
slicer = install()
import slicer.util
slicer.util.exit = lambda status: sys.exit(status)
script = sys.argv[1]
sys.argv = sys.argv[1:]
runpy.run_path(script, run_name="__main__")
"""


def headlessExample(document):
    """(script, arguments) of the command line that starts Slicer without a window, as the document has it."""
    text = (ROOT / document).read_text(encoding="utf-8").replace("\\\n", " ")
    words = shlex.split(next(line for line in text.splitlines() if line.startswith("Slicer --no-splash")))
    assert words[:4] == ["Slicer", "--no-splash", "--no-main-window", "--python-script"] and words[5] == "--"
    return words[4], words[6:]


@pytest.fixture
def files(tmp_path):
    """The files that the README's headless example names: two phantoms of 2 mm and three points."""
    matrix = np.array([[2.0, 0, 0, -50], [0, 2, 0, -40], [0, 0, 2, 100], [0, 0, 0, 1]])
    for name, shift in (("A", 0.0), ("B", 14.0)):
        moved = matrix.copy()
        moved[0, 3] += shift
        write_volume(Volume(phantom(), moved), tmp_path / f"{name}.nrrd")
    points = [Point(f"F-{n}", (10.0 * n, 5.0, 140.0), "") for n in range(3)]
    write_points(PointList(tuple(points), "F"), tmp_path / "F.mrk.json")
    return tmp_path


def runScript(script, arguments, folder):
    """Run a script of the module as ``--python-script`` does; (exit code, stderr)."""
    code = RUN_IN_SLICER.format(harness=str(ROOT / "Testing" / "slicer"))
    command = [sys.executable, "-c", code, str(ROOT / script), "--", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)
    return done.returncode, done.stderr


def test_headless_example_runs(files):
    """0: done; 6: done, but nothing to rely on, which random texture is free to be. The files are written in both."""
    script, arguments = headlessExample("README.md")
    code, said = runScript(script, arguments, files)
    assert code in (0, 6), said
    output = arguments[arguments.index("--output") + 1]
    from SAMv2Core.io.points import read_points

    assert [point.label for point in read_points(files / output)] == ["F-0", "F-1", "F-2"]


@pytest.mark.parametrize(
    "script, arguments, output",
    [
        ("track", ["--baseline", "A.nrrd", "--follow-up", "B.nrrd", "--lesions", "F.mrk.json"], "out.csv"),
        ("register", ["--fixed", "A.nrrd", "--moving", "B.nrrd"], "out.h5"),
    ],
)
def test_the_other_headless_scripts_run(files, script, arguments, output):
    code, said = runScript(f"SAMv2Slicer/Scripts/{script}.py", [*arguments, "--output", output], files)
    assert code in (0, 6), said
    assert (files / output).is_file() or code == 6
