"""Footer of the panel: the log, what is kept on disk, models from files, and links to help."""

from __future__ import annotations

import os
import platform
import re
import sys
from typing import List

import qt
import slicer

from SAMv2Core.errors import SAMv2Error
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.panel import dialogs
from SAMv2SlicerLib.work import engine

HOME_PAGE = "https://github.com/SlicerSAMv2/SlicerSAMv2"
LINKS = (
    ("tutorial", f"{HOME_PAGE}/blob/main/Resources/Tutorial.md"),
    ("documentation", f"{HOME_PAGE}#readme"),
    ("issues", f"{HOME_PAGE}/issues"),
)
WEIGHTS = "Weights (*.safetensors *.pth *.pt)"


class Footer:
    """Binds the footer's widgets.

    :param panel: see panel.py.
    """

    def __init__(self, ui, panel) -> None:
        self.ui, self.panel = ui, panel
        ui.copyLogButton.clicked.connect(self.onCopyReport)
        ui.openCacheButton.clicked.connect(self.onOpenCache)
        ui.clearCacheButton.clicked.connect(self.onClearCache)
        ui.openModelsButton.clicked.connect(self.onOpenModels)
        ui.importModelButton.clicked.connect(self.onImportModel)
        ui.storageCollapsibleButton.contentsCollapsed.connect(self.onFolded)
        links = (f'<a href="{address}">{texts.linkName(name)}</a>' for name, address in LINKS)
        ui.linksLabel.text = " \N{MIDDLE DOT} ".join(links)

    def onFolded(self, collapsed=False) -> None:
        """Sizes are read when someone looks, because that walks through a folder."""
        if not collapsed:
            self.show()

    def show(self) -> None:
        """Say how much is kept on disk, and where."""
        cache = engine.diskCache()
        self.ui.cacheSizeLabel.text = texts.gigabytes(cache.size_bytes() / 2**30)
        self.ui.cacheSizeLabel.toolTip = self.ui.openCacheButton.toolTip = str(cache.folder)

    def onCopyReport(self, checked=False) -> None:
        p = self.panel.parameters
        model, device = (p.model, p.device) if p is not None else (engine.AUTO, engine.AUTO)
        text = bugReport(self.ui.logTextEdit.plainText, model, device, self.panel.torchState())
        qt.QApplication.clipboard().setText(text)
        self.panel.say(texts.reportCopied())

    def onOpenCache(self, checked=False) -> None:
        self._open(str(engine.diskCache().folder))

    def onClearCache(self, checked=False) -> None:
        """Delete the embeddings kept on disk; those in memory stay."""
        cache = engine.diskCache()
        size = cache.size_bytes()
        cache.clear()
        self.show()
        self.panel.say(texts.cacheCleared(size / 2**30, str(cache.folder)))

    def onOpenModels(self, checked=False) -> None:
        from SAMv2Core.models.records import models_folder

        self._open(str(models_folder()))

    def onImportModel(self, checked=False) -> None:
        """Copy a weights file into the models folder, and select it."""
        path = dialogs.openFile(self.ui.importModelButton, texts.importModelTitle(), WEIGHTS)
        if not path or self.panel.parameters is None:
            return
        from SAMv2Core.models.library import import_file

        try:
            with dialogs.waitCursor():
                info = import_file(path)
        except SAMv2Error as error:
            self.panel.showError(error)
            return
        self.panel.parameters.model = info.name
        self.panel.header.show()
        self.panel.say(texts.modelImported(info.name, info.sha256))

    def _open(self, folder: str) -> None:
        """Show a folder in the system's file manager; made when it is not there yet."""
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError:
            self.panel.say(texts.folderMissing(folder))
            return
        if not qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(folder)):
            self.panel.say(folder)


PRIVATE_CLASSES = (
    "vtkMRMLVolumeNode",
    "vtkMRMLMarkupsNode",
    "vtkMRMLSegmentationNode",
    "vtkMRMLTransformNode",
    "vtkMRMLTableNode",
)


def bugReport(log: str, model: str, device: str, torchState: str) -> str:
    """The whole report; ``log`` as the panel shows it."""
    return "\n".join([*versions(model, device, torchState), "", withoutNames(log)])


def versions(model: str, device: str, torchState: str) -> List[str]:
    """What runs here, a line each."""
    import SAMv2Core

    return [
        f"SAMv2 {SAMv2Core.__version__}",
        f"Slicer {getattr(slicer.app, 'applicationVersion', '?')}",
        f"Python {platform.python_version()} on {platform.platform()}",
        f"PyTorch {getattr(sys.modules.get('torch'), '__version__', torchState)}",
        f"Model {model}, device {device}",
    ]


def withoutNames(text: str) -> str:
    """A text with the names of the scene's nodes, of their points and of folders replaced by what they are."""
    for name, kind in _names():
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", kind, text)
    text = re.sub(r"(PatientID[^(]*)\([^)]*\)", r"\1(...)", text)
    return re.sub(r"(?:[A-Za-z]:)?(?:[\\/][^\s:;,'\"()\\/]+){2,}", "<path>", text)


def _names():
    """(name, replacement), longest names first, so that no part of another name is replaced alone."""
    found = {}
    scene = slicer.mrmlScene
    for n in range(scene.GetNumberOfNodes()):
        node = scene.GetNthNode(n)
        if not any(node.IsA(name) for name in PRIVATE_CLASSES):
            continue
        kind = node.GetNodeTagName()
        found.setdefault(node.GetName() or "", f"<{kind} {len(found) + 1}>")
        if node.IsA("vtkMRMLMarkupsNode"):
            for index in range(node.GetNumberOfControlPoints()):
                found.setdefault(node.GetNthControlPointLabel(index), f"<point {len(found) + 1}>")
    home = os.path.expanduser("~")
    if len(home) > 1:
        found[home] = "~"
    return sorted(((name, kind) for name, kind in found.items() if name), key=lambda item: -len(item[0]))
