"""Embeddings of the scene's volumes, valid as long as the voxels and the geometry are what they were.

An embedding takes seconds to compute and a point match milliseconds, so everything depends on not recomputing the
first. The key is the volume's node ID together with a signature of its content, never its name; node IDs are reused
after a scene is closed, hence :meth:`EmbeddingStore.clear` on scene close. Parent transforms are not part of the
signature because volumes are embedded in their own frame (see node_geometry.py). Nothing here is saved with the scene.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Optional, Set, Tuple

import slicer
import vtk
from slicer.util import VTKObservationMixin

from SAMv2SlicerLib.scene import node_geometry

Signature = Tuple[Any, ...]


def signatureOf(volumeNode) -> Signature:
    """What must be unchanged for an embedding to stay valid; microseconds, so it is checked at every use."""
    imageData = volumeNode.GetImageData()
    scalars = imageData.GetPointData().GetScalars() if imageData is not None else None
    return (
        imageData.GetDimensions() if imageData is not None else None,
        imageData.GetMTime() if imageData is not None else 0,
        scalars.GetMTime() if scalars is not None else 0,
        node_geometry.ijkToLPS(volumeNode).tobytes(),
    )


@dataclass
class _Entry:
    signature: Signature
    embeddings: Dict[Tuple[str, str], Any] = field(default_factory=dict)
    """Key: (model name, modality asked for: auto, ct or mr)."""


class EmbeddingStore(VTKObservationMixin):
    """Per volume node the embeddings computed so far; observes the volumes it holds.

    :param onStale: called with the volume node when its embedding became invalid by a modification.
    """

    def __init__(self, onStale: Optional[Callable[[Any], None]] = None) -> None:
        VTKObservationMixin.__init__(self)
        self._entries: Dict[str, _Entry] = {}
        self._onStale = onStale
        self._stale: Set[str] = set()
        """IDs of volumes whose embedding became invalid and was not renewed yet."""

    def get(self, volumeNode) -> Dict[Tuple[str, str], Any]:
        """The volume's valid embeddings by (model name, modality asked for); empty when there are none."""
        entry = self._entries.get(volumeNode.GetID())
        if entry is None or entry.signature != signatureOf(volumeNode):
            return {}
        return dict(entry.embeddings)

    def put(self, volumeNode, signature: Signature, model: str, modality: str, embedding: Any) -> bool:
        """Keep an embedding that was computed from the content with this signature.

        :return: False, and nothing is kept, when the volume was changed in the meantime.
        """
        if signature != signatureOf(volumeNode):
            return False
        entry = self._entries.get(volumeNode.GetID())
        if entry is None or entry.signature != signature:
            entry = self._entries[volumeNode.GetID()] = _Entry(signature)
            self._observe(volumeNode)
        entry.embeddings[(model, modality)] = embedding
        self._stale.discard(volumeNode.GetID())
        return True

    def isStale(self, volumeNode) -> bool:
        """Whether the volume was modified since it was embedded."""
        return volumeNode.GetID() in self._stale

    def drop(self, volumeNodeID: str) -> None:
        """Forget a volume (it was removed from the scene)."""
        self._stale.discard(volumeNodeID)
        if self._entries.pop(volumeNodeID, None) is not None:
            for observed, event, method, *_ in self.Observations:
                if observed.GetID() == volumeNodeID:
                    self.removeObserver(observed, event, method)

    def clear(self) -> None:
        """Forget everything and observe nothing: memory is released with the scene."""
        self.removeObservers()
        self._entries.clear()
        self._stale.clear()

    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return sum(e.nbytes for entry in self._entries.values() for e in entry.embeddings.values())

    def _observe(self, volumeNode) -> None:
        for event in (slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent, vtk.vtkCommand.ModifiedEvent):
            if not self.hasObserver(volumeNode, event, self._onVolumeModified):
                self.addObserver(volumeNode, event, self._onVolumeModified)

    def _onVolumeModified(self, volumeNode, event=None) -> None:
        """Renaming or showing a volume also ends here; only changed content makes the embedding stale."""
        entry = self._entries.get(volumeNode.GetID() or "")
        if entry is None or entry.signature == signatureOf(volumeNode):
            return
        self.drop(volumeNode.GetID())
        self._stale.add(volumeNode.GetID())
        if self._onStale is not None:
            self._onStale(volumeNode)


# --- how fast this machine embeds: remembered in Slicer's settings, so that estimates rest on the last run

RATE_SETTING = "SAMv2/VoxelsPerSecond/"
DEVICES = ("auto", "cpu", "cuda", "mps")


def restoreRates(engine) -> None:
    """Give an engine the rates of earlier sessions where it has none of its own."""
    settings = slicer.app.userSettings()
    for device in DEVICES:
        try:
            rate = float(settings.value(RATE_SETTING + device, "0") or 0)
        except (TypeError, ValueError):
            continue
        if rate > 0:
            engine.voxelsPerSecond.setdefault(device, rate)


def storeRates(engine) -> None:
    """Remember an engine's rates."""
    settings = slicer.app.userSettings()
    for device, rate in engine.voxelsPerSecond.items():
        settings.setValue(RATE_SETTING + device, f"{rate:.0f}")
