"""A word for users who are about to click on the wrong scan while placing points of the template."""

from __future__ import annotations

import slicer
from slicer.util import VTKObservationMixin

from SAMv2SlicerLib import texts
from SAMv2SlicerLib.scene import slice_views


class PlaceHint(VTKObservationMixin):
    """While points are being placed, watches which view the cursor is in; Slicer refuses the click (own_views.py).

    :param panel: see panel.py.
    """

    def __init__(self, panel) -> None:
        VTKObservationMixin.__init__(self)
        self._panel = panel
        self._isTold = False

    def start(self) -> None:
        interaction = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLInteractionNode")
        event = slicer.vtkMRMLInteractionNode.InteractionModeChangedEvent
        if interaction is not None and not self.hasObserver(interaction, event, self._onMode):
            self.addObserver(interaction, event, self._onMode)
            self._onMode(interaction)

    def stop(self) -> None:
        self.removeObservers()
        self._isTold = False

    def _onMode(self, interaction, event=None) -> None:
        crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        if crosshair is None:
            return
        event = slicer.vtkMRMLCrosshairNode.CursorPositionModifiedEvent
        isPlacing = interaction.GetCurrentInteractionMode() == slicer.vtkMRMLInteractionNode.Place
        isWatching = self.hasObserver(crosshair, event, self._onCursor)
        if isPlacing and not isWatching:
            self.addObserver(crosshair, event, self._onCursor)
        elif not isPlacing and isWatching:
            self.removeObserver(crosshair, event, self._onCursor)
            self._tell(False)

    def _onCursor(self, crosshair, event=None) -> None:
        p = self._panel.parameters
        selection = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSelectionNode")
        view = crosshair.GetCursorPositionXYZ([0.0, 0.0, 0.0])  # None where the cursor is in no slice view
        if p is None or p.points is None or p.templateVolume is None or selection is None or view is None:
            return
        isOurs = selection.GetActivePlaceNodeID() == p.points.GetID()
        self._tell(isOurs and view not in slice_views.sliceNodesShowing(p.templateVolume))

    def _tell(self, isWrong: bool) -> None:
        if isWrong == self._isTold:
            return
        self._isTold = isWrong
        if isWrong:
            self._panel.say(texts.placeElsewhere(self._panel.parameters.templateVolume.GetName()))
        else:
            self._panel.clearMessage()
            self._panel.refreshSoon()
