"""The box with the segments of the chosen segmentation: inside which one to look for matches."""

from __future__ import annotations

from typing import Any, List, Optional, Tuple

from SAMv2SlicerLib import texts
from SAMv2SlicerLib.scene import segments


class SegmentBox:
    """Fills a combo box; the first entry is to search everywhere.

    :param panel: see panel.py.
    """

    def __init__(self, comboBox, panel) -> None:
        self._box, self._panel = comboBox, panel
        self._shown: List[Tuple[str, str]] = []
        self._isShowing = False
        comboBox.currentIndexChanged.connect(self.onChosen)

    def chosen(self) -> Optional[Tuple[Any, str]]:
        """(segmentation node, segment ID), None to search everywhere."""
        p = self._panel.parameters
        node = p.searchSegmentation
        isThere = node is not None and p.searchSegment in dict(segments.segmentsIn(node))
        return (node, p.searchSegment) if isThere else None

    def show(self) -> None:
        """Show the segments as they are now."""
        p = self._panel.parameters
        found = [("", texts.searchEverywhere()), *segments.segmentsIn(p.searchSegmentation)]
        self._isShowing = True
        try:
            if found != self._shown:
                self._shown = found
                self._box.clear()
                self._box.addItems([name for _, name in found])
            ids = [segmentID for segmentID, _ in found]
            self._box.currentIndex = ids.index(p.searchSegment) if p.searchSegment in ids else 0
            self._box.enabled = len(found) > 1
        finally:
            self._isShowing = False

    def onChosen(self, index=0) -> None:
        if not self._isShowing and self._panel.parameters is not None:
            self._panel.parameters.searchSegment = self._shown[self._box.currentIndex][0]
