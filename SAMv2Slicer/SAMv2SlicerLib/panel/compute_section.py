"""The panel's section *Compute on*: where to compute, what is there, and whether it answers.

The process is started when the module is opened, so that the first click finds it running. A small timer looks whether
it has said what it is; it stops as soon as it has.
"""

from __future__ import annotations

import time

import qt

from SAMv2Core.errors import SAMv2Error
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.panel import dialogs
from SAMv2SlicerLib.work import places
from SAMv2SlicerLib.work.engine import Engine

WATCH_MS = 200
WATCH_SECONDS = 180.0
"""The first import of PyTorch from a slow disk takes up to a minute."""


class ComputeSection:
    """Binds the section's widgets.

    :param panel: see panel.py.
    """

    def __init__(self, ui, panel) -> None:
        self.ui, self.panel = ui, panel
        self._place = places.Place(places.INSIDE)
        self._isShowing = False
        self._kinds = [places.HERE, places.PYTHON, places.SERVER]
        self._until = 0.0
        self._watch = qt.QTimer()
        self._watch.interval = WATCH_MS
        self._watch.timeout.connect(self.onWatch)
        ui.placeComboBox.currentIndexChanged.connect(self.onKind)
        ui.placeEdit.editingFinished.connect(self.onEdited)
        ui.tokenFileEdit.editingFinished.connect(self.onEdited)
        ui.choosePlaceButton.clicked.connect(self.onChoosePython)
        ui.chooseTokenButton.clicked.connect(self.onChooseToken)
        ui.testComputeButton.clicked.connect(self.onTest)

    def begin(self) -> None:
        """Compute where this computer's settings say, if it does not yet; the process is started ahead."""
        place = places.chosen()
        if place.kind == places.INSIDE and place.kind not in self._kinds:
            self._kinds.append(place.kind)
        if place != self._place:
            self._use(place)
        self.show()

    def stop(self) -> None:
        self._watch.stop()

    def show(self) -> None:
        """Show the choice and its fields."""
        self._isShowing = True
        try:
            kind = self._place.kind
            if self.ui.placeComboBox.count != len(self._kinds):
                self.ui.placeComboBox.clear()
                self.ui.placeComboBox.addItems([texts.placeName(name) for name in self._kinds])
            self.ui.placeComboBox.currentIndex = self._kinds.index(kind)
            self.ui.placeComboBox.toolTip = texts.placeTip(kind)
            self.ui.placeEdit.text = self._place.server if kind == places.SERVER else self._place.python
            self.ui.placeLabel.text = texts.placeQuestion(kind)
            self.ui.tokenFileEdit.text = self._place.tokenFile
            isAsked = kind in (places.PYTHON, places.SERVER)
            for widget in (self.ui.placeEdit, self.ui.placeLabel):
                widget.visible = isAsked
            self.ui.choosePlaceButton.visible = kind == places.PYTHON
            for widget in (self.ui.tokenFileEdit, self.ui.tokenFileLabel, self.ui.chooseTokenButton):
                widget.visible = kind == places.SERVER
        finally:
            self._isShowing = False

    # --- events --------------------------------------------------------------------------------------------------

    def onKind(self, index=0) -> None:
        if not self._isShowing:
            self._change(kind=self._kinds[self.ui.placeComboBox.currentIndex])

    def onEdited(self) -> None:
        if self._isShowing:
            return
        text = self.ui.placeEdit.text.strip()
        if self._place.kind == places.SERVER:
            self._change(server=text, tokenFile=self.ui.tokenFileEdit.text.strip())
        elif self._place.kind == places.PYTHON:
            self._change(python=text)

    def onChoosePython(self, checked=False) -> None:
        path = dialogs.openFile(self.ui.choosePlaceButton, texts.choosePythonTitle(), "*")
        if path:
            self._change(python=path)

    def onChooseToken(self, checked=False) -> None:
        path = dialogs.openFile(self.ui.chooseTokenButton, texts.chooseTokenTitle(), "*")
        if path:
            self._change(tokenFile=path)

    def onTest(self, checked=False) -> None:
        """Ask the other side what it is."""
        try:
            self.panel.logic.engine.ask()
        except SAMv2Error as error:
            self._say(error)
            return
        self._beginToWatch()

    def onWatch(self) -> None:
        """Whether the other side has said what it is."""
        engine = self.panel.logic.engine
        engine.pump(0.0)
        facts, error = engine.facts()
        if facts is not None:
            self.ui.computeInfoLabel.text = texts.aboutPlace(facts)
            self.panel.header.showDevice()
        elif error is not None:
            self._say(error)
        elif time.monotonic() < self._until:
            return
        self._watch.stop()

    def onEnded(self, cause: str) -> None:
        """The process has ended by itself."""
        self.panel.log(texts.processEnded(cause))
        if self.panel.logic.engine.isUp():
            self._beginToWatch()

    # --- the choice ----------------------------------------------------------------------------------------------

    def _change(self, **changes: str) -> None:
        values = {**vars(self._place), **changes}
        place = places.Place(**values)
        if place != self._place:
            places.choose(place)
            self._use(place)
        self.show()

    def _use(self, place: places.Place) -> None:
        """Compute there from now on; where that cannot be, say why, and go on inside Slicer."""
        self._place = place
        self.ui.computeInfoLabel.text = ""
        try:
            engine = places.engineFor(place)
            self.panel.useEngine(engine)
            engine.start()
        except SAMv2Error as error:
            self._say(error)
            if place.kind == places.HERE:
                self.panel.log(texts.insideInstead(error.cause))
            self.panel.useEngine(Engine())
            return
        if engine.isRemote and engine.state() == "ready":
            self._beginToWatch()

    def _beginToWatch(self) -> None:
        self.ui.computeInfoLabel.text = texts.connecting()
        self._until = time.monotonic() + WATCH_SECONDS
        self._watch.start()

    def _say(self, error: SAMv2Error) -> None:
        self.ui.computeInfoLabel.text = texts.notConnected(error.cause, error.remedy)
