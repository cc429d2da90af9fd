"""The Match tab's extras and the header's models: points from files, colors, coverage, downloads."""

import shutil

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

import slicer
import slicer.util
from panel_tools import settle
from phantoms import addPair

from SAMv2Core.errors import InputError, ModelError
from SAMv2Core.models.catalogue import ModelInfo, model_info
from SAMv2SlicerLib.panel import dialogs
from SAMv2SlicerLib.panel.match_options import loadPoints
from SAMv2SlicerLib.scene import node_geometry
from SAMv2SlicerLib.setup import install, models
from SAMv2SlicerLib.work import engine

CSV = "label,l,p,s\ncarina,-11,-13,141\nnowhere,,,\n"


def test_points_are_loaded_from_a_file_in_lps(widget, scene, tmp_path, monkeypatch):
    template, _ = addPair(scene)
    path = tmp_path / "landmarks.csv"
    path.write_text(CSV, encoding="utf-8")
    monkeypatch.setattr(dialogs, "openFile", lambda *arguments: str(path))
    widget.ui.loadPointsButton.click()
    points = widget.panel.parameters.points
    assert [points.GetNthControlPointLabel(n) for n in range(2)] == ["carina", "nowhere"]
    assert np.allclose(node_geometry.pointWorld(points, 0), (11, 13, 141))
    assert points.GetNthControlPointPositionStatus(1) == slicer.vtkMRMLMarkupsNode.PositionUndefined
    assert widget.ui.matchButton.enabled and widget.ui.matchButton.text == "Match 1 point"
    assert points.GetDisplayNode() is not None and "1 point was loaded" in widget.ui.statusLabel.text


def test_what_is_no_point_file_says_so(widget, scene, tmp_path, monkeypatch):
    path = tmp_path / "landmarks.csv"
    path.write_text("label,x\n1,2\n", encoding="utf-8")
    with pytest.raises(InputError):
        loadPoints(str(path))
    monkeypatch.setattr(dialogs, "openFile", lambda *arguments: str(path))
    widget.ui.loadPointsButton.click()
    assert "landmarks.csv" in widget.ui.statusLabel.text and widget.panel.parameters.points is None
    monkeypatch.setattr(dialogs, "openFile", lambda *arguments: "")
    widget.ui.loadPointsButton.click()  # the user changed their mind


@pytest.mark.parametrize("answer", ["/a/b.csv", ("/a/b.csv", "CSV (*.csv)")])
def test_file_dialogs_of_both_bindings(monkeypatch, answer):
    monkeypatch.setattr(dialogs.qt.QFileDialog, "getSaveFileName", lambda *arguments: answer)
    assert dialogs.saveFile(None, "t", "n", "p") == "/a/b.csv"


def test_colors_show_the_body_where_it_is(widget, scene):
    template, query = addPair(scene)
    widget.ui.colorsButton.click()
    settle(widget)
    node = scene.GetFirstNodeByName("Embedding of CT 2021 as colors")
    assert scene.GetFirstNodeByName("Embedding of CT 2023 as colors") is not None
    colors = slicer.util.arrayFromVolume(node)
    assert node.IsA("vtkMRMLVectorVolumeNode") and colors.shape[-1] == 3 and colors.dtype == np.uint8
    bounds, expected = [0.0] * 6, [0.0] * 6
    node.GetRASBounds(bounds)
    template.GetRASBounds(expected)
    assert np.allclose(bounds, expected, atol=8.1)  # mm: whole feature voxels cover the volume
    body = colors.any(axis=-1)
    assert body.any() and not body.all() and colors[body].std(axis=0).min() > 20


# --- models ----------------------------------------------------------------------------------------------------------


def info(**facts):
    return ModelInfo(name="two", modalities=("ct", "mr"), **facts)


def test_regions_per_modality():
    both = info(coverage=("CT: chest", "MR: limbs", "girdles"))
    assert models.regionsOf(both, "mr") == ["limbs", "girdles"]
    assert models.regionsOf(both, "ct") == ["chest", "girdles"]


def test_coverage_says_what_a_model_has_not_seen(monkeypatch):
    assert models.coverageNote("lite-ct", [("A", "ct")]) == ""
    assert "B is MR, but lite-ct has seen CT only" in models.coverageNote("lite-ct", [("A", "ct"), ("B", "mr")])
    monkeypatch.setattr(models, "_info", lambda name: info(coverage=("CT: chest", "MR: limbs")))
    note = models.coverageNote("two", [("A", "ct"), ("B", "mr")])
    assert "has seen MR of: limbs" in note and "outside" in note
    assert models.coverageNote("two", [("A", "ct")]) == ""


def test_the_panel_shows_coverage(widget, scene):
    template, query = addPair(scene)
    assert not widget.ui.coverageLabel.text
    query.SetAttribute("DICOM.Modality", "MR")
    widget.panel.parameters.model = "lite-ct"
    assert "CT 2023 is MR" in widget.ui.coverageLabel.text


def select(widget, name):
    names = [model for model, _ in widget.panel.header._models]
    widget.ui.modelComboBox.currentIndex = names.index(name)


def test_absent_models_are_offered_for_download(widget, monkeypatch, tmp_path):
    monkeypatch.setenv("SAMV2_MODELS_DIR", str(tmp_path))
    widget.panel.header.show()
    select(widget, "lite-ct")
    assert not widget.ui.downloadModelButton.visible
    select(widget, "sampp")
    assert models.downloadFacts("sampp") is not None and "to download" in widget.ui.modelComboBox.currentText
    assert widget.panel.parameters.model == "sampp"
    questions = []
    monkeypatch.setattr(install, "confirm", lambda text: questions.append(text))
    monkeypatch.setattr("SAMv2Core.models.library.download", lambda *a: pytest.fail("downloaded without consent"))
    widget.ui.downloadModelButton.click()
    for word in ("Size: 133 MB", "https://", str(tmp_path), "License", "SHA-256"):
        assert word in questions[0]
    assert widget.ui.statusLabel.text == "Nothing was downloaded."


def test_a_download_reports_and_can_be_cancelled(widget, monkeypatch, tmp_path):
    monkeypatch.setenv("SAMV2_MODELS_DIR", str(tmp_path))
    monkeypatch.setattr(install, "confirm", lambda text: True)
    widget.panel.header.show()
    select(widget, "sampp")
    seen = []

    def download(name, progress):
        for n in range(100):
            progress(n / 100, f"{n} of 100 MB")
            seen.append(n)
            if n == 3:
                widget.logic.worker.currentJob().cancel()
        pytest.fail("not cancelled")

    monkeypatch.setattr("SAMv2Core.models.library.download", download)
    widget.ui.downloadModelButton.click()
    settle(widget)
    assert seen == [0, 1, 2, 3] and "Cancelled" in widget.ui.statusLabel.text
    monkeypatch.setattr(
        "SAMv2Core.models.library.download", lambda name, progress: ModelInfo(name=name, sha256="abc" * 20)
    )
    widget.ui.downloadModelButton.click()
    settle(widget)
    assert "sampp is ready (SHA-256 abcabc" in widget.ui.statusLabel.text


def test_model_file_removed(monkeypatch, tmp_path):
    """Before it was loaded: an error that says so. After: what is in memory goes on working."""
    monkeypatch.setenv("SAMV2_MODELS_DIR", str(tmp_path))
    source = model_info("lite-ct").path
    copy = tmp_path / "mine.safetensors"
    shutil.copy(source, copy)
    real = engine.Engine()
    model = real.loadedModel("mine", "cpu")
    copy.unlink()
    assert real.loadedModel("mine", "cpu") is model
    with pytest.raises(ModelError, match="mine"):
        engine.Engine().loadedModel("mine", "cpu")


def test_a_chosen_model_that_is_gone_is_told(widget, scene, monkeypatch):
    from lesions import PLACES_RAS
    from phantoms import addPoints

    def gone(name, device):
        raise ModelError("There is no model named 'mine'.", "Choose another.")

    addPair(scene)
    widget.panel.parameters.points = addPoints(scene, PLACES_RAS[:1])
    monkeypatch.setattr(widget.logic.engine, "loadedModel", gone)
    widget.logic.engine.remembers = False
    widget.panel.parameters.model = "mine"
    monkeypatch.setattr(widget.logic.engine, "_memory", {})
    widget.ui.matchButton.click()
    settle(widget)
    assert widget.ui.statusLabel.text == "There is no model named 'mine'. Choose another."
    assert widget.panel.parameters.points.GetNumberOfControlPoints() == 1


@pytest.mark.parametrize("isNew", [True, False])
def test_table_headers_before_and_after_slicer_5_10(scene, isNew):
    """One name of the same method in each Slicer; the adapter takes what is there."""
    from SAMv2SlicerLib.track import findings_table

    told = []
    name = "SetUseColumnTitleAsColumnHeader" if isNew else "SetUseColumnNameAsColumnHeader"
    methods = {
        "StartModify": lambda self: False,
        "EndModify": lambda self, was: None,
        "SetAndObserveTable": lambda self, table: told.append(table.GetNumberOfColumns()),
        name: lambda self, value: told.append(value),
    }
    findings_table._fill(type("Table", (), methods)(), [("a", [1.0]), ("b", ["x"])])
    assert told == [2, True]
