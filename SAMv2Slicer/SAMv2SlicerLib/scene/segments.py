"""Segments of the scene as values: their names, their voxels, and as masks of where to look for matches."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import slicer
import slicer.util
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from SAMv2Core.errors import InputError
from SAMv2Core.io.volume import Volume
from SAMv2Core.matching.search_mask import SearchMask
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.scene import node_geometry


def segmentsIn(node) -> List[Tuple[str, str]]:
    """(segment ID, name) of all segments of a segmentation, in order; none without a node."""
    if node is None:
        return []
    segmentation = node.GetSegmentation()
    ids = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
    return [(segmentID, segmentation.GetSegment(segmentID).GetName()) for segmentID in ids]


def segmentIDOf(node, reference: str) -> str:
    """ID of the segment with this ID or name; of the only one, when nothing is said.

    :raises InputError: there is no such segment.
    """
    segments = segmentsIn(node)
    if not reference and len(segments) == 1:
        return segments[0][0]
    for segmentID, name in segments:
        if reference in (segmentID, name):
            return segmentID
    raise InputError(texts.noSegmentCause(reference, node.GetName()), texts.noSegmentRemedy())


def segmentVolume(node, segmentID: str) -> Optional[Volume]:
    """A segment's own label map in the segmentation's LPS, 1 inside; None when it has none, or an empty one."""
    image = slicer.vtkOrientedImageData()
    if not node.GetBinaryLabelmapRepresentation(segmentID, image) or not image.GetNumberOfPoints():
        return None
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    extent = image.GetExtent()
    shape = [extent[5] - extent[4] + 1, extent[3] - extent[2] + 1, extent[1] - extent[0] + 1]
    values = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(shape)
    toRAS = slicer.util.arrayFromVTKMatrix(matrix)
    toRAS[:3, 3] += toRAS[:3, :3] @ [extent[0], extent[2], extent[4]]
    return Volume((values > 0).astype(np.uint8), node_geometry.LPS_FROM_RAS @ toRAS)


class SearchMasks:
    """Masks of segments, remembered until the segment or its place changes: points are dragged over them."""

    def __init__(self) -> None:
        self._last: Dict[Tuple[Any, ...], SearchMask] = {}

    def chosen(self, resolve, inside: Optional[Tuple[Any, str]], volumeNode) -> Optional[SearchMask]:
        """The mask of a (segmentation node, name or ID; segment) in the frame of a volume; None for no mask.

        :param resolve: the logic's.
        :raises InputError: see :meth:`get`; no such segmentation.
        """
        if inside is None:
            return None
        return self.get(resolve(inside[0], "vtkMRMLSegmentationNode"), inside[1], volumeNode)

    def get(self, segmentationNode, segment: str, volumeNode) -> SearchMask:
        """The mask of a segment (ID or name) in the frame of a volume.

        :raises InputError: no such segment, an empty one, or a non-linear transform is between it and the volume.
        """
        segmentID = segmentIDOf(segmentationNode, segment)
        toWorld = node_geometry.worldFromNodeMatrix(segmentationNode)
        fromWorld = np.linalg.inv(node_geometry.worldFromNodeMatrix(volumeNode))
        toVolume = node_geometry.LPS_FROM_RAS @ fromWorld @ toWorld @ node_geometry.LPS_FROM_RAS
        changed = segmentationNode.GetSegmentation().GetMTime()
        key = (segmentationNode.GetID(), segmentID, changed, volumeNode.GetID(), toVolume.tobytes())
        if key not in self._last:
            name = dict(segmentsIn(segmentationNode))[segmentID]
            refusal = (texts.emptySegmentCause(name, volumeNode.GetName()), texts.emptySegmentRemedy())
            volume = segmentVolume(segmentationNode, segmentID)
            if volume is None or not volume.array.any():
                raise InputError(*refusal)
            lpsToIJK = np.linalg.inv(toVolume @ volume.ijk_to_lps)
            self._last = {key: SearchMask(key, name, volume.array > 0, lpsToIJK, refusal)}
        return self._last[key]

    def clear(self) -> None:
        self._last.clear()
