"""A scene is saved as it is without the module: in a Slicer that does not have it, too, all points have to be seen.

While the panel is shown, lists are confined to the views of their scans and perhaps one of our layouts is on. Slicer
5.8 does not tell before it writes a scene, so two things are watched that come first: its *Save* dialog getting the
focus, and the files of point lists being named, which happens for every list when a scene is bundled (.mrb).
"""

from __future__ import annotations

import qt
import slicer
import slicer.util
import vtk
from slicer.util import VTKObservationMixin

from SAMv2SlicerLib.scene import slice_views

DIALOGS = ("qSlicerSaveDataDialog", "qSlicerSaveDataDialogPrivate")
"""The second is the dialog that is on the screen, by the first."""


class Saving(VTKObservationMixin):
    """Gives views and layout back while a scene is being saved.

    :param holders: have ``pause()`` and ``resume()``.
    """

    def __init__(self, *holders) -> None:
        VTKObservationMixin.__init__(self)
        self._holders = holders
        self._isPaused = self._isOn = False

    def start(self) -> None:
        if self._isOn:
            return
        self._isOn = True
        slicer.app.connect("focusChanged(QWidget*,QWidget*)", self._onFocus)
        self.addObserver(slicer.mrmlScene, slicer.vtkMRMLScene.NodeAddedEvent, self._onNodeAdded)
        for node in slicer.util.getNodesByClass("vtkMRMLMarkupsStorageNode"):
            self._watch(node)

    def stop(self) -> None:
        if self._isOn:
            slicer.app.disconnect("focusChanged(QWidget*,QWidget*)", self._onFocus)
        self._isOn = False
        self.removeObservers()
        self._resume()

    def _onFocus(self, before, now) -> None:
        dialog = qt.QApplication.activeModalWidget()
        if dialog is not None and any(dialog.inherits(name) for name in DIALOGS):
            self._pause()
        elif dialog is None:
            self._resume()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeAdded(self, scene, event, node=None) -> None:
        if node is not None and node.IsA("vtkMRMLMarkupsStorageNode"):
            self._watch(node)
            self._onStorage()

    def _watch(self, storageNode) -> None:
        if not self.hasObserver(storageNode, vtk.vtkCommand.ModifiedEvent, self._onStorage):
            self.addObserver(storageNode, vtk.vtkCommand.ModifiedEvent, self._onStorage)

    def _onStorage(self, caller=None, event=None) -> None:
        """A list's file is about to be written, and the scene after it, before anybody handles events."""
        if not self._isPaused and not slicer.mrmlScene.IsBatchProcessing():
            self._pause()
            qt.QTimer.singleShot(0, self._afterwards)

    def _afterwards(self) -> None:
        self._onFocus(None, None)

    def _pause(self) -> None:
        if not self._isPaused and self._isOn:
            self._isPaused = True
            for holder in self._holders:
                holder.pause()

    def _resume(self) -> None:
        if self._isPaused:
            self._isPaused = False
            with slice_views.drawnOnce():
                for holder in self._holders:
                    holder.resume()
