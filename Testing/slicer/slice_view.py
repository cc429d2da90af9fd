"""Slice views rendered off-screen with Slicer's own displayable managers: what a user would see, as pixels."""

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

MANAGERS = (
    "vtkMRMLVolumeGlyphSliceDisplayableManager",
    "vtkMRMLCrosshairDisplayableManager",
    "vtkMRMLMarkupsDisplayableManager",
)


class SliceView:
    """One slice view of slicer.mrmlScene.

    :param name: layout name, as "Red"; :param orientation: "Axial", "Sagittal" or "Coronal".
    """

    def __init__(self, name, orientation, size=360):
        self.size = size
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLScene(slicer.mrmlScene)
        self.node = self.logic.AddSliceNode(name)
        self.node.SetOrientation(orientation)
        self.node.SetDimensions(size, size, 1)
        self.composite = self.logic.GetSliceCompositeNode()
        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(1)
        self._window.SetSize(size, size)
        self._renderer = vtk.vtkRenderer()
        self._window.AddRenderer(self._renderer)
        self._interactor = vtk.vtkRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        self._addImage()
        self._addManagers()

    def _addImage(self):
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        actor = vtk.vtkActor2D()
        actor.SetMapper(self._mapper)
        self._renderer.AddViewProp(actor)

    def _addManagers(self):
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        factory.SetMRMLApplicationLogic(slicer.app.applicationLogic())
        for name in MANAGERS:
            if not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)
        self._managers = slicer.vtkMRMLDisplayableManagerGroup()
        self._managers.Initialize(factory, self._renderer)
        self._managers.SetMRMLDisplayableNode(self.node)

    def show(self, volumeNode):
        """Show a volume in gray, fitted to the view."""
        gray = slicer.mrmlScene.GetFirstNode("SliceViewGray", "vtkMRMLColorTableNode")
        if gray is None:
            gray = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLColorTableNode", "SliceViewGray")
            gray.SetTypeToGrey()
            gray.SetSaveWithScene(False)
        volumeNode.GetDisplayNode().SetAndObserveColorNodeID(gray.GetID())
        self.composite.SetBackgroundVolumeID(volumeNode.GetID())
        self.logic.FitSliceToAll(self.size, self.size)

    def pixels(self):
        """(size, size, 3) uint8, top row first."""
        self.logic.UpdatePipeline()
        self._mapper.SetInputConnection(self.logic.GetImageDataConnection())  # made with the first volume
        self._window.Render()
        grabber = vtk.vtkWindowToImageFilter()
        grabber.SetInput(self._window)
        grabber.ReadFrontBufferOff()
        grabber.Update()
        image = grabber.GetOutput()
        width, height, _ = image.GetDimensions()
        return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)[::-1, :, :3].copy()


def saveImage(path, pixels):
    """Write (h, w, 3) uint8 as a PNG file."""
    import qt

    pixels = np.ascontiguousarray(pixels)
    height, width, _ = pixels.shape
    qt.QImage(pixels.data, width, height, 3 * width, qt.QImage.Format_RGB888).save(str(path))
