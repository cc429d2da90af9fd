"""The matrix of findings: a row per lesion, a column per study; it keeps its current cell while results change."""

from __future__ import annotations

import math
from typing import Callable, List, Mapping, Optional, Sequence, Tuple

import qt

from SAMv2Core.tracking.recist import NEW
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.panel.studies_table import compactRows
from SAMv2SlicerLib.scene.match_facts import REJECTED, PointResult
from SAMv2SlicerLib.track.findings import Finding

Key = Tuple[str, str]
"""(Tracking UID, volume ID): what a cell stands for."""


class LesionMatrix:
    """Shows rows of :func:`findings.findings` in a QTableWidget.

    :param onSelected: called without arguments when the user goes to another cell.
    """

    def __init__(self, widget, onSelected: Callable[[], None]) -> None:
        self._widget = widget
        self._onSelected = onSelected
        self._rows: List[List[Finding]] = []
        self._told: Mapping[str, str] = {}
        self._isShowing = False
        widget.horizontalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        compactRows(widget)
        widget.currentCellChanged.connect(self._currentCellChanged)

    def show(self, rows: Sequence[List[Finding]], titles: Sequence[str], told: Optional[Mapping[str, str]] = None):
        """Replace the content; the current cell stays current if it still is there.

        :param told: by Tracking UID, what a report says has become of a lesion in the baseline.
        """
        self._told = told or {}
        key = self.selectedKey()
        self._isShowing = True
        try:
            self._rows = [list(row) for row in rows]
            self._widget.rowCount, self._widget.columnCount = len(self._rows), len(titles) if rows else 0
            self._widget.setHorizontalHeaderLabels(list(titles) if rows else [])
            self._widget.setVerticalHeaderLabels([row[0].label for row in self._rows if row])
            for r, row in enumerate(self._rows):
                header, first = self._widget.verticalHeaderItem(r), row[0]
                header.setToolTip(texts.rowTip(_roleOf(first), first.organ, first.isNode))
            for r, row in enumerate(self._rows):
                for c, finding in enumerate(row):
                    self._showCell(r, c, finding)
            if key is not None:
                self._goTo(key)
        finally:
            self._isShowing = False

    def selected(self) -> Optional[Finding]:
        """The finding of the current cell, None without one."""
        r, c = self._widget.currentRow(), self._widget.currentColumn()
        if 0 <= r < len(self._rows) and 0 <= c < len(self._rows[r]):
            return self._rows[r][c]
        return None

    def selectedKey(self) -> Optional[Key]:
        finding = self.selected()
        return (finding.uid, finding.volumeID) if finding is not None else None

    def selectedRow(self) -> List[Finding]:
        """All findings of the current lesion."""
        finding = self.selected()
        return self._rows[self._widget.currentRow()] if finding is not None else []

    def select(self, key: Key) -> None:
        """Go to a cell, as if the user had clicked it."""
        self._goTo(key)

    def selectNeedingALook(self, step: int) -> None:
        """Go to the next (1) or previous (-1) finding that needs a look, beginning again at the end."""
        cells = [(r, c) for r, row in enumerate(self._rows) for c in range(len(row))]
        if not cells:
            return
        current = (self._widget.currentRow(), self._widget.currentColumn())
        start = cells.index(current) if current in cells else (-1 if step > 0 else 0)
        for offset in range(1, len(cells) + 1):
            r, c = cells[(start + step * offset) % len(cells)]
            if self._rows[r][c].needsALook:
                self._widget.setCurrentCell(r, c)
                return

    def _goTo(self, key: Key) -> None:
        for r, row in enumerate(self._rows):
            for c, finding in enumerate(row):
                if (finding.uid, finding.volumeID) == key:
                    self._widget.setCurrentCell(r, c)
                    return

    def _showCell(self, r: int, c: int, finding: Finding) -> None:
        item = self._widget.item(r, c)
        if item is None:
            item = qt.QTableWidgetItem()
            self._widget.setItem(r, c, item)
        item.setText(cellText(finding, self._told.get(finding.uid, "") if c == 0 else ""))
        item.setToolTip(texts.resultTip(finding.result) if finding.result is not None else "")

    def _currentCellChanged(self, *unused) -> None:
        if not self._isShowing:
            self._onSelected()


def _roleOf(baseline: Finding) -> str:
    return baseline.role if baseline.isBaseline else baseline.role or NEW


def looksOf(result: PointResult) -> str:
    """What has become of the lesion by both scans, as a word with its confidence; empty when nothing is known.

    Not where a person or a segmentation has said more.
    """
    if result.state or result.presence or result.decision == REJECTED or not math.isfinite(result.looksConfidence):
        return ""
    return texts.looksWord(result.looks, f"{100 * result.looksConfidence:.0f}")


def cellText(finding: Finding, told: str = "") -> str:
    """Status or decision as a word with its glyph, and the size; below it what has become of the lesion.

    :param told: its state by a report.
    """
    first = _placeText(finding)
    second = texts.stateName(told) if told else ""
    if finding.result is not None:
        state = finding.result.state
        second = texts.stateName(state) if state else looksOf(finding.result)
    return f"{first}\n{second}" if second else first


def _placeText(finding: Finding) -> str:
    if finding.isBaseline:
        word = texts.baselineWord()
    elif finding.result is None:
        return texts.cellMissing()
    else:
        word = texts.presenceWord(finding.result.presence, finding.decision)
        word = word or texts.statusWord(finding.status, finding.decision)
    if not math.isfinite(finding.sizeMm) and math.isfinite(finding.proposedMm):
        return texts.cellProposed(word, f"{finding.proposedMm:.1f}")
    size = f"{finding.sizeMm:.1f}" if math.isfinite(finding.sizeMm) else ""
    return texts.cellText(word, size, not finding.isMeasured)
