"""Header of the panel: model, device, set up, sample data.

Filling it must not import PyTorch: the list of models comes from their metadata, and the resolved device is only named
once something has been computed.
"""

from __future__ import annotations

import sys
from typing import List, Tuple

from SAMv2SlicerLib import texts
from SAMv2SlicerLib.setup import install, models, sample_data
from SAMv2SlicerLib.setup.models import describeModel
from SAMv2SlicerLib.work.engine import AUTO

DEVICES = (AUTO, "cpu", "cuda", "mps")


class Header:
    """Binds the header's widgets.

    :param panel: see panel.py.
    """

    def __init__(self, ui, panel) -> None:
        self.ui, self.panel = ui, panel
        self._models: List[Tuple[str, str]] = []
        self._isShowing = False
        self._device = ""
        self._deviceTip = ui.deviceComboBox.toolTip
        ui.modelComboBox.currentIndexChanged.connect(self.onModelChosen)
        ui.deviceComboBox.currentIndexChanged.connect(self.onDeviceChosen)
        ui.modelInfoButton.clicked.connect(self.onModelInfo)
        ui.downloadModelButton.clicked.connect(self.onDownload)
        ui.setUpButton.clicked.connect(self.onSetUp)
        ui.sampleDataButton.clicked.connect(self.onSampleData)

    def show(self) -> None:
        """Fill the combo boxes from what is installed and select what the parameter node says."""
        self._isShowing = True
        try:
            self._models = [(AUTO, texts.modelAuto()), *models.offeredModels()]
            self._fill(self.ui.modelComboBox, self._models, self.panel.parameters.model)
            devices = [(name, texts.deviceName(name)) for name in DEVICES]
            self._fill(self.ui.deviceComboBox, devices, self.panel.parameters.device)
        finally:
            self._isShowing = False
        self.showDevice()

    def showModel(self) -> None:
        """Offer the download of a model that is not here, and say what the model has not seen of the scans."""
        parameters = self.panel.parameters
        if parameters is None:
            return
        self.ui.downloadModelButton.visible = models.downloadFacts(parameters.model) is not None
        known = [(node.GetName(), self.panel.logic.modalityOf(node)) for node in self.panel.selectedVolumes()]
        note = models.coverageNote(parameters.model, [item for item in known if item[1]])
        self.ui.coverageLabel.text, self.ui.coverageLabel.visible = note, bool(note)

    def showDevice(self) -> None:
        """Name the device that is really used, if PyTorch is loaded anyway; and what the model has (not) seen."""
        facts, _ = self.panel.logic.engine.facts()
        device = self.panel.parameters.device if self.panel.parameters else AUTO
        self._device = texts.deviceElsewhere(facts) if facts else resolvedDevice(device)
        now = texts.deviceNow(self._device) if self._device else ""
        self.ui.deviceComboBox.toolTip = f"{self._deviceTip} {now}".strip()
        self.showModel()

    def isDeviceKnown(self) -> bool:
        return bool(self._device)

    def onModelChosen(self, index=0) -> None:
        if not self._isShowing and self.panel.parameters is not None:
            self.panel.parameters.model = self._models[self.ui.modelComboBox.currentIndex][0]
            self.showModel()

    def onDeviceChosen(self, index=0) -> None:
        if not self._isShowing and self.panel.parameters is not None:
            self.panel.parameters.device = DEVICES[self.ui.deviceComboBox.currentIndex]
            self.showDevice()

    def onModelInfo(self, checked=False) -> None:
        self.ui.logCollapsibleButton.collapsed = False
        self.panel.say(describeModel(self._models[self.ui.modelComboBox.currentIndex][0]))

    def onDownload(self, checked=False) -> None:
        """Fetch the selected model after asking; progress and cancel are those of every computation."""
        info = models.downloadFacts(self.panel.parameters.model)
        if info is None:
            return
        if not install.confirm(self._downloadQuestion(info)):
            self.panel.say(texts.downloadDeclined())
            return
        models.startDownload(self.panel.logic, info.name, onEnd=self.onDownloaded)

    def _downloadQuestion(self, info) -> str:
        from SAMv2Core.models.records import models_folder

        size = f"{4e-6 * info.parameters:.0f} MB" if info.parameters else texts.notKnown()  # float32 weights
        return texts.downloadConsent(
            info.title or info.name, size, info.url, str(models_folder()), info.licence, info.sha256
        )

    def onDownloaded(self, job) -> None:
        if job.error is not None:
            self.panel.showError(job.error)
        else:
            self.panel.say(texts.downloaded(job.value.name, job.value.sha256))
        if self.panel.parameters is not None:
            self.show()

    def onSetUp(self, checked=False) -> None:
        """The only place from which the panel installs something; asks first."""
        self.panel.say(install.setUp())

    def onSampleData(self, checked=False) -> None:
        """Fetch the sample scans; progress and cancel are those of every computation."""
        sample_data.start(self.panel.logic, onEnd=self.onSampleLoaded)
        self.panel.refresh()

    def onSampleLoaded(self, job) -> None:
        parameters = self.panel.parameters
        if job.error is not None:
            self.panel.showError(job.error)
        elif parameters is not None:
            parameters.templateVolume, parameters.queryVolume, parameters.points = job.value
            self.panel.ui.tabWidget.currentIndex = 0
            self.panel.matchTab.showViews()
            self.panel.say(texts.sampleLoaded())

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
