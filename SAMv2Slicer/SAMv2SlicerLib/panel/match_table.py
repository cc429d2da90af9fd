"""The table of matches: rows that keep their selection while results are being updated under it."""

from __future__ import annotations

from operator import attrgetter
from typing import Any, Callable, List, Optional, Sequence, Tuple

import qt

from SAMv2SlicerLib import texts
from SAMv2SlicerLib.panel.studies_table import compactRows

Key = Tuple[str, str]
"""(matched list ID, template point ID): what a row stands for."""


class MatchTable:
    """Shows rows (matched list ID, template point ID, label, facts, last column) in a QTableWidget.

    A row whose facts are None is the heading of those below it.

    :param onSelected: called without arguments when the user selects another row.
    :param columns: titles of label, status, confidence and, if there is one, the last column, ``tips`` what they mean.
    :param needsALook: of the facts of a row: whether a person should look at it.
    """

    def __init__(
        self,
        widget,
        onSelected: Callable[[], None],
        columns: Optional[Sequence[str]] = None,
        tips: Optional[Sequence[str]] = None,
        needsALook: Callable[[Any], bool] = attrgetter("needsALook"),
    ) -> None:
        self._widget = widget
        self._onSelected = onSelected
        self._needsALook = needsALook
        self._rows: List[tuple] = []
        self._isShowing = False
        columns = columns or texts.resultColumns()
        widget.columnCount = len(columns)
        widget.setHorizontalHeaderLabels(list(columns))
        widget.horizontalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        widget.horizontalHeader().stretchLastSection = len(columns) > 3
        if len(columns) <= 3:  # nothing to give way but the names
            widget.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.Stretch)
        widget.verticalHeader().visible = False
        compactRows(widget)
        for column, tip in enumerate(tips or texts.resultColumnTips()):
            widget.horizontalHeaderItem(column).setToolTip(tip)
        widget.itemSelectionChanged.connect(self._selectionChanged)

    def show(self, rows: Sequence[tuple]) -> None:
        """Replace the content; the selected match stays selected if it still is there."""
        key = self.selectedKey()
        self._isShowing = True
        try:
            shown, self._rows = self._rows, list(rows)
            if [row[3] is None for row in self._rows] != [row[3] is None for row in shown]:  # where headings are
                self._widget.clearSpans()
                self._widget.rowCount = len(self._rows)
                shown = []
            for n, row in enumerate(self._rows):
                if row != (shown[n] if n < len(shown) else None):
                    self._showRow(n, row)
            keys = [row[:2] for row in self._rows]
            if key in keys:
                self._widget.selectRow(keys.index(key))
            elif key is not None:
                self._widget.clearSelection()
        finally:
            self._isShowing = False

    def selectedKey(self) -> Optional[Key]:
        """What the selected row stands for, None without a selection."""
        n = self._selectedRow()
        return self._rows[n][:2] if n is not None and self._rows[n][3] is not None else None

    def select(self, key: Key) -> None:
        """Select the row of a match, as if the user had clicked it."""
        keys = [row[:2] for row in self._rows]
        if key in keys:
            self._widget.selectRow(keys.index(key))

    def selectNeedingALook(self, step: int) -> None:
        """Select the next (1) or previous (-1) match that needs a look, beginning again at the end."""
        count, current = len(self._rows), self._selectedRow()
        start = current if current is not None else (-1 if step > 0 else 0)
        for offset in range(1, count + 1):
            n = (start + step * offset) % count
            if self._rows[n][3] is not None and self._needsALook(self._rows[n][3]):
                self._widget.selectRow(n)
                return

    def _selectedRow(self) -> Optional[int]:
        rows = self._widget.selectionModel().selectedRows() if self._widget.selectionModel() is not None else []
        n = rows[0].row() if rows else -1
        return n if 0 <= n < len(self._rows) else None

    def _showRow(self, n: int, row: tuple) -> None:
        _, _, label, result, last = row
        count = self._widget.columnCount
        cells = (label,) if result is None else (label, *_evidence(result), last)[:count]
        tip = texts.resultTip(result) if result is not None else ""
        for column, text in enumerate(cells):
            item = self._widget.item(n, column)
            if item is None:
                item = qt.QTableWidgetItem()
                self._widget.setItem(n, column, item)
            font = item.font()
            font.setBold(result is None)
            item.setFont(font)
            item.setFlags(qt.Qt.ItemIsSelectable | qt.Qt.ItemIsEnabled if result is not None else qt.Qt.ItemIsEnabled)
            item.setText(text)
            item.setToolTip(tip)
        if result is None:
            self._widget.setSpan(n, 0, 1, count)

    def _selectionChanged(self) -> None:
        if not self._isShowing:
            self._onSelected()


def _evidence(result) -> Tuple[str, str]:
    """Status or decision, and confidence, as words."""
    return texts.statusWord(result.status, result.decision), texts.percent(result.confidence)
