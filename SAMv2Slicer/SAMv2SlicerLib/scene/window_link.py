"""One window and level for some scans: what is changed on one is seen on the others."""

from __future__ import annotations

from typing import Any, Tuple

import vtk
from slicer.util import VTKObservationMixin


class WindowLink(VTKObservationMixin):
    """Links the display nodes of volumes while it is on."""

    def __init__(self) -> None:
        VTKObservationMixin.__init__(self)
        self._displays: Tuple[Any, ...] = ()

    def start(self, *volumeNodes: Any) -> None:
        """The others take over the first one's window; from then on each follows the others."""
        displays = tuple(node.GetDisplayNode() for node in volumeNodes if node is not None)
        if displays == self._displays:
            return
        self.stop()
        if len(displays) < 2 or None in displays or len(set(displays)) < len(displays):
            return
        self._displays = displays
        for display in displays:
            self.addObserver(display, vtk.vtkCommand.ModifiedEvent, self._onModified)
        self._onModified(displays[0])

    def stop(self) -> None:
        """Both keep what they have."""
        self.removeObservers()
        self._displays = ()

    def _onModified(self, display, event=None) -> None:
        window, level = display.GetWindow(), display.GetLevel()
        for other in self._displays:
            if other is not display and (other.GetWindow(), other.GetLevel()) != (window, level):
                other.SetAutoWindowLevel(False)
                other.SetWindowLevel(window, level)
