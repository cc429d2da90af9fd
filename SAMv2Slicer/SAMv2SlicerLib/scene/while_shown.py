"""What is changed about users' nodes only while the module is shown, and not in a scene that is saved."""

from __future__ import annotations

import slicer
from slicer.util import VTKObservationMixin


class WhileShown(VTKObservationMixin):
    """Turned on and off; what derives from it gives the two methods at the end."""

    def __init__(self) -> None:
        VTKObservationMixin.__init__(self)
        self._isOn = self._isPaused = False

    @property
    def isActive(self) -> bool:
        return self._isOn and not self._isPaused

    def start(self) -> None:
        self._isOn = True
        self.update()

    def stop(self) -> None:
        self._isOn = self._isPaused = False
        self.removeObservers()
        self.giveBack()

    def pause(self) -> None:
        """Give back what was until :meth:`resume`; a scene is being saved."""
        self._isPaused = True
        self.giveBack()

    def resume(self) -> None:
        self._isPaused = False
        self.update()

    def update(self) -> None:
        """Make the changes to the nodes as they are now."""
        if self.isActive and not slicer.mrmlScene.IsBatchProcessing():
            self.change()

    def change(self) -> None:
        raise NotImplementedError

    def giveBack(self) -> None:
        """What users chose themselves, in all nodes."""
        raise NotImplementedError
