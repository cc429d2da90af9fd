"""The box with the confidence above which a match is not uncertain: that of the model until the user chooses one."""

from __future__ import annotations

from typing import Any, Sequence, Tuple

from SAMv2SlicerLib import texts
from SAMv2SlicerLib.panel.parameters import MODELS_OWN_THRESHOLD
from SAMv2SlicerLib.setup import models

SMALLEST_CHOICE = 0.25
"""Above the value of the parameter that stands for the model's own."""


class ThresholdBox:
    """Binds the spin box by hand: the parameter node's connector could not show one value and store another.

    :param panel: see panel.py.
    """

    def __init__(self, spinBox, panel) -> None:
        self._box, self._panel = spinBox, panel
        self._isShowing = False
        self._known: Tuple[Any, float] = (None, 0.0)
        spinBox.minimum = SMALLEST_CHOICE
        spinBox.valueChanged.connect(self.onValue)

    def show(self, modalities: Sequence[str]) -> None:
        """Show what holds for matches between scans of these modalities (ct, mr; those that are known)."""
        parameters = self._panel.parameters
        isOwn = not isChosen(parameters.matchedAbove)
        self._isShowing = True
        try:
            self._box.suffix = texts.thresholdOwn() if isOwn else ""
            self._box.value = self._own(parameters.model, modalities) if isOwn else parameters.matchedAbove
        finally:
            self._isShowing = False

    def onValue(self, value=0.0) -> None:
        if not self._isShowing and self._panel.parameters is not None:
            self._panel.parameters.matchedAbove = self._box.value

    def _own(self, model: str, modalities: Sequence[str]) -> float:
        """The model's own threshold; reads a file's header, so it is remembered for the last question."""
        key = (model, tuple(modalities))
        if self._known[0] != key:
            self._known = (key, models.matchedAbove(model, modalities))
        return self._known[1]


def isChosen(matchedAbove: float) -> bool:
    """Whether the parameter is a threshold that the user chose."""
    return matchedAbove > MODELS_OWN_THRESHOLD + 1e-6
