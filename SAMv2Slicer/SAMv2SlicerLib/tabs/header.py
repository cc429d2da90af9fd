"""Header of the panel: model, device, set up, sample data.

Filling it must not import PyTorch: the list of models comes from their metadata, and the resolved device is only named
once something has been computed.
"""

from __future__ import annotations

import platform
import sys
from typing import List, Tuple

import slicer

from SAMv2SlicerLib import sample_data, setup_dependencies, texts
from SAMv2SlicerLib.models_list import describeModel, installedModels
from SAMv2SlicerLib.parameters import AUTO

DEVICES = (AUTO, "cpu", "cuda", "mps")


class Header:
    """Binds the header's widgets.

    :param panel: see panel.py.
    """

    def __init__(self, ui, panel) -> None:
        self.ui, self.panel = ui, panel
        self._models: List[Tuple[str, str]] = []
        self._isShowing = False
        ui.modelComboBox.currentIndexChanged.connect(self.onModelChosen)
        ui.deviceComboBox.currentIndexChanged.connect(self.onDeviceChosen)
        ui.modelInfoButton.clicked.connect(self.onModelInfo)
        ui.setUpButton.clicked.connect(self.onSetUp)
        ui.sampleDataButton.clicked.connect(self.onSampleData)

    def show(self) -> None:
        """Fill the combo boxes from what is installed and select what the parameter node says."""
        self._isShowing = True
        try:
            self._models = [(AUTO, texts.modelAuto()), *installedModels()]
            self._fill(self.ui.modelComboBox, self._models, self.panel.parameters.model)
            devices = [(name, texts.deviceName(name)) for name in DEVICES]
            self._fill(self.ui.deviceComboBox, devices, self.panel.parameters.device)
        finally:
            self._isShowing = False
        self.showDevice()

    def showDevice(self) -> None:
        """Name the device that is really used, if PyTorch is loaded anyway."""
        self.ui.resolvedDeviceLabel.text = resolvedDevice(
            self.panel.parameters.device if self.panel.parameters else AUTO
        )

    def report(self) -> str:
        """Versions and choices for a bug report; no names of volumes, files or people."""
        import SAMv2Core

        parameters = self.panel.parameters
        lines = [
            f"SAMv2 {SAMv2Core.__version__}",
            f"Slicer {getattr(slicer.app, 'applicationVersion', '?')}",
            f"Python {platform.python_version()} on {platform.platform()}",
            f"PyTorch {getattr(sys.modules.get('torch'), '__version__', self.panel.torchState())}",
            f"Model {parameters.model if parameters else AUTO}, device {parameters.device if parameters else AUTO}",
        ]
        return "\n".join(lines)

    def onModelChosen(self, index=0) -> None:
        if not self._isShowing and self.panel.parameters is not None:
            self.panel.parameters.model = self._models[self.ui.modelComboBox.currentIndex][0]

    def onDeviceChosen(self, index=0) -> None:
        if not self._isShowing and self.panel.parameters is not None:
            self.panel.parameters.device = DEVICES[self.ui.deviceComboBox.currentIndex]
            self.showDevice()

    def onModelInfo(self, checked=False) -> None:
        self.ui.logCollapsibleButton.collapsed = False
        self.panel.say(describeModel(self._models[self.ui.modelComboBox.currentIndex][0]))

    def onSetUp(self, checked=False) -> None:
        """The only place from which the panel installs something; asks first."""
        self.panel.say(setup_dependencies.setUp())

    def onSampleData(self, checked=False) -> None:
        try:
            template, query, points = sample_data.load()
        except Exception as error:
            self.panel.showError(error)
            return
        parameters = self.panel.parameters
        parameters.templateVolume, parameters.queryVolume, parameters.points = template, query, points
        self.panel.refresh()

    def _fill(self, comboBox, items, current: str) -> None:
        comboBox.clear()
        for _, label in items:
            comboBox.addItem(label)
        names = [name for name, _ in items]
        comboBox.currentIndex = names.index(current) if current in names else 0


def resolvedDevice(choice: str) -> str:
    """What "auto" comes down to, empty while PyTorch is not loaded."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_num_threads"):
        return ""
    if choice in (AUTO, "cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    return texts.deviceCPU(torch.get_num_threads()) if choice in (AUTO, "cpu") else ""
