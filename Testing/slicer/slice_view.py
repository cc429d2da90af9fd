"""Slice views rendered off-screen with Slicer's own displayable managers: what a user would see, as pixels."""

import numpy as np
import qt
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

    pixels = np.ascontiguousarray(pixels)
    height, width, _ = pixels.shape
    qt.QImage(pixels.data, width, height, 3 * width, qt.QImage.Format_RGB888).save(str(path))


VIEW, ZOOM = 300, 2
"""Pixels of a slice view in the pictures, and how many times larger it is rendered: its texts are not smoothed."""

ORIENTATIONS = ("Axial", "Sagittal", "Coronal")


def views(rows, orientations=ORIENTATIONS, fieldOfViewMm=None, size=VIEW):
    """(h, w, 3): a row per (volume, markups shown, world position), a column per orientation."""
    size *= ZOOM
    shown = {node for _, nodes, _ in rows for node in nodes}
    images = []
    for volume, nodes, position in rows:
        for node in shown:
            node.SetDisplayVisibility(node in nodes)
        row = []
        for orientation in orientations:
            view = SliceView(f"{volume.GetName()}-{orientation}", orientation, size)
            view.show(volume)
            if fieldOfViewMm is not None:
                view.node.SetFieldOfView(fieldOfViewMm, fieldOfViewMm, view.node.GetFieldOfView()[2])
            view.node.JumpSliceByCentering(*(float(x) for x in position))
            row.append(captioned(_smaller(view.pixels()), f"{volume.GetName()}, {orientation.lower()}"))
        images.append(np.concatenate(row, axis=1))
    for node in shown:
        node.SetDisplayVisibility(True)
    return np.concatenate(images, axis=0)


def _smaller(pixels):
    """Means of ZOOM x ZOOM pixels."""
    height, width, _ = pixels.shape
    blocks = pixels.reshape(height // ZOOM, ZOOM, width // ZOOM, ZOOM, 3)
    return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)


def captioned(pixels, text):
    """(h, w, 3): with a text in the upper left corner, as Slicer's views have it, and a frame."""
    pixels = np.ascontiguousarray(pixels)
    height, width, _ = pixels.shape
    image = qt.QImage(pixels.data, width, height, 3 * width, qt.QImage.Format_RGB888).copy()
    painter = qt.QPainter(image)
    font = painter.font()
    font.setPixelSize(13)
    painter.setFont(font)
    painter.setPen(qt.QColor(90, 90, 90))
    painter.drawRect(0, 0, width - 1, height - 1)
    painter.fillRect(1, 1, painter.fontMetrics().horizontalAdvance(text) + 14, 23, qt.QColor(0, 0, 0, 170))
    painter.setPen(qt.QColor(255, 255, 255))
    painter.drawText(8, 18, text)
    painter.end()
    return (
        np.array(image.constBits(), dtype=np.uint8)
        .reshape(height, image.bytesPerLine())[:, : 3 * width]
        .reshape(height, width, 3)
    )
