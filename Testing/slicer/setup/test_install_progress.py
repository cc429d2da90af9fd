"""The dialog of an installation: real lines of a real process, through slicer.util's own reading of them."""

import importlib.metadata
import io
import os
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

import qt
import slicer.util

from SAMv2SlicerLib import texts
from SAMv2SlicerLib.setup import install, install_progress

INSTALLER = textwrap.dedent(
    """
    import sys, time
    print("Collecting torch", flush=True)
    for done in (0, 25, 50):
        print(f"Progress {done} of 100", flush=True)
    print("Installing collected packages: torch", flush=True)
    time.sleep(float(sys.argv[1]))
    print("Successfully installed torch", flush=True)
    """
)


def installing(seconds: float = 0.0) -> subprocess.Popen:
    """A process that prints what pip prints."""
    command = [sys.executable, "-c", INSTALLER, str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, universal_newlines=True)


@pytest.fixture
def dialog(widget):
    """A progress dialog as Slicer makes it, and what it showed: (label, maximum, value)."""
    made = qt.QProgressDialog()
    made.autoClose = False
    made.maximum = 0
    yield made
    made.deleteLater()


def test_lines_and_percentages_are_shown_and_passed_on(dialog, monkeypatch):
    printed, seen = io.StringIO(), []
    monkeypatch.setattr(sys, "stdout", printed)
    with install_progress.shown(dialog):
        slicer.util.logProcessOutput(installing(), lambda line: seen.append((dialog.labelText, dialog.value)))
    assert [value for _, value in seen][1:4] == [0, 25, 50]
    assert "Collecting torch" in seen[0][0] and "Successfully installed torch" in seen[-1][0]
    assert dialog.maximum == 0 and not dialog.visible  # unpacking has no percentage; closed in the end
    assert printed.getvalue().splitlines() == [
        "Collecting torch",
        "Installing collected packages: torch",
        "Successfully installed torch",
    ]


def test_cancel_ends_it_at_the_next_line_and_the_process_with_it(dialog):
    process = installing(0.3)

    def press(line):
        if line == "Progress 25 of 100":
            dialog.cancel()

    with pytest.raises(install_progress.InstallCanceled), install_progress.shown(dialog):
        slicer.util.logProcessOutput(process, press)
    process.stdout.close()  # as when the installer's frames are gone
    assert process.wait(10) != 0  # it could not print its success


def test_pip_is_asked_for_its_progress_only_where_it_knows_how(dialog, monkeypatch):
    monkeypatch.delenv("PIP_PROGRESS_BAR", raising=False)
    for version, wanted in (("24.0", None), ("24.1.2", "raw"), ("26.0", "raw")):
        monkeypatch.setattr(install_progress.importlib.metadata, "version", lambda name, v=version: v)
        with install_progress.shown(dialog):
            assert os.environ.get("PIP_PROGRESS_BAR") == wanted
        assert "PIP_PROGRESS_BAR" not in os.environ
    monkeypatch.setenv("PIP_PROGRESS_BAR", "off")
    with pytest.raises(ValueError), install_progress.shown(dialog):
        raise ValueError
    assert os.environ["PIP_PROGRESS_BAR"] == "off"


def test_a_canceled_set_up_is_told(monkeypatch):
    def cancel(*_, **__):
        raise install_progress.InstallCanceled

    monkeypatch.setattr(slicer.util, "pip_install", cancel)
    assert install.installOptional("highdicom", "?", ask=lambda text: True) == texts.setupCanceled()
    extension = type("Logic", (), {"installTorch": cancel, "uninstallTorch": cancel})
    monkeypatch.setattr(install, "pyTorchUtilsLogic", extension)
    monkeypatch.setattr(install, "obstacle", lambda: "")
    assert install.setUp(lambda text: True) == texts.setupCanceled()


def test_without_a_main_window_nothing_is_shown_but_all_is_kept(monkeypatch):
    monkeypatch.setattr(slicer.util, "createProgressDialog", lambda **_: pytest.fail("a dialog"))
    printed = io.StringIO()
    monkeypatch.setattr(sys, "stdout", printed)
    with install_progress.shown() as transcript:
        slicer.util.logProcessOutput(installing())
    assert sys.stdout is printed and printed.getvalue().splitlines() == list(transcript.lines)
    assert transcript.lines[0] == "Collecting torch"


def pip(*arguments):
    """Real pip, as slicer.util.pip_install runs it, with its errors among the lines."""
    command = [sys.executable, "-m", "pip", "--isolated", "install", "--no-cache-dir", "--retries", "1", *arguments]
    slicer.util.logProcessOutput(
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    )


def test_being_offline_is_said_in_words(monkeypatch):
    """Port 9 of this machine answers nothing: pip finds out as it does without a network."""
    monkeypatch.setattr(
        slicer.util, "pip_install", lambda names, **_: pip("--index-url", "http://127.0.0.1:9/simple", *names)
    )
    told = install.installOptional("samv2-no-such-package", "?", ask=lambda text: True)
    assert told.startswith("Set up stopped: no connection to the Python package index.") and "HTTPS_PROXY" in told
    extension = type(
        "Logic", (), {"installTorch": lambda self, **_: pip("--index-url", "http://127.0.0.1:9/", "torchx")}
    )
    monkeypatch.setattr(install, "pyTorchUtilsLogic", extension)
    monkeypatch.setattr(install, "obstacle", lambda: "")
    assert "no connection" in install.setUp(lambda text: True)


def test_pips_own_words_are_told_where_it_has_some(monkeypatch, tmp_path):
    monkeypatch.setattr(
        slicer.util, "pip_install", lambda names, **_: pip("--no-index", "--find-links", str(tmp_path), *names)
    )
    told = install.installOptional("samv2-no-such-package", "?", ask=lambda text: True)
    assert told == "Set up stopped: No matching distribution found for samv2-no-such-package"


def test_slicer_5_11_is_asked_not_to_run_pip_beside_us(monkeypatch):
    """There pip_install would open a dialog of its own, which nobody can cancel; before it knows no such option."""
    asked = []

    def pip(names, **options):
        kept = Path(os.environ["PIP_CONSTRAINT"]).read_text(encoding="utf-8").split()
        asked.append((names, options, kept))

    monkeypatch.setattr(slicer.util, "pip_install", pip)
    for module, wanted in ((None, {}), (types.ModuleType("slicer.packaging"), {"show_progress": False})):
        monkeypatch.setitem(sys.modules, "slicer.packaging", module)
        assert install.installOptional("highdicom", "?", ask=lambda text: True) == ""
        names, options, kept = asked.pop()
        assert options == wanted and names == ["highdicom"] and "PIP_CONSTRAINT" not in os.environ
        versions = dict(line.split("==") for line in kept)  # no other SimpleITK, numpy, scipy or pydicom
        assert versions["numpy"] == importlib.metadata.version("numpy") and {"scipy", "pydicom"} <= set(versions)
        assert "highdicom" not in versions  # an older one may be replaced: that was asked for


def test_fetching_the_extension_shows_what_is_going_on(widget, monkeypatch):
    real, dialogs, seen = slicer.util.createProgressDialog, [], []
    monkeypatch.setattr(slicer.util, "mainWindow", lambda: widget.parent)
    monkeypatch.setattr(slicer.util, "createProgressDialog", lambda **o: dialogs.append(real(**o)) or dialogs[-1])

    class Manager:
        interactive = True

        def installExtensionFromServer(self, name, restart):
            (made,) = dialogs
            seen.append((made.visible, made.labelText, made.windowModality == qt.Qt.ApplicationModal))
            assert not [button for button in made.findChildren(qt.QPushButton) if button.visible]
            return False

    monkeypatch.setattr(slicer.app, "extensionsManagerModel", Manager, raising=False)
    monkeypatch.setattr(install, "pyTorchUtilsLogic", lambda: None)
    monkeypatch.setattr(install, "obstacle", lambda: "")
    told = install.setUp(lambda text: True)
    assert seen == [(True, texts.setupExtensionWorking(), True)] and not dialogs[0].visible
    assert "Check the internet connection" in told
