"""Tables that fit into a narrow panel: rows as high as their text, headers that keep their width when selected."""

from __future__ import annotations

import qt


def compactRows(widget) -> None:
    """Give a QTableWidget rows as high as their text, at any font and scaling, and plain headers."""
    widget.verticalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
    widget.horizontalHeader().highlightSections = False
