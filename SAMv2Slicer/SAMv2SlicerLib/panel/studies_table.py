"""The table of studies: baseline and follow-ups in time order, with dates that can be typed in.

Also what each study is (CT or MR) and which segmentation shows its lesions.
"""

from __future__ import annotations

from typing import Any, Callable, List, Sequence

import qt

from SAMv2Core.errors import InputError
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.track import studies


class StudiesTable:
    """Shows the studies in a QTableWidget: role, date, volume, modality, segmentation.

    :param onDated: called after the user entered a date.
    :param onError: called with what was wrong with an entry.
    """

    def __init__(self, widget, onDated: Callable[[], None], onError: Callable[[BaseException], None]) -> None:
        self._widget, self._onDated, self._onError = widget, onDated, onError
        self._volumes: List[Any] = []
        self._isShowing = False
        columns = ["", texts.columnDate(), texts.columnScan(), texts.columnModality(), texts.columnSegments()]
        widget.columnCount = len(columns)
        widget.setHorizontalHeaderLabels(columns)
        compactRows(widget)
        widget.horizontalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        widget.horizontalHeader().stretchLastSection = True
        widget.verticalHeader().visible = False
        widget.itemChanged.connect(self._onItemChanged)

    def show(self, volumes: Sequence[Any], modalities: Sequence[str]) -> None:
        """Replace the content: baseline first.

        :param modalities: per volume ``"ct"``, ``"mr"`` or empty.
        """
        row = self._widget.currentRow()
        self._isShowing = True
        try:
            self._volumes = list(volumes)
            self._widget.rowCount = len(self._volumes)
            for n, volume in enumerate(self._volumes):
                segmentation = studies.segmentationOf(volume) if n > 0 else None
                cells = (
                    texts.roleName(n),
                    studies.dateOf(volume),
                    volume.GetName(),
                    modalities[n].upper(),
                    segmentation.GetName() if segmentation is not None else "",
                )
                for column, text in enumerate(cells):
                    item = qt.QTableWidgetItem(text)
                    if column != 1:
                        item.setFlags(qt.Qt.ItemIsSelectable | qt.Qt.ItemIsEnabled)
                    self._widget.setItem(n, column, item)
            if 0 <= row < len(self._volumes):
                self._widget.setCurrentCell(row, 0)
        finally:
            self._isShowing = False

    def selectedIndex(self) -> int:
        """Row of the current study (0 is the baseline), -1 without one."""
        return self._widget.currentRow() if self._widget.currentRow() < len(self._volumes) else -1

    def _onItemChanged(self, item) -> None:
        if self._isShowing or item.column() != 1 or item.row() >= len(self._volumes):
            return
        try:
            studies.setDate(self._volumes[item.row()], item.text())
        except InputError as error:
            self._onError(error)
        self._onDated()


def compactRows(widget) -> None:
    """Give a QTableWidget rows as high as their text, at any font and scaling, and plain headers."""
    widget.verticalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
    widget.horizontalHeader().highlightSections = False
